"""Replay: named work put back by a person, with a sentence for what is not. Runs in the writer's transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from relay.models import DeliveryState, Event, EventState, ReplayResult
from relay.stores.sqlite_blocks import Blocks, seq_of
from relay.stores.sqlite_event_blocks import EventBlocks
from relay.stores.sqlite_session import Session
from relay.stores.sqlite_transitions import event_row, insert_events
from relay.stores.sqlite_values import (
    DELIVERY_STATES,
    EVENT_STATES,
    bound,
    event_hash,
    make_ref,
    parse_ref,
    text,
    text_or_none,
)

RECEIVE_AGAIN: Final = """
    UPDATE delivery_state SET state = 0, settled_ms = NULL, code = NULL, message = NULL, duplicates = NULL,
    generation = ?, environment = ? WHERE seq = ?"""
PEND_AGAIN: Final = """
    UPDATE event_state SET state = 0, lane = ?, at_ms = 0, attempt = 0, settled_ms = NULL, code = NULL, message = NULL
    WHERE seq = ?"""
FIND_DELIVERY: Final = "SELECT state, environment, generation FROM delivery_state WHERE seq = ?"
FIND_EVENT: Final = """
    SELECT e.seq, coalesce(s.state, 0), l.destination, l.environment, e.id, e.name, e.ts, e.json
    FROM events e LEFT JOIN event_state s ON s.seq = e.seq JOIN lanes l ON l.lane = coalesce(s.lane, e.lane)
    WHERE e.delivery_seq = ? AND e.generation = ? AND e.position = ?"""
NEXT_GENERATION: Final = """
    SELECT 1 + max(generation, coalesce((SELECT max(generation) FROM events WHERE delivery_seq = ?1), 0))
    FROM delivery_state WHERE seq = ?1"""


@dataclass(slots=True)
class Replayed:
    """The answer, and what the books must learn: deliveries as (source, seq, state's number before), events as (lane,
    destination, environment, state before; None: it is a copy).
    """

    replayed: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    deliveries: list[tuple[str, int, int]] = field(default_factory=list)
    events: list[tuple[int, str, str | None, EventState | None]] = field(default_factory=list)

    @property
    def result(self) -> ReplayResult:
        return ReplayResult(tuple(self.replayed), tuple(self.refused))


def replay(session: Session, ids: Sequence[str], again: bool, environment: str | None, now_ms: int) -> Replayed:
    done = Replayed()
    for name in ids:
        refusal = _replay_one(session, done, name, again, environment, now_ms)
        if refusal is not None:
            done.refused.append((name, refusal))
    return done


def _replay_one(
    session: Session, done: Replayed, name: str, again: bool, environment: str | None, now_ms: int
) -> str | None:
    """None when it is back at work, else the sentence why not."""
    seq = seq_of(session.connection, name)
    if seq is not None:
        return _replay_delivery(session, done, name, seq, again, environment)
    ref = parse_ref(name)
    seq = seq_of(session.connection, ref[0]) if ref else None
    row = session.execute(FIND_EVENT, (seq, ref[1], ref[2])).fetchone() if ref and seq is not None else None
    if ref is None or seq is None or row is None:
        return "is no delivery's id and no event's ref that is kept here"
    event_json = EventBlocks(session.connection).json(row[0], row[7])
    if event_json is None:
        return "has no JSON any more: its block was damaged and taken out of the file"
    event = Event(text(row[4]), text(row[5]), row[6], event_json, text(row[2]), environment or text_or_none(row[3]))
    state = EVENT_STATES[row[1]]
    if state is EventState.DEAD:
        _revive_event(session, done, name, row[0], event)
        return None
    if state is EventState.PENDING:
        return "is pending: it will be sent without a replay"
    if not again:
        return "is sent: use --again to send a copy of it under a new id"
    return _copy_event(session, done, (name, seq, ref[2]), event, now_ms)


def _replay_delivery(
    session: Session, done: Replayed, name: str, seq: int, again: bool, environment: str | None
) -> str | None:
    found = session.execute(FIND_DELIVERY, (seq,)).fetchone()
    number, set_before, generation = found or (0, None, 0)
    named = Blocks(session.connection).name(seq)
    assert named is not None, "its id was found just now"
    state = DELIVERY_STATES[number]
    if state is DeliveryState.RECEIVED:
        return "is received: it will be processed without a replay"
    if state is DeliveryState.PROCESSED:
        if not again:
            return "is processed: use --again to run it again with new event ids"
        generation = next_generation(session, seq)
    session.execute(RECEIVE_AGAIN, (generation, bound(environment) or set_before, seq))
    done.replayed.append(name)
    done.deliveries.append((text(named.source), seq, number))
    return None


def _revive_event(session: Session, done: Replayed, name: str, seq: int, event: Event) -> None:
    lane = session.lane(event.destination, event.environment)
    session.execute(PEND_AGAIN, (lane, seq))
    done.replayed.append(name)
    done.events.append((lane, event.destination, event.environment, EventState.DEAD))


def _copy_event(session: Session, done: Replayed, place: tuple[str, int, int], event: Event, now_ms: int) -> str | None:
    """`place` is (ref, delivery's seq, position). The copy's ref is what is reported: the original stays sent."""
    name, delivery_seq, position = place
    generation = next_generation(session, delivery_seq)
    new_id = f"{event.id}:again-{generation}"
    copied = with_id(event.json, new_id)
    if copied is None:
        return "holds JSON that cannot be given a new id"
    session.ids.add(event_hash(event.destination, event.environment, new_id), now_ms)
    lane = session.lane(event.destination, event.environment)
    copy = Event(new_id, event.name, event.ts, copied, event.destination, event.environment)
    seq, session.next_event = session.next_event, session.next_event + 1
    row = event_row(seq, lane, (delivery_seq, generation, position), copy, now_ms)
    insert_events(session, seq, [row], [copied])
    session.execute("UPDATE delivery_state SET event_count = event_count + 1 WHERE seq = ?", (delivery_seq,))
    ref = parse_ref(name)
    done.replayed.append(make_ref(ref[0] if ref else name, generation, position))
    done.events.append((lane, event.destination, event.environment, None))
    return None


def next_generation(session: Session, delivery_seq: int) -> int:
    """One more than any that this delivery or its events have."""
    return int(session.execute(NEXT_GENERATION, (delivery_seq,)).fetchone()[0])


def with_id(event_json: bytes, event_id: str) -> bytes | None:
    """The same JSON with another id, every other value as it was, byte for byte. None when that is not possible."""
    try:
        fields = msgspec.json.decode(event_json, type=dict[str, msgspec.Raw])
        fields["id"] = msgspec.Raw(json.dumps(event_id).encode())
        return msgspec.json.encode(fields)
    except (msgspec.MsgspecError, UnicodeError):
        return None
