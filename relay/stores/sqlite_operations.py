"""What waits for the writer: a job, and who is to be told of its end. Accepting, finishing and settling come in masses.

`ended` is called once on the event loop, after the COMMIT or the refusal, even if nobody waits any more: it tells the
books (`apply`, of what was committed) and then the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from relay.errors import StoreUnavailable, TransformError
from relay.models import Accepted, ClaimedDelivery, Delivery, Event, Finished, Settlement
from relay.stores.sqlite_feeds import OpenEvent
from relay.stores.sqlite_file import unavailable
from relay.stores.sqlite_jobs import (
    Accept,
    AcceptResult,
    Call,
    Finish,
    FinishResult,
    Job,
    Settle,
)
from relay.stores.sqlite_leases import Lease
from relay.stores.sqlite_session import Session

T = TypeVar("T")


class Operation:
    """`job` is what the writer is told to do. `grows` marks what is refused while the disk is nearly full or the writer
    is late.
    """

    __slots__ = ("error", "job")
    job: Job
    error: Exception | None

    @property
    def size_bytes(self) -> int:
        return self.job.size_bytes

    @property
    def grows(self) -> bool:
        return self.job.grows

    def ended(self, result: Any) -> None:
        """What the job gave; when there is an `error`, nothing."""
        raise NotImplementedError


class Accepting(Operation):
    """Deliveries that are stored all or none. The caller is told by `answer`, of the one delivery, or else by `future`.

    `apply` is given the deliveries and their seqs, 0 for a duplicate.
    """

    __slots__ = ("answer", "apply", "future")
    job: Accept

    def __init__(
        self,
        deliveries: tuple[Delivery, ...],
        size_bytes: int,
        apply: Callable[[Sequence[Delivery], Sequence[int]], None],
        answer: Callable[[Accepted | StoreUnavailable], None] | None = None,
        future: asyncio.Future[list[Accepted]] | None = None,
    ) -> None:
        self.job = Accept(deliveries, size_bytes)
        self.answer, self.future, self.apply, self.error = answer, future, apply, None

    def ended(self, result: AcceptResult) -> None:
        deliveries = self.job.deliveries
        if self.error is None:
            tell_books(self, self.apply, deliveries, result.seqs)
        if self.answer is not None:
            error = self.error
            self.answer(accepted(deliveries[0], result.earlier[0]) if error is None else unavailable(error))
        elif self.future is not None:
            earlier = [] if self.error else result.earlier
            answers = [accepted(delivery, first) for delivery, first in zip(deliveries, earlier, strict=False)]
            tell_future(self.future, answers, self.error)


def accepted(delivery: Delivery, earlier: str | None) -> Accepted:
    return Accepted(delivery.id, False) if earlier is None else Accepted(earlier, True)


class Finishing(Operation):
    """A held delivery becomes processed, filtered (no events) or, with `failure`, dead.

    `apply` is told also of what was refused. `result` stays None then.
    """

    __slots__ = ("answers", "apply", "claim", "events", "lease", "result", "stored")
    job: Finish

    def __init__(
        self,
        lease: Lease[Delivery],
        end: tuple[ClaimedDelivery, Sequence[Event], TransformError | None],
        now_ms: int,
        size_bytes: int,
        apply: Callable[[Finishing], None],
        answers: Answers,
    ) -> None:
        self.claim, self.events, failure = end
        delivery = self.claim.delivery
        self.job = Finish(
            lease.seq,
            delivery.generation,
            delivery.received_ms,
            len(delivery.request.body),
            now_ms,
            self.events,
            None if failure is None else (failure.code, failure.message),
            size_bytes,
        )
        self.lease, self.apply, self.answers, self.error = lease, apply, answers, None
        self.stored: Sequence[tuple[int, int, int]] = ()
        self.result: Finished | None = None

    def ended(self, result: FinishResult) -> None:
        if self.error is None:
            self.stored = result.stored
            self.result = Finished(len(result.stored), tuple(result.duplicates))
        tell_books(self, self.apply, self)
        self.answers.told(self.error)


class Answers:
    """One future for operations of one call: done when the last has ended, with the first error that one had."""

    __slots__ = ("_error", "_left", "all")

    def __init__(self, left: int) -> None:
        self._left = left
        self._error: Exception | None = None
        self.all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def told(self, error: Exception | None) -> None:
        self._left -= 1
        self._error = self._error or error
        if not self._left:
            tell_future(self.all, None, self._error)


class Settling(Operation):
    """How held events end their attempts. `apply` is told also of what was refused."""

    __slots__ = ("apply", "future", "held")

    def __init__(
        self,
        held: Sequence[tuple[Lease[OpenEvent], Settlement]],
        job: Settle,
        apply: Callable[[Settling], None],
        future: asyncio.Future[None],
    ) -> None:
        self.held, self.job, self.apply, self.future, self.error = held, job, apply, future, None

    def ended(self, result: object) -> None:
        tell_books(self, self.apply, self)
        tell_future(self.future, None, self.error)


class Calling(Operation, Generic[T]):
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
        self.job, self.apply, self.future, self.error = Call(run, size_bytes, grows), apply, future, None

    def ended(self, result: Any) -> None:
        given: Any = result if self.error else result.result
        if self.error is None:
            tell_books(self, self.apply, given)
        tell_future(self.future, given, self.error)


def tell_books(operation: Operation, apply: Callable[..., None], *what: object) -> None:
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
