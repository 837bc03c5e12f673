"""The embedded store: one SQLite file, owned by one process. Implements relay.stores.base.Store.

    event loop                     the writer: a process or a thread   readers' threads
    ──────────                     ─────────────────────────────────   ────────────────
    sqlite_writer: groups   ──▶    sqlite_committer: COMMIT            sqlite_reads: claims of what is behind
    sqlite_feeds: open work ◀──    sqlite_transitions, sqlite_replay   sqlite_records: lists for people
    sqlite_leases: who holds it    sqlite_known: keys and ids          sqlite_marks: where to begin
                                   sqlite_blocks, sqlite_event_blocks: deliveries and events as they lie in the file

A claim is a lease in memory: the owner is the only process, so a crash releases everything at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from relay.models import ReplayResult
from relay.stores import sqlite_replay, sqlite_transitions
from relay.stores.sqlite_deliveries import SqliteDeliveries
from relay.stores.sqlite_events import SqliteEvents
from relay.stores.sqlite_file import take_ownership
from relay.stores.sqlite_marks import read_books
from relay.stores.sqlite_process import CommitterProcess
from relay.stores.sqlite_queries import SqliteQueries
from relay.stores.sqlite_reads import ROW_BYTES, Reader
from relay.stores.sqlite_records import find_prunable
from relay.stores.sqlite_secrets import SqliteSecrets, read_all_secrets
from relay.stores.sqlite_thread import CommitterThread
from relay.stores.sqlite_values import DELIVERY_STATES, EVENT_STATES
from relay.stores.sqlite_writer import Writer

REPLAY_MAX: Final = 1_000
HOUR_MS: Final = 3_600_000
#: How long what is written may have waited when more is still taken.
WAIT_SECONDS_MAX: Final = 2.0


class SqliteStore(SqliteDeliveries, SqliteEvents, SqliteQueries, SqliteSecrets):
    """Made by `open`."""

    _lock: int | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock_ms: Callable[[], int],
        dedupe_hours: int,
        disk_free_bytes_min: int,
        queue_bytes_max: int,
        wait_seconds_max: float = WAIT_SECONDS_MAX,
        read_only: bool = False,
        own_process: bool = False,
        on_lost: Callable[[str], None] = lambda reason: None,
    ) -> SqliteStore:
        """Own the file, or with `read_only` look at it beside its owner: then every write raises StoreUnavailable.

        `own_process`: what is written is written by a process of its own (on the main thread only), which pays with
        two cores. `on_lost` is called once, with a sentence, when that process has ended: then nothing can be written
        any more, and what was being written may be on the disk or not, which the next opening finds out.

        Raises ConfigError when another process owns the file, or it is newer than this program or none of ours.
        """
        async with AsyncExitStack() as undo:
            claims, people = Reader(path, beside_owner=read_only), Reader(path, beside_owner=read_only)
            undo.push_async_callback(claims.close)
            undo.push_async_callback(people.close)
            if read_only:
                books = await people.read(partial(read_books, now_ms=clock_ms()))
                books.secrets = await people.read(read_all_secrets)
                undo.pop_all()
                return cls(path, clock_ms, books, writer=None, claims=claims, people=people, first_claim=1)
            lock = await asyncio.to_thread(take_ownership, path)
            undo.callback(os.close, lock)
            window_ms = dedupe_hours * HOUR_MS
            committing: CommitterThread | CommitterProcess
            if own_process:
                committing = await CommitterProcess.open(path, window_ms, disk_free_bytes_min, lock)
            else:
                committing = await CommitterThread.open(path, window_ms, disk_free_bytes_min)
            undo.push_async_callback(committing.close)
            books = await claims.read(partial(read_books, now_ms=clock_ms()))
            books.secrets = await claims.read(read_all_secrets)
            writer = Writer(
                committing, queue_bytes_max=queue_bytes_max, wait_seconds_max=wait_seconds_max, on_lost=on_lost
            )
            undo.pop_all()
        first_claim = committing.opens << 40  # a claim of an earlier opening is never taken for one of this
        store = cls(path, clock_ms, books, writer=writer, claims=claims, people=people, first_claim=first_claim)
        store._lock = lock
        return store

    async def replay(self, ids: Sequence[str], *, again: bool = False, environment: str | None = None) -> ReplayResult:
        """See Store. A copy of a sent event is reported by its own ref."""
        if len(ids) > REPLAY_MAX:
            raise ValueError(f"{len(ids)} ids are more than {REPLAY_MAX} a call")
        now_ms = self._now_ms()
        run = partial(sqlite_replay.replay, ids=tuple(ids), again=again, environment=environment or None, now_ms=now_ms)
        done = await self._owner.submit(run, apply=lambda done: self._replayed(done, now_ms), size_bytes=ROW_BYTES)
        return done.result

    def _replayed(self, done: sqlite_replay.Replayed, now_ms: int) -> None:
        for source, seq, before in done.deliveries:
            self._books.ended_deliveries[before] -= 1
            self._books.source(source).bring_back(seq)
            self._deliveries_changed.set()
        for number, destination, environment, state in done.events:
            lane = self._books.lane(number, destination, environment)
            lane.open += 1
            if state is None:
                lane.fall_behind()
            else:
                self._books.ended_events[EVENT_STATES.index(state)] -= 1
                lane.retried += 1
                lane.may_be_retried(now_ms)
            self._lane_changed(lane)

    async def prune(self, before_ms: int, limit: int = 500) -> int:
        """Looked for beside the writer, deleted in one short transaction: also at most 16 MiB of bodies a call."""
        owner = self._owner
        found = await self._people.read(partial(find_prunable, before_ms=before_ms, limit=limit))
        run = partial(sqlite_transitions.prune, candidates=found, now_ms=self._now_ms())
        pruned = await owner.submit(run, apply=self._pruned, size_bytes=ROW_BYTES)
        return pruned.deliveries.total()

    def _pruned(self, pruned: sqlite_transitions.Pruned) -> None:
        for number, state in enumerate(DELIVERY_STATES):
            self._books.ended_deliveries[number] -= pruned.deliveries[state]
        for number, event_state in enumerate(EVENT_STATES):
            self._books.ended_events[number] -= pruned.events[event_state]

    async def probe(self) -> None:
        """One durable row, under the same conditions as accept."""
        await self._owner.submit(sqlite_transitions.probe, size_bytes=ROW_BYTES, grows=True)

    async def close(self) -> None:
        """See Store. Any number of times, by anybody, and to its end even when a caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._deliveries_changed.set()
        self._events_changed.set()
        await self._claims.close()
        await self._people.close()
        if self._writer is not None:
            self._write_marks(self._writer)
            await self._writer.close()  # last: only a connection that can write removes the WAL
        if self._lock is not None:
            os.close(self._lock)
