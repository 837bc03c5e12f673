"""One sandbox child seen from the relay: started, asked, watched, killed, buried.

It is asked many calls at once and answers them in order, several at a time. Nothing that it sends is trusted: a frame
that is too long, out of turn or not what it should be ends the child.
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
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from relay import config
from relay.sandbox_calls import Call
from relay.sandbox_channel import (
    ERROR,
    ERROR_BYTES_MAX,
    HELD_BYTES_MAX,
    LENGTH,
    NOTHING,
    PLACES_MAX,
    REPLY,
    REPLY_HEAD_BYTES_MAX,
    RESULT,
    add_request,
)
from relay.sandbox_faults import Fault, Script
from relay.sandbox_process import (
    ChildCrashed,
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
#: Requests of so many bytes together are put into one piece before they are written.
JOINED_BYTES_MAX: Final = 256 * 1024
FAULT: Final = msgspec.json.Decoder(Fault)


#: What the child answered to a call: the JSON text that transform returned, None for nothing, or what went wrong.
Reply: TypeAlias = bytes | Fault | None


class Owner(Protocol):
    """Who hears what becomes of a child."""

    def heard(self, child: Child, replies: list[Reply]) -> None:
        """Its next replies, at least one, in the order of the calls it was asked."""

    def lost(self, child: Child) -> None:
        """It is gone, with what it had not answered."""


class NonsenseError(ValueError):
    """What a child sent is not what it should be."""


class Child(asyncio.Protocol):
    """`alive` turns False the moment the child must not be asked any more."""

    _process: subprocess.Popen[bytes]
    _transport: asyncio.Transport

    def __init__(self, settings: config.Sandbox, owner: Owner) -> None:
        self.owner = owner
        self.deadline_seconds = settings.deadline_ms / 1000
        self.text_bytes_max = settings.output_bytes_max + ERROR_BYTES_MAX
        self.reply_bytes_max = REPLY_HEAD_BYTES_MAX + HELD_BYTES_MAX + self.text_bytes_max
        self.loop = asyncio.get_running_loop()
        self.alive = True
        self.report: dict[str, Any] = {}
        self._partial, self._wanted = bytearray(), 0  # a frame that is not whole yet, and how long it will be
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._ended: asyncio.Future[None] = self.loop.create_future()
        self._asked: deque[int] = deque()  # the bytes of the calls without an answer; the child is at the first one
        self._answered = 0  # calls in all
        self._places: OrderedDict[Script, int] = OrderedDict()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._ending: ChildLost | None = None  # why we ended it ourselves
        self._watch: asyncio.TimerHandle | None = None
        self._began, self._began_cpu = 0.0, 0.0
        self.used_seconds = 0.0  # by each of the calls answered last: CPU time where the system tells it

    @classmethod
    async def start(cls, settings: config.Sandbox, owner: Owner, without: Collection[str] = ()) -> Child:
        """A confined child that has said it is ready. Raises ChildNotStarted with what it said instead."""
        child = cls(settings, owner)
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
    def unanswered(self) -> int:
        """How many calls it has."""
        return len(self._asked)

    @property
    def busy_seconds(self) -> float:
        """How long the child has been at its call, or at those whose answers it has not written yet; 0 without one."""
        return self.loop.time() - self._began if self._asked else 0.0

    def ask(self, operation: int, script: Script, calls: Sequence[Call]) -> None:
        """Calls, which the child takes when it has answered those before. Only while it is alive."""
        if not self._asked:
            self._begin(self._cpu_seconds())
        if not self._unsent:
            self.loop.call_soon(self._send)  # with the others of the same turn of the loop
        sizes = add_request(self._unsent, operation, *self._place(script), calls)
        self._asked += sizes
        self._unsent_bytes += sum(sizes)

    def _send(self) -> None:
        parts, self._unsent = self._unsent, []
        size, self._unsent_bytes = self._unsent_bytes, 0
        if not self.alive:
            return
        if size <= JOINED_BYTES_MAX:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    def _place(self, script: Script) -> tuple[int, bytes | None]:
        """Where the child has the script, and its text when it has it not yet."""
        place = self._places.get(script)
        if place is not None:
            self._places.move_to_end(script)
            return place, None
        place = len(self._places)
        if place == PLACES_MAX:
            _, place = self._places.popitem(last=False)
        self._places[script] = place
        return place, script.text.encode("utf-8", "replace")

    def _begin(self, cpu: float | None) -> None:
        """The child is at the first of its calls from now on."""
        self._began, self._began_cpu = self.loop.time(), cpu or 0.0
        if self._watch is None:
            self._watch = self.loop.call_later(self._seconds_max + GRACE_SECONDS, self._look)

    @property
    def _seconds_max(self) -> float:
        """The CPU time of the call that the child is at, with that to read it."""
        return self.deadline_seconds + READ_SECONDS_PER_BYTE * (self._asked[0] if self._asked else 0)

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

    def kill(self, reason: ChildLost | None = None) -> None:
        """No answer comes any more."""
        self._end(reason or ChildEnded("the relay ended the child"))

    def _end(self, reason: ChildLost) -> None:
        if self._ending is None:
            self._ending = reason
        self.alive = False
        self._process.kill()
        self._transport.abort()

    def _look(self) -> None:
        """The watchdog: a child that had its CPU time hangs, one that had not is given more of the clock."""
        self._watch = None
        if not self._asked or not self.alive:
            return
        seconds_max, waited = self._seconds_max, self.busy_seconds
        if waited < seconds_max + GRACE_SECONDS:  # it has answered since
            self._watch = self.loop.call_later(seconds_max + GRACE_SECONDS - waited, self._look)
            return
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
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return
            data, self._partial = bytes(self._partial), bytearray()
        replies: list[Reply] = []
        problem = None
        try:
            read = self._read(data, replies)
            if read < len(data):
                self._partial += data[read:]
        except (ValueError, msgspec.DecodeError) as error:
            problem = ChildCrashed(str(error) if isinstance(error, NonsenseError) else f"sent nonsense: {error}")
        if replies:
            self._account(len(replies))
            self.owner.heard(self, replies)  # also of one that went wrong after them
        if problem is not None:
            self._end(problem)

    def _read(self, data: bytes, replies: list[Reply]) -> int:
        """Every whole frame in `data`, and how far they go. Raises ValueError or DecodeError for what is none."""
        at, have = 0, len(data)
        while have - at >= LENGTH.size:
            size = LENGTH.size + LENGTH.unpack_from(data, at)[0]
            is_ready = self._ready.done()
            if size > (self.reply_bytes_max if is_ready else READY_BYTES_MAX):
                raise NonsenseError("sent a frame that is too long")
            if have - at < size:
                self._wanted = size
                return at
            if is_ready:
                self._read_replies(data, at, at + size, replies)
            else:
                self.report = json.loads(data[at + LENGTH.size : at + size])
                self._ready.set_result(None)
            at += size
        self._wanted = LENGTH.size
        return at

    def _read_replies(self, data: bytes, at: int, end: int, replies: list[Reply]) -> None:
        """Those of one frame. What stands before one that is nonsense counts."""
        if end - at < REPLY.size:
            raise NonsenseError("sent a frame that is too short")
        _, number, count = REPLY.unpack_from(data, at)
        if not 0 < count <= len(self._asked) or number != (self._answered + 1) & 0xFFFFFFFF:
            raise NonsenseError("answered what was not asked")
        kinds_at = at + REPLY.size
        at = kinds_at + 5 * count
        if at > end:
            raise NonsenseError("sent a frame that is too short")
        sizes = struct.unpack_from(f">{count}I", data, kinds_at + count)
        if at + sum(sizes) != end or max(sizes) > self.text_bytes_max:
            raise NonsenseError("sent texts of other sizes than it said")
        for kind, size in zip(data[kinds_at : kinds_at + count], sizes, strict=True):
            text = data[at : at + size]
            replies.append(text if kind == RESULT and text.isascii() else decode_reply(kind, text))
            self._answered += 1
            self._asked.popleft()
            at += size

    def _account(self, answered: int) -> None:
        """What the calls just answered have used, each; then on to the next."""
        cpu = self._cpu_seconds()
        self.used_seconds = (self.loop.time() - self._began if cpu is None else cpu - self._began_cpu) / answered
        if self._asked:
            self._begin(cpu)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self._ready.done():
            self._ready.set_result(None)
        if not self._ended.done():
            self._ended.set_result(None)
        if self._watch:
            self._watch.cancel()
        self.owner.lost(self)


def decode_reply(kind: int, text: bytes) -> Reply:
    """Raises ValueError or DecodeError for what no child of ours sends."""
    if kind == RESULT:
        text.decode()  # must be UTF-8
        return text
    if kind == NOTHING:
        return None
    if kind == ERROR:
        return FAULT.decode(text)
    raise ValueError(f"a reply of kind {kind}")
