"""The SQL of every change of state. Each function runs inside the writer's transaction and knows nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from relay.errors import TransformError
from relay.models import Accepted, Delivery, DeliveryState, Event, EventState, Finished, RawHeaders, Settlement
from relay.stores.sqlite_file import bound, text
from relay.stores.sqlite_writer import Session

#: A state's number in the file is its place here.
DELIVERY_STATES: Final = (
    DeliveryState.RECEIVED,
    DeliveryState.PROCESSED,
    DeliveryState.FILTERED,
    DeliveryState.DEAD,
)
EVENT_STATES: Final = (EventState.PENDING, EventState.SENT, EventState.DEAD)
#: The most duplicate ids that a delivery remembers.
DUPLICATES_MAX: Final = 100
#: A script can throw a whole book; a person reads its first page.
MESSAGE_CHARACTERS_MAX: Final = 8_192

INSERT_DELIVERY: Final = """
    INSERT INTO deliveries (id, source, key, received_ms, environment, method, path, query, headers, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (source, key, ifnull(environment, '')) WHERE key IS NOT NULL DO NOTHING"""
FIND_FIRST: Final = """
    SELECT id FROM deliveries
    WHERE source = ? AND key = ? AND ifnull(environment, '') = ifnull(?, '') AND key IS NOT NULL"""
INSERT_DELIVERY_STATE: Final = """
    INSERT INTO delivery_state (seq, state, source, received_ms, body_bytes, environment, generation)
    VALUES (?, 0, ?, ?, ?, ?, ?)"""
INSERT_EVENT: Final = """
    INSERT INTO events (delivery_seq, generation, position, id, name, ts, created_ms, json)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
FINISH_DELIVERY: Final = """
    UPDATE delivery_state SET state = ?, settled_ms = ?, event_count = event_count + ?, duplicates = ?,
    code = NULL, message = NULL WHERE seq = ?"""
SETTLE_EVENT: Final = """
    UPDATE event_state SET state = ?, settled_ms = ?, inngest_id = ?, code = ?, message = ?, at_ms = ?,
    attempt = attempt + ? WHERE seq = ? AND state = 0"""


def accept(session: Session, deliveries: Sequence[Delivery]) -> list[Accepted]:
    return [_accept_one(session, delivery) for delivery in deliveries]


def _accept_one(session: Session, delivery: Delivery) -> Accepted:
    request = delivery.request
    source, key, environment = bound(delivery.source), bound(delivery.key), bound(delivery.environment)
    arrived = (bound(delivery.id), source, key, delivery.received_ms, environment)
    asked = (bound(request.method), bound(request.path), bound(request.query), pack_headers(request.headers))
    inserted = session.execute(INSERT_DELIVERY, (*arrived, *asked, request.body))
    if not inserted.rowcount:
        first = session.execute(FIND_FIRST, (source, key, environment)).fetchone()
        return Accepted(text(first[0]), duplicate=True)
    state = (inserted.lastrowid, source, delivery.received_ms, len(request.body), environment, delivery.generation)
    session.execute(INSERT_DELIVERY_STATE, state)
    return Accepted(delivery.id, duplicate=False)


@dataclass(slots=True)
class FinishedIn:
    """What finish stored, and in which lanes: (number, destination, environment) → count."""

    finished: Finished
    lanes: Counter[tuple[int, str, str | None]]


def finish(session: Session, seq: int, source: str, events: Sequence[Event], now_ms: int) -> FinishedIn | None:
    """None when the delivery is no longer received."""
    row = session.execute("SELECT generation FROM delivery_state WHERE seq = ? AND state = 0", (seq,)).fetchone()
    if row is None:
        return None
    lanes: Counter[tuple[int, str, str | None]] = Counter()
    duplicates: list[str] = []
    for position, event in enumerate(events):
        if not session.seen.is_new(event.destination, event.environment, event.id, now_ms):
            duplicates.append(event.id)
            continue
        lane = session.lane(event.destination, event.environment)
        insert_event(session, lane, source, (seq, row[0], position), event, now_ms)
        lanes[lane, event.destination, event.environment] += 1
    stored = lanes.total()
    state = DELIVERY_STATES.index(DeliveryState.PROCESSED if events else DeliveryState.FILTERED)
    kept = json.dumps(duplicates[:DUPLICATES_MAX]) if duplicates else None
    session.execute(FINISH_DELIVERY, (state, now_ms, stored, kept, seq))
    return FinishedIn(Finished(stored, tuple(duplicates)), lanes)


def insert_event(
    session: Session, lane: int, source: str, ref: tuple[int, int, int], event: Event, now_ms: int
) -> None:
    """`ref` is (delivery's seq, generation, position)."""
    row = (*ref, bound(event.id), bound(event.name), event.ts, now_ms, event.json)
    seq = session.execute(INSERT_EVENT, row).lastrowid
    sql = "INSERT INTO event_state (seq, state, lane, source) VALUES (?, 0, ?, ?)"
    session.execute(sql, (seq, lane, bound(source)))


def fail(session: Session, seq: int, error: TransformError, now_ms: int) -> bool:
    """False when the delivery is no longer received."""
    state = DELIVERY_STATES.index(DeliveryState.DEAD)
    sql = "UPDATE delivery_state SET state = ?, settled_ms = ?, code = ?, message = ? WHERE seq = ? AND state = 0"
    return session.execute(sql, (state, now_ms, error.code, shortened(error.message), seq)).rowcount == 1


def settle(session: Session, settlements: Iterable[tuple[int, Settlement]], now_ms: int) -> None:
    """Each is (event's seq, how it ends)."""
    session.connection.executemany(SETTLE_EVENT, [_settle_row(seq, each, now_ms) for seq, each in settlements])


def _settle_row(seq: int, settlement: Settlement, now_ms: int) -> tuple[object, ...]:
    pending = settlement.state is EventState.PENDING
    return (
        EVENT_STATES.index(settlement.state),
        None if pending else now_ms,
        bound(settlement.inngest_id),
        bound(settlement.code),
        shortened(settlement.message),
        max(settlement.at_ms, 1) if pending else 0,
        int(settlement.counted),
        seq,
    )


@dataclass(slots=True)
class Pruned:
    """What went, by state."""

    deliveries: Counter[DeliveryState] = field(default_factory=Counter)
    events: Counter[EventState] = field(default_factory=Counter)


def prune(session: Session, candidates: Iterable[int], now_ms: int) -> Pruned:
    """Delete what is still settled of deliveries found before; drop a table of ids that are past the window."""
    pruned = Pruned()
    for seq in candidates:
        _prune_one(session, seq, pruned)
    session.seen.drop_expired(now_ms)
    return pruned


def _prune_one(session: Session, seq: int, pruned: Pruned) -> None:
    found = session.execute("SELECT state FROM delivery_state WHERE seq = ? AND state > 0", (seq,)).fetchone()
    sql = "SELECT e.seq, s.state FROM events e JOIN event_state s ON s.seq = e.seq WHERE e.delivery_seq = ?"
    events = session.execute(sql, (seq,)).fetchall()
    if found is None or any(state == 0 for _, state in events):
        return
    for table in ("events", "event_state"):
        session.connection.executemany(f"DELETE FROM {table} WHERE seq = ?", [(event,) for event, _ in events])  # noqa: S608  a name from the line above
    for table in ("deliveries", "delivery_state"):
        session.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))  # noqa: S608  as above
    pruned.deliveries[DELIVERY_STATES[found[0]]] += 1
    pruned.events.update(EVENT_STATES[state] for _, state in events)


def probe(session: Session) -> None:
    session.execute("UPDATE meta SET probes = probes + 1")


def shortened(message: str | None) -> str | bytes | None:
    if message is not None and len(message) > MESSAGE_CHARACTERS_MAX:
        message = message[: MESSAGE_CHARACTERS_MAX - 1] + "…"
    return bound(message)


def pack_headers(headers: RawHeaders) -> bytes:
    """Every byte as one latin-1 character, so that JSON holds them all."""
    return msgspec.json.encode([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])


def unpack_headers(packed: bytes) -> RawHeaders:
    pairs = msgspec.json.decode(packed, type=list[tuple[str, str]])
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs)
