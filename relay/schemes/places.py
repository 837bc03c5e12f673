"""Where things stand in a request: the places a preset names, and templates of them. Pure and total.

A place is text: `header:NAME`, `query:NAME`, `form:NAME`, `json:dotted.path` (a number is an array's index), `body`,
`body_sha256`, `url`, `url_noquery`, `path`, `query`, `method`, `value:NAME`. A template is text with places in braces,
`{t}` for `{value:t}`: `v0:{t}:{body}`. Both are compiled when the preset is loaded; reading one gives bytes, or None
when there is nothing there (absent, empty, or sent twice with different values, so that nobody has to guess which).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from relay.bodies import content_type
from relay.errors import nearest
from relay.models import RawHeaders, Request

#: A longer delivery id or event type is replaced by its hash: ids are kept, indexed and logged.
ID_CHARACTERS_MAX: Final = 255
#: A longer form or query, or one of more fields, is not read: taking it apart costs before anybody vouches for it.
FIELDS_MAX: Final = 10_000
FIELDS_BYTES_MAX: Final = 256 * 1024
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
BOM: Final = b"\xef\xbb\xbf"
OWS: Final = b" \t"

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_STRING: Final = msgspec.json.Decoder(str)

Fields = list[tuple[bytes, bytes]]
NO_VALUES: Final[Mapping[str, str]] = MappingProxyType({})


class Reader:
    """One request being read. Headers are collected once, for the names its scheme wants; the rest when asked for.

    `body` is the decoded body, which json: and form: read; the wire bytes (`request.body`) are what is signed.
    """

    __slots__ = ("_form", "_top", "body", "headers", "request", "url", "values")

    def __init__(self, wanted: frozenset[bytes], request: Request, url: str, body: bytes) -> None:
        self.request, self.url, self.body = request, url, body
        self.values: dict[str, bytes | None] = {}
        self.headers: dict[bytes, list[bytes]] = {}
        self._form: Fields | None = None
        self._top: Any = None
        for name, value in request.headers:
            lower = name.lower()
            if lower in wanted:
                self.headers.setdefault(lower, []).append(value.strip(OWS))

    def header(self, name: bytes) -> bytes | None:
        return only(self.headers.get(name, ()))

    def query(self, name: bytes) -> bytes | None:
        return only([value for key, value in fields(utf8(self.request.query)) if key == name])

    def form(self, name: bytes) -> bytes | None:
        if self._form is None:
            is_form = content_type(self.request.headers) == "application/x-www-form-urlencoded"
            self._form = fields(self.body) if is_form else []
        return only([value for key, value in self._form if key == name])

    def json(self, path: Sequence[str]) -> bytes | None:
        """A string's UTF-8, or a number as it is written; None for anything else, and where there is no such thing."""
        try:
            return self._json_fast(path)
        except msgspec.MsgspecError:  # not JSON, or with a lone surrogate, which JavaScript writes and msgspec refuses
            return json_slow(self.body, path)
        except RecursionError:
            return None

    def _json_fast(self, path: Sequence[str]) -> bytes | None:
        """Only the levels on the way are taken apart, and numbers are never made: 0.7 µs for a body of 2 KB."""
        if self._top is None:
            self._top = step_into(self.body.removeprefix(BOM))
        node: Any = self._top
        for index, name in enumerate(path):
            inner = member(node, name)
            if inner is None:
                return None
            node = inner if index == len(path) - 1 else step_into(inner)
        text = bytes(node)
        if text[:1] == b'"':
            return utf8(_STRING.decode(text)) or None
        return text if text[:1].isdigit() or text[:1] == b"-" else None


@dataclass(frozen=True, slots=True)
class Place:
    """A compiled place. `headers` are the headers it reads, in lower case."""

    text: str
    read: Callable[[Reader], bytes | None]
    headers: frozenset[bytes] = frozenset()

    def __str__(self) -> str:
        return self.text.replace(":", " ", 1)


@dataclass(frozen=True, slots=True)
class Template:
    """Literal bytes and places, in a row."""

    text: str
    parts: tuple[bytes | Place, ...]

    def render(self, reader: Reader) -> bytes | None:
        """The bytes, spliced raw; None when a place holds nothing (the body and the query may be empty)."""
        found: list[bytes] = []
        for part in self.parts:
            value = part if isinstance(part, bytes) else part.read(reader)
            if value is None:
                return None
            found.append(value)
        return found[0] if len(found) == 1 else b"".join(found)

    def missing(self, reader: Reader) -> Place | None:
        """The first place that holds nothing."""
        return next((part for part in self.parts if isinstance(part, Place) and part.read(reader) is None), None)

    @property
    def headers(self) -> frozenset[bytes]:
        return headers_of([part for part in self.parts if isinstance(part, Place)])


def parse_place(text: str, values: Mapping[str, str] = NO_VALUES) -> Place:
    """Compile a place, or a template of them. `values` are the names that value: may use, and what messages call each.

    Raises ValueError with a sentence.
    """
    if "{" in text:
        template = parse_template(text, values)
        return Place(text, template.render, template.headers)
    kind, colon, name = text.partition(":")
    if not colon and kind in PLAIN_PLACES:
        return Place(text, PLAIN_PLACES[kind])
    if kind not in NAMED_PLACES or not colon:
        known = [*PLAIN_PLACES, *(f"{named}:NAME" for named in NAMED_PLACES)]
        raise ValueError(f"{text!r} is no place in a request; places are {', '.join(known)}")
    if not name or name != name.strip():
        raise ValueError(f"{text!r} names nothing after the colon")
    if kind == "header" and not HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no header's name")
    if kind == "value" and name not in values:
        raise ValueError(f"there is no value {name!r}{nearest(name, [*values, *PLAIN_PLACES])}")
    headers = frozenset({utf8(name.lower())} if kind == "header" else ())
    return Place(values[name] if kind == "value" else text, NAMED_PLACES[kind](name), headers)


def parse_template(text: str, values: Mapping[str, str] = NO_VALUES) -> Template:
    """Compile a template. Raises ValueError with a sentence."""
    parts: list[bytes | Place] = []
    for index, piece in enumerate(re.split(r"\{([^{}]*)\}", text)):
        if index % 2:
            known = piece in PLAIN_PLACES or ":" in piece
            parts.append(parse_place(piece if known else f"value:{piece}", values))
        elif "{" in piece or "}" in piece:
            raise ValueError(f"{text!r} has a brace without its partner")
        elif piece:
            parts.append(utf8(piece))
    return Template(text, tuple(parts))


def first_id(places: Sequence[Place], reader: Reader) -> str | None:
    """The first of the places that holds something, fit to be kept: at most 255 printable characters, else its hash."""
    for place in places:
        value = place.read(reader)
        if value and (value := value.strip()):
            try:
                text = value.decode()
            except UnicodeDecodeError:
                text = ""
            if text.isprintable() and 0 < len(text) <= ID_CHARACTERS_MAX:
                return text
            return f"sha256:{hashlib.sha256(value).hexdigest()}"
    return None


def only(values: Sequence[bytes]) -> bytes | None:
    """The value that all of them are; None when there is none, an empty one, or two that differ."""
    if not values or (len(values) > 1 and any(value != values[0] for value in values)):
        return None
    return values[0] or None


def fields(text: bytes) -> Fields:
    """An urlencoded form or query as bytes, in order; nothing of it when it is too long."""
    if len(text) > FIELDS_BYTES_MAX or text.count(b"&") >= FIELDS_MAX:
        return []
    pairs = (pair.partition(b"=") for pair in text.split(b"&") if pair)
    return [
        (unquote_to_bytes(key.replace(b"+", b" ")), unquote_to_bytes(value.replace(b"+", b" ")))
        for key, _, value in pairs
    ]


def utf8(text: str) -> bytes:
    """Text as UTF-8. Lone surrogates (from odd JSON, or an environment variable that is no UTF-8) are kept apart."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def step_into(node: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | list[msgspec.Raw] | bytes:
    """The members of an object or array; a scalar as it is written."""
    text = bytes(node).lstrip()
    if text[:1] == b"{":
        return _OBJECT.decode(text)
    return _ARRAY.decode(text) if text[:1] == b"[" else text


def member(node: Any, name: str) -> Any:
    """One member of an object, or an array's item by its number; None when there is none."""
    if isinstance(node, dict):
        return node.get(name)
    if isinstance(node, list) and name.isdecimal() and len(name) < 6 and int(name) < len(node):
        return node[int(name)]
    return None


def json_slow(body: bytes, path: Sequence[str]) -> bytes | None:
    """The same by the standard library, which takes lone surrogates."""
    try:
        node = json.loads(body.decode("utf-8-sig"), parse_int=str, parse_float=str)  # numbers as they are written
    except (ValueError, RecursionError):
        return None
    for name in path:
        node = member(node, name)
    return utf8(node) or None if isinstance(node, str) else None


def without_query(url: str) -> bytes:
    return utf8(re.split(r"[?#]", url, maxsplit=1)[0])


def _header(name: str) -> Callable[[Reader], bytes | None]:
    lower = utf8(name.lower())
    return lambda reader: reader.header(lower)


def _json(name: str) -> Callable[[Reader], bytes | None]:
    path = tuple(name.split("."))
    return lambda reader: reader.json(path)


PLAIN_PLACES: Final[dict[str, Callable[[Reader], bytes | None]]] = {
    "body": lambda reader: reader.request.body,
    "body_sha256": lambda reader: hashlib.sha256(reader.request.body).hexdigest().encode(),
    "url": lambda reader: utf8(reader.url),
    "url_noquery": lambda reader: without_query(reader.url),
    "path": lambda reader: utf8(reader.request.path),
    "query": lambda reader: utf8(reader.request.query),
    "method": lambda reader: utf8(reader.request.method),
}
NAMED_PLACES: Final[dict[str, Callable[[str], Callable[[Reader], bytes | None]]]] = {
    "header": _header,
    "query": lambda name: lambda reader: reader.query(utf8(name)),
    "form": lambda name: lambda reader: reader.form(utf8(name)),
    "json": _json,
    "value": lambda name: lambda reader: reader.values.get(name),
}


def headers_of(places: Collection[Place]) -> frozenset[bytes]:
    return frozenset[bytes]().union(*(place.headers for place in places))


def with_header(headers: RawHeaders, name: str, value: bytes) -> RawHeaders:
    """The headers with exactly one of this name."""
    lower = utf8(name.lower())
    return (*((key, old) for key, old in headers if key.lower() != lower), (utf8(name), value))
