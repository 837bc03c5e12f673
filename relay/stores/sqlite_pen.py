"""The pen in a SQLite file of its own, beside the store's. Implements relay.stores.pen.Pen.

    event loop                         the pen's thread
    ──────────                         ────────────────
    keep: pace, size, a place    ──▶   groups, one transaction each; the oldest of the same source go out
    in the queue, or dropped           lists and removals, after what was kept before them

Nothing here can refuse a start, and nothing waits for the disk: what cannot be written is dropped and counted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from relay.errors import StoreUnavailable
from relay.stores import sqlite_pen_file
from relay.stores.pen import RejectedRecord, RejectedRequest
from relay.stores.sqlite_disk import DiskFloor
from relay.stores.sqlite_pen_file import Limits, ListFilter, PenFile, Waiting, is_broken, open_file, remove_file
from relay.stores.sqlite_pen_queue import Ask, End, PenQueue
from relay.telemetry import Telemetry

#: What the file may have for all sources, unless one alone may have more: each gets its share.
TOTAL_BYTES_MAX: Final = 256 * 1024 * 1024
#: What stays free beyond store.disk_free_bytes_min: accepted work comes first.
ROOM_BYTES: Final = 16 * 1024 * 1024
#: How long nothing is written after something could not be.
RETRY_SECONDS: Final = 10.0
#: How often, when nothing comes, what is too old is looked for.
TIDY_SECONDS: Final = 300.0
ANSWER_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 3.0

T = TypeVar("T")


class SqlitePen:
    """`read_only` looks at the file beside its owner, in another process. `monotonic_s` is for tests of the pace."""

    def __init__(
        self,
        path: Path,
        *,
        clock_ms: Callable[[], int],
        count_max: int,
        bytes_max: int,
        hours: float,
        sources: int,
        disk_free_bytes_min: int,
        telemetry: Telemetry,
        read_only: bool = False,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keeps_nothing = not (count_max and bytes_max and hours)
        self.limits = limits_of(count_max, bytes_max, hours, sources)
        self._path, self._clock_ms, self._telemetry = path, clock_ms, telemetry
        self._read_only, self._monotonic_s = read_only, monotonic_s
        self._closed = False
        self._file: PenFile | None = None
        self._problem: str | None = None
        self._paused_until_s = float("-inf")
        self._disk = DiskFloor(path.parent, disk_free_bytes_min + ROOM_BYTES)
        self._queue = PenQueue(self.limits.bytes_max, monotonic_s)
        self._thread = threading.Thread(target=self._work, name="relay-pen", daemon=True)
        self._thread.start()

    # ── on the event loop ──

    def keep(self, rejected: RejectedRequest) -> bool:
        """See Pen."""
        if self.keeps_nothing or self._read_only:
            return False
        reason = "closed" if self._closed else self._queue.put(rejected)
        if reason is not None:
            self._telemetry.rejected_dropped.labels(rejected.source, reason).inc()
        return reason is None

    async def list_rejected(
        self, *, source: str | None = None, code: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[RejectedRecord]:
        """See Pen."""
        wanted = ListFilter(source, code, before, limit)
        run = partial(sqlite_pen_file.list_rejected, wanted=wanted, now_ms=self._clock_ms())
        return await self._ask(run, list[RejectedRecord]())

    async def get(self, rejected_id: str) -> RejectedRecord | None:
        """See Pen."""
        run = partial(sqlite_pen_file.get_rejected, rejected_id=rejected_id, now_ms=self._clock_ms())
        return await self._ask(run, None)

    async def remove(self, ids: Sequence[str]) -> int:
        """See Pen."""
        if self._read_only:
            raise StoreUnavailable("the pen was opened for reading only")
        names = tuple(ids)[: sqlite_pen_file.LIST_MAX]
        return await self._ask(lambda file: file.remove(names), 0)

    async def counts(self) -> dict[str, int]:
        """See Pen."""
        return await self._ask(partial(sqlite_pen_file.counts, now_ms=self._clock_ms()), dict[str, int]())

    async def close(self) -> None:
        """See Pen. A disk that hangs is not waited for: nobody was promised what is lost then."""
        if not self._closed:
            self._closed = True
            self._queue.end()
        await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)

    async def _ask(self, run: Callable[[PenFile], T], absent: T) -> T:
        if self._closed:
            raise StoreUnavailable("the pen is closed")
        ask = Ask(run, absent, Future())
        self._queue.ask(ask)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer: T = await asyncio.wrap_future(ask.future)
        except TimeoutError as error:
            raise StoreUnavailable(f"the pen did not answer within {ANSWER_SECONDS:g} s") from error
        return answer

    # ── in the pen's thread ──

    def _work(self) -> None:
        if not self._read_only:
            self._tidy()
        while True:
            group, then = self._queue.take(TIDY_SECONDS)
            if group:
                self._write(group)
            elif then is None and not self._read_only:
                self._tidy()
            if isinstance(then, Ask):
                self._answer(then)
            elif then is End.END:
                break
        self._drop_file()

    def _write(self, group: Sequence[Waiting]) -> None:
        try:
            self._write_now(group)
        except Exception as error:  # noqa: BLE001 - the thread must outlive everything; it is counted and said once
            self._lose(error)
            for waiting in group:
                self._telemetry.rejected_dropped.labels(waiting.rejected.source, "disk").inc()
        else:
            self._regain()
            for waiting in group:
                self._telemetry.rejected_kept.labels(waiting.rejected.source).inc()
        for waiting in group:
            self._queue.done(waiting)

    def _write_now(self, group: Sequence[Waiting]) -> None:
        if self._problem is not None and self._monotonic_s() < self._paused_until_s:
            raise StoreUnavailable(self._problem)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._disk.has_room(2 * sum(waiting.size for waiting in group)):  # as much again for the journal
            raise StoreUnavailable("the disk is nearly full")
        self._with_file(lambda file: file.write(group, self._clock_ms()))

    def _with_file(self, run: Callable[[PenFile], T]) -> T:
        """A file that is broken is replaced, once; every other error leaves, and the file is opened anew next time."""
        try:
            return self._try_file(run)
        except Exception as error:
            if self._read_only or not is_broken(error):
                raise
            remove_file(self._path)
            self._telemetry.log("pen.replaced", level="warning", path=str(self._path), reason=str(error))
        return self._try_file(run)

    def _try_file(self, run: Callable[[PenFile], T]) -> T:
        try:
            return run(self._standing_file())
        except BaseException:
            self._drop_file()  # and with it what was begun
            raise

    def _standing_file(self) -> PenFile:
        if self._file is not None and self._file.is_standing():
            return self._file
        self._drop_file()
        self._file = open_file(self._path, self.limits, read_only=self._read_only)
        return self._file

    def _drop_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _tidy(self) -> None:
        """At the start and when nothing comes. A file is not made for it."""
        try:
            if self.keeps_nothing:
                remove_file(self._path)
            elif self._path.exists():
                self._with_file(lambda file: file.tidy(self._clock_ms()))
                self._regain()
        except Exception as error:  # noqa: BLE001 - as in _write
            self._lose(error)

    def _answer(self, ask: Ask) -> None:
        if not ask.future.set_running_or_notify_cancel():
            return
        try:
            ask.future.set_result(self._with_file(ask.run) if self._path.exists() else ask.absent)
        except Exception as error:  # noqa: BLE001 - it is the asker's
            mapped = StoreUnavailable(f"the pen of rejected requests cannot be used now: {error}")
            mapped.__cause__ = error
            ask.future.set_exception(mapped)

    def _lose(self, error: Exception) -> None:
        """Said once, until it works again; what comes meanwhile is tried now and then only."""
        now_s = self._monotonic_s()
        if self._problem is None or now_s >= self._paused_until_s:
            self._paused_until_s = now_s + RETRY_SECONDS
        if self._problem is None:
            self._telemetry.log("pen.lost", level="warning", path=str(self._path), reason=str(error))
        self._problem = str(error)

    def _regain(self) -> None:
        if self._problem is not None:
            self._telemetry.log("pen.regained", path=str(self._path))
        self._problem = None


def limits_of(count_max: int, bytes_max: int, hours: float, sources: int) -> Limits:
    """Each source has its share of the total, so that those of all of them fit."""
    total_bytes_max = max(TOTAL_BYTES_MAX, bytes_max)
    share = min(bytes_max, total_bytes_max // max(1, sources))
    return Limits(count_max, share, round(hours * 3_600_000), total_bytes_max)
