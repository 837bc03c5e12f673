"""What is in memory of a `Known`: which partition and run may hold a digest. Never "no" for one that is there.

A digest's first 15 bits choose its bucket, its third and fourth byte make its print. A bucket is a string of prints,
the oldest first, because Python finds one character in a string faster than anything in anything else. Beside it
stands, for each print, the run that it came with; and each partition counts what it has in each bucket. That is
3.1 bytes an id; with ten million ids, one absent digest in 180 is looked for in vain.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

#: An entry is a digest and its number.
DIGEST_BYTES: Final = 16
ENTRY_BYTES: Final = 24
#: A run's entries are cut into as many rows, by their digest's first byte; a prefix has as many buckets.
PREFIXES: Final = 256
BUCKETS: Final = 128
#: A digest as (its bucket twice, its print twice); many in a row, and entries, likewise.
OF_DIGEST: Final = Struct(">HH12x").unpack
OF_DIGESTS: Final = Struct(">HH12x").iter_unpack
OF_ENTRIES: Final = Struct(">HH20x").iter_unpack
COUNTS: Final = Struct(f"<{BUCKETS}I")
#: A print is one UTF-16 unit below the surrogates, which come in pairs: `second * 27 >> 5` is below 0xD800.
PRINTS_ENCODING: Final = "utf-16-le"
RUN_MARKS: Final = tuple(bytes([run]) for run in range(256))


def no_counts() -> array[int]:
    return array("I", bytes(4 * PREFIXES * BUCKETS))


@dataclass(slots=True, eq=False)
class Partition:
    """Up to 256 runs. `low` and `high` bound their numbers; the log up to `log_seq` is in them or in older ones."""

    number: int
    runs: int = 0
    low: int = 2**63
    high: int = -1
    log_seq: int = 0
    dropped: bool = False
    ids: int = 0
    saved_ids: int = 0
    counts: array[int] = field(default_factory=no_counts)

    def grow_to(self, after: Partition) -> None:
        """It has one run more, as `after` has."""
        self.runs, self.low, self.high, self.log_seq = after.runs, after.low, after.high, after.log_seq


class Prints:
    """`buckets` is read by `Known.find` itself, for speed."""

    def __init__(self) -> None:
        self.partitions: list[Partition] = []  # the oldest first
        self.buckets = [""] * (PREFIXES * BUCKETS)
        self._runs = [b""] * (PREFIXES * BUCKETS)

    def add(self, partition: Partition, run: int, entries: bytes | bytearray) -> None:
        """The entries of one run, or some of them. Only the newest partition is added to."""
        mark, buckets, runs, counts = RUN_MARKS[run], self.buckets, self._runs, partition.counts
        for first, second in OF_ENTRIES(entries):
            bucket = first >> 1
            buckets[bucket] += chr(second * 27 >> 5)
            runs[bucket] += mark
            counts[bucket] += 1
        partition.ids += len(entries) // ENTRY_BYTES

    def places(self, digest: bytes) -> Iterator[tuple[Partition, int]]:
        """Each (partition, run) that may hold the digest, the newest first."""
        first, second = OF_DIGEST(digest)
        bucket, wanted = first >> 1, chr(second * 27 >> 5)
        at = self.buckets[bucket].rfind(wanted)
        while at >= 0:
            partition = self._partition_at(bucket, at)
            if not partition.dropped:
                yield partition, self._runs[bucket][at]
            at = self.buckets[bucket].rfind(wanted, 0, at)

    def _partition_at(self, bucket: int, at: int) -> Partition:
        start = len(self.buckets[bucket])
        for partition in reversed(self.partitions):  # what is asked for is mostly in the newest
            start -= partition.counts[bucket]
            if at >= start:
                return partition
        raise AssertionError("a print that no partition has counted")

    def saved(self, partition: Partition, prefix: int) -> tuple[bytes, bytes, bytes]:
        """What a partition has in a prefix, for `load`: counts, prints, runs."""
        prints, runs = [], []
        for bucket in buckets_of(prefix):
            start, end = self._within(partition, bucket)
            prints.append(self.buckets[bucket][start:end])
            runs.append(self._runs[bucket][start:end])
        first = prefix * BUCKETS
        counts = COUNTS.pack(*partition.counts[first : first + BUCKETS])
        return counts, "".join(prints).encode(PRINTS_ENCODING), b"".join(runs)

    def load(self, partition: Partition, prefix: int, counts: bytes, prints: bytes, runs: bytes) -> bool:
        """What was saved, into the newest partition. False, and nothing is changed, when the lengths are wrong."""
        if len(counts) != COUNTS.size or not 2 * sum(COUNTS.unpack(counts)) == len(prints) == 2 * len(runs):
            return False
        text, start = prints.decode(PRINTS_ENCODING, "replace"), 0
        for bucket, count in zip(buckets_of(prefix), COUNTS.unpack(counts), strict=True):
            if count:
                self.buckets[bucket] += text[start : start + count]
                self._runs[bucket] += runs[start : start + count]
                partition.counts[bucket] += count
                start += count
        partition.ids += start
        return True

    def cut(self, partition: Partition, prefix: int) -> None:
        """Forget what a partition has in a prefix."""
        for bucket in buckets_of(prefix):
            start, end = self._within(partition, bucket)
            if start < end:
                self.buckets[bucket] = self.buckets[bucket][:start] + self.buckets[bucket][end:]
                self._runs[bucket] = self._runs[bucket][:start] + self._runs[bucket][end:]
                partition.counts[bucket] = 0

    def _within(self, partition: Partition, bucket: int) -> tuple[int, int]:
        """Where a partition's prints are in a bucket, as (start, end). Counted from the nearer side."""
        place, count = self.partitions.index(partition), partition.counts[bucket]
        older, newer = self.partitions[:place], self.partitions[place + 1 :]
        if len(older) < len(newer):
            start = sum([each.counts[bucket] for each in older])
        else:
            start = len(self.buckets[bucket]) - sum([each.counts[bucket] for each in newer]) - count
        return start, start + count


def buckets_of(prefix: int) -> range:
    return range(prefix * BUCKETS, (prefix + 1) * BUCKETS)


def number_in(entries: bytes, digest: bytes) -> int | None:
    """The number added last for a digest in a row of entries."""
    at = entries.rfind(digest)
    while at >= 0:
        if at % ENTRY_BYTES == 0:
            return int.from_bytes(entries[at + DIGEST_BYTES : at + ENTRY_BYTES], "big")
        at = entries.rfind(digest, 0, at + DIGEST_BYTES - 1)
    return None
