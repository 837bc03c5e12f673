"""Who is served when: several calls of one script at once, and room for everybody else."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from relay.errors import TransformError
from relay.sandbox import SandboxPool
from relay.sandbox_channel import PLACES_MAX
from relay.sandbox_turns import CALLS_BEFORE, QUICK_SECONDS, SLOW_CALLS, TURN_CALLS_MAX, Standings
from tests.support.sandboxes import HANGS, call, outcome, sandbox, script

ECHO = "const transform = (evt) => evt"
SPIN = "const transform = (evt) => { const end = Date.now() + 60; while (Date.now() < end); return evt }"


async def flood(pool: SandboxPool, text: str, count: int) -> int:
    """So many calls at once; the most that were in one child together."""
    runs = [asyncio.create_task(outcome(pool, text)) for _ in range(count)]
    most = 0
    while not all(run.done() for run in runs):
        most = max(most, *(child.unanswered for child in pool._active), 0)
        await asyncio.sleep(0)
    assert {run.result() for run in runs} == {'{"x":1}'}
    return most


async def test_a_quick_script_has_several_calls_in_a_child() -> None:
    async with sandbox() as pool:
        assert await flood(pool, ECHO, 2) == 1  # nothing is known of it yet
        for _ in range(CALLS_BEFORE + 4):
            await outcome(pool, ECHO)
        assert 1 < await flood(pool, ECHO, 200) <= TURN_CALLS_MAX
        assert not pool._active


async def test_a_slow_script_has_one_call_in_a_child() -> None:
    async with sandbox() as pool:
        for _ in range(CALLS_BEFORE):
            await outcome(pool, SPIN)
        assert await flood(pool, SPIN, 4) == 1


async def test_one_shot_contexts_are_asked_one_by_one() -> None:
    async with sandbox(isolation="one-shot") as pool:
        for _ in range(CALLS_BEFORE + 4):
            await outcome(pool, ECHO)
        assert await flood(pool, ECHO, 50) == 1


async def test_a_slow_source_is_not_in_the_way_of_a_quick_one() -> None:
    """The quick one finds a child at once, whatever the slow one has just begun."""
    async with sandbox(processes=2, deadline_ms=1000) as pool:
        for text in (ECHO, SPIN):
            await outcome(pool, text)
        slow = [asyncio.create_task(outcome(pool, SPIN)) for _ in range(60)]
        at_once = 0
        for _ in range(30):
            await asyncio.sleep(0.005)
            quick = asyncio.create_task(outcome(pool, ECHO))
            await asyncio.sleep(0)
            at_once += any(turn.script == script(ECHO) for turn in pool._active.values())
            assert await quick == '{"x":1}'
        assert sum(run.done() for run in slow) < 60  # they were there all the time
        for run in slow:
            run.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    assert at_once >= 20  # nearly always; a machine that gives the quick one no time makes it look slow for a moment


def test_a_script_is_slow_when_many_calls_in_a_row_were_or_one_timed_out() -> None:
    standings, echo = Standings(reuse=True), script(ECHO)
    known = standings.of(echo)

    def seen() -> tuple[bool, bool]:
        """Slow; and given one call at a time."""
        return known.is_slow, standings.turn_calls(known, now=0) == 1

    def take(seconds: float, calls: int) -> tuple[bool, bool]:
        for _ in range(calls):
            standings.remember(echo, 1, seconds)
        return seen()

    assert seen() == (True, True)  # nothing is known
    assert take(QUICK_SECONDS / 10, CALLS_BEFORE) == (False, False)
    assert take(QUICK_SECONDS, SLOW_CALLS - 1) == (False, True)  # with care, though
    assert take(QUICK_SECONDS, 1) == (True, True)
    assert take(QUICK_SECONDS / 10, 1) == (False, False)
    known.suspect(now=0)
    assert seen() == (True, True)


async def test_the_child_that_has_contexts_is_not_given_to_a_script_that_may_end_it() -> None:
    async with sandbox(processes=2, deadline_ms=50) as pool:
        oldest = pool._children[0]
        for _ in range(CALLS_BEFORE + 4):
            await outcome(pool, ECHO)
        for number in range(3):
            await outcome(pool, f"{HANGS} // {number}")
        assert oldest in pool._children


async def test_turns_go_round_between_busy_scripts() -> None:
    """Of three scripts with long queues, none waits for more than a few turns of the others. How many calls its own
    turns have hangs on how long they took, which on a busy machine may be long for one of them.
    """
    async with sandbox() as pool:
        order: list[str] = []

        async def run(name: str) -> None:
            await pool.run(script(ECHO, name), call())
            order.append(name)

        names = ("a.js", "b.js", "c.js")
        for _ in range(2):  # in the first round every child makes its contexts, which takes as long as fifty calls
            order.clear()
            await asyncio.gather(*(run(name) for name in names for _ in range(600)))
            for name in names * 3:
                await run(name)
    places = {name: [place for place, each in enumerate(order) if each == name][:600] for name in names}
    all_busy = min(own[-1] for own in places.values())
    for name, own in places.items():
        between = [-1, *(place for place in own if place < all_busy), all_busy]
        assert max(after - before for before, after in pairwise(between)) <= 5 * TURN_CALLS_MAX, name


async def test_a_child_knows_more_scripts_than_it_has_places_for() -> None:
    async with sandbox() as pool:
        for turn in range(3):
            for number in range(PLACES_MAX + 5):
                mine = script(f"const transform = (e) => [e.x, {number}]", f"{number}.js")
                assert await pool.run(mine, call(f'{{"x":{turn}}}')) == f"[{turn},{number}]".encode()


async def test_a_call_that_hangs_in_a_used_context_only_is_made_again_in_a_fresh_one() -> None:
    """What the call leaves behind is tried where a next call would meet it; this cannot be interrupted."""
    text = """function transform(evt) {
      Promise.resolve().then(() => { for (;;) new Promise(() => { for (;;) {} }) });
      return evt;
    }"""
    async with sandbox(deadline_ms=50) as pool:
        for _ in range(CALLS_BEFORE + 4):
            assert await outcome(pool, text) == '{"x":1}'
        assert pool._standings.of(script(text)).answered < 0  # and no used context again


async def test_calls_behind_one_that_ends_the_child_are_answered_all_the_same() -> None:
    """The third of them hangs; the others are not blamed for it."""
    text = "function transform(e) { if (e.x === 2) for (;;) new Promise(() => { for (;;) {} }); return e }"
    async with sandbox(processes=1, deadline_ms=50) as pool:
        for _ in range(CALLS_BEFORE + 4):
            await outcome(pool, text)
        runs = [pool.run(script(text), call(f'{{"x":{number}}}')) for number in range(8)]
        results = await asyncio.gather(*runs)
    assert isinstance(results[2], TransformError)
    assert results[2].code == "script_timed_out"
    assert [result for number, result in enumerate(results) if number != 2] == [
        f'{{"x":{number}}}'.encode() for number in range(8) if number != 2
    ]
