"""The SQL of every change of state, each for many at once. Runs inside the writer's transaction and knows nothing else.

Rows are inserted many to a statement, so that the writer gives up the interpreter once for many of them; in few
different numbers, so that few statements are prepared. OR FAIL, since whoever raises is rolled back anyway: so SQLite
need not be able to take back half a statement, for which it would make a file each time. What happens to a delivery or
an event is its row in delivery_state or event_state; until then it has none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, Final

from relay.models import Delivery, DeliveryState, Event, EventState
from relay.stores import sqlite_blocks, sqlite_event_blocks
from relay.stores.sqlite_blocks import Blocks, digest_of, key_made_of, rows_of
from relay.stores.sqlite_jobs import Accept, AcceptResult, Finish, FinishResult, Settle, SettleResult
from relay.stores.sqlite_session import Session
from relay.stores.sqlite_values import (
    DELIVERY_STATES,
    EVENT_STATES,
    bindable,
    event_hash,
    shortened,
    text,
)

#: Rows in one statement, at most; and how many bytes of bodies they may hold together, since SQLite copies them.
ROWS_MAX: Final = 64
ROWS_BYTES_MAX: Final = 4 * 1024 * 1024
#: Rows go in multiples of this, and what is left of them in one more statement: that makes some twenty of each kind.
ROWS_STEP: Final = 4
#: The most duplicate ids that a delivery remembers.
DUPLICATES_MAX: Final = 100
PROCESSED: Final = DELIVERY_STATES.index(DeliveryState.PROCESSED)
FILTERED: Final = DELIVERY_STATES.index(DeliveryState.FILTERED)
DEAD: Final = DELIVERY_STATES.index(DeliveryState.DEAD)

#: Statements that insert: what stands before the rows, how many columns they have, what stands behind them.
BLOCKS: Final = ("INSERT OR FAIL INTO blocks (block, first, squeezed, heads, bodies) VALUES ", 5, "")
BLOCK_SOURCES: Final = ("INSERT OR FAIL INTO block_sources (source, block, first, places, count) VALUES ", 5, "")
BLOCK_IDS: Final = ("INSERT OR FAIL INTO block_ids (start, block) VALUES ", 2, "")
EVENT_BLOCKS: Final = ("INSERT OR FAIL INTO event_blocks (block, first, jsons) VALUES ", 3, "")
EVENTS: Final = (
    "INSERT OR FAIL INTO events (seq, delivery_seq, generation, position, lane, ts, created_ms, id, name, json)"
    " VALUES ",
    10,
    "",
)
#: A replayed delivery has its row already, in state 0.
STILL_OPEN_DELIVERY: Final = (
    " ON CONFLICT (seq) DO UPDATE SET state = excluded.state, settled_ms = excluded.settled_ms,"
    " event_count = event_count + excluded.event_count, duplicates = excluded.duplicates, code = excluded.code,"
    " message = excluded.message WHERE state = 0"
)
#: Most have nothing else that could be told; columns cost.
DELIVERY_STATES_PLAIN: Final = (
    "INSERT OR FAIL INTO delivery_state (seq, state, received_ms, body_bytes, settled_ms, event_count) VALUES ",
    6,
    STILL_OPEN_DELIVERY,
)
DELIVERY_STATES_ROWS: Final = (
    "INSERT OR FAIL INTO delivery_state"
    " (seq, state, received_ms, body_bytes, settled_ms, event_count, duplicates, code, message) VALUES ",
    9,
    STILL_OPEN_DELIVERY,
)
#: An event that was put off or replayed has its row already, in state 0.
STILL_OPEN_EVENT: Final = (
    " ON CONFLICT (seq) DO UPDATE SET state = excluded.state, at_ms = excluded.at_ms, attempt = excluded.attempt,"
    " settled_ms = excluded.settled_ms, inngest_id = excluded.inngest_id, code = excluded.code,"
    " message = excluded.message WHERE state = 0"
)
EVENTS_SENT: Final = (
    "INSERT OR FAIL INTO event_state (seq, state, lane, source, attempt, settled_ms, inngest_id) VALUES ",
    7,
    STILL_OPEN_EVENT,
)
EVENT_STATE_ROWS: Final = (
    "INSERT OR FAIL INTO event_state"
    " (seq, state, lane, source, at_ms, attempt, settled_ms, inngest_id, code, message) VALUES ",
    10,
    STILL_OPEN_EVENT,
)


@cache
def insertion(table: tuple[str, int, str], rows: int) -> str:
    before, columns, after = table
    row = f"({', '.join('?' * columns)})"
    return before + ", ".join([row] * rows) + after


def insert(session: Session, table: tuple[str, int, str], rows: Sequence[Sequence[Any]], size_bytes: int = 0) -> None:
    """`size_bytes` is what all of the rows hold together, where that may be much. Text may be any that Python has."""
    most = ROWS_MAX if size_bytes <= ROWS_BYTES_MAX else 1
    start, left = 0, len(rows)
    while left:
        count = min(left - left % ROWS_STEP or left, most)
        statement, values = insertion(table, count), list(chain.from_iterable(rows[start : start + count]))
        try:
            session.execute(statement, values)
        except UnicodeEncodeError:  # before anything was done
            session.execute(statement, [bindable(value) for value in values])
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
    return accept_results(jobs, first, earlier)


def accept_results(jobs: Sequence[Accept], first: int, earlier: dict[int, str]) -> list[AcceptResult]:
    """For each job its part; `earlier` by the places among all deliveries."""
    results: list[AcceptResult] = []
    begin = 0
    for job in jobs:
        end = begin + len(job.deliveries)
        own = {place - begin: earlier[place] for place in range(begin, end) if place in earlier} if earlier else {}
        results.append(AcceptResult(first, own))
        first += end - begin - len(own)
        begin = end
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
    jsons: list[bytes] = []
    plain: list[tuple[Any, ...]] = []
    others: list[tuple[Any, ...]] = []
    results: list[FinishResult] = []
    seen = _seen(session, jobs)
    seq, number = session.next_event, 0
    for job in jobs:
        result = FinishResult([], [])
        for position, event in enumerate(job.events):
            if number in seen:
                result.duplicates.append(event.id)
            else:
                lane = session.lane(event.destination, event.environment)
                events.append(event_row(seq, lane, (job.seq, job.generation, position), event, job.now_ms))
                jsons.append(event.json)
                result.stored.append((seq, lane, position))
                seq += 1
            number += 1
        results.append(result)
        state = PROCESSED if job.events else FILTERED
        row = (job.seq, state, job.received_ms, job.body_bytes, job.now_ms, len(result.stored))
        if job.failure is None and not result.duplicates:
            plain.append(row)
        else:
            others.append(_with_more(row, job, result))
    first, session.next_event = session.next_event, seq
    insert_events(session, first, events, jsons)
    insert(session, DELIVERY_STATES_PLAIN, plain)
    insert(session, DELIVERY_STATES_ROWS, others)
    return results


def _seen(session: Session, jobs: Sequence[Finish]) -> set[int]:
    """Which of all these events, numbered in their order, have an id that was first seen less than the window ago. The
    ids of the others are known from now on.
    """
    made = [(event, job.now_ms) for job in jobs for event in job.events]
    digests = [event_hash(event.destination, event.environment, event.id) for event, _ in made]
    ids = session.ids
    if ids.has_none(digests):
        ids.add_new(digests, [now_ms for _, now_ms in made])
        return set()
    seen: set[int] = set()
    for number, (digest, (_, now_ms)) in enumerate(zip(digests, made, strict=True)):
        first_ms = ids.find(digest)
        if first_ms is not None and first_ms > now_ms - session.window_ms:
            seen.add(number)
        else:
            ids.add(digest, now_ms)
    return seen


def event_row(seq: int, lane: int, place: tuple[int, int, int], event: Event, now_ms: int) -> tuple[Any, ...]:
    """All but the JSON. `place` is (delivery's seq, generation, position)."""
    return (seq, *place, lane, event.ts, now_ms, event.id, event.name, sqlite_event_blocks.ELSEWHERE)


def insert_events(session: Session, first: int, rows: Sequence[tuple[Any, ...]], jsons: Sequence[bytes]) -> None:
    """Events with the seqs from `first` on."""
    insert(session, EVENTS, rows)
    blocks = sqlite_event_blocks.rows_of(first, jsons)
    insert(session, EVENT_BLOCKS, blocks, sum([len(json) for json in jsons]))


def _with_more(row: tuple[Any, ...], job: Finish, result: FinishResult) -> tuple[Any, ...]:
    """Which ids it had that were known, or why it is dead."""
    if job.failure is not None:
        code, message = job.failure
        return (row[0], DEAD, *row[2:], None, code, shortened(message))
    return (*row, json.dumps(result.duplicates[:DUPLICATES_MAX]), None, None)


def settle(session: Session, jobs: Sequence[Settle]) -> list[SettleResult]:
    """Each event takes its state, or the time of its next try."""
    insert(session, EVENTS_SENT, list(chain.from_iterable([job.sent for job in jobs])))
    insert(session, EVENT_STATE_ROWS, list(chain.from_iterable([job.others for job in jobs])))
    return [SettleResult()] * len(jobs)


@dataclass(slots=True)
class Pruned:
    """What went, by state."""

    deliveries: Counter[DeliveryState] = field(default_factory=Counter)
    events: Counter[EventState] = field(default_factory=Counter)


def prune(session: Session, candidates: Iterable[int], now_ms: int) -> Pruned:
    """Delete what is still settled of deliveries found before; forget what is past the window, or of deliveries that
    are gone, a bounded step of it.
    """
    pruned, events = Pruned(), list[int]()
    gone = [seq for seq in candidates if _prune_one(session, seq, pruned, events)]
    sqlite_event_blocks.prune(session.connection, events)
    sqlite_blocks.prune(session.connection, gone)
    if not session.ids.drop_below(now_ms - session.window_ms):
        lowest = session.execute("SELECT first FROM blocks ORDER BY block LIMIT 1").fetchone()
        session.keys.drop_below(session.next_delivery if lowest is None else lowest[0])
    return pruned


def _prune_one(session: Session, seq: int, pruned: Pruned, gone: list[int]) -> bool:
    """All of the delivery but what is in blocks: it, and the JSON of its events, which are added to `gone`. False when
    it may not go.
    """
    found = session.execute("SELECT state FROM delivery_state WHERE seq = ? AND state > 0", (seq,)).fetchone()
    sql = "SELECT e.seq, s.state FROM events e LEFT JOIN event_state s ON s.seq = e.seq WHERE e.delivery_seq = ?"
    events = session.execute(sql, (seq,)).fetchall()
    if found is None or not all(state for _, state in events):
        return False
    for table in ("events", "event_state"):
        session.connection.executemany(f"DELETE FROM {table} WHERE seq = ?", [(event,) for event, _ in events])  # noqa: S608  a name from the line above
    session.execute("DELETE FROM delivery_state WHERE seq = ?", (seq,))
    gone += [event for event, _ in events]
    pruned.deliveries[DELIVERY_STATES[found[0]]] += 1
    pruned.events.update(EVENT_STATES[state] for _, state in events)
    return True


def probe(session: Session) -> None:
    session.execute("UPDATE meta SET probes = probes + 1")
