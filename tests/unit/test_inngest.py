"""relay.inngest against a fake Inngest on a real socket: every answer, and the one Outcome per event it must become."""

from __future__ import annotations

import gzip
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from aiohttp import web

from relay.config import Destination
from relay.inngest import ANSWER_BYTES_MAX, InngestSink
from relay.models import ClaimedEvent, Dead, Outcome, Retry, Sent
from tests.support.fake_inngest import FakeInngest, Mode

KEY = "secret/key with=odd?characters"
NOW_S = 1_800_000_000.0


def claimed(number: int | str, name: str = "test/x", size: int = 0) -> ClaimedEvent:
    event_id = f"e{number}"
    text = json.dumps({"id": event_id, "name": name, "data": {"s": "x" * size}, "ts": 1_700_000_000_000})
    return ClaimedEvent(claim=1, ref=f"01A.{number}", id=event_id, json=text.encode(), attempt=0, created_ms=0)


def sink_for(url: str, *, key: str = KEY, seconds: float = 5.0) -> InngestSink:
    settings = Destination(url=url, event_key=key, request_seconds=seconds)
    return InngestSink(settings, clock_s=lambda: NOW_S)


async def send_to(url: str, events: list[ClaimedEvent], environment: str | None = None) -> list[Outcome]:
    sink = sink_for(url)
    try:
        return await sink.send(events, environment)
    finally:
        await sink.close()


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeInngest]:
    async with FakeInngest() as server:
        yield server


@asynccontextmanager
async def odd_server(status: int, body: bytes, headers: dict[str, str] | None = None) -> AsyncIterator[str]:
    """Something that is not Inngest, and what it always answers."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def codes(outcomes: list[Outcome]) -> list[str]:
    return ["sent" if isinstance(outcome, Sent) else outcome.code for outcome in outcomes]


# ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_is_one_request_and_every_event_gets_its_own_id(fake: FakeInngest) -> None:
    outcomes = await send_to(fake.url, [claimed(i) for i in range(5)])
    assert outcomes == [Sent(got.inngest_id) for got in fake.accepted]
    assert fake.ids() == ["e0", "e1", "e2", "e3", "e4"]
    assert [seen.events for seen in fake.requests] == [5]


@pytest.mark.parametrize("environment", [None, "pr-17"])
async def test_the_environment_and_the_headers(fake: FakeInngest, environment: str | None) -> None:
    await send_to(fake.url, [claimed(1)], environment)
    got = fake.accepted[0]
    assert (got.environment, got.key) == (environment, KEY)
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["User-Agent"].startswith("inngest-relay/")
    assert "Cookie" not in got.headers


async def test_no_events_are_no_request(fake: FakeInngest) -> None:
    assert await send_to(fake.url, []) == []
    assert not fake.requests


async def test_events_of_megabytes_arrive(fake: FakeInngest) -> None:
    assert codes(await send_to(fake.url, [claimed(i, size=2_000_000) for i in range(3)])) == ["sent"] * 3


# ── 400: exactly the bad ones die, every other one is accepted once ──────────────────────────────────────────────────


@pytest.mark.parametrize("bad", [{0}, {3}, {7}, {0, 7}, {2, 3, 4}, set(range(8))])
@pytest.mark.parametrize("race", [Mode(), Mode(cancel=1), Mode(cancel=3), Mode(cancel=99), Mode(cancel_holes=True)])
async def test_a_partial_400(fake: FakeInngest, bad: set[int], race: Mode) -> None:
    fake.set_mode(Mode(refuse=tuple(f"e{i}" for i in bad), cancel=race.cancel, cancel_holes=race.cancel_holes))
    outcomes = await send_to(fake.url, [claimed(i) for i in range(8)])
    assert codes(outcomes) == ["event_refused" if i in bad else "sent" for i in range(8)]
    assert sorted(fake.ids()) == [f"e{i}" for i in range(8) if i not in bad]
    ids = {got.event["id"]: got.inngest_id for got in fake.accepted}
    for i, outcome in enumerate(outcomes):
        expected = Dead("event_refused", f"refused: e{i}") if i in bad else Sent(ids[f"e{i}"])
        assert outcome == expected


async def test_random_batches_with_random_races(fake: FakeInngest) -> None:
    chance = random.Random(17)
    for round_number in range(25):
        fake.accepted.clear()
        count = chance.randrange(1, 40)
        events = [claimed(f"{round_number}-{i}") for i in range(count)]
        bad = {event.id for event in events if chance.random() < 0.15}
        fake.set_mode(Mode(refuse=tuple(bad), cancel=chance.randrange(4), cancel_holes=chance.random() < 0.3))
        outcomes = await send_to(fake.url, events)
        assert {event.id for event, o in zip(events, outcomes, strict=True) if isinstance(o, Dead)} == bad
        assert sorted(fake.ids()) == sorted(event.id for event in events if event.id not in bad)


async def test_one_bad_event_costs_few_requests(fake: FakeInngest) -> None:
    fake.set_mode(Mode(refuse=("e300",)))
    await send_to(fake.url, [claimed(i) for i in range(512)])
    assert [seen.events for seen in fake.requests] == [512, 1, 211]


async def test_the_real_rules_are_told_in_inngests_words(fake: FakeInngest) -> None:
    outcomes = await send_to(fake.url, [claimed(1), claimed(2, name="inngest/x"), claimed(3)])
    assert outcomes[1] == Dead("event_refused", "event name is reserved for internal use: inngest/x")
    assert fake.ids() == ["e1", "e3"]


async def test_a_400_for_what_inngest_could_not_publish_ends_no_event() -> None:
    broke = {"ids": [""], "status": 400, "error": "error publishing event: context canceled"}
    async with odd_server(400, json.dumps(broke).encode()) as url:
        assert codes(await send_to(url, [claimed(1), claimed(2)])) == ["destination_failing"] * 2


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Bad Request</html>",
        b"",
        b"null",
        b'"error"',
        b'{"statusCode":400,"error":"Bad Request","message":"x"}',
        b'{"error":{"message":"x"},"status":400}',
        b'{"error":"x","status":400,"ids":"none"}',
        b'{"error":"x","status":400,"ids":[1]}',
        b'{"error":"x","status":400,"ids":["a","b","c"]}',
        b"[" * 100_000,
    ],
)
async def test_a_400_that_is_not_inngests_ends_no_event(body: bytes) -> None:
    async with odd_server(400, body) as url:
        assert codes(await send_to(url, [claimed(1), claimed(2)])) == ["answer_unreadable"] * 2


async def test_a_400_without_ids_is_found_by_halving() -> None:
    requests: list[int] = []

    async def refuse_five(request: web.Request) -> web.Response:
        ids = [event["id"] for event in json.loads(await request.read())]
        requests.append(len(ids))
        if "e5" in ids:
            return web.json_response({"status": 400, "error": "no"}, status=400)
        return web.json_response({"status": 200, "ids": [f"01{i}" for i in ids]})

    app = web.Application()
    app.router.add_post("/e/{key}", refuse_five)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    outcomes = await send_to(f"http://127.0.0.1:{runner.addresses[0][1]}", [claimed(i) for i in range(64)])
    await runner.cleanup()
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Dead)] == [5]
    assert all(isinstance(outcome, Sent) for i, outcome in enumerate(outcomes) if i != 5)
    assert len(requests) == 13


# ── 413 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_413_is_split_until_it_fits_and_ends_only_what_is_too_large_alone(fake: FakeInngest) -> None:
    fake.set_mode(Mode(body_bytes_max=1000))
    events = [claimed(i, size=2000 if i == 5 else 100) for i in range(8)]
    outcomes = await send_to(fake.url, events)
    assert codes(outcomes) == ["event_too_large" if i == 5 else "sent" for i in range(8)]
    assert fake.ids() == [f"e{i}" for i in range(8) if i != 5]
    assert isinstance(outcomes[5], Dead)
    assert outcomes[5].message == "413 Event payload too large"


# ── everything else is kept ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "code", "stop"),
    [(status, "destination_stopped", True) for status in (401, 403, 404, 405, 406, 409, 410, 412, 451)]
    + [(status, "destination_busy", False) for status in (408, 425, 429)]
    + [(status, "destination_failing", False) for status in (500, 502, 503, 504, 599)],
)
async def test_statuses(fake: FakeInngest, status: int, code: str, stop: bool) -> None:
    fake.set_mode(Mode(status=status, error="because", retry_after="7"))
    outcomes = await send_to(fake.url, [claimed(1), claimed(2)])
    after = None if stop else 7.0
    assert outcomes == [Retry(code, f"{status} because", after, stop)] * 2
    assert len(fake.requests) == 1


@pytest.mark.parametrize("status", [202, 204, 206])
async def test_other_successes_are_unreadable(status: int) -> None:
    async with odd_server(status, b"") as url:
        assert codes(await send_to(url, [claimed(1)])) == ["answer_unreadable"]


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("0", 0.0),
        ("12", 12.0),
        ("999999", 3600.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("1e400", None),
        ("nan", None),
    ],
)
async def test_retry_after(fake: FakeInngest, retry_after: str, seconds: float | None) -> None:
    fake.set_mode(Mode(status=429, retry_after=retry_after))
    (outcome,) = await send_to(fake.url, [claimed(1)])
    assert isinstance(outcome, Retry)
    assert outcome.after_seconds == seconds


async def test_a_redirect_is_not_followed(fake: FakeInngest) -> None:
    async with FakeInngest() as other:
        fake.set_mode(Mode(redirect=f"{other.url}/e/{KEY}"))
        (outcome,) = await send_to(fake.url, [claimed(1)])
        assert not other.requests
    assert outcome == Retry("destination_stopped", f"307 redirect to {other.url}/e/***", None, stop=True)


@pytest.mark.parametrize(
    "mode",
    [
        Mode(text="<html>welcome</html>"),
        Mode(text="{}"),
        Mode(text='{"ids":["a"],"status":200}'),
        Mode(text='{"ids":["a",""],"status":200}'),
        Mode(text='{"ids":["a",5],"status":200}'),
        Mode(text='{"ids":["a","b","c"],"status":200}'),
        Mode(text='{"ids":["a","b"],"status":500}'),
        Mode(text='{"ids":["a","b"],"status":200' + " " * ANSWER_BYTES_MAX + "}"),
        Mode(fewer_ids=1),
    ],
)
async def test_a_200_without_one_id_per_event_is_unreadable(fake: FakeInngest, mode: Mode) -> None:
    fake.set_mode(mode)
    assert codes(await send_to(fake.url, [claimed(1), claimed(2)])) == ["answer_unreadable"] * 2


async def test_an_answer_is_never_inflated() -> None:
    async with odd_server(200, gzip.compress(b'{"ids":["a"]}'), {"Content-Encoding": "gzip"}) as url:
        assert codes(await send_to(url, [claimed(1)])) == ["answer_unreadable"]


@pytest.mark.parametrize("mode", [Mode(reset="before"), Mode(reset="after"), Mode(hang=30), Mode(slow=30)])
async def test_no_answer(fake: FakeInngest, mode: Mode) -> None:
    fake.set_mode(mode)
    sink = sink_for(fake.url, seconds=0.3)
    outcomes = await sink.send([claimed(1), claimed(2)], None)
    await sink.close()
    assert codes(outcomes) == ["destination_unreachable"] * 2


async def test_nobody_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        (outcome,) = await send_to(f"http://127.0.0.1:{closed.getsockname()[1]}", [claimed(1)])
    assert isinstance(outcome, Retry)
    assert outcome.code == "destination_unreachable"
    assert "refused" in outcome.message.lower()


@pytest.mark.parametrize("trouble", [Mode(status=503, error="later"), Mode(status=401), Mode(reset="before")])
async def test_trouble_in_the_middle_keeps_what_is_known(fake: FakeInngest, trouble: Mode) -> None:
    fake.set_mode(trouble)
    fake.set_mode(Mode(refuse=("e3",), times=2), key=KEY)
    outcomes = await send_to(fake.url, [claimed(i) for i in range(8)])
    assert codes(outcomes[:4]) == ["sent", "sent", "sent", "event_refused"]
    assert all(isinstance(outcome, Retry) for outcome in outcomes[4:])
    assert len(set(outcomes[4:])) == 1
    assert fake.ids() == ["e0", "e1", "e2"]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500])
@pytest.mark.parametrize("padding", [0, 470])  # 470: the key stands where the message is cut
async def test_the_key_is_in_no_text(fake: FakeInngest, status: int, padding: int) -> None:
    echo = f"{'x' * padding} no such page: /e/{KEY} /e/secret%2Fkey%20with%3Dodd%3Fcharacters"
    fake.set_mode(Mode(status=status, error=echo))
    (outcome,) = await send_to(fake.url, [claimed(1)])
    assert isinstance(outcome, Retry | Dead)
    assert "no such page" in outcome.message
    assert "secret" not in outcome.message
    assert len(outcome.message) <= 500
