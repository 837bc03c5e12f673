"""Deliveries, events and a clock for tests of stores."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from relay.models import ClaimedDelivery, ClaimedEvent, Delivery, Event, EventState, Request, Settlement
from relay.stores.base import Store

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def pass_seconds(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


class CountingStore(Store, Protocol):
    """What a store shows of itself beyond the contract, for tests and metrics."""

    late_settlements: int

    @property
    def commits(self) -> int: ...


#: Opens the store of this test, again and again the same one: open_store(dedupe_hours=1, ...).
OpenStore = Callable[..., Awaitable[CountingStore]]


def delivery(name: str, **changes: Any) -> Delivery:
    """A GitHub-like delivery whose id is `name`; its key too, unless told otherwise."""
    request = Request("POST", "/in/github", "a=1", ((b"Content-Type", b"application/json"),), b'{"n":1}')
    fields = {"source": "github", "key": name, "received_ms": START_MS, "request": request, **changes}
    if "body" in fields:
        body = fields.pop("body")
        fields["request"] = Request("POST", "/in/github", "", request.headers, body)
    return Delivery(id=name, **fields)


def event(name: str, destination: str = "default", environment: str | None = None, size: int = 0) -> Event:
    """An event whose id is `name`; its JSON has at least `size` bytes."""
    data = {"id": name, "name": "github/push", "ts": START_MS, "data": {"pad": "x" * size}}
    return Event(name, "github/push", START_MS, json.dumps(data).encode(), destination, environment)


async def accept_names(store: Store, *names: str, source: str = "github") -> None:
    await store.accept([delivery(name, source=source) for name in names])


async def claim_all(store: Store, *sources: str, limit: int = 100, seconds: float = 60) -> list[ClaimedDelivery]:
    wanted = sources or ("github",)
    return await store.claim_deliveries(limit, seconds, dict.fromkeys(wanted, limit))


async def process(store: Store, name: str, events: Sequence[Event], **changes: Any) -> None:
    """Accept a delivery and finish it with these events."""
    await store.accept([delivery(name, **changes)])
    source = changes.get("source", "github")
    claims = await claim_all(store, source, limit=1000)
    mine = next(claim for claim in claims if claim.delivery.id == name)
    await store.finish_delivery(mine, events)
    for claim in claims:
        await store.release_delivery(claim)


async def claim_lane(
    store: Store, environment: str | None = None, limit: int = 100, bytes_max: int = 10**9, seconds: float = 60
) -> list[ClaimedEvent]:
    return await store.claim_events("default", environment, limit, bytes_max, seconds)


def sent(claimed: ClaimedEvent) -> Settlement:
    return Settlement(claimed, EventState.SENT, inngest_id=f"inn-{claimed.id}")


def died(claimed: ClaimedEvent) -> Settlement:
    return Settlement(claimed, EventState.DEAD, code="event_refused", message="no name")


def again_at(claimed: ClaimedEvent, at_ms: int, *, counted: bool = True) -> Settlement:
    return Settlement(
        claimed, EventState.PENDING, code="destination_failing", message="500", at_ms=at_ms, counted=counted
    )
