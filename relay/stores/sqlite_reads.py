"""Reading: threads with connections that cannot write, and what a claim reads when its feed is behind.

Nothing here waits for the writer or holds it up. One read is one snapshot.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from relay.errors import StoreUnavailable
from relay.models import Delivery, Request
from relay.stores.sqlite_feeds import NEVER_MS, OpenEvent
from relay.stores.sqlite_file import open_reader, unavailable
from relay.stores.sqlite_values import bound, make_ref, text, text_or_none, unpack_headers

T = TypeVar("T")
#: (seq, bytes, what it is), as feeds have it.
DeliveryItem: TypeAlias = tuple[int, int, Delivery]
EventItem: TypeAlias = tuple[int, int, OpenEvent]

#: What a row costs in memory, and in the writer's queue, beside its body.
ROW_BYTES: Final = 512
#: Nobody puts an event off for longer (the settings allow a day). A time further away was written under a clock that
#: was wrong: it counts as due.
WAIT_MS_MAX: Final = 90_000_000

DELIVERY: Final = """
    SELECT d.seq, d.id, d.source, d.key, d.received_ms, d.method, d.path, d.query, d.headers, d.body, d.environment"""
OPEN_DELIVERIES: Final = f"""
    {DELIVERY}, NULL, 0 FROM deliveries d WHERE d.source = ? AND d.seq > ?
    AND NOT EXISTS (SELECT 1 FROM delivery_state s WHERE s.seq = d.seq) ORDER BY d.seq LIMIT ?"""  # noqa: S608  the text above
ONE_DELIVERY: Final = f"""
    {DELIVERY}, s.environment, s.generation FROM deliveries d LEFT JOIN delivery_state s ON s.seq = d.seq
    WHERE d.seq = ?"""
EVENT: Final = """
    SELECT e.seq, d.id, e.generation, e.position, e.id, e.json, e.created_ms, d.source"""
OPEN_EVENTS: Final = f"""
    {EVENT}, NULL FROM events e CROSS JOIN deliveries d ON d.seq = e.delivery_seq WHERE e.lane = ? AND e.seq > ?
    AND NOT EXISTS (SELECT 1 FROM event_state s WHERE s.seq = e.seq) ORDER BY e.seq LIMIT ?"""  # noqa: S608  as above
ONE_EVENT: Final = f"""
    {EVENT}, s.attempt FROM events e JOIN deliveries d ON d.seq = e.delivery_seq
    LEFT JOIN event_state s ON s.seq = e.seq WHERE e.seq = ?"""
DUE_EVENTS: Final = """
    SELECT seq FROM event_state WHERE state = 0 AND lane = ? AND at_ms <= ? ORDER BY at_ms, seq LIMIT ?"""
LATER_EVENTS: Final = """
    SELECT seq, at_ms FROM event_state WHERE state = 0 AND lane = ? AND at_ms > ? ORDER BY at_ms LIMIT ?"""


class Reader:
    """One thread and one connection, opened at first use and again after an error."""

    def __init__(self, path: Path, *, beside_owner: bool = False) -> None:
        self._path = path
        self._beside_owner = beside_owner
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="relay-store-reader")

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Raises StoreUnavailable when the file cannot be read now."""
        try:
            future = asyncio.get_running_loop().run_in_executor(self._thread, self._read, query)
        except RuntimeError as error:
            raise StoreUnavailable("the store is closed") from error
        return await future

    async def close(self) -> None:
        """After the reads under way."""
        await asyncio.to_thread(self._thread.shutdown)
        self._drop()

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = open_reader(self._path, beside_owner=self._beside_owner)
            self._connection.execute("BEGIN")
            try:
                return query(self._connection)
            finally:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._drop()
            raise unavailable(error) from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


@dataclass(frozen=True, slots=True)
class Found:
    """What a read found; `is_all` when there was no more of it, `left` what it was asked for and did not come to."""

    items: Sequence[tuple[int, int, Any]]
    is_all: bool
    left: Sequence[int] = ()


def open_deliveries(connection: sqlite3.Connection, source: str, after: int, count: int, bytes_max: int) -> Found:
    """The source's oldest after a seq that have not been worked off; bodies stop at `bytes_max`, but one is read."""
    rows = connection.execute(OPEN_DELIVERIES, (bound(source), after, count))
    return limited(map(delivery_item, rows), count, bytes_max)


def open_events(connection: sqlite3.Connection, lane: int, after: int, count: int, bytes_max: int) -> Found:
    """The lane's oldest after a seq that were never tried; as above."""
    return limited(map(event_item, connection.execute(OPEN_EVENTS, (lane, after, count))), count, bytes_max)


def limited(items: Iterable[tuple[int, int, T]], count: int, bytes_max: int) -> Found:
    """One by one until there are enough, so that what is not wanted is not read."""
    found: list[tuple[int, int, T]] = []
    size_bytes = 0
    for item in items:
        found.append(item)
        size_bytes += item[1]
        if size_bytes >= bytes_max:
            return Found(found, is_all=False)
    return Found(found, is_all=len(found) < count)


def named_deliveries(connection: sqlite3.Connection, seqs: Sequence[int], bytes_max: int) -> Found:
    """These, in their order, as many as `bytes_max` allows but at least one. What is not there any more is left out."""
    return named(connection, ONE_DELIVERY, delivery_item, seqs, bytes_max)


def named_events(connection: sqlite3.Connection, seqs: Sequence[int], bytes_max: int) -> Found:
    """As above."""
    return named(connection, ONE_EVENT, event_item, seqs, bytes_max)


def named(
    connection: sqlite3.Connection,
    sql: str,
    item_of: Callable[[tuple[Any, ...]], tuple[int, int, T]],
    seqs: Sequence[int],
    bytes_max: int,
) -> Found:
    found: list[tuple[int, int, T]] = []
    size_bytes = 0
    for place, seq in enumerate(seqs):
        if size_bytes >= bytes_max:
            return Found(found, is_all=False, left=seqs[place:])
        row = connection.execute(sql, (seq,)).fetchone()
        if row is not None:
            found.append(item_of(row))
            size_bytes += found[-1][1]
    return Found(found, is_all=True)


def delivery_item(row: tuple[Any, ...]) -> DeliveryItem:
    request = Request(text(row[5]), text(row[6]), text(row[7]), unpack_headers(row[8]), row[9])
    environment = text_or_none(row[10] if row[11] is None else row[11])
    key, generation = text_or_none(row[3]), row[12] or 0
    delivery = Delivery(text(row[1]), text(row[2]), key, row[4], request, environment, generation)
    return row[0], len(row[9]) + ROW_BYTES, delivery


def event_item(row: tuple[Any, ...]) -> EventItem:
    ref = make_ref(text(row[1]), row[2], row[3])
    retried = row[8] is not None
    return (
        row[0],
        len(row[5]) + ROW_BYTES,
        OpenEvent(ref, text(row[4]), row[5], row[6], text(row[7]), row[8] or 0, retried),
    )


@dataclass(frozen=True, slots=True)
class Due:
    """The retried events of a lane that are due, and when the next one is."""

    items: Sequence[EventItem]
    next_due_ms: int


def due_events(
    connection: sqlite3.Connection, lane: int, now_ms: int, count: int, bytes_max: int, loaded: frozenset[int]
) -> Due:
    """Those that have been due for longest, in the order of their age; none that is in memory or held already."""
    rows = count + 1 + len(loaded)
    due = [seq for (seq,) in connection.execute(DUE_EVENTS, (lane, now_ms, rows))]
    due += [seq for seq, _ in connection.execute(LATER_EVENTS, (lane, now_ms + WAIT_MS_MAX, rows))]
    free = sorted(seq for seq in due if seq not in loaded)
    found = named_events(connection, free[:count], bytes_max)
    if len(found.items) < len(free):
        return Due(found.items, next_due_ms=now_ms)
    later = connection.execute(LATER_EVENTS, (lane, now_ms, 1 + len(loaded)))
    return Due(found.items, next((at_ms for seq, at_ms in later if seq not in loaded), NEVER_MS))
