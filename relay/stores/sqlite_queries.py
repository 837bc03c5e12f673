"""The part of the store that only reads: lists, single records and counts, for people."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from relay.models import DeliveryRecord, DeliveryState, EventRecord, EventState, StoreStats
from relay.stores import sqlite_records as records
from relay.stores.sqlite_core import SqliteCore
from relay.stores.sqlite_waiting import oldest_pending_ms, oldest_received_ms


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
        received, now_ms = self._books.received_by_source, self._now_ms()
        lanes = [lane.number for lane in self._books.lanes.values() if lane.open]
        return StoreStats(
            deliveries=self._books.count_deliveries(),
            events=self._books.count_events(),
            received_by_source=received,
            lanes=tuple(self._books.unclaimed_lanes(now_ms)),
            oldest_received_ms=await self._people.read(partial(oldest_received_ms, sources=list(received))),
            oldest_pending_ms=await self._people.read(partial(oldest_pending_ms, lanes=lanes)) if lanes else None,
            store_bytes=file_bytes(self._path),
        )


def file_bytes(path: Path) -> int:
    """The file with its WAL and the WAL's index."""
    total = 0
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            total += os.stat(name).st_size
    return total
