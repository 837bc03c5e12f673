"""Tables → schemes: the `[scheme]` of a preset, and the `[sources.NAME.scheme]` of a generic one.

A preset's `[scheme]` has `kind`, `delivery_id` and `event_type` (places, best first) and what its kind needs:

mac         algorithm, encoding, content (a template), [scheme.key] encoding, strip; [scheme.signature] from, prefix or
            pattern, join; [scheme.values.NAME] from (a place, or "signature" for a part of its header), pattern;
            [scheme.timestamp] from, unit, tolerance_seconds, future_seconds (absent: that side is not judged);
            [scheme.sign] header = template, for `relay send`
token       [scheme.token] from, prefix or pattern, basic; [scheme.sign]
by_secret   [[scheme.choices]] secret_prefixes, preset
function    name
none        nothing
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from relay.schemes import twilio
from relay.schemes.encodings import DECODE, DIGEST_BYTES, Key
from relay.schemes.kinds import BySecret, Function, Mac, Open, Part, Scheme, Timestamp, Token
from relay.schemes.places import Place, Template, parse_place, parse_template, utf8
from relay.schemes.tables import Table

#: Loads another preset's scheme by its name, for by_secret.
Other = Callable[[str], Scheme]

#: Named values: a part of some place, or a pattern over the signature's header.
Values = tuple[tuple[str, Part | re.Pattern[bytes]], ...]

#: Where a generic source looks for the sender's delivery id. Nothing else: a wrong guess would drop real deliveries.
GENERIC_DELIVERY_ID: Final = tuple(parse_place(text) for text in ("header:webhook-id", "header:idempotency-key"))
FUNCTIONS: Final[dict[str, tuple[Any, Any, frozenset[bytes]]]] = {
    "twilio": (twilio.judge, twilio.sign, twilio.READS),
}
KEY_ENCODINGS: Final = ("utf8", "hex", "base64")
UNITS: Final = ("s", "ms", "iso")
BASIC: Final = re.compile(rb"(?i)\Abasic +(\S+)\Z")


def read_scheme(table: Table, other: Other) -> Scheme:
    """The `[scheme]` of a preset's file."""
    kind = table.choice("kind", list(KINDS))
    common = {"delivery_id": read_places(table, "delivery_id"), "event_type": read_places(table, "event_type")}
    scheme = KINDS[kind](table, {name: places or () for name, places in common.items()}, other)
    table.done()
    return scheme


def override(scheme: Scheme, table: Table) -> Scheme:
    """A named preset's scheme with the three things that a source may set otherwise."""
    delivery_id, event_type = read_places(table, "delivery_id"), read_places(table, "event_type")
    seconds = table.seconds("tolerance_seconds")
    table.done()
    if seconds is not None:
        changed = scheme.with_tolerance(seconds)
        if changed is None:
            raise table.error("this provider signs no time: leave the key out", "tolerance_seconds")
        scheme = changed
    if delivery_id is not None:
        scheme = replace(scheme, delivery_id=delivery_id)
    return scheme if event_type is None else replace(scheme, event_type=event_type)


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
    signed[header] = "{signature}" if pattern else prefix + "{signature}"
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


def generic_places(table: Table) -> dict[str, tuple[Place, ...]]:
    delivery_id = read_places(table, "delivery_id")
    return {
        "delivery_id": GENERIC_DELIVERY_ID if delivery_id is None else delivery_id,
        "event_type": read_places(table, "event_type") or (),
    }


def generic_sign(delivery_id: tuple[Place, ...]) -> dict[str, str]:
    """The header that a signed sample carries its delivery id in, when the id's first place is a header."""
    first = next((place for place in delivery_id[:1] if len(place.headers) == 1), None)
    return {name.decode("latin-1"): "{id}" for name in first.headers} if first else {}


def read_places(table: Table, name: str) -> tuple[Place, ...] | None:
    """Places, best first; None when the key is absent."""
    texts = table.texts(name)
    return None if texts is None else tuple(table.compiled(name, text, parse_place) for text in texts)


def read_mac(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    signature, join = read_signature(table)
    values, names = read_values(table, signature.place)
    content = table.compiled("content", table.text("content"), lambda text: parse_template(text, names))
    return Mac(
        **common,
        algorithm=table.choice("algorithm", list(DIGEST_BYTES)),
        encoding=table.choice("encoding", list(DECODE)),
        key=read_key(table),
        signature=signature,
        join=join,
        values=values,
        content=content,
        timestamp=read_timestamp(table, names),
        sign_headers=tuple(table.mapping("sign").items()),
    )


def read_token(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    inner = table.table("token") or Table({}, table.file, table.path("token"))
    basic = inner.flag("basic")
    part = read_part(inner)
    inner.done()
    if basic:
        part = replace(part, pattern=part.pattern or BASIC)
    return Token(**common, token=part, basic=basic, sign_headers=tuple(table.mapping("sign").items()))


def read_by_secret(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    choices: list[tuple[tuple[str, ...], Scheme]] = []
    for choice in table.tables("choices"):
        prefixes = choice.texts("secret_prefixes") or ("",)
        choices.append((prefixes, choice.compiled("preset", choice.text("preset"), other)))
        choice.done()
    if not choices or choices[-1][0] != ("",):
        raise table.error("the last choice must take every secret: leave its secret_prefixes out", "choices")
    return BySecret(**common, choices=tuple(choices))


def read_function(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    judged, signed, reads = FUNCTIONS[table.choice("name", list(FUNCTIONS))]
    return Function(**common, judged=judged, signed=signed, reads=reads)


def read_open(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    return Open(**common)


def read_part(table: Table) -> Part:
    place = table.compiled("from", table.text("from"), parse_place)
    prefix, pattern = read_prefix_or_pattern(table)
    return Part(place, utf8(prefix), pattern)


def read_prefix_or_pattern(table: Table) -> tuple[str, re.Pattern[bytes] | None]:
    prefix, pattern = table.text("prefix", ""), table.pattern("pattern")
    if prefix and pattern:
        raise table.error("prefix and pattern exclude each other: put the prefix into the pattern", "pattern")
    return prefix, pattern


def read_signature(table: Table) -> tuple[Part, bytes | None]:
    inner = table.table("signature") or Table({}, table.file, table.path("signature"))
    part, join = read_part(inner), inner.get("join", None, str, "a string")
    inner.done()
    return part, None if join is None else utf8(join)


def read_values(table: Table, signature: Place) -> tuple[Values, dict[str, str]]:
    """The named values, and what messages call each."""
    outer = table.table("values")
    values: list[tuple[str, Part | re.Pattern[bytes]]] = []
    names: dict[str, str] = {}
    for name in outer.values if outer else ():
        inner = outer.table(name) if outer else None
        if inner is None:
            continue
        if inner.text("from") == "signature":
            pattern = inner.pattern("pattern")
            if pattern is None:
                raise inner.error("is required: which part of the signature's header it is", "pattern")
            values.append((name, pattern))
            names[name] = f"the {name} in {signature}"
        else:
            part = read_part(inner)
            values.append((name, part))
            names[name] = str(part.place)
        inner.done()
    return tuple(values), names


def read_key(table: Table) -> Key:
    inner = table.table("key") or Table({}, table.file, table.path("key"))
    key = Key(inner.choice("encoding", KEY_ENCODINGS, "utf8"), inner.texts("strip") or ())
    inner.done()
    return key


def read_timestamp(table: Table, names: Mapping[str, str]) -> Timestamp | None:
    inner = table.table("timestamp")
    if inner is None:
        return None
    timestamp = Timestamp(
        inner.compiled("from", inner.text("from"), lambda text: parse_place(text, names)),
        inner.choice("unit", UNITS),
        inner.seconds("tolerance_seconds"),
        inner.seconds("future_seconds"),
    )
    inner.done()
    return timestamp


KINDS: Final[dict[str, Callable[[Table, Mapping[str, Any], Other], Scheme]]] = {
    "mac": read_mac,
    "token": read_token,
    "by_secret": read_by_secret,
    "function": read_function,
    "none": read_open,
}
