"""What is squeezed comes back as it was, from every thread, or is told to be damaged."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import StoreUnavailable
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_blocks import pack
from relay.stores.sqlite_squeeze import THOROUGH_BYTES_MAX, squeeze, unsqueeze
from tests.support.store import START_MS, Clock, claim_all, claim_lane, delivery, event, process

ROOM_BYTES = 24


@given(st.binary(max_size=2000), st.integers(0, 300))
def test_it_comes_back(data: bytes, times: int) -> None:
    frame = squeeze(data * times)
    assert unsqueeze(frame, "blocks", 1) == data * times
    assert len(frame) <= len(data * times) + ROOM_BYTES


def test_what_is_alone_is_squeezed_more_thoroughly_than_masses() -> None:
    """The quick way leaves letters that come once as they are; both find what comes again."""
    alone = os.urandom(THOROUGH_BYTES_MAX // 2).hex().encode()
    assert len(squeeze(alone)) < 0.6 * len(alone)
    assert len(squeeze(alone * 8)) < 1.1 * len(alone)


def test_many_threads_at_once() -> None:
    """zstandard gives up the interpreter while it works, and a compressor is good for one call at a time."""
    texts = [os.urandom(50_000) * 4 + b"%d" % number for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda text: unsqueeze(squeeze(text), "blocks", 1), texts)) == texts


@pytest.mark.parametrize("kind", ["body", "length", "huge", "cut"])
def test_damage_is_told(kind: str) -> None:
    frame = bytearray(squeeze(os.urandom(5000)))
    if kind == "body":
        frame[2500] ^= 1
    elif kind == "length":
        frame[5:7] = b"\xff" * 2
    elif kind == "huge":
        frame[4:7] = b"\xe4" + (2**50).to_bytes(8, "little")  # RFC 8878, 3.1.1.1: a length of eight bytes, a checksum
    else:
        del frame[2500:]
    with pytest.raises(sqlite3.DatabaseError, match="block 1 in blocks is damaged"):
        unsqueeze(bytes(frame), "blocks", 1)


def opening(folder: Path) -> Awaitable[SqliteStore]:
    path = folder / "relay.db"
    return SqliteStore.open(path, clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=1 << 26)


async def test_a_byte_that_the_disk_has_changed_is_an_error_and_not_another_body(tmp_path: Path) -> None:
    store = await opening(tmp_path)
    await store.accept([delivery("d1", body=os.urandom(5000))])
    await store.accept([delivery("d2", body=b"whole")])
    await store.close()
    connection = sqlite3.connect(tmp_path / "relay.db")
    (bodies,) = connection.execute("SELECT bodies FROM blocks WHERE block = 1").fetchone()
    damaged = bodies[:2500] + bytes([bodies[2500] ^ 1]) + bodies[2501:]
    with connection:
        connection.execute("UPDATE blocks SET bodies = ? WHERE block = 1", (damaged,))
    connection.close()
    store = await opening(tmp_path)
    assert [record.id for record in await store.list_deliveries()] == ["d2", "d1"], "a list reads no bodies"
    with pytest.raises(StoreUnavailable, match="block 1 in blocks is damaged"):
        await store.get_delivery("d1")
    whole = await store.get_delivery("d2")
    assert whole is not None
    assert whole.request is not None
    assert whole.request.body == b"whole"
    await store.close()


async def test_a_damaged_block_that_is_taken_out_leaves_the_others(tmp_path: Path) -> None:
    """As docs/operating.md says: its deliveries and events are not there any more, and nothing waits for them."""
    store = await opening(tmp_path)
    for name in ("d1", "d2", "d3", "d4"):
        await process(store, name, [event(f"{name}-e")])
        await store.accept([delivery(f"{name}-open")])
    await store.close()
    connection = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
    connection.execute("UPDATE blocks SET heads = zeroblob(99) WHERE block IN (4, 5)")  # d2-open, and d3 with its event
    connection.execute("UPDATE event_blocks SET jsons = zeroblob(99) WHERE block = 2")
    store = await opening(tmp_path)
    with pytest.raises(StoreUnavailable, match="block 4 in blocks is damaged"):
        await claim_all(store)
    with pytest.raises(StoreUnavailable, match="block 5 in blocks is damaged"):
        await store.list_events()
    with pytest.raises(StoreUnavailable, match="block 2 in event_blocks is damaged"):
        await claim_lane(store)
    await store.close()
    for table in ("blocks", "block_sources"):
        connection.execute(f"DELETE FROM {table} WHERE block IN (4, 5)")
    connection.execute("DELETE FROM event_blocks WHERE block = 2")
    connection.close()

    store = await opening(tmp_path)
    assert [claim.delivery.id for claim in await claim_all(store)] == ["d1-open", "d3-open", "d4-open"]
    assert [claim.id for claim in await claim_lane(store)] == ["d1-e", "d4-e"]
    listed = [record.id for record in await store.list_deliveries()]
    assert listed == ["d4-open", "d4", "d3-open", "d2", "d1-open", "d1"]
    assert [record.id for record in await store.list_events()] == ["d4-e", "d2-e", "d1-e"]
    assert [record.id for record in await store.list_events(source="github")] == ["d4-e", "d2-e", "d1-e"]
    assert (await store.stats()).deliveries["received"] == 3
    lost = await store.get_event("d2.0")
    assert lost is not None
    assert lost.json is None
    refused = (await store.replay(["d2.0"], again=True)).refused
    assert refused == (("d2.0", "has no JSON any more: its block was damaged and taken out of the file"),)
    await store.close()


async def test_blocks_of_version_5_are_read_and_pruned_as_they_are(tmp_path: Path) -> None:
    """They were not squeezed; one that is written again, without what was pruned, is."""
    store = await opening(tmp_path)
    old = [delivery(f"old{number}", body=b"%d" % number * 500) for number in range(4)]
    await store.accept(old)
    await store.close()
    connection = sqlite3.connect(tmp_path / "relay.db")
    with connection:
        bodies = b"".join(each.request.body for each in old)
        connection.execute("UPDATE blocks SET heads = ?, bodies = ?", (pack(old), bodies))
        connection.execute("ALTER TABLE blocks DROP COLUMN squeezed")
        connection.execute("DROP TABLE event_blocks")
        connection.execute("PRAGMA user_version = 5")
    connection.close()

    store = await opening(tmp_path)
    await store.accept([delivery("new")])
    claims = {claim.delivery.id: claim for claim in await claim_all(store)}
    assert [claims[each.id].delivery for each in old] == old
    assert "new" in claims
    await store.finish_deliveries([(claims[name], []) for name in ("old0", "old2")])
    assert await store.prune(START_MS + 1) == 2
    for each in (old[1], old[3]):
        record = await store.get_delivery(each.id)
        assert record is not None
        assert record.request == each.request
    assert await store.get_delivery("old2") is None
    await store.close()
    connection = sqlite3.connect(tmp_path / "relay.db")
    assert connection.execute("SELECT squeezed FROM blocks").fetchall() == [(1,), (1,)]
    connection.close()
