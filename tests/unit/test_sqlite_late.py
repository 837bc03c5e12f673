"""A disk that is too slow: webhooks are refused at once instead of late, and taken again when it is quick again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from relay.errors import StoreUnavailable
from relay.models import Accepted
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_jobs import CallResult, Job, Reply
from relay.stores.sqlite_writer import NEXT_WEIGHT_MIN, Writer
from tests.support.store import Clock, claim_all, delivery, event


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(
        tmp_path / "relay.db",
        clock_ms=Clock(),
        dedupe_hours=24,
        disk_free_bytes_min=0,
        queue_bytes_max=1 << 26,
        wait_seconds_max=0.2,
    )
    yield store
    await store.close()


async def test_what_waits_behind_a_slow_disk_is_refused_and_what_is_being_written_is_not(
    store: SqliteStore, tmp_path: Path
) -> None:
    """Given a disk that does not answer (another connection holds the file's lock), when a write has waited for
    longer than allowed, then what comes is refused at once, and so is what waits behind it and was not begun."""
    await store.accept([delivery("held")])
    (held,) = await claim_all(store)
    stuck = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
    stuck.execute("BEGIN IMMEDIATE")
    written = asyncio.create_task(store.accept([delivery("being written")]))
    await asyncio.sleep(0.05)
    finished = asyncio.create_task(store.finish_delivery(held, [event("e1")]))
    waiting = asyncio.create_task(store.accept([delivery("waiting")]))
    with pytest.raises(StoreUnavailable, match="wait_seconds_max"):
        await waiting
    assert not written.done()
    answers: list[Accepted | StoreUnavailable] = []
    began = time.monotonic()
    store.accept_then([delivery("too late")], answers.extend)
    await asyncio.sleep(0)
    assert time.monotonic() - began < 0.1
    assert isinstance(answers[0], StoreUnavailable)
    with pytest.raises(StoreUnavailable, match="wait_seconds_max"):
        await store.probe()
    stuck.execute("ROLLBACK")
    stuck.close()
    assert await written == [Accepted("being written", False)]
    assert (await finished).stored == 1, "what settles work is never refused for that"
    assert await store.accept([delivery("taken again"), delivery("waiting")]) == [
        Accepted("taken again", False),
        Accepted("waiting", False),
    ]
    kept = {each.id for each in await store.list_deliveries()}
    assert kept == {"held", "being written", "taken again", "waiting"}


async def test_a_burst_that_is_written_in_time_is_not_refused(store: SqliteStore) -> None:
    for part in range(10):
        await asyncio.gather(*(store.accept([delivery(f"d{part}.{n}")]) for n in range(300)))
    assert (await store.stats()).deliveries["received"] == 3_000


class ByHand:
    """Stands where the one who commits would; its replies are the test's."""

    shares_core = False

    def begin(self, answer: Callable[[Reply], None], lost: Callable[[str], None]) -> None:
        self.answer = answer
        self.groups: asyncio.Queue[Sequence[Job]] = asyncio.Queue()

    def send(self, jobs: Sequence[Job]) -> None:
        self.groups.put_nowait(jobs)

    async def close(self) -> None:
        pass


async def test_nothing_is_late_while_the_writer_waits_for_company() -> None:
    """Given a group that took too long and was answered, when the next one waits a little for others, then what comes
    is taken: nothing is being written any more."""
    committing = ByHand()
    writer = Writer(committing, queue_bytes_max=1000, wait_seconds_max=0.05)
    first = writer.submit(len, grows=True)  # type: ignore[arg-type]  # it is never run
    await asyncio.sleep(0.1)
    with pytest.raises(StoreUnavailable, match="wait_seconds_max"):
        writer.submit(len, grows=True)  # type: ignore[arg-type]
    committing.answer(Reply([CallResult(1)], rest_seconds=0.1, commits=1))
    assert await first == 1
    second = writer.submit(len, grows=True)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        assert [len(await committing.groups.get()) for _ in range(2)] == [1, 1]
    committing.answer(Reply([CallResult(2)], rest_seconds=0, commits=2))
    assert await second == 2
    await writer.close()


async def test_a_second_group_is_handed_over_behind_the_first_when_it_is_as_large() -> None:
    committing = ByHand()
    writer = Writer(committing, queue_bytes_max=1000, wait_seconds_max=60)

    async def submit(count: int) -> list[asyncio.Future[int]]:
        calls = [writer.submit(len) for _ in range(count)]  # type: ignore[arg-type]  # they are never run
        for _ in range(3):
            await asyncio.sleep(0)
        return calls

    for _ in range(3):
        calls = await submit(NEXT_WEIGHT_MIN)
        calls += await submit(NEXT_WEIGHT_MIN - 1)
        assert committing.groups.qsize() == 1
        calls += await submit(1)
        calls += await submit(2 * NEXT_WEIGHT_MIN)
        assert committing.groups.qsize() == 2, "no third one"
        for size in (NEXT_WEIGHT_MIN, NEXT_WEIGHT_MIN, 2 * NEXT_WEIGHT_MIN):
            jobs = await committing.groups.get()
            assert len(jobs) == size
            committing.answer(Reply([CallResult(1)] * size, rest_seconds=0, commits=1))
        assert await asyncio.gather(*calls) == [1] * 4 * NEXT_WEIGHT_MIN
    await writer.close()
