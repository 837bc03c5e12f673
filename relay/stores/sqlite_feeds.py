"""What is open and nobody's, of one source or one lane: its oldest part in memory, the rest known to be in the file.

    just committed ─▶ fresh ─┐        fresh     in the order of the file without a gap, up to `last`
    read from file ─▶ fresh ─┼─▶ take behind    there is more of it in the file, after `last`
    given back, replayed     │        returned  given back or replayed: numbers only, read one by one
      returned ─read─▶ front ┘        front     what was read so; the older one is taken first

While nobody is behind, no claim reads the file. All of it is bounded: a feed that gets too long, or the one that was
taken from the longest ago when all of them are too big, forgets what it has in memory and is behind.
Everything here runs on the event loop, between two awaits.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from msgspec import Struct

from relay.models import Delivery

#: What one source or lane has in memory at most, and all sources or all lanes together.
FEED_COUNT_MAX: Final = 1_000
FEEDS_BYTES_MAX: Final = 8 * 1024 * 1024
#: What may arrive for one of them during a read and still be remembered.
ARRIVED_BYTES_MAX: Final = 1024 * 1024
#: Later than every time: nothing is due.
NEVER_MS: Final = 2**62

T = TypeVar("T")
#: One of a feed: its seq, the bytes that it takes in memory, what it is.
Item: TypeAlias = tuple[int, int, T]


class OpenEvent(Struct, frozen=True, eq=False, gc=False):
    """A pending event as a claim needs it. `retried`: it has a row in event_state already."""

    ref: str
    id: str
    json: bytes
    created_ms: int
    source: str
    attempt: int = 0
    retried: bool = False


class Room:
    """The bytes that all feeds of one kind have in memory; who was taken from the longest ago gives way."""

    def __init__(self, bytes_max: int = FEEDS_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self._order: dict[Feed[Any], None] = {}

    def touch(self, feed: Feed[Any]) -> None:
        """It was taken from, or begins to have something."""
        self._order.pop(feed, None)
        self._order[feed] = None

    def make(self) -> None:
        """Until what is left is not too much."""
        while self.used_bytes > self.bytes_max and self._order:
            feed = next(iter(self._order))
            del self._order[feed]
            feed.forget()


class Feed(Generic[T]):
    """`open` counts what is not settled, `held` what of it somebody holds or lets rest. `marked` is its mark in the
    file, `number` a lane's.
    """

    __slots__ = (
        "_arrived",
        "_arrived_bytes",
        "_missed",
        "_room",
        "_void",
        "behind",
        "bytes",
        "fresh",
        "front",
        "held",
        "last",
        "loading",
        "marked",
        "name",
        "number",
        "open",
        "reading",
        "returned",
    )

    def __init__(self, name: str, room: Room, number: int = 0) -> None:
        self.name, self.number, self._room = name, number, room
        self.open = self.held = self.last = self.marked = self.bytes = self._arrived_bytes = 0
        self.behind = self.reading = self._missed = self._void = False
        self.fresh: deque[Item[T]] = deque()
        self.front: deque[Item[T]] = deque()
        self.returned: list[int] = []  # a heap
        self.loading: Sequence[int] = ()  # of those returned, what is being read now
        self._arrived: list[Item[T]] = []

    # ── what becomes open ──

    def add(self, items: Sequence[Item[T]]) -> None:
        """What was just committed. The seqs of a feed come in rising order."""
        self.open += len(items)
        if items[0][0] <= self.last:  # a read has seen the commit before we were told of it
            items = [item for item in items if item[0] > self.last]
        if self.reading:
            for item in items:
                self._arrive(item)
        elif not self.behind:
            fitting = items[: max(FEED_COUNT_MAX - len(self.fresh), 0)]
            self.behind = len(fitting) < len(items)
            if fitting:
                if not self.bytes:
                    self._room.touch(self)
                self._append(self.fresh, fitting)
                self.last = fitting[-1][0]
                self._room.make()

    def _arrive(self, item: Item[T]) -> None:
        """During a read."""
        self._arrived_bytes += item[1]
        if len(self._arrived) < FEED_COUNT_MAX and self._arrived_bytes <= ARRIVED_BYTES_MAX:
            self._arrived.append(item)
        else:
            self._missed = True

    def bring_back(self, seq: int) -> None:
        """Open again after it had ended: a read after `last` leaves it out."""
        self.open += 1
        self.give_back(seq, None)

    def fall_behind(self) -> None:
        """Something was committed that is not handed over in memory: it is in the file, after `last`."""
        self.behind = True
        self._missed = True

    def give_back(self, seq: int, thing: T | None) -> None:
        """Open again, and nobody's: it is read from the file when its turn comes."""
        heapq.heappush(self.returned, seq)

    # ── what is claimed ──

    @property
    def unclaimed(self) -> int:
        return self.open - self.held

    @property
    def ready(self) -> int:
        """How many can be taken without a read."""
        return len(self.front) + len(self.fresh)

    def needs_read(self, count: int) -> bool:
        """Whether so many cannot be taken in their order before the file was read."""
        if self.returned and (len(self.front) < count or self.returned[0] < self.front[0][0]):
            return True
        if not self.behind:
            return False
        older = self.front and not self.fresh and self.front[0][0] > self.last  # what was replayed before an opening
        return bool(older) or len(self.front) + len(self.fresh) < count

    def take(self, count: int, bytes_max: int, *, beside_bytes: int = 0, least: int = 1) -> list[Item[T]]:
        """The next ones, which from now on somebody holds: so many at most, and of so many bytes, but `least` of them
        if they are there. `beside_bytes` of each are not counted.
        """
        front, fresh = self.front, self.fresh
        if not front and len(fresh) <= count and self.bytes - beside_bytes * len(fresh) <= bytes_max:
            return self._take_all()
        taken: list[Item[T]] = []
        size_bytes = 0
        while len(taken) < count and (front or fresh):
            where = front if front and not (fresh and fresh[0][0] < front[0][0]) else fresh
            bytes_max -= where[0][1] - beside_bytes
            if bytes_max < 0 and len(taken) >= least:
                break
            taken.append(where.popleft())
            size_bytes += taken[-1][1]
        self.held += len(taken)
        self.bytes -= size_bytes
        self._room.used_bytes -= size_bytes
        return taken

    def _take_all(self) -> list[Item[T]]:
        """Of what is fresh, where there is nothing else."""
        taken = list(self.fresh)
        self.fresh.clear()
        self.held += len(taken)
        self._room.used_bytes -= self.bytes
        self.bytes = 0
        return taken

    def taken_from(self) -> None:
        """At the end of a claim: others give way before this one."""
        self._room.touch(self)

    def forget(self) -> None:
        """Leave to the file what is in memory."""
        for seq, _, thing in self.front:
            self.give_back(seq, thing)
        self.front.clear()
        if self.fresh:
            self.last = self.fresh[0][0] - 1
            self.behind = self._void = True
            self.fresh.clear()
        self._room.used_bytes -= self.bytes
        self.bytes = 0

    # ── reading ──

    def begin_read(self) -> None:
        """From here on what is committed is remembered: the read may see it or not."""
        self.reading, self._missed, self._void, self._arrived, self._arrived_bytes = True, False, False, [], 0

    def end_read(self, rows: Sequence[Item[T]], is_all: bool) -> None:
        """What was found after `last`, `is_all` when there was no more.

        A read sees at least what had been committed when it began, so with what arrived since then nothing is missing.
        """
        arrived, self._arrived, self.reading = self._arrived, [], False
        if self._void:
            return  # what comes before it was forgotten meanwhile
        if rows:
            self.last = rows[-1][0]
        found = [*rows]
        if is_all and not self._missed:
            found += [item for item in arrived if item[0] > self.last]
            self.behind = False
        self._append(self.fresh, found)
        self._room.touch(self)
        if found:
            self.last = found[-1][0]

    def break_read(self) -> None:
        """Nothing was found out: the file still has everything."""
        self.reading, self._arrived = False, []

    def begin_loading(self, count: int) -> Sequence[int]:
        """The oldest of what was given back, so many at most."""
        self.loading = [heapq.heappop(self.returned) for _ in range(min(count, len(self.returned)))]
        return self.loading

    def end_loading(self, rows: Sequence[Item[T]], left: Iterable[int]) -> None:
        """What was read of it, in order, and the numbers that must be read another time."""
        self.loading = ()
        for seq in left:
            heapq.heappush(self.returned, seq)
        self._into_front(rows)

    def _into_front(self, rows: Sequence[Item[T]]) -> None:
        if self.front:
            rows = sorted([*self.front, *rows], key=by_seq)
            size_bytes = sum(item[1] for item in self.front)
            self.front.clear()
            self.bytes -= size_bytes
            self._room.used_bytes -= size_bytes
        self._append(self.front, rows)
        self._room.touch(self)

    def _append(self, where: deque[Item[T]], rows: Sequence[Item[T]]) -> None:
        """Without making room: what was read for a claim must still be there when it is taken."""
        size_bytes = sum([row[1] for row in rows])
        where.extend(rows)
        self.bytes += size_bytes
        self._room.used_bytes += size_bytes

    def done_to(self, lowest_held: int | None) -> int:
        """Everything at or below it has its row. `lowest_held` is the lowest seq that somebody holds or lets rest."""
        found = [self.fresh[0][0] if self.fresh else self.last + 1, *self.returned[:1], *self.loading]
        found += [item[0] for item in self.front]
        if lowest_held is not None:
            found.append(lowest_held)
        return min(found) - 1


def by_seq(item: Item[Any]) -> int:
    return item[0]


#: A source's deliveries; their size is the body's.
SourceFeed = Feed[Delivery]


class LaneFeed(Feed[OpenEvent]):
    """One lane's events. Those that were tried or replayed have a row in event_state and are found by their time:
    `retried` counts them, `loaded` are those that are in memory or held.

    `retry_due_ms` is never later than when the next one that is not loaded may be tried.
    """

    __slots__ = (
        "changed_due_ms",
        "destination",
        "environment",
        "freed_ms",
        "loaded",
        "passed_ms",
        "retried",
        "retry_due_ms",
    )

    def __init__(self, number: int, destination: str, environment: str | None, room: Room) -> None:
        super().__init__(destination, room, number)
        self.destination, self.environment = destination, environment
        self.retried = 0
        self.loaded: set[int] = set()
        self.retry_due_ms = self.changed_due_ms = self.freed_ms = NEVER_MS
        self.passed_ms = 0  # not later than when anything after `last` was made

    def due_ms(self, now_ms: int) -> int:
        """When the next one may be tried, or earlier. New ones at once, also when the clock was set back since."""
        due_ms = NEVER_MS
        if self.front:
            due_ms = min(item[2].created_ms for item in self.front)
        if self.returned:
            due_ms = min(due_ms, self.freed_ms)
        if self.fresh:
            due_ms = min(due_ms, self.fresh[0][2].created_ms)
        elif self.behind:
            due_ms = min(due_ms, self.passed_ms)
        if due_ms < NEVER_MS:
            due_ms = min(due_ms, now_ms)
        return min(due_ms, self.retry_due_ms) if self.retried > len(self.loaded) else due_ms

    def needs_retried(self, now_ms: int) -> bool:
        """Whether one that is not loaded may be due."""
        return self.retried > len(self.loaded) and self.retry_due_ms <= now_ms

    def may_be_retried(self, at_ms: int) -> None:
        self.retry_due_ms = min(self.retry_due_ms, at_ms)
        self.changed_due_ms = min(self.changed_due_ms, at_ms)

    def settled(self, seq: int, event: OpenEvent, at_ms: int | None) -> None:
        """What was held is settled, or with `at_ms` put off until then."""
        if event.retried:
            self.loaded.discard(seq)
        if at_ms is None:
            self.open -= 1
            self.retried -= event.retried
        else:
            self.retried += not event.retried
            self.may_be_retried(at_ms)

    def begin_retried(self) -> frozenset[int]:
        """Before a read of those that are due: which of them it must leave out."""
        self.changed_due_ms = NEVER_MS
        return frozenset(self.loaded)

    def end_retried(self, rows: Sequence[Item[OpenEvent]], next_due_ms: int) -> None:
        self.loaded.update(row[0] for row in rows)
        self.retry_due_ms = min(self.changed_due_ms, next_due_ms)
        self._into_front(rows)

    def forget(self) -> None:
        if self.fresh:
            self.passed_ms = self.fresh[0][2].created_ms
        super().forget()

    def give_back(self, seq: int, thing: OpenEvent | None) -> None:
        if thing is not None and thing.retried:
            self.loaded.discard(seq)
            self.may_be_retried(0)
            return
        super().give_back(seq, thing)
        self.freed_ms = min(self.freed_ms, thing.created_ms if thing is not None else 0)

    def begin_loading(self, count: int) -> Sequence[int]:
        found = super().begin_loading(count)
        if not self.returned:
            self.freed_ms = NEVER_MS
        return found
