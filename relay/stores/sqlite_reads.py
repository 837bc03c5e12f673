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
from relay.models import Delivery
from relay.stores.sqlite_blocks import OF_SOURCE, Blocks
from relay.stores.sqlite_event_blocks import EventBlocks
from relay.stores.sqlite_feeds import NEVER_MS, Item, OpenEvent
from relay.stores.sqlite_file import open_reader, unavailable
from relay.stores.sqlite_values import bound, make_ref, text, text_or_none

T = TypeVar("T")
DeliveryItem: TypeAlias = Item[Delivery]
EventItem: TypeAlias = Item[OpenEvent]

#: What a row costs in memory, and in the writer's queue, beside its body.
ROW_BYTES: Final = 512
#: Nobody puts an event off for longer (the settings allow a day). A time further away was written under a clock that
#: was wrong: it counts as due.
WAIT_MS_MAX: Final = 90_000_000

#: Its seqs that wait, as OF_SOURCE.
WAITING: Final = f"""
    {OF_SOURCE} AND NOT EXISTS (SELECT 1 FROM delivery_state s WHERE s.seq = b.first + bits.bit)"""  # noqa: S608  the text above
OPEN_DELIVERIES: Final = f"SELECT b.first + bits.bit {WAITING} ORDER BY b.block, bits.bit LIMIT ?"
REPLAYED: Final = "SELECT environment, generation FROM delivery_state WHERE seq = ?"
EVENT: Final = """
    SELECT e.seq, e.delivery_seq, e.generation, e.position, e.id, e.json, e.created_ms"""
OPEN_EVENTS: Final = f"""
    {EVENT}, NULL FROM events e WHERE e.lane = ? AND e.seq > ?
    AND NOT EXISTS (SELECT 1 FROM event_state s WHERE s.seq = e.seq) ORDER BY e.seq LIMIT ?"""  # noqa: S608  as above
ONE_EVENT: Final = f"{EVENT}, s.attempt FROM events e LEFT JOIN event_state s ON s.seq = e.seq WHERE e.seq = ?"
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

    items: Sequence[Item[Any]]
    is_all: bool
    left: Sequence[int] = ()


def open_deliveries(connection: sqlite3.Connection, source: str, after: int, count: int, bytes_max: int) -> Found:
    """The source's oldest after a seq that have not been worked off; bodies stop at `bytes_max`, but one is read."""
    blocks = Blocks(connection)
    rows = connection.execute(OPEN_DELIVERIES, (bound(source), after, after, count))
    return limited((item for (seq,) in rows if (item := delivery_item(blocks, seq))), count, bytes_max)


def open_events(connection: sqlite3.Connection, lane: int, after: int, count: int, bytes_max: int) -> Found:
    """The lane's oldest after a seq that were never tried; as above."""
    blocks, jsons = Blocks(connection), EventBlocks(connection)
    rows = connection.execute(OPEN_EVENTS, (lane, after, count))
    return limited((item for row in rows if (item := event_item(blocks, jsons, row))), count, bytes_max)


def limited(items: Iterable[Item[T]], count: int, bytes_max: int) -> Found:
    """One by one until there are enough, so that what is not wanted is not read."""
    found: list[Item[T]] = []
    size_bytes = 0
    for item in items:
        found.append(item)
        size_bytes += item[1]
        if size_bytes >= bytes_max:
            return Found(found, is_all=False)
    return Found(found, is_all=len(found) < count)


def named_deliveries(connection: sqlite3.Connection, seqs: Sequence[int], bytes_max: int) -> Found:
    """These, in their order, as many as `bytes_max` allows but at least one. What is not there any more is left out."""
    blocks = Blocks(connection)

    def find(seq: int) -> DeliveryItem | None:
        replayed = connection.execute(REPLAYED, (seq,)).fetchone()
        return delivery_item(blocks, seq, *(replayed or ()))

    return named(find, seqs, bytes_max)


def named_events(connection: sqlite3.Connection, seqs: Sequence[int], bytes_max: int) -> Found:
    """As above."""
    blocks, jsons = Blocks(connection), EventBlocks(connection)

    def find(seq: int) -> EventItem | None:
        row = connection.execute(ONE_EVENT, (seq,)).fetchone()
        return None if row is None else event_item(blocks, jsons, row)

    return named(find, seqs, bytes_max)


def named(find: Callable[[int], Item[T] | None], seqs: Sequence[int], bytes_max: int) -> Found:
    found: list[Item[T]] = []
    size_bytes = 0
    for place, seq in enumerate(seqs):
        if size_bytes >= bytes_max:
            return Found(found, is_all=False, left=seqs[place:])
        item = find(seq)
        if item is not None:
            found.append(item)
            size_bytes += item[1]
    return Found(found, is_all=True)


def delivery_item(
    blocks: Blocks, seq: int, environment: str | bytes | None = None, generation: int = 0
) -> DeliveryItem | None:
    """Environment and generation as a replay has set them. None when it is not there any more."""
    head = blocks.head(seq)
    if head is None:
        return None
    body = blocks.body(seq)
    asked = text_or_none(head.environment if environment is None else environment)
    key = text_or_none(head.key)
    delivery = Delivery(text(head.id), text(head.source), key, head.received_ms, head.request(body), asked, generation)
    return seq, len(body) + ROW_BYTES, delivery


def event_item(blocks: Blocks, jsons: EventBlocks, row: tuple[Any, ...]) -> EventItem | None:
    """`row` is one of EVENT and how often it was tried. None when its delivery or its JSON is not there any more."""
    seq, delivery_seq, generation, position, event_id, in_row, created_ms, attempt = row
    made_of, event_json = blocks.name(delivery_seq), jsons.json(seq, in_row)
    if made_of is None or event_json is None:
        return None
    ref = make_ref(text(made_of.id), generation, position)
    retried = attempt is not None
    opened = OpenEvent(ref, text(event_id), event_json, created_ms, text(made_of.source), attempt or 0, retried)
    return seq, len(event_json) + ROW_BYTES, opened


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
