"""The dedupe window: which event ids were seen, per destination and environment, and when first.

An id is a 16-byte hash in the table of its time, seen_<end>, where `end` is the first millisecond after every
first sight in it. Forgetting is dropping whole tables, never deleting rows.
"""

from __future__ import annotations

import sqlite3
from hashlib import blake2b
from typing import Final

#: More tables: each is dropped sooner and faster, and a lookup asks more of them.
TABLES_PER_WINDOW: Final = 8


class Seen:
    """Used inside the writer's transactions only. `forget` after every rollback: tables may have gone with it."""

    def __init__(self, connection: sqlite3.Connection, window_ms: int) -> None:
        self._connection = connection
        self._window_ms = window_ms
        self._table_ms = max(1, window_ms // TABLES_PER_WINDOW)
        self._ends: list[int] | None = None
        self._lookup = ""

    def forget(self) -> None:
        self._ends = None

    def is_new(self, destination: str, environment: str | None, event_id: str, now_ms: int) -> bool:
        """True, and remembered from now on, unless the id was first seen less than the window ago."""
        digest = event_hash(destination, environment, event_id)
        end = self._current_table(now_ms)
        first_ms = self._connection.execute(self._lookup, (digest,)).fetchone()[0]
        if first_ms is not None and now_ms - first_ms < self._window_ms:
            return False
        # REPLACE: the row may be there from before the window was made shorter
        self._connection.execute(f"INSERT OR REPLACE INTO seen_{end} VALUES (?, ?)", (digest, now_ms))  # noqa: S608  a number
        return True

    def drop_expired(self, now_ms: int) -> bool:
        """Drop one table whose every id is past the window. One at a time, so that nobody waits long."""
        for end in self._tables():
            if end <= now_ms - self._window_ms:
                self._connection.execute(f"DROP TABLE seen_{end}")
                self.forget()
                return True
        return False

    def _current_table(self, now_ms: int) -> int:
        end = (now_ms // self._table_ms + 1) * self._table_ms
        if end not in self._tables():
            self.drop_expired(now_ms)
            self._connection.execute(f"CREATE TABLE seen_{end} (hash BLOB PRIMARY KEY, first_ms INTEGER) WITHOUT ROWID")
            self.forget()
            self._tables()
        return end

    def _tables(self) -> list[int]:
        if self._ends is None:
            found = self._connection.execute("SELECT name FROM sqlite_master WHERE name GLOB 'seen_[0-9]*'")
            self._ends = sorted(int(name.removeprefix("seen_")) for (name,) in found)
            parts = (f"SELECT first_ms FROM seen_{end} WHERE hash = ?1" for end in self._ends)  # noqa: S608  numbers
            self._lookup = f"SELECT max(first_ms) FROM ({' UNION ALL '.join(parts)})"  # noqa: S608  as above
        return self._ends


def event_hash(destination: str, environment: str | None, event_id: str) -> bytes:
    """16 bytes that stand for the three; the lengths keep ("a", "bc") and ("ab", "c") apart."""
    lengths = f"{len(destination)} {-1 if environment is None else len(environment)} "
    whole = f"{lengths}{destination}{environment or ''}{event_id}"
    return blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).digest()
