"""The common case of a webhook, without a web framework's cost: a whole, plain `POST /in/<source>`.

    bytes ──▶ plain request? ──yes──▶ Receiver.take_plain, with the others of this turn ──▶ bytes      this module
                   │ no, or not whole in time, or anything unusual
                   ▼
              aiohttp's own protocol, with all the bytes so far, and for the rest of the connection

What is plain stands in `relay.plain`. Nothing else is judged here, so the answers to everything unusual are aiohttp's
in both lanes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, cast

from relay.compiled import read_plain
from relay.plain import Plain

#: A request that is not whole after so many seconds is aiohttp's, as one longer than REQUEST_BYTES_MAX is.
WHOLE_SECONDS: Final = 0.2
#: More than this of what was pipelined behind a request that is being answered is not read yet.
HELD_BYTES_MAX: Final = 256 * 1024
#: How often connections are looked through for those that have been idle for too long.
SWEEP_SECONDS: Final = 5.0
#: So many requests of one turn of the event loop are taken in one go.
TURN_MAX: Final = 64

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
