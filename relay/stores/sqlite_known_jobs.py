"""The housekeeping of a `Known`, cut into short steps.

`write` does a step's part in the file, inside a transaction; `apply` its part in memory, once that is committed. So a
rollback has nothing to mend in memory, and the step is simply written again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from relay.stores.sqlite_known_prints import PREFIXES, Partition, Prints
from relay.stores.sqlite_known_tables import Tables


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much one thing holds and one step does."""

    #: Additions that are kept as they are in memory before they become a run, and until the next one does: about 140
    #: bytes each.
    run_ids: int = 32_768
    #: At most 256. More: prints are saved in bigger rows.
    partition_runs: int = 32
    fold_prefixes: int = 32
    save_prefixes: int = 16
    drop_prefixes: int = 16
    trim_rows: int = 2_048
    #: Prints that are not saved are read from the runs when the file is opened, at about 0.5 µs an id.
    unsaved_ids_max: int = 262_144
    unsaved_closed_ids_max: int = 4_096
    #: Steps that are taken for each run's worth of additions, which is more than they ever make necessary.
    steps_per_run: int = 128


class Batch:
    """Additions since the last run: as a dict, and as the rows of the run they will be."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self.rows = [bytearray() for _ in range(PREFIXES)]
        self.entries = 0  # in `rows`: more than numbers when something was added again
        self.low = 2**63
        self.high = -1

    def write_down(self, added: dict[bytes, int], entries: list[bytes], low: int, high: int) -> None:
        """Additions that are committed now, also as entries; `low` and `high` bound their numbers."""
        self.numbers.update(added)
        rows = self.rows
        for entry in entries:
            rows[entry[0]] += entry
        self.entries += len(entries)
        self.low = min(self.low, low)
        self.high = max(self.high, high)


class Job:
    """`staged` steps are written, `done` of them committed."""

    #: A job of a lower rank goes first.
    rank: int
    #: Somebody wanted it in the transaction that began it, and no longer does when that is rolled back.
    asked = False

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.staged = 0
        self.done = 0

    def stage(self, tables: Tables) -> None:
        """Write the next step."""
        self.write(tables, self.staged)
        self.staged += 1

    def commit(self, prints: Prints) -> bool:
        """What was staged is durable. True when that was the last step."""
        for step in range(self.done, self.staged):
            self.apply(prints, step)
        self.done = self.staged
        return self.done == self.steps

    def write(self, tables: Tables, step: int) -> None:
        raise NotImplementedError

    def apply(self, prints: Prints, step: int) -> None:
        """Nothing, where the file alone has changed."""


class Fold(Job):
    """A batch becomes a run. The partition's row comes last: without it the run does not exist."""

    rank = 0

    def __init__(self, partition: Partition, batch: Batch, log_seq: int, sizes: Sizes) -> None:
        super().__init__(PREFIXES // sizes.fold_prefixes)
        self.partition = partition
        self.batch = batch
        self._run = partition.runs
        self._width = sizes.fold_prefixes
        low, high = min(partition.low, batch.low), max(partition.high, batch.high)
        self._after = replace(partition, runs=partition.runs + 1, low=low, high=high, log_seq=log_seq)

    def write(self, tables: Tables, step: int) -> None:
        for prefix in nth(step, self._width):
            if self.batch.rows[prefix]:
                tables.write_row(self.partition.number, self._run, prefix, self.batch.rows[prefix])
        if step == self.steps - 1:
            tables.write_partition(self._after)

    def apply(self, prints: Prints, step: int) -> None:
        for prefix in nth(step, self._width):
            prints.add(self.partition, self._run, self.batch.rows[prefix])
        if step == self.steps - 1:
            self.partition.grow_to(self._after)


class Trim(Job):
    """The log's rows that are in runs now."""

    rank = 1

    def __init__(self, first_seq: int, end_seq: int, sizes: Sizes) -> None:
        super().__init__(-(-(end_seq - first_seq) // sizes.trim_rows))
        self._first_seq = first_seq
        self._end_seq = end_seq
        self._rows = sizes.trim_rows

    def write(self, tables: Tables, step: int) -> None:
        tables.trim_log(min(self._first_seq + (step + 1) * self._rows, self._end_seq))


class Save(Job):
    """A partition's prints, so that opening need not read its entries. They may hold more than `runs` says."""

    rank = 2

    def __init__(self, partition: Partition, prints: Prints, sizes: Sizes) -> None:
        super().__init__(PREFIXES // sizes.save_prefixes)
        self.partition = partition
        self._prints = prints
        self._width = sizes.save_prefixes
        self._ids = partition.ids

    def write(self, tables: Tables, step: int) -> None:
        for prefix in nth(step, self._width):
            saved = self._prints.saved(self.partition, prefix)
            tables.write_index(self.partition.number, prefix, self.partition.runs, saved)

    def apply(self, prints: Prints, step: int) -> None:
        if step == self.steps - 1:
            self.partition.saved_ids = self._ids


class Drop(Job):
    """A partition is marked, which makes it unknown at once; then its rows go, a run a step; then its prints."""

    rank = 3
    asked = True

    def __init__(self, partition: Partition, sizes: Sizes) -> None:
        super().__init__(1 + partition.runs + PREFIXES // sizes.drop_prefixes)
        self.partition = partition
        self._width = sizes.drop_prefixes
        self.staged = self.done = int(partition.dropped)

    def write(self, tables: Tables, step: int) -> None:
        number = self.partition.number
        if step == 0:
            tables.write_partition(replace(self.partition, dropped=True))
        elif step <= self.partition.runs:
            tables.delete_run(number, step - 1)
        else:
            tables.delete_index(number, self._prefixes(step))
        if step == self.steps - 1:
            tables.delete_partition(number)

    def apply(self, prints: Prints, step: int) -> None:
        if step == 0:
            self.partition.dropped = True
        elif step > self.partition.runs:
            for prefix in self._prefixes(step):
                prints.cut(self.partition, prefix)
        if step == self.steps - 1:
            prints.partitions.remove(self.partition)

    def _prefixes(self, step: int) -> range:
        return nth(step - 1 - self.partition.runs, self._width)


SIZES: Final = Sizes()


def nth(step: int, width: int) -> range:
    return range(step * width, (step + 1) * width)
