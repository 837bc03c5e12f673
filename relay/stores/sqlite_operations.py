"""What waits for the writer: jobs, and who is told of their end. Accepting, finishing and settling come in masses.

`ended` is called once on the event loop, after the COMMIT or the refusal, even if nobody waits any more: it tells the
books (`apply`, of what was committed) and then the caller.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from relay.errors import StoreUnavailable, TransformError
from relay.models import Accepted, ClaimedDelivery, Delivery, Event, EventState, Finished, Settlement
from relay.stores.sqlite_feeds import OpenEvent
from relay.stores.sqlite_file import unavailable
from relay.stores.sqlite_jobs import (
    Accept,
    AcceptResult,
    Call,
    Failed,
    Finish,
    FinishResult,
    Job,
    Result,
    Settle,
)
from relay.stores.sqlite_leases import Lease
from relay.stores.sqlite_reads import ROW_BYTES
from relay.stores.sqlite_session import Session
from relay.stores.sqlite_values import EVENT_STATE_NUMBERS, shortened

T = TypeVar("T")


class Operation:
    """What one caller waits for. The `jobs`, at least one and all of a kind, are what the writer is told to do: they go
    into one group, where each is done or fails for itself. In the queue they count as `weight`, which is how many
    deliveries or claims they are about, and take `size_bytes`.
    """

    __slots__ = ("jobs", "size_bytes")
    jobs: Sequence[Job]
    size_bytes: int

    @property
    def weight(self) -> int:
        return len(self.jobs)

    @property
    def grows(self) -> bool:
        """Whether it is refused while the disk is nearly full or the writer is late."""
        return self.jobs[0].grows

    def ended(self, results: Sequence[Result]) -> None:
        """What came of each job."""
        raise NotImplementedError


class Single(Operation):
    """One job. `error` is why nothing was stored."""

    __slots__ = ("error",)
    error: Exception | None

    def __init__(self, job: Job) -> None:
        self.jobs, self.size_bytes, self.error = (job,), job.size_bytes, None

    def ended(self, results: Sequence[Result]) -> None:
        (result,) = results
        if isinstance(result, Failed):
            self.error = result.error
        self.told(result)

    def told(self, result: Any) -> None:
        """What the job gave; when there is an `error`, nothing."""
        raise NotImplementedError


class Accepting(Operation):
    """Deliveries that are stored each for itself: the common case, so all of them are gone through at once.

    `apply` is given the deliveries and their seqs, 0 for one that was not stored or is a duplicate; then `answer` is
    given what the callers are told, in the same order.
    """

    __slots__ = ("answer", "apply", "deliveries")

    def __init__(
        self,
        deliveries: Sequence[Delivery],
        apply: Callable[[Sequence[Delivery], Sequence[int]], None],
        answer: Callable[[Sequence[Accepted | StoreUnavailable]], None],
    ) -> None:
        self.size_bytes = bytes_of(deliveries)
        self.jobs = (Accept(deliveries, self.size_bytes, whole=False),)
        self.deliveries, self.apply, self.answer = deliveries, apply, answer

    @property
    def weight(self) -> int:
        return len(self.deliveries)

    def ended(self, results: Sequence[Any]) -> None:
        (result,) = results
        seqs, answers = self.ends(result)
        try:
            self.apply(self.deliveries, seqs)
        except Exception as error:  # noqa: BLE001  as in tell_books
            answers = [unavailable(error)] * len(answers)
        self.answer(answers)

    def ends(self, result: Any) -> tuple[Sequence[int], Sequence[Accepted | StoreUnavailable]]:
        """The seqs, and what the callers are told."""
        deliveries = self.deliveries
        if isinstance(result, AcceptResult):
            return seqs_of(result, len(deliveries)), answers_of(result, deliveries)
        if isinstance(result, Failed):
            return [0] * len(deliveries), [unavailable(result.error)] * len(deliveries)
        seqs, answers = list[int](), list[Accepted | StoreUnavailable]()
        for part, delivery in zip(result.results, deliveries, strict=True):
            failed = isinstance(part, Failed)
            seqs += [0] if failed else seqs_of(part, 1)
            answers += [unavailable(part.error)] if failed else answers_of(part, [delivery])
        return seqs, answers


class AcceptingAll(Single):
    """Deliveries that are stored all or none; `apply` as above."""

    __slots__ = ("apply", "deliveries", "future")

    def __init__(
        self,
        deliveries: tuple[Delivery, ...],
        apply: Callable[[Sequence[Delivery], Sequence[int]], None],
        future: asyncio.Future[list[Accepted]],
    ) -> None:
        super().__init__(Accept(deliveries, bytes_of(deliveries), whole=True))
        self.deliveries, self.apply, self.future = deliveries, apply, future

    def told(self, result: AcceptResult) -> None:
        answers: list[Accepted] = []
        if self.error is None:
            tell_books(self, self.apply, self.deliveries, seqs_of(result, len(self.deliveries)))
            answers = answers_of(result, self.deliveries)
        tell_future(self.future, answers, self.error)


def bytes_of(deliveries: Sequence[Delivery]) -> int:
    """What they take in the queue and, at a guess, on the disk."""
    return sum([len(each.request.body) for each in deliveries]) + ROW_BYTES * len(deliveries)


def seqs_of(result: AcceptResult, count: int) -> Sequence[int]:
    """Of each delivery, 0 for one that was not stored."""
    if not result.earlier:
        return range(result.first, result.first + count)
    stored = itertools.count(result.first)
    return [0 if place in result.earlier else next(stored) for place in range(count)]


def answers_of(result: AcceptResult, deliveries: Sequence[Delivery]) -> list[Accepted]:
    """What their callers are told."""
    earlier = result.earlier
    if not earlier:
        return [Accepted(each.id, False) for each in deliveries]
    return [Accepted(earlier.get(place, each.id), place in earlier) for place, each in enumerate(deliveries)]


#: A held delivery and what becomes of it; no events: it is filtered, or dead.
End: TypeAlias = tuple[ClaimedDelivery, Sequence[Event]]
#: The same with the lease by which it is held.
HeldEnd: TypeAlias = tuple[Lease[Delivery], ClaimedDelivery, Sequence[Event]]
#: The lease of an event, and how its attempt ends.
HeldSettlement: TypeAlias = tuple[Lease[OpenEvent], Settlement]

SENT: Final = EVENT_STATE_NUMBERS[EventState.SENT]


class Finishing(Operation):
    """Held deliveries that end, each for itself; with an `error` they are dead.

    `apply` is told what was stored of each, None for what was refused. `finished` has the same in words of the
    contract.
    """

    __slots__ = ("answers", "apply", "error", "finished", "held", "now_ms")

    def __init__(
        self,
        held: Sequence[HeldEnd],
        error: TransformError | None,
        now_ms: int,
        apply: Callable[[Finishing, Sequence[FinishResult | None]], None],
        answers: Answers,
    ) -> None:
        failure = None if error is None else (error.code, error.message)
        self.jobs = [finish_job(*each, now_ms, failure) for each in held]
        self.size_bytes = sum([job.size_bytes for job in self.jobs])
        self.held, self.error, self.now_ms, self.apply, self.answers = held, error, now_ms, apply, answers
        self.finished: list[Finished | None] = []
        answers.expect()

    def ended(self, results: Sequence[Any]) -> None:
        failures = [result.error for result in results if isinstance(result, Failed)]
        if failures:
            results = [None if isinstance(result, Failed) else result for result in results]
        try:
            self.apply(self, results)
        except Exception as error:  # noqa: BLE001  as in tell_books
            failures.append(error)
        self.finished = [
            None if result is None else Finished(len(result.stored), tuple(result.duplicates)) for result in results
        ]
        self.answers.told(failures[0] if failures else None)


def finish_job(
    lease: Lease[Delivery],
    claim: ClaimedDelivery,
    events: Sequence[Event],
    now_ms: int,
    failure: tuple[str, str] | None,
) -> Finish:
    """The job of one end."""
    delivery, size_bytes = claim.delivery, ROW_BYTES
    for event in events:
        size_bytes += len(event.json) + ROW_BYTES
    body_bytes = len(delivery.request.body)
    return Finish(lease.seq, delivery.generation, delivery.received_ms, body_bytes, now_ms, events, failure, size_bytes)


class Answers:
    """One future for operations of one call: done when the last has ended, with the first error that one had."""

    __slots__ = ("_error", "_left", "all")

    def __init__(self) -> None:
        self._left = 0
        self._error: Exception | None = None
        self.all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expect(self) -> None:
        """One more operation."""
        self._left += 1

    def told(self, error: Exception | None) -> None:
        """One has ended."""
        self._left -= 1
        self._error = self._error or error
        if not self._left:
            tell_future(self.all, None, self._error)


class Settling(Single):
    """How held events end their attempts. `apply` is told also of what was refused."""

    __slots__ = ("apply", "future", "held")

    def __init__(
        self,
        held: Sequence[HeldSettlement],
        now_ms: int,
        apply: Callable[[Settling], None],
        future: asyncio.Future[None],
    ) -> None:
        super().__init__(settle_job(held, now_ms))
        self.held, self.apply, self.future = held, apply, future

    def told(self, result: object) -> None:
        tell_books(self, self.apply, self)
        tell_future(self.future, None, self.error)


def settle_job(held: Sequence[HeldSettlement], now_ms: int) -> Settle:
    """The job of all of them. Most are sent, and have nothing else to say."""
    sent: list[tuple[Any, ...]] = []
    others: list[tuple[Any, ...]] = []
    for lease, settlement in held:
        assert lease.thing is not None, "a pinned lease has not ended"
        state = EVENT_STATE_NUMBERS[settlement.state]
        lane, source = lease.feed.number, lease.thing.source
        attempt = settlement.event.attempt + settlement.counted
        code, message = settlement.code, shortened(settlement.message)
        if state == SENT and code is None and message is None:
            sent.append((lease.seq, SENT, lane, source, attempt, now_ms, settlement.inngest_id))
        else:
            at_ms, settled_ms = (0, now_ms) if state else (max(settlement.at_ms, 1), None)
            others.append(
                (lease.seq, state, lane, source, at_ms, attempt, settled_ms, settlement.inngest_id, code, message)
            )
    return Settle(sent, others, len(held) * ROW_BYTES)


class Calling(Single, Generic[T]):
    """Everything else, one by one: `run` in the transaction, `apply` with its result."""

    __slots__ = ("apply", "future")

    def __init__(
        self,
        run: Callable[[Session], T],
        apply: Callable[[T], None],
        future: asyncio.Future[T],
        size_bytes: int,
        grows: bool,
    ) -> None:
        super().__init__(Call(run, size_bytes, grows))
        self.apply, self.future = apply, future

    def told(self, result: Any) -> None:
        given: Any = result if self.error else result.result
        if self.error is None:
            tell_books(self, self.apply, given)
        tell_future(self.future, given, self.error)


def tell_books(operation: Single, apply: Callable[..., None], *what: object) -> None:
    """A surprise there must not keep the caller from an answer, nor the others of the group from theirs."""
    try:
        apply(*what)
    except Exception as error:  # noqa: BLE001  it is the operation's error now
        operation.error = operation.error or error


def tell_future(future: asyncio.Future[T], result: T, error: Exception | None) -> None:
    """Nothing when the caller has gone away."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
