"""What waits to be written, on the event loop: groups of operations for the one who commits, a thread or a process.

Operations that arrive in one turn of the event loop, in those that follow at once, or while a group is written, are
committed together: one disk flush for all of them. Each is answered after COMMIT, never before; one that raises takes
nobody else with it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from relay.errors import StoreUnavailable
from relay.stores.sqlite_committer import KINDS
from relay.stores.sqlite_jobs import Failed, Job, Reply, Result
from relay.stores.sqlite_operations import Calling, Operation
from relay.stores.sqlite_session import Session

WEIGHT_MAX: Final = 10_000
GROUP_WEIGHT_MAX: Final = 2_000
GROUP_BYTES_MAX: Final = 16 * 1024 * 1024
#: Smaller groups are not handed over before the one that is being written is done.
NEXT_WEIGHT_MIN: Final = 32
#: A group has company as long as not so many turns of the event loop in a row brought nothing for it, and this long.
QUIET_TURNS: Final = 6
COMPANY_SECONDS_MAX: Final = 0.0015
#: Between two looks at what waits for too long.
LOOK_SECONDS_MIN: Final = 0.1
#: In which order kinds of jobs stand in a group.
ORDER: Final = {kind: number for number, kind in enumerate(KINDS)}

T = TypeVar("T")


class Committing(Protocol):
    """The one who commits: `sqlite_thread`, `sqlite_process`. Everything here is called on the event loop.

    `shares_core`: it works when the event loop does not, so it had better do more at a time than begin early.
    """

    shares_core: bool

    def begin(self, answer: Callable[[Reply], None], lost: Callable[[str], None]) -> None:
        """`answer` is called once a group, in their order; `lost`, with the reason, when there will be no more."""

    def send(self, jobs: Sequence[Job]) -> None:
        """A group; a second one may be sent while the first is written. Raises, sending none, when a job is wrong."""

    async def close(self) -> None:
        """When nothing is being written: move the WAL into the file, close it, end."""


class Company:
    """Whether a group that nothing stands before should wait for more of those who are coming: a COMMIT costs much the
    same for one as for thirty, and senders who were answered together come again together.
    """

    def __init__(self) -> None:
        self._weight = self._quiet_turns = 0
        self._since = 0.0

    def is_coming(self, weight: int, now: float) -> bool:
        """Asked once a turn of the event loop, with the weight of the group so far, until it is False."""
        if not self._weight:
            self._since = now
        self._quiet_turns = 0 if weight != self._weight else self._quiet_turns + 1
        self._weight = weight
        coming = self._quiet_turns < QUIET_TURNS and now - self._since < COMPANY_SECONDS_MAX
        if not coming:
            self._weight = self._quiet_turns = 0
        return coming


class Writer:
    """`put` and `submit` from the event loop. `commits` counts the transactions of operations."""

    def __init__(
        self,
        committing: Committing,
        *,
        queue_bytes_max: int,
        wait_seconds_max: float,
        on_lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.commits = 0
        self._rest_seconds = 0.0
        self._queue_bytes_max = queue_bytes_max
        self._wait_seconds_max = wait_seconds_max
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Operation] = deque()
        self._waiting_since = self._group_since = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._queued = self._queued_bytes = 0  # the weights of what waits and what is being written
        self._handed_weight = 0
        self._handed: deque[list[Operation]] = deque()  # groups that are being written
        self._busy = self._is_handing_over = False
        self._company = Company()
        self._refusal = ""  # why nothing is taken any more
        self._on_lost = on_lost
        self._idle = asyncio.Event()
        self._idle.set()
        self._committing = committing
        committing.begin(self._answer, self._lost)

    def put(self, operations: Sequence[Operation]) -> None:
        """Each is told its end on the loop, later. Raises StoreUnavailable, taking none, when too much waits."""
        if not operations:
            return
        size_bytes = sum([operation.size_bytes for operation in operations])
        if self._refusal or self._is_full(size_bytes):
            raise StoreUnavailable(self._refusal or "too much waits to be written already")
        if self._is_late and any(operation.grows for operation in operations):
            raise StoreUnavailable("what waits to be written has waited for too long (store.wait_seconds_max)")
        if not self._waiting:
            self._waiting_since = self._loop.time()
        self._waiting.extend(operations)
        self._queued += sum([operation.weight for operation in operations])
        self._queued_bytes += size_bytes
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._group_since = self._waiting_since
            self._hand_over_soon()
            if self._watch is None:
                self._watch_wait()
        elif not self._is_handing_over and self._is_worth_a_group():
            self._hand_over_soon()

    def _is_worth_a_group(self) -> bool:
        """Whether a second group may be handed over behind the one that is being written, so that who commits need not
        wait for the loop: when it is as large. On a slow disk a larger one is worth more than an early one.
        """
        if len(self._handed) != 1 or self._rest_seconds:
            return False
        return self._queued - self._handed_weight >= max(self._handed_weight, NEXT_WEIGHT_MIN)

    def submit(
        self,
        run: Callable[[Session], T],
        *,
        apply: Callable[[T], None] = lambda _: None,
        size_bytes: int = 0,
        grows: bool = False,
    ) -> asyncio.Future[T]:
        """`run` in the transaction, then `apply` on the loop; durable when the future has its result."""
        future: asyncio.Future[T] = self._loop.create_future()
        self.put([Calling(run, apply, future, size_bytes, grows)])
        return future

    def _is_full(self, size_bytes: int) -> bool:
        over = self._queued_bytes + size_bytes > self._queue_bytes_max  # one big operation alone is let through
        return self._queued >= WEIGHT_MAX or (over and self._queued > 0)

    @property
    def _is_late(self) -> bool:
        """What is being written has waited for too long."""
        return bool(self._handed) and self._loop.time() - self._group_since > self._wait_seconds_max

    def _watch_wait(self) -> None:
        due = self._group_since + self._wait_seconds_max
        self._watch = self._loop.call_at(max(due, self._loop.time() + LOOK_SECONDS_MIN), self._refuse_late)

    def _refuse_late(self) -> None:
        """What waits behind a group that takes too long, and is in no transaction yet, is refused rather than late."""
        self._watch = None
        if not self._busy:
            return
        if self._is_late:
            late = [operation for operation in self._waiting if operation.grows]
            self._waiting = deque(operation for operation in self._waiting if not operation.grows)
            error = StoreUnavailable("the disk is too slow now (store.wait_seconds_max)")
            self._fail(late, error)
        self._watch_wait()

    def _hand_over_soon(self) -> None:
        """At the end of this turn, with everybody who arrives in it."""
        self._is_handing_over = True
        self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._is_handing_over = False
        waiting = self._waiting
        if not waiting:
            if not self._handed:
                self._busy = False
                self._idle.set()
            return
        if len(self._handed) > 1:
            return
        if self._has_company_coming():
            self._hand_over_soon()
            return
        group: list[Operation] = []
        weight = size_bytes = 0
        while waiting and weight < GROUP_WEIGHT_MAX and size_bytes < GROUP_BYTES_MAX:
            group.append(waiting.popleft())
            weight += group[-1].weight
            size_bytes += group[-1].size_bytes
        if len(group) > 1:
            group.sort(key=by_kind)  # within a kind as they came
        self._group_since = self._waiting_since
        self._handed.append(group)
        self._handed_weight += weight
        try:
            self._committing.send([job for operation in group for job in operation.jobs])
        except Exception as error:  # noqa: BLE001  what cannot be sent must not be waited for
            self._handed.pop()
            self._handed_weight -= weight
            self._fail(group, error)
            self._hand_over_soon()

    def _has_company_coming(self) -> bool:
        if not self._committing.shares_core or self._handed or self._refusal:
            return False
        return self._company.is_coming(self._queued, time.perf_counter())

    def _answer(self, reply: Reply) -> None:
        """On a slow disk the next group waits a little for senders who have just been answered: else they would come
        right behind it, and two groups of half the size take turns for ever.
        """
        self.commits, self._rest_seconds = reply.commits, reply.rest_seconds
        group = self._handed.popleft()
        self._handed_weight -= sum([operation.weight for operation in group])
        self._end(group, reply.results)
        if self._handed:
            return
        if self._rest_seconds and not self._refusal:
            self._loop.call_later(self._rest_seconds, self._hand_over)
        else:
            self._hand_over()

    def _lost(self, reason: str) -> None:
        """Nothing can be written any more. What was being written may be on the disk or not."""
        self._refusal = reason
        groups = [*self._handed, [*self._waiting]]
        self._handed.clear()
        self._handed_weight = 0
        self._waiting.clear()
        for group in groups:
            self._fail(group, StoreUnavailable(reason))
        self._hand_over()
        self._on_lost(reason)

    def _fail(self, group: Sequence[Operation], error: Exception) -> None:
        self._end(group, [Failed(error)] * sum([len(operation.jobs) for operation in group]))

    def _end(self, group: Sequence[Operation], results: Sequence[Result]) -> None:
        """`results` are those of the operations' jobs, in a row."""
        begin = 0
        for operation in group:
            end = begin + len(operation.jobs)
            self._queued -= operation.weight
            self._queued_bytes -= operation.size_bytes
            try:
                operation.ended(results[begin:end])
            except Exception as error:  # noqa: BLE001  one caller's surprise must not keep the others from their answers
                self._loop.call_exception_handler({"message": "an answer of the store raised", "exception": error})
            begin = end

    async def close(self) -> None:
        """Commit what was submitted, move the WAL into the file, close it."""
        self._refusal = self._refusal or "the store is closed"
        await self._idle.wait()
        if self._watch is not None:
            self._watch.cancel()
        await self._committing.close()


def by_kind(operation: Operation) -> int:
    return ORDER[type(operation.jobs[0])]
