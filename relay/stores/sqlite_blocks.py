"""Deliveries as they lie in the file: those of one transaction are one row, a *block*.

    blocks          heads and bodies of up to 63 deliveries, whose seqs follow each other
    block_ids       how an id begins → the blocks that have one that begins so
    block_sources   source → its blocks, and which places in them are its

What arrived never changes and is mostly read in the order in which it came. A row for each would cost the work of a row
in a table and two indexes, and fill pages worse.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import accumulate
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw, Struct

from relay.models import Delivery, RawHeaders, Request
from relay.stores.sqlite_squeeze import squeeze, unsqueeze
from relay.stores.sqlite_values import bindable, bound, key_hash, text, text_or_none

#: A bit each in one of SQLite's integers.
BLOCK_DELIVERIES_MAX: Final = 63
#: Bodies in one block, but one at least: more of them are smaller together, but whoever wants one unsqueezes them all.
BLOCK_BYTES_MAX: Final = 128 * 1024
#: So much of an id is looked up: of a ULID its time, to 32 ms. What arrives together has a row or two together.
START_CHARACTERS: Final = 9
#: A string, or bytes when it is no valid Unicode (see `bound`), for which msgspec has no other name.
Text: TypeAlias = Any

BLOCK_OF: Final = "SELECT first, block, squeezed, heads FROM blocks WHERE block >= ? ORDER BY block LIMIT 1"
BODIES: Final = "SELECT bodies FROM blocks WHERE block = ?"
CHANGE_BLOCK: Final = "UPDATE blocks SET squeezed = 1, heads = ?, bodies = ? WHERE block = ?"
CLEAR_PLACES: Final = "UPDATE block_sources SET places = places & ~?, count = count - ? WHERE source = ? AND block = ?"
DROP_START: Final = "DELETE FROM block_ids WHERE start = ? AND block = ?"
BLOCKS_OF_START: Final = "SELECT block FROM block_ids WHERE start = ?"
DROP_EMPTY: Final = "DELETE FROM block_sources WHERE source = ? AND block = ? AND count = 0"
#: The seqs of a source after one, as `b.first + bits.bit`; asks for the source, and twice for the seq.
OF_SOURCE: Final = """
    FROM block_sources b CROSS JOIN bits WHERE b.source = ? AND b.block > ? AND b.first + bits.bit > ?
    AND b.places >> bits.bit & 1"""
#: Whether s.seq is of a source.
IS_OF_SOURCE: Final = """
    (SELECT b.first <= s.seq AND b.places >> (s.seq - b.first) & 1 FROM block_sources b
    WHERE b.source = ? AND b.block >= s.seq ORDER BY b.block LIMIT 1)"""
#: The block that a seq is in, or the next one; the last that there can be when there is none.
BLOCK_FROM: Final = "coalesce((SELECT min(block) FROM blocks WHERE block >= ?), 9223372036854775807)"
NEWEST: Final = f"""
    SELECT b.first + bits.bit FROM blocks b CROSS JOIN bits WHERE b.block <= {BLOCK_FROM} AND b.first + bits.bit < ?
    AND b.first + bits.bit <= b.block ORDER BY b.block DESC, bits.bit DESC"""  # noqa: S608  the text above
NEWEST_OF_SOURCE: Final = f"""
    SELECT b.first + bits.bit FROM block_sources b CROSS JOIN bits WHERE b.source = ? AND b.block <= {BLOCK_FROM}
    AND b.first + bits.bit < ? AND b.places >> bits.bit & 1"""  # noqa: S608  as above


class Name(Struct, frozen=True, array_like=True):
    """How a delivery's head begins."""

    id: Text
    source: Text


class Head(Name, frozen=True, array_like=True):
    """A delivery without its body, as it lies in a block."""

    key: Text | None
    received_ms: int
    environment: Text | None
    method: Text
    path: Text
    query: Text
    headers: RawHeaders

    def request(self, body: bytes) -> Request:
        return Request(text(self.method), text(self.path), text(self.query), self.headers, body)

    @property
    def key_made_of(self) -> tuple[str, str | None, str]:
        """As `key_made_of` of the delivery."""
        return text(self.source), text_or_none(self.key), text_or_none(self.environment) or ""


def key_made_of(delivery: Delivery) -> tuple[str, str | None, str]:
    """What makes two deliveries the same."""
    return delivery.source, delivery.key, delivery.environment or ""


def digest_of(delivery: Delivery) -> bytes:
    """By which its key is known; only of a delivery that has one."""
    assert delivery.key is not None, "no key"
    return key_hash(delivery.source, delivery.environment or "", delivery.key)


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_heads: Final = msgspec.msgpack.Decoder(tuple[list[int], list[Raw]]).decode
_decode_head: Final = msgspec.msgpack.Decoder(Head | None).decode
_decode_name: Final = msgspec.msgpack.Decoder(Name | None).decode
#: A delivery that was pruned out of its block.
NIL: Final = Raw(_encode(None))


# ── rows ──


#: Columns of a row.
Row: TypeAlias = tuple[Any, ...]


def rows_of(first: int, deliveries: Sequence[Delivery]) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of blocks (block, first, squeezed, heads, bodies), of block_sources (source, block, first, places,
    count) and of block_ids (start, block) that hold deliveries with the seqs from `first` on.
    """
    blocks: list[Row] = []
    sources: list[Row] = []
    ids: list[Row] = []
    begin = 0
    for end in ends_of([len(delivery.request.body) for delivery in deliveries]):
        held = deliveries[begin:end]
        last = first + len(held) - 1
        bodies = b"".join([delivery.request.body for delivery in held])
        blocks.append((last, first, 1, squeeze(pack(held)), squeeze(bodies)))
        sources += [(source, last, first, places, places.bit_count()) for source, places in places_of(held).items()]
        ids += [(start, last) for start in {delivery.id[:START_CHARACTERS] for delivery in held}]
        begin, first = end, last + 1
    return blocks, sources, ids


def ends_of(sizes: Sequence[int]) -> Iterator[int]:
    """Where each block ends, by how long the bodies are."""
    begin = size_bytes = 0
    for place, size in enumerate(sizes):
        if place > begin and (place - begin == BLOCK_DELIVERIES_MAX or size_bytes + size > BLOCK_BYTES_MAX):
            yield place
            begin, size_bytes = place, 0
        size_bytes += size
    if sizes:
        yield len(sizes)


def places_of(deliveries: Sequence[Delivery]) -> dict[str, int]:
    """By source, a bit for each of its places."""
    sources = [delivery.source for delivery in deliveries]
    if sources and sources.count(sources[0]) == len(sources):
        return {sources[0]: (1 << len(sources)) - 1}
    places: dict[str, int] = {}
    for place, source in enumerate(sources):
        places[source] = places.get(source, 0) | 1 << place
    return places


def pack(deliveries: Sequence[Delivery]) -> bytes:
    """How long the bodies are, and the heads."""
    sizes = [len(delivery.request.body) for delivery in deliveries]
    heads = [  # the fields of Head
        (
            each.id,
            each.source,
            each.key,
            each.received_ms,
            each.environment,
            (request := each.request).method,
            request.path,
            request.query,
            request.headers,
        )
        for each in deliveries
    ]
    try:
        return _encode((sizes, heads))
    except UnicodeEncodeError:  # a lone surrogate in one of them
        return _encode((sizes, [tuple(map(bindable, head)) for head in heads]))


# ── reading ──


class Block:
    """What is in one of them: seqs from `first` to `last`, which is also its number. Heads are read when asked for."""

    def __init__(self, first: int, last: int, squeezed: int, heads: bytes) -> None:
        self.first, self.last, self.squeezed = first, last, squeezed
        self.sizes, self.heads = _decode_heads(unsqueeze(heads, "blocks", last) if squeezed else heads)
        self.ends = list(accumulate(self.sizes))

    def head(self, seq: int) -> Head | None:
        """None when it was pruned."""
        found: Head | None = _decode_head(self.heads[seq - self.first])
        return found

    def name(self, seq: int) -> Name | None:
        """Likewise."""
        found: Name | None = _decode_name(self.heads[seq - self.first])
        return found

    def find(self, delivery_id: str) -> int | None:
        """The seq of the delivery with this id."""
        for seq in range(self.first, self.last + 1):
            name = self.name(seq)
            if name is not None and text(name.id) == delivery_id:
                return seq
        return None

    def starts(self) -> set[str]:
        """How the ids begin."""
        names = [self.name(seq) for seq in range(self.first, self.last + 1)]
        return {text(name.id)[:START_CHARACTERS] for name in names if name is not None}

    def span(self, seq: int) -> slice:
        """Where the delivery's body is among the bodies."""
        place = seq - self.first
        end = self.ends[place]
        return slice(end - self.sizes[place], end)


class Blocks:
    """Deliveries by their seqs, in one snapshot or transaction that does not change them. What was read last stays."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._block: Block | None = None
        self._bodies: tuple[int, bytes] = (0, b"")

    def of(self, seq: int) -> Block | None:
        """The block that a seq is in."""
        block = self._block
        if block is None or not block.first <= seq <= block.last:
            row = self._connection.execute(BLOCK_OF, (seq,)).fetchone()
            if row is None or row[0] > seq:
                return None
            block = self._block = Block(*row)
        return block

    def head(self, seq: int) -> Head | None:
        """None when there is no such delivery, or not any more."""
        block = self.of(seq)
        return None if block is None else block.head(seq)

    def name(self, seq: int) -> Name | None:
        """Likewise."""
        block = self.of(seq)
        return None if block is None else block.name(seq)

    def body_bytes(self, seq: int) -> int:
        block = self.of(seq)
        return 0 if block is None else block.sizes[seq - block.first]

    def body(self, seq: int) -> bytes:
        block = self.of(seq)
        if block is None:
            return b""
        if self._bodies[0] != block.last:
            self._bodies = block.last, bodies_of(self._connection, block)
        return self._bodies[1][block.span(seq)]


def bodies_of(connection: sqlite3.Connection, block: Block) -> bytes:
    """One behind the other."""
    bodies: bytes = connection.execute(BODIES, (block.last,)).fetchone()[0]
    return unsqueeze(bodies, "blocks", block.last) if block.squeezed else bodies


def seq_of(connection: sqlite3.Connection, delivery_id: str) -> int | None:
    blocks = Blocks(connection)
    for (last,) in connection.execute(BLOCKS_OF_START, (bound(delivery_id[:START_CHARACTERS]),)).fetchall():
        block = blocks.of(last)
        if block is not None and (seq := block.find(delivery_id)) is not None:
            return seq
    return None


def newest(connection: sqlite3.Connection, before: int) -> Iterator[int]:
    """The seqs before one, the newest first. Some may have been pruned."""
    return (seq for (seq,) in connection.execute(NEWEST, (before, before)))


def newest_of_source(connection: sqlite3.Connection, source: str, before: int, more: str = "") -> Iterator[int]:
    """Those of a source; `more` is a condition in SQL on `b.first + bits.bit`."""
    sql = f"{NEWEST_OF_SOURCE} {more} ORDER BY b.block DESC, bits.bit DESC"
    return (seq for (seq,) in connection.execute(sql, (bound(source), before, before)))


# ── pruning ──


def prune(connection: sqlite3.Connection, seqs: Iterable[int]) -> None:
    """Take deliveries out of their blocks, in a transaction. A block without any goes."""
    blocks = Blocks(connection)
    by_block: dict[int, tuple[Block, set[int]]] = {}
    for seq in seqs:
        block = blocks.of(seq)
        if block is not None:
            by_block.setdefault(block.last, (block, set()))[1].add(seq)
    for block, gone in by_block.values():
        _take_out(connection, block, gone)


def _take_out(connection: sqlite3.Connection, block: Block, gone: Set[int]) -> None:
    places: Counter[Text] = Counter()
    starts = block.starts()
    bodies = bodies_of(connection, block)
    kept = [bodies[block.span(seq)] for seq in range(block.first, block.last + 1) if seq not in gone]
    for seq in gone:
        head = block.head(seq)
        if head is not None:
            place = seq - block.first
            places[head.source] |= 1 << place
            block.sizes[place], block.heads[place] = 0, NIL
    for start in starts - block.starts():
        connection.execute(DROP_START, (bound(start), block.last))
    for source, cleared in places.items():
        connection.execute(CLEAR_PLACES, (cleared, cleared.bit_count(), source, block.last))
        connection.execute(DROP_EMPTY, (source, block.last))
    if all(head == NIL for head in block.heads):
        connection.execute("DELETE FROM blocks WHERE block = ?", (block.last,))
    else:
        heads = _encode((block.sizes, block.heads))
        connection.execute(CHANGE_BLOCK, (squeeze(heads), squeeze(b"".join(kept)), block.last))
