"""The store's deliveries: accepted, claimed, finished or dead. Implements that part of relay.stores.base.Store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from relay.errors import LeaseLost, StoreUnavailable, TransformError
from relay.models import Accepted, ClaimedDelivery, Delivery, DeliveryState, Event, Finished
from relay.stores import sqlite_transitions
from relay.stores.sqlite_core import CLAIM_MAX, ROW_BYTES, SqliteCore, wait_for
from relay.stores.sqlite_leases import Lease
from relay.stores.sqlite_reads import Turn, read_deliveries

CLAIM_BYTES_MAX: Final = 16 * 1024 * 1024


class SqliteDeliveries(SqliteCore):
    """Leases and counts change after the COMMIT, in the order of the commits."""

    async def accept(self, deliveries: Sequence[Delivery]) -> list[Accepted]:
        """Durable when it returns; see Store. Refused while the disk is nearly full."""
        run = partial(sqlite_transitions.accept, deliveries=tuple(deliveries))
        size = sum(len(each.request.body) + ROW_BYTES for each in deliveries)

        def apply(answers: list[Accepted]) -> None:
            for delivery, accepted in zip(deliveries, answers, strict=True):
                if not accepted.duplicate:
                    self._books.add_received(delivery.source)
                    self._deliveries_changed.set()

        return await self._owner.submit(run, apply=apply, size_bytes=size, grows=True)

    def accept_then(self, delivery: Delivery, answer: Callable[[Accepted | StoreUnavailable], None]) -> None:
        """See Store."""
        task = asyncio.ensure_future(self.accept([delivery]))
        self._accepting.add(task)

        def tell(done: asyncio.Future[list[Accepted]]) -> None:
            self._accepting.discard(task)
            error = None if done.cancelled() else done.exception()
            if error is None:
                answer(done.result()[0])
            else:
                answer(error if isinstance(error, StoreUnavailable) else StoreUnavailable(str(error)))

        task.add_done_callback(tell)

    async def claim_deliveries(
        self, limit: int, lease_seconds: float, per_source_max: dict[str, int]
    ) -> list[ClaimedDelivery]:
        """At most 16 MiB of bodies a call, but at least one; see Store."""
        self._refuse_unless_writable()
        async with self._claiming_deliveries:
            self._delivery_leases.run_out(self._now_ms())
            self._deliveries_changed.clear()
            turns = self._turns(per_source_max)
            if not turns or limit < 1:
                return []
            query = partial(read_deliveries, turns=turns, limit=min(limit, CLAIM_MAX), bytes_max=CLAIM_BYTES_MAX)
            with self._delivery_leases.reading():
                try:
                    found = await self._claims.read(query)
                except BaseException:
                    self._deliveries_changed.set()
                    raise
                return self._grant_deliveries(found, lease_seconds)

    def _turns(self, per_source_max: dict[str, int]) -> list[Turn]:
        """The sources that have something for us, beginning after the one that was served last."""
        names = sorted(name for name, count in per_source_max.items() if count > 0 and self._unclaimed(name) > 0)
        names = [name for name in names if name > self._last_source] + [n for n in names if n <= self._last_source]
        return [Turn(name, per_source_max[name], self._delivery_leases.held(name)) for name in names]

    def _unclaimed(self, source: str) -> int:
        return self._books.received_by_source[source] - self._delivery_leases.held_count(source)

    def _grant_deliveries(self, found: list[tuple[int, Delivery]], lease_seconds: float) -> list[ClaimedDelivery]:
        until_ms = self._now_ms() + round(lease_seconds * 1000)
        claimed: list[ClaimedDelivery] = []
        for seq, delivery in found:
            if self._delivery_leases.is_free(delivery.source, seq):
                claim, attempt = self._delivery_leases.grant(delivery.source, seq, until_ms)
                claimed.append(ClaimedDelivery(delivery, claim, attempt))
                self._last_source = delivery.source
        if claimed and any(self._unclaimed(each.delivery.source) > 0 for each in claimed):
            self._deliveries_changed.set()  # there is more: the next wait need not wait
        return claimed

    async def finish_delivery(self, claim: ClaimedDelivery, events: Sequence[Event]) -> Finished:
        """See Store. Also LeaseLost when the same claim is being finished at this moment."""
        lease = self._pinned(claim)
        now_ms, source = self._now_ms(), lease.group
        run = partial(sqlite_transitions.finish, seq=lease.seq, source=source, events=tuple(events), now_ms=now_ms)
        state = DeliveryState.PROCESSED if events else DeliveryState.FILTERED

        def apply(done: sqlite_transitions.FinishedIn | None) -> None:
            self._delivery_leases.end(lease)
            if done is None:
                return
            self._books.settle_delivery(source, state)
            for (number, destination, environment), count in done.lanes.items():
                lane = self._books.lane(number, destination, environment)
                self._books.add_pending(lane, count, now_ms)
                self._lane_changed(lane)

        size = ROW_BYTES + sum(len(event.json) + ROW_BYTES for event in events)
        undo = partial(self._delivery_leases.unpin, lease)
        done = await self._owner.submit(run, apply=apply, undo=undo, size_bytes=size)
        if done is None:
            raise LeaseLost("the delivery is no longer received")
        return done.finished

    async def finish_deliveries(
        self, finishes: Sequence[tuple[ClaimedDelivery, Sequence[Event]]]
    ) -> list[Finished | None]:
        """See Store."""
        done = await asyncio.gather(*(self.finish_delivery(*each) for each in finishes), return_exceptions=True)
        return [self._finished(each) for each in done]

    def _finished(self, done: Finished | BaseException) -> Finished | None:
        if isinstance(done, LeaseLost):
            return None
        if isinstance(done, BaseException):
            raise done
        return done

    async def fail_delivery(self, claim: ClaimedDelivery, error: TransformError) -> None:
        """The delivery is dead with the error's code and message; see Store."""
        lease = self._pinned(claim)
        run = partial(sqlite_transitions.fail, seq=lease.seq, error=error, now_ms=self._now_ms())

        def apply(done: bool) -> None:
            self._delivery_leases.end(lease)
            if done:
                self._books.settle_delivery(lease.group, DeliveryState.DEAD)

        undo = partial(self._delivery_leases.unpin, lease)
        if not await self._owner.submit(run, apply=apply, undo=undo, size_bytes=ROW_BYTES):
            raise LeaseLost("the delivery is no longer received")

    def _pinned(self, claim: ClaimedDelivery) -> Lease[str]:
        self._refuse_unless_writable()
        lease = self._delivery_leases.pin(claim.claim, self._now_ms())
        if lease is None:
            raise LeaseLost("the delivery's lease has run out")
        return lease

    async def release_delivery(self, claim: ClaimedDelivery, after_seconds: float = 0) -> None:
        """In memory only: after a restart the delivery can be claimed at once."""
        now_ms = self._now_ms()
        if self._delivery_leases.release(claim.claim, now_ms, now_ms + round(after_seconds * 1000)) is not None:
            self._deliveries_changed.set()

    async def wait_deliveries(self, seconds: float) -> None:
        """Also returns when a rest given with release_delivery ends. A lease that runs out wakes nobody."""
        rest_ends_ms = self._delivery_leases.next_rest_end_ms()
        if rest_ends_ms is not None and rest_ends_ms > self._now_ms():
            seconds = min(seconds, (rest_ends_ms - self._now_ms()) / 1000)
        await wait_for(self._deliveries_changed, seconds)
