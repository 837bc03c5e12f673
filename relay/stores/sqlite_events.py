"""The store's events: their lanes, claims and settlements. Implements that part of relay.stores.base.Store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from relay.models import ClaimedEvent, EventState, Lane, Settlement
from relay.stores import sqlite_transitions
from relay.stores.sqlite_core import CLAIM_MAX, ROW_BYTES, SqliteCore, wait_for
from relay.stores.sqlite_leases import LaneBook, Lease
from relay.stores.sqlite_reads import LaneRead, read_lane


class SqliteEvents(SqliteCore):
    """Leases and counts change after the COMMIT, in the order of the commits."""

    async def lanes(self) -> list[Lane]:
        """From memory, the first due first. A new `due_ms` wakes whoever waits for events."""
        self._refuse_unless_writable()
        self._run_out_events()
        self._changed_lanes.clear()
        self._events_changed.clear()
        return self._books.unclaimed_lanes(self._event_leases)

    async def claim_events(
        self, destination: str, environment: str | None, limit: int, bytes_max: int, lease_seconds: float
    ) -> list[ClaimedEvent]:
        """Of retried events those first that have been due for longest; see Store."""
        self._refuse_unless_writable()
        async with self._claiming_events:
            self._run_out_events()
            lane = self._books.lanes.get(self._books.numbers.get((destination, environment), -1))
            if lane is None or limit < 1:
                return []
            self._lane_seen(lane)
            now_ms = self._now_ms()
            if lane.due_ms > now_ms or lane.pending <= self._event_leases.held_count(lane.number):
                return []
            with self._event_leases.reading():
                found = await self._read_lane(lane, now_ms, min(limit, CLAIM_MAX), bytes_max)
                return self._grant_events(lane, found, now_ms + round(lease_seconds * 1000))

    async def _read_lane(self, lane: LaneBook, now_ms: int, limit: int, bytes_max: int) -> LaneRead:
        held = self._event_leases.held(lane.number)
        lane.begin_read()
        try:
            query = partial(read_lane, lane=lane.number, now_ms=now_ms, limit=limit, bytes_max=bytes_max, held=held)
            found = await self._claims.read(query)
        except BaseException:
            self._lane_changed(lane)  # nothing was claimed: whoever waits may try again
            raise
        lane.end_read(found.next_due_ms)
        return found

    def _grant_events(self, lane: LaneBook, found: LaneRead, until_ms: int) -> list[ClaimedEvent]:
        claimed = [
            ClaimedEvent(
                self._event_leases.grant(lane.number, event.seq, until_ms)[0],
                event.ref,
                event.id,
                event.json,
                event.attempt,
                event.created_ms,
            )
            for event in found.events
            if self._event_leases.is_free(lane.number, event.seq)
        ]
        if found.more and claimed:
            self._lane_changed(lane)
        return claimed

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """All that are still held, in one step; the rest are counted in `late_settlements`."""
        self._refuse_unless_writable()
        now_ms = self._now_ms()
        held: list[tuple[Lease[int], Settlement]] = []
        for settlement in settlements:
            lease = self._event_leases.pin(settlement.event.claim, now_ms)
            if lease is not None:
                held.append((lease, settlement))
        self.late_settlements += len(settlements) - len(held)
        if not held:
            return
        rows = [(lease.seq, settlement) for lease, settlement in held]
        await self._owner.submit(
            partial(sqlite_transitions.settle, settlements=rows, now_ms=now_ms),
            apply=lambda _: self._settled(held),
            undo=lambda: self._unpin(held),
            size_bytes=len(rows) * ROW_BYTES,
        )

    def _unpin(self, held: Sequence[tuple[Lease[int], Settlement]]) -> None:
        for lease, _ in held:
            self._event_leases.unpin(lease)

    def _settled(self, held: Sequence[tuple[Lease[int], Settlement]]) -> None:
        for lease, settlement in held:
            lane = self._books.lanes[lease.group]
            self._event_leases.end(lease)
            self._books.settle_event(lane, settlement.state, settlement.at_ms)
            if settlement.state is EventState.PENDING:
                self._lane_changed(lane)

    async def release_events(self, events: Sequence[ClaimedEvent]) -> None:
        """In memory only: nothing else changes."""
        now_ms = self._now_ms()
        for event in events:
            lease = self._event_leases.release(event.claim, now_ms)
            if lease is not None:
                self._event_freed(lease, event.created_ms)

    def _run_out_events(self) -> None:
        now_ms = self._now_ms()
        for lease in self._event_leases.run_out(now_ms):
            self._event_freed(lease, now_ms)

    def _event_freed(self, lease: Lease[int], at_ms: int) -> None:
        lane = self._books.lanes[lease.group]
        lane.may_be_tried(at_ms)
        self._lane_changed(lane)

    def _lane_seen(self, lane: LaneBook) -> None:
        """A claim in one lane takes no other lane's wake-up away."""
        self._changed_lanes.discard(lane.number)
        if not self._changed_lanes:
            self._events_changed.clear()

    async def wait_events(self, seconds: float) -> None:
        """`lanes()`, or a claim in every lane that changed, takes note of the changes; see Store."""
        await wait_for(self._events_changed, seconds)
