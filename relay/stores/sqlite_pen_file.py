"""The pen's file: how it is opened or made anew, and the SQL of what is kept in it. Runs in the pen's own thread.

A rollback journal instead of a WAL: nobody who reads can make it grow. No fsync: after a power cut the file may be
broken, and is then replaced.
"""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.errors import StoreUnavailable
from relay.models import Request
from relay.stores.pen import RejectedRecord, RejectedRequest
from relay.stores.sqlite_file import connect, identity, primary_code
from relay.stores.sqlite_records import Conditions
from relay.stores.sqlite_values import bound, pack_headers, text, unpack_headers

#: Marks the file as ours ("RELP").
APPLICATION_ID: Final = 0x52454C50
VERSION: Final = 1
PAGE_BYTES: Final = 4096
LIST_MAX: Final = 1_000
#: What a row costs beside its texts and its body, with its places in the indexes.
ROW_BYTES: Final = 512
BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

SCHEMA: Final = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE rejected (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        source TEXT NOT NULL,
        received_ms INTEGER NOT NULL,
        size INTEGER NOT NULL,        -- what it costs of its source's bytes
        code TEXT NOT NULL,
        detail TEXT NOT NULL,
        skew_seconds REAL,
        body_bytes INTEGER NOT NULL,  -- as it came
        body_kept INTEGER NOT NULL,
        url TEXT NOT NULL,
        method TEXT NOT NULL,
        path TEXT NOT NULL,
        query TEXT NOT NULL,
        headers BLOB NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX rejected_by_source ON rejected (source, seq, size);
    CREATE INDEX rejected_by_time ON rejected (received_ms);
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {VERSION};
    COMMIT;
"""
RECORD: Final = "SELECT id, source, received_ms, url, code, detail, skew_seconds, body_bytes, body_kept"
INSERT: Final = """
    INSERT INTO rejected (id, source, received_ms, size, code, detail, skew_seconds, body_bytes, body_kept, url, method,
    path, query, headers, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


class BrokenFile(Exception):
    """The file is one of ours, and of no use."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each source; `total_bytes_max` is what the file may have for all of them."""

    count_max: int
    bytes_max: int
    age_ms_max: int
    total_bytes_max: int


@dataclass(frozen=True, slots=True)
class ListFilter:
    source: str | None
    code: str | None
    before: str | None
    limit: int


@dataclass(slots=True)
class Waiting:
    """A rejected request with its size, of which the body may have been left out."""

    rejected: RejectedRequest
    size: int
    body_bytes: int
    body_kept: bool


class PenFile:
    """An open file. `count` and `bytes` say what each source has in it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, limits: Limits) -> None:
        self.path, self.connection, self.limits = path, connection, limits
        self.identity = identity(path)
        self.count: defaultdict[str, int] = defaultdict(int)
        self.bytes: defaultdict[str, int] = defaultdict(int)
        sql = "SELECT source, count(*), sum(size) FROM rejected GROUP BY source"
        for source, count, size in connection.execute(sql):
            self.count[text(source)], self.bytes[text(source)] = count, size

    def is_standing(self) -> bool:
        """False when the file was removed or replaced."""
        return identity(self.path) == self.identity

    def write(self, group: Sequence[Waiting], now_ms: int) -> None:
        """All of them in one transaction, and out with what they push out or what is too old."""
        self.connection.execute("BEGIN IMMEDIATE")
        self._drop_old(now_ms)
        for waiting in group:
            self._make_room(waiting.rejected.source, 1, waiting.size)
            self._insert(waiting)
        self.connection.execute("COMMIT")

    def tidy(self, now_ms: int) -> None:
        """What is too old goes, and what limits that were lowered leave no room for."""
        self.connection.execute("BEGIN IMMEDIATE")
        self._drop_old(now_ms)
        for source in list(self.count):
            self._make_room(source, 0, 0)
        self.connection.execute("COMMIT")

    def remove(self, ids: Sequence[str]) -> int:
        removed = 0
        self.connection.execute("BEGIN IMMEDIATE")
        for name in ids:
            removed += self._delete("DELETE FROM rejected WHERE id = ? RETURNING source, size", bound(name))
        self.connection.execute("COMMIT")
        return removed

    def _drop_old(self, now_ms: int) -> None:
        sql = "DELETE FROM rejected WHERE received_ms < ? RETURNING source, size"
        self._delete(sql, now_ms - self.limits.age_ms_max)

    def _make_room(self, source: str, count: int, size: int) -> None:
        """The source's own oldest make way, until so many more with so many bytes fit."""
        while self.count[source] + count > self.limits.count_max or self.bytes[source] + size > self.limits.bytes_max:
            sql = """
                DELETE FROM rejected WHERE seq = (SELECT min(seq) FROM rejected WHERE source = ?)
                RETURNING source, size"""
            if not self._delete(sql, bound(source)):
                break

    def _delete(self, sql: str, value: object) -> int:
        gone = self.connection.execute(sql, (value,)).fetchall()
        for source, size in gone:
            self.count[text(source)] -= 1
            self.bytes[text(source)] -= size
        return len(gone)

    def _insert(self, waiting: Waiting) -> None:
        rejected, request = waiting.rejected, waiting.rejected.request
        done = self.connection.execute(
            INSERT,
            (
                bound(rejected.id),
                bound(rejected.source),
                rejected.received_ms,
                waiting.size,
                rejected.code,
                bound(rejected.detail),
                rejected.skew_seconds,
                waiting.body_bytes,
                waiting.body_kept,
                bound(rejected.url),
                bound(request.method),
                bound(request.path),
                bound(request.query),
                pack_headers(request.headers),
                request.body,
            ),
        )
        self.count[rejected.source] += done.rowcount
        self.bytes[rejected.source] += done.rowcount * waiting.size

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.connection.close()


def open_file(path: Path, limits: Limits, *, read_only: bool = False) -> PenFile:
    """Open the file, making it where there is none. Raises StoreUnavailable when it is not ours, BrokenFile, OSError
    and sqlite3's errors.

    With `read_only` nothing is written but what a killed relay left half done: that is rolled back.
    """
    if not read_only:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = connect(path)
    try:
        check_ours(connection, path)
        if read_only:
            connection.execute("PRAGMA query_only = 1")
        else:
            prepare(connection, limits)
        return PenFile(path, connection, limits)
    except BaseException:
        connection.close()
        raise


def check_ours(connection: sqlite3.Connection, path: Path) -> None:
    ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    if not ours and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StoreUnavailable(f"{path} is something else's: move it away")


def prepare(connection: sqlite3.Connection, limits: Limits) -> None:
    """Pragmas and schema. A file of another version is no use to this one."""
    if connection.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
        raise BrokenFile("it was written by another version of the relay")
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = FULL")  # what goes gives its space back
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA max_page_count = {limits.total_bytes_max * 5 // 4 // PAGE_BYTES + 64}")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.executescript(SCHEMA)


def is_broken(error: BaseException) -> bool:
    """True for a file that no other moment will make readable."""
    return isinstance(error, BrokenFile) or (isinstance(error, sqlite3.Error) and primary_code(error) in BROKEN)


def remove_file(path: Path) -> None:
    for name in (path, Path(f"{path}-journal"), Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)


def list_rejected(file: PenFile, wanted: ListFilter, now_ms: int) -> list[RejectedRecord]:
    conditions = Conditions()
    conditions.add("received_ms >= ?", now_ms - file.limits.age_ms_max)
    if wanted.source is not None:
        conditions.add("source = ?", bound(wanted.source))
    if wanted.code is not None:
        conditions.add("code = ?", bound(wanted.code))
    if wanted.before is not None:
        found = file.connection.execute("SELECT seq FROM rejected WHERE id = ?", (bound(wanted.before),)).fetchone()
        conditions.add(*(("seq < ?", found[0]) if found else ("id < ?", bound(wanted.before))))
    sql = f"{RECORD} FROM rejected{conditions.where} ORDER BY seq DESC LIMIT {max(0, min(wanted.limit, LIST_MAX))}"
    return [record(row) for row in file.connection.execute(sql, conditions.values)]


def get_rejected(file: PenFile, rejected_id: str, now_ms: int) -> RejectedRecord | None:
    sql = f"{RECORD}, method, path, query, headers, body FROM rejected WHERE id = ? AND received_ms >= ?"
    row = file.connection.execute(sql, (bound(rejected_id), now_ms - file.limits.age_ms_max)).fetchone()
    return None if row is None else record(row)


def counts(file: PenFile, now_ms: int) -> dict[str, int]:
    sql = "SELECT source, count(*) FROM rejected WHERE received_ms >= ? GROUP BY source"
    return {text(row[0]): row[1] for row in file.connection.execute(sql, (now_ms - file.limits.age_ms_max,))}


def record(row: tuple[Any, ...]) -> RejectedRecord:
    name, source, received_ms, url, code, detail, skew, body_bytes, body_kept, *asked = row
    request = None
    if asked:
        method, path, query, headers, body = asked
        request = Request(text(method), text(path), text(query), unpack_headers(headers), bytes(body))
    return RejectedRecord(
        text(name), text(source), received_ms, text(url), code, text(detail), skew, body_bytes, bool(body_kept), request
    )
