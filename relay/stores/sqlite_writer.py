"""The only writer: one thread, one connection, one transaction for everything that waits.

Operations that arrive in one tick of the event loop, or while the thread commits, are committed together: one disk
flush for all of them. Each is answered after COMMIT, never before; one that raises takes nobody else with it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from relay.errors import StoreUnavailable
from relay.stores.sqlite_file import bound, is_disk_error, open_writer, standing_files, unavailable
from relay.stores.sqlite_seen import Seen

OPERATIONS_MAX: Final = 10_000
GROUP_OPERATIONS_MAX: Final = 2_000
GROUP_BYTES_MAX: Final = 16 * 1024 * 1024
#: How old the known amount of free disk may be.
FREE_CHECK_SECONDS: Final = 1.0

T = TypeVar("T")


class Session:
    """What an operation works with, inside the writer's thread and transaction."""

    def __init__(self, connection: sqlite3.Connection, window_ms: int) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.seen = Seen(connection, window_ms)
        self._lanes: dict[tuple[str, str | None], int] = {}

    def forget(self) -> None:
        """After a rollback: what was remembered may never have been stored."""
        self.seen.forget()
        self._lanes.clear()

    def lane(self, destination: str, environment: str | None) -> int:
        """The number of a lane, given to it at first use."""
        known = self._lanes.get((destination, environment))
        if known is None:
            known = self._lanes[destination, environment] = self._find_lane(bound(destination), bound(environment))
        return known

    def _find_lane(self, destination: str | bytes | None, environment: str | bytes | None) -> int:
        names = (destination, environment)
        found = self.execute("SELECT lane FROM lanes WHERE destination = ? AND environment IS ?", names).fetchone()
        if found is None:
            sql = "INSERT INTO lanes (destination, environment) VALUES (?, ?) RETURNING lane"
            found = self.execute(sql, names).fetchone()
        return int(found[0])


@dataclass(slots=True, eq=False)
class Operation:
    """`run` in the writer's thread; then on the loop `apply` (committed) or `undo` (not), even if nobody waits."""

    run: Callable[[Session], Any]
    apply: Callable[[Any], None]
    undo: Callable[[], None]
    size_bytes: int
    grows: bool
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Writer:
    """`submit` from the event loop. `commits` counts transactions."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        window_ms: int,
        disk_free_bytes_min: int,
        queue_bytes_max: int,
    ) -> None:
        self.commits = 0
        self._path = path
        self._window_ms = window_ms
        self._session: Session | None = Session(connection, window_ms)
        self._files = standing_files(path)
        self._disk = DiskFloor(path.parent, disk_free_bytes_min)
        self._queue_bytes_max = queue_bytes_max
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Operation] = deque()
        self._queued = 0
        self._queued_bytes = 0
        self._busy = False
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._groups: queue.SimpleQueue[list[Operation] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="relay-store-writer", daemon=True)
        self._thread.start()

    # ── on the event loop ──

    def submit(
        self,
        run: Callable[[Session], T],
        *,
        apply: Callable[[T], None] = lambda _: None,
        undo: Callable[[], None] = lambda: None,
        size_bytes: int = 0,
        grows: bool = False,
    ) -> asyncio.Future[T]:
        """Durable when the future has its result. `grows` marks what is refused while the disk is nearly full.

        Raises StoreUnavailable at once when too much waits already; `undo` has been called then too.
        """
        if self._closing or self._is_full(size_bytes):
            undo()
            raise StoreUnavailable("the store is closed" if self._closing else "too much waits to be written already")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(Operation(run, apply, undo, size_bytes, grows, future))
        self._queued += 1
        self._queued_bytes += size_bytes
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._hand_over)  # at the end of this tick, with everybody who arrives in it
        return future

    def _is_full(self, size_bytes: int) -> bool:
        over = self._queued_bytes + size_bytes > self._queue_bytes_max  # one big operation alone is let through
        return self._queued >= OPERATIONS_MAX or (over and self._queued > 0)

    def _hand_over(self) -> None:
        group: list[Operation] = []
        size = 0
        while self._waiting and len(group) < GROUP_OPERATIONS_MAX and (size < GROUP_BYTES_MAX or not group):
            group.append(self._waiting.popleft())
            size += group[-1].size_bytes
        self._groups.put(group)

    def _answer(self, group: list[Operation]) -> None:
        for operation in group:
            self._queued -= 1
            self._queued_bytes -= operation.size_bytes
            answer(operation)
        if self._waiting:
            self._hand_over()
        else:
            self._busy = False
            self._idle.set()

    async def close(self) -> None:
        """Commit what was submitted, move the WAL into the file, close it."""
        self._closing = True
        await self._idle.wait()
        self._groups.put(None)
        await asyncio.to_thread(self._thread.join)

    # ── in the writer's thread ──

    def _work(self) -> None:
        for group in iter(self._groups.get, None):
            self._commit([operation for operation in group if self._has_room(operation)])
            with suppress(RuntimeError):  # the loop is gone: nobody waits for an answer
                self._loop.call_soon_threadsafe(self._answer, group)
        self._shut()

    def _has_room(self, operation: Operation) -> bool:
        if operation.grows and not self._disk.has_room(operation.size_bytes):
            operation.error = StoreUnavailable("the disk is nearly full (store.disk_free_bytes_min)")
        return operation.error is None

    def _commit(self, group: Sequence[Operation]) -> None:
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
            for operation in group:
                operation.error = operation.error or unavailable(error)

    def _refuse_moved_file(self) -> None:
        """Commits to a file that has no name any more would be gone with this process."""
        found = standing_files(self._path)
        if found != self._files and (self._session is not None or found[0] != self._files[0]):
            raise StoreUnavailable(f"{self._path} was removed or replaced: put it back, or restart the relay")

    def _together(self, group: Sequence[Operation]) -> None:
        session = self._ready_session()
        session.execute("BEGIN IMMEDIATE")
        for operation in group:
            operation.result = operation.run(session)
        session.execute("COMMIT")
        self.commits += 1

    def _apart(self, group: Sequence[Operation]) -> None:
        """The slow way, after one of the group raised: still one transaction, with a way back for each."""
        session = self._ready_session()
        session.execute("BEGIN IMMEDIATE")
        for operation in group:
            session.execute("SAVEPOINT operation")
            try:
                operation.result = operation.run(session)
            except Exception as error:
                if is_disk_error(error):
                    raise
                session.execute("ROLLBACK TO operation")
                session.forget()
                operation.error = unavailable(error) if isinstance(error, sqlite3.Error) else error
            session.execute("RELEASE operation")
        session.execute("COMMIT")
        self.commits += 1

    def _ready_session(self) -> Session:
        if self._session is None:
            self._session = Session(open_writer(self._path), self._window_ms)
            self._files = standing_files(self._path)
        return self._session

    def _roll_back(self) -> None:
        """Readers keep the WAL's index alive, so frames of a COMMIT that failed are overwritten, never adopted."""
        if self._session is None:
            return
        self._session.forget()
        try:
            if self._session.connection.in_transaction:
                self._session.execute("ROLLBACK")
        except sqlite3.Error:
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


class DiskFloor:
    """Whether so many bytes more leave the disk with its least free space. Asks the disk about once a second."""

    def __init__(self, folder: Path, free_bytes_min: int) -> None:
        self._folder = folder
        self._free_bytes_min = free_bytes_min
        self._free_bytes = 0
        self._asked_s = float("-inf")

    def has_room(self, size_bytes: int) -> bool:
        stale = time.monotonic() - self._asked_s >= FREE_CHECK_SECONDS
        if stale or self._free_bytes - size_bytes < self._free_bytes_min:
            self._ask()
        self._free_bytes -= size_bytes
        return self._free_bytes >= self._free_bytes_min

    def _ask(self) -> None:
        self._asked_s = time.monotonic()
        try:
            found = os.statvfs(self._folder)
        except OSError:
            self._free_bytes = -1
        else:
            self._free_bytes = found.f_bavail * found.f_frsize


def answer(operation: Operation) -> None:
    """Tell the books, then the caller, who may have gone away meanwhile."""
    try:
        if operation.error is None:
            operation.apply(operation.result)
        else:
            operation.undo()
    except Exception as error:  # noqa: BLE001  a surprise in the books must not keep the others from their answers
        operation.error = error
    if operation.future.done():
        return
    if operation.error is None:
        operation.future.set_result(operation.result)
    else:
        operation.future.set_exception(operation.error)
