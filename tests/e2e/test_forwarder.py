"""The forwarder between a real store and a fake Inngest that fails in every way: nothing lost, nothing but the bad
event dead, every other event accepted once, and no lane held up by another."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from relay import forwarder_lane
from relay.config import Destination
from relay.forwarder_lane import SETTLED_MAX
from relay.models import EventState
from tests.support.fake_inngest import FakeInngest, Mode
from tests.support.forwarding import FAST, Stage, forwarding, wait_until

HOUR_MS = 3_600_000
PENDING, SENT, DEAD = EventState.PENDING, EventState.SENT, EventState.DEAD


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeInngest]:
    async with FakeInngest() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relay.db"


def default(fake: FakeInngest, **settings: Any) -> dict[str, Destination]:
    return {"default": Destination(url=fake.url, **{**FAST, **settings})}


def numbered(count: int, prefix: str = "e") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


async def test_events_arrive_by_environment_with_inngests_ids(fake: FakeInngest, path: Path) -> None:
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(20, "a"))
        await stage.put(numbered(20, "b"), env="pr-17")
        await stage.until({SENT: 40})
        assert sorted(fake.ids(None)) == sorted(numbered(20, "a"))
        assert sorted(fake.ids("pr-17")) == sorted(numbered(20, "b"))
        assert {r.id: r.inngest_id for r in await stage.records()} == {
            g.event["id"]: g.inngest_id for g in fake.accepted
        }
        assert stage.metric("events_settled_total", destination="default", state="sent", code="ok") == 40
        assert {line["environment"] for line in stage.logged("batch.sent") if "environment" in line} == {"pr-17"}


@pytest.mark.parametrize(
    ("settings", "most"),
    [({"batch_events_max": 100}, 100), ({"batch_bytes_max": 11_000}, 10), ({"batch_bytes_max": 1024}, 1)],
)
async def test_batches_are_bounded_by_count_and_by_bytes(
    fake: FakeInngest, path: Path, settings: dict[str, int], most: int
) -> None:
    async with forwarding(path, default(fake, **settings)) as stage:
        await stage.put(numbered(300), size=1000)
        await stage.until({SENT: 300})
    assert max(seen.events for seen in fake.requests) == most
    assert len(fake.requests) <= 300 / most + 1


async def test_a_batch_waits_for_company_but_not_longer_than_its_age(fake: FakeInngest, path: Path) -> None:
    async with forwarding(path, default(fake, batch_wait_ms=400)) as stage:
        began = time.monotonic()
        await stage.put(["e0"])
        await asyncio.sleep(0.1)  # not a wait for a condition: the second event is to come within the first one's wait
        await stage.put(["e1"])
        await stage.until({SENT: 2})
        assert 0.35 < time.monotonic() - began < 5
    assert [seen.events for seen in fake.requests] == [2]


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("full", [{"batch_events_max": 10}, {"batch_bytes_max": 11_000}])
async def test_full_batches_do_not_wait_for_each_other(
    fake: FakeInngest, path: Path, most: int, full: dict[str, int]
) -> None:
    fake.set_mode(Mode(hang=0.3))
    async with forwarding(path, default(fake, batches_max=most, **full)) as stage:
        await stage.put(numbered(80), size=1000)
        seen = await at_once(stage, fake, {SENT: 80})
    assert seen == most
    assert len(fake.requests) == 8
    assert sorted(fake.ids()) == sorted(numbered(80))


async def test_what_comes_while_a_small_batch_is_on_its_way_goes_together(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(hang=0.4))
    async with forwarding(path, default(fake)) as stage:
        await stage.put(["first"])
        await wait_until(lambda: is_true(fake.begun == 1))
        for number in range(10):
            await stage.put([f"later{number}"])
        assert await at_once(stage, fake, {SENT: 11}) == 1
    assert [seen.events for seen in fake.requests] == [1, 10]


@pytest.mark.parametrize(("status", "limit", "until_begun"), [(503, 5, 8), (429, 10, 6)])
async def test_trouble_counts_once_and_then_one_batch_is_tried_at_a_time(
    fake: FakeInngest, path: Path, status: int, limit: int, until_begun: int
) -> None:
    """A 429 does not shrink batches, so the next one is as full."""
    fake.set_mode(Mode(status=status, hang=0.1, times=6))
    settings = default(fake, batch_events_max=10, batches_max=4, retry_delay_ms_min=200, retry_delay_ms_max=60_000)
    async with forwarding(path, settings) as stage:
        await stage.put(numbered(80))
        await wait_until(lambda: is_true(len(stage.logged("batch.refused")) == 4))
        (state,) = stage.forwarder._lanes.states.values()
        assert (state.failures, state.troubles, state.limit) == (1, 1, limit), "as if only one had been on its way"
        await wait_until(lambda: is_true(fake.begun == 5))
        assert await at_once(stage, fake, {SENT: 80}, until_begun=until_begun) == 1
        await stage.until({SENT: 80})
    assert sorted(fake.ids()) == sorted(numbered(80))


async def test_batches_beside_the_first_are_bounded_for_all_lanes_together(
    fake: FakeInngest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_lane, "BATCHES_MORE_MAX", 1)
    async with forwarding(path, default(fake, batch_events_max=10, batches_max=4)) as stage:
        for wave in range(3):  # places become free again
            fake.set_mode(Mode(hang=0.3))
            for lane in range(3):
                await stage.put(numbered(40, f"{wave}-{lane}-"), env=f"env-{lane}")
            assert await at_once(stage, fake, {SENT: 120 * (wave + 1)}) == 4


async def at_once(
    stage: Stage, fake: FakeInngest, wanted: dict[EventState, int], until_begun: int | None = None
) -> int:
    """The most requests that were on their way together, until what is wanted has come."""
    most = 0

    async def watch() -> bool:
        nonlocal most
        most = max(most, fake.at_once)
        if until_begun is not None:
            return fake.begun >= until_begun
        counts = (await stage.store.stats()).events
        return all(counts[state] == count for state, count in wanted.items())

    await wait_until(watch)
    return most


async def test_what_does_not_fit_beside_the_others_goes_by_itself(fake: FakeInngest, path: Path) -> None:
    async with forwarding(path, default(fake, batch_wait_ms=500, batch_bytes_max=10_000)) as stage:
        await stage.put(numbered(3))
        await stage.put(["big"], size=20_000)
        await stage.until({SENT: 4})
    assert [seen.events for seen in fake.requests] == [3, 1]


STORES_NOTHING = [
    *(Mode(status=status, times=3) for status in (401, 403, 404, 405, 408, 409, 429, 500, 502, 503)),
    Mode(status=429, retry_after="0", times=2),
    Mode(redirect="http://127.0.0.1:1/e/key", times=2),
    Mode(hang=5, times=1),
    Mode(reset="before", times=3),
]
MAY_STORE_TWICE = [
    Mode(reset="after", times=2),
    Mode(slow=5, times=1),
    Mode(text="<html>hello</html>", times=2),
    Mode(fewer_ids=1, times=2),
]


@pytest.mark.parametrize("mode", STORES_NOTHING)
async def test_every_failure_that_stores_nothing_ends_in_exactly_once(
    fake: FakeInngest, path: Path, mode: Mode
) -> None:
    fake.set_mode(mode)
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(50))
        await stage.until({SENT: 50})
        assert not stage.logged("event.died")
        assert stage.logged("batch.refused")
    assert sorted(fake.ids()) == sorted(numbered(50))


@pytest.mark.parametrize("mode", MAY_STORE_TWICE)
async def test_a_lost_answer_is_sent_again_under_the_same_ids(fake: FakeInngest, path: Path, mode: Mode) -> None:
    fake.set_mode(mode)
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(50))
        await stage.until({SENT: 50})
        assert not stage.logged("event.died")
    assert set(fake.ids()) == set(numbered(50))


@pytest.mark.parametrize("race", [Mode(), Mode(cancel=1), Mode(cancel=7), Mode(cancel_holes=True)])
async def test_a_partial_400_ends_exactly_the_bad_events(fake: FakeInngest, path: Path, race: Mode) -> None:
    bad = {"e0", "e11", "e12", "e30", "e59"}
    fake.set_mode(Mode(refuse=tuple(bad), cancel=race.cancel, cancel_holes=race.cancel_holes))
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(60))
        await stage.until({SENT: 55, DEAD: 5})
        dead = {record.id: (record.code, record.message) for record in await stage.records() if record.state == DEAD}
        assert dead == {event_id: ("event_refused", f"refused: {event_id}") for event_id in bad}
        assert {line["id"] for line in stage.logged("event.died")} == bad
    assert sorted(fake.ids()) == sorted(set(numbered(60)) - bad)


async def test_a_413_splits_and_ends_only_what_is_too_large_alone(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(body_bytes_max=2000))
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(30), size=100)
        await stage.put(["big"], size=5000)
        await stage.until({SENT: 30, DEAD: 1})
        assert [(line["id"], line["code"]) for line in stage.logged("event.died")] == [("big", "event_too_large")]
    assert sorted(fake.ids()) == sorted(numbered(30))


async def test_one_event_that_makes_the_server_fail_holds_up_no_other(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(crash_on=("e7",)))
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(64))
        await stage.until({SENT: 63, PENDING: 1})
        (left,) = [record for record in await stage.records() if record.state == PENDING]
        assert (left.id, left.code) == ("e7", "destination_failing")
        fake.set_mode(Mode())
        await stage.until({SENT: 64})
    assert sorted(fake.ids()) == sorted(numbered(64))


DOWN = [Mode(hang=30), Mode(status=503), Mode(status=401), Mode(status=429, retry_after="60"), Mode(reset="before")]


@pytest.mark.parametrize("mode", DOWN)
async def test_an_environment_that_is_down_delays_no_other(fake: FakeInngest, path: Path, mode: Mode) -> None:
    fake.set_mode(mode, environment="dark")
    async with forwarding(path, default(fake, stopped_retry_seconds=60.0), drain_seconds=0.2) as stage:
        await stage.put(numbered(20, "dark"), env="dark")
        await wait_until(lambda: is_true(fake.begun > 0))
        for number in range(10):
            began = time.monotonic()
            await stage.put([f"light{number}"], env="light")
            await stage.until({SENT: number + 1, PENDING: 20})
            assert time.monotonic() - began < 2
    assert fake.ids() == numbered(10, "light")


async def test_a_destination_that_is_down_delays_no_other(fake: FakeInngest, path: Path) -> None:
    nobody = Destination(url="http://127.0.0.1:1", **FAST)
    async with forwarding(path, {**default(fake), "down": nobody}) as stage:
        await stage.put(numbered(20, "down"), to="down")
        await stage.put(numbered(20))
        await stage.until({SENT: 20, PENDING: 20}, seconds=5)
    assert sorted(fake.ids()) == sorted(numbered(20))


async def test_a_refused_key_stops_the_destination_with_an_alarm_and_keeps_everything(path: Path) -> None:
    async with FakeInngest(keys=("another",)) as fake, forwarding(path, default(fake, retry_hours=0.0001)) as stage:
        await stage.put(numbered(30))
        await fake.wait_for(lambda: len(fake.requests) >= 4)
        assert [seen.events for seen in list(fake.requests)[1:4]] == [1, 1, 1]
        assert [seen.status for seen in list(fake.requests)] == [401] * len(fake.requests)
        (alarm,) = stage.logged("destination.stopped")
        assert (alarm["level"], alarm["message"]) == ("error", "401 Event key not found")
        assert "event_key" in alarm["remedy"]
        assert stage.metric("destination_stopped", destination="default") == 1
        records = await stage.records()
        assert {(r.state, r.attempt) for r in records} == {(PENDING, 0)}
        assert "destination_stopped" in {r.code for r in records}

        fake.keys = ("key",)
        await stage.until({SENT: 30})
        assert len(stage.logged("destination.resumed")) == 1
        assert len(stage.logged("destination.stopped")) == 1
        assert stage.metric("destination_stopped", destination="default") == 0
        assert sorted(fake.ids()) == sorted(numbered(30))


async def test_an_event_that_alone_is_forbidden_leaves_the_next_try_to_others(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(status=403))
    async with forwarding(path, default(fake, stopped_retry_seconds=0.3)) as stage:
        await stage.put(["first"])
        await fake.wait_for(lambda: len(fake.requests) == 1)
        fake.set_mode(Mode())
        await stage.put(["second"])
        await stage.until({SENT: 2})
    assert fake.ids() == ["second", "first"]


async def test_retry_after_is_honoured(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(status=429, retry_after="1", times=1))
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(10))
        await fake.wait_for(lambda: len(fake.requests) == 1)
        await stage.put(["young"])  # nothing of the lane is sent meanwhile
        await stage.until({SENT: 11})
    first, second = fake.requests
    assert (first.status, second.status, second.events) == (429, 200, 11)
    assert 0.99 <= second.at - first.at < 4


async def test_the_window_is_72_hours_and_ends_only_what_keeps_failing(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(status=500))
    async with forwarding(path, default(fake, retry_delay_ms_max=20)) as stage:
        await stage.put(numbered(8))
        await fake.wait_for(lambda: len(fake.requests) >= 5)
        stage.clock.moved_ms = 71 * HOUR_MS
        seen = len(fake.requests)
        await fake.wait_for(lambda: len(fake.requests) >= seen + 5)
        assert {record.state for record in await stage.records()} == {PENDING}
        await stage.put(["young"])
        stage.clock.moved_ms = 73 * HOUR_MS
        await stage.until({DEAD: 8, PENDING: 1})
        assert {record.code for record in await stage.records() if record.state == DEAD} == {"retries_exhausted"}
        fake.set_mode(Mode())
        await stage.until({DEAD: 8, SENT: 1})
    assert fake.ids() == ["young"]


async def test_a_backlog_that_outlived_its_window_behind_a_stop_survives_being_slowed_down(
    fake: FakeInngest, path: Path
) -> None:
    fake.set_mode(Mode(status=401))
    async with forwarding(path, default(fake, retry_delay_ms_max=20)) as stage:
        await stage.put(numbered(8))
        await fake.wait_for(lambda: len(fake.requests) >= 2)
        stage.clock.moved_ms = 100 * HOUR_MS
        fake.set_mode(Mode(status=429, times=40))
        await stage.until({SENT: 8})
        assert not stage.logged("event.died")


async def test_a_destination_that_is_not_configured_keeps_its_events(fake: FakeInngest, path: Path) -> None:
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(5, "kept"), to="gone")
        await stage.put(numbered(5))
        await stage.until({SENT: 5, PENDING: 5})
        (line,) = stage.logged("destination.missing")
        assert (line["destination"], line["level"]) == ("gone", "error")


@pytest.mark.parametrize("count", [20, 3 * SETTLED_MAX + 1])
async def test_what_is_known_of_a_batch_outlives_trouble_in_the_store(
    fake: FakeInngest, path: Path, count: int
) -> None:
    fake.set_mode(Mode(slow=0.5, times=1))
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(count))
        await wait_until(lambda: is_true(len(fake.accepted) == count))
        foreign = sqlite3.connect(path, isolation_level=None)
        foreign.execute("BEGIN IMMEDIATE")
        await wait_until(lambda: is_true(bool(stage.logged("store.lost"))))
        foreign.execute("ROLLBACK")
        foreign.close()
        await stage.until({SENT: count})
        assert len(stage.logged("store.regained")) == 1
    assert Counter(fake.ids()) == Counter(numbered(count))


async def test_a_large_batch_is_settled_in_parts(fake: FakeInngest, path: Path) -> None:
    """Each in a transaction of its own, so that webhooks need not wait for all of it."""
    count = 3 * SETTLED_MAX + 1
    fake.set_mode(Mode(slow=0.2, times=1))
    async with forwarding(path, default(fake)) as stage:
        await stage.put(numbered(count))
        await wait_until(lambda: is_true(len(fake.accepted) == count))
        commits = stage.store.commits
        await stage.until({SENT: count})
        assert stage.store.commits - commits >= 4
    assert stage.metric("events_settled_total", destination="default", state="sent", code="ok") == count
    assert [seen.events for seen in fake.requests] == [count]


async def is_true(value: bool) -> bool:
    return value


async def test_stopping_settles_the_batch_in_flight_and_begins_no_other(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(slow=0.5))
    async with forwarding(path, default(fake, batch_events_max=10, batches_max=2)) as stage:
        await stage.put(numbered(50))
        await wait_until(lambda: is_true(len(fake.accepted) == 20))
        await stage.forwarder.stop()
        counts = (await stage.store.stats()).events
        assert (counts[SENT], counts[PENDING]) == (20, 30)
        assert len(await stage.store.claim_events("default", None, 100, 1 << 20, 30)) == 30
    assert len(fake.requests) == 2


async def test_stopping_waits_for_the_slowest_batch(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(slow=0.5, times=1))
    async with forwarding(path, default(fake, batch_events_max=10, batches_max=2)) as stage:
        await stage.put(numbered(20))
        await wait_until(lambda: is_true(len(fake.accepted) == 20 and fake.at_once == 1))
        await stage.forwarder.stop()
        assert (await stage.store.stats()).events[SENT] == 20


async def test_stopping_gives_back_what_hangs(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(hang=30))
    settings = default(fake, request_seconds=30.0, batch_events_max=10, batches_max=3)
    async with forwarding(path, settings, drain_seconds=0.2) as stage:
        await stage.put(numbered(30))
        await wait_until(lambda: is_true(fake.begun == 3))
        began = time.monotonic()
        await stage.forwarder.stop()
        assert time.monotonic() - began < 2
        claimed = await stage.store.claim_events("default", None, 100, 1 << 20, 30)
        assert {(event.id, event.attempt) for event in claimed} == {(event_id, 0) for event_id in numbered(30)}


async def test_many_lanes_at_once(fake: FakeInngest, path: Path) -> None:
    async with forwarding(path, default(fake)) as stage:
        for number in range(60):
            await stage.put(numbered(3, f"lane{number}-"), env=f"env-{number}")
        await stage.until({SENT: 180})
    assert {got.environment for got in fake.accepted} == {f"env-{number}" for number in range(60)}
    assert len(set(fake.ids())) == len(fake.ids()) == 180


async def test_a_body_is_never_larger_than_batch_bytes_max(fake: FakeInngest, path: Path) -> None:
    one = len(json.dumps({"id": "e0-0", "name": "test/x", "data": {"s": ""}, "ts": 1_800_000_000_000}))
    most = 20 * one  # what 20 events have without their brackets and commas
    async with forwarding(path, default(fake, batch_bytes_max=most, batch_wait_ms=150)) as stage:
        for number in range(10):  # also in two claims: at once, and what came within the wait
            await stage.put(numbered(9, f"e{number}-"))
        await stage.until({SENT: 90})
    sizes = [int(got.headers["Content-Length"]) for got in fake.accepted]
    assert most - one < max(sizes) <= most


async def test_a_clock_set_back_holds_up_no_lane(fake: FakeInngest, path: Path) -> None:
    fake.set_mode(Mode(status=503, times=3))
    async with forwarding(path, default(fake)) as stage:
        await stage.put(["e0"])
        await wait_until(lambda: is_true(bool(stage.logged("batch.refused"))))
        stage.clock.moved_ms = -HOUR_MS
        await stage.put(["e1"])
        await fake.wait_for(lambda: "e1" in fake.ids(), seconds=5)


async def test_many_lanes_that_hang_leave_room_for_the_others(
    fake: FakeInngest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.forwarder.LANES_MAX", 8)
    monkeypatch.setattr("relay.forwarder.TROUBLED_LANES_MAX", 4)
    async with FakeInngest() as dark:
        dark.set_mode(Mode(hang=30))
        settings = {**default(fake), "dark": Destination(url=dark.url, **{**FAST, "request_seconds": 0.6})}
        async with forwarding(path, settings, drain_seconds=0.2) as stage:
            for number in range(24):
                await stage.put(["e"], to="dark", env=f"env-{number}")
            await wait_until(lambda: is_true(dark.begun >= 24))  # each has hung once
            began = time.monotonic()
            for number in range(8):
                await stage.put([f"light{number}"])
                await stage.until({SENT: number + 1, PENDING: 24})
            assert time.monotonic() - began < 1.5
