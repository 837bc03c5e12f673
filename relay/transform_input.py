"""A delivery → what the script is called with, as Inngest hands it over: evt, headers, queryParams, raw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from relay.bodies import content_type, decode_body
from relay.errors import Rejected, TransformError
from relay.models import Delivery, RawHeaders
from relay.sandbox import Call

#: More fields than this are an attack, or no form.
FIELDS_MAX: Final = 10_000
#: What HTTP allows in a header's name (RFC 9110); Go leaves names with anything else as they are.
TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

Fields = dict[str, list[str]]


class TooManyFieldsError(ValueError):
    """A form of more than FIELDS_MAX fields."""


def call_for(delivery: Delivery, body_bytes_max: int) -> Call | TransformError:
    """The call of one delivery. An error when the body is not in the coding that its headers name."""
    request = delivery.request
    body = decode_body(request.headers, request.body, body_bytes_max)
    if isinstance(body, Rejected):
        return TransformError("body_unreadable", f"{body.code}: {body.message}")
    try:
        fields = form_fields(request.headers, body)
        query = grouped(query_pairs(request.query))
    except TooManyFieldsError as error:
        return TransformError("body_unreadable", str(error))
    return Call(
        raw=body.decode("utf-8", "replace"),
        evt_json=None if fields is None else encode(fields),
        headers_json=encode(header_values(request.headers)),
        query_json=encode(query),
    )


def encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def header_values(headers: RawHeaders) -> dict[str, str]:
    """Canonical name → value; a repeated header's values are joined by a comma, as HTTP defines."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(canonical_name(name), []).append(value.decode("utf-8", "replace"))
    return {name: ", ".join(found) for name, found in values.items()}


def canonical_name(name: bytes) -> str:
    """Go's net/textproto.CanonicalMIMEHeaderKey: X-Github-Event; a name with bytes that no token has stays as it is."""
    if not all(byte in TOKEN for byte in name):
        return name.decode("utf-8", "replace")
    return "-".join(part.capitalize() for part in name.decode("ascii").split("-"))


def query_pairs(text: str) -> list[tuple[str, str]]:
    """`a=1&b=%20+x`, blank values kept, bytes that are no UTF-8 replaced."""
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="replace")
    except ValueError as error:
        raise TooManyFieldsError(f"a query or form of more than {FIELDS_MAX} fields") from error


def grouped(pairs: list[tuple[str, str]]) -> Fields:
    fields: Fields = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def form_fields(headers: RawHeaders, body: bytes) -> Fields | None:
    """A form's fields; None when the body is no form, or not in the form's format: then it is tried as JSON."""
    kind = content_type(headers)
    if kind == "application/x-www-form-urlencoded" and not is_json(body):
        return grouped(query_pairs(body.decode("utf-8", "replace")))
    if kind == "multipart/form-data":
        return multipart_fields(headers, body)
    return None


def is_json(body: bytes) -> bool:
    """Inngest looks at the first token before the content type: JSON posted under curl's default type is JSON."""
    if body.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


def multipart_fields(headers: RawHeaders, body: bytes) -> Fields | None:
    """The values of a multipart form; file parts are left out, as Inngest does (raw holds them)."""
    given = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    boundary = parse_options_header(given)[1].get(b"boundary")
    if not boundary:
        return None
    parts = Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type] # its TypedDict wants all keys
        parser.write(body)
        parser.finalize()
    except FormParserError:
        return None
    return parts.fields if parser.state == MultipartState.END else None  # cut short: half a form is no form


class Parts:
    """Gathers what the multipart parser calls back."""

    def __init__(self) -> None:
        self.fields: Fields = {}
        self.count = 0
        self.header = [b"", b""]
        self.disposition = b""
        self.data: list[bytes] = []

    def callbacks(self) -> dict[str, Callable[..., Any]]:
        return {
            "on_part_begin": self.begin,
            "on_header_field": lambda data, start, end: self.add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self.add_header(1, data[start:end]),
            "on_header_end": self.end_header,
            "on_part_data": lambda data, start, end: self.data.append(data[start:end]),
            "on_part_end": self.end,
        }

    def begin(self) -> None:
        self.count += 1
        if self.count > FIELDS_MAX:
            raise TooManyFieldsError(f"a form of more than {FIELDS_MAX} fields")
        self.disposition, self.data = b"", []

    def add_header(self, index: int, piece: bytes) -> None:
        self.header[index] += piece

    def end_header(self) -> None:
        name, value = self.header
        if name.lower() == b"content-disposition":
            self.disposition = value
        self.header = [b"", b""]

    def end(self) -> None:
        _, options = parse_options_header(self.disposition)
        name = options.get(b"name")
        is_file = options.get(b"filename") or b"filename*=" in self.disposition.lower()
        if name and not is_file:
            value = b"".join(self.data).decode("utf-8", "replace")
            self.fields.setdefault(name.decode("utf-8", "replace"), []).append(value)
