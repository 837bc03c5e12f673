"""The contract of relay/stores/base.py, sentence by sentence: events."""

from __future__ import annotations

import asyncio

import pytest

from relay.models import EventState, Lane, Settlement
from tests.support.store import (
    HOUR_MS,
    START_MS,
    Clock,
    CountingStore,
    OpenStore,
    again_at,
    claim_lane,
    died,
    event,
    process,
    sent,
)


async def test_a_claim_takes_one_lane_oldest_first(store: CountingStore) -> None:
    await process(store, "d1", [event("a"), event("b", "default", "pr-1"), event("c")])
    await process(store, "d2", [event("d"), event("e", "other")])
    claimed = await claim_lane(store)
    assert [(each.id, each.ref, each.attempt) for each in claimed] == [
        ("a", "d1.0", 0),
        ("c", "d1.2", 0),
        ("d", "d2.0", 0),
    ]
    assert claimed[0].json == event("a").json
    assert claimed[0].created_ms == START_MS
    assert [each.id for each in await claim_lane(store, "pr-1")] == ["b"]
    assert await claim_lane(store, "pr-2") == []


async def test_a_claim_is_bounded_by_count_and_by_bytes_but_has_at_least_one(store: CountingStore) -> None:
    await process(store, "d1", [event(f"e{n}", size=1000) for n in range(6)])
    size = len(event("e0", size=1000).json)
    assert [each.id for each in await claim_lane(store, limit=2)] == ["e0", "e1"]
    as_array = 2 * size + len("[,]")
    assert [each.id for each in await claim_lane(store, bytes_max=as_array)] == ["e2", "e3"]
    assert [each.id for each in await claim_lane(store, bytes_max=as_array - 1)] == ["e4"]
    assert [each.id for each in await claim_lane(store, bytes_max=1)] == ["e5"]
    assert await claim_lane(store) == []


async def test_no_event_is_in_two_unexpired_claims(store: CountingStore) -> None:
    await process(store, "d1", [event(f"e{n}") for n in range(200)])
    claims = await asyncio.gather(*(claim_lane(store, limit=7) for _ in range(40)))
    taken = [each.id for claim in claims for each in claim]
    assert len(taken) == len(set(taken)) == 200


async def test_sent_keeps_inngests_id_and_ends_the_event(store: CountingStore, clock: Clock) -> None:
    await process(store, "d1", [event("e1")])
    (claimed,) = await claim_lane(store)
    clock.pass_seconds(3)
    await store.settle([sent(claimed)])
    record = await store.get_event("d1.0")
    assert record is not None
    assert (record.state, record.inngest_id, record.attempt) == (EventState.SENT, "inn-e1", 1)
    assert (record.created_ms, record.settled_ms) == (START_MS, START_MS + 3000)
    assert await store.lanes() == []


async def test_dead_keeps_code_and_message(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")])
    await store.settle([died(each) for each in await claim_lane(store)])
    record = await store.get_event("d1.0")
    assert record is not None
    assert (record.state, record.code, record.message) == (EventState.DEAD, "event_refused", "no name")


async def test_a_retry_is_due_at_its_time_also_after_reopening(open_store: OpenStore, clock: Clock) -> None:
    store = await open_store()
    await process(store, "d1", [event("e1"), event("e2")])
    await store.settle([again_at(each, START_MS + 5000) for each in await claim_lane(store)])
    assert await store.lanes() == [Lane("default", None, 2, START_MS + 5000)]
    await store.close()
    store = await open_store()
    assert await store.lanes() == [Lane("default", None, 2, START_MS + 5000)]
    clock.now_ms = START_MS + 4999
    assert await claim_lane(store) == []
    clock.now_ms = START_MS + 5000
    assert [(each.id, each.attempt) for each in await claim_lane(store)] == [("e1", 1), ("e2", 1)]


async def test_a_retry_that_is_not_counted_leaves_the_attempt(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")])
    await store.settle([again_at(each, START_MS, counted=False) for each in await claim_lane(store)])
    (claimed,) = await claim_lane(store)
    assert claimed.attempt == 0


async def test_a_retried_event_goes_before_younger_ones_once_it_is_due(store: CountingStore, clock: Clock) -> None:
    await process(store, "d1", [event("old")])
    await store.settle([again_at(each, START_MS + 1000) for each in await claim_lane(store)])
    await process(store, "d2", [event("young")])
    clock.pass_seconds(1)
    assert [each.id for each in await claim_lane(store)] == ["old", "young"]


async def test_a_late_settlement_changes_nothing_and_is_counted(store: CountingStore, clock: Clock) -> None:
    await process(store, "d1", [event("e1"), event("e2")])
    late = await claim_lane(store, seconds=10)
    clock.pass_seconds(10)
    current = await claim_lane(store, seconds=10)
    assert [each.id for each in current] == ["e1", "e2"]
    await store.settle([died(each) for each in late])
    assert store.late_settlements == 2
    assert (await store.stats()).events == {"pending": 2, "sent": 0, "dead": 0}
    await store.settle([sent(each) for each in current])
    assert (await store.stats()).events == {"pending": 0, "sent": 2, "dead": 0}


async def test_the_same_claim_settles_once(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")])
    (claimed,) = await claim_lane(store)
    await asyncio.gather(store.settle([sent(claimed), died(claimed)]), store.settle([died(claimed)]))
    assert (await store.stats()).events == {"pending": 0, "sent": 1, "dead": 0}
    assert store.late_settlements == 2


async def test_released_events_are_claimable_and_otherwise_unchanged(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")])
    before = await claim_lane(store)
    assert await store.lanes() == []
    await store.release_events(before)
    assert [lane.pending for lane in await store.lanes()] == [1]
    (after,) = await claim_lane(store)
    assert (after.id, after.attempt) == ("e1", 0)
    await store.settle([sent(before[0])])
    assert store.late_settlements == 1


async def test_lanes_count_what_is_unclaimed_and_say_when_the_next_is_due(store: CountingStore, clock: Clock) -> None:
    await process(store, "d1", [event(f"e{n}") for n in range(3)])
    clock.pass_seconds(2)
    await process(store, "d2", [event("x", "other", "pr-1")])
    assert await store.lanes() == [Lane("default", None, 3, START_MS), Lane("other", "pr-1", 1, START_MS + 2000)]
    claimed = await claim_lane(store, limit=2, seconds=5)
    assert (await store.lanes())[0] == Lane("default", None, 1, START_MS)
    clock.pass_seconds(5)
    assert Lane("default", None, 3, START_MS) in await store.lanes()
    assert len(claimed) == 2


async def test_a_thousand_environments_are_a_thousand_lanes(store: CountingStore) -> None:
    await process(store, "d1", [event("e", "default", f"pr-{n}") for n in range(1000)])
    assert len(await store.lanes()) == 1000
    assert [each.id for each in await claim_lane(store, "pr-999")] == ["e"]


async def test_40_000_retried_events_are_claimed_to_the_last(store: CountingStore, clock: Clock) -> None:
    for part in range(8):
        await process(store, f"d{part}", [event(f"e{part}.{n}") for n in range(5_000)])
    while claimed := await claim_lane(store, limit=10_000):
        await store.settle([again_at(each, START_MS + 1000) for each in claimed])
    clock.pass_seconds(1)
    taken = [len(await claim_lane(store, limit=10_000)) for _ in range(5)]
    assert taken == [10_000, 10_000, 10_000, 10_000, 0]


@pytest.mark.parametrize("hostile", ["nul \0", "lone \ud800", "ünï 😀"])
async def test_hostile_ids_and_names_come_back(store: CountingStore, hostile: str) -> None:
    await process(store, "d1", [event(hostile, hostile, hostile), event(hostile, hostile, hostile)])
    (claimed,) = await store.claim_events(hostile, hostile, 10, 10**6, 60)
    record = await store.get_event("d1.0")
    delivered = await store.get_delivery("d1")
    assert record is not None
    assert delivered is not None
    assert (claimed.id, record.id, record.destination, record.environment) == (hostile,) * 4
    assert delivered.duplicates == (hostile,)


# ── wait ──


async def test_wait_returns_when_events_are_stored(store: CountingStore) -> None:
    await store.lanes()
    waiting = asyncio.create_task(store.wait_events(30))
    await asyncio.sleep(0)
    await process(store, "d1", [event("e1")])
    async with asyncio.timeout(5):
        await waiting


async def test_a_claim_in_one_lane_takes_no_wake_up_from_another(store: CountingStore) -> None:
    await process(store, "d1", [event("a"), event("b", "default", "pr-1")])
    await claim_lane(store)
    async with asyncio.timeout(5):
        await store.wait_events(30)


async def test_wait_returns_when_a_retry_is_settled_or_a_claim_released(store: CountingStore) -> None:
    await process(store, "d1", [event("a"), event("b")])
    a, b = await claim_lane(store)
    for change in (store.settle([again_at(a, START_MS + 60_000)]), store.release_events([b])):
        await store.lanes()
        waiting = asyncio.create_task(store.wait_events(30))
        await asyncio.sleep(0)
        await change
        async with asyncio.timeout(5):
            await waiting


async def test_wait_blocks_when_every_lane_was_looked_at(store: CountingStore) -> None:
    await process(store, "d1", [event("a")])
    await store.lanes()
    waiting = asyncio.create_task(store.wait_events(0.05))
    await asyncio.sleep(0)
    assert not waiting.done()
    await waiting


# ── a clock that is set ──


async def test_a_clock_set_back_holds_up_no_event(store: CountingStore, clock: Clock) -> None:
    await process(store, "d1", [event("new"), event("retried", "default", "pr-1")])
    await store.settle([again_at(each, START_MS + 5000) for each in await claim_lane(store, "pr-1")])
    clock.pass_seconds(-3600)
    assert [lane.due_ms <= clock() for lane in await store.lanes()] == [True, True]
    assert [each.id for each in await claim_lane(store)] == ["new"]


async def test_a_clock_set_back_lengthens_no_lease(store: CountingStore, clock: Clock) -> None:
    await process(store, "d1", [event("e1")])
    late = await claim_lane(store, seconds=10)
    clock.pass_seconds(-3600)
    assert await store.lanes() == []
    clock.pass_seconds(9)
    assert await claim_lane(store) == []
    clock.pass_seconds(1)
    assert [each.id for each in await claim_lane(store)] == ["e1"]
    await store.settle([sent(each) for each in late])
    assert store.late_settlements == 1


@pytest.mark.parametrize("years", [1, 9])
async def test_times_written_under_a_wrong_clock_are_not_waited_for(
    open_store: OpenStore, clock: Clock, years: int
) -> None:
    clock.now_ms += years * 365 * 24 * HOUR_MS
    store = await open_store()
    await process(store, "d1", [event("new"), event("retried", "default", "pr-1")])
    await store.settle([again_at(each, clock() + 5000) for each in await claim_lane(store, "pr-1")])
    clock.now_ms = START_MS
    for reopened in (False, True):
        if reopened:
            await store.close()
            store = await open_store()
        for environment, expected in ((None, "new"), ("pr-1", "retried")):
            claimed = await claim_lane(store, environment)
            assert [each.id for each in claimed] == [expected]
            await store.release_events(claimed)


@pytest.mark.parametrize("state", EventState)
@pytest.mark.parametrize(("code", "message"), [(None, None), ("a_code", None), (None, "why"), ("a_code", "why")])
async def test_what_a_settlement_says_is_kept_with_any_state(
    store: CountingStore, state: EventState, code: str | None, message: str | None
) -> None:
    await process(store, "d1", [event("a"), event("b")])
    first, second = await claim_lane(store)
    later_ms = START_MS + HOUR_MS
    inngest_id = "inn" if state is EventState.SENT else None
    await store.settle([Settlement(first, state, inngest_id, code, message, later_ms), sent(second)])
    record = await store.get_event("d1.0")
    assert record is not None
    assert (record.state, record.inngest_id, record.code, record.message) == (state, inngest_id, code, message)
    assert record.attempt == 1
    is_open = state is EventState.PENDING
    assert (record.at_ms == later_ms, record.settled_ms is None) == (is_open, is_open)
    stats = await store.stats()
    assert stats.events["sent"] == 1 + (state is EventState.SENT)
