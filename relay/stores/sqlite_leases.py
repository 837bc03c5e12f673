"""Who holds which rows: in memory, because the owner of the file is the only one who claims.

A crash therefore releases everything at once. Everything here runs on the event loop, between two awaits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Final, Generic, TypeVar

from msgspec import Struct

from relay.stores.sqlite_feeds import Feed, Item

#: Ends of leases that are kept although the lease has ended, before they are swept out.
ENDS_SWEPT_MIN: Final = 1_000

T = TypeVar("T")


class Lease(Struct, Generic[T], eq=False, gc=False):
    """One row of a feed, held until `until_ms`. A pinned one is being written at this moment and does not run out
    meanwhile. `thing` is what is held, None when it rests or the lease has ended.
    """

    feed: Feed[T]
    seq: int
    thing: T | None
    claim: int
    attempt: int
    until_ms: int
    pinned: bool = False
    noted: bool = True


class Leases(Generic[T]):
    """The leases of all sources, or of all lanes. What ends unsettled goes back to its feed."""

    def __init__(self, first_claim: int) -> None:
        self._next_claim = first_claim
        self._by_claim: dict[int, Lease[T]] = {}
        self._resting: dict[int, Lease[T]] = {}  # by seq; nobody's claim any more
        self._ends: list[tuple[int, int, Sequence[Lease[T]]]] = []  # a heap; ended leases are swept out late
        self._noted = 0
        self._serial = 0
        self._tries: dict[int, int] = {}  # of what was held and given back

    def hold(self, feed: Feed[T], items: Sequence[Item[T]], until_ms: int) -> list[Lease[T]]:
        """What was just taken from the feed. `note` must follow."""
        tries, claims = self._tries, range(self._next_claim, self._next_claim + len(items))
        leases = [
            Lease(feed, seq, thing, claim, 1 + tries.pop(seq, 0), until_ms)
            for claim, (seq, _, thing) in zip(claims, items, strict=True)
        ]
        self._next_claim = claims.stop
        self._by_claim.update(zip(claims, leases, strict=True))
        return leases

    def note(self, leases: Sequence[Lease[T]], until_ms: int) -> None:
        """These run out at that time, unless they end before."""
        if not leases:
            return
        self._serial += 1
        self._noted += len(leases)
        heapq.heappush(self._ends, (until_ms, self._serial, leases))
        if self._noted > ENDS_SWEPT_MIN + 2 * (len(self._by_claim) + len(self._resting)):
            self._sweep()

    def pin(self, claims: Sequence[int], now_ms: int) -> list[Lease[T] | None]:
        """The leases, kept from running out while their ends are written; None for one that is no longer held."""
        leases = list(map(self._by_claim.get, claims))
        for place, lease in enumerate(leases):
            if lease is None or lease.pinned or lease.until_ms <= now_ms:
                leases[place] = None
            else:
                lease.pinned = True
        return leases

    def unpin(self, lease: Lease[T]) -> None:
        """Nothing was written: the holder has what is left of the lease."""
        lease.pinned = False
        if not lease.noted:
            lease.noted = True
            self.note([lease], lease.until_ms)

    def end(self, lease: Lease[T]) -> None:
        """The row is settled, or put off: nobody holds it."""
        if self._by_claim.pop(lease.claim, None) is not None:
            lease.feed.held -= 1
        lease.thing = None  # the note of its end stays for a while

    def release(self, claim: int, now_ms: int, rest_until_ms: int = 0) -> Lease[T] | None:
        """Give a row back, claimable again at `rest_until_ms`. None when the claim is no longer held."""
        lease = self._by_claim.get(claim)
        if lease is None or lease.pinned or lease.until_ms <= now_ms:
            return None
        del self._by_claim[claim]
        if rest_until_ms <= now_ms:
            self._give_back(lease)
            return lease
        lease.until_ms, lease.thing = rest_until_ms, None
        self._resting[lease.seq] = lease
        self.note([lease], rest_until_ms)
        return lease

    def next_rest_end_ms(self) -> int | None:
        """When the first of the rows given back with a rest may be claimed again."""
        return min((lease.until_ms for lease in self._resting.values()), default=None)

    def run_out(self, now_ms: int) -> list[Lease[T]]:
        """Take back every lease that has run out."""
        out: list[Lease[T]] = []
        while self._ends and self._ends[0][0] <= now_ms:
            until_ms, _, leases = heapq.heappop(self._ends)
            self._noted -= len(leases)
            for lease in leases:
                if lease.until_ms != until_ms:
                    continue  # it rests until later
                lease.noted = False
                if not lease.pinned and self._current([lease]):
                    self._by_claim.pop(lease.claim, None)
                    self._resting.pop(lease.seq, None)
                    self._give_back(lease)
                    out.append(lease)
        return out

    def set_back(self, by_ms: int) -> None:
        """The clock was set back: what is held or rests is so for as long as it would have been."""
        for lease in (*self._by_claim.values(), *self._resting.values()):
            lease.until_ms -= by_ms
        self._ends = [(until_ms - by_ms, serial, leases) for until_ms, serial, leases in self._ends]

    def lowest(self) -> dict[Feed[T], int]:
        """The lowest seq that is held or rests, of each feed that has one."""
        found: dict[Feed[T], int] = {}
        for lease in (*self._by_claim.values(), *self._resting.values()):
            found[lease.feed] = min(lease.seq, found.get(lease.feed, lease.seq))
        return found

    def _give_back(self, lease: Lease[T]) -> None:
        self._tries[lease.seq] = lease.attempt
        lease.feed.held -= 1
        lease.feed.give_back(lease.seq, lease.thing)
        lease.thing = None

    def _sweep(self) -> None:
        """Forget the ends of leases that have ended."""
        kept = ((until_ms, serial, self._current(leases)) for until_ms, serial, leases in self._ends)
        self._ends = [end for end in kept if end[2]]
        self._noted = sum(len(leases) for _, _, leases in self._ends)
        heapq.heapify(self._ends)

    def _current(self, leases: Iterable[Lease[T]]) -> list[Lease[T]]:
        held, resting = self._by_claim, self._resting
        return [lease for lease in leases if lease.claim in held or resting.get(lease.seq) is lease]
