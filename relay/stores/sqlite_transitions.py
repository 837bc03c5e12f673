"""The SQL of every change of state, each for many at once. Runs inside the writer's transaction and knows nothing else.

Rows are inserted many to a statement, in powers of two, so that few statements are prepared and the writer gives up the
interpreter once for many rows. OR FAIL, since whoever raises is rolled back anyway: so SQLite need not be able to take
back half a statement, for which it would make a file each time. What happens to a delivery or an event is its row in
delivery_state or event_state; until then it has none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, Final

from relay.models import Delivery, DeliveryState, Event, EventState, Settlement
from relay.stores import sqlite_blocks
from relay.stores.sqlite_blocks import Blocks, digest_of, key_made_of, rows_of
from relay.stores.sqlite_feeds import OpenEvent
from relay.stores.sqlite_jobs import Accept, AcceptResult, Finish, FinishResult, Settle, SettleResult
from relay.stores.sqlite_leases import Lease
from relay.stores.sqlite_session import Session
from relay.stores.sqlite_values import (
    DELIVERY_STATES,
    EVENT_STATE_NUMBERS,
    EVENT_STATES,
    bound,
    event_hash,
    shortened,
    text,
)

#: Rows in one statement, at most; and how many bytes of bodies they may hold together, since SQLite copies them.
ROWS_MAX: Final = 64
ROWS_BYTES_MAX: Final = 4 * 1024 * 1024
#: The most duplicate ids that a delivery remembers.
DUPLICATES_MAX: Final = 100
PROCESSED: Final = DELIVERY_STATES.index(DeliveryState.PROCESSED)
FILTERED: Final = DELIVERY_STATES.index(DeliveryState.FILTERED)
DEAD: Final = DELIVERY_STATES.index(DeliveryState.DEAD)

BLOCKS: Final = ("INSERT OR FAIL INTO blocks (block, first, heads, bodies) VALUES ", 4, "")
BLOCK_SOURCES: Final = ("INSERT OR FAIL INTO block_sources (source, block, first, places, count) VALUES ", 5, "")
BLOCK_IDS: Final = ("INSERT OR FAIL INTO block_ids (start, block) VALUES ", 2, "")
#: A replayed delivery has its row already, in state 0.
DELIVERY_STATES_ROWS: Final = (
    "INSERT OR FAIL INTO delivery_state"
    " (seq, state, received_ms, body_bytes, settled_ms, event_count, duplicates, code, message) VALUES ",
    9,
    " ON CONFLICT (seq) DO UPDATE SET state = excluded.state, settled_ms = excluded.settled_ms,"
    " event_count = event_count + excluded.event_count, duplicates = excluded.duplicates, code = excluded.code,"
    " message = excluded.message WHERE state = 0",
)
EVENTS: Final = (
    "INSERT OR FAIL INTO events (seq, delivery_seq, generation, position, lane, ts, created_ms, id, name, json)"
    " VALUES ",
    10,
    "",
)
#: An event that was put off or replayed has its row already, in state 0.
EVENT_STATE_ROWS: Final = (
    "INSERT OR FAIL INTO event_state"
    " (seq, state, lane, source, at_ms, attempt, settled_ms, inngest_id, code, message) VALUES ",
    10,
    " ON CONFLICT (seq) DO UPDATE SET state = excluded.state, at_ms = excluded.at_ms, attempt = excluded.attempt,"
    " settled_ms = excluded.settled_ms, inngest_id = excluded.inngest_id, code = excluded.code,"
    " message = excluded.message WHERE state = 0",
)
RECEIVED_AGAIN: Final = """
    INSERT INTO delivery_state (seq, state, received_ms, body_bytes, generation) VALUES (?, 0, ?, ?, ?)"""


@cache
def insertion(table: tuple[str, int, str], rows: int) -> str:
    before, columns, after = table
    row = f"({', '.join('?' * columns)})"
    return before + ", ".join([row] * rows) + after


def insert(session: Session, table: tuple[str, int, str], rows: Sequence[Sequence[Any]], size_bytes: int = 0) -> None:
    """`size_bytes` is what all of the rows hold together, where that may be much."""
    most = ROWS_MAX if size_bytes <= ROWS_BYTES_MAX else 1
    start, left = 0, len(rows)
    while left:
        count = most if left >= most else 1 << left.bit_length() - 1
        session.execute(insertion(table, count), list(chain.from_iterable(rows[start : start + count])))
        start += count
        left -= count


def accept(session: Session, jobs: Sequence[Accept]) -> list[AcceptResult]:
    """Those whose key is new are stored; the others answer the id of the first one."""
    deliveries = list(chain.from_iterable([job.deliveries for job in jobs]))
    earlier = _earlier(session, deliveries)
    new = [each for place, each in enumerate(deliveries) if place not in earlier] if earlier else deliveries
    first = session.next_delivery
    session.next_delivery += len(new)
    blocks, sources, ids = rows_of(first, new)
    insert(session, BLOCKS, blocks, sum([job.size_bytes for job in jobs]))
    insert(session, BLOCK_SOURCES, sources)
    insert(session, BLOCK_IDS, ids)
    for seq, delivery in enumerate(new, first):
        if delivery.generation:  # it comes in a later one: it has a row from the start
            again = (seq, delivery.received_ms, len(delivery.request.body), delivery.generation)
            session.execute(RECEIVED_AGAIN, again)
    return accept_results(jobs, first, earlier)


def accept_results(jobs: Sequence[Accept], first: int, earlier: dict[int, str]) -> list[AcceptResult]:
    """For each job its part; `earlier` by the places among all deliveries."""
    results: list[AcceptResult] = []
    begin = 0
    for job in jobs:
        count = len(job.deliveries)
        own = {place - begin: earlier[place] for place in range(begin, begin + count) if place in earlier}
        results.append(AcceptResult(first, own if earlier else {}))
        first += count - len(own)
        begin += count
    return results


def _earlier(session: Session, deliveries: Sequence[Delivery]) -> dict[int, str]:
    """The ids of the deliveries that had a key first, while they are kept, by the places of those that have it again.
    The keys of the others are known from now on.
    """
    keys, first = session.keys, session.next_delivery
    keyed = [place for place, delivery in enumerate(deliveries) if delivery.key is not None]
    digests = [digest_of(deliveries[place]) for place in keyed]
    if keys.has_none(digests):
        keys.add_new(digests, [first + place for place in keyed])
        return {}
    earlier: dict[int, str] = {}
    kept, new = Blocks(session.connection), list[Delivery]()
    digest = dict(zip(keyed, digests, strict=True))
    for place, delivery in enumerate(deliveries):
        before = _first_of_key(session, delivery, digest[place], kept, new) if place in digest else None
        if before is None:
            new.append(delivery)
        else:
            earlier[place] = before
    return earlier


def _first_of_key(
    session: Session, delivery: Delivery, digest: bytes, kept: Blocks, new: Sequence[Delivery]
) -> str | None:
    """The id of the delivery that had this key first. None: it is this one, and now known. `new` are those before it
    that are stored with it.

    The digest is not enough: deliveries are pruned, and their digests outlive them.
    """
    known = session.keys.find(digest)
    if known is not None:
        first_new = session.next_delivery
        if known >= first_new:
            earlier = new[known - first_new]
            if key_made_of(earlier) == key_made_of(delivery):
                return earlier.id
        elif (head := kept.head(known)) is not None and head.key_made_of == key_made_of(delivery):
            return text(head.id)
    session.keys.add(digest, session.next_delivery + len(new))
    return None


def finish(session: Session, jobs: Sequence[Finish]) -> list[FinishResult]:
    """Each delivery processed, filtered or dead, and its new events pending."""
    events: list[tuple[Any, ...]] = []
    states: list[tuple[Any, ...]] = []
    results: list[FinishResult] = []
    size_bytes = 0
    for job in jobs:
        size_bytes += job.size_bytes
        result = FinishResult([], [])
        results.append(result)
        if job.failure is None:
            _finish_one(session, job, result, events)
        states.append(_delivery_state_row(job, result))
    session.next_event += len(events)
    insert(session, EVENTS, events, size_bytes)
    insert(session, DELIVERY_STATES_ROWS, states)
    return results


def _finish_one(session: Session, job: Finish, result: FinishResult, rows: list[tuple[Any, ...]]) -> None:
    now_ms, ids = job.now_ms, session.ids
    seen_after_ms = now_ms - session.window_ms
    for position, event in enumerate(job.events):
        digest = event_hash(event.destination, event.environment, event.id)
        first_ms = ids.find(digest)
        if first_ms is not None and first_ms > seen_after_ms:
            result.duplicates.append(event.id)
            continue
        ids.add(digest, now_ms)
        seq = session.next_event + len(rows)
        lane = session.lane(event.destination, event.environment)
        rows.append(event_row(seq, lane, (job.seq, job.generation, position), event, now_ms))
        result.stored.append((seq, lane, position))


def event_row(seq: int, lane: int, place: tuple[int, int, int], event: Event, now_ms: int) -> tuple[Any, ...]:
    """`place` is (delivery's seq, generation, position)."""
    return (seq, *place, lane, event.ts, now_ms, bound(event.id), bound(event.name), event.json)


def _delivery_state_row(job: Finish, result: FinishResult) -> tuple[Any, ...]:
    if job.failure is None:
        state, code, message = PROCESSED if job.events else FILTERED, None, None
    else:
        state, code, message = DEAD, bound(job.failure[0]), shortened(job.failure[1])
    return (
        job.seq,
        state,
        job.received_ms,
        job.body_bytes,
        job.now_ms,
        len(result.stored),
        json.dumps(result.duplicates[:DUPLICATES_MAX]) if result.duplicates else None,
        code,
        message,
    )


def settle(session: Session, jobs: Sequence[Settle]) -> list[SettleResult]:
    """Each event takes its state, or the time of its next try."""
    insert(session, EVENT_STATE_ROWS, list(chain.from_iterable([job.rows for job in jobs])))
    return [SettleResult()] * len(jobs)


def event_state_row(lease: Lease[OpenEvent], settlement: Settlement, now_ms: int) -> tuple[Any, ...]:
    """As `settle` wants it."""
    assert lease.thing is not None, "a pinned lease has not ended"
    state = EVENT_STATE_NUMBERS[settlement.state]
    return (
        lease.seq,
        state,
        lease.feed.number,
        bound(lease.thing.source),
        0 if state else max(settlement.at_ms, 1),
        settlement.event.attempt + settlement.counted,
        now_ms if state else None,
        bound(settlement.inngest_id),
        bound(settlement.code),
        shortened(settlement.message),
    )


@dataclass(slots=True)
class Pruned:
    """What went, by state."""

    deliveries: Counter[DeliveryState] = field(default_factory=Counter)
    events: Counter[EventState] = field(default_factory=Counter)


def prune(session: Session, candidates: Iterable[int], now_ms: int) -> Pruned:
    """Delete what is still settled of deliveries found before; forget what is past the window, or of deliveries that
    are gone, a bounded step of it.
    """
    pruned = Pruned()
    gone = [seq for seq in candidates if _prune_one(session, seq, pruned)]
    sqlite_blocks.prune(session.connection, gone)
    if not session.ids.drop_below(now_ms - session.window_ms):
        lowest = session.execute("SELECT first FROM blocks ORDER BY block LIMIT 1").fetchone()
        session.keys.drop_below(session.next_delivery if lowest is None else lowest[0])
    return pruned


def _prune_one(session: Session, seq: int, pruned: Pruned) -> bool:
    """All of the delivery but itself; False when it may not go."""
    found = session.execute("SELECT state FROM delivery_state WHERE seq = ? AND state > 0", (seq,)).fetchone()
    sql = "SELECT e.seq, s.state FROM events e LEFT JOIN event_state s ON s.seq = e.seq WHERE e.delivery_seq = ?"
    events = session.execute(sql, (seq,)).fetchall()
    if found is None or not all(state for _, state in events):
        return False
    for table in ("events", "event_state"):
        session.connection.executemany(f"DELETE FROM {table} WHERE seq = ?", [(event,) for event, _ in events])  # noqa: S608  a name from the line above
    session.execute("DELETE FROM delivery_state WHERE seq = ?", (seq,))
    pruned.deliveries[DELIVERY_STATES[found[0]]] += 1
    pruned.events.update(EVENT_STATES[state] for _, state in events)
    return True


def probe(session: Session) -> None:
    session.execute("UPDATE meta SET probes = probes + 1")
