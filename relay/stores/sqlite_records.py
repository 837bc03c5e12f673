"""Deliveries and events as people see them, read from one snapshot; and what is found for pruning."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from relay.models import DeliveryRecord, DeliveryState, EventRecord, EventState
from relay.stores.sqlite_blocks import IS_OF_SOURCE, Blocks, newest, newest_of_source, seq_of
from relay.stores.sqlite_event_blocks import EventBlocks
from relay.stores.sqlite_values import (
    DELIVERY_STATES,
    EVENT_STATES,
    bound,
    make_ref,
    parse_ref,
    text,
    text_or_none,
)
from relay.stores.sqlite_waiting import newest_pending, newest_received

RECORDS_MAX: Final = 1_000
#: After every seq.
SEQ_END: Final = 2**63 - 1
#: What one step of pruning may delete, so that the writer is held for milliseconds.
PRUNE_EVENTS_MAX: Final = 2_000
PRUNE_BYTES_MAX: Final = 16 * 1024 * 1024

#: What has happened to a delivery; while nothing has, NOTHING_YET.
HAPPENED: Final = """
    SELECT state, settled_ms, environment, generation, event_count, duplicates, code, message
    FROM delivery_state WHERE seq = ?"""
NOTHING_YET: Final = (0, None, None, 0, 0, None, None, None)
EVENT: Final = """
    SELECT e.delivery_seq, e.generation, e.position, e.id, e.name, l.destination, l.environment, coalesce(s.state, 0),
    coalesce(s.attempt, 0), e.created_ms, coalesce(s.at_ms, 0), s.settled_ms, s.inngest_id, s.code, s.message"""
ALL_EVENTS: Final = """
    FROM events e LEFT JOIN event_state s ON s.seq = e.seq JOIN lanes l ON l.lane = coalesce(s.lane, e.lane)"""
EVENT_SEQ: Final = "SELECT seq FROM events WHERE delivery_seq = ? AND generation = ? AND position = ?"
PRUNABLE: Final = """
    SELECT s.seq, s.event_count, s.body_bytes FROM delivery_state s WHERE s.state > 0 AND s.received_ms < ?
    AND NOT EXISTS (SELECT 1 FROM events e LEFT JOIN event_state es ON es.seq = e.seq
                    WHERE e.delivery_seq = s.seq AND coalesce(es.state, 0) = 0) ORDER BY s.seq LIMIT ?"""


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    state: DeliveryState | None
    source: str | None
    before: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class EventFilter:
    state: EventState | None
    delivery_id: str | None
    source: str | None
    before: str | None
    limit: int


class Conditions:
    """A WHERE clause in the making."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.values: list[object] = []

    def add(self, part: str, *values: object) -> None:
        self.parts.append(part)
        self.values += values

    @property
    def where(self) -> str:
        return f" WHERE {' AND '.join(self.parts)}" if self.parts else ""


def list_deliveries(connection: sqlite3.Connection, wanted: DeliveryFilter) -> list[DeliveryRecord]:
    blocks = Blocks(connection)
    seqs = newest_wanted(connection, wanted, delivery_seq(connection, wanted.before))
    found = (record for seq in seqs if (record := delivery_record(connection, blocks, seq)))
    return list(islice(found, limited(wanted.limit)))


def newest_wanted(connection: sqlite3.Connection, wanted: DeliveryFilter, before: int) -> Iterable[int]:
    """The seqs before one, the newest first; some may have been pruned."""
    state, source = wanted.state, wanted.source
    if state is DeliveryState.RECEIVED:
        return newest_received(connection, source, before, limited(wanted.limit))
    if state is None:
        return newest(connection, before) if source is None else newest_of_source(connection, source, before)
    number = DELIVERY_STATES.index(state)
    if state is DeliveryState.PROCESSED and source is not None:  # most of them are
        sql = "AND EXISTS (SELECT 1 FROM delivery_state s WHERE s.seq = b.first + bits.bit AND s.state = 1)"
        return newest_of_source(connection, source, before, sql)
    conditions = Conditions()
    conditions.add("s.seq < ?", before)
    conditions.add(f"s.state = {number}" + (" AND s.state >= 2" if number >= 2 else ""))  # so the partial index applies
    if source is not None:
        conditions.add(IS_OF_SOURCE, bound(source))
    sql = f"SELECT s.seq FROM delivery_state s{conditions.where} ORDER BY s.seq DESC"  # noqa: S608  our own words
    return (seq for (seq,) in connection.execute(sql, conditions.values))


def delivery_seq(connection: sqlite3.Connection, before: str | None) -> int:
    """Where the page before ended: after everything when there is none, before everything when it is not kept."""
    return SEQ_END if before is None else seq_of(connection, before) or 0


def get_delivery(connection: sqlite3.Connection, delivery_id: str) -> DeliveryRecord | None:
    seq = seq_of(connection, delivery_id)
    return None if seq is None else delivery_record(connection, Blocks(connection), seq, whole=True)


def list_events(connection: sqlite3.Connection, wanted: EventFilter) -> list[EventRecord]:
    before = SEQ_END if wanted.before is None else event_seq(connection, wanted.before) or 0
    blocks = Blocks(connection)
    if wanted.delivery_id is None and (wanted.state is not None or wanted.source is not None):
        rows = (
            connection.execute(f"{EVENT}{ALL_EVENTS} WHERE e.seq = ?", (seq,)).fetchone()
            for seq in found_events(connection, wanted, before)
        )
        return [record for row in rows if (record := event_record(blocks, row, None))]
    conditions = Conditions()
    conditions.add("e.seq < ?", before)
    if wanted.delivery_id is not None:
        conditions.add("e.delivery_seq = ?", seq_of(connection, wanted.delivery_id))
    if wanted.state is not None:
        conditions.add("coalesce(s.state, 0) = ?", EVENT_STATES.index(wanted.state))
    sql = f"{EVENT}{ALL_EVENTS}{conditions.where} ORDER BY e.seq DESC LIMIT {limited(wanted.limit)}"
    found = (event_record(blocks, row, None) for row in connection.execute(sql, conditions.values))
    return [record for record in found if record and wanted.source in (None, record.source)]


def found_events(connection: sqlite3.Connection, wanted: EventFilter, before: int) -> list[int]:
    """The newest seqs of a state or source. Those with a row are found in a narrow table, the others from marks."""
    limit, found = limited(wanted.limit), list[int]()
    if wanted.state is not EventState.PENDING:
        conditions = Conditions()
        conditions.add("s.seq < ?", before)
        if wanted.state is not None:  # as a literal, so that the partial index applies
            conditions.add(f"s.state = {EVENT_STATES.index(wanted.state)}")
        if wanted.source is not None:
            conditions.add("s.source = ?", bound(wanted.source))
        sql = f"SELECT s.seq FROM event_state s{conditions.where} ORDER BY s.seq DESC LIMIT {limit}"  # noqa: S608  our own words
        found += [seq for (seq,) in connection.execute(sql, conditions.values)]
    if wanted.state in (None, EventState.PENDING):
        found += newest_pending(connection, wanted.source, before, limit)
    return sorted(set(found), reverse=True)[:limit]


def get_event(connection: sqlite3.Connection, ref: str) -> EventRecord | None:
    seq = event_seq(connection, ref)
    row = connection.execute(f"{EVENT}, e.json{ALL_EVENTS} WHERE e.seq = ?", (seq,)).fetchone()
    if row is None or seq is None:
        return None
    return event_record(Blocks(connection), row[:-1], EventBlocks(connection).json(seq, row[-1]))


def event_seq(connection: sqlite3.Connection, ref: str) -> int | None:
    place = parse_ref(ref)
    row = connection.execute(EVENT_SEQ, (seq_of(connection, place[0]), *place[1:])).fetchone() if place else None
    return None if row is None else int(row[0])


def limited(limit: int) -> int:
    return max(0, min(limit, RECORDS_MAX))


def delivery_record(
    connection: sqlite3.Connection, blocks: Blocks, seq: int, *, whole: bool = False
) -> DeliveryRecord | None:
    """With its request when `whole`. None when it is not there any more."""
    head = blocks.head(seq)
    if head is None:
        return None
    happened = connection.execute(HAPPENED, (seq,)).fetchone() or NOTHING_YET
    state, settled_ms, environment, generation, event_count, duplicates, code, message = happened
    return DeliveryRecord(
        id=text(head.id),
        source=text(head.source),
        key=text_or_none(head.key),
        state=DELIVERY_STATES[state],
        received_ms=head.received_ms,
        settled_ms=settled_ms,
        environment=text_or_none(head.environment if environment is None else environment),
        body_bytes=blocks.body_bytes(seq),
        generation=generation,
        event_count=event_count,
        duplicates=tuple(json.loads(duplicates)) if duplicates else (),
        code=text_or_none(code),
        message=text_or_none(message),
        request=head.request(blocks.body(seq)) if whole else None,
    )


def event_record(blocks: Blocks, row: tuple[Any, ...], event_json: bytes | None) -> EventRecord | None:
    """`row` has the columns of EVENT. None when its delivery's block was damaged and somebody has taken it out."""
    delivery_seq, generation, position, event_id, name, destination, environment, state, *happened = row
    attempt, created_ms, at_ms, settled_ms, inngest_id, code, message = happened
    made_of = blocks.name(delivery_seq)
    if made_of is None:
        return None
    delivery_id = text(made_of.id)
    return EventRecord(
        ref=make_ref(delivery_id, generation, position),
        id=text(event_id),
        name=text(name),
        delivery_id=delivery_id,
        source=text(made_of.source),
        destination=text(destination),
        environment=text_or_none(environment),
        state=EVENT_STATES[state],
        attempt=attempt,
        created_ms=created_ms,
        at_ms=at_ms or created_ms,
        settled_ms=settled_ms,
        inngest_id=text_or_none(inngest_id),
        code=text_or_none(code),
        message=text_or_none(message),
        json=event_json,
    )


def find_prunable(connection: sqlite3.Connection, before_ms: int, limit: int) -> list[int]:
    """The oldest settled deliveries of before that time, as many as one short step can delete, but at least one."""
    found: list[int] = []
    events = size = 0
    for seq, event_count, body_bytes in connection.execute(PRUNABLE, (before_ms, limit)):
        events, size = events + event_count, size + body_bytes
        if found and (events > PRUNE_EVENTS_MAX or size > PRUNE_BYTES_MAX):
            break
        found.append(seq)
    return found
