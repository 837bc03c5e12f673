"""Webhooks as Stripe sends them, each with an id of its own, signed ahead of time."""

from __future__ import annotations

import copy
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any, Final

SECRET: Final = "whsec_bench_0123456789abcdef"
CASE: Final = Path(__file__).parents[2] / "transforms" / "stripe" / "charge.succeeded.request.json"
#: Stands in the body where each request has its own id.
MARK: Final = "evt_" + "0" * 24


class Signer:
    """Whole HTTP requests; the same ones go to every server that is compared."""

    def __init__(self, size_bytes: int, *, close: bool = False) -> None:
        self.before, self.after = charge(size_bytes).split(MARK.encode())
        ends = "Connection: close\r\n" if close else ""
        length = len(self.before) + len(MARK) + len(self.after)
        self.head = (
            "POST /in/stripe HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n"
            "Accept: */*\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {length}\r\n{ends}Stripe-Signature: t="
        ).encode()
        self.ahead: list[bytes] = []

    def sign_ahead(self, count: int) -> None:
        """Have so many ready, so that signing costs nothing while the server is measured."""
        self.ahead = [self.sign() for _ in range(count)]

    def take(self) -> bytes:
        return self.ahead.pop() if self.ahead else self.sign()

    def sign(self) -> bytes:
        """Ids are random, as Stripe's are: ids in order would be kinder to an index than real ones."""
        stamp = b"%d" % time.time()
        body = b"%bevt_%b%b" % (self.before, os.urandom(12).hex().encode(), self.after)
        digest = hmac.digest(SECRET.encode(), b"%b.%b" % (stamp, body), "sha256")
        return b"%b%b,v1=%b\r\n\r\n%b" % (self.head, stamp, digest.hex().encode(), body)


def charge(size_bytes: int) -> bytes:
    """A `charge.succeeded` that has the size to the byte: parts left out, or metadata added."""
    event: dict[str, Any] = copy.deepcopy(json.loads(CASE.read_text("utf-8"))["json"])
    event["id"] = MARK
    charged = event["data"]["object"]
    for part in ("payment_method_details", "billing_details", "outcome"):
        if len(json.dumps(event)) + len(', "note": ""') > size_bytes:
            del charged[part]
    metadata = charged["metadata"]
    while size_bytes - len(json.dumps(event)) > 150:
        metadata[f"field_{len(metadata)}"] = "x" * 48
    metadata["note"] = ""
    metadata["note"] = "x" * (size_bytes - len(json.dumps(event)))
    body = json.dumps(event).encode()
    assert len(body) == size_bytes
    return body
