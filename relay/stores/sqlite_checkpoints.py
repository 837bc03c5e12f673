"""When the WAL's pages move into the file: by the writer itself, after its answers, never inside a COMMIT.

SQLite would do it inside the COMMIT that passes a size, and everybody in that group would wait for it.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import Final

from relay.stores.sqlite_file import PAGE_BYTES

#: The WAL grows by so much between two checkpoints: small ones make small pauses.
CHECKPOINT_BYTES: Final = 5 * 512 * 1024
#: On a disk whose flushes are slow they are rare instead: each costs three of them, and whoever comes then waits.
SLOW_CHECKPOINT_BYTES: Final = 128 * 1024 * 1024
#: A disk is slow when each of the last small COMMITs took longer than this.
SLOW_COMMIT_SECONDS: Final = 0.002
#: There the next COMMIT waits for company for this part of the last ones' time, and no longer than so many seconds.
REST_PART: Final = 0.4
REST_SECONDS_MAX: Final = 0.004
SMALL_BYTES: Final = 256 * 1024
COMMITS_LOOKED_AT: Final = 16
#: Pages that a transaction writes beside its bodies, at a guess: the last one of every table and index.
COMMIT_PAGES: Final = 6
#: How wrong the guess may turn out to be.
FACTOR_MAX: Final = 16.0
#: When readers have kept the WAL from beginning anew until it has this size, the writer waits for them for a moment.
HELD_BYTES_MAX: Final = 256 * 1024 * 1024
WAIT_FOR_READERS_MS: Final = 100


class Checkpoints:
    """How much has been written since the last one, and how long COMMITs take. Where commits are made, and only there.

    SQLite tells how long the WAL is only when it moves it, so its growth is guessed, and the guess corrected by that.
    """

    def __init__(self) -> None:
        self._grown_bytes = 0.0
        self._factor = 1.0
        self._commits: deque[float] = deque(maxlen=COMMITS_LOOKED_AT)
        #: How long to wait for company before the next COMMIT; nothing where one is quick. Replies tell the loop.
        self.rest_seconds = 0.0

    def committed(self, size_bytes: int, seconds: float) -> None:
        self._grown_bytes += self._factor * (size_bytes + COMMIT_PAGES * PAGE_BYTES)
        if size_bytes <= SMALL_BYTES:
            self._commits.append(seconds)
            quickest = min(self._commits)
            self.rest_seconds = min(REST_PART * quickest, REST_SECONDS_MAX) if quickest > SLOW_COMMIT_SECONDS else 0.0

    def is_due(self) -> bool:
        if self._grown_bytes < CHECKPOINT_BYTES:
            return False
        return not self.rest_seconds or self._grown_bytes >= SLOW_CHECKPOINT_BYTES

    def run(self, connection: sqlite3.Connection) -> None:
        """Waits for nobody, unless readers have held the WAL for long. Raises sqlite3.Error; the WAL keeps the rest."""
        guessed, self._grown_bytes = self._grown_bytes, 0.0
        _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        wal_bytes = pages * connection.execute("PRAGMA page_size").fetchone()[0]
        self._factor = min(max(self._factor * wal_bytes / max(guessed, 1.0), 1 / FACTOR_MAX), FACTOR_MAX)
        if wal_bytes >= HELD_BYTES_MAX:
            before = connection.execute("PRAGMA busy_timeout").fetchone()[0]
            connection.execute(f"PRAGMA busy_timeout = {WAIT_FOR_READERS_MS}")
            try:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {before}")
