"""One sandbox child seen from the relay: started, asked, watched, killed, buried.

It is asked one thing after another, and may be asked the next before it has answered the last. Nothing that it sends is
trusted: a frame that is too long, out of turn or not what it should be ends the child.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from relay import config
from relay.sandbox_channel import (
    ERROR,
    ERROR_BYTES_MAX,
    LENGTH,
    NOTHING,
    PLACES_MAX,
    REPLY,
    RESULT,
    encode_request,
)
from relay.sandbox_faults import Script
from relay.sandbox_process import (
    ChildCrashed,
    ChildDropped,
    ChildEnded,
    ChildHung,
    ChildKilled,
    ChildLost,
    ChildNotStarted,
    ChildStarved,
    child_settings,
    describe_exit,
    spawn,
)

#: The watchdog looks this long after the deadline, in seconds: the engine's own limit comes first when it can.
GRACE_SECONDS: Final = 0.25
#: Beside the deadline, for reading the request: parsing takes 35 ns a byte at worst where this was measured.
READ_SECONDS_PER_BYTE: Final = 150e-9
#: How long a child that the machine gives no CPU time may take in all, in seconds, beside ten deadlines.
STARVED_SECONDS: Final = 5.0
READY_SECONDS: Final = 20.0
READY_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What the child answered: `kind` is one of RESULT, NOTHING, ERROR."""

    kind: int
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """One that the child was asked and has not answered. `seconds_max`: its CPU time, with that to read it."""

    number: int
    answer: asyncio.Future[Reply]
    seconds_max: float


class Child(asyncio.Protocol):
    """`alive` turns False the moment the child must not be asked any more; `lost` hears when it is gone."""

    _process: subprocess.Popen[bytes]
    _transport: asyncio.Transport

    def __init__(self, settings: config.Sandbox, lost: Callable[[Child], None]) -> None:
        self.lost = lost
        self.deadline_seconds = settings.deadline_ms / 1000
        self.frame_bytes_max = settings.output_bytes_max + REPLY.size + ERROR_BYTES_MAX
        self.loop = asyncio.get_running_loop()
        self.alive = True
        self.report: dict[str, Any] = {}
        self._buffer = bytearray()
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._ended: asyncio.Future[None] = self.loop.create_future()
        self._asked: deque[Question] = deque()  # the child is at the first one
        self._number = 0
        self._places: OrderedDict[Script, int] = OrderedDict()
        self._unsent: list[bytes] = []
        self._ending: ChildLost | None = None  # why we ended it ourselves
        self._watch: asyncio.TimerHandle | None = None
        self._began, self._began_cpu = 0.0, 0.0
        self.used_seconds = 0.0  # by each of the calls answered last: CPU time where the system tells it

    @classmethod
    async def start(
        cls, settings: config.Sandbox, lost: Callable[[Child], None], without: Collection[str] = ()
    ) -> Child:
        """A confined child that has said it is ready. Raises ChildNotStarted with what it said instead."""
        child = cls(settings, lost)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                child._process = child._spawn(theirs, child_settings(settings, without))
        except OSError as error:  # no memory, no descriptor, no process to be had
            ours.close()
            raise ChildNotStarted(f"no process: {error}", 0) from error
        try:
            child._transport, _ = await child.loop.create_connection(lambda: child, sock=ours)
            await child._be_ready()
        except BaseException:
            child._ending = child._ending or ChildEnded("not started")
            child._process.kill()
            child._process.wait()
            if hasattr(child, "_transport"):
                child._transport.abort()
                await child._ended
            ours.close()
            raise
        return child

    async def _be_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._ready
        except TimeoutError:
            self.report = {"problem": f"not ready within {READY_SECONDS:.0f} s"}
        if self.alive and "problem" not in self.report:
            return
        self.kill()
        await self.wait()
        code = self._process.returncode
        raise ChildNotStarted(str(self.report.get("problem") or describe_exit(code)), code)

    def _spawn(self, channel: socket.socket, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
        return spawn(channel, settings)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def busy_seconds(self) -> float:
        """How long the child has been at its call; 0 when it has none."""
        return self.loop.time() - self._began if self._asked else 0.0

    async def ask(self, operation: int, script: Script, *texts: str | None) -> Reply:
        """One call; the child takes it when it has answered those before. Raises a ChildLost."""
        if not self.alive:
            raise ChildDropped("ended before it was asked")
        self._number = self._number % 0xFFFFFFFF + 1
        place, text = self._place(script)
        parts = encode_request(operation, self._number, place, (text, *texts))
        seconds_max = self.deadline_seconds + READ_SECONDS_PER_BYTE * sum(map(len, parts))
        question = Question(self._number, self.loop.create_future(), seconds_max)
        self._asked.append(question)
        if len(self._asked) == 1:
            self._begin(self._cpu_seconds())
        if not self._unsent:
            self.loop.call_soon(self._send)  # with the others of the same turn
        self._unsent += parts
        try:
            return await question.answer
        except asyncio.CancelledError:
            if question in self._asked:
                self._end(ChildDropped("another call was given up"))  # the child may be anywhere in it
            raise

    def _send(self) -> None:
        parts, self._unsent = self._unsent, []
        if self.alive:
            self._transport.writelines(parts)

    def _place(self, script: Script) -> tuple[int, str | None]:
        """Where the child has the script, and its text when it has it not yet."""
        place = self._places.get(script)
        if place is not None:
            self._places.move_to_end(script)
            return place, None
        place = len(self._places)
        if place == PLACES_MAX:
            _, place = self._places.popitem(last=False)
        self._places[script] = place
        return place, script.text

    def _begin(self, cpu: float | None) -> None:
        """The child is at the first question from now on."""
        self._began, self._began_cpu = self.loop.time(), cpu or 0.0
        if self._watch:
            self._watch.cancel()
        self._watch = self.loop.call_later(self._asked[0].seconds_max + GRACE_SECONDS, self._look)

    async def wait(self) -> ChildLost:
        """Bury it and say how it ended. Only after it was killed or its channel closed."""
        await self._ended
        for _ in range(20):  # a child that closed its channel is given 0.2 s to exit by itself
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        else:
            self._ending = self._ending or ChildCrashed("closed its channel and went on")
            self._process.kill()
        code = await asyncio.to_thread(self._process.wait)
        if self._ending is None:
            self._ending = ChildKilled("SIGKILL") if code == -signal.SIGKILL else ChildCrashed(describe_exit(code))
        return self._ending

    def kill(self) -> None:
        """No answer comes any more: whoever waits for one gets ChildEnded."""
        self._end(ChildEnded("the relay ended the child"))

    def _end(self, reason: ChildLost) -> None:
        if self._ending is None:
            self._ending = reason
        self.alive = False
        self._process.kill()
        self._transport.abort()

    def _look(self) -> None:
        """The watchdog: a child that had its CPU time hangs, one that had not is given more of the clock."""
        if not self._asked:
            return
        seconds_max, waited = self._asked[0].seconds_max, self.busy_seconds
        clock = self._cpu_seconds()
        used = waited / 4 if clock is None else clock - self._began_cpu  # no clock: four deadlines of wall time
        if used >= seconds_max + GRACE_SECONDS / 2:
            self._end(ChildHung("used its time and could not be interrupted"))
        elif waited > STARVED_SECONDS + 10 * seconds_max:
            self._end(ChildStarved(f"a call had {used:.3f} s of CPU time in {waited:.1f} s"))
        else:
            self._watch = self.loop.call_later(0.05, self._look)

    def _cpu_seconds(self) -> float | None:
        """The child's CPU time so far; None where the system does not tell."""
        if sys.platform != "linux":
            return None
        try:
            return time.clock_gettime((~self._process.pid << 3) | 2)  # clock_getcpuclockid(3), as Linux makes it
        except OSError:
            return None

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        waited = len(self._asked)
        while len(buffer) >= LENGTH.size and self.alive:
            (size,) = LENGTH.unpack_from(buffer)
            if size > (self.frame_bytes_max if self._ready.done() else READY_BYTES_MAX):
                self._end(ChildCrashed("sent a frame that is too long"))
                return
            end = LENGTH.size + size
            if len(buffer) < end:
                break
            frame = bytes(buffer[LENGTH.size : end])
            del buffer[:end]
            self._take(frame)
        if answered := waited - len(self._asked):
            self._account(answered)

    def _account(self, answered: int) -> None:
        """What the calls just answered have used, each; then on to the next."""
        cpu = self._cpu_seconds()
        self.used_seconds = (self.loop.time() - self._began if cpu is None else cpu - self._began_cpu) / answered
        if self._asked:
            self._begin(cpu)
        elif self._watch:
            self._watch.cancel()

    def _take(self, frame: bytes) -> None:
        try:
            if self._ready.done():
                number, reply = decode_reply(frame)
            else:
                self.report = json.loads(frame)
                self._ready.set_result(None)
                return
        except (ValueError, struct.error) as error:
            self._end(ChildCrashed(f"sent nonsense: {error}"))
            return
        if not self._asked or number != self._asked[0].number:
            self._end(ChildCrashed("answered what was not asked"))
            return
        answer = self._asked.popleft().answer
        if not answer.done():
            answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self._ready.done():
            self._ready.set_result(None)
        if not self._ended.done():
            self._ended.set_result(None)
        if self._watch:
            self._watch.cancel()
        if self._asked:
            self._telling = self.loop.create_task(self._tell())  # the loop itself keeps only a weak reference
        self.lost(self)

    async def _tell(self) -> None:
        """Say how the child ended to whoever waits for its answer: it was at the first call, and not at the others."""
        lost = await self.wait()
        for place, question in enumerate(self._asked):
            if not question.answer.done():
                behind = place > 0 and not isinstance(lost, ChildEnded)
                question.answer.set_exception(ChildDropped("the call before it ended the child") if behind else lost)
        self._asked.clear()


def decode_reply(frame: bytes) -> tuple[int, Reply]:
    number, kind = REPLY.unpack_from(frame)
    if kind not in (RESULT, NOTHING, ERROR):
        raise ValueError(f"a reply of kind {kind}")
    return number, Reply(kind, frame[REPLY.size :].decode())
