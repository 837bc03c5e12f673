"""The contract of relay/stores/base.py, sentence by sentence: deliveries."""

from __future__ import annotations

import asyncio
import time

import pytest

from relay.errors import LeaseLost, StoreUnavailable, TransformError
from relay.models import DeliveryState, EventState, Finished
from tests.support.store import (
    HOUR_MS,
    START_MS,
    Clock,
    CountingStore,
    OpenStore,
    accept_names,
    again_at,
    claim_all,
    claim_lane,
    delivery,
    event,
    process,
    sent,
)

ERROR = TransformError("script_raised", "github.js:3: TypeError: x is undefined", line=3)


# ── claim ──


async def test_a_claim_takes_the_oldest_first_and_no_more_than_the_limit(store: CountingStore) -> None:
    await accept_names(store, "d1", "d2", "d3")
    assert [each.delivery.id for each in await claim_all(store, limit=2)] == ["d1", "d2"]
    assert [each.delivery.id for each in await claim_all(store)] == ["d3"]


async def test_no_delivery_is_in_two_unexpired_claims(store: CountingStore) -> None:
    await accept_names(store, *(f"d{n}" for n in range(300)))
    claims = await asyncio.gather(*(claim_all(store, limit=7) for _ in range(60)))
    taken = [each.delivery.id for claim in claims for each in claim]
    assert sorted(taken) == sorted({f"d{n}" for n in range(300)})


async def test_only_named_sources_are_claimed_and_no_more_of_each_than_named(store: CountingStore) -> None:
    await accept_names(store, "a1", "a2", "a3", source="a")
    await accept_names(store, "b1", source="b")
    await accept_names(store, "c1", source="c")
    claimed = await store.claim_deliveries(100, 60, {"a": 2, "b": 5, "c": 0, "none": 3})
    assert sorted(each.delivery.id for each in claimed) == ["a1", "a2", "b1"]


async def test_sources_take_turns(store: CountingStore) -> None:
    for source in "abc":
        await accept_names(store, *(f"{source}{n}" for n in range(5)), source=source)
    first = await claim_all(store, "a", "b", "c", limit=4)
    then = await claim_all(store, "a", "b", "c", limit=2)
    assert [each.delivery.id for each in first] == ["a0", "b0", "c0", "a1"]
    assert [each.delivery.source for each in then] == ["b", "c"]


async def test_a_claim_never_waits(store: CountingStore) -> None:
    async with asyncio.timeout(5):
        assert await claim_all(store) == []


async def test_bodies_of_one_claim_are_bounded_but_one_always_comes(store: CountingStore) -> None:
    await store.accept([delivery(f"d{n}", body=bytes(9 << 20)) for n in range(2)])
    assert [each.delivery.id for each in await claim_all(store)] == ["d0"]
    assert [each.delivery.id for each in await claim_all(store)] == ["d1"]


async def test_a_lease_that_ran_out_is_claimed_again_and_the_late_finish_changes_nothing(
    store: CountingStore, clock: Clock
) -> None:
    await accept_names(store, "d1")
    (late,) = await claim_all(store, seconds=10)
    clock.pass_seconds(9.999)
    assert await claim_all(store) == []
    clock.pass_seconds(0.001)
    (current,) = await claim_all(store, seconds=10)
    assert (late.attempt, current.attempt) == (1, 2)
    with pytest.raises(LeaseLost):
        await store.finish_delivery(late, [event("e1")])
    with pytest.raises(LeaseLost):
        await store.fail_delivery(late, ERROR)
    assert await store.lanes() == []
    assert await store.finish_delivery(current, [event("e1")]) == Finished(1, ())


async def test_a_lease_that_ran_out_is_lost_even_when_nobody_else_claimed(store: CountingStore, clock: Clock) -> None:
    await accept_names(store, "d1")
    (late,) = await claim_all(store, seconds=10)
    clock.pass_seconds(10)
    with pytest.raises(LeaseLost):
        await store.finish_delivery(late, [])
    assert [each.delivery.id for each in await claim_all(store)] == ["d1"]


async def test_a_claim_from_before_a_restart_is_lost_and_the_delivery_free_at_once(open_store: OpenStore) -> None:
    store = await open_store()
    await accept_names(store, "d1")
    (old,) = await claim_all(store, seconds=9999)
    await store.close()
    store = await open_store()
    (new,) = await claim_all(store)
    assert new.delivery.id == "d1"
    with pytest.raises(LeaseLost):
        await store.finish_delivery(old, [])


async def test_40_000_received_deliveries_are_claimed_to_the_last(store: CountingStore) -> None:
    for start in range(0, 40_000, 4_000):
        await store.accept([delivery(f"d{n}", body=b"") for n in range(start, start + 4_000)])
    taken = [len(await claim_all(store, limit=100_000)) for _ in range(5)]
    assert taken == [10_000, 10_000, 10_000, 10_000, 0]


# ── finish, fail, release ──


async def test_finish_processes_the_delivery_and_makes_its_events_pending(store: CountingStore) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    assert await store.finish_delivery(claim, [event("e1"), event("e2", "other", "pr-1")]) == Finished(2, ())
    record = await store.get_delivery("d1")
    assert record is not None
    assert (record.state, record.event_count, record.settled_ms) == (DeliveryState.PROCESSED, 2, START_MS)
    events = await store.list_events(delivery_id="d1")
    assert [(each.ref, each.state, each.destination, each.environment) for each in events] == [
        ("d1.1", EventState.PENDING, "other", "pr-1"),
        ("d1.0", EventState.PENDING, "default", None),
    ]


async def test_finish_without_events_filters_the_delivery(store: CountingStore) -> None:
    await process(store, "d1", [])
    record = await store.get_delivery("d1")
    assert record is not None
    assert (record.state, record.event_count) == (DeliveryState.FILTERED, 0)


async def test_a_claim_is_finished_once(store: CountingStore) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    results = await asyncio.gather(
        *(store.finish_delivery(claim, [event(f"e{n}")]) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, Finished) for result in results) == 1
    assert sum(isinstance(result, LeaseLost) for result in results) == 4
    assert len(await store.list_events()) == 1


async def test_100_concurrent_finishes_with_one_event_id_store_it_once(store: CountingStore) -> None:
    await accept_names(store, *(f"d{n}" for n in range(100)))
    claims = await claim_all(store)
    done = await asyncio.gather(*(store.finish_delivery(claim, [event("same")]) for claim in claims))
    assert sum(each.stored for each in done) == 1
    assert sum(each.duplicates == ("same",) for each in done) == 99
    assert len(await claim_lane(store)) == 1


async def test_an_id_is_a_duplicate_within_one_delivery_too_and_the_record_says_so(store: CountingStore) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    assert await store.finish_delivery(claim, [event("e"), event("e")]) == Finished(1, ("e",))
    record = await store.get_delivery("d1")
    assert record is not None
    assert (record.event_count, record.duplicates) == (1, ("e",))


async def test_a_record_remembers_a_hundred_duplicates(store: CountingStore) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    done = await store.finish_delivery(claim, [event("e") for _ in range(151)])
    record = await store.get_delivery("d1")
    assert len(done.duplicates) == 150
    assert record is not None
    assert len(record.duplicates) == 100


async def test_ids_are_deduplicated_per_destination_and_environment(store: CountingStore) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    lanes = [("a", None), ("b", None), ("a", "pr-1"), ("a", ""), ("ab", None)]
    assert (await store.finish_delivery(claim, [event("e", *lane) for lane in lanes])).stored == 5


async def test_the_window_runs_from_first_sight_and_a_duplicate_does_not_renew_it(
    open_store: OpenStore, clock: Clock
) -> None:
    store = await open_store(dedupe_hours=24)
    await process(store, "d1", [event("e")])
    clock.now_ms = START_MS + 23 * HOUR_MS
    await process(store, "d2", [event("e")])
    await store.close()
    store = await open_store(dedupe_hours=24)
    clock.now_ms = START_MS + 24 * HOUR_MS - 1
    await process(store, "d3", [event("e")])
    await store.prune(0)
    clock.now_ms = START_MS + 24 * HOUR_MS
    await process(store, "d4", [event("e")])
    counts = {each.id: each.event_count for each in await store.list_deliveries()}
    assert counts == {"d1": 1, "d2": 0, "d3": 0, "d4": 1}


async def test_the_window_holds_in_every_part_of_it(store: CountingStore, clock: Clock) -> None:
    for hour in range(24):
        clock.now_ms = START_MS + hour * HOUR_MS
        await process(store, f"first{hour}", [event(f"e{hour}")])
    for hour in range(24):
        clock.now_ms = START_MS + (hour + 24) * HOUR_MS - 1
        await process(store, f"last{hour}", [event(f"e{hour}")])
        clock.now_ms += 1
        await process(store, f"after{hour}", [event(f"e{hour}")])
    counts = {each.id: each.event_count for each in await store.list_deliveries(limit=1000)}
    assert {name for name, count in counts.items() if count == 0} == {f"last{hour}" for hour in range(24)}


async def test_fail_makes_the_delivery_dead_with_code_and_text(store: CountingStore) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    await store.fail_delivery(claim, ERROR)
    record = await store.get_delivery("d1")
    assert record is not None
    assert (record.state, record.code, record.message) == (DeliveryState.DEAD, ERROR.code, ERROR.message)
    assert record.settled_ms == START_MS
    assert await claim_all(store) == []
    with pytest.raises(LeaseLost):
        await store.fail_delivery(claim, ERROR)


async def test_a_released_delivery_is_claimable_after_its_rest(store: CountingStore, clock: Clock) -> None:
    await accept_names(store, "now", "later")
    now, later = await claim_all(store)
    await store.release_delivery(now)
    await store.release_delivery(later, after_seconds=5)
    (again,) = await claim_all(store)
    assert (again.delivery.id, again.attempt) == ("now", 2)
    clock.pass_seconds(5)
    assert [each.delivery.id for each in await claim_all(store)] == ["later"]
    with pytest.raises(LeaseLost):
        await store.finish_delivery(later, [])


async def test_a_clock_set_back_lengthens_no_rest(store: CountingStore, clock: Clock) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    await store.release_delivery(claim, after_seconds=10)
    clock.pass_seconds(-3600)
    assert await claim_all(store) == []
    clock.pass_seconds(10)
    assert [each.delivery.id for each in await claim_all(store)] == ["d1"]


# ── wait ──


async def test_wait_returns_when_a_delivery_is_accepted(store: CountingStore) -> None:
    await claim_all(store)
    waiting = asyncio.create_task(store.wait_deliveries(30))
    await asyncio.sleep(0)
    await accept_names(store, "d1")
    async with asyncio.timeout(5):
        await waiting


async def test_a_delivery_accepted_before_the_wait_is_not_missed(store: CountingStore) -> None:
    await claim_all(store)
    await accept_names(store, "d1")
    async with asyncio.timeout(5):
        await store.wait_deliveries(30)


async def test_wait_returns_when_a_claim_is_released(store: CountingStore) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    await claim_all(store)
    waiting = asyncio.create_task(store.wait_deliveries(30))
    await asyncio.sleep(0)
    await store.release_delivery(claim)
    async with asyncio.timeout(5):
        await waiting


async def test_wait_returns_after_so_many_seconds_when_nothing_happens(store: CountingStore) -> None:
    await accept_names(store, "d1")
    await claim_all(store)
    await claim_all(store)
    began = time.monotonic()
    await store.wait_deliveries(0.05)
    assert 0.04 < time.monotonic() - began < 5


async def test_what_waits_at_opening_wakes_at_once(open_store: OpenStore) -> None:
    store = await open_store()
    await process(store, "d1", [event("e1")])
    await accept_names(store, "d2")
    await store.close()
    store = await open_store()
    async with asyncio.timeout(5):
        await store.wait_deliveries(30)
        await store.wait_events(30)


# ── close ──


async def test_close_finishes_what_was_submitted_and_can_be_called_again(open_store: OpenStore) -> None:
    store = await open_store()
    accepting = [asyncio.create_task(store.accept([delivery(f"d{n}")])) for n in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await store.close()
    assert [answer.id for (answer,) in await asyncio.gather(*accepting)] == [f"d{n}" for n in range(20)]
    with pytest.raises(StoreUnavailable):
        await store.accept([delivery("late")])
    with pytest.raises(StoreUnavailable):
        await claim_all(store)
    assert len(await claim_all(await open_store())) == 20


async def test_probe_succeeds_on_a_usable_store(store: CountingStore) -> None:
    before = store.commits
    await store.probe()
    assert store.commits == before + 1


async def test_a_finished_delivery_is_never_claimed_from_a_read_under_way(store: CountingStore) -> None:
    """Claims, finishes and settlements race; each delivery is claimed once and each event settled once."""
    await accept_names(store, *(f"d{n}" for n in range(200)))
    claimed: list[str] = []
    settled: list[str] = []

    async def deliveries() -> None:
        while len(claimed) < 200:
            await asyncio.sleep(0)  # a claim that finds nothing does not wait, so it lets nobody else run
            for claim in await claim_all(store, limit=3):
                claimed.append(claim.delivery.id)
                await store.finish_delivery(claim, [event(f"e{claim.delivery.id}")])

    async def events() -> None:
        while len(settled) < 200:
            await asyncio.sleep(0)
            claims = await claim_lane(store, limit=5)
            settled.extend(each.id for each in claims if each.attempt == 1)
            await store.settle([sent(each) if each.attempt else again_at(each, 0) for each in claims])

    async with asyncio.timeout(60):
        await asyncio.gather(*(deliveries() for _ in range(4)), *(events() for _ in range(4)))
    assert len(claimed) == len(set(claimed)) == 200
    assert len(settled) == len(set(settled)) == 200
    assert store.late_settlements == 0
