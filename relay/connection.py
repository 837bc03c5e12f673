"""The public listener's connections: what the HTTP library would answer by itself is answered in our form.

Bytes that are no HTTP, and headers too large to be read, never become a request; the library's own answer to them is
a page of text that quotes them. A sender that has gone is no error; one that has only ended its sending is not gone.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from aiohttp import web
from aiohttp.http import HttpProcessingError, RawRequestMessage

from relay.fast_lane import Lane

Refuse: TypeAlias = Callable[[BaseException | None], web.Response]

#: Each connection is an open file. So many are asked for, where the system allows it …
FILES_WANTED: Final = 65_536
#: … and so many are left to the store, the sandbox, the sinks and the operator when strangers have taken the rest.
FILES_RESERVED: Final = 192
BACKLOG_MAX: Final = 1024
#: So many of those that wait are accepted in one turn of the event loop. With one a turn, as it is by itself, a new
#: sender waits behind all the requests of those who are there, and of those who connect for each request no two are
#: ever taken together.
ACCEPTS_MAX: Final = 8


class TooManyConnections(Exception):
    """The files that strangers may have are all taken."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections may be open, and how many may wait to be accepted."""

    connections: int
    backlog: int


class Connection(web.RequestHandler):
    """One sender's connection."""

    __slots__ = ("refuse", "server")

    def __init__(self, server: Connections, **limits: Any) -> None:
        super().__init__(server, **limits)
        self.server, self.refuse = server, server.refuse

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.server.is_full():
            self.refuse(TooManyConnections(f"{self.server.room.connections} connections are open"))
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """A body that turns out malformed on the way is refused at once, not when its time is up."""
        super().data_received(data)
        request = self._current_request
        if request is not None and self._messages and not request.content.is_eof():
            unread = self._messages[-1][0]
            if not isinstance(unread, RawRequestMessage):
                request.content.set_exception(unread.exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what could not be read. Raises ConnectionError when nobody is left to answer."""
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("half of an answer is sent already")
        return self.refuse(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio reads it
        """True keeps the connection for the answer to a request that came whole before its sender ended sending."""
        if self._waiter is not None and not self._waiter.done():
            return False  # nothing is being answered
        try:
            if self._parser is not None:
                self._parser.feed_eof()
        except HttpProcessingError:
            return False  # cut short in the middle of a body
        self.close()
        return True


class Connections(web.Server):
    """The library's server with our connections, which begin in the fast lane when there is one."""

    def __init__(self, server: web.Server, refuse: Refuse, room: Room, lane: Lane | None) -> None:
        super().__init__(server.request_handler, request_factory=server.request_factory, **server._kwargs)
        self.refuse, self.room, self.lane = refuse, room, lane
        if lane is not None:
            lane.slow, lane.is_full = self.slow, self.is_full

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]  # all that asyncio wants
        return self.slow() if self.lane is None else self.lane()

    def slow(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)

    def is_full(self) -> bool:
        fast = len(self.lane.connections) if self.lane else 0
        return len(self.connections) + fast > self.room.connections

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the library's
        if self.lane is not None:
            await self.lane.close(timeout or 0)
        await super().shutdown(timeout)


class PublicRunner(web.AppRunner):
    """Runs an application for strangers."""

    __slots__ = ("lane", "refuse", "room")

    def __init__(
        self, app: web.Application, refuse: Refuse, room: Room, lane: Lane | None = None, **limits: Any
    ) -> None:
        super().__init__(app, **limits)
        self.refuse, self.room, self.lane = refuse, room, lane

    async def _make_server(self) -> web.Server:
        return Connections(await super()._make_server(), self.refuse, self.room, self.lane)


def find_room(files: int) -> Room:
    """The room among so many files. All that wait are accepted at once, three times over before the first is closed."""
    backlog = min(BACKLOG_MAX, files // 16)
    return Room(max(files // 4, files - FILES_RESERVED - 3 * backlog), backlog)


def raise_files_limit() -> int:
    """How many files this process may have open, after asking for as many as are wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
