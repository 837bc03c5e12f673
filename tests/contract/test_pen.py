"""The Pen's contract: every sentence of relay/stores/pen.py, on every pen there is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.models import Request
from relay.stores.pen import Pen
from relay.telemetry import Telemetry
from tests.support import pen as support
from tests.support.pen import metric, names, numbered, rejected
from tests.support.store import HOUR_MS, START_MS, Clock

MIB = 1 << 20


class Steady:
    """A monotonic clock that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def steady() -> Steady:
    return Steady()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture(params=["sqlite"])
async def open_pen(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, steady: Steady, telemetry: Telemetry
) -> AsyncIterator[support.OpenPen]:
    """Opens this test's pen, again and again the same one; closes at the end what the test left open."""
    opened: list[Pen] = []

    def open_it(**settings: Any) -> Any:
        settings = {"monotonic_s": steady, "telemetry": telemetry, **settings}
        opened.append(support.open_pen(tmp_path / "data" / "rejected.db", clock, **settings))
        return opened[-1]

    yield open_it
    for pen in opened:
        await pen.close()


async def keep(pen: Pen, steady: Steady, *all_of_them: Any) -> None:
    """Each in its own second, so that the pace lets all of them in; the file has had its turn."""
    for one in all_of_them:
        assert pen.keep(one)
        steady.now_s += 10
        await pen.counts()


async def test_what_is_kept_comes_back_whole(open_pen: support.OpenPen) -> None:
    pen = open_pen()
    headers = ((b"X-Odd", b"\xff\x00\t"), (b"X-Odd", "é".encode()), (b"x-hub-signature", b"sha1=0"))
    request = Request("POST", "/in/g\udcff", "a=\udcff&b", headers, bytes(range(256)))
    one = rejected("01A", request=request, url="https://x/\udcff", detail="bad \udcff", skew_seconds=-7.5)
    assert pen.keep(one)
    found = await pen.get("01A")
    assert found is not None
    assert (found.request, found.url, found.detail) == (request, one.url, one.detail)
    assert (found.source, found.code, found.received_ms) == ("github", "signature_mismatch", START_MS)
    assert found.skew_seconds == -7.5
    assert (found.body_bytes, found.body_kept) == (256, True)
    assert await pen.get("01B") is None


async def test_an_empty_pen_is_empty(open_pen: support.OpenPen, tmp_path: Path) -> None:
    pen = open_pen()
    assert (await pen.list_rejected(), await pen.get("x"), await pen.remove(["x"]), await pen.counts()) == (
        [],
        None,
        0,
        {},
    )
    assert not (tmp_path / "data" / "rejected.db").exists(), "no file before there is something to keep"


async def test_lists_are_newest_first_filtered_and_without_bodies(open_pen: support.OpenPen) -> None:
    pen = open_pen()
    for number in range(6):
        pen.keep(numbered(number, source="ab"[number % 2], code=("signature_missing", "timestamp_stale")[number // 3]))
    everything = await pen.list_rejected()
    assert names(everything) == [numbered(number).id for number in (5, 4, 3, 2, 1, 0)]
    assert {record.request for record in everything} == {None}
    assert names(await pen.list_rejected(source="a")) == [numbered(number).id for number in (4, 2, 0)]
    assert names(await pen.list_rejected(code="timestamp_stale", source="b")) == [numbered(5).id, numbered(3).id]
    assert await pen.list_rejected(source="c") == []
    assert await pen.counts() == {"a": 3, "b": 3}


async def test_pages_follow_each_other_even_when_the_cursor_is_gone(open_pen: support.OpenPen) -> None:
    pen = open_pen()
    for number in range(5):
        pen.keep(numbered(number))
    page = await pen.list_rejected(limit=2)
    assert names(page) == [numbered(4).id, numbered(3).id]
    assert names(await pen.list_rejected(before=page[-1].id, limit=2)) == [numbered(2).id, numbered(1).id]
    assert await pen.remove([page[-1].id]) == 1
    assert names(await pen.list_rejected(before=page[-1].id, limit=9)) == [numbered(number).id for number in (2, 1, 0)]


async def test_removed_ones_are_gone_and_counted(open_pen: support.OpenPen) -> None:
    pen = open_pen()
    for number in range(3):
        pen.keep(numbered(number))
    assert await pen.remove([numbered(0).id, numbered(2).id, "nobody", numbered(0).id]) == 2
    assert names(await pen.list_rejected()) == [numbered(1).id]
    assert await pen.counts() == {"github": 1}


async def test_the_oldest_of_the_same_source_go_when_there_are_too_many(open_pen: support.OpenPen) -> None:
    pen = open_pen(count_max=3)
    pen.keep(numbered(0, source="stripe"))
    for number in range(1, 8):
        assert pen.keep(numbered(number))
    assert names(await pen.list_rejected(source="github")) == [numbered(number).id for number in (7, 6, 5)]
    assert names(await pen.list_rejected(source="stripe")) == [numbered(0).id], "another source's flood"


async def test_the_oldest_of_the_same_source_go_when_they_are_too_large(
    open_pen: support.OpenPen, steady: Steady
) -> None:
    pen = open_pen(bytes_max=100_000)
    await keep(pen, steady, numbered(0, source="stripe", body=b"x" * 90_000))
    await keep(pen, steady, *(numbered(number, body=b"x" * 30_000) for number in range(1, 6)))
    assert names(await pen.list_rejected(source="github")) == [numbered(number).id for number in (5, 4, 3)]
    await keep(pen, steady, numbered(6, body=b"x" * 95_000))
    assert names(await pen.list_rejected(source="github")) == [numbered(6).id]
    assert names(await pen.list_rejected(source="stripe")) == [numbered(0).id]


async def test_headers_and_urls_count_too(open_pen: support.OpenPen, steady: Steady) -> None:
    pen = open_pen(bytes_max=100_000)
    headers = ((b"X-Long", b"y" * 20_000),)
    await keep(pen, steady, *(numbered(number, headers=headers) for number in range(5)))
    assert names(await pen.list_rejected()) == [numbered(4).id, numbered(3).id]


async def test_what_is_too_old_is_not_seen_any_more(open_pen: support.OpenPen, clock: Clock) -> None:
    pen = open_pen(hours=2)
    pen.keep(numbered(1, received_ms=START_MS))
    pen.keep(numbered(2, received_ms=START_MS + HOUR_MS))
    clock.now_ms = START_MS + 2 * HOUR_MS + 1
    assert names(await pen.list_rejected()) == [numbered(2).id]
    assert await pen.get(numbered(1).id) is None
    assert await pen.counts() == {"github": 1}
    pen.keep(numbered(3, received_ms=clock.now_ms))  # with it the old one leaves the file, too
    assert names(await pen.list_rejected()) == [numbered(3).id, numbered(2).id]
    clock.now_ms = START_MS
    assert names(await pen.list_rejected()) == [numbered(3).id, numbered(2).id]


async def test_a_request_over_the_bytes_is_kept_without_its_body(
    open_pen: support.OpenPen, telemetry: Telemetry
) -> None:
    pen = open_pen(bytes_max=50_000)
    assert pen.keep(numbered(1, body=b"x" * 60_000))
    found = await pen.get(numbered(1).id)
    assert found is not None
    assert found.request is not None
    assert (found.body_bytes, found.body_kept, found.request.body) == (60_000, False, b"")
    assert found.request.headers == numbered(1).request.headers
    assert not pen.keep(numbered(2, headers=((b"X", b"x" * 60_000),))), "no room for the headers either"
    assert metric(telemetry, "relay_rejected_dropped_total", reason="size") == 1


async def test_all_of_it_is_there_after_a_restart(open_pen: support.OpenPen) -> None:
    pen = open_pen(count_max=5)
    for number in range(4):
        pen.keep(numbered(number))
    await pen.close()
    await pen.close()
    assert not pen.keep(numbered(9)), "it is closed"
    again = open_pen(count_max=5)
    assert names(await again.list_rejected()) == [numbered(number).id for number in (3, 2, 1, 0)]
    for number in range(4, 7):
        again.keep(numbered(number))
    assert names(await again.list_rejected()) == [numbered(number).id for number in (6, 5, 4, 3, 2)]


async def test_limits_that_were_lowered_hold_at_the_next_start(open_pen: support.OpenPen) -> None:
    pen = open_pen()
    for number in range(8):
        pen.keep(numbered(number, source="ab"[number % 2]))
    await pen.close()
    again = open_pen(count_max=2)
    assert names(await again.list_rejected()) == [numbered(number).id for number in (7, 6, 5, 4)]


@pytest.mark.parametrize("nothing", [{"count_max": 0}, {"bytes_max": 0}, {"hours": 0.0}])
async def test_a_limit_of_0_keeps_nothing(open_pen: support.OpenPen, tmp_path: Path, nothing: dict[str, Any]) -> None:
    pen = open_pen()
    pen.keep(numbered(1))
    await pen.close()
    none = open_pen(**nothing)
    assert not none.keep(numbered(2))
    assert await none.list_rejected() == []
    assert not (tmp_path / "data" / "rejected.db").exists()


async def test_every_source_has_its_own_pace(open_pen: support.OpenPen, steady: Steady, telemetry: Telemetry) -> None:
    pen = open_pen(count_max=10_000)
    assert sum(pen.keep(numbered(number)) for number in range(500)) == 100
    assert pen.keep(numbered(500, source="stripe"))
    steady.now_s += 1
    assert sum(pen.keep(numbered(number)) for number in range(501, 600)) == 20
    assert await pen.counts() == {"github": 120, "stripe": 1}
    assert metric(telemetry, "relay_rejected_dropped_total", source="github", reason="rate") == 400 + 79
    assert metric(telemetry, "relay_rejected_kept_total", source="github") == 120


async def test_bytes_have_their_pace_too(open_pen: support.OpenPen, steady: Steady) -> None:
    pen = open_pen()
    assert sum(pen.keep(numbered(number, body=b"x" * MIB)) for number in range(50)) == 4
    assert pen.keep(numbered(99, source="stripe", body=b"x" * MIB))
    steady.now_s += 1
    assert sum(pen.keep(numbered(number, body=b"x" * MIB)) for number in range(50, 60)) == 2


async def test_a_flood_costs_nothing(open_pen: support.OpenPen, telemetry: Telemetry) -> None:
    """50,000 in a row, of real time: the one other source gets its place, and the loop is never held up."""
    pen = open_pen(monotonic_s=time.monotonic, count_max=10_000)
    one, longest, began = numbered(0, body=b"x" * 10_000), 0.0, time.perf_counter()
    for _ in range(50):
        step = time.perf_counter()
        for _ in range(1000):
            pen.keep(one)
        longest = max(longest, time.perf_counter() - step)
        await asyncio.sleep(0)
    assert time.perf_counter() - began < 5
    assert longest < 1, "1,000 of them"
    assert pen.keep(numbered(1, source="stripe"))
    assert await pen.counts() == {"github": 1, "stripe": 1}
    offered = metric(telemetry, "relay_rejected_kept_total") + metric(telemetry, "relay_rejected_dropped_total")
    assert offered == 50_001, "each is counted, once"


async def test_what_waits_is_shared_between_sources(open_pen: support.OpenPen, telemetry: Telemetry) -> None:
    """100 MB of each offered at once: what does not fit is dropped, and the next source still gets a place."""
    pen = open_pen(bytes_max=64 * MIB)
    for source in "abcd":
        for number in range(100):
            pen.keep(numbered(number, id=f"{source}{number}", source=source, body=b"x" * MIB))
    kept = await pen.counts()
    assert set(kept) == set("abcd")
    assert kept["a"] < 64, "a flood of one takes no more than its part of the memory"
    assert metric(telemetry, "relay_rejected_dropped_total", source="a", reason="queue") > 0
    total = metric(telemetry, "relay_rejected_kept_total") + metric(telemetry, "relay_rejected_dropped_total")
    assert total == 4 * 100
