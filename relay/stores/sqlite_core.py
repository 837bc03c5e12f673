"""What the parts of the store share: the file's one writer, its readers, the leases and the counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from relay.errors import StoreUnavailable
from relay.models import Accepted
from relay.stores.sqlite_leases import Books, LaneBook, Leases
from relay.stores.sqlite_reads import Reader
from relay.stores.sqlite_writer import Writer

CLAIM_MAX: Final = 10_000
#: What a row costs in the writer's queue beside its body.
ROW_BYTES: Final = 512


class SqliteCore:
    """`late_settlements` counts settlements whose claim was no longer held."""

    def __init__(
        self,
        path: Path,
        clock_ms: Callable[[], int],
        books: Books,
        *,
        writer: Writer | None,
        claims: Reader,
        people: Reader,
        first_claim: int,
    ) -> None:
        self.late_settlements = 0
        self._path, self._clock_ms, self._books = path, clock_ms, books
        self._writer, self._claims, self._people = writer, claims, people
        self._delivery_leases: Leases[str] = Leases(first_claim)
        self._event_leases: Leases[int] = Leases(first_claim)
        self._claiming_deliveries, self._claiming_events = asyncio.Lock(), asyncio.Lock()
        self._deliveries_changed, self._events_changed = asyncio.Event(), asyncio.Event()
        self._changed_lanes: set[int] = set()
        self._last_source = ""
        self._oldest_pending_seq = 0
        self._latest_ms = clock_ms()
        self._accepting: set[asyncio.Future[list[Accepted]]] = set()
        self._closing: asyncio.Task[None] | None = None
        if books.received_by_source:
            self._deliveries_changed.set()
        for lane in books.lanes.values():
            if lane.pending:
                self._lane_changed(lane)

    @property
    def commits(self) -> int:
        """How many transactions were committed: many operations share one."""
        return self._writer.commits if self._writer else 0

    @property
    def _owner(self) -> Writer:
        """Raises StoreUnavailable when the store cannot be written any more, or never could."""
        if self._closing is not None:
            raise StoreUnavailable("the store is closed")
        if self._writer is None:
            raise StoreUnavailable("the store was opened for reading only")
        return self._writer

    def _refuse_unless_writable(self) -> None:
        assert self._owner

    def _now_ms(self) -> int:
        """The time. When the clock was set back, what is kept in memory is set back with it."""
        now_ms = self._clock_ms()
        back_ms, self._latest_ms = self._latest_ms - now_ms, now_ms
        if back_ms > 0:
            self._delivery_leases.set_back(back_ms)
            self._event_leases.set_back(back_ms)
            for lane in self._books.lanes.values():
                lane.may_be_tried(now_ms)  # the next read finds out when really
                self._lane_changed(lane)
        return now_ms

    def _lane_changed(self, lane: LaneBook) -> None:
        """Something in the lane may be claimable, or will be at a time that is not known yet."""
        self._changed_lanes.add(lane.number)
        self._events_changed.set()


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, at the latest after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
