"""Box: two signatures, one by each of the app's two keys, over the body and the time behind it.

https://developer.box.com/guides/webhooks/v2/signatures-v2/, and box_sdk_gen/internal/utils.py of the Python SDK.
"""

from __future__ import annotations

import hmac
import re
import struct
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Scheme, Timestamp, missing, read_keys, refuse
from relay.schemes.encodings import write_time
from relay.schemes.places import Reader, parse_place, utf8
from relay.schemes.shared import VERBATIM, any_match, decoded, mismatch, need_key, no_key, with_headers, with_id

PRIMARY: Final = parse_place("header:box-signature-primary")
SECONDARY: Final = parse_place("header:box-signature-secondary")
TIMESTAMP: Final = parse_place("header:box-delivery-timestamp")
VERSION: Final = parse_place("header:box-signature-version")
ALGORITHM: Final = parse_place("header:box-signature-algorithm")
#: A backslash before a character beyond ASCII, which would turn its escape into text; and NUL, which no JSON holds.
NOT_ESCAPED: Final = re.compile(rb"\\[\x7f-\xff]|\0")
TEN_MINUTES: Final = Timestamp(TIMESTAMP, "iso", 600, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box(Scheme):
    """Each of the secrets may have made either signature; the option `secondary_key` the secondary one only."""

    time: Timestamp = TEN_MINUTES

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        if refusal := judge_form(reader):
            return refusal
        primary, secondary = PRIMARY.read(reader), SECONDARY.read(reader)
        keys = read_keys(reader, secrets, VERBATIM)
        other = read_keys(reader, [str(self.options.get("secondary_key") or "")], VERBATIM)
        if not keys and not other:
            return no_key()
        both = decoded([text for text in (primary, secondary) if text], "base64", "sha256")
        second = decoded([secondary] if secondary else [], "base64", "sha256")
        for content in contents_of(reader.request.body, TIMESTAMP.read(reader) or b""):
            if any_match(reader, keys, content, both, "sha256", "base64"):
                return self.time.judge(reader, now_s)
            if other and any_match(reader, other, content, second, "sha256", "base64"):
                return self.time.judge(reader, now_s)
        return mismatch([*keys, *other], f"{PRIMARY} or secondary")

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        key, time_text = need_key(VERBATIM.read(secret)), write_time(int(now_s), "iso")
        request = with_id(request, self.delivery_id, delivery_id)
        signature = b64encode(hmac.digest(key, request.body + utf8(time_text), "sha256"))
        sent: dict[str, str | bytes] = {
            "BOX-DELIVERY-TIMESTAMP": time_text,
            "BOX-SIGNATURE-VERSION": "1",
            "BOX-SIGNATURE-ALGORITHM": "HmacSHA256",
            "BOX-SIGNATURE-PRIMARY": signature,
        }
        return with_headers(request, sent)

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset().union(*(place.headers for place in (PRIMARY, SECONDARY, TIMESTAMP, VERSION, ALGORITHM)))

    def with_tolerance(self, seconds: float) -> Scheme | None:
        return replace(self, time=replace(self.time, tolerance_seconds=seconds, future_seconds=seconds))


def judge_form(reader: Reader) -> Rejected | None:
    """What must be there, and be what Box always sends."""
    for place in (PRIMARY, SECONDARY, TIMESTAMP, VERSION, ALGORITHM):
        reader.note(str(place), place.read(reader))
    if not PRIMARY.read(reader) and not SECONDARY.read(reader):
        return missing(PRIMARY)
    for place in (TIMESTAMP, VERSION, ALGORITHM):
        if not place.read(reader):
            return missing(place)
    if VERSION.read(reader) != b"1" or ALGORITHM.read(reader) != b"HmacSHA256":
        return refuse("signature_mismatch", f"{VERSION} is not 1, or {ALGORITHM} is not HmacSHA256")
    return None


def contents_of(body: bytes, time_text: bytes) -> Iterator[bytes]:
    r"""The body as it came; and, as Box's libraries try too, with é written as \u00e9: the same JSON by any reading."""
    yield body + time_text
    if not body.isascii() and not NOT_ESCAPED.search(body):
        with suppress(ValueError):  # no UTF-8
            yield escaped(body) + time_text


def escaped(body: bytes) -> bytes:
    r"""Every character beyond ASCII as \uXXXX. Anybody can have this done to any body: no step is Python's own loop.

    Raises ValueError when it is no UTF-8. Python writes \xXX up to U+00FF: what is written so already waits as NUL.
    """
    units = body.replace(b"\\x", b"\0").decode().encode("utf-16-le")  # a surrogate pair is two characters here
    text = "".join(map(chr, struct.unpack(f"<{len(units) // 2}H", units))).encode("ascii", "backslashreplace")
    return text.replace(b"\\x", b"\\u00").replace(b"\0", b"\\x").replace(b"\x7f", b"\\u007f")
