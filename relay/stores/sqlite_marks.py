"""Where what waits begins: each source and lane has a mark, and everything up to it has its row.

A mark that is too low is only slow: what was worked off above it is walked over. It is never too high, since it is
written after what it says has been committed.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from relay.stores.sqlite_blocks import Blocks
from relay.stores.sqlite_books import Books
from relay.stores.sqlite_reads import WAIT_MS_MAX
from relay.stores.sqlite_session import Session
from relay.stores.sqlite_values import DELIVERY_STATES, bound, text, text_or_none

#: Deliveries and events that are worked off between two writings of the marks: a crash leaves so many to walk over.
MARK_EVERY: Final = 10_000

SET_SOURCE: Final = """
    INSERT INTO sources (source, done_to) VALUES (?, ?)
    ON CONFLICT (source) DO UPDATE SET done_to = excluded.done_to WHERE excluded.done_to > done_to"""
SET_LANE: Final = "UPDATE lanes SET done_to = ?2 WHERE lane = ?1 AND done_to < ?2"
#: The next source after one, by the index: as quick with a million deliveries as with ten.
NEXT_SOURCE: Final = "SELECT min(source) FROM block_sources WHERE source > ?"
FIRST_SOURCE: Final = "SELECT min(source) FROM block_sources"
DONE_TO: Final = "SELECT done_to FROM sources WHERE source = ?"
#: How many of a source wait after its mark: whole blocks, where nothing has happened to any in it, else one by one.
COUNT_WAITING: Final = """
    SELECT coalesce(sum(iif(
        b.first > ?1 AND NOT EXISTS (SELECT 1 FROM delivery_state s WHERE s.seq BETWEEN b.first AND b.block),
        b.count,
        (SELECT count(*) FROM bits WHERE b.places >> bits.bit & 1 AND b.first + bits.bit > ?1
            AND NOT EXISTS (SELECT 1 FROM delivery_state s WHERE s.seq = b.first + bits.bit))
    )), 0) FROM block_sources b WHERE b.source = ?2 AND b.block > ?1"""
REPLAYED: Final = "SELECT seq FROM delivery_state WHERE state = 0"
PENDING: Final = """
    FROM events e WHERE e.lane = ? AND e.seq > ? AND NOT EXISTS (SELECT 1 FROM event_state s WHERE s.seq = e.seq)"""
RETRIED: Final = "SELECT count(*), min(at_ms) FROM event_state WHERE state = 0 AND lane = ?"


def write_marks(session: Session, sources: Sequence[tuple[str, int]], lanes: Sequence[tuple[int, int]]) -> None:
    """(source, done_to) and (lane's number, done_to)."""
    session.connection.executemany(SET_SOURCE, [(bound(source), done_to) for source, done_to in sources])
    session.connection.executemany(SET_LANE, lanes)


def read_sources(connection: sqlite3.Connection) -> Iterable[tuple[str, int]]:
    """Every source that has deliveries, with its mark."""
    source = connection.execute(FIRST_SOURCE).fetchone()[0]
    while source is not None:
        mark = connection.execute(DONE_TO, (source,)).fetchone()
        yield text(source), mark[0] if mark else 0
        source = connection.execute(NEXT_SOURCE, (source,)).fetchone()[0]


def read_books(connection: sqlite3.Connection, now_ms: int) -> Books:
    """Everything that is counted: what waits from its marks on, what has ended from narrow tables and indexes."""
    books = Books()
    for source, done_to in read_sources(connection):
        feed = books.source(source)
        feed.last = feed.marked = done_to
        feed.open = connection.execute(COUNT_WAITING, (done_to, bound(source))).fetchone()[0]
        feed.behind = feed.open > 0
    blocks = Blocks(connection)
    for (seq,) in connection.execute(REPLAYED):
        named = blocks.name(seq)
        if named is not None:
            feed = books.source(text(named.source))
            feed.open += 1
            heapq.heappush(feed.returned, seq)
    _read_lanes(connection, books, now_ms)
    _count_deliveries(connection, books)
    _count_events(connection, books)
    return books


def _read_lanes(connection: sqlite3.Connection, books: Books, now_ms: int) -> None:
    rows = connection.execute("SELECT lane, destination, environment, done_to FROM lanes").fetchall()
    for number, destination, environment, done_to in rows:
        lane = books.lane(number, text(destination), text_or_none(environment))
        lane.last = lane.marked = done_to
        place = (number, done_to)
        lane.open = connection.execute(f"SELECT count(*) {PENDING}", place).fetchone()[0]
        if lane.open:
            lane.behind = True
            sql = f"SELECT e.created_ms {PENDING} ORDER BY e.seq LIMIT 1"
            lane.passed_ms = connection.execute(sql, place).fetchone()[0]
        lane.retried, at_ms = connection.execute(RETRIED, (number,)).fetchone()
        lane.open += lane.retried
        if lane.retried:
            lane.retry_due_ms = at_ms if at_ms <= now_ms + WAIT_MS_MAX else now_ms


def _count(connection: sqlite3.Connection, rows: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])  # noqa: S608  the texts below


def _count_deliveries(connection: sqlite3.Connection, books: Books) -> None:
    replayed = _count(connection, "delivery_state WHERE state = 0")
    for number in range(2, len(DELIVERY_STATES)):
        books.ended_deliveries[number] = _count(connection, f"delivery_state WHERE state = {number} AND state >= 2")
    total = _count(connection, "delivery_state")
    books.ended_deliveries[1] = total - replayed - sum(books.ended_deliveries[2:])


def _count_events(connection: sqlite3.Connection, books: Books) -> None:
    retried, dead = (_count(connection, f"event_state WHERE state = {number}") for number in (0, 2))
    books.ended_events[2] = dead
    books.ended_events[1] = _count(connection, "event_state") - retried - dead
