"""What waits for the writer. Accepting, finishing and settling come in masses: each kind is run for many at once.

The writer's thread fills in results and `error`. `ended` is called once on the event loop, after the COMMIT or the
refusal, even if nobody waits any more: it tells the books (`apply`, of what was committed) and then the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from relay.errors import StoreUnavailable, TransformError
from relay.models import Accepted, ClaimedDelivery, Delivery, Event, Finished, Settlement
from relay.stores.sqlite_feeds import OpenEvent
from relay.stores.sqlite_file import unavailable
from relay.stores.sqlite_leases import Lease
from relay.stores.sqlite_session import Session

T = TypeVar("T")


class Operation:
    """`grows` marks what is refused while the disk is nearly full or the writer is late."""

    __slots__ = ("error", "size_bytes")
    grows = False
    error: Exception | None
    size_bytes: int

    def ended(self) -> None:
        raise NotImplementedError


class Accepting(Operation):
    """Deliveries that are stored all or none. `answers` and `seqs` (0: a duplicate) are in their order.

    The caller is told by `answer`, of the one delivery, or else by `future`.
    """

    __slots__ = ("answer", "answers", "apply", "deliveries", "future", "seqs")
    grows = True

    def __init__(
        self,
        deliveries: Sequence[Delivery],
        size_bytes: int,
        apply: Callable[[Accepting], None],
        answer: Callable[[Accepted | StoreUnavailable], None] | None = None,
        future: asyncio.Future[list[Accepted]] | None = None,
    ) -> None:
        self.deliveries, self.size_bytes, self.apply = deliveries, size_bytes, apply
        self.answer, self.future, self.error = answer, future, None
        self.answers: list[Accepted] = []
        self.seqs: list[int] = []

    def ended(self) -> None:
        tell_books(self, self.apply)
        error = self.error
        if self.answer is not None:
            self.answer(self.answers[0] if error is None else unavailable(error))
        elif self.future is not None:
            tell_future(self.future, self.answers, error)


class Finishing(Operation):
    """A held delivery becomes processed, filtered (no events) or, with `failure`, dead.

    `stored` are the new events as (seq, lane's number, place among `events`), `duplicates` the ids that were known.
    """

    __slots__ = (
        "answers",
        "apply",
        "claim",
        "duplicates",
        "events",
        "failure",
        "lease",
        "now_ms",
        "result",
        "stored",
    )

    def __init__(
        self,
        lease: Lease[Delivery],
        end: tuple[ClaimedDelivery, Sequence[Event], TransformError | None],
        now_ms: int,
        size_bytes: int,
        apply: Callable[[Finishing], None],
        answers: Answers,
    ) -> None:
        self.lease, self.now_ms, self.size_bytes, self.apply, self.answers = lease, now_ms, size_bytes, apply, answers
        self.claim, self.events, self.failure = end
        self.error = None
        self.stored: list[tuple[int, int, int]] = []
        self.duplicates: list[str] = []
        self.result: Finished | None = None

    def ended(self) -> None:
        tell_books(self, self.apply, even_refused=True)
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
    """How held events end their attempts."""

    __slots__ = ("apply", "future", "held", "now_ms")

    def __init__(
        self,
        held: Sequence[tuple[Lease[OpenEvent], Settlement]],
        now_ms: int,
        size_bytes: int,
        apply: Callable[[Settling], None],
        future: asyncio.Future[None],
    ) -> None:
        self.held, self.now_ms, self.size_bytes, self.apply, self.future = held, now_ms, size_bytes, apply, future
        self.error = None

    def ended(self) -> None:
        tell_books(self, self.apply, even_refused=True)
        tell_future(self.future, None, self.error)


class Call(Operation, Generic[T]):
    """Everything else, one by one: `run` in the transaction, `apply` with its result."""

    __slots__ = ("apply", "future", "grows", "result", "run")

    def __init__(
        self,
        run: Callable[[Session], T],
        apply: Callable[[T], None],
        future: asyncio.Future[T],
        size_bytes: int,
        grows: bool,
    ) -> None:
        self.run, self.apply, self.future, self.size_bytes, self.grows = run, apply, future, size_bytes, grows
        self.error = None
        self.result: Any = None

    def ended(self) -> None:
        tell_books(self, lambda operation: self.apply(operation.result))
        tell_future(self.future, self.result, self.error)


Op = TypeVar("Op", bound=Operation)


def tell_books(operation: Op, apply: Callable[[Op], None], *, even_refused: bool = False) -> None:
    """A surprise there must not keep the caller from an answer, nor the others of the group from theirs."""
    if operation.error is not None and not even_refused:
        return
    try:
        apply(operation)
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
