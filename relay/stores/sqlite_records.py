"""Deliveries and events as people see them, read from one snapshot; and what is found for pruning."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from relay.models import DeliveryRecord, DeliveryState, EventRecord, EventState, Request
from relay.stores.sqlite_values import (
    DELIVERY_STATES,
    EVENT_STATES,
    bound,
    make_ref,
    parse_ref,
    text,
    text_or_none,
    unpack_headers,
)
from relay.stores.sqlite_waiting import newest_pending, newest_received

RECORDS_MAX: Final = 1_000
#: After every seq.
SEQ_END: Final = 2**63 - 1
#: What one step of pruning may delete, so that the writer is held for milliseconds.
PRUNE_EVENTS_MAX: Final = 2_000
PRUNE_BYTES_MAX: Final = 16 * 1024 * 1024

DELIVERY: Final = """
    SELECT d.id, d.source, d.key, coalesce(s.state, 0), d.received_ms, s.settled_ms,
    coalesce(s.environment, d.environment), length(d.body), coalesce(s.generation, 0), coalesce(s.event_count, 0),
    s.duplicates, s.code, s.message"""
ALL_DELIVERIES: Final = " FROM deliveries d LEFT JOIN delivery_state s ON s.seq = d.seq"
ENDED_DELIVERIES: Final = " FROM delivery_state s CROSS JOIN deliveries d ON d.seq = s.seq"
EVENT: Final = """
    SELECT d.id, e.generation, e.position, e.id, e.name, d.source, l.destination, l.environment, coalesce(s.state, 0),
    coalesce(s.attempt, 0), e.created_ms, coalesce(s.at_ms, 0), s.settled_ms, s.inngest_id, s.code, s.message"""
JOINED: Final = " JOIN lanes l ON l.lane = coalesce(s.lane, e.lane) JOIN deliveries d ON d.seq = e.delivery_seq"
ALL_EVENTS: Final = f" FROM events e LEFT JOIN event_state s ON s.seq = e.seq{JOINED}"
EVENT_SEQ: Final = """
    SELECT e.seq FROM deliveries d JOIN events e ON e.delivery_seq = d.seq
    WHERE d.id = ? AND e.generation = ? AND e.position = ?"""
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
    before = delivery_seq(connection, wanted.before)
    if wanted.state is DeliveryState.RECEIVED:
        found = newest_received(connection, wanted.source, before, limited(wanted.limit))
        rows = (connection.execute(f"{DELIVERY}{ALL_DELIVERIES} WHERE d.seq = ?", (each,)).fetchone() for each in found)
        return [delivery_record(row, None) for row in rows]
    conditions, tables, seq = Conditions(), ALL_DELIVERIES, "d.seq"
    if wanted.source is not None:
        conditions.add("d.source = ?", bound(wanted.source))
    if wanted.state is not None:
        number = DELIVERY_STATES.index(wanted.state)  # as a literal, so that the partial index applies
        conditions.add(f"s.state = {number}" + (" AND s.state >= 2" if number >= 2 else ""))
        if number >= 2 or wanted.source is None:
            tables, seq = ENDED_DELIVERIES, "s.seq"
    conditions.add(f"{seq} < ?", before)
    sql = f"{DELIVERY}{tables}{conditions.where} ORDER BY {seq} DESC LIMIT {limited(wanted.limit)}"
    return [delivery_record(row, None) for row in connection.execute(sql, conditions.values)]


def delivery_seq(connection: sqlite3.Connection, before: str | None) -> int:
    """Where the page before ended: after everything when there is none, before everything when it is not kept."""
    if before is None:
        return SEQ_END
    row = connection.execute("SELECT seq FROM deliveries WHERE id = ?", (bound(before),)).fetchone()
    return 0 if row is None else int(row[0])


def get_delivery(connection: sqlite3.Connection, delivery_id: str) -> DeliveryRecord | None:
    sql = f"{DELIVERY}, d.method, d.path, d.query, d.headers, d.body{ALL_DELIVERIES} WHERE d.id = ?"
    row = connection.execute(sql, (bound(delivery_id),)).fetchone()
    if row is None:
        return None
    method, path, query, headers, body = row[-5:]
    return delivery_record(row, Request(text(method), text(path), text(query), unpack_headers(headers), body))


def list_events(connection: sqlite3.Connection, wanted: EventFilter) -> list[EventRecord]:
    before = SEQ_END if wanted.before is None else event_seq(connection, wanted.before) or 0
    if wanted.delivery_id is None and (wanted.state is not None or wanted.source is not None):
        rows = (
            connection.execute(f"{EVENT}{ALL_EVENTS} WHERE e.seq = ?", (seq,)).fetchone()
            for seq in found_events(connection, wanted, before)
        )
        return [event_record(row, None) for row in rows]
    conditions = Conditions()
    conditions.add("e.seq < ?", before)
    if wanted.delivery_id is not None:
        conditions.add("e.delivery_seq = (SELECT seq FROM deliveries WHERE id = ?)", bound(wanted.delivery_id))
    if wanted.state is not None:
        conditions.add("coalesce(s.state, 0) = ?", EVENT_STATES.index(wanted.state))
    if wanted.source is not None:
        conditions.add("d.source = ?", bound(wanted.source))
    sql = f"{EVENT}{ALL_EVENTS}{conditions.where} ORDER BY e.seq DESC LIMIT {limited(wanted.limit)}"
    return [event_record(row, None) for row in connection.execute(sql, conditions.values)]


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
    return None if row is None else event_record(row, row[-1])


def event_seq(connection: sqlite3.Connection, ref: str) -> int | None:
    place = parse_ref(ref)
    row = connection.execute(EVENT_SEQ, (bound(place[0]), *place[1:])).fetchone() if place else None
    return None if row is None else int(row[0])


def limited(limit: int) -> int:
    return max(0, min(limit, RECORDS_MAX))


def delivery_record(row: tuple[Any, ...], request: Request | None) -> DeliveryRecord:
    """`row` begins with the columns of DELIVERY."""
    return DeliveryRecord(
        id=text(row[0]),
        source=text(row[1]),
        key=text_or_none(row[2]),
        state=DELIVERY_STATES[row[3]],
        received_ms=row[4],
        settled_ms=row[5],
        environment=text_or_none(row[6]),
        body_bytes=row[7],
        generation=row[8],
        event_count=row[9],
        duplicates=tuple(json.loads(row[10])) if row[10] else (),
        code=text_or_none(row[11]),
        message=text_or_none(row[12]),
        request=request,
    )


def event_record(row: tuple[Any, ...], event_json: bytes | None) -> EventRecord:
    """`row` begins with the columns of EVENT."""
    delivery_id = text(row[0])
    return EventRecord(
        ref=make_ref(delivery_id, row[1], row[2]),
        id=text(row[3]),
        name=text(row[4]),
        delivery_id=delivery_id,
        source=text(row[5]),
        destination=text(row[6]),
        environment=text_or_none(row[7]),
        state=EVENT_STATES[row[8]],
        attempt=row[9],
        created_ms=row[10],
        at_ms=row[11] or row[10],
        settled_ms=row[12],
        inngest_id=text_or_none(row[13]),
        code=text_or_none(row[14]),
        message=text_or_none(row[15]),
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
