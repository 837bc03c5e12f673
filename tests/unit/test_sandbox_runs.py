"""Several calls that are asked together: each is judged by itself, and none waits for another that hangs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import aclosing
from threading import Thread

import pytest

from relay import sandbox, sandbox_channel
from relay.errors import SandboxUnavailable, TransformError
from relay.sandbox import Answer, SandboxPool
from relay.sandbox_calls import Run, Stretch
from relay.sandbox_channel import (
    BUFFER_BYTES,
    HELD_ANSWERS_MAX,
    LENGTH,
    REPLY,
    RESULT,
    RUN,
    SIZES,
    Channel,
    add_request,
)
from relay.sandbox_turns import CALLS_BEFORE, TURN_BYTES_MAX, Line
from tests.support.sandboxes import call, outcome, script
from tests.support.sandboxes import sandbox as pool_of

ECHO = "const transform = (evt) => evt"
#: What number 3 does is put in; all others are answered at once.
THIRD = "function transform(evt) {{ if (evt.x === 3) {{ {} }} return evt }}"
HANG = "for (;;) new Promise(() => { for (;;) {} })"


def bodies(count: int) -> list[sandbox.Call]:
    return [call(f'{{"x":{number}}}') for number in range(count)]


def echoes(count: int) -> list[Answer]:
    return [f'{{"x":{number}}}'.encode() for number in range(count)]


def but_third(answers: list[Answer]) -> list[Answer]:
    return [answer for number, answer in enumerate(answers) if number != 3]


async def known(pool: SandboxPool, text: str) -> None:
    """Called so often that several calls of it are asked together."""
    for _ in range(CALLS_BEFORE + 4):
        assert await outcome(pool, text) == '{"x":1}'


@pytest.mark.parametrize("isolation", ["auto", "one-shot"])
async def test_answers_are_in_the_order_of_the_calls(isolation: str) -> None:
    async with pool_of(isolation=isolation) as pool:
        assert await pool.run_many(script(ECHO), []) == []
        for _ in range(3):
            assert await pool.run_many(script(ECHO), bodies(40)) == echoes(40)


async def test_each_call_is_judged_by_itself() -> None:
    text = THIRD.format("null.x") + "// 3 throws"
    quiet = "const transform = (evt) => evt.x === 3 ? null : evt"
    async with pool_of() as pool:
        for _ in range(2):
            answers = await pool.run_many(script(text), bodies(30))
            assert isinstance(answers[3], TransformError)
            assert (answers[3].code, answers[3].line) == ("script_raised", 1)
            assert but_third(answers) == but_third(echoes(30))
            answers = await pool.run_many(script(quiet), bodies(30))
            assert answers[3] is None
            assert but_third(answers) == but_third(echoes(30))


@pytest.mark.parametrize("way", [HANG, "for (;;) {}"])
async def test_a_call_that_hangs_takes_no_other_with_it(way: str) -> None:
    """Whatever was asked before it is told no later than its end, in whichever order children are heard."""
    text = THIRD.format(way)
    async with pool_of(processes=2, deadline_ms=1000) as pool:
        await known(pool, text)
        places: list[int] = []
        async with aclosing(pool.answers(script(text), bodies(20))) as answers:
            async for news in answers:
                places += [place for place, _ in news]
                errors = [(place, answer.code) for place, answer in news if isinstance(answer, TransformError)]
                assert errors in ([], [(3, "script_timed_out")])
        assert sorted(places) == list(range(20))
        assert [place for place in places if place <= 3] == [0, 1, 2, 3]


async def test_calls_that_turn_slow_are_no_hang() -> None:
    """The child is allowed a deadline for each of them, whatever else it was given."""
    text = """function transform(evt) {
      if (evt.x !== 1) { const end = Date.now() + 220; while (Date.now() < end); }
      return evt;
    }"""
    async with pool_of(processes=1, deadline_ms=250) as pool:
        await known(pool, text)
        children = {child.pid for child in pool._children}
        slow = [f'{{"x":{number}}}' for number in range(2, 8)]
        answers = await pool.run_many(script(text), [call(raw) for raw in slow])
        assert [answer for answer in answers if not isinstance(answer, TransformError)] == [
            raw.encode() for raw in slow
        ]
        assert {child.pid for child in pool._children} >= children


async def test_a_call_that_crashes_its_child_is_found_among_many() -> None:
    text = THIRD.format("const end = Date.now() + 1500; while (Date.now() < end) {}")
    async with pool_of(processes=1, deadline_ms=5000) as pool:
        await known(pool, text)
        run = asyncio.create_task(pool.run_many(script(text), bodies(12)))
        while not run.done():
            for child in list(pool._active):
                if child.alive and child.busy_seconds > 0.1:
                    os.kill(child.pid, signal.SIGSEGV)
            await asyncio.sleep(0.01)
        answers = run.result()
    assert isinstance(answers[3], TransformError)
    assert answers[3].code == "script_crashed"
    assert but_third(answers) == but_third(echoes(12))


async def test_children_killed_at_random_cost_no_answer_of_a_run() -> None:
    random.seed(11)
    async with pool_of(processes=2) as pool:
        await known(pool, ECHO)
        runs = [asyncio.create_task(pool.run_many(script(ECHO), bodies(200))) for _ in range(20)]
        while not all(run.done() for run in runs):
            await asyncio.sleep(0.004)
            if at_work := [child for child in pool._active if child.alive]:  # a dead one's number may be another's
                os.kill(random.choice(at_work).pid, signal.SIGKILL)
                await asyncio.sleep(0.1)
        assert [run.result() for run in runs] == [echoes(200)] * 20


async def test_a_run_that_is_given_up_costs_another_one_nothing() -> None:
    text = THIRD.format("for (;;) {}")
    async with pool_of(processes=1, deadline_ms=30_000) as pool:
        await known(pool, text)
        hanging = asyncio.create_task(pool.run_many(script(text), bodies(4)))
        good = asyncio.create_task(pool.run_many(script(text), bodies(3) * 20))
        while not any(child.busy_seconds > 0.05 for child in pool._active):
            await asyncio.sleep(0.01)
        hanging.cancel()
        async with asyncio.timeout(10):
            assert await good == echoes(3) * 20
        assert not pool._active
        assert not pool._line


async def test_a_call_waits_only_so_long_for_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "QUEUE_SECONDS", 0.2)
    async with pool_of(processes=1, deadline_ms=1500) as pool:
        hanging = script("const transform = () => { for (;;) {} }")
        runs = await pool.run_many(hanging, bodies(4))
    assert isinstance(runs[0], TransformError)
    assert any(isinstance(answer, SandboxUnavailable) and "no child was free" in str(answer) for answer in runs[1:])


async def test_answers_of_a_pool_that_closes() -> None:
    async with pool_of(processes=1, deadline_ms=5000) as pool:
        run = asyncio.create_task(pool.run_many(script("const transform = () => { for (;;) {} }"), bodies(5)))
        while not pool._active:
            await asyncio.sleep(0.01)
        await pool.close()
        assert all(isinstance(answer, SandboxUnavailable) for answer in await run)
        (late,) = await pool.run_many(script(ECHO), bodies(1))
        assert isinstance(late, SandboxUnavailable)


def test_a_turn_is_bounded_in_calls_and_in_bytes() -> None:
    line, large = Line(), call("x" * (TURN_BYTES_MAX // 3))
    small, mixed = Run(RUN, script("s"), bodies(10)), Run(RUN, script("m"), [large] * 5)
    for run in (small, mixed):
        line.add(Stretch(run, 0, len(run.calls)))
    assert [stretch.size for stretch in line.take(small.script, 4)] == [4]
    assert list(line) == [mixed.script, small.script]  # whoever had a turn comes last
    assert [stretch.size for stretch in line.take(mixed.script, 100)] == [4]
    assert [stretch.size for stretch in line.take(small.script, 100)] == [6]
    assert [(stretch.start, stretch.end) for stretch in line.take(mixed.script, 100)] == [(4, 5)]
    assert not line


# ── the child's end of the channel ───────────────────────────────────────────────────────────────────────────────


def requests(count: int, calls: int = 1) -> bytes:
    """In places of their own, by which they can be told apart."""
    parts: list[bytes] = []
    for place in range(count):
        add_request(parts, RUN, place, None, [(b"{}", None, b"{}", None)] * calls)
    return b"".join(parts)


def whole_replies(data: bytes) -> list[int]:
    """How many answers each frame has, and that they are counted on."""
    at = 0
    counts: list[int] = []
    while at < len(data):
        size, number, count = REPLY.unpack_from(data, at)
        assert number == 1 + sum(counts) or not counts
        at += LENGTH.size + size
        counts.append(count)
    assert at == len(data)
    return counts


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, Channel(theirs)


def received(ours: socket.socket) -> int:
    """How many answers can be read at this moment."""
    ours.setblocking(False)
    try:
        return sum(whole_replies(ours.recv(1 << 20)))
    except BlockingIOError:
        return 0


@pytest.mark.parametrize("calls", [1, 5])
def test_answers_are_written_together_while_requests_wait(
    ends: tuple[socket.socket, Channel], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(sandbox_channel, "HELD_SECONDS_MAX", 60.0)
    ours, channel = ends
    ours.sendall(requests((HELD_ANSWERS_MAX + 3) // calls, calls))
    seen = []
    for number in range(HELD_ANSWERS_MAX + 3):
        assert number % calls or channel.read() is not None
        channel.answer((RESULT, b"{}"))
        seen.append(received(ours))
    assert seen == [0] * (HELD_ANSWERS_MAX - 1) + [HELD_ANSWERS_MAX, 0, 0, 0]
    ours.setblocking(True)
    ours.shutdown(socket.SHUT_WR)
    assert channel.read() is None  # nothing is held when it would wait
    channel.flush()
    assert received(ours) == 3


def test_requests_that_wait_beyond_what_was_read_hold_the_answers_too(
    ends: tuple[socket.socket, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_channel, "HELD_SECONDS_MAX", 60.0)
    ours, channel = ends
    ours.sendall(requests(1))
    channel.read()
    channel.answer((RESULT, b"{}"))
    ours.sendall(requests(1))
    channel.read()
    assert received(ours) == 0
    channel.answer((RESULT, b"{}"))
    waits = Thread(target=channel.read)
    waits.start()
    ours.setblocking(True)
    assert whole_replies(ours.recv(1 << 20)) == [2]  # written before it waits
    ours.sendall(requests(1))
    waits.join()


def test_an_answer_that_took_long_is_written_at_once(
    ends: tuple[socket.socket, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_channel, "HELD_SECONDS_MAX", 0.0)
    ours, channel = ends
    ours.sendall(requests(2))
    channel.read()
    channel.answer((RESULT, b"{}"))
    assert received(ours) == 1


def test_no_answer_is_held_while_nobody_asks(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    ours.sendall(requests(1))
    channel.read()
    channel.answer((RESULT, b"{}"))
    assert received(ours) == 0
    assert channel.idle()
    assert received(ours) == 1


@pytest.mark.parametrize("cut", [1, 3, 4, 20, 40, 100])
def test_requests_that_come_in_pieces_are_read_whole(ends: tuple[socket.socket, Channel], cut: int) -> None:
    ours, channel = ends
    data = requests(3)
    ours.sendall(data[:cut])
    asked = [place_of(channel)] if cut >= len(data) // 3 else []
    ours.sendall(data[cut:])
    asked += [place_of(channel) for _ in range(3 - len(asked))]
    assert asked == [0, 1, 2]


def place_of(channel: Channel) -> int:
    """Of the next request."""
    frame = channel.read()
    assert frame is not None
    place: int = sandbox_channel.REQUEST.unpack_from(*frame)[2]
    return place


def test_a_large_request_between_small_ones(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    parts: list[bytes] = []
    bodies = (b"{}", json.dumps("x" * 2 * BUFFER_BYTES).encode(), b"{}", json.dumps("y" * 150_000).encode(), b"{}")
    for place, body in enumerate(bodies):
        add_request(parts, RUN, place, b"script", [(body, b"[]", b"{}", b"{}")])
    sends = Thread(target=ours.sendall, args=[b"".join(parts)])
    sends.start()
    for expected, body in enumerate(bodies):
        frame = channel.read()
        assert frame is not None
        data, at = frame
        _, _, place, script_bytes, calls = sandbox_channel.REQUEST.unpack_from(data, at)
        at += sandbox_channel.REQUEST.size
        sizes = SIZES.unpack_from(data, at)
        begins = at + SIZES.size + script_bytes
        assert (place, calls, sizes) == (expected, 1, (len(body), 2, 2, 2))
        assert bytes(data[begins : begins + len(body)]) == body
    sends.join()
