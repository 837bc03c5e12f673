"""Tables → schemes: the `[scheme]` of a preset, and what a source may set otherwise in `[sources.NAME.scheme]`.

A preset's `[scheme]` has `kind`, `delivery_id` and `event_type` (places, best first) and what its kind needs:

mac         algorithm, encoding, content (a template), [scheme.key] encoding, strip; [scheme.signature] from, prefix or
            pattern, join, groups, numbered_to; [scheme.values.NAME] from (a place, or "signature" for a part of its
            header), pattern; [scheme.timestamp] from, unit, tolerance_seconds, future_seconds (absent: that side is
            not judged); [scheme.sign] header = template, for `relay send`
hash        the same; the content holds {secret}
asymmetric  the same, but [scheme.key] form, strip; or certificate, allow, common_names
jwt         algorithms, required, claims, optional_claims, max_age_seconds, leeway_seconds; [scheme.token] from, prefix
            or pattern; [scheme.body_hash] and [scheme.url_hash] claim, encoding; [scheme.keys] url or urls and
            chosen_by, post; [scheme.sign]
token       [scheme.token] from, prefix or pattern, basic, each, member; [scheme.sign]
by_secret   [[scheme.choices]] secret_prefixes, preset
function    name
none        nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.schemes.base import Scheme
from relay.schemes.encodings import DECODE, DIGEST_BYTES
from relay.schemes.functions import FUNCTIONS
from relay.schemes.kinds import BySecret, Open
from relay.schemes.mac import Mac
from relay.schemes.parts import (
    BASIC,
    read_key,
    read_part,
    read_places,
    read_signature,
    read_timestamp,
    read_values,
)
from relay.schemes.places import parse_place, parse_template
from relay.schemes.reading_keys import read_asymmetric, read_jwt
from relay.schemes.tables import Table
from relay.schemes.token import Each, Token

#: Loads another preset's scheme by its name, for by_secret.
Other = Callable[[str], Scheme]


def read_scheme(table: Table, other: Other) -> Scheme:
    """The `[scheme]` of a preset's file."""
    kind = table.choice("kind", list(KINDS))
    common = {"delivery_id": read_places(table, "delivery_id"), "event_type": read_places(table, "event_type")}
    scheme = KINDS[kind](table, {name: places or () for name, places in common.items()}, other)
    table.done()
    return scheme


@dataclass(frozen=True, slots=True)
class Option:
    """Something more that a source can, or must, say for this preset, in [sources.NAME.scheme].

    A table option holds texts by name (certificates by their URL), any other is one text, or one of `choices`, the
    first of which is the usual one.
    """

    name: str
    about: str
    required: bool
    is_table: bool
    choices: tuple[str, ...] = ()


def read_option(name: str, table: Table) -> Option:
    choices = table.texts("choices") or ()
    option = Option(name, table.text("about"), table.flag("required"), table.flag("table"), choices)
    table.done()
    return option


def override(scheme: Scheme, table: Table, options: Sequence[Option]) -> Scheme:
    """A named preset's scheme with the three things that a source may set otherwise, and the preset's options."""
    delivery_id, event_type = read_places(table, "delivery_id"), read_places(table, "event_type")
    seconds = table.seconds("tolerance_seconds")
    given = {option.name: read_given(table, option) for option in options}
    table.done()
    scheme = replace(scheme, options={name: value for name, value in given.items() if value})
    if seconds is not None:
        changed = scheme.with_tolerance(seconds)
        if changed is None:
            raise table.error("this provider signs no time: leave the key out", "tolerance_seconds")
        scheme = changed
    if delivery_id is not None:
        scheme = replace(scheme, delivery_id=delivery_id)
    return scheme if event_type is None else replace(scheme, event_type=event_type)


def read_given(table: Table, option: Option) -> str | dict[str, str] | None:
    if option.required and option.name not in table.values:
        raise table.error(f"is required: {option.about}", option.name)
    if option.choices:
        chosen: str = table.choice(option.name, option.choices, option.choices[0])
        return chosen
    return table.mapping(option.name) if option.is_table else table.text(option.name, None)


def read_mac(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    signature = read_signature(table)
    values, names = read_values(table, signature["signature"].place)
    content = table.compiled("content", table.text("content"), lambda text: parse_template(text, names))
    return Mac(
        **common,
        **signature,
        algorithm=table.choice("algorithm", list(DIGEST_BYTES)),
        encoding=table.choice("encoding", list(DECODE)),
        key=read_key(table),
        values=values,
        content=content,
        timestamp=read_timestamp(table, names),
        sign_headers=tuple(table.mapping("sign").items()),
    )


def read_hash(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    if "{secret}" not in table.text("content"):
        raise table.error("must hold {secret}, or anybody could make the hash", "content")
    scheme = read_mac(table, common, other)
    assert isinstance(scheme, Mac)
    return replace(scheme, plain_hash=True)


def read_token(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    inner = table.table("token") or Table({}, table.file, table.path("token"))
    basic = inner.flag("basic")
    part = read_part(inner)
    each = read_each(inner)
    inner.done()
    if basic:
        part = replace(part, pattern=part.pattern or BASIC)
    return Token(**common, token=part, basic=basic, each=each, sign_headers=tuple(table.mapping("sign").items()))


def read_each(table: Table) -> Each | None:
    items = table.text("each", None)
    if items is None:
        return None
    if not items.startswith("json:"):
        raise table.error("must be a list in a JSON body, such as json:value", "each")
    table.compiled("each", items, parse_place)
    return Each(items, table.text("member"))


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
    places = {name: found for name, found in common.items() if found}
    return FUNCTIONS[table.choice("name", list(FUNCTIONS))](**places)


def read_open(table: Table, common: Mapping[str, Any], other: Other) -> Scheme:
    return Open(**common)


KINDS: Final[dict[str, Callable[[Table, Mapping[str, Any], Other], Scheme]]] = {
    "mac": read_mac,
    "hash": read_hash,
    "asymmetric": lambda table, common, other: read_asymmetric(table, common),
    "jwt": lambda table, common, other: read_jwt(table, common),
    "token": read_token,
    "by_secret": read_by_secret,
    "function": read_function,
    "none": read_open,
}
