"""What the parts of the store share: the file's one writer, its readers, the leases and the counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from relay.errors import StoreUnavailable
from relay.models import Delivery
from relay.stores.sqlite_books import Books
from relay.stores.sqlite_feeds import Feed, LaneFeed, OpenEvent
from relay.stores.sqlite_leases import Leases
from relay.stores.sqlite_marks import MARK_EVERY, write_marks
from relay.stores.sqlite_reads import Reader
from relay.stores.sqlite_writer import Writer

#: What one claim takes at most, in rows and in bytes.
CLAIM_MAX: Final = 10_000
CLAIM_BYTES_MAX: Final = 16 * 1024 * 1024
#: A feed that is behind is read this far ahead of what is asked for, in rows and in bytes.
AHEAD_MAX: Final = 256
AHEAD_BYTES_MAX: Final = 1024 * 1024

K = TypeVar("K")
T = TypeVar("T")


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
        self._delivery_leases: Leases[Delivery] = Leases(first_claim)
        self._event_leases: Leases[OpenEvent] = Leases(first_claim)
        self._reading_deliveries, self._reading_events = asyncio.Lock(), asyncio.Lock()
        self._deliveries_changed, self._events_changed = asyncio.Event(), asyncio.Event()
        self._changed_lanes: set[int] = set()
        self._last_source = ""
        self._unmarked = 0
        self._latest_ms = clock_ms()
        self._closing: asyncio.Task[None] | None = None
        if books.received_by_source:
            self._deliveries_changed.set()
        for lane in books.lanes.values():
            if lane.open:
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
                lane.may_be_retried(now_ms)  # the next read finds out when really
                self._lane_changed(lane)
        return now_ms

    def _lane_changed(self, lane: LaneFeed) -> None:
        """Something in the lane may be claimable, or will be at a time that is not known yet."""
        self._changed_lanes.add(lane.number)
        if not self._events_changed.is_set():
            self._events_changed.set()

    def _settled(self, count: int) -> None:
        """So many were worked off; now and then it is written down how far, so that the next opening is quick."""
        self._unmarked += count
        if self._unmarked >= MARK_EVERY and self._closing is None and self._writer is not None:
            self._unmarked = 0
            self._write_marks(self._writer)

    def _write_marks(self, writer: Writer) -> asyncio.Future[None] | None:
        """What has been committed up to now; None when the writer takes nothing now, and the next time will do."""
        sources = risen_marks(self._books.sources, self._delivery_leases)
        lanes = risen_marks(self._books.lanes, self._event_leases)
        if not (sources or lanes):
            return None
        try:
            written = writer.submit(partial(write_marks, sources=sources, lanes=lanes))
        except StoreUnavailable:
            return None
        written.add_done_callback(lambda done: done.cancelled() or done.exception())  # the next time will do
        return written


def risen_marks(feeds: Mapping[K, Feed[T]], leases: Leases[T]) -> list[tuple[K, int]]:
    """Whose mark is higher than what was last written of it. One that is lost is written with the next rise."""
    lowest, found = leases.lowest(), list[tuple[K, int]]()
    for key, feed in feeds.items():
        if feed.last > feed.marked and (done_to := feed.done_to(lowest.get(feed))) > feed.marked:
            feed.marked = done_to
            found.append((key, done_to))
    return found


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, at the latest after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
