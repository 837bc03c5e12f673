"""The `[sources.NAME.scheme]` of the generic providers hmac, token and none: a scheme described in relay.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from relay.schemes.base import Part, Scheme, Timestamp
from relay.schemes.encodings import DECODE, DIGEST_BYTES, Key
from relay.schemes.kinds import Open
from relay.schemes.mac import Mac
from relay.schemes.parts import BASIC, KEY_ENCODINGS, UNITS, Values, read_places, read_prefix_or_pattern
from relay.schemes.places import Place, Template, parse_place, parse_template, utf8
from relay.schemes.tables import Table
from relay.schemes.token import Token

#: Where a generic source looks for the sender's delivery id. Nothing else: a wrong guess would drop real deliveries.
GENERIC_DELIVERY_ID: Final = tuple(parse_place(text) for text in ("header:webhook-id", "header:idempotency-key"))


def generic_hmac(table: Table) -> Scheme:
    """The keys of `[sources.NAME.scheme]` with provider = "hmac"."""
    header = table.text("header")
    place = table.compiled("header", f"header:{header}", parse_place)
    algorithm = table.choice("algorithm", list(DIGEST_BYTES), "sha256")
    encoding = table.choice("encoding", [name for name in DECODE if name != "hex_lower"], "hex")
    prefix, pattern = read_prefix_or_pattern(table)
    key = Key(table.choice("key_encoding", KEY_ENCODINGS, "utf8"), table.texts("key_strip") or ())
    time_header, values, names = generic_time(table, header)
    timestamp = generic_timestamp(table, names)
    content = generic_content(table, names)
    common = generic_places(table)
    table.done()
    signed = {time_header: "{t}"} if time_header else {}
    signed[header] = written(values, pattern) if pattern else prefix + "{signature}"
    return Mac(
        **common,
        algorithm=algorithm,
        encoding=encoding,
        key=key,
        signature=Part(place, utf8(prefix), pattern),
        join=b"," if pattern else None,
        values=values,
        content=content,
        timestamp=timestamp,
        sign_headers=tuple((generic_sign(common["delivery_id"]) | signed).items()),
    )


def generic_time(table: Table, header: str) -> tuple[str | None, Values, dict[str, str]]:
    """The time's own header, the value `t`, and what messages call it: a header, or a pattern in the signature's."""
    time_header, pattern = table.text("timestamp_header", None), table.pattern("timestamp_pattern")
    if time_header is not None:
        place = table.compiled("timestamp_header", f"header:{time_header}", parse_place)
        return time_header, (("t", Part(place, pattern=pattern)),), {"t": str(place)}
    if pattern is not None:
        return None, (("t", pattern),), {"t": f"the time in header {header}"}
    return None, (), {}


def generic_timestamp(table: Table, names: Mapping[str, str]) -> Timestamp | None:
    unit = table.choice("timestamp_unit", UNITS, "s")
    tolerance = table.seconds("tolerance_seconds", 300.0 if names else None)
    if names:
        return Timestamp(parse_place("value:t", names), unit, tolerance, tolerance)
    if tolerance is not None:
        raise table.error("needs timestamp_header or timestamp_pattern: where the time is", "tolerance_seconds")
    return None


def written(values: Values, signature: re.Pattern[bytes]) -> str:
    """A header in which the patterns find the time and the signature, where they say literally what stands before."""
    marks = [(part, f"{{{name}}}") for name, part in values if isinstance(part, re.Pattern)]
    return ",".join(literal_before(pattern) + mark for pattern, mark in [*marks, (signature, "{signature}")])


def literal_before(pattern: re.Pattern[bytes]) -> str:
    """`v1=` of `(?:^|,)\\s*v1=([0-9a-f]+)`."""
    found = re.search(rb"(?<!\\)([\w=:;-]*)\((?!\?)", pattern.pattern)
    return found[1].decode("latin-1") if found else ""


def generic_content(table: Table, names: Mapping[str, str]) -> Template:
    text = table.text("content", "{body}")
    if names and "{t}" not in text:
        raise table.error('must hold {t}, or the time is not signed: for instance "{t}.{body}"', "content")
    return table.compiled("content", text, lambda content: parse_template(content, names))


def generic_token(table: Table) -> Scheme:
    """The keys of `[sources.NAME.scheme]` with provider = "token"."""
    header, query, basic = table.text("header", None), table.text("query", None), table.flag("basic")
    prefix = table.text("prefix", "")
    common = generic_places(table)
    table.done()
    if sum((header is not None, query is not None, basic)) != 1:
        raise table.error("say where the token is: exactly one of header, query, basic = true")
    if prefix and header is None:
        raise table.error("a prefix goes with header", "prefix")
    where = f"query:{query}" if query else f"header:{header or 'authorization'}"
    place = table.compiled("query" if query else "header", where, parse_place)
    sent = {header or "Authorization": "Basic {token}" if basic else prefix + "{token}"}
    return Token(
        **common,
        token=Part(place, utf8(prefix), BASIC if basic else None),
        basic=basic,
        sign_headers=tuple({**generic_sign(common["delivery_id"]), **({} if query else sent)}.items()),
        sign_query=((query, "{token}"),) if query else (),
    )


def generic_open(table: Table) -> Scheme:
    """The keys of `[sources.NAME.scheme]` with provider = "none"."""
    delivery_id, event_type = read_places(table, "delivery_id"), read_places(table, "event_type")
    table.done()
    return Open(delivery_id=delivery_id or (), event_type=event_type or ())


def generic_places(table: Table) -> dict[str, Any]:
    delivery_id = read_places(table, "delivery_id")
    return {
        "delivery_id": GENERIC_DELIVERY_ID if delivery_id is None else delivery_id,
        "event_type": read_places(table, "event_type") or (),
    }


def generic_sign(delivery_id: tuple[Place, ...]) -> dict[str, str]:
    """The header that a signed sample carries its delivery id in, when the id's first place is a header."""
    first = next((place for place in delivery_id[:1] if len(place.headers) == 1), None)
    return {name.decode("latin-1"): "{id}" for name in first.headers} if first else {}
