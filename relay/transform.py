"""A delivery through its script: the call, and the result judged by Inngest's rules before anything is stored.

The result stays JSON text: only an event's envelope (name, id, ts, v) is read, its data goes on untouched.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.errors import TransformError
from relay.models import Delivery, Event
from relay.sandbox import SandboxPool, Script
from relay.transform_input import call_for

__all__ = ["TransformLimits", "call_for", "default_script", "events_from", "transform"]

NAME_LENGTH_MAX: Final = 256
#: Inngest's bounds of ts, in unix milliseconds: 1980-01-01 and 2100-01-01.
TS_MIN: Final = 315_532_800_000
TS_MAX: Final = 4_102_444_800_000
#: A body larger than this is decoded in a thread, so that the event loop goes on.
INLINE_BYTES_MAX: Final = 64 * 1024
#: Escapes of a surrogate pair or of half of one, after backslashes that escape one another.
SURROGATES: Final = re.compile(
    r"(?<!\\)(?P<even>(?:\\\\)*+)"
    r"(?:\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2}))"
)


@dataclass(frozen=True, slots=True)
class TransformLimits:
    """`body_bytes_max` bounds a compressed body once more; it was under receiver.body_bytes_max when accepted."""

    events_per_delivery_max: int
    event_bytes_max: int
    body_bytes_max: int = 100 * 1024 * 1024


class InvalidEventError(Exception):
    """What is wrong with one event, as a sentence that begins with the field."""


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


async def transform(
    pool: SandboxPool,
    script: Script,
    delivery: Delivery,
    *,
    destination: str,
    environment: str | None,
    limits: TransformLimits,
) -> list[Event] | TransformError:
    """The events of one delivery; an empty list when the script filtered it. Raises SandboxUnavailable."""
    if len(delivery.request.body) > INLINE_BYTES_MAX:
        call = await asyncio.to_thread(call_for, delivery, limits.body_bytes_max)
    else:
        call = call_for(delivery, limits.body_bytes_max)
    if isinstance(call, TransformError):
        return call
    result = await pool.run(script, call)
    if isinstance(result, TransformError):
        return result
    return events_from(result, delivery, script, destination=destination, environment=environment, limits=limits)


def default_script(source: str) -> Script:
    """Inngest's default transform for integrations; `inngest/…` is a name that Inngest keeps for itself."""
    text = (Path(__file__).parent / "default_transform.js").read_text("utf-8")
    slug = "inngest-source" if source == "inngest" else source
    return Script(f"default transform of {source}", text.replace("SOURCE", slug, 1))


def events_from(
    result: str | None,
    delivery: Delivery,
    script: Script,
    *,
    destination: str,
    environment: str | None,
    limits: TransformLimits,
) -> list[Event] | TransformError:
    """The JSON text that transform returned → events ready to store, or the first rule broken."""
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
            events.append(event_from(text, position, delivery, destination, environment, limits.event_bytes_max))
        except InvalidEventError as error:
            return TransformError("invalid_event", f"{script.file}: event {position + 1}: {error}")
    return events


def event_texts(result: str | None) -> list[msgspec.Raw]:
    """One JSON text per event. `null` is what an object whose toJSON says null looks like: filtered."""
    if result is None or result == "null":
        return []
    text = mend_surrogates(result)
    if text.startswith("{"):
        return [msgspec.Raw(text.encode())]
    if not text.startswith("["):
        raise InvalidEventError(f"transform returned {describe(text)}; return an event, an array of events, or null")
    try:
        return RAW_LIST.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidEventError(f"the result cannot be read: {error}") from error


def mend_surrogates(text: str) -> str:
    """Half a surrogate pair, which no UTF-8 can hold, becomes U+FFFD, as it does in Inngest."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return SURROGATES.sub(lambda found: found["even"] + "\\ufffd" if found["half"] else found[0], text)


def event_from(
    text: msgspec.Raw, position: int, delivery: Delivery, destination: str, environment: str | None, bytes_max: int
) -> Event:
    """One event by Inngest's rules. Raises InvalidEventError."""
    try:
        fields = ENVELOPE.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        if bytes(text).startswith(b"{"):
            raise InvalidEventError(f"cannot be read: {error}") from error
        raise InvalidEventError(f"is {describe(bytes(text).decode())}, not an object") from error
    if bytes(text) == b"{}":
        raise InvalidEventError(
            "is {}, as a promise in a list is: name is missing; for promises return Promise.all(list)"
        )
    name = event_name(fields.name)
    ts = event_ts(fields.ts, delivery.received_ms)
    event_id = read_id(fields.id) or f"{delivery.source}:{delivery.key or delivery.id}:{position}"
    if delivery.generation:
        event_id += f":again-{delivery.generation}"
    json = event_json(event_id, name, ts, fields)
    if len(json) > bytes_max:
        raise InvalidEventError(
            f"is {len(json)} bytes of JSON, more than the destination's event_bytes_max = {bytes_max}"
        )
    return Event(event_id, name, ts, json, destination, environment)


def event_json(event_id: str, name: str, ts: int, fields: Envelope) -> bytes:
    """The event as it is sent. No data is sent as `{}`: Inngest would store null, and functions read event.data.x."""
    data = read_object("data", fields.data) or b"{}"
    user = read_object("user", fields.user)
    parts = [b'{"id":', msgspec.json.encode(event_id), b',"name":', msgspec.json.encode(name), b',"data":', data]
    parts += [b',"ts":', str(ts).encode()]
    if version := read_version(fields.v):
        parts += [b',"v":', msgspec.json.encode(version)]
    if user:
        parts += [b',"user":', user]
    return b"".join([*parts, b"}"])


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
    if name.lower().startswith("inngest/"):
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
