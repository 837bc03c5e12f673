"""Deliveries and events as people see them, read from one snapshot; and what is found for pruning."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from relay.models import DeliveryRecord, DeliveryState, EventRecord, EventState, Request
from relay.stores.sqlite_file import bound, text, text_or_none
from relay.stores.sqlite_replay import make_ref, parse_ref
from relay.stores.sqlite_transitions import DELIVERY_STATES, EVENT_STATES, unpack_headers

RECORDS_MAX: Final = 1_000
#: What one step of pruning may delete, so that the writer is held for milliseconds.
PRUNE_EVENTS_MAX: Final = 2_000
PRUNE_BYTES_MAX: Final = 16 * 1024 * 1024

DELIVERY: Final = """
    SELECT d.id, s.source, d.key, s.state, s.received_ms, s.settled_ms, s.environment, s.body_bytes, s.generation,
    s.event_count, s.duplicates, s.code, s.message"""
FROM_DELIVERY: Final = " FROM delivery_state s CROSS JOIN deliveries d ON d.seq = s.seq"
EVENT: Final = """
    SELECT d.id, e.generation, e.position, e.id, e.name, s.source, l.destination, l.environment, s.state, s.attempt,
    e.created_ms, s.at_ms, s.settled_ms, s.inngest_id, s.code, s.message"""
JOINED: Final = " JOIN lanes l ON l.lane = s.lane JOIN deliveries d ON d.seq = e.delivery_seq"
FROM_EVENT: Final = f" FROM event_state s CROSS JOIN events e ON e.seq = s.seq{JOINED}"
OF_DELIVERY: Final = f" FROM events e CROSS JOIN event_state s ON s.seq = e.seq{JOINED}"
EVENT_SEQ: Final = """
    SELECT e.seq FROM deliveries d JOIN events e ON e.delivery_seq = d.seq
    WHERE d.id = ? AND e.generation = ? AND e.position = ?"""
PRUNABLE: Final = """
    SELECT s.seq, s.event_count, s.body_bytes FROM delivery_state s WHERE s.state > 0 AND s.received_ms < ?
    AND NOT EXISTS (SELECT 1 FROM events e JOIN event_state es ON es.seq = e.seq
                    WHERE e.delivery_seq = s.seq AND es.state = 0) ORDER BY s.seq LIMIT ?"""
#: NOT INDEXED: walk on from the place reached before, whatever the planner thinks of it.
OLDEST_PENDING: Final = """
    SELECT s.seq, (SELECT created_ms FROM events e WHERE e.seq = s.seq)
    FROM event_state s NOT INDEXED WHERE s.state = 0 AND s.seq >= ? ORDER BY s.seq LIMIT 1"""


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
    conditions = Conditions()
    if wanted.state is not None:
        number = DELIVERY_STATES.index(wanted.state)  # as a literal, so that the partial indexes apply
        conditions.add(f"s.state = {number}" + (" AND s.state >= 2" if number >= 2 else ""))
    if wanted.source is not None:
        conditions.add("s.source = ?", bound(wanted.source))
    if wanted.before is not None:
        conditions.add("s.seq < (SELECT seq FROM deliveries WHERE id = ?)", bound(wanted.before))
    sql = f"{DELIVERY}{FROM_DELIVERY}{conditions.where} ORDER BY s.seq DESC LIMIT {limited(wanted.limit)}"
    return [delivery_record(row, None) for row in connection.execute(sql, conditions.values)]


def get_delivery(connection: sqlite3.Connection, delivery_id: str) -> DeliveryRecord | None:
    sql = f"{DELIVERY}, d.method, d.path, d.query, d.headers, d.body FROM deliveries d "
    sql += "JOIN delivery_state s ON s.seq = d.seq WHERE d.id = ?"
    row = connection.execute(sql, (bound(delivery_id),)).fetchone()
    if row is None:
        return None
    method, path, query, headers, body = row[-5:]
    return delivery_record(row, Request(text(method), text(path), text(query), unpack_headers(headers), body))


def list_events(connection: sqlite3.Connection, wanted: EventFilter) -> list[EventRecord]:
    conditions = Conditions()
    if wanted.state is not None:
        conditions.add(f"s.state = {EVENT_STATES.index(wanted.state)}")
    if wanted.delivery_id is not None:
        conditions.add("e.delivery_seq = (SELECT seq FROM deliveries WHERE id = ?)", bound(wanted.delivery_id))
    if wanted.source is not None:
        conditions.add("s.source = ?", bound(wanted.source))
    if wanted.before is not None:
        conditions.add("s.seq < ?", event_seq(connection, wanted.before) or 0)
    tables = FROM_EVENT if wanted.delivery_id is None else OF_DELIVERY
    sql = f"{EVENT}{tables}{conditions.where} ORDER BY s.seq DESC LIMIT {limited(wanted.limit)}"
    return [event_record(row, None) for row in connection.execute(sql, conditions.values)]


def get_event(connection: sqlite3.Connection, ref: str) -> EventRecord | None:
    seq = event_seq(connection, ref)
    row = connection.execute(f"{EVENT}, e.json{FROM_EVENT} WHERE s.seq = ?", (seq,)).fetchone()
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


def oldest_received_ms(connection: sqlite3.Connection, sources: Iterable[str]) -> int | None:
    sql = "SELECT received_ms FROM delivery_state WHERE state = 0 AND source = ? ORDER BY seq LIMIT 1"
    rows = (connection.execute(sql, (bound(source),)).fetchone() for source in sources)
    return min((row[0] for row in rows if row is not None), default=None)


def oldest_pending(connection: sqlite3.Connection, from_seq: int) -> tuple[int, int] | None:
    """(seq, created_ms) of the first pending event at or after `from_seq`."""
    found: tuple[int, int] | None = connection.execute(OLDEST_PENDING, (from_seq,)).fetchone()
    return found
