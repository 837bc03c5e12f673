"""`[[handshakes]]` of a preset's file → Handshakes: requests that ask for an answer and are no deliveries.

name        what the log calls it
method      POST (unless said otherwise), GET or HEAD
signed      true (unless said otherwise): looked for after verification; false: before it, and anybody may ask
when        a table, place = what stands there exactly; present, absent: places that hold something, nothing at all;
            empty: places of lists without items. All of them must be so, or the request is no handshake
allow       a table, place = the pattern that its whole text must match, or the handshake is refused
token       place and option: what stands there must be the source's option or, without it, one of its secrets
status      200 (unless said otherwise); headers: a table of templates
body        a template, sent as text/plain, with escape = "html" where its echoes must be harmless as HTML; or
json        a table, sent as compact JSON: strings are templates, numbers and booleans are themselves
values      [handshakes.values.NAME] hmac, encoding, content (a template), key_hash: an HMAC that the answer holds
keeps       the place of a secret that is to be kept, and confirms: of a URL to be visited, before the answer is given
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from relay.schemes.encodings import DIGEST_BYTES, ENCODE, Algorithm, Encoding
from relay.schemes.places import HEADER_NAME, Place, Template, headers_of, parse_place, parse_template, utf8
from relay.schemes.tables import Table

METHODS: Final = ("POST", "GET", "HEAD")

#: An answer's JSON, one level deep.
JsonAnswer: TypeAlias = tuple[tuple[str, Template | bool | int], ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """An HMAC that proves the secret. `key_hash` is the hash that makes the key of it."""

    algorithm: Algorithm
    encoding: Encoding
    content: Template
    key_hash: Algorithm | Literal["none"]


@dataclass(frozen=True, slots=True)
class VerifyToken:
    """A text that the operator has given to the provider, which has to send it back."""

    place: Place
    option: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """One kind of request that asks for an answer. The head of this module says what each field means."""

    name: str
    method: str
    signed: bool
    when: tuple[tuple[Place, bytes], ...]
    present: tuple[Place, ...]
    absent: tuple[Place, ...]
    empty: tuple[Place, ...]
    allow: tuple[tuple[Place, re.Pattern[bytes]], ...]
    token: VerifyToken | None
    status: int
    headers: tuple[tuple[str, Template], ...]
    body: Template | None
    escape_html: bool
    json: JsonAnswer | None
    values: tuple[tuple[str, Digest], ...]
    keeps: Place | None
    confirms: Place | None
    #: The headers that are looked at, in lower case.
    reads: frozenset[bytes] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        named = [place for place, _ in (*self.when, *self.allow)]
        token = [self.token.place] if self.token else []
        places = [*named, *token, *self.present, *self.absent, *self.empty, *self.echoed, *self.asked]
        object.__setattr__(self, "reads", headers_of(places))  # it is frozen from here on

    @property
    def echoed(self) -> tuple[Place, ...]:
        """What of the request comes back in the body, or is computed with."""
        return tuple(place for text in self._texts for place in places_of(text) if place.text not in self._computed)

    @property
    def asked(self) -> tuple[Place, ...]:
        """What of the request comes back in headers, is kept, or is visited."""
        in_headers = [place for _, text in self.headers for place in places_of(text)]
        return (*in_headers, *(place for place in (self.keeps, self.confirms) if place))

    @property
    def _texts(self) -> tuple[Template, ...]:
        shown = [self.body, *(value for _, value in self.json or ())]
        computed = [digest.content for _, digest in self.values]
        return tuple(text for text in (*shown, *computed) if isinstance(text, Template))

    @property
    def _computed(self) -> frozenset[str]:
        return frozenset(called(name) for name, _ in self.values)


def called(name: str) -> str:
    """What messages call a computed value."""
    return f"the value {name}"


def places_of(template: Template) -> list[Place]:
    return [part for part in template.parts if isinstance(part, Place)]


def read_handshakes(table: Table, options: Collection[str]) -> tuple[Handshake, ...]:
    """Every `[[handshakes]]` of a preset; `options` are the names that the preset declares. Raises ConfigError."""
    return tuple(read_handshake(inner, options) for inner in table.tables("handshakes"))


def read_handshake(table: Table, options: Collection[str]) -> Handshake:
    values = read_values(table)
    names = {name: called(name) for name, _ in values}
    status: int = table.get("status", 200, int, "an HTTP status")
    body = table.text("body", None)
    handshake = Handshake(
        name=table.text("name"),
        method=table.choice("method", METHODS, "POST"),
        signed=table.get("signed", True, bool, "true or false"),
        when=tuple((read_place(table, "when", name), utf8(text)) for name, text in table.mapping("when").items()),
        present=read_places(table, "present"),
        absent=read_places(table, "absent"),
        empty=read_places(table, "empty"),
        allow=read_allow(table),
        token=read_token(table, options),
        status=status,
        headers=read_headers(table, names),
        body=None if body is None else table.compiled("body", body, lambda text: parse_template(text, names)),
        escape_html=table.choice("escape", ("none", "html"), "none") == "html",
        json=read_json(table, names),
        values=values,
        keeps=read_optional(table, "keeps"),
        confirms=read_optional(table, "confirms"),
    )
    table.done()
    check_answer(table, handshake)
    check_safety(table, handshake)
    return handshake


def check_answer(table: Table, handshake: Handshake) -> None:
    """What cannot be meant."""
    if not 200 <= handshake.status <= 299:
        raise table.error(f"must be an HTTP status from 200 to 299 (it is {handshake.status})", "status")
    if handshake.body is not None and handshake.json is not None:
        raise table.error("body and json exclude each other", "json")
    has_body = handshake.body is not None or handshake.json is not None
    if has_body and (handshake.method == "HEAD" or handshake.status == 204):
        raise table.error("an answer to HEAD, or of status 204, has no body", "body" if handshake.body else "json")
    if has_body and any(name.lower() == "content-type" for name, _ in handshake.headers):
        raise table.error("body is sent as text/plain and json as application/json: leave it out", "headers")
    if handshake.escape_html and handshake.body is None:
        raise table.error("goes with body", "escape")
    conditions = [*handshake.when, *handshake.present, *handshake.empty]
    if any(not place.text.startswith("json:") for place in handshake.empty):
        raise table.error("must be places of JSON (json:...): only there are lists", "empty")
    if handshake.method == "POST" and not conditions:
        raise table.error("is required for POST: how to tell it from a delivery (when, present or empty)", "when")


def check_safety(table: Table, handshake: Handshake) -> None:
    """What would let a stranger have something done, or signed."""
    allowed = {place.text for place, _ in handshake.allow}
    if handshake.confirms and (not handshake.signed or handshake.confirms.text not in allowed):
        raise table.error("needs signed = true, and a pattern in allow: whose URLs may be visited", "confirms")
    if handshake.keeps and handshake.signed:
        raise table.error("needs signed = false: who can sign needs no secret any more", "keeps")
    if handshake.signed:
        return
    for name, digest in handshake.values:
        open_ones = [place.text for place in places_of(digest.content) if place.text not in allowed]
        if open_ones or not digest.content.parts:
            reason = "anybody may ask for this HMAC, so allow must say what is no signed body"
            raise table.error(f"{reason} ({', '.join(open_ones)})", f"values.{name}.content")


def read_place(table: Table, name: str, text: str) -> Place:
    return table.compiled(name, text, parse_place)


def read_places(table: Table, name: str) -> tuple[Place, ...]:
    return tuple(read_place(table, name, text) for text in table.texts(name) or ())


def read_optional(table: Table, name: str) -> Place | None:
    text = table.text(name, None)
    return None if text is None else read_place(table, name, text)


def read_allow(table: Table) -> tuple[tuple[Place, re.Pattern[bytes]], ...]:
    found: list[tuple[Place, re.Pattern[bytes]]] = []
    for name, text in table.mapping("allow").items():
        try:
            pattern = re.compile(text.encode())
        except (re.error, UnicodeEncodeError) as error:
            raise table.error(f"{text!r} is not a regular expression: {error}", f"allow.{name}") from error
        found.append((read_place(table, "allow", name), pattern))
    return tuple(found)


def read_token(table: Table, options: Collection[str]) -> VerifyToken | None:
    inner = table.table("token")
    if inner is None:
        return None
    token = VerifyToken(read_place(inner, "place", inner.text("place")), inner.text("option"))
    inner.done()
    if token.option not in options:
        raise inner.error(f"there is no [options.{token.option}] in this preset", "option")
    return token


def read_headers(table: Table, names: Mapping[str, str]) -> tuple[tuple[str, Template], ...]:
    found: list[tuple[str, Template]] = []
    for name, text in table.mapping("headers").items():
        if not HEADER_NAME.fullmatch(name):
            raise table.error(f"{name!r} is no header's name", "headers")
        found.append((name, table.compiled(f"headers.{name}", text, lambda text: parse_template(text, names))))
    return tuple(found)


def read_json(table: Table, names: Mapping[str, str]) -> JsonAnswer | None:
    given: dict[str, Any] | None = table.get("json", None, dict, "a table")
    if given is None:
        return None
    found: list[tuple[str, Template | bool | int]] = []
    for name, value in given.items():
        if isinstance(value, str):
            value = table.compiled(f"json.{name}", value, lambda text: parse_template(text, names))
        elif not isinstance(value, int):
            raise table.error("must be a string (a template), a whole number, true or false", f"json.{name}")
        found.append((name, value))
    return tuple(found)


def read_values(table: Table) -> tuple[tuple[str, Digest], ...]:
    outer = table.table("values")
    found: list[tuple[str, Digest]] = []
    for name in outer.values if outer else ():
        inner = outer.table(name) if outer else None
        if inner is None:
            continue
        digest = Digest(
            algorithm=inner.choice("hmac", list(DIGEST_BYTES)),
            encoding=inner.choice("encoding", list(ENCODE)),
            content=inner.compiled("content", inner.text("content"), parse_template),
            key_hash=inner.choice("key_hash", ["none", *DIGEST_BYTES], "none"),
        )
        inner.done()
        found.append((name, digest))
    return tuple(found)
