"""Braintree: a form with `bt_payload` (XML in base64) and `bt_signature`, pairs of a public key and a signature.

https://developer.paypal.com/braintree/docs/guides/webhooks/parse, and webhook_notification_gateway.py of the SDK
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import encodebytes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import SIGNATURE_BYTES_MAX, SIGNATURES_MAX, Scheme, missing, read_keys, refuse
from relay.schemes.places import Fields, Reader, fields, option, parse_place, utf8
from relay.schemes.shared import VERBATIM, any_match, decoded, mismatch, need_key, no_key

SIGNATURE: Final = parse_place("form:bt_signature")
PAYLOAD: Final = parse_place("form:bt_payload")
FOREIGN: Final = re.compile(rb"[^A-Za-z0-9+=/\n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Braintree(Scheme):
    """The key is the SHA-1 of the private key. With the option `public_key` only that key's signature counts."""

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        sent, payload = SIGNATURE.read(reader), PAYLOAD.read(reader)
        reader.note(str(SIGNATURE), sent)
        if not sent or not payload:
            return missing(PAYLOAD if sent else SIGNATURE)
        keys = [(index, derived(key)) for index, key in read_keys(reader, secrets, VERBATIM)]
        if not keys:
            return no_key()
        if FOREIGN.search(payload):
            return refuse("signature_mismatch", f"{PAYLOAD} holds something else than base64")
        signatures = decoded(signatures_in(sent, option(reader, "public_key")), "hex_lower", "sha1")
        # Some servers strip the line break at the end of a field, and Braintree's own libraries look for it too.
        contents = (payload, payload + b"\n")
        if any(any_match(reader, keys, content, signatures, "sha1", "hex") for content in contents):
            return None
        return mismatch(keys, f"{SIGNATURE}, of {len(signatures)} for this public key,")

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        """`bt_payload` may still be XML: it is written in base64 as Braintree does."""
        key = derived(need_key(VERBATIM.read(secret)))
        form: Fields = [(name, value) for name, value in fields(request.body) if name != b"bt_signature"]
        payload = dict(form).get(b"bt_payload", b"")
        if payload.lstrip().startswith(b"<"):
            payload = encodebytes(payload)
        public_key = utf8(str(self.options.get("public_key") or "public_key"))
        signature = public_key + b"|" + utf8(hmac.digest(key, payload, "sha1").hex())
        signed = {b"bt_signature": signature, **dict(form), b"bt_payload": payload}
        return request.but(body=urlencode(signed).encode())

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset()


def derived(private_key: bytes) -> bytes:
    return hashlib.sha1(private_key, usedforsecurity=False).digest()


def signatures_in(sent: bytes, public_key: bytes | None) -> list[bytes]:
    """The signatures of `key|signature&key|signature`: those of one key, or all of them."""
    pairs = sent.split(b"&", SIGNATURES_MAX) if len(sent) <= SIGNATURE_BYTES_MAX else []
    named = [pair.partition(b"|") for pair in pairs[:SIGNATURES_MAX]]
    return [signature for key, _, signature in named if public_key in (None, key)]
