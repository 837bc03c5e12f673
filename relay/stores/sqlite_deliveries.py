"""The store's deliveries: accepted, claimed, finished or dead. Implements that part of relay.stores.base.Store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Final

from relay.errors import LeaseLost, StoreUnavailable, TransformError
from relay.models import Accepted, ClaimedDelivery, Delivery, Event, Finished
from relay.stores.sqlite_core import AHEAD_BYTES_MAX, AHEAD_MAX, CLAIM_BYTES_MAX, CLAIM_MAX, SqliteCore, wait_for
from relay.stores.sqlite_feeds import FEEDS_BYTES_MAX, Item, OpenEvent, SourceFeed
from relay.stores.sqlite_jobs import FinishResult
from relay.stores.sqlite_leases import Lease
from relay.stores.sqlite_operations import Accepting, AcceptingAll, Answers, End, Finishing, HeldEnd
from relay.stores.sqlite_reads import ROW_BYTES, named_deliveries, open_deliveries
from relay.stores.sqlite_transitions import DEAD, FILTERED, PROCESSED
from relay.stores.sqlite_values import make_ref

#: More than this of what one call finishes may go into another transaction.
FINISHING_BYTES_MAX: Final = 1024 * 1024


class SqliteDeliveries(SqliteCore):
    """Leases and counts change after the COMMIT, in the order of the commits."""

    # ── accept ──

    async def accept(self, deliveries: Sequence[Delivery]) -> list[Accepted]:
        """Durable when it returns; see Store. Refused while the disk is nearly full or far behind."""
        future: asyncio.Future[list[Accepted]] = asyncio.get_running_loop().create_future()
        self._owner.put((AcceptingAll(tuple(deliveries), self._accepted, future),))
        return await future

    def accept_then(
        self, deliveries: Sequence[Delivery], answer: Callable[[Sequence[Accepted | StoreUnavailable]], None]
    ) -> None:
        """See Store."""
        try:
            self._owner.put((Accepting(deliveries, self._accepted, answer),))
        except StoreUnavailable as error:
            asyncio.get_running_loop().call_soon(answer, [error] * len(deliveries))

    def _accepted(self, deliveries: Sequence[Delivery], seqs: Sequence[int]) -> None:
        added: dict[str, list[Item[Delivery]]] = {}
        for seq, delivery in zip(seqs, deliveries, strict=True):
            if seq:
                item = seq, len(delivery.request.body) + ROW_BYTES, delivery
                added.setdefault(delivery.source, []).append(item)
        for name, items in added.items():
            self._books.source(name).add(items)
        if any(seqs):
            self._deliveries_changed.set()

    # ── claim ──

    async def claim_deliveries(
        self, limit: int, lease_seconds: float, per_source_max: dict[str, int]
    ) -> list[ClaimedDelivery]:
        """At most 16 MiB of bodies a call, but at least one; see Store."""
        self._refuse_unless_writable()
        self._delivery_leases.run_out(self._now_ms())
        self._deliveries_changed.clear()
        limit = min(limit, CLAIM_MAX)
        turns = self._turns(per_source_max, limit)
        share = -(-limit // max(len(turns), 1))
        if any(feed.needs_read(min(count, share)) for feed, count in turns):
            async with self._reading_deliveries:
                try:
                    await self._read_ahead(turns, share)
                except BaseException:
                    self._deliveries_changed.set()  # nothing was claimed: whoever waits may try again
                    raise
        claimed = self._take_deliveries(turns, limit, lease_seconds)
        if claimed and any(feed.unclaimed > 0 for feed, _ in turns):
            self._deliveries_changed.set()  # there is more: the next wait need not wait
        return claimed

    def _turns(self, per_source_max: dict[str, int], limit: int) -> list[tuple[SourceFeed, int]]:
        """The sources that have something for us, beginning after the one that was served last."""
        sources = self._books.sources
        found = [(sources[name], min(count, limit)) for name, count in per_source_max.items() if name in sources]
        found = [(feed, count) for feed, count in found if count > 0 and feed.unclaimed > 0]
        if len(found) > 1:
            found.sort(key=lambda turn: (turn[0].name <= self._last_source, turn[0].name))
        return found

    async def _read_ahead(self, turns: Sequence[tuple[SourceFeed, int]], share: int) -> None:
        """Bring into memory what can be taken now: of each source its share of the claim, as long as there is not
        enough for a claim. What is read beyond that must have its place in memory.
        """
        size_bytes, ahead_bytes = 0, min(AHEAD_BYTES_MAX, FEEDS_BYTES_MAX // (2 * len(turns)))
        for feed, count in turns:
            wanted = min(count, share)
            while feed.needs_read(wanted) and size_bytes + feed.bytes < CLAIM_BYTES_MAX:
                if not await self._read_feed(feed, wanted, ahead_bytes):
                    break
            size_bytes += feed.bytes

    async def _read_feed(self, feed: SourceFeed, count: int, bytes_max: int) -> bool:
        """What was given back first. False when there is nothing that could be taken."""
        if feed.returned:
            await self._load_returned(feed, count)
            return True
        return await self._read_behind(feed, count, bytes_max)

    async def _load_returned(self, feed: SourceFeed, count: int) -> None:
        seqs = feed.begin_loading(count)
        try:
            found = await self._claims.read(partial(named_deliveries, seqs=seqs, bytes_max=AHEAD_BYTES_MAX))
        except BaseException:
            feed.end_loading((), seqs)
            raise
        feed.end_loading(found.items, found.left)

    async def _read_behind(self, feed: SourceFeed, count: int, bytes_max: int) -> bool:
        rows = max(count, AHEAD_MAX)
        query = partial(open_deliveries, source=feed.name, after=feed.last, count=rows, bytes_max=bytes_max)
        feed.begin_read()
        try:
            found = await self._claims.read(query)
        except BaseException:
            feed.break_read()
            raise
        feed.end_read(found.items, found.is_all)
        return bool(found.items)

    def _take_deliveries(
        self, turns: Sequence[tuple[SourceFeed, int]], limit: int, lease_seconds: float
    ) -> list[ClaimedDelivery]:
        """One of each source in turn, oldest first, as long as one is in memory; of the last source all at once."""
        until_ms = self._now_ms() + round(lease_seconds * 1000)
        taken: list[Lease[Delivery]] = []
        bytes_left = CLAIM_BYTES_MAX
        left = deque(turns)
        while left and len(taken) < limit:
            feed, count = left.popleft()
            wanted = 1 if left else min(count, limit - len(taken))
            items = feed.take(wanted, bytes_left, beside_bytes=ROW_BYTES, least=not taken)
            if not items and feed.ready:
                break  # it would be too much
            if items:
                taken += self._delivery_leases.hold(feed, items, until_ms)
                bytes_left -= sum([size_bytes - ROW_BYTES for _, size_bytes, _ in items])
                self._last_source = feed.name
                if count > len(items):
                    left.append((feed, count - len(items)))
        for feed, _ in turns:
            feed.taken_from()
        self._books.make_room()
        self._delivery_leases.note(taken, until_ms)
        return [ClaimedDelivery(lease.thing, lease.claim, lease.attempt) for lease in taken if lease.thing is not None]

    # ── finish, fail, release ──

    async def finish_delivery(self, claim: ClaimedDelivery, events: Sequence[Event]) -> Finished:
        """See Store. Also LeaseLost when the same claim is being finished at this moment."""
        (finished,) = await self._end([(claim, events)])
        if finished is None:
            raise LeaseLost("the delivery's lease has run out")
        return finished

    async def finish_deliveries(
        self, finishes: Sequence[tuple[ClaimedDelivery, Sequence[Event]]]
    ) -> list[Finished | None]:
        """See Store. When one of them cannot be stored its error is raised, after the others have been stored."""
        return await self._end(finishes)

    async def fail_delivery(self, claim: ClaimedDelivery, error: TransformError) -> None:
        """The delivery is dead with the error's code and message; see Store."""
        if await self._end([(claim, ())], error) == [None]:
            raise LeaseLost("the delivery's lease has run out")

    async def _end(self, ends: Sequence[End], error: TransformError | None = None) -> list[Finished | None]:
        """Each for itself, in one transaction where that is possible; None where the claim is no longer held.

        With an error they are dead.
        """
        owner, now_ms, answers = self._owner, self._now_ms(), Answers()
        leases = self._delivery_leases.pin([claim.claim for claim, _ in ends], now_ms)
        held = [(lease, *end) for lease, end in zip(leases, ends, strict=True) if lease is not None]
        operations = [Finishing(part, error, now_ms, self._finished, answers) for part in parts(held)]
        try:
            owner.put(operations)
        except StoreUnavailable:
            for lease, _, _ in held:
                self._delivery_leases.unpin(lease)
            raise
        if operations:
            await answers.all
        finished = chain.from_iterable([operation.finished for operation in operations])
        return [None if lease is None else next(finished) for lease in leases]

    def _finished(self, operation: Finishing, results: Sequence[FinishResult | None]) -> None:
        """What the ends mean for leases and counts, and what they hand over; None for one that was refused."""
        counts, now_ms, is_dead = self._books.ended_deliveries, operation.now_ms, operation.error is not None
        opened: dict[int, list[Item[OpenEvent]]] = {}
        for (lease, claim, events), result in zip(operation.held, results, strict=True):
            if result is None:
                self._delivery_leases.unpin(lease)
                continue
            self._delivery_leases.end(lease)
            lease.feed.open -= 1
            counts[DEAD if is_dead else PROCESSED if events else FILTERED] += 1
            delivery = claim.delivery
            for seq, number, position in result.stored:
                event = events[position]
                if number not in opened:
                    opened[number] = []
                    self._books.lane(number, event.destination, event.environment)
                ref = make_ref(delivery.id, delivery.generation, position)
                thing = OpenEvent(ref, event.id, event.json, now_ms, delivery.source)
                opened[number].append((seq, len(event.json) + ROW_BYTES, thing))
        for number, items in opened.items():
            self._books.lanes[number].add(items)
            self._lane_changed(self._books.lanes[number])
        self._settled(len(results) - results.count(None))

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


def parts(held: Sequence[HeldEnd]) -> Iterator[Sequence[HeldEnd]]:
    """What goes into one transaction together: all of it, unless the events are large."""
    begin = size_bytes = 0
    for place, (_, _, events) in enumerate(held):
        if size_bytes > FINISHING_BYTES_MAX:
            yield held[begin:place]
            begin, size_bytes = place, 0
        for event in events:
            size_bytes += len(event.json)
    if held:
        yield held[begin:]
