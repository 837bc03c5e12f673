"""The contract of relay/stores/base.py, sentence by sentence: many at once, and more than is kept in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from relay.errors import StoreUnavailable, TransformError
from relay.models import Accepted, ClaimedDelivery, DeliveryState, Event, EventState, Finished
from tests.support.store import (
    START_MS,
    Clock,
    CountingStore,
    OpenStore,
    accept_names,
    again_at,
    claim_all,
    claim_lane,
    delivery,
    died,
    event,
    process,
    sent,
)

# ── accept_then ──


async def test_accept_then_answers_later_once_and_durably(open_store: OpenStore) -> None:
    store = await open_store()
    answers: list[Sequence[Accepted | StoreUnavailable]] = []
    store.accept_then([delivery("d1", key="k"), delivery("d2", key="k")], answers.append)
    store.accept_then([delivery("d3", key=None)], answers.append)
    assert answers == []
    await store.accept([delivery("last")])
    assert answers == [[Accepted("d1", False), Accepted("d1", True)], [Accepted("d3", False)]]
    await store.close()
    store = await open_store()
    assert [each.delivery.id for each in await claim_all(store)] == ["d1", "d3", "last"]


async def test_accept_then_never_raises(store: CountingStore) -> None:
    answers: list[Sequence[Accepted | StoreUnavailable]] = []
    store.accept_then(
        [delivery("first"), delivery("poison", received_ms=2**70), delivery("last")],
        answers.append,
    )
    await store.accept([delivery("other")])
    ((first, poison, last),) = answers
    assert (first, last) == (Accepted("first", False), Accepted("last", False)), "each is stored for itself"
    assert isinstance(poison, StoreUnavailable)
    assert [each.delivery.id for each in await claim_all(store)] == ["first", "last", "other"]
    await store.close()
    store.accept_then([delivery("late"), delivery("later")], answers.append)
    assert len(answers) == 1, "the answer comes later, also when it is known at once"
    await asyncio.sleep(0)
    assert [type(each) for each in answers[1]] == [StoreUnavailable, StoreUnavailable]


async def test_an_answer_that_raises_takes_no_other_answer_with_it(store: CountingStore) -> None:
    surprises: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context["exception"]))

    def stumble(_: Sequence[Accepted | StoreUnavailable]) -> None:
        raise RuntimeError("the caller's own")

    store.accept_then([delivery("d1")], stumble)
    assert await store.accept([delivery("d2")]) == [Accepted("d2", False)]
    assert [str(each) for each in surprises] == ["the caller's own"]
    assert [each.delivery.id for each in await claim_all(store)] == ["d1", "d2"]


# ── finish_deliveries ──


async def test_many_are_finished_each_for_itself(store: CountingStore, clock: Clock) -> None:
    await accept_names(store, "late", "d1", "d2", "d3")
    (late,) = await claim_all(store, limit=1, seconds=10)
    clock.pass_seconds(10)
    held = {each.delivery.id: each for each in await claim_all(store)}
    done = await store.finish_deliveries(
        [(held["d1"], [event("e1"), event("e2")]), (late, [event("e3")]), (held["d2"], []), (held["d3"], [event("e1")])]
    )
    assert done == [Finished(2, ()), None, Finished(0, ()), Finished(0, ("e1",))]
    states = {each.id: each.state for each in await store.list_deliveries()}
    assert states == {
        "late": DeliveryState.RECEIVED,
        "d1": DeliveryState.PROCESSED,
        "d2": DeliveryState.FILTERED,
        "d3": DeliveryState.PROCESSED,
    }
    assert [each.id for each in await claim_lane(store)] == ["e1", "e2"]
    assert await store.finish_deliveries([]) == []


async def test_one_that_cannot_be_stored_stays_held_and_takes_nobody_with_it(store: CountingStore) -> None:
    await accept_names(store, "d1", "poison", "d2")
    one, poison, two = await claim_all(store)
    broken = Event("e2", "made", 2**70, b"{}", "default", None)
    with pytest.raises(OverflowError):
        await store.finish_deliveries([(one, [event("e1")]), (poison, [broken]), (two, [event("e3")])])
    assert [each.id for each in await claim_lane(store)] == ["e1", "e3"]
    assert await store.finish_deliveries([(one, []), (poison, [event("e2")])]) == [None, Finished(1, ())]


async def test_large_ones_are_finished_each_for_itself_too(store: CountingStore) -> None:
    names = [f"d{n}" for n in range(6)]
    await accept_names(store, *names)
    held = await claim_all(store)
    finishes: list[tuple[ClaimedDelivery, list[Event]]] = [
        (each, [event(f"e{n}", size=700_000)]) for n, each in enumerate(held)
    ]
    finishes[3] = (held[3], [Event("poison", "made", 2**70, b"{}", "default", None)])
    with pytest.raises(OverflowError):
        await store.finish_deliveries(finishes)
    assert [each.id for each in await claim_lane(store)] == ["e0", "e1", "e2", "e4", "e5"]
    assert await store.finish_deliveries([(held[5], []), (held[3], [])]) == [None, Finished(0, ())]


async def test_the_same_claim_twice_in_one_call_is_finished_once(store: CountingStore) -> None:
    await accept_names(store, "d1")
    (claim,) = await claim_all(store)
    assert await store.finish_deliveries([(claim, [event("a")]), (claim, [event("b")])]) == [Finished(1, ()), None]


# ── more than is kept in memory ──


async def test_a_backlog_is_claimed_in_order_whole_and_once_while_more_arrives(store: CountingStore) -> None:
    names = [f"d{n:05}" for n in range(6_000)]
    await accept_names(store, *names[:3_000])
    claimed: list[str] = []
    given = 3_000
    while len(claimed) < len(names):
        more, given = names[given : given + 70], given + 70
        _, claims = await asyncio.gather(accept_names(store, *more), claim_all(store, limit=100))
        claimed += [each.delivery.id for each in claims]
        await store.finish_deliveries([(each, [event(f"e{each.delivery.id}")]) for each in claims])
    assert claimed == names
    settled: list[str] = []
    while events := await claim_lane(store, limit=300):
        settled += [each.id for each in events]
        await store.settle([sent(each) for each in events])
    assert settled == [f"e{name}" for name in names]
    assert (await store.stats()).events == {"pending": 0, "sent": 6_000, "dead": 0}


async def test_events_that_arrive_while_a_lane_is_behind_are_claimed_in_order_and_once(store: CountingStore) -> None:
    for part in range(4):
        await process(store, f"d{part}", [event(f"e{part}.{n:03}") for n in range(900)])
    taken: list[str] = []
    for part in range(4, 24):
        _, events = await asyncio.gather(
            process(store, f"d{part}", [event(f"e{part}.{n:03}") for n in range(50)]), claim_lane(store, limit=250)
        )
        taken += [each.id for each in events]
        await store.settle([sent(each) for each in events])
    expected = [f"e{part}.{n:03}" for part in range(4) for n in range(900)]
    expected += [f"e{part}.{n:03}" for part in range(4, 24) for n in range(50)]
    while events := await claim_lane(store, limit=250):
        taken += [each.id for each in events]
    assert taken == expected


async def test_big_bodies_of_many_sources_are_claimed_to_the_last(store: CountingStore) -> None:
    sources = [f"s{n}" for n in range(8)]
    for round_number in range(3):
        for source in sources:
            await store.accept([delivery(f"{source}-{round_number}", source=source, body=bytes(1 << 20))])
    taken: list[str] = []
    while claims := await claim_all(store, *sources, limit=5):
        taken += [each.delivery.id for each in claims]
    assert len(taken) == len(set(taken)) == 24
    for source in sources:
        assert [name for name in taken if name.startswith(f"{source}-")] == [f"{source}-{n}" for n in range(3)]


async def test_what_is_given_back_comes_before_what_is_younger(store: CountingStore) -> None:
    await accept_names(store, *(f"d{n:04}" for n in range(2_500)))
    first = await claim_all(store, limit=3)
    await claim_all(store, limit=1_500)
    for claim in first:
        await store.release_delivery(claim)
    again = await claim_all(store, limit=5)
    assert [each.delivery.id for each in again] == ["d0000", "d0001", "d0002", "d1503", "d1504"]
    assert [each.attempt for each in again] == [2, 2, 2, 1, 1]


async def test_released_events_come_again_in_their_order(store: CountingStore) -> None:
    await process(store, "d1", [event(f"e{n}") for n in range(6)])
    events = await claim_lane(store, limit=4)
    await store.settle([again_at(events[1], START_MS)])
    await store.release_events([events[2], events[0]])
    assert [(each.id, each.attempt) for each in await claim_lane(store)] == [
        ("e0", 0),
        ("e1", 1),
        ("e2", 0),
        ("e4", 0),
        ("e5", 0),
    ]
    await store.settle([sent(events[3])])
    assert (await store.stats()).events == {"pending": 5, "sent": 1, "dead": 0}


# ── a restart ──


async def test_every_state_outlasts_a_restart(open_store: OpenStore, clock: Clock) -> None:
    store = await open_store()
    await accept_names(store, "replayed", "dead", "again")
    for claim in await claim_all(store):
        await store.fail_delivery(claim, TransformError("script_raised", "boom"))
    await process(store, "filtered", [])
    await process(store, "mixed", [event(name) for name in ("sent", "dead", "revived", "retried", "pending", "held")])
    events = {each.id: each for each in await claim_lane(store, limit=6)}
    await store.settle(
        [
            sent(events["sent"]),
            died(events["dead"]),
            died(events["revived"]),
            again_at(events["retried"], START_MS + 5000),
        ]
    )
    await store.release_events([events["pending"]])
    await store.replay(["replayed", "mixed.2"])
    await store.replay(["again"], environment="pr-7")
    await accept_names(store, "new", "leased")
    await claim_all(store, limit=3)
    for _ in range(3):
        await store.close()
        store = await open_store()
        stats = await store.stats()
        assert stats.deliveries == {"received": 4, "processed": 1, "filtered": 1, "dead": 1}
        assert stats.events == {"pending": 4, "sent": 1, "dead": 1}
        received = [each.id for each in await store.list_deliveries(state=DeliveryState.RECEIVED)]
        assert received == ["leased", "new", "again", "replayed"]
        pending = [each.id for each in await store.list_events(state=EventState.PENDING)]
        assert pending == ["held", "pending", "retried", "revived"]
    claims = {each.delivery.id: each for each in await claim_all(store)}
    assert {name: claim.delivery.environment for name, claim in claims.items()} == {
        "replayed": None,
        "again": "pr-7",
        "new": None,
        "leased": None,
    }
    assert [each.id for each in await claim_lane(store)] == ["revived", "pending", "held"]
    clock.pass_seconds(5)
    assert [(each.id, each.attempt) for each in await claim_lane(store)] == [("retried", 1)]
    assert {each.attempt for each in claims.values()} == {1}


async def test_a_backlog_outlasts_a_restart_in_the_middle(open_store: OpenStore) -> None:
    store = await open_store()
    names = [f"d{n:04}" for n in range(3_000)]
    await accept_names(store, *names)
    held: list[str] = []
    for _ in range(5):
        claims = await claim_all(store, limit=300)
        done, left = claims[::2], claims[1::2]
        held += [each.delivery.id for each in left]
        await store.finish_deliveries([(each, [event(f"e{each.delivery.id}")]) for each in done])
    await store.close()
    store = await open_store()
    again: list[str] = []
    while claims := await claim_all(store, limit=400):
        again += [each.delivery.id for each in claims]
    assert again == sorted([*held, *names[1_500:]])
    events: list[str] = []
    while batch := await claim_lane(store, limit=400):
        events += [each.id for each in batch]
    assert events == [f"e{name}" for name in names[:1_500] if name not in set(held)]


async def test_many_sources_that_are_behind_are_served_turn_by_turn(open_store: OpenStore) -> None:
    store = await open_store()
    sources = [f"s{n:02}" for n in range(40)]
    for source in sources:
        await accept_names(store, *(f"{source}-{n:02}" for n in range(20)), source=source)
    await store.close()
    store = await open_store()
    taken: dict[str, list[str]] = {source: [] for source in sources}
    for _ in range(10):
        for claim in await claim_all(store, *sources, limit=80):
            taken[claim.delivery.source].append(claim.delivery.id)
        assert len({len(names) for names in taken.values()}) == 1, "everybody has had as many turns"
    assert taken == {source: [f"{source}-{n:02}" for n in range(20)] for source in sources}
