"""What the store knows: the keys of deliveries, and the ids of events for the dedupe window."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest

from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_values import event_hash, key_hash
from tests.support.store import HOUR_MS, START_MS, Clock, claim_lane, delivery, event, process, sent


def opening(folder: Path, clock: Clock, hours: int = 24) -> Awaitable[SqliteStore]:
    return SqliteStore.open(
        folder / "relay.db", clock_ms=clock, dedupe_hours=hours, disk_free_bytes_min=0, queue_bytes_max=1 << 26
    )


async def stored(store: SqliteStore, name: str, event_id: str) -> int:
    """How many events a delivery with this event id adds."""
    before = len(await store.list_events(limit=1000))
    await process(store, name, [event(event_id)])
    return len(await store.list_events(limit=1000)) - before


async def test_a_clock_that_goes_back_keeps_ids_known(tmp_path: Path) -> None:
    clock = Clock()
    store = await opening(tmp_path, clock)
    assert await stored(store, "d1", "e") == 1
    clock.now_ms = START_MS - 5 * HOUR_MS
    assert await stored(store, "d2", "e") == 0
    await store.close()


async def test_another_window_after_a_restart_reads_what_is_known(tmp_path: Path) -> None:
    clock = Clock()
    store = await opening(tmp_path, clock)
    assert await stored(store, "d1", "e") == 1
    await store.close()
    store = await opening(tmp_path, clock, hours=1)
    clock.now_ms = START_MS + HOUR_MS - 1
    assert await stored(store, "d2", "e") == 0
    clock.now_ms = START_MS + HOUR_MS
    assert await stored(store, "d3", "e") == 1
    clock.now_ms += 1
    assert await stored(store, "d4", "e") == 0
    await store.close()


async def test_what_is_past_the_window_is_forgotten_and_nothing_sooner(tmp_path: Path) -> None:
    """Given an id every hour for four days, when what is past the window is pruned, then the file has not grown for
    it, and every id of the last day is known."""
    clock = Clock()
    store = await opening(tmp_path, clock)
    for hour in range(24 * 4):
        clock.now_ms = START_MS + hour * HOUR_MS
        assert await stored(store, f"d{hour}", f"e{hour}") == 1
        await store.settle([sent(each) for each in await claim_lane(store)])
        while await store.prune(clock.now_ms - HOUR_MS):
            pass
    last = clock.now_ms
    for hour in range(24 * 3 + 1, 24 * 4):
        assert await stored(store, f"again{hour}", f"e{hour}") == 0
    clock.now_ms = last + 48 * HOUR_MS
    assert await stored(store, "later", f"e{24 * 4 - 1}") == 1
    await store.close()


async def test_a_key_is_known_as_long_as_its_delivery_also_when_its_seq_is_given_again(tmp_path: Path) -> None:
    clock = Clock()
    store = await opening(tmp_path, clock)
    await process(store, "d1", [], key="k1")
    assert await store.prune(START_MS + 1) == 1
    await store.close()
    store = await opening(tmp_path, clock)
    (answer,) = await store.accept([delivery("d2", key="k2")])
    assert not answer.duplicate
    (answer,) = await store.accept([delivery("d3", key="k1")])
    assert not answer.duplicate, "what had this key is gone"
    answers = await store.accept([delivery("d4", key="k1"), delivery("d5", key="k2")])
    assert [answer.id for answer in answers] == ["d3", "d2"]
    await store.close()


@pytest.mark.parametrize("keys", [["k", "k"], ["k", "k", "k"]])
async def test_a_refused_delivery_leaves_its_key_unknown(tmp_path: Path, keys: list[str]) -> None:
    store = await opening(tmp_path, Clock())
    poison = delivery("poison", key="k", received_ms=2**70)
    with pytest.raises(OverflowError):
        await store.accept([poison])
    answers = await store.accept([delivery(f"d{place}", key=key) for place, key in enumerate(keys)])
    assert [answer.id for answer in answers] == ["d0"] * len(keys)
    await store.close()


def test_the_hashes_keep_names_apart() -> None:
    names = [("a", "b", "c"), ("ab", "", "c"), ("ab", None, "c"), ("a", None, "bc"), ("a", "bc", "")]
    assert len({event_hash(*each) for each in names}) == len(names)
    keys = [("a", "b", "c"), ("ab", "", "c"), ("a", "", "bc"), ("a", "bc", ""), ("", "a", "bc")]
    assert len({key_hash(*each) for each in keys}) == len(keys)


def test_the_hashes_are_those_that_stand_in_the_files_of_earlier_versions() -> None:
    assert key_hash("stripe", "", "evt_1").hex() == "0ebac1ee6835436e86ddbac23d5df52a"
    assert key_hash("stripe", "höst", "\ud800").hex() == "2be87dd3d1c57f32a8357194666ff8f5"
    assert event_hash("main", None, "evt_1").hex() == "60d64cc1f323c77f6f155e3df0a9ca4e"
    assert event_hash("main", "", "evt_1").hex() == "77d0b6cb36342b2a86cbf737bcbca465"
