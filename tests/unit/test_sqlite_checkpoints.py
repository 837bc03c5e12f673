"""Checkpoints come after the answers, and the WAL stays bounded whoever reads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.stores import sqlite_checkpoints
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_checkpoints import (
    CHECKPOINT_BYTES,
    COMMITS_LOOKED_AT,
    REST_SECONDS_MAX,
    SLOW_CHECKPOINT_BYTES,
    Checkpoints,
)
from tests.support.store import Clock, delivery

MIB = 1024 * 1024


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(
        tmp_path / "relay.db", clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 * MIB
    )
    yield store
    await store.close()


async def write(store: SqliteStore, mib: int, first: int = 0) -> None:
    for number in range(first, first + mib):
        await store.accept([delivery(f"d{number}", body=os.urandom(MIB))])


def wal_bytes(folder: Path) -> int:
    return (folder / "relay.db-wal").stat().st_size


def quick() -> Checkpoints:
    checkpoints = Checkpoints()
    for _ in range(COMMITS_LOOKED_AT):
        checkpoints.committed(0, 0.0005)
    return checkpoints


def test_one_is_due_every_four_mib_and_on_a_slow_disk_seldom() -> None:
    checkpoints = quick()
    assert not checkpoints.is_due()
    checkpoints.committed(CHECKPOINT_BYTES, 0.0005)
    assert checkpoints.is_due()
    slow = Checkpoints()
    for _ in range(COMMITS_LOOKED_AT):
        slow.committed(CHECKPOINT_BYTES // COMMITS_LOOKED_AT, 0.006)
    assert not slow.is_due()
    slow.committed(SLOW_CHECKPOINT_BYTES - CHECKPOINT_BYTES, 0.006)
    assert slow.is_due()
    slow.committed(0, 0.0005)
    assert slow.is_due(), "one quick commit makes it a quick disk again"


def test_only_a_slow_disk_waits_for_company_and_not_for_long() -> None:
    checkpoints = quick()
    assert checkpoints.rest_seconds == 0
    for _ in range(COMMITS_LOOKED_AT):
        checkpoints.committed(0, 0.005)
    assert checkpoints.rest_seconds == pytest.approx(0.002)
    for _ in range(COMMITS_LOOKED_AT):
        checkpoints.committed(0, 5.0)
    assert checkpoints.rest_seconds == REST_SECONDS_MAX
    checkpoints.committed(0, 0.0005)
    assert checkpoints.rest_seconds == 0


async def test_on_a_slow_disk_those_who_come_again_are_committed_together(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_checkpoints, "SLOW_COMMIT_SECONDS", 0.0)  # this one is as slow as any
    monkeypatch.setattr(sqlite_checkpoints, "REST_PART", 1e9)
    monkeypatch.setattr(sqlite_checkpoints, "REST_SECONDS_MAX", 0.2)
    await store.accept([delivery("first")])
    before = store.commits
    calls = []
    for number in range(10):
        calls.append(asyncio.create_task(store.accept([delivery(f"again{number}")])))
        await asyncio.sleep(0.001)  # each in a turn of the loop of its own
    await asyncio.gather(*calls)
    assert store.commits - before == 1


async def test_the_wal_is_used_again_and_again(store: SqliteStore, tmp_path: Path) -> None:
    await write(store, 40)
    assert wal_bytes(tmp_path) < 12 * MIB
    assert (tmp_path / "relay.db").stat().st_size > 30 * MIB


async def test_a_reader_that_stays_makes_it_longer_only_as_long_as_it_stays(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_checkpoints, "HELD_BYTES_MAX", 16 * MIB)
    await write(store, 2)
    reader = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM blocks").fetchone()
    await write(store, 30, first=2)
    assert wal_bytes(tmp_path) > 25 * MIB, "nothing is taken from under a reader"
    reader.execute("COMMIT")
    await write(store, 10, first=32)
    held = wal_bytes(tmp_path)
    await write(store, 60, first=42)
    assert wal_bytes(tmp_path) <= held
    reader.close()


async def test_readers_that_overlap_for_ever_do_not_make_the_wal_grow_for_ever(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given readers of whom one is always in a transaction, when much is written, then the writer waits for a moment
    in which the WAL can begin anew."""
    monkeypatch.setattr(sqlite_checkpoints, "HELD_BYTES_MAX", 16 * MIB)
    ended = threading.Event()

    def keep_reading(offset_s: float) -> None:
        reader = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
        ended.wait(offset_s)
        while not ended.is_set():
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM blocks").fetchone()
            ended.wait(0.03)
            reader.execute("COMMIT")
        reader.close()

    await write(store, 1)
    threads = [threading.Thread(target=keep_reading, args=(number * 0.01,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        await write(store, 100, first=1)
        assert wal_bytes(tmp_path) < 40 * MIB
    finally:
        ended.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
