"""What waits, as people ask for it: the newest of it for lists, the oldest of it for its age. Read from one snapshot.

What has no row is looked for from its source's or lane's mark on; what a replay or a retry brought back has a row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from relay.stores.sqlite_blocks import Blocks
from relay.stores.sqlite_marks import DONE_TO, PENDING, read_sources
from relay.stores.sqlite_reads import WAITING
from relay.stores.sqlite_values import bound, text

RECEIVED_AGAIN: Final = "SELECT seq FROM delivery_state WHERE state = 0 AND seq < ? ORDER BY seq DESC"
OLDEST_AGAIN: Final = """
    SELECT min(s.received_ms) FROM delivery_state s WHERE s.state = 0"""
#: By the index of those few, where SQLite by itself would walk over all that were ever sent.
TRIED: Final = """
    SELECT seq, source FROM event_state INDEXED BY event_retried WHERE state = 0 AND seq < ? ORDER BY seq DESC"""
OLDEST_TRIED: Final = """
    SELECT min(seq) FROM event_state INDEXED BY event_retried WHERE state = 0"""
MARKED_LANES: Final = "SELECT lane, done_to FROM lanes ORDER BY done_to"


def newest_received(connection: sqlite3.Connection, source: str | None, before: int, limit: int) -> list[int]:
    """The newest seqs of deliveries that wait, before a seq."""
    found: list[int] = []
    for name, done_to in read_sources(connection):
        if source in (None, name):
            sql = f"SELECT b.first + bits.bit AS seq {WAITING} AND seq < ? ORDER BY b.block DESC, bits.bit DESC LIMIT ?"
            rows = connection.execute(sql, (bound(name), done_to, done_to, before, limit))
            found += [seq for (seq,) in rows]
    heads = Blocks(connection)
    again = (
        (seq, head.source) for (seq,) in connection.execute(RECEIVED_AGAIN, (before,)) if (head := heads.name(seq))
    )
    found += of_source(again, source, limit)
    return sorted(set(found), reverse=True)[:limit]


def newest_pending(connection: sqlite3.Connection, source: str | None, before: int, limit: int) -> list[int]:
    """The newest seqs of events that are pending, before a seq."""
    found: list[int] = []
    heads = Blocks(connection)
    for lane, done_to in connection.execute(MARKED_LANES).fetchall():
        sql = f"SELECT e.seq, e.delivery_seq {PENDING} AND e.seq < ? ORDER BY e.seq DESC"
        rows = connection.execute(sql, (lane, done_to, before))
        if source is None:
            found += (seq for seq, _ in islice(rows, limit))
        else:
            named = ((seq, head.source) for seq, delivery_seq in rows if (head := heads.name(delivery_seq)))
            found += of_source(named, source, limit)
    found += of_source(connection.execute(TRIED, (before,)), source, limit)
    return sorted(set(found), reverse=True)[:limit]


def of_source(rows: Iterable[tuple[Any, Any]], source: str | None, limit: int) -> Iterable[int]:
    """The first seqs of (seq, source) that are of a source."""
    return islice((seq for seq, name in rows if source in (None, text(name))), limit)


def oldest_received_ms(connection: sqlite3.Connection, sources: Iterable[str]) -> int | None:
    """When the first delivery came that waits, of those sources."""
    heads = Blocks(connection)
    found: list[int | None] = [connection.execute(OLDEST_AGAIN).fetchone()[0]]
    for source in sources:
        mark = connection.execute(DONE_TO, (bound(source),)).fetchone()
        done_to = mark[0] if mark else 0
        sql = f"SELECT b.first + bits.bit {WAITING} ORDER BY b.block, bits.bit LIMIT 1"
        row = connection.execute(sql, (bound(source), done_to, done_to)).fetchone()
        head = heads.head(row[0]) if row else None
        found.append(None if head is None else head.received_ms)
    return min((received_ms for received_ms in found if received_ms is not None), default=None)


def oldest_pending_ms(connection: sqlite3.Connection, lanes: Iterable[int]) -> int | None:
    """When the first event was made that is pending, of those lanes. Lanes whose mark is past what was found already
    need no look.
    """
    open_lanes = set(lanes)
    oldest: int | None = connection.execute(OLDEST_TRIED).fetchone()[0]
    for lane, done_to in connection.execute(MARKED_LANES).fetchall():
        if oldest is not None and done_to >= oldest:
            break
        if lane in open_lanes:
            row = connection.execute(f"SELECT e.seq {PENDING} ORDER BY e.seq LIMIT 1", (lane, done_to)).fetchone()
            oldest = min(row[0], oldest or row[0]) if row else oldest
    found = connection.execute("SELECT created_ms FROM events WHERE seq = ?", (oldest,)).fetchone()
    return None if found is None else int(found[0])
