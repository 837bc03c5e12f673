"""Who holds which rows, and how much is open: in memory, because the owner of the file is the only one who claims.

A crash therefore releases everything at once. Everything here runs on the event loop, between two awaits.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from relay.models import DeliveryState, EventState, KeptSecret, Lane

#: Later than every time: nothing is due.
NEVER_MS: Final = 2**62
LANES_MAX: Final = 10_000

G = TypeVar("G", str, int)


@dataclass(slots=True, eq=False)
class Lease(Generic[G]):
    """One row held until `until_ms`. A pinned one is being written at this moment and does not run out meanwhile."""

    seq: int
    group: G
    claim: int
    until_ms: int
    pinned: bool = False
    noted: bool = False  # its end is in the heap


class Leases(Generic[G]):
    """The leases of one table; `group` is a source's name or a lane's number."""

    def __init__(self, first_claim: int) -> None:
        self._next_claim = first_claim
        self._by_claim: dict[int, Lease[G]] = {}
        self._by_group: dict[G, dict[int, Lease[G]]] = {}
        self._ends: list[tuple[int, int, Lease[G]]] = []  # a heap; entries of ended leases are swept out late
        self._serial = 0
        self._live = 0
        self._resting: dict[int, int] = {}
        self._tries: Counter[int] = Counter()
        self._reading = 0
        self._changed: set[int] = set()

    def held(self, group: G) -> frozenset[int]:
        """The rows of a group that nobody may claim now."""
        return frozenset(self._by_group.get(group, ()))

    def held_count(self, group: G) -> int:
        return len(self._by_group.get(group, ()))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While rows are read elsewhere: what is settled meanwhile is remembered, since the read may not see it."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1
            if not self._reading:
                self._changed.clear()

    def is_free(self, group: G, seq: int) -> bool:
        """True when a row that was read is still as it was read, and nobody's."""
        return seq not in self._changed and seq not in self._by_group.get(group, ())

    def grant(self, group: G, seq: int, until_ms: int) -> tuple[int, int]:
        """Hold a row. Returns the claim and how many times the row has been claimed since it became open."""
        claim, self._next_claim = self._next_claim, self._next_claim + 1
        lease = Lease(seq, group, claim, until_ms)
        self._by_claim[claim] = lease
        self._by_group.setdefault(group, {})[seq] = lease
        self._live += 1
        self._note_end(lease)
        self._tries[seq] += 1
        return claim, self._tries[seq]

    def pin(self, claim: int, now_ms: int) -> Lease[G] | None:
        """The lease, kept from running out while its end is written; None when it is no longer held."""
        lease = self._by_claim.get(claim)
        if lease is None or lease.pinned or lease.until_ms <= now_ms:
            return None
        lease.pinned = True
        return lease

    def unpin(self, lease: Lease[G]) -> None:
        """Nothing was written: the holder has what is left of the lease."""
        lease.pinned = False
        if not lease.noted:
            self._note_end(lease)

    def end(self, lease: Lease[G]) -> None:
        """The row has changed: nobody holds it, and reads under way are out of date."""
        self._remove(lease)
        self._tries.pop(lease.seq, None)
        if self._reading:
            self._changed.add(lease.seq)

    def release(self, claim: int, now_ms: int, rest_until_ms: int = 0) -> Lease[G] | None:
        """Give a row back, claimable again at `rest_until_ms`. None when the claim is no longer held."""
        lease = self._by_claim.get(claim)
        if lease is None or lease.pinned or lease.until_ms <= now_ms:
            return None
        if rest_until_ms <= now_ms:
            self._remove(lease)
            return lease
        del self._by_claim[claim]
        lease.until_ms = rest_until_ms
        self._resting[lease.seq] = rest_until_ms
        self._note_end(lease)
        return lease

    def next_rest_end_ms(self) -> int | None:
        """When the first of the rows given back with a rest may be claimed again."""
        return min(self._resting.values(), default=None)

    def run_out(self, now_ms: int) -> list[Lease[G]]:
        """Take back every lease that has run out."""
        out: list[Lease[G]] = []
        while self._ends and self._ends[0][0] <= now_ms:
            until_ms, _, lease = heapq.heappop(self._ends)
            if lease.until_ms != until_ms:
                continue  # it rests until later
            lease.noted = False
            if self._is_current(lease) and not lease.pinned:
                self._remove(lease)
                out.append(lease)
        return out

    def set_back(self, by_ms: int) -> None:
        """The clock was set back: what is held or rests is so for as long as it would have been."""
        for held in self._by_group.values():
            for lease in held.values():
                lease.until_ms -= by_ms
        self._resting = {seq: until_ms - by_ms for seq, until_ms in self._resting.items()}
        self._ends = [(until_ms - by_ms, serial, lease) for until_ms, serial, lease in self._ends]

    def _note_end(self, lease: Lease[G]) -> None:
        lease.noted = True
        self._serial += 1
        heapq.heappush(self._ends, (lease.until_ms, self._serial, lease))
        if len(self._ends) > 1000 + 2 * self._live:
            self._ends = [entry for entry in self._ends if self._is_current(entry[2])]
            heapq.heapify(self._ends)

    def _is_current(self, lease: Lease[G]) -> bool:
        return self._by_group.get(lease.group, {}).get(lease.seq) is lease

    def _remove(self, lease: Lease[G]) -> None:
        self._by_claim.pop(lease.claim, None)
        self._resting.pop(lease.seq, None)
        group = self._by_group.get(lease.group, {})
        if group.get(lease.seq) is lease:
            del group[lease.seq]
            self._live -= 1
            if not group:
                del self._by_group[lease.group]


@dataclass(slots=True, eq=False)
class LaneBook:
    """One lane's open work. `due_ms` is never later than when the next event may be tried."""

    number: int
    destination: str
    environment: str | None
    pending: int = 0
    due_ms: int = NEVER_MS
    changed_due_ms: int = NEVER_MS  # what came up since the read under way began

    def may_be_tried(self, at_ms: int) -> None:
        self.due_ms = min(self.due_ms, at_ms)
        self.changed_due_ms = min(self.changed_due_ms, at_ms)

    def begin_read(self) -> None:
        self.changed_due_ms = NEVER_MS

    def end_read(self, next_due_ms: int) -> None:
        self.due_ms = min(self.changed_due_ms, next_due_ms)


@dataclass(slots=True)
class Books:
    """How much there is, by state and by who works on it, and the kept secrets.

    Loaded when the store opens, kept right by every commit.
    """

    deliveries: Counter[DeliveryState] = field(default_factory=Counter)
    events: Counter[EventState] = field(default_factory=Counter)
    received_by_source: Counter[str] = field(default_factory=Counter)
    lanes: dict[int, LaneBook] = field(default_factory=dict)
    numbers: dict[tuple[str, str | None], int] = field(default_factory=dict)
    secrets: dict[str, list[KeptSecret]] = field(default_factory=dict)  # by source, the newest first

    def lane(self, number: int, destination: str, environment: str | None) -> LaneBook:
        """The book of a lane, opened at first use."""
        if number not in self.lanes:
            self.lanes[number] = LaneBook(number, destination, environment)
            self.numbers[destination, environment] = number
        return self.lanes[number]

    def add_received(self, source: str) -> None:
        self.deliveries[DeliveryState.RECEIVED] += 1
        self.received_by_source[source] += 1

    def settle_delivery(self, source: str, state: DeliveryState) -> None:
        self.deliveries[DeliveryState.RECEIVED] -= 1
        self.deliveries[state] += 1
        self.received_by_source[source] -= 1
        if not self.received_by_source[source]:
            del self.received_by_source[source]

    def add_pending(self, lane: LaneBook, count: int, at_ms: int) -> None:
        self.events[EventState.PENDING] += count
        lane.pending += count
        lane.may_be_tried(at_ms)

    def settle_event(self, lane: LaneBook, state: EventState, at_ms: int) -> None:
        self.events[EventState.PENDING] -= 1
        self.events[state] += 1
        if state is EventState.PENDING:
            lane.may_be_tried(at_ms)
        else:
            lane.pending -= 1

    def unclaimed_lanes(self, leases: Leases[int]) -> list[Lane]:
        """Lanes with pending events that nobody holds, the first due first."""
        found = [
            Lane(book.destination, book.environment, book.pending - leases.held_count(book.number), book.due_ms)
            for book in self.lanes.values()
            if book.pending > leases.held_count(book.number)
        ]
        found.sort(key=lambda lane: lane.due_ms)
        return found[:LANES_MAX]
