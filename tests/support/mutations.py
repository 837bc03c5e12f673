"""Every change of one byte that a scheme signs, for each kind of scheme: what must never pass."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from relay.models import RawHeaders, Request
from relay.schemes.base import Part
from relay.schemes.jwt import Jwt
from relay.schemes.kinds import BySecret
from relay.schemes.places import Place, Reader, fields
from relay.schemes.signed import Signed
from relay.schemes.token import Token
from relay.verify import Scheme
from tests.support.requests import Vector

FLIPS = (0x01, 0x20, 0x80)
#: What the schemes that are code sign, as their providers document it.
FUNCTIONS: dict[str, list[str]] = {
    "twilio": ["url", "form"],
    "adyen": [
        *("member:pspReference", "member:originalReference", "member:merchantAccountCode", "member:merchantReference"),
        *("member:value", "member:currency", "member:eventCode", "member:success"),
    ],
    "sns": [
        *("member:Message", "member:MessageId", "member:Subject", "member:SubscribeURL", "member:Timestamp"),
        *("member:Token", "member:TopicArn", "member:Type"),
    ],
    "contentful": ["method", "url after host", "body", "header:x-contentful-signed-headers", "header:x-test"],
    "braintree": ["form"],
    "dropbox_sign": ["member:event_time", "member:event_type"],
    "box": ["body", "header:box-delivery-timestamp"],
    "coinbase_cdp_v1": ["body", "header:content-type", "header:x-event-id", "header:x-event-type"],
    "unisender_go": ["body"],
}


@dataclass(frozen=True)
class Changed:
    """A request with one other byte, the URL it came to, and what was changed, for the message."""

    what: str
    request: Request
    url: str


def mutations(vector: Vector, scheme: Scheme) -> Iterator[Changed]:
    """All changes of one byte of what is signed, for a valid vector."""
    if isinstance(scheme, BySecret):
        scheme = scheme.scheme_of(vector.secret)
    for place in sorted(set(signed_places(vector.preset, scheme))):
        yield from changes(vector, scheme, place)


def signed_places(preset: str, scheme: Scheme) -> Iterator[str]:
    if preset in FUNCTIONS:
        yield from FUNCTIONS[preset]
    elif isinstance(scheme, Signed):
        yield from (signed_place(part, scheme) for part in scheme.content.parts if isinstance(part, Place))
    elif isinstance(scheme, Jwt):
        yield "token"
        yield from ["body"] if scheme.body_hash else []
        yield from ["url"] if scheme.url_hash else []
        yield from (
            ["url"] if any("url" in getattr(one, "text", "") for rule in scheme.claims for one in rule.expected) else []
        )
    elif isinstance(scheme, Token):
        in_body = scheme.token.place.text if not scheme.token.place.headers else "token"
        yield f"member:{scheme.each.member}" if scheme.each else in_body


def signed_place(part: Place, scheme: Signed) -> str:
    """The place that a part of the template stands for. A named value has what messages call it as its text."""
    for name, value in scheme.values:
        if isinstance(value, Part) and part.text == str(value.place):
            return value.place.text
        if not isinstance(value, Part) and part.text == f"the {name} in {scheme.signature.place}":
            return f"span:{value.pattern.decode()}"
    same = {"body_sha256": "body", "body_crc32": "body", "url_decoded": "url", "form_sorted_concat": "form"}
    return same.get(part.text, part.text)


def changes(vector: Vector, scheme: Scheme, place: str) -> Iterator[Changed]:
    request, url = vector.request, vector.url
    kind, _, name = place.partition(":")
    if kind in ("secret", "option"):
        return
    if kind == "method":
        for text in flipped(request.method.encode()):
            yield Changed(place, request.but(method=text.decode("latin-1")), url)
    elif kind.startswith("url"):
        start = url.index("/", 8) if kind == "url after host" else 0
        end = url.find("?") if kind == "url_noquery" and "?" in url else len(url)
        for text in flipped(url.encode(), start, end):
            yield Changed(place, request, text.decode("latin-1"))
    elif kind in ("body", "form", "json", "member"):
        for body in changed_bodies(request, kind, name):
            yield Changed(place, request.but(body=body), url)
    elif kind in ("header", "token", "span"):
        for headers in changed_headers(request, scheme, kind, name):
            yield Changed(place, request.but(headers=headers), url)
    else:
        raise AssertionError(f"no test changes {place}")


def changed_bodies(request: Request, kind: str, name: str) -> Iterator[bytes]:
    body = request.body
    if kind == "body":
        yield from flipped(body)
    elif kind == "form":
        wanted = sorted(set(fields(body)))
        yield from (text for text in flipped(body, *field_span(body, name)) if sorted(set(fields(text))) != wanted)
    else:
        member = name.rpartition(".")[2]
        for match in re.finditer(rb'"%s"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|([0-9.-]+))' % member.encode(), body):
            start, end = match.span(1) if match[1] is not None else match.span(2)
            yield from (text for text in flipped(body, start, end) if not same_json(text, body))


def field_span(body: bytes, name: str) -> tuple[int, int | None]:
    """Where a form's field stands; the whole form without a name, apart from a signature that is one of its fields."""
    match = re.search(rb"(?:^|&)%s=([^&]*)" % (name.encode() or b"bt_payload"), body)
    return match.span(1) if match else (0, None)


def changed_headers(request: Request, scheme: Scheme, kind: str, name: str) -> Iterator[RawHeaders]:
    wanted = name.encode()
    if kind == "token":
        assert isinstance(scheme, Jwt | Token)
        wanted = next(iter(scheme.token.place.headers), b"")
    if kind == "span":
        assert isinstance(scheme, Signed)
        wanted = next(iter(scheme.signature.place.headers))
    for index, (key, value) in enumerate(request.headers):
        if key.lower() != wanted.lower():
            continue
        start, end = 0, len(value)
        if kind == "token":
            start = value.rfind(b" ") + 1
        if kind == "span":
            match = re.search(name.encode(), value)
            assert match
            start, end = match.span(1)
        for text in flipped(value, start, end):
            if kind == "token" and same_token(scheme, text, value):
                continue
            yield (*request.headers[:index], (key, text), *request.headers[index + 1 :])


def flipped(text: bytes, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    for index in range(start, len(text) if end is None else end):
        for flip in FLIPS:
            yield text[:index] + bytes([text[index] ^ flip]) + text[index + 1 :]


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def same_token(scheme: Scheme, one: bytes, other: bytes) -> bool:
    """Base64 that says the same in another way is the same user and password."""
    if not isinstance(scheme, Token):
        return False
    reader = Reader.of(frozenset(), Request("POST", "", "", (), b""), "", b"")
    assert reader.secret is None
    return scheme._sent(one) == scheme._sent(other)
