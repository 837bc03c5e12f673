"""Reading: threads with connections that cannot write, what a claim reads, and what the books start from.

Nothing here waits for the writer or holds it up. One read is one snapshot.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from relay.errors import StoreUnavailable
from relay.models import Delivery, DeliveryState, EventState, Request
from relay.stores.sqlite_file import bound, open_reader, text, text_or_none, unavailable
from relay.stores.sqlite_leases import NEVER_MS, Books
from relay.stores.sqlite_replay import make_ref
from relay.stores.sqlite_transitions import unpack_headers

T = TypeVar("T")

#: Nobody puts an event off for longer (the settings allow a day). A time further away was written under a clock that
#: was wrong: it counts as due.
WAIT_MS_MAX: Final = 90_000_000

READ_DELIVERY: Final = """
    SELECT d.id, d.source, d.key, d.received_ms, d.method, d.path, d.query, d.headers, d.body,
    s.environment, s.generation FROM deliveries d JOIN delivery_state s ON s.seq = d.seq WHERE d.seq = ?"""
READ_EVENT: Final = """
    SELECT d.id, e.generation, e.position, e.id, e.json, s.attempt, e.created_ms
    FROM events e JOIN event_state s ON s.seq = e.seq JOIN deliveries d ON d.seq = e.delivery_seq WHERE e.seq = ?"""
OPEN_DELIVERIES: Final = """
    SELECT seq, body_bytes FROM delivery_state WHERE state = 0 AND source = ? ORDER BY seq LIMIT ?"""
NEW_EVENTS: Final = """
    SELECT seq, at_ms FROM event_state WHERE state = 0 AND lane = ? AND at_ms = 0 ORDER BY seq LIMIT ?"""
RETRIED_EVENTS: Final = """
    SELECT seq, at_ms FROM event_state WHERE state = 0 AND lane = ? AND at_ms > 0 AND at_ms <= ?
    ORDER BY at_ms, seq LIMIT ?"""
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
class Turn:
    """One source's part in a claim: at most `count` deliveries, none of those `held`."""

    source: str
    count: int
    held: frozenset[int]


def read_deliveries(
    connection: sqlite3.Connection, turns: Sequence[Turn], limit: int, bytes_max: int
) -> list[tuple[int, Delivery]]:
    """(seq, delivery), turn by turn between the sources; bodies stop at `bytes_max`, but one is always read."""
    found = [open_deliveries(connection, turn, limit) for turn in turns]
    chosen: list[int] = []
    size = 0
    for place in range(max(map(len, found), default=0)):
        for seq, body_bytes in [rows[place] for rows in found if place < len(rows)]:
            size += body_bytes
            if len(chosen) == limit or (chosen and size > bytes_max):
                return [(seq, read_delivery(connection, seq)) for seq in chosen]
            chosen.append(seq)
    return [(seq, read_delivery(connection, seq)) for seq in chosen]


def open_deliveries(connection: sqlite3.Connection, turn: Turn, limit: int) -> list[tuple[int, int]]:
    """(seq, body_bytes) of the source's oldest that nobody holds."""
    count = min(turn.count, limit)
    rows = connection.execute(OPEN_DELIVERIES, (bound(turn.source), count + len(turn.held)))
    return [(seq, body_bytes) for seq, body_bytes in rows if seq not in turn.held][:count]


def read_delivery(connection: sqlite3.Connection, seq: int) -> Delivery:
    row = connection.execute(READ_DELIVERY, (seq,)).fetchone()
    request = Request(text(row[4]), text(row[5]), text(row[6]), unpack_headers(row[7]), row[8])
    key, environment = text_or_none(row[2]), text_or_none(row[9])
    return Delivery(text(row[0]), text(row[1]), key, row[3], request, environment, generation=row[10])


@dataclass(frozen=True, slots=True)
class ReadEvent:
    """An event as a claim needs it."""

    seq: int
    ref: str
    id: str
    json: bytes
    attempt: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class LaneRead:
    """What of a lane is due: `events` to claim, whether more of it is due, and when the lane's next one is."""

    events: tuple[ReadEvent, ...]
    more: bool
    next_due_ms: int


def read_lane(
    connection: sqlite3.Connection, lane: int, now_ms: int, limit: int, bytes_max: int, held: frozenset[int]
) -> LaneRead:
    """The lane's oldest due events that nobody holds; of retried ones those that have been due for longest."""
    rows = limit + 1 + len(held)
    due = connection.execute(NEW_EVENTS, (lane, rows)).fetchall()
    due += connection.execute(RETRIED_EVENTS, (lane, now_ms, rows)).fetchall()
    due += connection.execute(LATER_EVENTS, (lane, now_ms + WAIT_MS_MAX, rows)).fetchall()
    free = sorted((seq, at_ms) for seq, at_ms in due if seq not in held)
    events: list[ReadEvent] = []
    size = len("[]") - len(",")
    for seq, at_ms in free:
        event = read_event(connection, seq)
        size += len(event.json) + len(",")
        if len(events) == limit or (events and size > bytes_max):
            return LaneRead(tuple(events), more=True, next_due_ms=min(at_ms or event.created_ms, now_ms))
        events.append(event)
    later = connection.execute(LATER_EVENTS, (lane, now_ms, 1 + len(held)))
    next_due_ms = next((at_ms for seq, at_ms in later if seq not in held), NEVER_MS)
    return LaneRead(tuple(events), more=False, next_due_ms=next_due_ms)


def read_event(connection: sqlite3.Connection, seq: int) -> ReadEvent:
    row = connection.execute(READ_EVENT, (seq,)).fetchone()
    return ReadEvent(seq, make_ref(text(row[0]), row[1], row[2]), text(row[3]), row[4], row[5], row[6])


def read_books(connection: sqlite3.Connection, now_ms: int) -> Books:
    """Everything that is counted, from indexes of open and ended work; only the totals walk a whole (narrow) table."""
    books = Books()
    for source, count in connection.execute("SELECT source, count(*) FROM delivery_state WHERE state = 0 GROUP BY 1"):
        books.received_by_source[text(source)] = count
    _count_deliveries(connection, books)
    sql = "SELECT l.lane, l.destination, l.environment FROM lanes l"
    for number, destination, environment in connection.execute(sql).fetchall():
        lane = books.lane(number, text(destination), text_or_none(environment))
        sql = "SELECT count(*), min(at_ms) FROM event_state WHERE state = 0 AND lane = ?"
        pending, at_ms = connection.execute(sql, (number,)).fetchone()
        if pending:
            due_ms = at_ms or min(_oldest_new_ms(connection, number), now_ms)
            books.add_pending(lane, pending, due_ms if due_ms <= now_ms + WAIT_MS_MAX else now_ms)
    _count_events(connection, books)
    return books


def _oldest_new_ms(connection: sqlite3.Connection, lane: int) -> int:
    return read_event(connection, connection.execute(NEW_EVENTS, (lane, 1)).fetchone()[0]).created_ms


def _count_deliveries(connection: sqlite3.Connection, books: Books) -> None:
    def count(condition: str) -> int:
        return int(connection.execute(f"SELECT count(*) FROM delivery_state {condition}").fetchone()[0])  # noqa: S608  the texts below

    books.deliveries[DeliveryState.RECEIVED] = books.received_by_source.total()
    books.deliveries[DeliveryState.FILTERED] = count("WHERE state = 2 AND state >= 2")
    books.deliveries[DeliveryState.DEAD] = count("WHERE state = 3 AND state >= 2")
    books.deliveries[DeliveryState.PROCESSED] = count("") - books.deliveries.total()


def _count_events(connection: sqlite3.Connection, books: Books) -> None:
    total = connection.execute("SELECT count(*) FROM event_state").fetchone()[0]
    books.events[EventState.DEAD] = connection.execute("SELECT count(*) FROM event_state WHERE state = 2").fetchone()[0]
    books.events[EventState.SENT] = total - books.events.total()
