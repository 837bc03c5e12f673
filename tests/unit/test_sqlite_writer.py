"""Group commit: many operations, one transaction; each answered for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from relay.errors import StoreUnavailable
from relay.models import Accepted, Event, Settlement
from relay.stores import sqlite_writer
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_known import Known
from relay.stores.sqlite_writer import COMPANY_SECONDS_MAX, QUIET_TURNS, WEIGHT_MAX, Company
from tests.support.store import Clock, claim_all, claim_lane, delivery, event, process, sent

MIB = 1024 * 1024


def opening(folder: Path) -> Awaitable[SqliteStore]:
    return SqliteStore.open(
        folder / "relay.db", clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=MIB
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await opening(tmp_path)
    yield store
    await store.close()


async def test_what_arrives_together_is_committed_together(store: SqliteStore) -> None:
    before = store.commits
    await asyncio.gather(*(store.accept([delivery(f"d{n}")]) for n in range(100)))
    assert store.commits == before + 1


async def test_those_who_come_one_after_the_other_are_committed_together(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "COMPANY_SECONDS_MAX", 60.0)
    before, calls = store.commits, list[asyncio.Task[list[Accepted]]]()
    for n in range(50):
        calls.append(asyncio.create_task(store.accept([delivery(f"d{n}")])))
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert store.commits == before + 1


def test_a_group_waits_for_those_who_are_coming_and_no_longer() -> None:
    company, now = Company(), 5.0
    weights = [1, 1, *[2] * (QUIET_TURNS + 1)]
    assert [company.is_coming(weight, now) for weight in weights] == [True] * (QUIET_TURNS + 2) + [False]
    assert [company.is_coming(7, now) for _ in range(QUIET_TURNS + 1)] == [True] * QUIET_TURNS + [False], "and anew"
    times = [now + COMPANY_SECONDS_MAX * part for part in (0, 0.5, 0.9, 1.1)]
    assert [company.is_coming(weight, at) for weight, at in enumerate(times, 1)] == [True] * 3 + [False]


async def test_what_arrives_during_a_commit_is_committed_next(store: SqliteStore) -> None:
    before = store.commits
    calls = []
    for n in range(200):
        calls.append(asyncio.create_task(store.accept([delivery(f"d{n}")])))
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert before < store.commits < before + 200


async def test_an_operation_that_raises_fails_alone(store: SqliteStore) -> None:
    good = [delivery(f"d{n}") for n in range(3)]
    poison = delivery("poison", received_ms=2**70)  # fits no column
    wrong = store._owner.submit(lambda session: session.execute("INSERT INTO bits (bit) VALUES (1)"))  # it has one
    calls = (store.accept([each]) for each in (good[0], poison, good[1], good[2]))
    results = await asyncio.gather(wrong, *calls, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable, list, OverflowError, list, list]
    assert [each.delivery for each in await claim_all(store)] == good
    assert (await store.stats()).deliveries["received"] == 3


async def test_a_call_happens_whole_or_not_at_all(store: SqliteStore) -> None:
    with pytest.raises(OverflowError):
        await store.accept([delivery("d1"), delivery("d2", received_ms=2**70)])
    assert await store.list_deliveries() == []


async def test_a_finish_that_raises_leaves_claim_lanes_and_dedupe_as_they_were(store: SqliteStore) -> None:
    await store.accept([delivery("d1")])
    (claim,) = await claim_all(store)
    broken = Event("e2", "made", 2**70, b"{}", "new-lane", None)
    with pytest.raises(OverflowError):
        await store.finish_delivery(claim, [event("e1", "new-lane"), broken])
    assert await store.lanes() == []
    assert (await store.finish_delivery(claim, [event("e1", "new-lane")])).stored == 1
    assert len(await store.claim_events("new-lane", None, 10, 1000, 60)) == 1


async def test_a_cancelled_caller_breaks_nothing(store: SqliteStore) -> None:
    gone = asyncio.create_task(store.accept([delivery("gone")]))
    stays = asyncio.create_task(store.accept([delivery("stays")]))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert gone.cancelled() or gone.done()
    assert [each.delivery.id for each in await claim_all(store)] == ["gone", "stays"]
    assert (await store.stats()).deliveries["received"] == 2


async def test_a_cancelled_claim_leaves_nothing_leased(tmp_path: Path, store: SqliteStore) -> None:
    await process(store, "d1", [event("e1")])
    await store.accept([delivery("d2")])
    await store.close()
    store = await opening(tmp_path)  # nothing is in memory yet, so that a claim has to wait for a read
    for claim in (claim_all(store), claim_lane(store)):
        task = asyncio.create_task(claim)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):
        await store.wait_deliveries(30)
        await store.wait_events(30)
    assert len(await claim_all(store)) == len(await claim_lane(store)) == 1
    await store.close()


async def test_a_full_queue_refuses_at_once_and_takes_again_later(store: SqliteStore) -> None:
    calls = [asyncio.create_task(store.accept([delivery(f"d{n}", body=bytes(MIB // 4))])) for n in range(8)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, StoreUnavailable) for result in results] == [False] * 3 + [True] * 5
    await store.accept([delivery("later")])
    assert len(await store.list_deliveries()) == 4


@pytest.mark.parametrize(("size", "queue_bytes_max", "fit"), [(0, 64 * MIB, WEIGHT_MAX), (MIB // 64, MIB, 64)])
async def test_the_queue_is_as_full_when_many_come_in_a_call(
    tmp_path: Path, size: int, queue_bytes_max: int, fit: int
) -> None:
    """By how many there are, or by what they hold: each counts."""
    store = await SqliteStore.open(
        tmp_path / "relay.db", clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=queue_bytes_max
    )
    answers = list[Accepted | StoreUnavailable]()
    for call in range(fit // 16 + 10):
        store.accept_then([delivery(f"d{call}-{n}", body=bytes(size)) for n in range(16)], answers.extend)
    await store.close()
    kept = sum(isinstance(answer, Accepted) for answer in answers)
    assert len(answers) == fit + 160
    assert fit - 16 <= kept <= fit + 16


async def test_one_delivery_bigger_than_the_queue_is_taken_alone(store: SqliteStore) -> None:
    await store.accept([delivery("big", body=bytes(5 * MIB))])


async def test_a_nearly_full_disk_refuses_deliveries_but_settles_work(tmp_path: Path) -> None:
    path, clock = tmp_path / "relay.db", Clock()
    roomy = await SqliteStore.open(path, clock_ms=clock, dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=MIB)
    await process(roomy, "d1", [event("e1")])
    await roomy.accept([delivery("d2")])
    await roomy.close()
    store = await SqliteStore.open(
        path, clock_ms=clock, dedupe_hours=24, disk_free_bytes_min=2**60, queue_bytes_max=MIB
    )
    for refused in (store.accept([delivery("d3")]), store.probe()):
        with pytest.raises(StoreUnavailable, match="disk_free_bytes_min"):
            await refused
    answers = list[Sequence[Accepted | StoreUnavailable]]()
    store.accept_then([delivery("d3"), delivery("d4")], answers.append)
    (claim,) = await claim_all(store)
    await store.finish_delivery(claim, [event("e2")])
    await store.settle([sent(each) for each in await claim_lane(store)])
    assert (await store.stats()).events["sent"] == 2
    assert [[type(answer) for answer in each] for each in answers] == [[StoreUnavailable] * 2]
    await store.close()


async def test_settling_nothing_commits_nothing(store: SqliteStore) -> None:
    before = store.commits
    await store.settle(list[Settlement]())
    assert store.commits == before


async def test_what_is_committed_counts_even_if_what_is_remembered_of_it_fails(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has it: the sender is told so, and the next one finds it by reading the file again."""
    await store.accept([delivery("d1")])
    failing = iter([True])

    def committed(self: Known, remember: Callable[[Known], None] = Known.committed) -> None:
        if next(failing, False):
            raise MemoryError("of all moments")
        remember(self)

    monkeypatch.setattr(Known, "committed", committed)
    (first,) = await store.accept([delivery("d2")])
    assert first == Accepted("d2", False)
    assert next(failing, None) is None, "it did not fail"
    again = [delivery("other", key="d1"), delivery("another", key="d2"), delivery("d3")]
    assert await store.accept(again) == [Accepted("d1", True), Accepted("d2", True), Accepted("d3", False)]
    assert [claim.delivery.id for claim in await claim_all(store)] == ["d1", "d2", "d3"]
