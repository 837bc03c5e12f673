"""Deliveries and events as people and programs see them: the store's records in JSON's types.

`Records` is what the operator API answers with, and what the command line reads directly while no relay runs:
the field names are the same in both, because it is the same code.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from relay.models import DeliveryRecord, DeliveryState, EventRecord, EventState, Pairing, ReplayResult, Request
from relay.stores.base import Store

Json: TypeAlias = dict[str, Any]

#: The most that one list, or one replay, handles in a call.
RECORDS_MAX: Final = 1000
#: How long a source may be open for further secrets.
PAIRING_MINUTES_MAX: Final = 24 * 60
MINUTE_MS: Final = 60_000
#: How much of a body is shown inside a delivery; the whole of it has a place of its own.
BODY_SHOWN_BYTES_MAX: Final = 256 * 1024


class Records:
    """The operator's view of a store. Raises StoreUnavailable as the store does."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def stats(self) -> Json:
        return asdict(await self.store.stats())

    async def deliveries(
        self, *, state: str | None = None, source: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[Json]:
        """Newest first; `before` is the id of the last one of the page before."""
        wanted = DeliveryState(state) if state else None
        found = await self.store.list_deliveries(state=wanted, source=source, before=before, limit=limit)
        return [delivery_json(record) for record in found]

    async def delivery(self, delivery_id: str) -> Json | None:
        """One delivery with its request and its events (at most RECORDS_MAX)."""
        record = await self.store.get_delivery(delivery_id)
        if record is None:
            return None
        events = await self.store.list_events(delivery_id=delivery_id, limit=RECORDS_MAX)
        shown = sorted((event_json(event) for event in events), key=lambda event: position(event["ref"]))
        return {**delivery_json(record), "events": shown}

    async def body(self, delivery_id: str) -> bytes | None:
        """The body exactly as it was sent."""
        record = await self.store.get_delivery(delivery_id)
        return record.request.body if record and record.request else None

    async def events(
        self,
        *,
        state: str | None = None,
        source: str | None = None,
        delivery_id: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Json]:
        """Newest first; `before` is the ref of the last one of the page before."""
        found = await self.store.list_events(
            state=EventState(state) if state else None,
            source=source,
            delivery_id=delivery_id,
            before=before,
            limit=limit,
        )
        return [event_json(record) for record in found]

    async def event(self, ref: str) -> Json | None:
        """One event with the JSON that is sent to Inngest, as `event`."""
        record = await self.store.get_event(ref)
        return None if record is None else event_json(record)

    async def replay(self, ids: Sequence[str], *, again: bool = False, environment: str | None = None) -> Json:
        """At most RECORDS_MAX ids, each a delivery's id or an event's ref."""
        return replay_json(await self.store.replay(ids, again=again, environment=environment))

    async def prune(self, before_ms: int) -> int:
        """One short step; how many deliveries went, 0 when there is nothing left to prune."""
        return await self.store.prune(before_ms)

    async def secrets(self, *, now_ms: int, source: str | None = None) -> Json:
        """The secrets that came in handshakes, without their text, and the sources that are open for more."""
        kept = await self.store.list_secrets(source)
        pairings = [each for each in await self.store.list_pairings(now_ms) if source in (None, each.source)]
        return {
            "secrets": [{"id": each.id, "source": each.source, "kept_ms": each.kept_ms} for each in kept],
            "open": [asdict(each) for each in pairings],
        }

    async def open_pairing(self, source: str, *, minutes: int, now_ms: int) -> Json:
        """Let a source take further secrets for so many minutes."""
        pairing = Pairing(source, now_ms, now_ms + minutes * MINUTE_MS)
        await self.store.open_pairing(pairing)
        return asdict(pairing)

    async def forget_secrets(self, source: str, secret_id: int | None = None) -> int:
        """One, or all of the source's; how many went."""
        return await self.store.forget_secrets(source, secret_id)

    async def close(self) -> None:
        await self.store.close()


def delivery_json(record: DeliveryRecord) -> Json:
    shown: Json = {
        "id": record.id,
        "source": record.source,
        "state": str(record.state),
        "code": record.code,
        "message": record.message,
        "received_ms": record.received_ms,
        "settled_ms": record.settled_ms,
        "key": record.key,
        "environment": record.environment,
        "body_bytes": record.body_bytes,
        "generation": record.generation,
        "event_count": record.event_count,
        "duplicates": list(record.duplicates),
    }
    return shown if record.request is None else {**shown, "request": request_json(record.request)}


def request_json(request: Request) -> Json:
    """Headers stay a list of pairs, in order; `body_encoding` says what `body` is: utf-8 or base64."""
    cut = request.body[:BODY_SHOWN_BYTES_MAX]
    body, encoding = body_text(request.body, cut)
    return {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": [[header_text(name), header_text(value)] for name, value in request.headers],
        "body": body,
        "body_encoding": encoding,
        "body_truncated": len(cut) < len(request.body),
    }


def body_text(body: bytes, cut: bytes) -> tuple[str, str]:
    """The beginning of a body as text where all of it is UTF-8, else in base64."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(cut).decode("ascii"), "base64"
    return cut.decode("utf-8", "ignore"), "utf-8"  # only a character cut in two is ignored


def header_text(raw: bytes) -> str:
    """Headers are bytes: UTF-8 where they can be, else one character for each byte."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def event_json(record: EventRecord) -> Json:
    shown: Json = {
        "ref": record.ref,
        "id": record.id,
        "name": record.name,
        "state": str(record.state),
        "code": record.code,
        "message": record.message,
        "delivery_id": record.delivery_id,
        "source": record.source,
        "destination": record.destination,
        "environment": record.environment,
        "attempt": record.attempt,
        "created_ms": record.created_ms,
        "at_ms": record.at_ms,
        "settled_ms": record.settled_ms,
        "inngest_id": record.inngest_id,
    }
    return shown if record.json is None else {**shown, "event": json.loads(record.json)}


def replay_json(result: ReplayResult) -> Json:
    return {
        "replayed": list(result.replayed),
        "refused": [{"id": name, "message": why} for name, why in result.refused],
    }


def position(ref: str) -> tuple[int, int]:
    """(generation, position) in its delivery, from a ref: `<id>.<position>` or `<id>.r<generation>.<position>`."""
    numbers = [int(number) for number in re.findall(r"\d+", ref.partition(".")[2])]
    return (numbers[-2] if len(numbers) > 1 else 0, numbers[-1] if numbers else 0)
