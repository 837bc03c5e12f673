"""The pool of sandbox children: who runs what next, and what became of it.

`processes` children may run at once; one more stands by, so that a child which hangs or dies is replaced at once and
the next standby is made in the background. Calls wait per script and are served turn by turn; in one turn a child gets
as many calls of one script as take together about two milliseconds. A script that is slow leaves the others room, and
one that timed out lately has one child at a time.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, Final

from relay import config
from relay.errors import TRANSFORM_FAILURES, ConfigError, SandboxUnavailable, TransformError
from relay.sandbox_calls import Answer, Call, Run, Stretch
from relay.sandbox_channel import COMPILE, RUN, RUN_ONCE
from relay.sandbox_faults import Fault, Script, explain
from relay.sandbox_process import (
    WRONG_ENGINE,
    ChildCrashed,
    ChildDropped,
    ChildHung,
    ChildKilled,
    ChildLost,
    ChildNotStarted,
    check_packages,
)
from relay.sandbox_turns import NEVER, Line, Standings, Turn
from relay.sandbox_worker import Child, Reply
from relay.telemetry import Telemetry

__all__ = ["Answer", "Call", "SandboxPool", "Script"]

#: A call that runs longer than this leaves its child's turn to others, in seconds.
SLOW_SECONDS: Final = 0.01
#: How long a call may wait for a child, in seconds.
QUEUE_SECONDS: Final = 30.0
#: The second crash is the script's; a SIGKILL from outside is nobody's, up to this many.
CRASHES_MAX: Final = 2
KILLS_MAX: Final = 5
#: What a script is called with to see that it compiles: nothing.
NO_CALL: Final = Call(b"", None, b"{}", None)


class SandboxPool:
    """`report` says which confinement layers are on: layer → `on…` or `unavailable: <reason>`."""

    def __init__(self, settings: config.Sandbox, telemetry: Telemetry) -> None:
        self.settings, self.telemetry = settings, telemetry
        self.report: dict[str, str] = {}
        self._without: tuple[str, ...] = ()
        self._children: list[Child] = []
        self._active: dict[Child, Turn] = {}
        self._line = Line()
        self._standings = Standings(reuse=settings.isolation == "auto")
        self._starting = 0
        self._starts: set[asyncio.Task[None]] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    async def start(self) -> None:
        """All children ready. Raises ConfigError for a wrong engine, SandboxUnavailable when no child starts."""
        check_packages()
        self._loop = asyncio.get_running_loop()
        first = await self._first_child()
        self._children.append(first)
        if not first.report.get("engine", {}).get("modern"):
            await self.close()
            raise ConfigError(WRONG_ENGINE, key="sandbox")
        self.report = {str(layer): str(state) for layer, state in first.report["layers"].items()}
        if self._without:
            self.report["seccomp"] = "unavailable: no child starts under it (SIGSYS)"
        try:
            more = [Child.start(self.settings, self, self._without) for _ in range(self.settings.processes)]
            self._children += await asyncio.gather(*more)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End every child; calls that wait get SandboxUnavailable."""
        self._closing = True
        if self._timer:
            self._timer.cancel()
        children, self._children = self._children, []
        for child in children:
            child.kill()
        turns, self._active = list(self._active.values()), {}
        for stretch in [*self._line.take_all(), *(stretch for turn in turns for stretch in turn.stretches)]:
            stretch.answer_all(SandboxUnavailable("the relay is stopping"))
        for start in self._starts:
            start.cancel()
        await asyncio.gather(*self._starts, *self._burials, return_exceptions=True)
        await asyncio.gather(*(child.wait() for child in children))

    async def run(self, script: Script, call: Call) -> bytes | TransformError | None:
        """The JSON text of what transform returned, None for null and undefined. Raises SandboxUnavailable."""
        (answer,) = await self.run_many(script, [call])
        if isinstance(answer, SandboxUnavailable):
            raise answer
        return answer

    async def run_many(self, script: Script, calls: Sequence[Call]) -> list[Answer]:
        """The answers of several calls, each judged by itself, when the last one has its own."""
        return await self._all(Run(RUN, script, calls))

    def answers(self, script: Script, calls: Sequence[Call]) -> AsyncGenerator[list[tuple[int, Answer]], None]:
        """The same as they come, several at a time where calls are quick: (place in `calls`, answer), each call once.

        Whoever goes before the end (aclose, or cancelled) gives up the calls that have no answer yet.
        """
        return self._ask(Run(RUN, script, calls))

    async def compile(self, script: Script) -> TransformError | None:
        """What is wrong with the script before any delivery: its syntax, its top level, no transform."""
        (answer,) = await self._all(Run(COMPILE, script, [NO_CALL]))
        if isinstance(answer, SandboxUnavailable):
            raise answer
        return answer if isinstance(answer, TransformError) else None

    def is_quick(self, script: Script) -> bool:
        """Whether a child is given several calls of it at once, now."""
        return self._standings.turn_calls(self._standings.of(script), self._loop.time()) > 1

    async def _all(self, run: Run) -> list[Answer]:
        found: list[Answer] = [None] * len(run.calls)
        async for news in self._ask(run):
            for place, answer in news:
                found[place] = answer
        return found

    async def _ask(self, run: Run) -> AsyncGenerator[list[tuple[int, Answer]], None]:
        if run.calls:
            self._wait(Stretch(run, 0, len(run.calls)))
            self._pump()
        try:
            while run.open or run.answered:
                yield await run.news()
        finally:
            if run.open:
                self._give_up(run)

    # ── answers, and children that give none ─────────────────────────────────────────────────────────────────────

    def heard(self, child: Child, replies: list[Reply]) -> None:
        """A child has answered its next calls, several at a time where they are quick."""
        turn = self._active.get(child)
        if turn is None:
            return  # its calls were given up, or are asked again
        script, stretches = turn.script, turn.stretches
        if stretches[0].operation != COMPILE:  # to compile says nothing of a call
            self._standings.remember(script, len(replies), child.used_seconds)
        answers: list[Answer] = [
            self._explain(script, reply) if isinstance(reply, Fault) else reply for reply in replies
        ]
        while answers:
            stretch = stretches[0]
            its, answers = answers[: stretch.size], answers[stretch.size :]
            stretch.run.answer(stretch.start, its)
            stretch.start += len(its)
            if stretch.start == stretch.end:
                stretches.popleft().run.tell()
        if stretches:
            stretches[0].run.tell()
        else:
            self._release(child)
        if self._line:
            self._pump()

    def lost(self, child: Child) -> None:
        """A child is gone, whoever ended it: the next one is made at once."""
        if child in self._children:
            self._children.remove(child)
            self._background(self._burials, self._bury(child))
            self._refill()

    async def _bury(self, child: Child) -> None:
        lost = await child.wait()
        turn = self._active.pop(child, None)
        if turn:
            self._ask_again(turn, lost, alone=child.unanswered == 1)
            self._pump()
        self.telemetry.sandbox_restarts.labels(lost.reason).inc()
        if lost.reason != "ended":
            file = turn.script.file if turn else None
            self.telemetry.log("child.lost", level="warning", reason=lost.reason, detail=str(lost), file=file)

    def _ask_again(self, turn: Turn, lost: ChildLost, *, alone: bool) -> None:
        """The child was at the first call, or at a later one whose answers before it were not written yet. So only a
        call that was alone is judged by what became of the child; all others are asked again.
        """
        waiting = list(turn.stretches)
        first = waiting[0].cut(1)
        answer = self._judge(first, lost, alone=alone)
        if answer is None:
            self._wait(first)
        else:
            first.answer_all(answer)
        for stretch in waiting:
            if stretch.size:
                self._wait(stretch)

    def _judge(self, first: Stretch, lost: ChildLost, *, alone: bool) -> Answer:
        """What the child's end says of the call, None when it is to be asked again."""
        script = first.run.script
        known = self._standings.of(script)
        if isinstance(lost, ChildHung):
            known.suspect(self._loop.time())
            if first.operation != RUN:
                limit = self._limit_text("script_timed_out")
                return TransformError("script_timed_out", f"{script.file}: {limit}: it {lost}")
            known.answered = NEVER  # it may have had a used context: only a fresh one makes it a fact
        elif isinstance(lost, ChildCrashed):
            known.answered = NEVER
            first.crashes += alone
            if first.crashes == CRASHES_MAX:
                return TransformError("script_crashed", f"{script.file}: ended its sandbox child twice: {lost}")
        elif isinstance(lost, ChildKilled):
            first.kills += 1
            if first.kills == KILLS_MAX:
                return SandboxUnavailable(f"{KILLS_MAX} children were killed from outside, one after another")
        elif not isinstance(lost, ChildDropped):
            return SandboxUnavailable(str(lost))
        return None

    def _give_up(self, run: Run) -> None:
        """Its caller has gone. A child that has a call of it may be anywhere in it, and is ended."""
        self._line.forget(run)
        for child, turn in list(self._active.items()):
            if any(stretch.run is run for stretch in turn.stretches):
                del self._active[child]
                child.kill(ChildDropped("another call was given up"))
                for stretch in turn.stretches:
                    if stretch.run is not run:
                        self._wait(stretch)
        self._pump()

    def _explain(self, script: Script, fault: Fault) -> TransformError:
        code = fault.code if fault.code in TRANSFORM_FAILURES else "script_crashed"
        if code == "script_timed_out":
            self._standings.of(script).suspect(self._loop.time())
        return explain(script, code, fault, self._limit_text(code))

    def _limit_text(self, code: str) -> str:
        if code == "script_timed_out":
            return f"used more than {self.settings.deadline_ms} ms"
        if code == "script_out_of_memory":
            return f"used more than {self.settings.memory_bytes_max} bytes of memory"
        return TRANSFORM_FAILURES[code]

    # ── who is served next ───────────────────────────────────────────────────────────────────────────────────────

    def _wait(self, stretch: Stretch) -> None:
        """Into the line, for so long at most."""
        if self._closing:
            stretch.answer_all(SandboxUnavailable("the relay is stopping"))
            return
        stretch.until = self._loop.time() + QUEUE_SECONDS
        self._line.add(stretch)

    def _release(self, child: Child) -> None:
        """Its turn is over: whoever waits has the next one, and the same script again only after them."""
        self._line.put_last(self._active.pop(child).script)
        surplus = len(self._children) > self.settings.processes + 1
        if child.alive and surplus and not self._line and not self._active:
            child.kill()

    def _pump(self) -> None:
        """Give free children to waiting calls, turn by turn; then see that there are enough children."""
        while (idle := self._free_children()) and (script := self._next_script()):
            self._give(idle[-1] if self._standings.of(script).is_slow else idle[0], script)
        if len(self._line) == 1:  # nobody else waits: the turn goes on
            for child, turn in list(self._active.items()):
                if child.busy_seconds < SLOW_SECONDS:
                    self._give(child, turn.script)
        self._refill()
        if self._line and self._timer is None and not self._closing:
            self._timer = self._loop.call_later(SLOW_SECONDS, self._look_again)

    def _give(self, child: Child, script: Script) -> None:
        """As many of the script's waiting calls as the child may have at once; more of them when half are answered."""
        known = self._standings.of(script)
        most = self._standings.turn_calls(known, self._loop.time())
        if not child.alive or 2 * child.unanswered > most:
            return
        for stretch in self._line.take(script, most - child.unanswered):
            turn = self._active.get(child) or self._active.setdefault(child, Turn(script))
            once = stretch.run.operation == RUN and not self._standings.may_reuse(known)
            stretch.operation = RUN_ONCE if once else stretch.run.operation
            turn.stretches.append(stretch)
            child.ask(stretch.operation, script, stretch.calls)

    def _look_again(self) -> None:
        """A call that was quick when we last looked may be slow by now, and some may have waited too long."""
        self._timer = None
        for stretch in self._line.take_late(self._loop.time()):
            stretch.answer_all(SandboxUnavailable(f"no child was free for {QUEUE_SECONDS:.0f} s"))
        self._pump()

    def _idle(self) -> list[Child]:
        return [child for child in self._children if child.alive and child not in self._active]

    def _free_children(self) -> list[Child]:
        """The idle ones, if fewer than `processes` calls are running that may be expected to end soon. The oldest comes
        first: it has contexts of the quick scripts, so one that is slow, and may end its child, is given the youngest.
        """
        idle = self._idle()
        quick = sum(
            not self._standings.of(turn.script).is_slow and child.busy_seconds < SLOW_SECONDS
            for child, turn in self._active.items()
        )
        return idle if quick < self.settings.processes else []

    def _next_script(self) -> Script | None:
        return next((script for script in self._line if self._may_run(script)), None)

    def _may_run(self, script: Script) -> bool:
        """A suspect has one child at a time. The last idle child is kept for scripts that are known to be quick."""
        mine = [child for child, turn in self._active.items() if turn.script == script]
        known = self._standings.of(script)
        if mine and known.suspect_until > self._loop.time():
            return False
        slow = known.is_slow or any(child.busy_seconds >= SLOW_SECONDS for child in mine)
        if slow and len(mine) >= self.settings.processes:
            return False
        spare = len(self._idle()) > 1 or (len(self._children) <= self.settings.processes and not self._starting)
        return spare or not slow

    def _refill(self) -> None:
        """Keep one child idle beside those at work, within twice the number that may run."""
        if self._closing:
            return
        processes = self.settings.processes
        wanted = min(max(processes, len(self._active)) + 1, 2 * processes + 1)
        for _ in range(wanted - len(self._children) - self._starting):
            self._starting += 1
            self._background(self._starts, self._start_child())

    async def _start_child(self) -> None:
        try:
            child = await Child.start(self.settings, self, self._without)
        except ChildNotStarted as error:
            self._starting -= 1
            self.telemetry.log("child.not_started", level="error", error=str(error))
            if not self._children:
                for stretch in self._line.take_all():
                    stretch.answer_all(SandboxUnavailable(f"no sandbox child starts: {error}"))
            self._loop.call_later(1.0, self._refill)
            return
        except BaseException:
            self._starting -= 1
            raise
        self._starting -= 1
        self._children.append(child)
        self._pump()

    async def _first_child(self) -> Child:
        """Where a child does not start under seccomp, go on without that layer, openly."""
        try:
            return await Child.start(self.settings, self)
        except ChildNotStarted as error:
            if error.exit_code != -signal.SIGSYS:
                raise
        self._without = ("seccomp",)
        return await Child.start(self.settings, self, self._without)

    def _background(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
