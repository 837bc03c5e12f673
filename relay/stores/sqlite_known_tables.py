"""The tables of a `Known`, and every statement that touches them. All of it in the writer's transactions."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from typing import Final

from relay.stores.sqlite_known_prints import PREFIXES, Partition

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS {0}_log (seq INTEGER PRIMARY KEY, entries BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {0}_rows (place INTEGER PRIMARY KEY, entries BLOB NOT NULL)",
    """CREATE TABLE IF NOT EXISTS {0}_index (
        place INTEGER PRIMARY KEY, covers INTEGER NOT NULL,
        counts BLOB NOT NULL, prints BLOB NOT NULL, marks BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS {0}_partitions (
        number INTEGER PRIMARY KEY, runs INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
        log_seq INTEGER NOT NULL, dropped INTEGER NOT NULL)""",
)
INSERT_LOG: Final = "INSERT INTO {0}_log VALUES (?, ?)"
READ_LOG: Final = "SELECT seq, entries FROM {0}_log WHERE seq > ? ORDER BY seq"
LOG_START: Final = "SELECT min(seq) FROM {0}_log"
TRIM_LOG: Final = "DELETE FROM {0}_log WHERE seq < ?"
WRITE_ROW: Final = "REPLACE INTO {0}_rows VALUES (?, ?)"
READ_ROW: Final = "SELECT entries FROM {0}_rows WHERE place = ?"
READ_ROWS: Final = "SELECT place, entries FROM {0}_rows WHERE place >= ? AND place < ? ORDER BY place"
LAST_ROW: Final = "SELECT max(place) FROM {0}_rows"
DELETE_ROWS: Final = "DELETE FROM {0}_rows WHERE place >= ? AND place < ?"
WRITE_INDEX: Final = "REPLACE INTO {0}_index VALUES (?, ?, ?, ?, ?)"
READ_INDEX: Final = "SELECT place, covers, counts, prints, marks FROM {0}_index WHERE place >= ? AND place < ?"
DELETE_INDEX: Final = "DELETE FROM {0}_index WHERE place >= ? AND place < ?"
WRITE_PARTITION: Final = "REPLACE INTO {0}_partitions VALUES (?, ?, ?, ?, ?, ?)"
READ_PARTITIONS: Final = "SELECT number, runs, low, high, log_seq, dropped FROM {0}_partitions ORDER BY number"
DELETE_PARTITION: Final = "DELETE FROM {0}_partitions WHERE number = ?"


class Tables:
    """One row of `rows` is a run's entries of one prefix, of `index` a partition's prints of one prefix."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        assert re.fullmatch("[a-z_]+", name), "a part of SQL names"
        self.connection = connection
        self._table = f"known_{name}"
        self._texts: dict[str, str] = {}
        self._read_row = READ_ROW.format(self._table)

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        text = self._texts.get(statement)
        if text is None:
            text = self._texts[statement] = statement.format(self._table)
        return self.connection.execute(text, values)

    def make(self) -> None:
        """The tables, all or none."""
        self.connection.execute("SAVEPOINT made")
        try:
            for statement in SCHEMA:
                self._execute(statement)
        except sqlite3.Error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO made")
            raise
        finally:
            if self.connection.in_transaction:
                self.connection.execute("RELEASE made")

    # ── the log: one row a transaction ──

    def log(self, seq: int, entries: bytes) -> None:
        self._execute(INSERT_LOG, seq, entries)

    def logged_after(self, seq: int) -> Iterable[tuple[int, bytes]]:
        return self._execute(READ_LOG, seq)

    def log_start(self) -> int | None:
        """The first seq in the log."""
        first: int | None = self._execute(LOG_START).fetchone()[0]
        return first

    def trim_log(self, below_seq: int) -> None:
        self._execute(TRIM_LOG, below_seq)

    # ── runs ──

    def write_row(self, partition: int, run: int, prefix: int, entries: bytes | bytearray) -> None:
        self._execute(WRITE_ROW, place(partition, run) + prefix, entries)

    def read_row(self, partition: int, run: int, prefix: int) -> bytes:
        found = self.connection.execute(self._read_row, (place(partition, run) + prefix,)).fetchone()
        entries: bytes = found[0] if found else b""
        return entries

    def read_runs(self, partition: int, first: int, end: int) -> Iterable[tuple[int, int, bytes]]:
        """(run, prefix, entries) of the runs from `first` to before `end`."""
        found = self._execute(READ_ROWS, place(partition, first), place(partition, end))
        return (((at >> 8) & 0xFF, at & 0xFF, entries) for at, entries in found)

    def delete_run(self, partition: int, run: int) -> None:
        self._execute(DELETE_ROWS, place(partition, run), place(partition, run) + PREFIXES)

    def delete_unfinished(self, newest: Partition | None) -> None:
        """The rows of a run that was being written when the process ended."""
        end = place(newest.number, newest.runs) if newest else 0
        last = self._execute(LAST_ROW).fetchone()[0]
        if last is not None and last >= end:
            self._execute(DELETE_ROWS, end, last + 1)

    # ── what is saved of the prints ──

    def write_index(self, partition: int, prefix: int, runs: int, saved: tuple[bytes, bytes, bytes]) -> None:
        """`runs`: how many of the partition's runs are in it."""
        self._execute(WRITE_INDEX, partition * PREFIXES + prefix, runs, *saved)

    def read_index(self, partition: int) -> Iterable[tuple[int, int, tuple[bytes, bytes, bytes]]]:
        """(prefix, runs, what was saved)."""
        bounds = (partition * PREFIXES, (partition + 1) * PREFIXES)
        for at, runs, counts, prints, marks in self._execute(READ_INDEX, *bounds):
            yield at % PREFIXES, runs, (counts, prints, marks)

    def delete_index(self, partition: int, prefixes: range) -> None:
        start = partition * PREFIXES
        self._execute(DELETE_INDEX, start + prefixes.start, start + prefixes.stop)

    # ── partitions ──

    def write_partition(self, each: Partition) -> None:
        row = (each.number, each.runs, each.low, each.high, each.log_seq, each.dropped)
        self._execute(WRITE_PARTITION, *row)

    def read_partitions(self) -> list[Partition]:
        found = self._execute(READ_PARTITIONS)
        return [
            Partition(number, runs, low, high, log_seq, bool(dropped))
            for number, runs, low, high, log_seq, dropped in found
        ]

    def delete_partition(self, partition: int) -> None:
        self._execute(DELETE_PARTITION, partition)


def place(partition: int, run: int) -> int:
    """The key of a run's first row."""
    return (partition << 16) + (run << 8)
