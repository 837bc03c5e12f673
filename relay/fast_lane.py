"""The common case of a webhook, without a web framework's cost: a whole, plain `POST /in/<source>`.

    bytes ──▶ plain request? ──yes──▶ Receiver.take_plain, with the others of this turn ──▶ bytes      this module
                   │ no, or not whole in time, or anything unusual
                   ▼
              aiohttp's own protocol, with all the bytes so far, and for the rest of the connection

What is taken here is a strict subset of HTTP/1.1 about which no two parsers disagree: one Content-Length, no
Transfer-Encoding, Expect or Upgrade, of Connection only keep-alive and close, no folded lines, no control characters,
no blank at a line's end. Nothing else is judged here, so the answers to everything unusual are aiohttp's in both lanes.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache
from typing import Final, Protocol, TypeAlias, cast

from msgspec import Struct

from relay.models import Request

#: A longer request, or one that is not whole after so many seconds, is aiohttp's.
REQUEST_BYTES_MAX: Final = 64 * 1024
WHOLE_SECONDS: Final = 0.2
#: More than this of what was pipelined behind a request that is being answered is not read yet.
HELD_BYTES_MAX: Final = 256 * 1024
#: How often connections are looked through for those that have been idle for too long.
SWEEP_SECONDS: Final = 5.0
#: So many requests of one turn of the event loop are taken in one go.
TURN_MAX: Final = 64

FIRST_BYTES: Final = b"POST /in/"
#: Path, the source's name, and query; one that is there but empty is aiohttp's.
FIRST_LINE: Final = re.compile(rb"POST (/in/([a-z0-9][a-z0-9._-]{0,62}))(?:\?([!-~]+))? HTTP/1\.1")
#: So many first lines are remembered, of at most this length: mostly there is one for each source.
FIRST_LINES_MAX: Final = 512
FIRST_LINE_BYTES_MAX: Final = 256
#: A whole line: its name and its value, without the blanks before it. Any other line has no name here, also one with a
#: blank at its end or a tab in its value.
HEADER_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([ -~\x80-\xff]*+)(?<![ \t])\r\n|[^\n]*\n")
NO_NAME: Final = b""
#: Headers that may come once, as they change how a request is read …
FRAMING: Final = (b"content-length", b"host", b"connection")
#: … or mean nothing twice (RFC 9110).
SINGLE: Final = (
    b"content-type",
    b"content-location",
    b"content-range",
    b"etag",
    b"max-forwards",
    b"server",
    b"user-agent",
)
ONCE: Final = frozenset((*FRAMING, *SINGLE))
#: Headers that change how a request is read in ways that the lane does not know.
UNUSUAL: Final = frozenset((NO_NAME, b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te"))
LENGTH_DIGITS_MAX: Final = 9
#: What the header Connection may say → whether the request is the last.
IS_LAST: Final = {None: False, b"keep-alive": False, b"Keep-Alive": False, b"close": True, b"Close": True}


class Plain(Struct, frozen=True, gc=False):
    """A whole plain request: `end` is where the next one begins; `last` when the sender wants the connection closed
    after the answer. `named` are the headers by their names in lower case, when none of them comes twice.
    """

    source: str
    request: Request
    end: int
    last: bool = False
    named: dict[bytes, bytes] | None = None


class Unfinished(Enum):
    """More bytes are needed."""

    UNFINISHED = "unfinished"


UNFINISHED: Final = Unfinished.UNFINISHED


def read_plain(data: bytes, headers_max: int, head_bytes_max: int) -> Plain | Unfinished | None:
    """The request at the beginning of `data`; None when it is not plain."""
    line_end = data.find(b"\r\n")
    if line_end < 0:
        begins_so = data.startswith(FIRST_BYTES[: len(data)]) and len(data) < head_bytes_max
        return UNFINISHED if begins_so and b"\n" not in data else None
    line = data[:line_end]
    first = read_first_line(line) if line_end > FIRST_LINE_BYTES_MAX else known_first_line(line)
    head_end = data.find(b"\r\n\r\n", line_end)
    if first is None or head_end > head_bytes_max:
        return None
    if head_end < 0:
        return UNFINISHED if len(data) < head_bytes_max else None
    found = HEADER_LINE.findall(data, line_end + 2, head_end + 2)
    named: dict[bytes, bytes] = {}
    for name, text in found:  # a comprehension costs a call more
        named[name.lower()] = text
    count, length = len(found), named.get(b"content-length", b"")
    if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX:
        return None
    if not named.get(b"host") or not UNUSUAL.isdisjoint(named):
        return None
    last = IS_LAST.get(named.get(b"connection"))
    if last is None or count > headers_max or (len(named) != count and not are_once(found)):
        return None
    begin = head_end + 4
    end = begin + int(length)
    if end > REQUEST_BYTES_MAX:
        return None
    if len(data) < end:
        return UNFINISHED
    source, path, query = first
    request = Request("POST", path, query, tuple(found), data[begin:end])
    return Plain(source, request, end, last, named if len(named) == count else None)


def read_first_line(line: bytes) -> tuple[str, str, str] | None:
    """Source, path and query; None for any other line."""
    found = FIRST_LINE.fullmatch(line)
    return (found[2].decode(), found[1].decode(), (found[3] or b"").decode()) if found else None


known_first_line: Final = lru_cache(FIRST_LINES_MAX)(read_first_line)


def are_once(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Does none of the headers that may come once come again?"""
    names = [lower for name, _ in headers if (lower := name.lower()) in ONCE]
    return len(names) == len(set(names))


#: A plain request, and where its sender waits for the answer.
Taken: TypeAlias = "tuple[Plain, FastConnection]"


class Lane:
    """All connections in the fast lane, and how their requests are taken: those of one turn of the event loop together.
    `take(requests, began)`, with the time.perf_counter of the first of them, sees to it that the `answer` of each one's
    connection is called once. `slow` makes aiohttp's protocol for a connection that leaves.
    """

    def __init__(
        self,
        take: Callable[[Sequence[Taken], float], None],
        header_bytes_max: int,
        headers_max: int,
        idle_seconds: float,
    ) -> None:
        self.take, self.header_bytes_max, self.headers_max = take, header_bytes_max, headers_max
        self.sweeps_max = max(1, round(idle_seconds / SWEEP_SECONDS))
        self.connections: set[FastConnection] = set()
        self.arrived: list[Taken] = []
        self.arrived_at = 0.0
        self.left = asyncio.Event()
        self.slow: Callable[[], SlowConnection]
        self.is_full: Callable[[], bool]
        self._sweeping: asyncio.TimerHandle | None = None

    def __call__(self) -> FastConnection:
        return FastConnection(self)

    def add(self, connection: FastConnection) -> None:
        self.connections.add(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self.sweep)

    def begin_turn(self) -> None:
        """The first of its requests has arrived."""
        self.arrived_at = time.perf_counter()
        asyncio.get_running_loop().call_soon(self.end_turn)

    def end_turn(self) -> None:
        """Take what has arrived since the last time."""
        arrived, self.arrived = self.arrived, []
        if arrived:
            self.take(arrived, self.arrived_at)

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        for connection in list(self.connections):
            connection.idle_sweeps += 1
            if connection.idle_sweeps > self.sweeps_max and not connection.answering:
                connection.transport.close()
        self._sweeping = None
        if self.connections:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self.sweep)

    async def drain(self) -> None:
        """For a stop: what is here is taken, what has begun goes on in aiohttp, which counts and answers it."""
        self.end_turn()
        for connection in list(self.connections):
            if connection.waiting is not None:
                connection.go_slow()
        for _ in range(3):  # until their handlers have begun
            await asyncio.sleep(0)

    async def close(self, seconds: float) -> None:
        """Close what is idle, and the rest when it is answered, within so many seconds."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self.connections):
            if not connection.answering:
                connection.transport.close()
        try:
            async with asyncio.timeout(seconds):
                while self.connections:
                    self.left.clear()
                    await self.left.wait()
        except TimeoutError:
            for connection in list(self.connections):
                connection.transport.abort()


class SlowConnection(Protocol):
    """What a connection that leaves the fast lane becomes: aiohttp's protocol."""

    def connection_made(self, transport: asyncio.BaseTransport, /) -> None: ...
    def data_received(self, data: bytes, /) -> None: ...
    def eof_received(self) -> bool: ...
    def pause_writing(self) -> None: ...
    def force_close(self) -> None: ...


class FastConnection(asyncio.Protocol):
    """A connection, as long as nothing unusual comes. One request at a time is being answered."""

    __slots__ = (
        "answering",
        "ended",
        "held",
        "idle_sweeps",
        "lane",
        "lost",
        "paused",
        "stuck",
        "task",
        "transport",
        "waiting",
    )
    transport: asyncio.Transport

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.held = b""
        self.answering = self.ended = self.lost = False
        self.paused = self.stuck = False  # stuck: an answer was written that its sender has to read first
        self.idle_sweeps = 0
        self.waiting: asyncio.TimerHandle | None = None  # for the rest of a request
        self.task: asyncio.Task[None] | None = None  # the loop itself holds tasks only weakly

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self.lane.add(self)
        if self.lane.is_full():
            self.go_slow()  # who refuses it

    def data_received(self, data: bytes) -> None:
        if self.held:
            data = self.held + data
        if not self.answering:
            self.go_on(data)
            return
        self.held = data
        if len(data) > HELD_BYTES_MAX:
            self.transport.pause_reading()

    def go_on(self, data: bytes) -> None:
        """Take the next request that is there, or wait for the rest of it, or give it all to aiohttp."""
        lane = self.lane
        found = read_plain(data, lane.headers_max, lane.header_bytes_max)
        if isinstance(found, Plain):
            if self.waiting is not None:
                self.stop_waiting()
            self.held = data[found.end :]
            self.answering = True
            lane.arrived.append((found, self))
            if len(lane.arrived) == 1:
                lane.begin_turn()
            elif len(lane.arrived) == TURN_MAX:
                lane.end_turn()
            return
        self.held = data
        if found is None:
            self.go_slow()
        elif self.ended:
            self.transport.close()  # cut short
        elif self.waiting is None:
            self.waiting = asyncio.get_running_loop().call_later(WHOLE_SECONDS, self.go_slow)

    def answer(self, text: bytes, *, last: bool = False) -> None:
        """The answer to the request that was taken; then the next one's turn comes."""
        if self.lost:
            return
        self.transport.write(text)
        if last or (self.ended and not self.held):
            self.transport.close()
        elif self.paused:
            self.stuck = True
        else:
            self.be_ready()

    def be_ready(self) -> None:
        self.answering = False
        self.idle_sweeps = 0
        if self.held:
            asyncio.get_running_loop().call_soon(self.go_on_held)

    def go_on_held(self) -> None:
        if self.lost or self.answering or self.transport.is_closing():
            return
        held, self.held = self.held, b""
        if len(held) > HELD_BYTES_MAX:
            self.transport.resume_reading()
        self.go_on(held)

    def go_slow(self) -> None:
        """From here on the connection is aiohttp's."""
        slow = self.leave()
        slow.connection_made(self.transport)
        if self.paused:
            slow.pause_writing()
        if self.held:
            slow.data_received(self.held)
        if self.ended and not slow.eof_received():
            slow.force_close()

    def leave(self) -> SlowConnection:
        slow = self.lane.slow()
        self.forget()
        self.lost = True
        self.transport.set_protocol(slow)  # type: ignore[arg-type]  # it is one
        return slow

    def stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def forget(self) -> None:
        self.stop_waiting()
        self.lane.connections.discard(self)
        self.lane.left.set()

    def pause_writing(self) -> None:
        """Who does not read answers gets no more of them."""
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.stuck:
            self.stuck = False
            self.be_ready()

    def eof_received(self) -> bool:
        self.ended = True
        return self.answering or (bool(self.held) and self.waiting is None)  # else one was cut short, or there is none

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self.forget()
