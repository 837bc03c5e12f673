"""What a job works with inside the transaction."""

from __future__ import annotations

import sqlite3
from typing import Final

from relay.stores.sqlite_known import Known
from relay.stores.sqlite_values import bound

#: The ids of the dedupe window are forgotten part by part: so many parts make a window.
PARTS_PER_WINDOW: Final = 8


class Session:
    """`keys` knows the seq of the delivery by the digest of its key, `ids` when an event's id was first seen.

    `next_delivery` and `next_event` are the next seqs. They only rise: one is never given twice, not even when a
    transaction is rolled back or the newest rows have been pruned.
    """

    def __init__(self, connection: sqlite3.Connection, window_ms: int) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.window_ms = window_ms
        self.keys = Known(connection, "keys", None)
        self.ids = Known(connection, "ids", max(1, window_ms // PARTS_PER_WINDOW))
        self.next_delivery = self._highest("block", "blocks", "sources") + 1
        self.next_event = self._highest("seq", "events", "lanes") + 1
        self._lanes: dict[tuple[str, str | None], int] = {}

    def _highest(self, seq: str, rows: str, marks: str) -> int:
        """Above every row that there is, and above every mark: what is below a mark is not looked for."""
        sql = f"SELECT coalesce(max({seq}), 0), (SELECT coalesce(max(done_to), 0) FROM {marks}) FROM {rows}"  # noqa: S608  names
        return int(max(self.execute(sql).fetchone()))

    def begin(self) -> None:
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Durable when it returns; `committed` must follow."""
        self.keys.before_commit()
        self.ids.before_commit()
        self.execute("COMMIT")

    def committed(self) -> None:
        """What was added in the transaction is known from now on."""
        self.keys.committed()
        self.ids.committed()

    def rolled_back(self) -> None:
        """What was remembered may never have been stored."""
        self.keys.rolled_back()
        self.ids.rolled_back()
        self._lanes.clear()

    def savepoint(self) -> tuple[int, int]:
        self.execute("SAVEPOINT operation")
        return self.keys.mark(), self.ids.mark()

    def back_to(self, savepoint: tuple[int, int]) -> None:
        self.execute("ROLLBACK TO operation")
        self.keys.undo(savepoint[0])
        self.ids.undo(savepoint[1])
        self._lanes.clear()

    def release(self) -> None:
        self.execute("RELEASE operation")

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
