"""The store's file: one owner, a version, private modes, and looking at it beside the owner."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.errors import ConfigError, StoreUnavailable
from relay.models import EventState, Pairing
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_file import APPLICATION_ID
from relay.stores.sqlite_migrate import SCHEMAS, VERSION
from tests.support.store import Clock, accept_names, claim_all, delivery, event, process


def opening(path: Path, **settings: Any) -> Awaitable[SqliteStore]:
    settings = {"dedupe_hours": 24, "disk_free_bytes_min": 0, "queue_bytes_max": 64 << 20, **settings}
    return SqliteStore.open(path, clock_ms=Clock(), **settings)


async def test_a_second_owner_is_refused_with_the_first_ones_pid_and_a_remedy(tmp_path: Path) -> None:
    store = await opening(tmp_path / "relay.db")
    with pytest.raises(ConfigError, match=rf"another relay process \(pid {os.getpid()}\) uses .*operator listener"):
        await opening(tmp_path / "relay.db")
    await store.close()
    await (await opening(tmp_path / "relay.db")).close()


async def test_folder_and_files_are_private(tmp_path: Path) -> None:
    store = await opening(tmp_path / "new" / "relay.db")
    await accept_names(store, "d1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    await store.close()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert set(modes) == {"relay.db", "relay.db-wal", "relay.db-shm", "relay.db.lock"}
    assert set(modes.values()) == {0o600}


async def test_the_file_is_durable_by_its_settings(tmp_path: Path) -> None:
    store = await opening(tmp_path / "relay.db")
    pragmas = ("journal_mode", "synchronous", "page_size", "wal_autocheckpoint", "foreign_keys")
    found = await store._owner.submit(
        lambda session: [session.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    )
    await store.close()
    assert found == ["wal", 2, 16384, 0, 0]  # the writer checkpoints, see test_sqlite_checkpoints.py


async def test_close_moves_the_wal_into_the_file(tmp_path: Path) -> None:
    store = await opening(tmp_path / "relay.db")
    await accept_names(store, "d1")
    await store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["relay.db", "relay.db.lock"]


async def test_an_older_file_is_brought_forward_with_all_it_holds(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "relay.db")
    marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;"
    connection.executescript(f"{SCHEMAS[0].read_text()} {marks}")
    connection.execute("INSERT INTO lanes (destination) VALUES ('default')")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="start this version"):
        await opening(tmp_path / "relay.db", read_only=True)
    store = await opening(tmp_path / "relay.db")
    await accept_names(store, "d1")
    assert await store.keep_secret("asana", "a secret", 1) is not None
    version, lanes = await store._owner.submit(
        lambda session: [
            session.execute(sql).fetchone()[0] for sql in ("PRAGMA user_version", "SELECT count(*) FROM lanes")
        ]
    )
    await store.close()
    assert (version, lanes) == (VERSION, 1)


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_file_is_refused(tmp_path: Path, read_only: bool) -> None:
    await (await opening(tmp_path / "relay.db")).close()
    with sqlite3.connect(tmp_path / "relay.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match=r"newer relay \(version 99"):
        await opening(tmp_path / "relay.db", read_only=read_only)
    with pytest.raises(ConfigError, match="newer relay"):  # the lock was given back
        await opening(tmp_path / "relay.db", read_only=read_only)


async def test_a_foreign_database_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE photos (id)")
    connection.close()
    with pytest.raises(ConfigError, match="not a store of the relay"):
        await opening(tmp_path / "other.db")
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam,\n" * 100)
    with pytest.raises(ConfigError, match="not a SQLite file"):
        await opening(tmp_path / "letter.txt")
    assert (tmp_path / "letter.txt").read_text().startswith("Dear Sir")


async def test_a_place_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        await opening(tmp_path / "file" / "relay.db")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be opened"):
        await opening(tmp_path / "folder")
    with pytest.raises(ConfigError, match="start the relay once"):
        await opening(tmp_path / "none.db", read_only=True)


WRITES: dict[str, Callable[[SqliteStore], Awaitable[object]]] = {
    "accept": lambda store: store.accept([delivery("d9")]),
    "claim_deliveries": claim_all,
    "claim_events": lambda store: store.claim_events("default", None, 1, 1000, 60),
    "replay": lambda store: store.replay(["d1"]),
    "prune": lambda store: store.prune(2**50),
    "probe": lambda store: store.probe(),
    "keep_secret": lambda store: store.keep_secret("asana", "s", 1),
    "forget_secrets": lambda store: store.forget_secrets("asana"),
    "open_pairing": lambda store: store.open_pairing(Pairing("asana", 1, 2)),
}


async def test_read_only_sees_what_the_owner_commits_and_writes_nothing(tmp_path: Path) -> None:
    owner = await opening(tmp_path / "relay.db")
    await process(owner, "d1", [event("e1")])
    reader = await opening(tmp_path / "relay.db", read_only=True)
    await accept_names(owner, "d2")
    assert [each.id for each in await reader.list_deliveries()] == ["d2", "d1"]
    assert (await reader.stats()).events == {EventState.PENDING: 1, EventState.SENT: 0, EventState.DEAD: 0}
    for write in WRITES.values():
        with pytest.raises(StoreUnavailable, match="reading only"):
            await write(reader)
    await reader.close()
    await accept_names(owner, "d3")
    await owner.close()


async def test_read_only_works_without_an_owner(tmp_path: Path) -> None:
    owner = await opening(tmp_path / "relay.db")
    await accept_names(owner, "d1")
    await owner.close()
    reader = await opening(tmp_path / "relay.db", read_only=True)
    assert [each.id for each in await reader.list_deliveries()] == ["d1"]
    await (await opening(tmp_path / "relay.db")).close()  # and keeps no owner out
    await reader.close()


@pytest.mark.parametrize("name", ["relay.db", "relay.db-wal"])
async def test_nothing_is_acknowledged_into_a_file_that_was_removed(tmp_path: Path, name: str) -> None:
    store = await opening(tmp_path / "relay.db")
    await accept_names(store, "d1")
    (tmp_path / name).rename(tmp_path / "elsewhere")
    for write in (store.accept([delivery("d2")]), store.probe()):
        with pytest.raises(StoreUnavailable, match="put it back"):
            await write
    (tmp_path / "elsewhere").rename(tmp_path / name)
    await accept_names(store, "d2")
    assert [each.delivery.id for each in await claim_all(store)] == ["d1", "d2"]
    await store.close()


async def test_nothing_is_acknowledged_into_a_file_that_was_replaced(tmp_path: Path) -> None:
    store = await opening(tmp_path / "relay.db")
    other = await opening(tmp_path / "other.db")
    await other.close()
    (tmp_path / "other.db").rename(tmp_path / "relay.db")
    with pytest.raises(StoreUnavailable, match="replaced"):
        await accept_names(store, "d1")
    await store.close()
