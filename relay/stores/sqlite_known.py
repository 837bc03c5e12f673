"""A set that outgrows memory and stays cheap: digest → number, durable, for ever or until its partition is dropped.

What is added goes into a log, one row a transaction, and into a dict. When the dict is full it becomes a *run*: its
entries, cut by their digests' first byte into 256 rows that are written in order and never again. Up to 32 runs make a
*partition*, whose numbers lie close together, so that old ones go by whole partitions. What runs hold is found by
prints in memory (`sqlite_known_prints`); the last run's dict stays until the next one is full, since what comes again
mostly comes soon. All that is not adding is done in short steps, one or a few a transaction.

    adding ─▶ log + dict ──full──▶ run of 32 Ki ids, in a partition of up to 1 Mi ──old──▶ dropped
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeAlias

from relay.stores.sqlite_known_jobs import SIZES, Batch, Drop, Fold, Job, Save, Sizes, Trim
from relay.stores.sqlite_known_prints import (
    DIGEST_BYTES,
    ENTRY_BYTES,
    OF_DIGEST,
    OF_DIGESTS,
    PREFIXES,
    Partition,
    Prints,
    number_in,
)
from relay.stores.sqlite_known_tables import Tables

NUMBER_END: Final = 2**63
#: What a transaction did beside adding digests that were new to it, and how many of those came before: a step of a
#: job, or another number for a digest that it had added already, with the one it had.
Done: TypeAlias = tuple[int, tuple[bytes, int] | Job]


class Known:
    """Used in the writer's thread and transactions only. After an exception from `committed` open it anew.

    Of every transaction `before_commit` is the last call in it, and `committed` or `rolled_back` the first after it.
    """

    def __init__(self, connection: sqlite3.Connection, name: str, span_max: int | None, sizes: Sizes = SIZES) -> None:
        """Opens or makes the tables known_<name>_*. Within a partition numbers span at most `span_max`.

        A transaction's own additions are never parted, whatever they span.
        """
        self._tables = Tables(connection, name)
        self._span_max = span_max
        self._sizes = sizes
        self._prints = Prints()
        self._buckets = self._prints.buckets
        self._fresh = Batch()
        self._adding: dict[bytes, int] = {}  # in this transaction
        self._recent: dict[bytes, int] = {}  # the last batch that became, or becomes, a run
        self._recent_in: Partition | None = None
        self._journal: list[Done] = []
        self._jobs: list[Job] = []
        self._at_start = True
        self._entries: list[bytes] = []
        self._bounds = (0, 0)
        self._log_start = self._next_seq = 1
        self._made = False
        self._made_now = connection.in_transaction
        self._open(connection)

    # ── asking and adding ──

    def find(self, digest: bytes) -> int | None:
        """The newest number added for a digest, in this transaction too."""
        adding, fresh, recent = self._adding, self._fresh.numbers, self._recent
        if digest in adding:
            return adding[digest]
        if digest in fresh:
            return fresh[digest]
        if digest in recent:
            return recent[digest]
        first, second = OF_DIGEST(digest)
        if chr(second * 27 >> 5) in self._buckets[first >> 1]:
            return self._find_in_runs(digest)
        return None

    def has_none(self, digests: Sequence[bytes]) -> bool:
        """Whether all of them are new, and none comes twice. `find` for many at once."""
        asked = set(digests)
        if len(asked) < len(digests):
            return False
        for numbers in (self._adding, self._fresh.numbers, self._recent):
            if not numbers.keys().isdisjoint(asked):
                return False
        buckets = self._buckets
        found = [
            place
            for place, (first, second) in enumerate(OF_DIGESTS(b"".join(digests)))
            if chr(second * 27 >> 5) in buckets[first >> 1]
        ]
        return all(self._find_in_runs(digests[place]) is None for place in found)

    def _find_in_runs(self, digest: bytes) -> int | None:
        looked_in = None
        for partition, run in self._prints.places(digest):
            if (partition, run) == looked_in:
                continue  # another one with the same print; they share the row too
            looked_in = (partition, run)
            number = number_in(self._tables.read_row(partition.number, run, digest[0]), digest)
            if number is not None:
                return number
        return None

    def add(self, digest: bytes, number: int) -> None:
        """16 bytes, 0 <= number < 2**63. Adding again replaces the number."""
        if self._at_start:
            self._begin(number)
        adding = self._adding
        if digest in adding:
            self._journal.append((len(adding), (digest, adding[digest])))
        adding[digest] = number

    def add_new(self, digests: Sequence[bytes], numbers: Sequence[int]) -> None:
        """`add` for many that `has_none` of."""
        if digests and self._at_start:
            self._begin(numbers[0])
        self._adding.update(zip(digests, numbers, strict=True))

    def mark(self) -> int:
        """For `undo`, in the same transaction."""
        return len(self._adding) + len(self._journal)

    def undo(self, mark: int) -> None:
        """Take back what was added and done since. For ROLLBACK TO, which has undone it in the file."""
        adding, journal = self._adding, self._journal
        while len(adding) + len(journal) > mark:
            if not journal or journal[-1][0] < len(adding):
                adding.popitem()
                continue
            _, done = journal.pop()
            if isinstance(done, Job):
                done.staged -= 1
            else:
                adding[done[0]] = done[1]
        self._jobs = [job for job in self._jobs if job.staged or not job.asked]

    # ── the transaction's end ──

    def before_commit(self) -> None:
        """Write down what was added; do a little housekeeping, more after many additions, so that it keeps up."""
        added = len(self._adding)
        if added:
            self._log()
        steps = 1 + added * self._sizes.steps_per_run // self._sizes.run_ids
        while steps and self.step():
            steps -= 1

    def _log(self) -> None:
        self._make_tables()
        adding = self._adding
        self._bounds = low, high = min(adding.values()), max(adding.values())
        width = ENTRY_BYTES - DIGEST_BYTES
        self._entries = [digest + number.to_bytes(width, "big") for digest, number in adding.items()]
        entries = b"".join(self._entries)
        if len(entries) != len(adding) * ENTRY_BYTES or low < 0 or high >= NUMBER_END:
            raise ValueError("a digest is not 16 bytes long, or a number no positive 64-bit integer")
        self._tables.log(self._next_seq, entries)

    def committed(self) -> None:
        """The transaction is durable."""
        assert self._entries or not self._adding, "before_commit was not called"
        if self._entries:
            self._fresh.write_down(self._adding, self._entries, *self._bounds)
            self._next_seq += 1
        if self._journal:
            self._apply_steps()
        self._made_now = False
        self._end()
        self._freeze_when_full()

    def _apply_steps(self) -> None:
        for job in [job for job in self._jobs if job.staged > job.done]:
            if job.commit(self._prints):
                self._finished(job)
        if self._recent_in is not None and self._recent_in.dropped:
            self._recent, self._recent_in = {}, None

    def rolled_back(self) -> None:
        """Nothing of the transaction counts."""
        self.undo(0)
        if self._made_now:
            self._made = False
        self._end()

    def _end(self) -> None:
        self._adding.clear()
        self._journal.clear()
        self._entries = []
        self._at_start = True

    # ── runs and housekeeping ──

    def step(self) -> bool:
        """One short step of what is to be done. False when there was nothing that this transaction could do."""
        for job in self._jobs:
            if job.staged < job.steps:
                job.stage(self._tables)
                self._journal.append((len(self._adding), job))
                return True
        return False

    def drop_below(self, number: int) -> bool:
        """Drop partitions all of whose numbers are below: unknown once this is committed, their rows step by step.

        True when there may be more to do, in this transaction or a later one.
        """
        if self._at_start and self._fresh.numbers and self._fresh.high < number:
            self._freeze()  # what is fresh goes the way of all: into a run, then away with it
        busy = {job.partition for job in self._jobs if isinstance(job, Fold | Drop)}
        old = [each for each in self._prints.partitions if each.high < number and each not in busy]
        for partition in old:
            drop = Drop(partition, self._sizes)
            self._queue(drop)
            drop.stage(self._tables)
            self._journal.append((len(self._adding), drop))
        return bool(old) or self.step()

    def _begin(self, number: int) -> None:
        """The first addition of a transaction: what is fresh becomes a run if both would span too much."""
        self._at_start = False
        fresh = self._fresh
        if fresh.numbers and self._too_wide(min(fresh.low, number), max(fresh.high, number)):
            self._freeze()

    def _too_wide(self, low: int, high: int) -> bool:
        return self._span_max is not None and high - low > self._span_max

    def _freeze_when_full(self) -> None:
        if self._fresh.entries >= self._sizes.run_ids:
            self._freeze()

    def _freeze(self) -> None:
        """Make a run of what is fresh, unless the run before it is still being written."""
        if any(isinstance(job, Fold) for job in self._jobs):
            return
        batch, self._fresh = self._fresh, Batch()
        self._recent, self._recent_in = batch.numbers, self._partition_for(batch)
        self._queue(Fold(self._recent_in, batch, self._next_seq - 1, self._sizes))

    def _partition_for(self, batch: Batch) -> Partition:
        partitions = self._prints.partitions
        if partitions and self._takes(partitions[-1], batch):
            return partitions[-1]
        partitions.append(Partition(partitions[-1].number + 1 if partitions else 1))
        self._save_where_needed()
        return partitions[-1]

    def _takes(self, newest: Partition, batch: Batch) -> bool:
        going = any(isinstance(job, Drop) and job.partition is newest for job in self._jobs)
        wide = self._too_wide(min(newest.low, batch.low), max(newest.high, batch.high))
        return not (going or wide or newest.runs >= self._sizes.partition_runs)

    def _finished(self, job: Job) -> None:
        self._jobs.remove(job)
        if isinstance(job, Fold):
            self._trim()
            self._save_where_needed()

    def _trim(self) -> None:
        end = self._folded_seq() + 1
        if self._log_start < end:
            self._queue(Trim(self._log_start, end, self._sizes))
            self._log_start = end

    def _folded_seq(self) -> int:
        """The log up to here is in runs."""
        return max((each.log_seq for each in self._prints.partitions), default=0)

    def _save_where_needed(self) -> None:
        saving = {job.partition for job in self._jobs if isinstance(job, Save | Drop)}
        for each in self._prints.partitions:
            closed = each is not self._prints.partitions[-1]
            allowed = self._sizes.unsaved_closed_ids_max if closed else self._sizes.unsaved_ids_max
            if each.ids - each.saved_ids > allowed and each not in saving:
                self._queue(Save(each, self._prints, self._sizes))

    def _queue(self, job: Job) -> None:
        self._jobs.append(job)
        self._jobs.sort(key=lambda each: each.rank)

    # ── opening ──

    def _open(self, connection: sqlite3.Connection) -> None:
        self._make_tables()
        partitions = self._tables.read_partitions()
        self._tables.delete_unfinished(partitions[-1] if partitions else None)
        for partition in partitions:
            self._prints.partitions.append(partition)
            if partition.dropped:
                self._queue(Drop(partition, self._sizes))
            else:
                self._load(partition)
        self._save_where_needed()
        self._read_log()
        self._trim()
        self._freeze_when_full()

    def _make_tables(self) -> None:
        if not self._made:
            self._tables.make()
            self._made = True
            self._made_now = self._tables.connection.in_transaction

    def _load(self, partition: Partition) -> None:
        """From what was saved, and where that is missing or short, from the entries themselves."""
        covered = Counter[int]()
        for prefix, runs, saved in self._tables.read_index(partition.number):
            if self._prints.load(partition, prefix, *saved):
                covered[prefix] = runs
        partition.saved_ids = partition.ids
        first = min(covered[prefix] for prefix in range(PREFIXES))
        for run, prefix, entries in self._tables.read_runs(partition.number, first, partition.runs):
            if run >= covered[prefix]:
                self._prints.add(partition, run, entries)

    def _read_log(self) -> None:
        """What is in no run yet."""
        self._next_seq = self._folded_seq() + 1
        self._log_start = self._tables.log_start() or self._next_seq
        for seq, logged in self._tables.logged_after(self._next_seq - 1):
            entries = [logged[at : at + ENTRY_BYTES] for at in range(0, len(logged), ENTRY_BYTES)]
            numbers = [int.from_bytes(entry[DIGEST_BYTES:], "big") for entry in entries]
            added = dict(zip((entry[:DIGEST_BYTES] for entry in entries), numbers, strict=True))
            self._fresh.write_down(added, entries, min(numbers), max(numbers))
            self._next_seq = seq + 1
