"""The pool of sandbox children: who runs what next, and what became of it.

`processes` children may run at once; one more stands by, so that a child which hangs or dies is replaced at once and
the next standby is made in the background. Calls wait per script and are served turn by turn; in one turn a child gets
as many calls of one script as take together about two milliseconds. A script that is slow leaves the others room, and
one that timed out lately has one child at a time.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter, OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from relay import config
from relay.errors import TRANSFORM_FAILURES, ConfigError, SandboxUnavailable, TransformError
from relay.sandbox_channel import COMPILE, ERROR, RESULT, RUN, RUN_ONCE
from relay.sandbox_faults import Fault, Script, explain
from relay.sandbox_process import (
    WRONG_ENGINE,
    ChildCrashed,
    ChildDropped,
    ChildEnded,
    ChildHung,
    ChildKilled,
    ChildNotStarted,
    ChildStarved,
    check_packages,
)
from relay.sandbox_worker import Child, Reply
from relay.telemetry import Telemetry

__all__ = ["Call", "SandboxPool", "Script"]

#: A script whose last call took less CPU time is quick, in seconds: nobody minds to wait for it.
QUICK_SECONDS: Final = 0.002
#: A call that runs longer than this leaves its child's turn to others, in seconds.
SLOW_SECONDS: Final = 0.01
#: How long a script that timed out has one child at a time, in seconds.
SUSPECT_SECONDS: Final = 60.0
#: How long a call may wait for a child, in seconds.
QUEUE_SECONDS: Final = 30.0
#: How many scripts are remembered; the others still run, but in fresh contexts, and never take the last idle child.
SCRIPTS_MAX: Final = 10_000
#: A script's first calls have fresh contexts: one that is used again costs as much to make as some twenty of them.
CALLS_BEFORE: Final = 16
NEVER: Final = -(1 << 62)
#: What a child is given in one turn, in seconds of work and in calls: it need not wait for the relay between them.
TURN_SECONDS: Final = 0.002
TURN_CALLS_MAX: Final = 8
#: The second crash is the script's; a SIGKILL from outside is nobody's, up to this many.
CRASHES_MAX: Final = 2
KILLS_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Call:
    """What transform is called with. `evt_json` None: evt is JSON.parse(raw), null when raw is no JSON."""

    raw: str
    evt_json: str | None
    headers_json: str
    query_json: str


@dataclass(slots=True)
class Standing:
    """What is known of a script: calls answered (NEVER for one that ended a child), the seconds that the last one
    took when it was quick, and until when it has one child at a time because it timed out.
    """

    answered: int = 0
    seconds: float | None = None
    suspect_until: float = 0.0


class SandboxPool:
    """`report` says which confinement layers are on: layer → `on…` or `unavailable: <reason>`."""

    def __init__(self, settings: config.Sandbox, telemetry: Telemetry) -> None:
        self.settings, self.telemetry = settings, telemetry
        self.report: dict[str, str] = {}
        self._without: tuple[str, ...] = ()
        self._children: list[Child] = []
        self._active: dict[Child, Script] = {}
        self._queue: OrderedDict[Script, deque[asyncio.Future[Child]]] = OrderedDict()
        self._given: Counter[Child] = Counter()  # calls in a child, all of one script
        self._standings: dict[Script, Standing] = {}
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
            more = [Child.start(self.settings, self._lost, self._without) for _ in range(self.settings.processes)]
            self._children += await asyncio.gather(*more)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End every child; calls that wait get SandboxUnavailable."""
        self._closing = True
        self._refuse_waiting("the relay is stopping")
        if self._timer:
            self._timer.cancel()
        children, self._children = self._children, []
        for child in children:
            child.kill()
        for start in self._starts:
            start.cancel()
        await asyncio.gather(*self._starts, *self._burials, return_exceptions=True)
        await asyncio.gather(*(child.wait() for child in children))

    async def run(self, script: Script, call: Call) -> str | TransformError | None:
        """The JSON text of what transform returned, None for null and undefined. Raises SandboxUnavailable."""
        reply = await self._ask(RUN, script, call.raw, call.evt_json, call.headers_json, call.query_json)
        if isinstance(reply, TransformError):
            return reply
        return reply.text if reply.kind == RESULT else None

    async def compile(self, script: Script) -> TransformError | None:
        """What is wrong with the script before any delivery: its syntax, its top level, no transform."""
        reply = await self._ask(COMPILE, script)
        return reply if isinstance(reply, TransformError) else None

    async def _ask(self, operation: int, script: Script, *texts: str | None) -> Reply | TransformError:
        crashes = kills = 0
        while True:
            child = await self._turn(script)
            if operation == RUN and not self._may_reuse(script):
                operation = RUN_ONCE
            try:
                reply = await child.ask(operation, script, *texts)
                self._remember(script, child.used_seconds)
                return self._judge(script, reply)
            except ChildDropped:
                continue  # it had not begun
            except ChildHung as lost:
                error = self._timed_out(script, f"{script.file}: {self._limit_text('script_timed_out')}: it {lost}")
                if operation != RUN:
                    return error
                self._standing(
                    script
                ).answered = NEVER  # it may have had a used context: only a fresh one makes it a fact
            except (ChildStarved, ChildEnded) as lost:
                raise SandboxUnavailable(str(lost)) from lost
            except ChildKilled as lost:
                kills += 1
                if kills == KILLS_MAX:
                    raise SandboxUnavailable(f"{kills} children were killed from outside, one after another") from lost
            except ChildCrashed as lost:
                self._standing(script).answered = NEVER
                crashes += 1
                if crashes == CRASHES_MAX:
                    return TransformError("script_crashed", f"{script.file}: ended its sandbox child twice: {lost}")
            finally:
                self._release(child)

    def _remember(self, script: Script, seconds: float) -> None:
        known = self._standing(script)
        known.answered += 1
        known.seconds = seconds if seconds < QUICK_SECONDS else None

    def _judge(self, script: Script, reply: Reply) -> Reply | TransformError:
        if reply.kind != ERROR:
            return reply
        try:
            fault = msgspec.json.decode(reply.text, type=Fault)
        except msgspec.DecodeError as error:
            raise ChildCrashed(f"sent an unreadable error: {error}") from error
        code = fault.code if fault.code in TRANSFORM_FAILURES else "script_crashed"
        found = explain(script, code, fault, self._limit_text(code))
        return self._timed_out(script, found) if code == "script_timed_out" else found

    def _timed_out(self, script: Script, error: TransformError | str) -> TransformError:
        self._standing(script).suspect_until = self._loop.time() + SUSPECT_SECONDS
        return TransformError("script_timed_out", error) if isinstance(error, str) else error

    def _limit_text(self, code: str) -> str:
        if code == "script_timed_out":
            return f"used more than {self.settings.deadline_ms} ms"
        if code == "script_out_of_memory":
            return f"used more than {self.settings.memory_bytes_max} bytes of memory"
        return TRANSFORM_FAILURES[code]

    async def _turn(self, script: Script) -> Child:
        """Wait for a place in a child, held until _release."""
        if self._closing:
            raise SandboxUnavailable("the relay is stopping")
        turn: asyncio.Future[Child] = self._loop.create_future()
        self._queue.setdefault(script, deque()).append(turn)
        self._pump()
        if turn.done():
            return turn.result()
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release(turn.result())
            if isinstance(error, TimeoutError):
                raise SandboxUnavailable(f"no child was free for {QUEUE_SECONDS:.0f} s") from error
            raise

    def _release(self, child: Child) -> None:
        self._given[child] -= 1
        if self._given[child] == 0:
            del self._given[child]
            self._active.pop(child, None)
        surplus = len(self._children) > self.settings.processes + 1
        if self._queue:
            self._pump()
        elif child.alive and surplus and not self._active:
            child.kill()

    def _pump(self) -> None:
        """Give free children to waiting calls, turn by turn; then see that there are enough children."""
        while (child := self._free_child()) and (script := self._next_script()):
            self._give(child, script)
        if len(self._queue) == 1:  # nobody else waits: the turn goes on
            for child, script in list(self._active.items()):
                if child.busy_seconds < SLOW_SECONDS:
                    self._give(child, script)
        self._refill()
        if self._queue and self._timer is None and not self._closing:
            self._timer = self._loop.call_later(SLOW_SECONDS, self._look_again)

    def _give(self, child: Child, script: Script) -> None:
        """As many of the script's waiting calls as the child may have at once."""
        turns = self._queue.get(script)
        most = self._turn_calls(script) if turns else 0
        while turns and self._given[child] < most and child.alive:
            turn = turns.popleft()
            if not turn.done():
                self._active[child] = script
                self._given[child] += 1
                turn.set_result(child)
        if turns:
            self._queue.move_to_end(script)
        elif turns is not None:
            del self._queue[script]

    def _turn_calls(self, script: Script) -> int:
        """One by one, unless the script is known to be quick and to end by itself."""
        known = self._standing(script)
        if known.seconds is None or not self._may_reuse(script) or known.suspect_until > self._loop.time():
            return 1
        return max(1, min(TURN_CALLS_MAX, int(TURN_SECONDS / max(known.seconds, 1e-6))))

    def _may_reuse(self, script: Script) -> bool:
        return self.settings.isolation == "auto" and self._standing(script).answered >= CALLS_BEFORE

    def _standing(self, script: Script) -> Standing:
        """Scripts come from the configuration, so they are few; a script too many stays unknown."""
        known = self._standings.get(script)
        if known is None:
            known = Standing()
            if len(self._standings) < SCRIPTS_MAX:
                self._standings[script] = known
        return known

    def _look_again(self) -> None:
        """A call that was quick when we last looked may be slow by now."""
        self._timer = None
        self._pump()

    def _idle(self) -> list[Child]:
        return [child for child in self._children if child.alive and child not in self._active]

    def _free_child(self) -> Child | None:
        """An idle child, if fewer than `processes` calls are running that may be expected to end soon."""
        quick = sum(
            self._standing(script).seconds is not None and child.busy_seconds < SLOW_SECONDS
            for child, script in self._active.items()
        )
        idle = self._idle()
        return idle[0] if idle and quick < self.settings.processes else None

    def _next_script(self) -> Script | None:
        return next((script for script in self._queue if self._may_run(script)), None)

    def _may_run(self, script: Script) -> bool:
        """A suspect has one child at a time. The last idle child is kept for scripts that are known to be quick."""
        mine = [child for child, running in self._active.items() if running == script]
        known = self._standing(script)
        if mine and known.suspect_until > self._loop.time():
            return False
        slow = known.seconds is None or any(child.busy_seconds >= SLOW_SECONDS for child in mine)
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
            child = await Child.start(self.settings, self._lost, self._without)
        except ChildNotStarted as error:
            self._starting -= 1
            self.telemetry.log("child.not_started", level="error", error=str(error))
            if not self._children:
                self._refuse_waiting(f"no sandbox child starts: {error}")
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
            return await Child.start(self.settings, self._lost)
        except ChildNotStarted as error:
            if error.exit_code != -signal.SIGSYS:
                raise
        self._without = ("seccomp",)
        return await Child.start(self.settings, self._lost, self._without)

    def _lost(self, child: Child) -> None:
        """A child is gone, whoever ended it: the next one is made at once."""
        if child in self._children:
            self._children.remove(child)
            self._background(self._burials, self._bury(child, self._active.get(child)))
            self._refill()

    async def _bury(self, child: Child, script: Script | None) -> None:
        lost = await child.wait()
        self.telemetry.sandbox_restarts.labels(lost.reason).inc()
        if lost.reason != "ended":
            file = script.file if script else None
            self.telemetry.log("child.lost", level="warning", reason=lost.reason, detail=str(lost), file=file)

    def _background(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _refuse_waiting(self, why: str) -> None:
        queue, self._queue = self._queue, OrderedDict()
        for turns in queue.values():
            for turn in turns:
                if not turn.done():
                    turn.set_exception(SandboxUnavailable(why))
