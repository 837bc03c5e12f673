"""A delivery → what the script is called with, as Inngest hands it over: evt, headers, queryParams, raw."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from relay.bodies import content_type, decode_body
from relay.errors import Rejected, TransformError
from relay.forms import FIELDS_MAX, Fields, TooManyFieldsError, is_json, multipart_fields
from relay.models import Delivery, RawHeaders
from relay.sandbox import Call

#: Longer names of headers are not kept in mind.
KNOWN_BYTES_MAX: Final = 64
ENCODE: Final = msgspec.json.Encoder().encode
#: What of a header's value stands in JSON as it is.
PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
#: The usual Content-Type.
JSON: Final = b"application/json"
#: What HTTP allows in a header's name (RFC 9110); Go leaves names with anything else as they are.
TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def call_for(delivery: Delivery, body_bytes_max: int) -> Call | TransformError:
    """The call of one delivery. An error when the body is not in the coding that its headers name."""
    request, body = delivery.request, delivery.request.body
    plain = None if request.query else plain_headers(request.headers)
    if plain is not None:
        return Call(body, None, plain, None)
    headers = header_values(request.headers)
    if "Content-Encoding" in headers:
        decoded = decode_body(request.headers, body, body_bytes_max)
        if isinstance(decoded, Rejected):
            return TransformError("body_unreadable", f"{decoded.code}: {decoded.message}")
        body = decoded
    try:
        is_form = "form" in headers.get("Content-Type", "").lower()  # form_fields looks more closely
        fields = form_fields(request.headers, body) if is_form else None
        query = grouped(query_pairs(request.query)) if request.query else None
    except TooManyFieldsError as error:
        return TransformError("body_unreadable", str(error))
    return Call(
        body, None if fields is None else ENCODE(fields), ENCODE(headers), None if query is None else ENCODE(query)
    )


def plain_headers(headers: RawHeaders) -> bytes | None:
    """The JSON text of the headers, where it needs no more than putting together; None also where they say that the
    body is a form, or coded.
    """
    if not headers:
        return None
    names, values = zip(*headers)  # noqa: B905  they are pairs, and saying so costs half as much again
    template, type_at = shape_of(names)
    if not template or b"".join(values).translate(None, PLAIN):
        return None
    kind = JSON if type_at is None else values[type_at]
    return template % values if kind == JSON or b"form" not in kind.lower() else None


@lru_cache(maxsize=128)
def shape_of(names: tuple[bytes, ...]) -> tuple[bytes, int | None]:
    """For headers of these names, which a sender repeats: their JSON text without the values, and which of them is
    Content-Type. Empty where a name comes twice or the body is coded.
    """
    known = [canonical_name(name) for name in names]
    if len(set(known)) < len(known) or "Content-Encoding" in known:
        return b"", None
    members = [ENCODE(name).replace(b"%", b"%%") + b':"%b"' for name in known]
    return b"{" + b",".join(members) + b"}", known.index("Content-Type") if "Content-Type" in known else None


def header_values(headers: RawHeaders) -> dict[str, str]:
    """Canonical name → value; a repeated header's values are joined by a comma, as HTTP defines."""
    values: dict[str, str] = {}
    for name, value in headers:
        known = known_name(name) if len(name) <= KNOWN_BYTES_MAX else canonical_name(name)
        text = value.decode("utf-8", "replace")
        values[known] = f"{values[known]}, {text}" if known in values else text
    return values


def canonical_name(name: bytes) -> str:
    """Go's net/textproto.CanonicalMIMEHeaderKey: X-Github-Event; a name with bytes that no token has stays as it is."""
    if not all(byte in TOKEN for byte in name):
        return name.decode("utf-8", "replace")
    return "-".join(part.capitalize() for part in name.decode("ascii").split("-"))


#: Senders repeat their headers, so that most names were met before.
known_name: Final = lru_cache(maxsize=1024)(canonical_name)


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
