"""Adyen's classic webhooks: each item of the batch carries a signature over eight of its fields.

https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures, and util.py of Adyen's
Python library, which looks at the first item only: here every item must be genuine, as each becomes an event.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Scheme, missing, read_keys, refuse
from relay.schemes.encodings import Key
from relay.schemes.places import Reader, parse_place, utf8
from relay.schemes.shared import any_match, decoded, mismatch, need_key, no_key, object_in, strict_json, string

#: Adyen sends one item, seldom a few: more are an attempt to keep us busy.
ITEMS_MAX: Final = 1000
HEX: Final = Key("hex")
SIGNED: Final = ("pspReference", "originalReference", "merchantAccountCode", "merchantReference")
SIGNATURE: Final = parse_place("json:notificationItems.0.NotificationRequestItem.additionalData.hmacSignature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adyen(Scheme):
    """The key is written in hex. Any of the secrets may vouch for any of the items."""

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        items = items_of(strict_json(reader.body))
        if not items:
            return missing(SIGNATURE)
        keys = read_keys(reader, secrets, HEX)
        if not keys:
            return no_key()
        for index, item in enumerate(items):
            if refusal := judge_item(reader, keys, item, f"notificationItems[{index}]"):
                return refusal
        return None

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        key = need_key(HEX.read(secret))
        body = object_in(request.body)
        for item in items_of(body):
            signature = b64encode(hmac.digest(key, need_key(content_of(item)), "sha256")).decode()
            item["additionalData"] = {**(item.get("additionalData") or {}), "hmacSignature": signature}
        return request.but(body=json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset()

    def key_problem(self, secret: str) -> str | None:
        return None if HEX.read(secret) else "is not hex"


def judge_item(reader: Reader, keys: Sequence[tuple[int, bytes]], item: dict[str, Any], where: str) -> Rejected | None:
    extra = item.get("additionalData")
    sent = string(extra.get("hmacSignature")) if isinstance(extra, dict) else None
    reader.note(f"hmacSignature of {where}", sent or None)
    if not sent:
        return refuse("signature_missing", f"{where} has no hmacSignature")
    content = content_of(item)
    if content is None:
        return refuse("signature_mismatch", f"{where} holds something else than texts in the fields that are signed")
    if any_match(reader, keys, content, decoded([utf8(sent)], "base64", "sha256"), "sha256", "base64"):
        return None
    return mismatch(keys, f"the hmacSignature of {where}")


def items_of(body: Any) -> list[dict[str, Any]]:
    """The NotificationRequestItems; nothing when the body is no batch, is too long, or one of them is no object."""
    items = body.get("notificationItems") if isinstance(body, dict) else None
    if not isinstance(items, list) or not 0 < len(items) <= ITEMS_MAX:
        return []
    found = [item.get("NotificationRequestItem") if isinstance(item, dict) else None for item in items]
    return [item for item in found if isinstance(item, dict)] if all(isinstance(item, dict) for item in found) else []


def content_of(item: dict[str, Any]) -> bytes | None:
    """The eight fields, apart by colons, which are not escaped in them; one that is absent is empty."""
    amount = item.get("amount")
    if not isinstance(amount, dict):
        return None
    fields = [*(item.get(name) for name in SIGNED), amount.get("value"), amount.get("currency")]
    texts = ["" if value is None else value for value in (*fields, item.get("eventCode"), item.get("success"))]
    if not all(isinstance(text, str | int) and not isinstance(text, bool) for text in texts):
        return None
    return utf8(":".join(str(text) for text in texts))
