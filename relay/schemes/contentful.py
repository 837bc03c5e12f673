"""Contentful: a canonical request of method, path, the headers that the request itself names, and the body.

https://www.contentful.com/developers/docs/extensibility/webhooks/request-verification/, and sign-request.ts of the
package @contentful/node-apps-toolkit, which escapes the query twice.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import SIGNATURE_BYTES_MAX, Scheme, Timestamp, missing, read_keys, refuse
from relay.schemes.encodings import write_time
from relay.schemes.places import Reader, only, parse_place, utf8
from relay.schemes.shared import (
    VERBATIM,
    any_match,
    decoded,
    headers_by_name,
    mismatch,
    need_key,
    no_key,
    with_headers,
    with_id,
)

SIGNATURE: Final = parse_place("header:x-contentful-signature")
SIGNED_HEADERS: Final = parse_place("header:x-contentful-signed-headers")
TIMESTAMP: Final = parse_place("header:x-contentful-timestamp")
#: What must be among the signed headers: without it the list, or the time, could be changed.
REQUIRED: Final = (b"x-contentful-signed-headers", b"x-contentful-timestamp")
NAMES_MAX: Final = 100
ORIGIN: Final = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
#: What JavaScript's encodeURIComponent and encodeURI leave as it is, beyond letters and digits.
COMPONENT_SAFE: Final = "-_.!~*'()"
URI_SAFE: Final = COMPONENT_SAFE + ";,/?:@&=+$#"
HALF_A_MINUTE: Final = Timestamp(TIMESTAMP, "ms", 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contentful(Scheme):
    time: Timestamp = HALF_A_MINUTE

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        sent, named = SIGNATURE.read(reader), SIGNED_HEADERS.read(reader)
        reader.note(str(SIGNATURE), sent)
        reader.note(str(SIGNED_HEADERS), named)
        if not sent or not named:
            return missing(SIGNED_HEADERS if sent else SIGNATURE)
        keys = read_keys(reader, secrets, VERBATIM)
        if not keys:
            return no_key()
        names = names_in(named)
        if names is None:
            return refuse("signature_mismatch", f"{SIGNED_HEADERS} leaves itself or the time out, or is no such list")
        values = {name: only(found) for name, found in headers_by_name(reader.request.headers).items()}
        if absent := next((name for name in names if values.get(name) is None), None):
            return refuse("signature_missing", f"header {absent.decode('latin-1')} is signed, and not there")
        content = content_of(reader.request, reader.url, {name: values[name] or b"" for name in names})
        if not any_match(reader, keys, content, decoded([sent], "hex_lower", "sha256"), "sha256", "hex"):
            return mismatch(keys, str(SIGNATURE))
        return self.time.judge(reader, now_s)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        key, time_text = need_key(VERBATIM.read(secret)), utf8(write_time(now_s, "ms"))
        request = with_id(request, self.delivery_id, delivery_id)
        signed = {REQUIRED[0]: b",".join(REQUIRED), REQUIRED[1]: time_text}
        signature = hmac.digest(key, content_of(request, url, signed), "sha256").hex()
        headers = {name.decode(): value for name, value in signed.items()}
        return with_headers(request, {**headers, "x-contentful-signature": utf8(signature)})

    def headers_judged(self) -> frozenset[bytes]:
        return SIGNATURE.headers | SIGNED_HEADERS.headers | TIMESTAMP.headers

    def with_tolerance(self, seconds: float) -> Scheme | None:
        return replace(self, time=replace(self.time, tolerance_seconds=seconds))


def names_in(text: bytes) -> list[bytes] | None:
    """The headers that are signed, sorted; None when the list is not one that Contentful's own signer makes."""
    names = text.split(b",", NAMES_MAX) if len(text) <= SIGNATURE_BYTES_MAX else []
    if len(names) > NAMES_MAX or names != sorted(set(names)) or any(name not in names for name in REQUIRED):
        return None
    return names


def content_of(request: Request, url: str, signed: Mapping[bytes, bytes]) -> bytes:
    headers = b";".join(name + b":" + signed[name] for name in sorted(signed))
    return b"\n".join((utf8(request.method), canonical_path(url), headers, request.body))


def canonical_path(url: str) -> bytes:
    """The public URL's path and query as encodeURI writes them, the query having been escaped once before."""
    path, _, query = ORIGIN.sub("", url, count=1).partition("#")[0].partition("?")
    escaped = quote(utf8(query), safe=COMPONENT_SAFE)
    whole = utf8(path or "/") + (b"?" + utf8(escaped) if escaped else b"")
    return utf8(quote(whole, safe=URI_SAFE))
