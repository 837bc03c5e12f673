"""Inngest's Event API as far as it reads a body: bytes in, the events before the first bad one and its error out.

The texts are those of a real server (tests/data/event-api-observed.txt), which is written in Go: hence their words.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

EVENTS_MAX: Final = 5000
EVENT_BYTES_MAX: Final = 3 * 1024 * 1024
TS_MIN_MS: Final = 315_532_800_000  # 1980-01-01
TS_MAX_MS: Final = 4_102_444_800_000  # 2100-01-01
NOT_EVENTS: Final = "Request body must contain an event object or an array of event objects"
MAP: Final = "map[string]interface {}"
#: field → Go's type, for those whose type is checked
FIELD_TYPES: Final = {"name": "string", "id": "string", "v": "string", "ts": "int64", "data": MAP, "user": MAP}
WHITESPACE: Final = " \t\r\n"
CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Number(str):
    """A number as it was written: Go's errors quote it, and 1.0 is no integer to it."""

    __slots__ = ()


class Refused(Exception):
    """The body, or one event of it, breaks a rule."""


@dataclass(frozen=True)
class Parsed:
    """The events before the first bad one; `error` is None when there is no bad one."""

    events: list[dict[str, Any]]
    error: str | None


def refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"invalid character {name[0]!r} looking for beginning of value", name, 0)


DECODER: Final = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=refuse_constant)


def parse_body(body: bytes, content_type: str) -> Parsed:
    events: list[dict[str, Any]] = []
    try:
        for raw, size in values_in(body, content_type):
            check_limits(len(events), size)
            events.append(check_event(raw))
    except Refused as refused:
        return Parsed(events, str(refused))
    return Parsed(events, None)


def check_limits(events_before: int, size: int) -> None:
    if events_before == EVENTS_MAX:
        raise Refused(f"Cannot have more than {EVENTS_MAX} events in a batch")
    if size > EVENT_BYTES_MAX:
        raise Refused(f"Event is over the max size: Max {EVENT_BYTES_MAX} bytes / Size {size} bytes")


def values_in(body: bytes, content_type: str) -> Iterator[tuple[Any, int]]:
    """Each value that ought to be an event, and its length in bytes. Its first character decides what a body is."""
    text = body.decode("utf-8", "replace").lstrip(WHITESPACE)
    if not text:
        return
    if text[0] == "{":
        yield whole_object(text), len(body)
    elif text[0] == "[":
        yield from items_of(text)
    elif content_type.startswith("application/x-www-form-urlencoded"):
        yield dict(sorted(parse_qs(text, keep_blank_values=True).items())), len(body)
    elif content_type.startswith("multipart/form-data"):
        yield {field: ["…"] for field in re.findall(r'; name="([^"]*)"', text)}, len(body)
    else:
        raise Refused(NOT_EVENTS)


def whole_object(text: str) -> Any:
    try:
        value, end = DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise Refused("unexpected end of JSON input" if is_cut(text, error) else syntax(text, error.pos)) from None
    rest = text[end:].lstrip(WHITESPACE)
    if rest:
        raise Refused(f"invalid character '{rest[0]}' after top-level value")
    return value


def items_of(text: str) -> Iterator[tuple[Any, int]]:
    """The items of an array, one by one; what follows its end is never looked at."""
    at = skip_space(text, 1)
    if text[at : at + 1] == "]":
        return
    while True:
        try:
            value, end = DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise Refused("unexpected EOF" if is_cut(text, error) else syntax(text, error.pos)) from None
        yield value, len(text[at:end].encode("utf-8", "replace"))
        at = skip_space(text, end)
        if text[at : at + 1] == "]":
            return
        if text[at : at + 1] != ",":
            raise Refused("unexpected EOF" if at >= len(text) else syntax(text, at))
        at = skip_space(text, at + 1)


def skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in WHITESPACE:
        at += 1
    return at


def is_cut(text: str, error: json.JSONDecodeError) -> bool:
    """Whether the text ends before its value does."""
    return error.pos >= len(text) or error.msg.startswith("Unterminated string")


def syntax(text: str, at: int) -> str:
    return f"invalid character '{text[at : at + 1]}' looking for beginning of value"


def check_event(raw: Any) -> dict[str, Any]:
    """One event as it is stored, with its keys in lower case. Raises Refused in Go's words."""
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise Refused(f"json: cannot unmarshal {kind_of(raw)} into Go value of type event.raw")
    event = {key.lower(): value for key, value in raw.items() if key.lower() in FIELD_TYPES}
    for field, value in event.items():
        check_type(field, value)
    check_name(event.get("name") or "")
    event["ts"] = check_ts(int(event.get("ts") or 0))
    event["data"] = {k: plain(v) for k, v in (event.get("data") or {}).items() if k != "_inngest"}
    return event


def check_type(field: str, value: Any) -> None:
    wanted = FIELD_TYPES[field]
    fits = {"string": type(value) is str, "int64": is_int64(value), MAP: isinstance(value, dict)}[wanted]
    if value is not None and not fits:
        written = f"number {value}" if wanted == "int64" and isinstance(value, Number) else kind_of(value)
        raise Refused(f"json: cannot unmarshal {written} into Go struct field raw.{field} of type {wanted}")


def is_int64(value: Any) -> bool:
    return (
        isinstance(value, Number) and re.fullmatch(r"-?\d{1,19}", value) is not None and -(2**63) <= int(value) < 2**63
    )


def kind_of(value: Any) -> str:
    kinds = {Number: "number", str: "string", list: "array", dict: "object", bool: "bool", type(None): "null"}
    return kinds[type(value)]


def check_name(name: str) -> None:
    if not name:
        raise Refused("event name is empty")
    if name.lower().startswith("inngest/"):
        raise Refused(f"event name is reserved for internal use: {name}")


def check_ts(ts: int) -> int:
    if ts == 0:
        return int(time.time() * 1000)
    if ts < TS_MIN_MS:
        raise Refused("timestamp is before Jan 1, 1980")
    if ts > TS_MAX_MS:
        raise Refused("timestamp is after Jan 1, 2100")
    return ts


def plain(value: Any) -> Any:
    """Numbers as Go's float64 keeps them, lone surrogates as U+FFFD."""
    if isinstance(value, Number):
        number = float(value)
        return int(number) if number.is_integer() and "." not in value else number
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def internal_ids(count: int, seed: str | None) -> list[str]:
    """ULIDs: random ones, or those that x-inngest-event-id-seed (`<ms>,<base64 of 10 bytes>`) makes by position."""
    made = re.fullmatch(r"(\d{1,15}),([A-Za-z0-9+/]{14}==)", seed or "")
    if made is None:
        now_ms = int(time.time() * 1000)
        return [ulid(now_ms, secrets.token_bytes(10)) for _ in range(count)]
    entropy = base64.b64decode(made[2])
    last = int.from_bytes(entropy[6:])
    return [ulid(int(made[1]), entropy[:6] + ((last + i) % 2**32).to_bytes(4)) for i in range(1, count + 1)]


def ulid(ms: int, entropy: bytes) -> str:
    number = ms << 80 | int.from_bytes(entropy)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
