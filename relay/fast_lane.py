"""The common case of a webhook, without a web framework's cost: a whole, plain `POST /in/<source>` in one piece.

    bytes ──▶ plain request? ──yes──▶ Receiver.answer ──▶ bytes      this module
                   │ no, or not whole in time, or anything unusual
                   ▼
              aiohttp's own protocol, with all the bytes so far, and for the rest of the connection

What is taken here is a strict subset of HTTP/1.1 about which no two parsers disagree: one Content-Length, no
Transfer-Encoding, Expect, Upgrade or Connection header (but keep-alive), no folded lines, no control characters.
Nothing else is judged here, so the answers to everything unusual are aiohttp's in both lanes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias

from relay.connection import Connection, Connections
from relay.models import RawHeaders

#: A longer request, or one that is not whole after so many seconds, is aiohttp's.
REQUEST_BYTES_MAX: Final = 64 * 1024
WHOLE_SECONDS: Final = 0.2
#: More than this of what was pipelined behind a request that is being answered is not read yet.
HELD_BYTES_MAX: Final = 256 * 1024
#: While a request is being answered its connection is not idle.
ANSWERING_SECONDS: Final = 3600.0

FIRST_BYTES: Final = b"POST /in/"
FIRST_LINE: Final = re.compile(rb"POST (/in/([a-z0-9][a-z0-9._-]{0,62})(?:\?[!-~]*)?) HTTP/1\.1\r\n")
HEADER_LINES: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)+")
HEADER_LINE: Final = re.compile(rb"([^:\r\n]+):([^\r\n]*)\r\n")
#: Headers that change how a request is read.
READING: Final = frozenset(
    (b"content-length", b"host", b"connection", b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te")
)


@dataclass(frozen=True, slots=True)
class Plain:
    """A whole plain request: `target` is path and query, `end` is where the next one begins."""

    source: str
    target: str
    host: str
    headers: RawHeaders
    body: bytes
    end: int


class Unfinished(Enum):
    """More bytes are needed."""

    UNFINISHED = "unfinished"


UNFINISHED: Final = Unfinished.UNFINISHED
#: What answers: the request, whether this answer is to be the last → the bytes of the answer, and whether it is.
Answering: TypeAlias = Callable[[Plain], Awaitable[tuple[bytes, bool]]]


@dataclass(frozen=True, slots=True)
class Lane:
    """How plain requests are answered. While the relay stops each answer is its connection's last."""

    answer: Answering
    header_bytes_max: int
    headers_max: int
    #: Connections that wait for the rest of a request.
    waiting: set[FastConnection] = field(default_factory=set)

    async def drain(self) -> None:
        """For a stop: what has begun here goes on in aiohttp, which counts and answers it."""
        for connection in list(self.waiting):
            connection.go_slow()
        for _ in range(3):  # until their handlers have begun
            await asyncio.sleep(0)


def read_plain(data: bytes, headers_max: int, head_bytes_max: int) -> Plain | Unfinished | None:
    """The request at the beginning of `data`; None when it is not plain."""
    first = FIRST_LINE.match(data)
    if first is None:
        begins_so = data.startswith(FIRST_BYTES[: len(data)]) and len(data) < head_bytes_max
        return UNFINISHED if begins_so and b"\n" not in data else None
    head_end = data.find(b"\r\n\r\n", first.end() - 2)
    if head_end < 0:
        return UNFINISHED if len(data) < head_bytes_max else None
    if head_end > head_bytes_max or not HEADER_LINES.fullmatch(data, first.end(), head_end + 2):
        return None
    headers = tuple((name, text.strip(b" \t")) for name, text in HEADER_LINE.findall(data, first.end(), head_end + 2))
    reading = [(name.lower(), text) for name, text in headers if name.lower() in READING]
    length = plain_length(reading)
    if length is None or len(headers) > headers_max:
        return None
    begin, end = head_end + 4, head_end + 4 + length
    if end > REQUEST_BYTES_MAX:
        return None
    if len(data) < end:
        return UNFINISHED
    host = dict(reading)[b"host"].decode("utf-8", "surrogateescape")
    return Plain(first[2].decode(), first[1].decode(), host, headers, data[begin:end], end)


def plain_length(reading: list[tuple[bytes, bytes]]) -> int | None:
    """The body's length, when the headers that change the reading are one length, one host, at most a keep-alive."""
    lengths = [text for name, text in reading if name == b"content-length"]
    hosts = [text for name, text in reading if name == b"host"]
    others = [(name, text.lower()) for name, text in reading if name not in (b"content-length", b"host")]
    if len(lengths) != 1 or len(hosts) != 1 or not hosts[0] or others not in ([], [(b"connection", b"keep-alive")]):
        return None
    return int(lengths[0]) if lengths[0].isdigit() and len(lengths[0]) <= 9 else None


class FastConnection(Connection):
    """A connection that begins in the fast lane."""

    __slots__ = ("answering", "ended", "held", "lane", "slow", "task", "waiting")

    def __init__(self, server: Connections, lane: Lane, **limits: Any) -> None:
        super().__init__(server, **limits)
        self.lane = lane
        self.held = b""
        self.slow = self.answering = self.ended = False
        self.waiting: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None  # the loop itself holds tasks only weakly

    def data_received(self, data: bytes) -> None:
        if self.slow:
            super().data_received(data)
            return
        if self._force_close or self._close:
            return  # refused, or on its way out
        self.held = self.held + data if self.held else data
        if not self.answering:
            self.go_on()
        elif len(self.held) > HELD_BYTES_MAX and self.transport is not None:
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Take the next request that is held, or wait for the rest of it, or give it all to aiohttp."""
        lane = self.lane
        found = read_plain(self.held, lane.headers_max, lane.header_bytes_max)
        if found is UNFINISHED:
            if self.ended:
                self.force_close()  # cut short
            elif self.waiting is None:
                lane.waiting.add(self)
                self.waiting = self._loop.call_later(WHOLE_SECONDS, self.go_slow)
            return
        if not isinstance(found, Plain):
            self.go_slow()
            return
        self.stop_waiting()
        self.held = self.held[found.end :]
        self.answering = True
        self._next_keepalive_close_time = self._loop.time() + ANSWERING_SECONDS
        self.task = self._loop.create_task(self.answer(found))

    async def answer(self, plain: Plain) -> None:
        try:
            text, last = await self.lane.answer(plain)
        except BaseException:
            self.force_close()  # nobody would ever answer
            raise
        if self.transport is not None:
            self.transport.write(text)
            with suppress(ConnectionError):
                await self._drain_helper()  # who does not read answers gets no more of them
        self.answering = False
        if self.transport is None:
            return
        if last or (self.ended and not self.held):
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if len(self.held) > HELD_BYTES_MAX:
            self.transport.resume_reading()
        if self.held:
            self.go_on()

    def go_slow(self) -> None:
        """From here on the connection is aiohttp's."""
        self.stop_waiting()
        self.slow = True
        held, self.held = self.held, b""
        super().data_received(held)
        if self.ended and not super().eof_received():
            self.force_close()

    def stop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
            self.lane.waiting.discard(self)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio reads it
        if self.slow:
            return super().eof_received()
        if self.answering:
            self.ended = True
            return True  # the answer is still wanted
        self.force_close()  # a request that was cut short, or none at all
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self.stop_waiting()
        super().connection_lost(exc)
