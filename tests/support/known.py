"""A set of what was seen, in a file of its own, and transactions as the writer has them."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from relay.stores.sqlite_file import open_writer
from relay.stores.sqlite_known import Known
from relay.stores.sqlite_known_jobs import Sizes

#: Everything happens after a few ids.
SMALL = Sizes(
    run_ids=4,
    partition_runs=3,
    fold_prefixes=64,
    save_prefixes=64,
    drop_prefixes=128,
    trim_rows=2,
    unsaved_ids_max=6,
    unsaved_closed_ids_max=2,
    steps_per_run=16,
)


def digest(name: object) -> bytes:
    return blake2b(str(name).encode(), digest_size=16).digest()


class KnownFile:
    """Opened; with one transaction after another, as the writer has them."""

    def __init__(self, path: Path, span_max: int | None = None, sizes: Sizes = SMALL) -> None:
        self.connection = open_writer(path)
        self.known = Known(self.connection, "ids", span_max, sizes)

    def begin(self) -> None:
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.begin()
        self.known.before_commit()
        self.connection.execute("COMMIT")
        self.known.committed()

    def roll_back(self) -> None:
        self.connection.execute("ROLLBACK")
        self.known.rolled_back()

    def add(self, *names: object, number: int) -> None:
        self.begin()
        for name in names:
            self.known.add(digest(name), number)
        self.commit()

    def settle(self) -> int:
        """Housekeeping until nothing is left, a step a transaction. Returns how many steps."""
        steps = 0
        while True:
            self.begin()
            more = self.known.step()
            self.commit()
            if not more:
                return steps
            steps += 1

    def drop(self, below: int) -> None:
        more = True
        while more:
            self.begin()
            more = self.known.drop_below(below)
            self.commit()

    def rows(self, table: str) -> int:
        return int(self.connection.execute(f"SELECT count(*) FROM known_ids_{table}").fetchone()[0])
