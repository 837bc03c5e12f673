"""The store's file: who owns it, how it is opened, which version it has, and what its errors mean."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Final

from relay.errors import ConfigError, StoreUnavailable
from relay.stores.sqlite_migrate import VERSION, migrate

#: Marks the file as ours ("RELY").
APPLICATION_ID: Final = 0x52454C59
PAGE_BYTES: Final = 16_384
WAL_BYTES_KEPT: Final = 128 * 1024 * 1024
WRITER_CACHE_KIB: Final = 16 * 1024
BUSY_SECONDS: Final = 2.0
#: How long the writer of a relay that was killed may go on: until the disk has what it was writing.
DEAD_OWNER_SECONDS: Final = 10.0
#: With less free disk than this a file cannot be opened: the WAL and its index are made then.
OPENING_BYTES: Final = 256 * 1024

#: Primary result codes that say "not now" about the disk or the file, and nothing about the operation.
DISK_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_NOLFS,
    }
)


def is_disk_error(error: BaseException) -> bool:
    """True for what the disk or the file did; False for what one operation did wrong."""
    return isinstance(error, sqlite3.Error) and primary_code(error) in DISK_CODES


def primary_code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def unavailable(error: BaseException) -> StoreUnavailable:
    """The driver's error as the contract's. The cause stays attached."""
    if isinstance(error, StoreUnavailable):
        return error
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    mapped = StoreUnavailable(f"the store's file cannot be used now: {error} ({name})")
    mapped.__cause__ = error
    return mapped


def unopenable(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    """Why the relay cannot start now, in words that lead to the remedy."""
    free_bytes = shutil.disk_usage(path.parent).free
    if not is_disk_error(error) or free_bytes >= OPENING_BYTES:
        return unavailable(error)
    remedy = f"free some space, and start the relay again: it needs {OPENING_BYTES // 1024} KiB there to begin"
    mapped = StoreUnavailable(f"the disk that holds {path} is full ({free_bytes} bytes are free): {remedy}")
    mapped.__cause__ = error
    return mapped


def standing_files(path: Path) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Which files are at the path now: the database and its WAL, each as (device, inode)."""
    return identity(path), identity(f"{path}-wal")


def identity(path: Path | str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def take_ownership(path: Path) -> int:
    """Make folder and file, private to this user, and lock `<path>.lock`. Returns the lock's descriptor.

    The kernel frees the lock when the process ends, however it ends, and its writer with it, which may take a moment.
    Raises ConfigError when another holds it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"the store {path} cannot be made: {error.strerror}", key="store.url") from error
    try:
        _lock(lock)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _write_pid(lock)
    except BlockingIOError:
        owner = _read_pid(lock) or "unknown"
        os.close(lock)
        raise ConfigError(
            f"another relay process (pid {owner}) uses {path}: use its operator listener, or stop it",
            key="store.url",
        ) from None
    except OSError as error:
        os.close(lock)
        raise ConfigError(f"the store {path} cannot be opened: {error.strerror}", key="store.url") from error
    return lock


def _lock(lock: int) -> None:
    """Raises BlockingIOError while another relay runs, at once, or when a dead one's writer does not end in time."""
    until_s = time.monotonic() + DEAD_OWNER_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if _is_alive(_read_pid(lock)) or time.monotonic() > until_s:
                raise
        time.sleep(0.01)


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _read_pid(lock: int) -> int | None:
    found = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
    return int(found) if found.isdigit() and len(found) < 20 else None


def _write_pid(lock: int) -> None:
    """For the message above only: a full disk must not keep the relay from starting to empty it."""
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        return


def open_writer(path: Path) -> sqlite3.Connection:
    """The owner's connection: pragmas set, the schema made or brought forward. Raises ConfigError as below."""
    connection = connect(path)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        check_version(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer checkpoints, after its answers
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        migrate(connection, APPLICATION_ID)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path, *, beside_owner: bool = False) -> sqlite3.Connection:
    """A connection that cannot write. `beside_owner` is for another process than the owner's."""
    if beside_owner and not path.exists():
        raise ConfigError(f"there is no store at {path} yet: start the relay once", key="store.url")
    connection = connect(path, mode="ro")
    try:
        if beside_owner:
            refuse_older(check_version(connection, path), path)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Every transaction is begun by hand; one thread at a time uses a connection."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """The file's version. Raises ConfigError when it is newer than this program, or no store of ours."""
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    except sqlite3.DatabaseError as error:
        if primary_code(error) == sqlite3.SQLITE_NOTADB:
            raise ConfigError(f"{path} is not a SQLite file: name another one", key="store.url") from error
        raise
    if not (ours or empty):
        raise ConfigError(f"{path} is not a store of the relay: name another file", key="store.url")
    if version > VERSION:
        raise ConfigError(
            f"{path} was written by a newer relay (version {version}, this one knows {VERSION}): "
            "install that version, or name another file",
            key="store.url",
        )
    return version


def refuse_older(version: int, path: Path) -> None:
    """Only the owner brings a file forward."""
    if version < VERSION:
        raise ConfigError(f"{path} is of an older version: start this version of the relay once", key="store.url")
