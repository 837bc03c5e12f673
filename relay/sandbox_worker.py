"""One sandbox child seen from the relay: started, asked one thing at a time, watched, killed, buried.

Nothing the child sends is trusted: a frame that is too long, out of turn or not what it should be ends the child.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final

from relay import config, sandbox_child
from relay.errors import ConfigError, SandboxUnavailable

#: The watchdog looks this long after the deadline, in seconds: the engine's own limit comes first when it can.
GRACE_SECONDS: Final = 0.25
#: Beside the deadline, for reading the request: parsing takes 35 ns a byte at worst where this was measured.
READ_SECONDS_PER_BYTE: Final = 150e-9
#: How long a child that the machine gives no CPU time may take in all, in seconds, beside ten deadlines.
STARVED_SECONDS: Final = 5.0
READY_SECONDS: Final = 20.0
#: Address space beside the engine's memory: the interpreter (about 60 MiB) and a call's texts in several copies.
ADDRESS_SPACE_BYTES: Final = 320 * 1024 * 1024
READY_BYTES_MAX: Final = 64 * 1024
WRONG_ENGINE: Final = (
    "the archived package quickjs is installed and takes the place of quickjs-ng:"
    " pip uninstall quickjs quickjs-ng, then pip install quickjs-ng"
)


class ChildLost(Exception):
    """The child ended before it answered. `reason` is what counters and log lines call it."""

    reason = "ended"


class ChildEnded(ChildLost):
    """By us: not needed any more, or the relay stops."""


class ChildCrashed(ChildLost):
    """By itself: a signal, an exit, or nonsense on the channel."""

    reason = "crashed"


class ChildKilled(ChildLost):
    """By somebody else's SIGKILL: the kernel short of memory, or a person. It says nothing about the script."""

    reason = "killed"


class ChildHung(ChildLost):
    """By the watchdog: it had used its CPU time and could not be interrupted."""

    reason = "hung"


class ChildStarved(ChildLost):
    """By the watchdog: the machine gave it too little CPU time to judge it."""

    reason = "starved"


class ChildNotStarted(SandboxUnavailable):
    """`exit_code` is how it ended, negative for a signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Reply:
    """What the child answered: `kind` is one of sandbox_child.RESULT, NOTHING, ERROR."""

    kind: int
    text: str


def child_settings(settings: config.Sandbox, without: Collection[str]) -> dict[str, Any]:
    """What sandbox_child.main wants to know."""
    here = Path(__file__).resolve().parent.parent
    spec = PathFinder.find_spec("_quickjs")
    engine = Path(spec.origin).parent if spec and spec.origin else here
    return {
        "paths": [str(here), str(engine)],
        "seconds": settings.deadline_ms / 1000,
        "memory_bytes": settings.memory_bytes_max,
        "output_bytes": settings.output_bytes_max,
        "address_space_bytes": settings.memory_bytes_max * 3 + ADDRESS_SPACE_BYTES,
        "without": sorted(without),
    }


class Child(asyncio.Protocol):
    """`alive` turns False the moment the child must not be asked any more; `lost` hears when it is gone."""

    _process: subprocess.Popen[bytes]
    _transport: asyncio.Transport

    def __init__(self, settings: config.Sandbox, lost: Callable[[Child], None]) -> None:
        self.lost = lost
        self.deadline_seconds = settings.deadline_ms / 1000
        self.frame_bytes_max = settings.output_bytes_max + sandbox_child.REPLY.size + sandbox_child.ERROR_BYTES_MAX
        self.loop = asyncio.get_running_loop()
        self.alive = True
        self.report: dict[str, Any] = {}
        self._buffer = bytearray()
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._ended: asyncio.Future[None] = self.loop.create_future()
        self._answer: asyncio.Future[Reply] | None = None
        self._number = 0
        self._ending: ChildLost | None = None  # why we ended it ourselves
        self._watch: asyncio.TimerHandle | None = None
        self._began, self._began_cpu, self._seconds_max = 0.0, 0.0, 0.0
        self.used_seconds = 0.0  # of the last call that was answered: CPU time where the system tells it

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
                child._process = child._spawn(theirs, json.dumps(child_settings(settings, without)))
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

    def _spawn(self, channel: socket.socket, settings: str) -> subprocess.Popen[bytes]:
        """From the event loop's own thread: the kernel ends the child with the thread that started it."""
        program = str(Path(sandbox_child.__file__).resolve())
        return subprocess.Popen(  # noqa: S603 our own program with our own settings
            [sys.executable, "-I", "-S", "-B", program, settings],
            stdin=channel.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"TZ": "UTC"},
            cwd="/",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def busy_seconds(self) -> float:
        """How long the call now in the child has been there; 0 when there is none."""
        return 0.0 if self._answer is None else self.loop.time() - self._began

    async def ask(self, operation: int, script: str, *texts: str | None) -> Reply:
        """One call; the child takes no other meanwhile. Raises a ChildLost."""
        assert self._answer is None
        self._number = self._number % 0xFFFFFFFF + 1
        self._answer = self.loop.create_future()
        self._began, self._began_cpu = self.loop.time(), self._cpu_seconds() or 0.0
        parts = encode_request(operation, self._number, (script, *texts))
        self._seconds_max = self.deadline_seconds + READ_SECONDS_PER_BYTE * sum(map(len, parts))
        self._transport.writelines(parts)
        self._watch = self.loop.call_later(self._seconds_max + GRACE_SECONDS, self._look)
        try:
            reply = await self._answer
            cpu = self._cpu_seconds()
            self.used_seconds = self.busy_seconds if cpu is None else cpu - self._began_cpu
            return reply
        except asyncio.CancelledError:
            self.kill()  # it may be anywhere in the call
            raise
        finally:
            self._answer = None
            self._watch.cancel()

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
        self._end(ChildEnded("the relay ended the child"))

    def _end(self, reason: ChildLost) -> None:
        if self._ending is None:
            self._ending = reason
        self.alive = False
        self._process.kill()
        self._transport.abort()

    def _look(self) -> None:
        """The watchdog: a child that had its CPU time hangs, one that had not is given more of the clock."""
        waited = self.loop.time() - self._began
        clock = self._cpu_seconds()
        used = waited / 4 if clock is None else clock - self._began_cpu  # no clock: four deadlines of wall time
        if used >= self._seconds_max + GRACE_SECONDS / 2:
            self._end(ChildHung("used its time and could not be interrupted"))
        elif waited > STARVED_SECONDS + 10 * self._seconds_max:
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
        while len(buffer) >= sandbox_child.LENGTH.size and self.alive:
            (size,) = sandbox_child.LENGTH.unpack_from(buffer)
            if size > (self.frame_bytes_max if self._ready.done() else READY_BYTES_MAX):
                self._end(ChildCrashed("sent a frame that is too long"))
                return
            end = sandbox_child.LENGTH.size + size
            if len(buffer) < end:
                return
            frame = bytes(buffer[sandbox_child.LENGTH.size : end])
            del buffer[:end]
            self._take(frame)

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
        if self._answer is None or self._answer.done() or number != self._number:
            self._end(ChildCrashed("answered what was not asked"))
        else:
            self._answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self._ready.done():
            self._ready.set_result(None)
        if not self._ended.done():
            self._ended.set_result(None)
        if self._answer is not None and not self._answer.done():
            task = self.loop.create_task(self._tell())
            self._telling = task  # the loop itself keeps only a weak reference
        self.lost(self)

    async def _tell(self) -> None:
        """Say how the child ended to whoever waits for its answer."""
        lost = await self.wait()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(lost)


def decode_reply(frame: bytes) -> tuple[int, Reply]:
    number, kind = sandbox_child.REPLY.unpack_from(frame)
    if kind not in (sandbox_child.RESULT, sandbox_child.NOTHING, sandbox_child.ERROR):
        raise ValueError(f"a reply of kind {kind}")
    return number, Reply(kind, frame[sandbox_child.REPLY.size :].decode())


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def encode_request(operation: int, number: int, texts: tuple[str | None, ...]) -> list[bytes]:
    """The frame in parts: length, header, then up to five texts."""
    parts = [None if text is None else text.encode("utf-8", "replace") for text in (*texts, *[None] * (5 - len(texts)))]
    sizes = [sandbox_child.ABSENT if part is None else len(part) for part in parts]
    body = [part for part in parts if part]
    header = sandbox_child.REQUEST.pack(operation, number, *sizes)
    length = sandbox_child.LENGTH.pack(len(header) + sum(map(len, body)))
    return [length, header, *body]


def check_packages() -> None:
    """Refuse to start on the archived engine. Raises ConfigError.

    The packages `quickjs` (archived, known memory errors) and `quickjs-ng` install modules of the same names; with
    both present the archived engine runs without a word.
    """
    installed = {
        str(found.metadata["Name"] or "").lower().replace("_", "-") for found in importlib.metadata.distributions()
    }
    if "quickjs" in installed:
        raise ConfigError(WRONG_ENGINE)
    if PathFinder.find_spec("_quickjs") is None:
        raise ConfigError("the JavaScript engine is not installed: pip install quickjs-ng")
