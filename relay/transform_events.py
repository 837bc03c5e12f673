"""What a script returned → events ready to store, judged by Inngest's rules.

The result stays JSON text: only an event's envelope (name, id, ts, v) is read, its data goes on untouched. Most events
are read in one step (`usual_event`); whatever that does not take is read field by field, to say what is wrong with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from relay.errors import TransformError
from relay.models import Delivery, Event
from relay.sandbox import Script

NAME_LENGTH_MAX: Final = 256
#: Inngest's bounds of ts, in unix milliseconds: 1980-01-01 and 2100-01-01.
TS_MIN: Final = 315_532_800_000
TS_MAX: Final = 4_102_444_800_000
#: `{`, which data begins with.
OPENING: Final = ord("{")
#: Escapes of a surrogate pair or of half of one, after backslashes that escape one another.
SURROGATES: Final = re.compile(
    rb"(?<!\\)(?P<even>(?:\\\\)*+)"
    rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2}))"
)


@dataclass(frozen=True, slots=True)
class TransformLimits:
    """`body_bytes_max` bounds a compressed body once more; it was under receiver.body_bytes_max when accepted."""

    events_per_delivery_max: int
    event_bytes_max: int
    body_bytes_max: int = 100 * 1024 * 1024


class InvalidEventError(Exception):
    """What is wrong with one event, as a sentence that begins with the field."""


class Usual(msgspec.Struct, gc=False):
    """An event with nothing unusual about it. One that has a version or a user is none."""

    name: str
    data: msgspec.Raw
    ts: int | float | None = None
    id: str | None = None
    v: msgspec.Raw | None = None
    user: msgspec.Raw | None = None


class Envelope(msgspec.Struct):
    """What Inngest reads of an event; every other field is dropped, there and here."""

    name: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    ts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    v: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    user: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


RAW_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
ENVELOPE: Final = msgspec.json.Decoder(Envelope)
USUAL: Final = msgspec.json.Decoder(Usual)
ENCODE: Final = msgspec.json.Encoder().encode


def events_from(
    result: bytes | None,
    delivery: Delivery,
    script: Script,
    *,
    destination: str,
    environment: str | None,
    limits: TransformLimits,
) -> list[Event] | TransformError:
    """The JSON text that transform returned → events ready to store, or the first rule broken."""
    if result is not None and result[:1] == b"{" and limits.events_per_delivery_max > 0:
        text = mend_surrogates(result) if b"\\" in result else result
        event = usual_event(text, 0, delivery, destination, environment)
        if event is not None and len(event.json) <= limits.event_bytes_max:
            return [event]
    try:
        texts = event_texts(result)
    except InvalidEventError as error:
        return TransformError("invalid_event", f"{script.file}: {error}")
    if len(texts) > limits.events_per_delivery_max:
        found = f"{len(texts)} events, more than sandbox.events_per_delivery_max = {limits.events_per_delivery_max}"
        return TransformError("too_many_events", f"{script.file}: returned {found}")
    events: list[Event] = []
    for position, text in enumerate(texts):
        try:
            event = usual_event(text, position, delivery, destination, environment)
            if event is None:
                event = event_from(text, position, delivery, destination, environment)
            events.append(small_enough(event, limits.event_bytes_max))
        except InvalidEventError as error:
            return TransformError("invalid_event", f"{script.file}: event {position + 1}: {error}")
    return events


def event_texts(result: bytes | None) -> list[bytes]:
    """One JSON text per event. `null` is what an object whose toJSON says null looks like: filtered."""
    if result is None or result == b"null":
        return []
    text = mend_surrogates(result)
    if text.startswith(b"{"):
        return [text]
    if not text.startswith(b"["):
        found = describe(text.decode())
        raise InvalidEventError(f"transform returned {found}; return an event, an array of events, or null")
    try:
        return [bytes(raw) for raw in RAW_LIST.decode(text)]
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidEventError(f"the result cannot be read: {error}") from error


def mend_surrogates(text: bytes) -> bytes:
    """Half a surrogate pair, which no UTF-8 can hold, becomes U+FFFD, as it does in Inngest."""
    if b"\\" not in text or (b"\\ud" not in text and b"\\uD" not in text):  # one byte is found much faster than three
        return text
    return SURROGATES.sub(lambda found: found["even"] + b"\\ufffd" if found["half"] else found[0], text)


def usual_event(
    text: bytes, position: int, delivery: Delivery, destination: str, environment: str | None
) -> Event | None:
    """One event in which nothing is wrong or unusual; None when there may be, which `event_from` then finds."""
    try:
        found = USUAL.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    name, ts = found.name, found.ts
    if ts is None:
        ts = delivery.received_ms
    elif not isinstance(ts, int) or not TS_MIN <= ts <= TS_MAX:
        return None
    name_json = usual_name(name) if len(name) <= NAME_LENGTH_MAX else b""
    if not name_json or found.v is not None or found.user is not None:
        return None
    event_id = found.id
    if not event_id or delivery.generation:
        event_id = id_of(event_id, position, delivery)
    begin = b'{"id":%b,"name":%b,"data":' % (ENCODE(event_id), name_json)
    json = b"".join((begin, found.data, b',"ts":%d}' % ts))
    return Event(event_id, name, ts, json, destination, environment) if json[len(begin)] == OPENING else None


@lru_cache(maxsize=1024)
def usual_name(name: str) -> bytes:
    """The JSON text of an event's name, which a script repeats; empty for one that Inngest does not take."""
    return ENCODE(name) if name and not is_reserved(name) else b""


def small_enough(event: Event, bytes_max: int) -> Event:
    if len(event.json) > bytes_max:
        raise InvalidEventError(
            f"is {len(event.json)} bytes of JSON, more than the destination's event_bytes_max = {bytes_max}"
        )
    return event


def id_of(given: str | None, position: int, delivery: Delivery) -> str:
    """The script's id, or one that is the same for each copy of the delivery; another one when it is replayed anew."""
    event_id = given or f"{delivery.source}:{delivery.key or delivery.id}:{position}"
    return f"{event_id}:again-{delivery.generation}" if delivery.generation else event_id


def is_reserved(name: str) -> bool:
    return name[:8].lower() == "inngest/"


def event_from(text: bytes, position: int, delivery: Delivery, destination: str, environment: str | None) -> Event:
    """One event by Inngest's rules. Raises InvalidEventError."""
    try:
        fields = ENVELOPE.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        if text.startswith(b"{"):
            raise InvalidEventError(f"cannot be read: {error}") from error
        raise InvalidEventError(f"is {describe(text.decode())}, not an object") from error
    if text == b"{}":
        raise InvalidEventError(
            "is {}, as a promise in a list is: name is missing; for promises return Promise.all(list)"
        )
    name = event_name(fields.name)
    ts = event_ts(fields.ts, delivery.received_ms)
    event_id = id_of(read_id(fields.id), position, delivery)
    return Event(event_id, name, ts, event_json(event_id, name, ts, fields), destination, environment)


def event_json(event_id: str, name: str, ts: int, fields: Envelope) -> bytes:
    """The event as it is sent. No data is sent as `{}`: Inngest would store null, and functions read event.data.x."""
    data = read_object("data", fields.data) or b"{}"
    user = read_object("user", fields.user)
    end = b""
    if version := read_version(fields.v):
        end += b',"v":%b' % ENCODE(version)
    if user:
        end += b',"user":%b' % user
    return envelope(event_id, name, data, ts, end + b"}")


def envelope(event_id: str, name: str, data: bytes, ts: int, end: bytes) -> bytes:
    """The event's JSON text, from its beginning to `end`."""
    parts = (b'{"id":', ENCODE(event_id), b',"name":', ENCODE(name), b',"data":', data, b',"ts":', b"%d" % ts, end)
    return b"".join(parts)


def read(raw: msgspec.Raw | msgspec.UnsetType) -> Any:
    """A small field's value; None for null and for no such field."""
    try:
        return None if isinstance(raw, msgspec.UnsetType) else msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:  # a number of a thousand digits
        raise InvalidEventError(f"cannot be read: {error}") from error


def event_name(raw: msgspec.Raw | msgspec.UnsetType) -> str:
    name = read(raw)
    if not isinstance(name, str) or not name:
        raise InvalidEventError(f"name must be a string that is not empty; it is {describe_value(name)}")
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidEventError(f"name is {len(name)} characters long, more than {NAME_LENGTH_MAX}")
    if is_reserved(name):
        raise InvalidEventError(f"name {name!r} begins with inngest/, which Inngest keeps for itself")
    return name


def read_id(raw: msgspec.Raw | msgspec.UnsetType) -> str | None:
    value = read(raw)
    if value is not None and not isinstance(value, str):
        hint = "; write String(…) around it" if isinstance(value, int | float) else ""
        raise InvalidEventError(f"id must be a string; it is {describe_value(value)}{hint}")
    return value or None


def read_version(raw: msgspec.Raw | msgspec.UnsetType) -> str | None:
    value = read(raw)
    if value is not None and not isinstance(value, str):
        raise InvalidEventError(f"v must be a string; it is {describe_value(value)}")
    return value or None


def read_object(field: str, raw: msgspec.Raw | msgspec.UnsetType) -> bytes | None:
    """An object's own text; None for null and for no such field."""
    text = b"null" if isinstance(raw, msgspec.UnsetType) else bytes(raw)
    if text == b"null":
        return None
    if not text.startswith(b"{"):
        raise InvalidEventError(f"{field} must be an object; it is {describe(text.decode())}")
    return text


def event_ts(raw: msgspec.Raw | msgspec.UnsetType, received_ms: int) -> int:
    """Unix milliseconds; 0, null and no ts mean the time of receipt."""
    value = read(raw)
    if value is None:
        return received_ms
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; for a Date write .getTime(), for text Date.parse(…)" if isinstance(value, str) else ""
        raise InvalidEventError(f"ts must be a number of unix milliseconds; it is {describe_value(value)}{hint}")
    ts = round(value)
    if ts == 0:
        return received_ms
    if not TS_MIN <= ts <= TS_MAX:
        raise InvalidEventError(f"ts {value} is {ts_problem(ts)}")
    return ts


def ts_problem(ts: int) -> str:
    if TS_MIN <= ts * 1000 <= TS_MAX:
        return "in seconds; Inngest wants milliseconds: multiply by 1000"
    if TS_MIN <= ts // 1000 <= TS_MAX:
        return "in microseconds; Inngest wants milliseconds: divide by 1000"
    if TS_MIN <= ts // 1_000_000 <= TS_MAX:
        return "in nanoseconds; Inngest wants milliseconds: divide by 1000000"
    return "before 1980, which Inngest refuses" if ts < TS_MIN else "after 2100, which Inngest refuses"


def describe_value(value: object) -> str:
    return "missing or null" if value is None else describe(msgspec.json.encode(value).decode())


def describe(text: str) -> str:
    """A JSON value for an error message: its kind, never its content beyond a number."""
    kinds = {"{": "an object", "[": "an array", '"': "a string", "t": "true", "f": "false", "n": "null"}
    if text == '""':
        return "an empty string"
    return kinds.get(text[:1], f"the number {text[:30]}")
