"""Requests signed as the providers sign them, written from their documentation and not with the relay's own code."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

from tests.support.relay_process import GITHUB_SECRET, STRIPE_SECRET


def github(body: bytes, delivery: str, *, secret: str = GITHUB_SECRET, event: str = "push") -> dict[str, str]:
    """The headers of a GitHub webhook."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={digest}",
    }


def stripe(body: bytes, *, secret: str = STRIPE_SECRET, at: float | None = None) -> dict[str, str]:
    """The headers of a Stripe webhook."""
    stamp = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"Content-Type": "application/json", "Stripe-Signature": f"t={stamp},v1={digest}"}


def slack(body: bytes, *, secret: str, at: float | None = None) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Slack-Request-Timestamp": stamp,
        "X-Slack-Signature": f"v0={digest}",
    }


def json_body(identity: str, **fields: Any) -> bytes:
    return json.dumps({"id": identity, "type": "made", **fields}).encode()
