"""The parts of the tables that describe schemes: places, signatures, named values, the signed time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from relay.schemes.base import SIGNATURES_MAX, Part, Timestamp
from relay.schemes.encodings import Key
from relay.schemes.places import Place, parse_place, utf8
from relay.schemes.tables import Table

#: Named values: a part of some place, or a pattern over the signature's header.
Values = tuple[tuple[str, Part | re.Pattern[bytes]], ...]

KEY_ENCODINGS: Final = ("utf8", "hex", "base64")
UNITS: Final = ("s", "ms", "iso")
BASIC: Final = re.compile(rb"(?i)\Abasic +(\S+)\Z")


def read_places(table: Table, name: str) -> tuple[Place, ...] | None:
    """Places, best first; None when the key is absent."""
    texts = table.texts(name)
    return None if texts is None else tuple(table.compiled(name, text, parse_place) for text in texts)


def read_part(table: Table) -> Part:
    place = table.compiled("from", table.text("from"), parse_place)
    prefix, pattern = read_prefix_or_pattern(table)
    return Part(place, utf8(prefix), pattern)


def read_prefix_or_pattern(table: Table) -> tuple[str, re.Pattern[bytes] | None]:
    prefix, pattern = table.text("prefix", ""), table.pattern("pattern")
    if prefix and pattern:
        raise table.error("prefix and pattern exclude each other: put the prefix into the pattern", "pattern")
    return prefix, pattern


def read_signature(table: Table) -> dict[str, Any]:
    inner = table.table("signature") or Table({}, table.file, table.path("signature"))
    part, join = read_part(inner), inner.get("join", None, str, "a string")
    signature = {
        "signature": part,
        "join": None if join is None else utf8(join),
        "groups": inner.expression("groups"),
        "numbered": read_numbered(inner, part.place),
    }
    inner.done()
    return signature


def read_numbered(table: Table, first: Place) -> tuple[Place, ...]:
    """The places after the first of a family such as X-Signature-1 … X-Signature-N."""
    last: int = table.get("numbered_to", 1, int, "the last number of a family of headers")
    stem = first.text.removesuffix("1")
    if last > 1 and stem == first.text:
        raise table.error("needs a place that ends with 1, the first of its family", "numbered_to")
    if not 1 <= last <= SIGNATURES_MAX:
        raise table.error(f"must be between 1 and {SIGNATURES_MAX}", "numbered_to")
    return tuple(parse_place(f"{stem}{number}") for number in range(2, last + 1))


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
