"""Webhooks as Stripe sends them, each with ids and values of its own, signed ahead of time."""

from __future__ import annotations

import copy
import hmac
import json
import os
import re
import time
from base64 import b64encode
from itertools import chain
from pathlib import Path
from typing import Any, Final

SECRET: Final = "whsec_bench_0123456789abcdef"
CASE: Final = Path(__file__).parents[2] / "transforms" / "stripe" / "charge.succeeded.request.json"
#: What each request has of its own: whatever Stripe makes up for an object, and half of the note that fills the rest.
#: The store squeezes what comes together: it leaves a fifth of these, and an eighth of the 329 examples that GitHub
#: publishes, which are all different.
OWN: Final = re.compile(rb"(?<=_)[0-9A-Za-z]{14,}")
#: What a charge may have many of.
REFUND: Final[dict[str, Any]] = {
    "id": "re_" + "0" * 24,
    "object": "refund",
    "amount": 1200,
    "balance_transaction": "txn_" + "0" * 24,
    "charge": "ch_" + "0" * 24,
    "created": 1760000000,
    "currency": "usd",
    "destination_details": {"card": {"reference_status": "pending", "type": "refund"}, "type": "card"},
    "metadata": {},
    "reason": None,
    "receipt_number": None,
    "source_transfer_reversal": None,
    "status": "succeeded",
    "transfer_reversal": None,
}
#: The header of each scheme: %t is where the time stands, %d the digest in hex.
HEADERS: Final = {"stripe": b"Stripe-Signature: t=%t,v1=%d", "body": b"X-Hub-Signature-256: sha256=%d"}


class Signer:
    """Whole HTTP requests; the same ones go to every server that is compared.

    `scheme` is how they are signed: "stripe", the time and the body, or "body", the body alone as GitHub does it, for
    a peer that cannot check the first.
    """

    def __init__(
        self, size_bytes: int, *, close: bool = False, path: str = "/in/stripe", scheme: str = "stripe"
    ) -> None:
        self.header = HEADERS[scheme]
        self.charges = Charges(size_bytes)
        ends = "Connection: close\r\n" if close else ""
        self.head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n"
            "Accept: */*\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {size_bytes}\r\n{ends}"
        ).encode()
        self.ahead: list[bytes] = []

    def sign_ahead(self, count: int) -> None:
        """Have so many ready, so that signing costs nothing while the server is measured."""
        self.ahead = [self.sign() for _ in range(count)]

    def take(self) -> bytes:
        return self.ahead.pop() if self.ahead else self.sign()

    def sign(self) -> bytes:
        body = self.charges.draw()
        stamp = b"%d" % time.time()
        signed = b"%b.%b" % (stamp, body) if b"%t" in self.header else body
        digest = hmac.digest(SECRET.encode(), signed, "sha256").hex().encode()
        return b"%b%b\r\n\r\n%b" % (self.head, self.header.replace(b"%t", stamp).replace(b"%d", digest), body)


class Charges:
    """Bodies with values of their own."""

    def __init__(self, size_bytes: int) -> None:
        template = charge(size_bytes)
        self.same = OWN.split(template)
        self.own_sizes = [len(own) for own in OWN.findall(template)]

    def draw(self) -> bytes:
        """Ids are random, as Stripe's are: ids in order would be kinder to an index than real ones."""
        drawn = b64encode(os.urandom(sum(self.own_sizes)), b"xy")
        own, begin = list[bytes](), 0
        for size in self.own_sizes:
            own.append(drawn[begin : begin + size])
            begin += size
        return b"".join(chain.from_iterable(zip(self.same, [*own, b""], strict=True)))


def charge(size_bytes: int) -> bytes:
    """A `charge.succeeded` that has the size to the byte: parts left out, or refunds and a note added."""
    event: dict[str, Any] = copy.deepcopy(json.loads(CASE.read_text("utf-8"))["json"])
    event["id"] = "evt_" + "0" * 24
    charged = event["data"]["object"]
    for part in ("payment_method_details", "billing_details", "outcome"):
        if len(json.dumps(event)) + len(', "note": ""') > size_bytes:
            del charged[part]
    charged["refunds"] = refunds = list[Any]()
    while size_bytes - len(json.dumps(event)) > len(json.dumps(REFUND)) + 150:
        refunds.append(REFUND)
    charged["metadata"]["note"] = ""
    note_bytes = size_bytes - len(json.dumps(event))
    charged["metadata"]["note"] = ("_" + "0" * (note_bytes // 2)).ljust(note_bytes, ".")[:note_bytes]
    body = json.dumps(event).encode()
    assert len(body) == size_bytes
    return body
