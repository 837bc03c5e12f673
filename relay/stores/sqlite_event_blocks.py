"""The JSON of events as it lies in the file: those of one transaction share a row, squeezed, as deliveries do.

    event_blocks    the JSON of up to 63 events, whose seqs follow each other

All else that an event is stays in its row of `events`, where it is looked for. Older rows hold the JSON themselves.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from relay.stores.sqlite_blocks import Row, ends_of
from relay.stores.sqlite_squeeze import squeeze, unsqueeze

BLOCK_OF: Final = "SELECT first, block, jsons FROM event_blocks WHERE block >= ? ORDER BY block LIMIT 1"
CHANGE_BLOCK: Final = "UPDATE event_blocks SET jsons = ? WHERE block = ?"
DROP_BLOCK: Final = "DELETE FROM event_blocks WHERE block = ?"
#: What stands in an event's row instead of its JSON.
ELSEWHERE: Final = b""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[bytes | None]).decode


def rows_of(first: int, jsons: Sequence[bytes]) -> list[Row]:
    """The rows of event_blocks (block, first, jsons) that hold the JSON of events with the seqs from `first` on."""
    rows: list[Row] = []
    begin = 0
    for end in ends_of([len(json) for json in jsons]):
        rows.append((first + end - 1, first + begin, squeeze(_encode(jsons[begin:end]))))
        begin = end
    return rows


class EventBlocks:
    """JSON by the seqs of events, in one snapshot or transaction. What was read last stays."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._first, self._last = 1, 0
        self._jsons: list[bytes | None] = []

    def json(self, seq: int, in_row: bytes) -> bytes | None:
        """Of an event whose row has `in_row`. None when somebody has taken a damaged block out of the file."""
        if in_row != ELSEWHERE:
            return in_row
        if not self._first <= seq <= self._last:
            row = self._connection.execute(BLOCK_OF, (seq,)).fetchone()
            if row is None or row[0] > seq:
                return None
            self._jsons = jsons_of(row[1], row[2])
            self._first, self._last = row[0], row[1]
        return self._jsons[seq - self._first]


def jsons_of(block: int, squeezed: bytes) -> list[bytes | None]:
    """What a row holds."""
    return _decode(unsqueeze(squeezed, "event_blocks", block))


def prune(connection: sqlite3.Connection, seqs: Iterable[int]) -> None:
    """Take events out of their blocks, in a transaction. A block without any goes."""
    for first, last, jsons, gone in _by_block(connection, sorted(seqs)):
        for seq in gone:
            jsons[seq - first] = None
        if any(json is not None for json in jsons):
            connection.execute(CHANGE_BLOCK, (squeeze(_encode(jsons)), last))
        else:
            connection.execute(DROP_BLOCK, (last,))


def _by_block(
    connection: sqlite3.Connection, seqs: Sequence[int]
) -> Iterator[tuple[int, int, list[bytes | None], Sequence[int]]]:
    """(first, last, JSON, those of the sorted seqs that are in it) of each; older events are in none."""
    end = 0
    while end < len(seqs):
        row = connection.execute(BLOCK_OF, (seqs[end],)).fetchone()
        if row is None:
            return
        first, last, jsons = row
        begin = bisect_left(seqs, first, end)
        end = bisect_right(seqs, last, begin)
        if begin < end:
            yield first, last, jsons_of(last, jsons), seqs[begin:end]
