"""Hook0's signature v1, which Coinbase CDP sends: time, the names of some headers, their values, and the body.

https://docs.cdp.coinbase.com/webhooks/verify-signatures, and signature.py of the package hook0-client. The weaker v0,
sent beside it, is not looked at here.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Scheme, Timestamp, missing, read_keys, refuse
from relay.schemes.encodings import write_time
from relay.schemes.places import HEADER_NAME, Reader, only, parse_place, utf8
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

SIGNATURE: Final = parse_place("header:x-hook0-signature")
TIME: Final = parse_place("value:t", {"t": f"the time in {SIGNATURE}"})
HEADER_BYTES_MAX: Final = 8 * 1024
PARTS_MAX: Final = 32
NAMES_MAX: Final = 64
FIVE_MINUTES: Final = Timestamp(TIME, "s", 300, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook0(Scheme):
    time: Timestamp = FIVE_MINUTES

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        sent = SIGNATURE.read(reader)
        reader.note(str(SIGNATURE), sent)
        parts = parts_of(sent or b"")
        t, names = only(parts.get(b"t", [])), names_in(parts.get(b"h", [b""]))
        if not t or not parts.get(b"v1"):
            return refuse("signature_missing", f"{SIGNATURE} holds no t or no v1, is absent, or sent twice")
        keys = read_keys(reader, secrets, VERBATIM)
        if not keys:
            return no_key()
        if names is None:
            return refuse("signature_mismatch", f"h in {SIGNATURE} is no list of up to {NAMES_MAX} headers")
        values = values_of(reader, names)
        if isinstance(values, Rejected):
            return values
        content = content_of(t, names, values, reader.request.body)
        if not any_match(reader, keys, content, decoded(parts[b"v1"], "hex_lower", "sha256"), "sha256", "hex"):
            return mismatch(keys, f"v1 in {SIGNATURE}")
        reader.values["t"] = t
        return self.time.judge(reader, now_s)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        """Over the content type and the delivery id's header, where there are."""
        key, t = need_key(VERBATIM.read(secret)), utf8(write_time(now_s, "s"))
        request = with_id(request, self.delivery_id, delivery_id)
        there = headers_by_name(request.headers)
        names = [name for name in (b"content-type", b"x-event-id", b"x-event-type") if name in there]
        content = content_of(t, names, [there[name][0] for name in names], request.body)
        v1 = utf8(hmac.digest(key, content, "sha256").hex())
        return with_headers(request, {"X-Hook0-Signature": b"t=" + t + b",h=" + b" ".join(names) + b",v1=" + v1})

    def headers_judged(self) -> frozenset[bytes]:
        return SIGNATURE.headers

    def with_tolerance(self, seconds: float) -> Scheme | None:
        return replace(self, time=replace(self.time, tolerance_seconds=seconds, future_seconds=seconds))


def parts_of(sent: bytes) -> dict[bytes, list[bytes]]:
    """`t=…,h=…,v1=…` by name; nothing when it is too long to be one."""
    pairs = sent.split(b",", PARTS_MAX) if len(sent) <= HEADER_BYTES_MAX else []
    found: dict[bytes, list[bytes]] = {}
    for name, _, value in (pair.partition(b"=") for pair in pairs[:PARTS_MAX]):
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def names_in(lists: Sequence[bytes]) -> list[bytes] | None:
    """The headers that are signed, as they are written; None when that is no list of them, or there are two lists."""
    if len(lists) != 1:
        return None
    names = lists[0].split(b" ", NAMES_MAX) if lists[0] else []
    fits = len(names) <= NAMES_MAX and all(HEADER_NAME.fullmatch(name.decode("latin-1")) for name in names)
    return names if fits else None


def values_of(reader: Reader, names: Sequence[bytes]) -> list[bytes] | Rejected:
    """The values of the headers that are signed: one that is not there is no empty one."""
    there = headers_by_name(reader.request.headers)
    values: list[bytes] = []
    for name in names:
        sent = there.get(name.lower(), [])
        if not sent or any(value != sent[0] for value in sent):
            return missing(parse_place(f"header:{name.decode()}"))
        values.append(sent[0])
    return values


def content_of(t: bytes, names: Sequence[bytes], values: Sequence[bytes], body: bytes) -> bytes:
    return b".".join((t, b" ".join(names), b".".join(values), body))
