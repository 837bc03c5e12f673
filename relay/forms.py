"""What of a body is a form, and the fields of a multipart one. Pure.

Verification and transforms both read forms with this: they must never see different fields.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from relay.bodies import content_type
from relay.models import RawHeaders

#: More fields than this are an attack, or no form.
FIELDS_MAX: Final = 10_000

Fields = dict[str, list[str]]

# The parser logs each malformed form, which is how any stranger could fill the log.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class TooManyFieldsError(ValueError):
    """A form of more than FIELDS_MAX fields."""


def is_json(body: bytes) -> bool:
    """Inngest looks at the first token before the content type: JSON posted under curl's default type is JSON."""
    if body.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
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


def multipart_pairs(headers: RawHeaders, body: bytes) -> list[tuple[bytes, bytes]]:
    """The same as bytes, name by name; nothing when the body is no such form, or has too many fields."""
    if content_type(headers) != "multipart/form-data":
        return []
    try:
        form = multipart_fields(headers, body) or {}
    except TooManyFieldsError:
        return []
    return [(name.encode(), text.encode()) for name, texts in form.items() for text in texts]


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
