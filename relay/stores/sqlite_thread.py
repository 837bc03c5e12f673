"""The one who commits, as a thread: for a machine with one core, where another process would only cost more."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from relay.stores.sqlite_committer import Committer
from relay.stores.sqlite_jobs import Job, Reply

#: How long who commits waits for work before it does what can wait.
IDLE_SECONDS: Final = 0.05


class CommitterThread:
    """See sqlite_writer.Committing. Made by `open`."""

    shares_core = True

    def __init__(self, committer: Committer) -> None:
        self.opens = committer.opens
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self._groups: queue.SimpleQueue[Sequence[Job] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="relay-store-writer", daemon=True)
        self._answer: Callable[[Reply], None]

    @classmethod
    async def open(cls, path: Path, window_ms: int, disk_free_bytes_min: int) -> CommitterThread:
        """Raises ConfigError or StoreUnavailable when the file cannot be opened."""
        return cls(await asyncio.to_thread(Committer.open, path, window_ms, disk_free_bytes_min))

    def begin(self, answer: Callable[[Reply], None], lost: Callable[[str], None]) -> None:
        self._answer = answer
        self._thread.start()

    def send(self, jobs: Sequence[Job]) -> None:
        self._groups.put(jobs)

    async def close(self) -> None:
        if self._thread.ident is None:
            self._committer.close()
            return
        self._groups.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        has_chores = True
        while (jobs := self._next_group(has_chores)) is not None:
            if not jobs:
                has_chores = self._committer.do_chore()
                continue
            reply = self._committer.commit(jobs)
            with suppress(RuntimeError):  # the loop is gone: nobody waits for an answer
                self._loop.call_soon_threadsafe(self._answer, reply)
            self._committer.checkpoint()
            has_chores = True
        self._committer.close()

    def _next_group(self, has_chores: bool) -> Sequence[Job] | None:
        """Empty when none came for a while and there may be chores; None at the end."""
        try:
            return self._groups.get(timeout=IDLE_SECONDS) if has_chores else self._groups.get()
        except queue.Empty:
            return []
