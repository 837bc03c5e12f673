"""The store's events: their lanes, claims and settlements. Implements that part of relay.stores.base.Store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from relay.errors import StoreUnavailable
from relay.models import ClaimedEvent, Lane, Settlement
from relay.stores.sqlite_core import AHEAD_BYTES_MAX, AHEAD_MAX, CLAIM_BYTES_MAX, CLAIM_MAX, SqliteCore, wait_for
from relay.stores.sqlite_feeds import LaneFeed, OpenEvent
from relay.stores.sqlite_leases import Lease
from relay.stores.sqlite_operations import HeldSettlement, Settling
from relay.stores.sqlite_reads import ROW_BYTES, due_events, named_events, open_events
from relay.stores.sqlite_values import EVENT_STATE_NUMBERS


class SqliteEvents(SqliteCore):
    """Leases and counts change after the COMMIT, in the order of the commits."""

    async def lanes(self) -> list[Lane]:
        """From memory, the first due first. A new `due_ms` wakes whoever waits for events."""
        self._refuse_unless_writable()
        self._run_out_events()
        self._changed_lanes.clear()
        self._events_changed.clear()
        return self._books.unclaimed_lanes(self._now_ms())

    async def claim_events(
        self, destination: str, environment: str | None, limit: int, bytes_max: int, lease_seconds: float
    ) -> list[ClaimedEvent]:
        """Of retried events those first that have been due for longest; see Store."""
        self._refuse_unless_writable()
        self._run_out_events()
        lane = self._books.lanes.get(self._books.numbers.get((destination, environment), -1))
        if lane is None or limit < 1:
            return []
        self._lane_seen(lane)
        now_ms, limit = self._now_ms(), min(limit, CLAIM_MAX)
        if lane.open <= lane.held or lane.due_ms(now_ms) > now_ms:
            return []
        if lane.needs_retried(now_ms) or lane.needs_read(limit):
            async with self._reading_events:
                try:
                    await self._read_ahead_events(lane, now_ms, limit, bytes_max)
                except BaseException:
                    self._lane_changed(lane)  # nothing was claimed: whoever waits may try again
                    raise
        return self._take_events(lane, limit, bytes_max, now_ms + round(lease_seconds * 1000))

    async def _read_ahead_events(self, lane: LaneFeed, now_ms: int, limit: int, bytes_max: int) -> None:
        """Bring into memory what can be taken now, until it is enough for a claim; first what was tried before."""
        if lane.needs_retried(now_ms) and len(lane.front) < limit:
            await self._read_retried(lane, now_ms, limit, bytes_max)
        while lane.needs_read(limit) and lane.bytes < bytes_max + ROW_BYTES * lane.ready:
            if lane.returned:
                await self._load_returned_events(lane, limit, bytes_max)
            elif not await self._read_behind_events(lane, limit, bytes_max):
                break

    async def _read_retried(self, lane: LaneFeed, now_ms: int, limit: int, bytes_max: int) -> None:
        loaded = lane.begin_retried()
        query = partial(due_events, lane=lane.number, now_ms=now_ms, count=limit, bytes_max=bytes_max, loaded=loaded)
        found = await self._claims.read(query)
        lane.end_retried(found.items, found.next_due_ms)

    async def _load_returned_events(self, lane: LaneFeed, limit: int, bytes_max: int) -> None:
        seqs = lane.begin_loading(limit)
        try:
            found = await self._claims.read(partial(named_events, seqs=seqs, bytes_max=bytes_max))
        except BaseException:
            lane.end_loading((), seqs)
            raise
        lane.end_loading(found.items, found.left)

    async def _read_behind_events(self, lane: LaneFeed, limit: int, bytes_max: int) -> bool:
        query = partial(
            open_events,
            lane=lane.number,
            after=lane.last,
            count=max(limit, AHEAD_MAX),
            bytes_max=max(min(bytes_max, CLAIM_BYTES_MAX), AHEAD_BYTES_MAX),
        )
        lane.begin_read()
        try:
            found = await self._claims.read(query)
        except BaseException:
            lane.break_read()
            raise
        lane.end_read(found.items, found.is_all)
        return bool(found.items)

    def _take_events(self, lane: LaneFeed, limit: int, bytes_max: int, until_ms: int) -> list[ClaimedEvent]:
        """Counted as one JSON array: each with a comma, and one byte more for the brackets."""
        items = lane.take(limit, bytes_max - 1, beside_bytes=ROW_BYTES - len(","))
        leases = self._event_leases.hold(lane, items, until_ms)
        claimed = [
            ClaimedEvent(lease.claim, event.ref, event.id, event.json, event.attempt, event.created_ms)
            for lease, (_, _, event) in zip(leases, items, strict=True)
        ]
        lane.passed_ms = claimed[-1].created_ms if claimed else lane.passed_ms
        lane.taken_from()
        self._books.make_room()
        self._event_leases.note(leases, until_ms)
        now_ms = self._now_ms()
        if claimed and lane.open > lane.held and lane.due_ms(now_ms) <= now_ms:
            self._lane_changed(lane)
        return claimed

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """All that are still held, in one step; the rest are counted in `late_settlements`."""
        owner, now_ms = self._owner, self._now_ms()
        leases = self._event_leases.pin([settlement.event.claim for settlement in settlements], now_ms)
        held = [(lease, each) for lease, each in zip(leases, settlements, strict=True) if lease is not None]
        self.late_settlements += len(settlements) - len(held)
        if not held:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            owner.put((Settling(held, now_ms, self._events_settled, future),))
        except StoreUnavailable:
            self._unpin_events(held)
            raise
        await future

    def _unpin_events(self, held: Sequence[HeldSettlement]) -> None:
        for lease, _ in held:
            self._event_leases.unpin(lease)

    def _events_settled(self, operation: Settling) -> None:
        if operation.error is not None:
            self._unpin_events(operation.held)
            return
        counts = self._books.ended_events
        before = sum(counts)
        for lease, settlement in operation.held:
            lane, event = lease.feed, lease.thing
            assert isinstance(lane, LaneFeed)
            assert event is not None
            self._event_leases.end(lease)
            state = EVENT_STATE_NUMBERS[settlement.state]
            lane.settled(lease.seq, event, None if state else settlement.at_ms)
            if state:
                counts[state] += 1
            else:
                self._lane_changed(lane)
        self._settled(sum(counts) - before)

    async def release_events(self, events: Sequence[ClaimedEvent]) -> None:
        """In memory only: nothing else changes."""
        now_ms = self._now_ms()
        for event in events:
            lease = self._event_leases.release(event.claim, now_ms)
            if lease is not None:
                self._event_freed(lease)

    def _run_out_events(self) -> None:
        for lease in self._event_leases.run_out(self._now_ms()):
            self._event_freed(lease)

    def _event_freed(self, lease: Lease[OpenEvent]) -> None:
        assert isinstance(lease.feed, LaneFeed)
        self._lane_changed(lease.feed)

    def _lane_seen(self, lane: LaneFeed) -> None:
        """A claim in one lane takes no other lane's wake-up away."""
        self._changed_lanes.discard(lane.number)
        if not self._changed_lanes:
            self._events_changed.clear()

    async def wait_events(self, seconds: float) -> None:
        """`lanes()`, or a claim in every lane that changed, takes note of the changes; see Store."""
        await wait_for(self._events_changed, seconds)
