"""The only writer: one thread, one connection, one transaction for everything that waits.

Operations that arrive in one tick of the event loop, or while the thread commits, are committed together: one disk
flush for all of them. Each is answered after COMMIT, never before; one that raises takes nobody else with it.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from relay.errors import StoreUnavailable
from relay.stores import sqlite_transitions as transitions
from relay.stores.sqlite_checkpoints import Checkpoints
from relay.stores.sqlite_disk import DiskFloor
from relay.stores.sqlite_file import is_disk_error, open_writer, standing_files, unavailable
from relay.stores.sqlite_operations import Accepting, Call, Finishing, Operation, Settling
from relay.stores.sqlite_session import Session

OPERATIONS_MAX: Final = 10_000
GROUP_OPERATIONS_MAX: Final = 2_000
GROUP_BYTES_MAX: Final = 16 * 1024 * 1024
#: Smaller groups are not handed over before the one that is being written is done.
NEXT_OPERATIONS_MIN: Final = 32
#: How long the thread waits for work before it does what can wait.
IDLE_SECONDS: Final = 0.05
#: Between two looks at what waits for too long.
LOOK_SECONDS_MIN: Final = 0.1

T = TypeVar("T")
ByKind: TypeAlias = dict[type[Operation], list[Operation]]


def run_calls(session: Session, operations: Iterable[Call[Any]]) -> None:
    for operation in operations:
        operation.result = operation.run(session)


#: How each kind of operation is run, for many at once or for one, in this order.
KINDS: Final[dict[type[Operation], Callable[[Session, Any], None]]] = {
    Accepting: transitions.accept,
    Finishing: transitions.finish,
    Settling: transitions.settle,
    Call: run_calls,
}


class Writer:
    """`put` and `submit` from the event loop. `commits` counts the transactions of operations."""

    def __init__(
        self,
        path: Path,
        session: Session,
        *,
        disk_free_bytes_min: int,
        queue_bytes_max: int,
        wait_seconds_max: float,
    ) -> None:
        self.commits = 0
        self._path = path
        self._window_ms = session.window_ms
        self._session: Session | None = session
        self._files = standing_files(path)
        self._disk = DiskFloor(path.parent, disk_free_bytes_min)
        self._checkpoints = Checkpoints()
        self._queue_bytes_max = queue_bytes_max
        self._wait_seconds_max = wait_seconds_max
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Operation] = deque()
        self._waiting_since = self._group_since = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._queued = 0
        self._queued_bytes = 0
        self._handed = 0  # groups that the thread has
        self._group_operations = 0  # in the last of them
        self._busy = False
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._groups: queue.SimpleQueue[list[Operation] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="relay-store-writer", daemon=True)
        self._thread.start()

    # ── on the event loop ──

    def put(self, operations: Sequence[Operation]) -> None:
        """Each is told its end on the loop, later. Raises StoreUnavailable, taking none, when too much waits."""
        size_bytes = sum(operation.size_bytes for operation in operations)
        if not operations:
            return
        if self._closing or self._is_full(size_bytes):
            raise StoreUnavailable("the store is closed" if self._closing else "too much waits to be written already")
        if self._busy and self._is_late and any(operation.grows for operation in operations):
            raise StoreUnavailable("what waits to be written has waited for too long (store.wait_seconds_max)")
        if not self._waiting:
            self._waiting_since = self._loop.time()
        self._waiting.extend(operations)
        self._queued += len(operations)
        self._queued_bytes += size_bytes
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._group_since = self._waiting_since
            self._loop.call_soon(self._hand_over)  # at the end of this tick, with everybody who arrives in it
            if self._watch is None:
                self._watch_wait()
        elif self._is_worth_a_group():
            self._loop.call_soon(self._hand_over)

    def _is_worth_a_group(self) -> bool:
        """Whether a second group may be handed over behind the one that is being written, so that the thread need not
        wait for the loop: when it is as large. On a slow disk a larger one is worth more than an early one.
        """
        waits = len(self._waiting) >= max(self._group_operations, NEXT_OPERATIONS_MIN)
        return waits and self._handed == 1 and not self._checkpoints.rest_seconds

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
        self.put([Call(run, apply, future, size_bytes, grows)])
        return future

    def _is_full(self, size_bytes: int) -> bool:
        over = self._queued_bytes + size_bytes > self._queue_bytes_max  # one big operation alone is let through
        return self._queued >= OPERATIONS_MAX or (over and self._queued > 0)

    @property
    def _is_late(self) -> bool:
        return self._loop.time() - self._group_since > self._wait_seconds_max

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
            for operation in late:
                operation.error = StoreUnavailable("the disk is too slow now (store.wait_seconds_max)")
            self._end(late)
        self._watch_wait()

    def _hand_over(self) -> None:
        waiting = self._waiting
        if not waiting:
            if not self._handed:
                self._busy = False
                self._idle.set()
            return
        if self._handed > 1:
            return
        group: list[Operation] = []
        if len(waiting) <= GROUP_OPERATIONS_MAX and self._queued_bytes <= GROUP_BYTES_MAX:
            group += waiting
            waiting.clear()
        size = 0
        while waiting and len(group) < GROUP_OPERATIONS_MAX and (size < GROUP_BYTES_MAX or not group):
            group.append(waiting.popleft())
            size += group[-1].size_bytes
        self._handed += 1
        self._group_since, self._group_operations = self._waiting_since, len(group)
        self._groups.put(group)

    def _answer(self, group: Sequence[Operation]) -> None:
        """On a slow disk the next group waits a little for senders who have just been answered: else they would come
        right behind it, and two groups of half the size take turns for ever.
        """
        self._handed -= 1
        self._end(group)
        if self._handed:
            return
        if (rest_seconds := self._checkpoints.rest_seconds) and not self._closing:
            self._loop.call_later(rest_seconds, self._hand_over)
        else:
            self._hand_over()

    def _end(self, group: Sequence[Operation]) -> None:
        self._queued -= len(group)
        for operation in group:
            self._queued_bytes -= operation.size_bytes
            try:
                operation.ended()
            except Exception as error:  # noqa: BLE001  one caller's surprise must not keep the others from their answers
                self._loop.call_exception_handler({"message": "an answer of the store raised", "exception": error})

    async def close(self) -> None:
        """Commit what was submitted, move the WAL into the file, close it."""
        self._closing = True
        await self._idle.wait()
        if self._watch is not None:
            self._watch.cancel()
        self._groups.put(None)
        await asyncio.to_thread(self._thread.join)

    # ── in the writer's thread ──

    def _work(self) -> None:
        has_chores = True
        while (group := self._next_group(has_chores)) is not None:
            if not group:
                has_chores = self._do_chore()
                continue
            by_kind = sort_by_kind(self._with_room(group))
            refused = [operation for operation in group if operation.error is not None]
            self._commit(by_kind)
            ended = [*all_of(by_kind), *refused]  # as they were run: what is new comes in the order of the file
            with suppress(RuntimeError):  # the loop is gone: nobody waits for an answer
                self._loop.call_soon_threadsafe(self._answer, ended)
            self._checkpoint()
            has_chores = True
        self._shut()

    def _next_group(self, has_chores: bool) -> list[Operation] | None:
        """Empty when none came for a while and there may be chores; None at the end."""
        try:
            return self._groups.get(timeout=IDLE_SECONDS) if has_chores else self._groups.get()
        except queue.Empty:
            return []

    def _do_chore(self) -> bool:
        """One short step of housekeeping, in a transaction of its own. False when there is nothing to do."""
        try:
            self._refuse_moved_file()
            session = self._ready_session()
            session.begin()
            more = session.keys.step() or session.ids.step()
            self._commit_session(session)
        except Exception:  # noqa: BLE001  it is tried again after the next commit, and so is told then if it matters
            self._roll_back()
            return False
        return more

    def _with_room(self, group: Sequence[Operation]) -> Sequence[Operation]:
        """Those that the disk has room for; the others get their error."""
        if self._disk.has_room(sum(operation.size_bytes for operation in group if operation.grows)):
            return group
        for operation in group:
            if operation.grows and not self._disk.has_room(operation.size_bytes):
                operation.error = StoreUnavailable("the disk is nearly full (store.disk_free_bytes_min)")
        return [operation for operation in group if operation.error is None]

    def _commit(self, group: ByKind) -> None:
        if not group:
            return
        try:
            self._refuse_moved_file()
            try:
                self._together(group)
            except Exception as error:
                self._roll_back()
                if is_disk_error(error):
                    raise
                self._apart(group)
        except Exception as error:  # noqa: BLE001  the thread must outlive everything; every caller gets the error
            self._roll_back()
            for operation in all_of(group):
                operation.error = operation.error or unavailable(error)

    def _refuse_moved_file(self) -> None:
        """Commits to a file that has no name any more would be gone with this process."""
        found = standing_files(self._path)
        if found != self._files and (self._session is not None or found[0] != self._files[0]):
            raise StoreUnavailable(f"{self._path} was removed or replaced: put it back, or restart the relay")

    def _together(self, group: ByKind) -> None:
        session = self._ready_session()
        session.begin()
        for kind, operations in group.items():
            KINDS[kind](session, operations)
        self._durably(session, group)

    def _apart(self, group: ByKind) -> None:
        """The slow way, after one of the group raised: still one transaction, with a way back for each."""
        session = self._ready_session()
        session.begin()
        for kind, operations in group.items():
            for operation in operations:
                savepoint = session.savepoint()
                try:
                    KINDS[kind](session, [operation])
                except Exception as error:
                    if is_disk_error(error):
                        raise
                    session.back_to(savepoint)
                    operation.error = unavailable(error) if isinstance(error, sqlite3.Error) else error
                session.release()
        self._durably(session, group)

    def _durably(self, session: Session, group: ByKind) -> None:
        began = time.perf_counter()
        self._commit_session(session)
        self.commits += 1
        size_bytes = sum(operation.size_bytes for operation in all_of(group))
        self._checkpoints.committed(size_bytes, time.perf_counter() - began)

    def _commit_session(self, session: Session) -> None:
        """Raises only what was not committed. What is remembered wrongly afterwards is read from the file again."""
        session.commit()
        try:
            session.committed()
        except Exception:  # noqa: BLE001  the transaction is durable, and must not be told to be lost
            self._drop_connection()

    def _checkpoint(self) -> None:
        if self._session is not None and self._checkpoints.is_due():
            with suppress(sqlite3.Error):  # the WAL keeps what is not moved
                self._checkpoints.run(self._session.connection)

    def _ready_session(self) -> Session:
        if self._session is None:
            connection = open_writer(self._path)
            try:
                self._session = Session(connection, self._window_ms)
            except BaseException:
                connection.close()
                raise
            self._files = standing_files(self._path)
        return self._session

    def _roll_back(self) -> None:
        """Readers keep the WAL's index alive, so frames of a COMMIT that failed are overwritten, never adopted."""
        if self._session is None:
            return
        try:
            if self._session.connection.in_transaction:
                self._session.execute("ROLLBACK")
            self._session.rolled_back()
        except Exception:  # noqa: BLE001  what cannot be taken back is left behind with its connection
            self._drop_connection()

    def _drop_connection(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(sqlite3.Error):
                session.connection.close()

    def _shut(self) -> None:
        if self._session is not None:
            with suppress(sqlite3.Error):  # the WAL keeps what is not moved
                self._session.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._drop_connection()


def sort_by_kind(group: Sequence[Operation]) -> ByKind:
    """In the order in which kinds are run; within a kind as they came."""
    found: ByKind = {}
    for operation in group:
        found.setdefault(type(operation), []).append(operation)
    return {kind: found[kind] for kind in KINDS if kind in found} if len(found) > 1 else found


def all_of(group: ByKind) -> Iterable[Operation]:
    return chain.from_iterable(group.values())
