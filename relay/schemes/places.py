"""Where things stand in a request: the places a preset names, and templates of them. Pure and total.

A place is text: `header:NAME`, `query:NAME`, `form:NAME`, `json:dotted.path` (a number is an array's index), `body`,
`body_sha256`, `body_crc32`, `url`, `url_noquery`, `url_decoded`, `path`, `query`, `method`, `form_sorted_concat`,
`secret`, `option:NAME` (of the source's configuration), `jwt:CLAIM` (of a verified token), `value:NAME`. A template is
text with places in braces, `{t}` for `{value:t}`: `v0:{t}:{body}`. Both are compiled when the preset is loaded; reading
one gives bytes, or None when there is nothing there (absent, empty, or sent twice with different values, so that nobody
has to guess which).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct

from relay.bodies import content_type
from relay.errors import nearest
from relay.forms import is_json, multipart_pairs
from relay.models import RawHeaders, Request
from relay.schemes.json_values import BOM, member, only_member, scalar, scalar_slow, step_into, walk, walk_slow

#: A longer delivery id or event type is replaced by its hash: ids are kept, indexed and logged.
ID_CHARACTERS_MAX: Final = 255
#: A longer form or query, or one of more fields, is not read: taking it apart costs before anybody vouches for it.
FIELDS_MAX: Final = 10_000
FIELDS_BYTES_MAX: Final = 256 * 1024
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
OWS: Final = b" \t"

Fields = list[tuple[bytes, bytes]]
NO_VALUES: Final[Mapping[str, str]] = MappingProxyType({})
NO_DOCUMENTS: Final[Mapping[str, bytes]] = MappingProxyType({})
NONE_SEVERAL: Final[Mapping[bytes, list[bytes]]] = {}
#: As much of a value as a person is shown.
SHOWN_BYTES_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class Step:
    """One line of an explanation: what was looked at, and what was found."""

    what: str
    found: str


class Reader(Struct, eq=False, gc=False):
    """One request being read. `named` are its headers by their names in lower case, without those that came several
    times, of which `several` has all values; both of the names that are wanted at least.

    `body` is the decoded body, which json: and form: read; the wire bytes (`request.body`) are what is signed.
    """

    request: Request
    _url: str | Callable[[Request], str]
    body: bytes
    options: Mapping[str, Any]
    documents: Mapping[str, bytes]
    named: Mapping[bytes, bytes]
    several: Mapping[bytes, list[bytes]] = NONE_SEVERAL
    values: dict[str, bytes | None] = {}
    #: The secret that is being tried, for the few schemes whose content holds it.
    secret: bytes | None = None
    #: Of a signed token, once its signature is verified.
    claims: Mapping[str, Any] = NO_VALUES
    #: What was read, computed and compared, in order: collected only when somebody asks (verify.explain).
    steps: list[Step] | None = None
    _form: Fields | None = None
    _top: Any = None

    @classmethod
    def of(
        cls,
        wanted: frozenset[bytes],
        request: Request,
        url: str | Callable[[Request], str],
        body: bytes,
        options: Mapping[str, Any] = NO_VALUES,
        documents: Mapping[str, bytes] = NO_DOCUMENTS,
    ) -> Reader:
        """For a request of which these headers are wanted. `url` may be a function that makes it: few ask for it."""
        return cls(request, url, body, options, documents, *collect(wanted, request.headers))

    @property
    def url(self) -> str:
        """The URL as the provider sees it."""
        if not isinstance(self._url, str):
            self._url = self._url(self.request)
        return self._url

    def note(self, what: str, found: object) -> None:
        """One step for `relay verify`. `found` never holds a secret; cost nothing more than this call otherwise."""
        if self.steps is not None:
            self.steps.append(Step(what, found if isinstance(found, str) else shown(found)))

    def header(self, name: bytes) -> bytes | None:
        return self.named.get(name) or (only(self.several.get(name, ())) if self.several else None)

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Every value of this name, in order; empty ones too."""
        return (self.named[name],) if name in self.named else self.several.get(name, ())

    def query(self, name: bytes) -> bytes | None:
        return only([value for key, value in fields(utf8(self.request.query)) if key == name])

    def form(self, name: bytes) -> bytes | None:
        return only([value for key, value in self.form_fields() if key == name])

    def form_sorted(self) -> bytes:
        """Every field's name and value, sorted by name, with nothing between them (Mandrill)."""
        return b"".join(key + value for key, value in sorted(self.form_fields()))

    def form_fields(self) -> Fields:
        if self._form is None:
            kind, headers = content_type(self.request.headers), self.request.headers
            is_form = kind == "application/x-www-form-urlencoded" and not is_json(self.body)
            self._form = fields(self.body) if is_form else multipart_pairs(headers, self.body)
        return self._form

    def json(self, path: Sequence[str]) -> bytes | None:
        """A string's UTF-8, or a number as it is written; None for anything else, and where there is no such thing."""
        try:
            return scalar(walk(self._json_top(), path))
        except msgspec.MsgspecError:  # not JSON, or with a lone surrogate, which JavaScript writes and msgspec refuses
            return scalar_slow(walk_slow(self.body, path))
        except RecursionError:
            return None

    def json_each(self, path: Sequence[str], name: str) -> list[bytes | None]:
        """The same of one member of every item of a list; empty when there is no such list."""
        try:
            items = step_into(walk(self._json_top(), path) or b"")
            return [scalar(member(step_into(item), name)) for item in items] if isinstance(items, list) else []
        except msgspec.MsgspecError:
            items = walk_slow(self.body, path)
            return [scalar_slow(member(item, name)) for item in items] if isinstance(items, list) else []
        except RecursionError:
            return []

    def _json_top(self) -> Any:
        if self._top is None:
            self._top = step_into(self.body.removeprefix(BOM))
        return self._top


@dataclass(frozen=True, slots=True)
class Place:
    """A compiled place. `headers` are the headers it reads, in lower case. `header` or `value` is the name of the one
    header or value that it is, and nothing beside.
    """

    text: str
    read: Callable[[Reader], bytes | None]
    headers: frozenset[bytes] = frozenset()
    header: bytes = b""
    value: str = ""

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

    def compiled(self) -> Callable[[Reader], bytes | None]:
        """`render`, shorter: for what is rendered again and again."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Place):
            return self.parts[0].read
        reads = [always(part) if isinstance(part, bytes) else part.read for part in self.parts]

        def render(reader: Reader) -> bytes | None:
            found: list[bytes] = []
            for read in reads:
                value = read(reader)
                if value is None:
                    return None
                found.append(value)
            return b"".join(found)

        return render

    def missing(self, reader: Reader) -> Place | None:
        """The first place that holds nothing."""
        return next((part for part in self.parts if isinstance(part, Place) and part.read(reader) is None), None)

    @property
    def headers(self) -> frozenset[bytes]:
        return headers_of([part for part in self.parts if isinstance(part, Place)])

    @property
    def holds_secret(self) -> bool:
        return any(isinstance(part, Place) and part.text == "secret" for part in self.parts)


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
    read = NAMED_PLACES[kind](name)
    if kind == "value":
        return Place(values[name], read, value=name)
    header = utf8(name.lower())
    return Place(text, read, frozenset({header}), header) if kind == "header" else Place(text, read)


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


def collect(wanted: frozenset[bytes], headers: RawHeaders) -> tuple[dict[bytes, bytes], Mapping[bytes, list[bytes]]]:
    """Of the wanted headers those that came once, and all values of those that came several times."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in wanted:
            found.setdefault(lower, []).append(value.strip(OWS))
    named = {name: values[0] for name, values in found.items() if len(values) == 1}
    return named, {name: values for name, values in found.items() if len(values) > 1}


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


def shown(value: object) -> str:
    """Any value as one line; long ones with their length instead of their end."""
    if value is None:
        return "nothing"
    if not isinstance(value, bytes):
        return str(value)
    text = repr(value[:SHOWN_BYTES_MAX].decode("utf-8", "backslashreplace"))
    return text if len(value) <= SHOWN_BYTES_MAX else f"{text} … ({len(value):,} bytes)"


def option(reader: Reader, name: str) -> bytes | None:
    value = reader.options.get(name)
    return utf8(value) or None if isinstance(value, str) else None


def claim(reader: Reader, name: str) -> bytes | None:
    value = reader.claims.get(name)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return utf8(str(value)) or None
    return None


def utf8(text: str) -> bytes:
    """Text as UTF-8. Lone surrogates (from odd JSON, or an environment variable that is no UTF-8) are kept apart."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def without_query(url: str) -> bytes:
    return utf8(re.split(r"[?#]", url, maxsplit=1)[0])


def always(text: bytes) -> Callable[[Reader], bytes | None]:
    return lambda reader: text


def _header(name: str) -> Callable[[Reader], bytes | None]:
    lower = utf8(name.lower())
    return lambda reader: reader.named.get(lower) or reader.header(lower)


def _json(name: str) -> Callable[[Reader], bytes | None]:
    path = tuple(name.split("."))
    wanted = only_member(name)
    if wanted is None:
        return lambda reader: reader.json(path)

    def read(reader: Reader) -> bytes | None:
        body = reader.body
        try:
            return wanted(body) if body.isascii() else reader.json(path)  # else a name may be no text
        except (msgspec.MsgspecError, RecursionError):
            return reader.json(path)

    return read


PLAIN_PLACES: Final[dict[str, Callable[[Reader], bytes | None]]] = {
    "body": lambda reader: reader.request.body,
    "body_sha256": lambda reader: hashlib.sha256(reader.request.body).hexdigest().encode(),
    "url": lambda reader: utf8(reader.url),
    "url_noquery": lambda reader: without_query(reader.url),
    "path": lambda reader: utf8(reader.request.path),
    "query": lambda reader: utf8(reader.request.query),
    "method": lambda reader: utf8(reader.request.method),
    "body_crc32": lambda reader: str(binascii.crc32(reader.request.body)).encode(),
    "url_decoded": lambda reader: unquote_to_bytes(reader.url),
    "form_sorted_concat": lambda reader: reader.form_sorted(),
    "secret": lambda reader: reader.secret,
}
NAMED_PLACES: Final[dict[str, Callable[[str], Callable[[Reader], bytes | None]]]] = {
    "header": _header,
    "query": lambda name: lambda reader: reader.query(utf8(name)),
    "form": lambda name: lambda reader: reader.form(utf8(name)),
    "json": _json,
    "value": lambda name: lambda reader: reader.values.get(name),
    "option": lambda name: lambda reader: option(reader, name),
    "jwt": lambda name: lambda reader: claim(reader, name),
}


def headers_of(places: Collection[Place]) -> frozenset[bytes]:
    return frozenset[bytes]().union(*(place.headers for place in places))


def with_header(headers: RawHeaders, name: str, value: bytes) -> RawHeaders:
    """The headers with exactly one of this name."""
    lower = utf8(name.lower())
    return (*((key, old) for key, old in headers if key.lower() != lower), (utf8(name), value))
