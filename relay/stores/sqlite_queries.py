"""The part of the store that only reads: lists, single records and counts, for people."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from relay.models import DeliveryRecord, DeliveryState, EventRecord, EventState, StoreStats
from relay.stores import sqlite_records as records
from relay.stores.sqlite_core import SqliteCore


class SqliteQueries(SqliteCore):
    """With a reader of its own, so that a long list never delays a claim."""

    async def list_deliveries(
        self,
        *,
        state: DeliveryState | None = None,
        source: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[DeliveryRecord]:
        """Newest first, at most 1,000; `before` is the id of the last one of the page before."""
        wanted = records.DeliveryFilter(state, source, before, limit)
        return await self._people.read(partial(records.list_deliveries, wanted=wanted))

    async def get_delivery(self, delivery_id: str) -> DeliveryRecord | None:
        """One delivery with its request."""
        return await self._people.read(partial(records.get_delivery, delivery_id=delivery_id))

    async def list_events(
        self,
        *,
        state: EventState | None = None,
        delivery_id: str | None = None,
        source: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[EventRecord]:
        """Newest first, at most 1,000; `before` is the ref of the last one of the page before."""
        wanted = records.EventFilter(state, delivery_id, source, before, limit)
        return await self._people.read(partial(records.list_events, wanted=wanted))

    async def get_event(self, ref: str) -> EventRecord | None:
        """One event with its JSON, by its ref."""
        return await self._people.read(partial(records.get_event, ref=ref))

    async def stats(self) -> StoreStats:
        """Counts as of the last commit; read-only, as of the opening."""
        sources = list(self._books.received_by_source)
        return StoreStats(
            deliveries={str(state): self._books.deliveries[state] for state in DeliveryState},
            events={str(state): self._books.events[state] for state in EventState},
            received_by_source=dict(self._books.received_by_source),
            lanes=tuple(self._books.unclaimed_lanes(self._event_leases)),
            oldest_received_ms=await self._people.read(partial(records.oldest_received_ms, sources=sources)),
            oldest_pending_ms=await self._find_oldest_pending_ms(),
            store_bytes=file_bytes(self._path),
        )

    async def _find_oldest_pending_ms(self) -> int | None:
        """Walks on from where the last walk ended; a replay of an older event sets it back."""
        if not self._books.events[EventState.PENDING]:
            return None
        start = self._oldest_pending_seq
        found = await self._people.read(partial(records.oldest_pending, from_seq=start))
        if found is None:
            return None
        if self._oldest_pending_seq == start:
            self._oldest_pending_seq = found[0]
        return found[1]


def file_bytes(path: Path) -> int:
    """The file with its WAL and the WAL's index."""
    total = 0
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            total += os.stat(name).st_size
    return total
