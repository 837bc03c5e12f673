"""The contract of relay/stores/base.py, sentence by sentence: replay, lists, counts and pruning."""

from __future__ import annotations

import json

import pytest

from relay.errors import TransformError
from relay.models import DeliveryState, EventState, ReplayResult
from tests.support.store import (
    HOUR_MS,
    START_MS,
    Clock,
    CountingStore,
    OpenStore,
    accept_names,
    claim_all,
    claim_lane,
    delivery,
    died,
    event,
    process,
    sent,
)


async def kill_delivery(store: CountingStore, name: str) -> None:
    await store.accept([delivery(name)])
    (claim,) = await claim_all(store)
    await store.fail_delivery(claim, TransformError("script_raised", "boom"))


async def send_all(store: CountingStore, environment: str | None = None) -> None:
    await store.settle([sent(each) for each in await claim_lane(store, environment)])


# ── replay ──


async def test_a_dead_or_filtered_delivery_is_received_again(store: CountingStore) -> None:
    await kill_delivery(store, "dead")
    await process(store, "filtered", [])
    assert await store.replay(["dead", "filtered"]) == ReplayResult(("dead", "filtered"))
    record = await store.get_delivery("dead")
    assert record is not None
    assert (record.state, record.code, record.message, record.settled_ms) == (DeliveryState.RECEIVED, None, None, None)
    claims = await claim_all(store)
    assert [(each.delivery.id, each.attempt, each.delivery.generation) for each in claims] == [
        ("dead", 1, 0),
        ("filtered", 1, 0),
    ]


async def test_a_dead_event_is_pending_again_with_attempt_0(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")])
    await store.settle([died(each) for each in await claim_lane(store)])
    assert await store.replay(["d1.0"]) == ReplayResult(("d1.0",))
    (claimed,) = await claim_lane(store)
    assert (claimed.id, claimed.ref, claimed.attempt) == ("e1", "d1.0", 0)
    record = await store.get_event("d1.0")
    assert record is not None
    assert (record.state, record.code, record.message) == (EventState.PENDING, None, None)


async def test_unfinished_finished_and_unknown_work_is_refused_with_a_sentence(store: CountingStore) -> None:
    await process(store, "done", [event("e1"), event("e2", "default", "pr-1")])
    await send_all(store)
    await accept_names(store, "open")
    done = await store.replay(["done", "done.0", "done.1", "open", "none", "done.7", ""])
    assert done.replayed == ()
    assert dict(done.refused) == {
        "done": "is processed: use --again to run it again with new event ids",
        "done.0": "is sent: use --again to send a copy of it under a new id",
        "done.1": "is pending: it will be sent without a replay",
        "open": "is received: it will be processed without a replay",
        "none": "is no delivery's id and no event's ref that is kept here",
        "done.7": "is no delivery's id and no event's ref that is kept here",
        "": "is no delivery's id and no event's ref that is kept here",
    }


async def test_again_runs_a_processed_delivery_in_the_next_generation(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")])
    for generation in (1, 2):
        assert await store.replay(["d1"], again=True) == ReplayResult(("d1",))
        (claim,) = await claim_all(store)
        assert claim.delivery.generation == generation
        await store.finish_delivery(claim, [event(f"e1:again-{generation}")])
    assert [each.ref for each in await store.list_events(delivery_id="d1")] == ["d1.r2.0", "d1.r1.0", "d1.0"]
    record = await store.get_delivery("d1")
    assert record is not None
    assert (record.generation, record.event_count) == (2, 3)


async def test_again_copies_a_sent_event_under_a_new_id(store: CountingStore, clock: Clock) -> None:
    await process(store, "d1", [event("e1")])
    await send_all(store)
    clock.pass_seconds(1)
    assert await store.replay(["d1.0"], again=True) == ReplayResult(("d1.r1.0",))
    assert await store.replay(["d1.0"], again=True) == ReplayResult(("d1.r2.0",))
    copies = await claim_lane(store)
    assert [(each.ref, each.id, each.attempt) for each in copies] == [
        ("d1.r1.0", "e1:again-1", 0),
        ("d1.r2.0", "e1:again-2", 0),
    ]
    assert json.loads(copies[0].json) == {**json.loads(event("e1").json), "id": "e1:again-1"}
    original = await store.get_event("d1.0")
    assert original is not None
    assert original.state is EventState.SENT
    await store.replay(["d1"], again=True)
    (claim,) = await claim_all(store)
    assert claim.delivery.generation == 3


async def test_environment_replaces_the_one_asked_for(store: CountingStore) -> None:
    await store.accept([delivery("d1", environment="main")])
    (claim,) = await claim_all(store)
    await store.fail_delivery(claim, TransformError("script_raised", "boom"))
    await store.replay(["d1"], environment="pr-2")
    (claim,) = await claim_all(store)
    assert claim.delivery.environment == "pr-2"
    await store.finish_delivery(claim, [event("e1", "default", "pr-2")])
    await store.settle([died(each) for each in await claim_lane(store, "pr-2")])
    await store.replay(["d1.0"], environment="pr-3")
    assert await claim_lane(store, "pr-2") == []
    assert [each.id for each in await claim_lane(store, "pr-3")] == ["e1"]


async def test_a_replay_wakes_the_stages(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")])
    await store.settle([died(each) for each in await claim_lane(store)])
    await kill_delivery(store, "d2")
    await claim_all(store)
    await store.lanes()
    await store.replay(["d1.0", "d2"])
    await store.wait_deliveries(30)
    await store.wait_events(30)
    assert len(await claim_all(store)) == len(await claim_lane(store)) == 1


async def test_a_thousand_ids_a_call_and_no_more(store: CountingStore) -> None:
    assert len((await store.replay([f"x{n}" for n in range(1000)])).refused) == 1000
    with pytest.raises(ValueError, match="1001 ids"):
        await store.replay([f"x{n}" for n in range(1001)])


# ── lists ──


async def test_lists_are_newest_first_in_pages(store: CountingStore) -> None:
    for n in range(5):
        await process(store, f"d{n}", [event(f"e{n}")])
    first = await store.list_deliveries(limit=2)
    then = await store.list_deliveries(limit=2, before=first[-1].id)
    assert [each.id for each in first + then] == ["d4", "d3", "d2", "d1"]
    assert all(each.request is None for each in first)
    some = await store.list_events(limit=3)
    rest = await store.list_events(limit=3, before=some[-1].ref)
    assert [each.id for each in some + rest] == ["e4", "e3", "e2", "e1", "e0"]
    assert all(each.json is None for each in some)
    assert await store.list_deliveries(before="pruned") == []
    assert await store.list_events(before="pruned.0") == []


async def test_lists_filter_by_state_and_source(store: CountingStore) -> None:
    await process(store, "gh", [event("e1"), event("e2")])
    await process(store, "st", [event("e3")], source="stripe")
    await process(store, "nothing", [])
    await kill_delivery(store, "bad")
    await accept_names(store, "open")
    one, *_ = await claim_lane(store)
    await store.settle([died(one)])
    by_state = {state: [each.id for each in await store.list_deliveries(state=state)] for state in DeliveryState}
    assert by_state == {"received": ["open"], "processed": ["st", "gh"], "filtered": ["nothing"], "dead": ["bad"]}
    assert [each.id for each in await store.list_deliveries(source="stripe")] == ["st"]
    assert [each.id for each in await store.list_events(state=EventState.DEAD)] == ["e1"]
    assert [each.id for each in await store.list_events(state=EventState.PENDING, source="github")] == ["e2"]
    assert [each.source for each in await store.list_events(source="stripe")] == ["stripe"]


async def test_lists_are_never_longer_than_1000(store: CountingStore) -> None:
    await process(store, "d", [event(f"e{n}") for n in range(1001)])
    assert len(await store.list_events(limit=5000)) == 1000
    assert await store.list_events(limit=0) == []


async def test_unknown_ids_are_none(store: CountingStore) -> None:
    assert await store.get_delivery("none") is None
    assert await store.get_event("none") is None
    assert await store.get_event("none.0") is None


async def test_one_event_has_its_json(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")])
    record = await store.get_event("d1.0")
    assert record is not None
    assert (record.json, record.delivery_id, record.source, record.name) == (
        event("e1").json,
        "d1",
        "github",
        "github/push",
    )


# ── counts ──


async def test_stats_count_states_ages_and_lanes_also_after_reopening(open_store: OpenStore, clock: Clock) -> None:
    store = await open_store()
    await process(store, "p", [event("e1"), event("e2"), event("e3")])
    await process(store, "f", [])
    await kill_delivery(store, "x")
    one, two, _ = claimed = await claim_lane(store)
    await store.settle([sent(one), died(two)])
    await store.release_events(claimed)
    await store.accept([delivery("o", received_ms=START_MS + 7), delivery("q", source="stripe")])
    for _ in range(2):
        stats = await store.stats()
        assert stats.deliveries == {"received": 2, "processed": 1, "filtered": 1, "dead": 1}
        assert stats.events == {"pending": 1, "sent": 1, "dead": 1}
        assert stats.received_by_source == {"github": 1, "stripe": 1}
        assert [(lane.destination, lane.pending) for lane in stats.lanes] == [("default", 1)]
        assert (stats.oldest_received_ms, stats.oldest_pending_ms) == (START_MS, START_MS)
        assert stats.store_bytes > 0
        await store.close()
        store = await open_store()


async def test_the_oldest_pending_event_is_found_again_after_a_replay(store: CountingStore, clock: Clock) -> None:
    await process(store, "d1", [event("e1")])
    await store.settle([died(each) for each in await claim_lane(store)])
    clock.pass_seconds(10)
    await process(store, "d2", [event("e2")])
    assert (await store.stats()).oldest_pending_ms == START_MS + 10_000
    await store.replay(["d1.0"])
    assert (await store.stats()).oldest_pending_ms == START_MS


# ── prune ──


async def test_prune_takes_settled_deliveries_before_that_time_with_their_events(store: CountingStore) -> None:
    await process(store, "young", [event("e0")], received_ms=START_MS + HOUR_MS)
    for n in range(3):
        await process(store, f"old{n}", [event(f"e{n}.1"), event(f"e{n}.2")])
    await send_all(store)
    assert [await store.prune(START_MS + 1, limit=2) for _ in range(3)] == [2, 1, 0]
    assert [each.id for each in await store.list_deliveries()] == ["young"]
    assert [each.id for each in await store.list_events()] == ["e0"]
    stats = await store.stats()
    assert (stats.deliveries["processed"], stats.events["sent"]) == (1, 1)


async def test_prune_never_touches_unsettled_work(store: CountingStore) -> None:
    await process(store, "pending", [event("e1"), event("e2")])
    one, _ = await claim_lane(store)
    await store.settle([sent(one)])
    await kill_delivery(store, "dead")
    await accept_names(store, "received")
    assert await store.prune(START_MS + HOUR_MS) == 1
    assert {each.id for each in await store.list_deliveries()} == {"pending", "received"}
    assert len(await store.list_events()) == 2


async def test_a_pruned_key_is_forgotten_and_a_pruned_event_id_is_not(store: CountingStore) -> None:
    await process(store, "d1", [event("e1")], key="k")
    await send_all(store)
    assert await store.prune(START_MS + 1) == 1
    await process(store, "d2", [event("e1")], key="k")
    record = await store.get_delivery("d2")
    assert record is not None
    assert record.duplicates == ("e1",)


async def test_one_step_of_pruning_is_bounded_by_bytes(store: CountingStore) -> None:
    for n in range(3):
        await process(store, f"d{n}", [], body=bytes(9 << 20))
    assert [await store.prune(START_MS + 1) for _ in range(4)] == [1, 1, 1, 0]
