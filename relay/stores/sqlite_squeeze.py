"""Blocks made smaller: what comes together is mostly alike, and every byte is written twice, into the WAL and the file.

Each part of a block is one frame of Zstandard (RFC 8878) with its checksum, so that a byte that the disk has changed is
an error and not another body.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import Final

import zstandard

#: For what came in masses, where time counts: 0.6 µs for a webhook of 2 KB, of which a sixth is left.
QUICK: Final = -3
#: For less than this, which comes where there is time: 6 µs for a webhook of 2 KB alone. It leaves half, not 0.7.
THOROUGH: Final = 1
THOROUGH_BYTES_MAX: Final = 32 * 1024


class _Tools(threading.local):
    """zstandard's objects lend their memory to one call at a time, and give up the interpreter in it."""

    def __init__(self) -> None:
        self.quick = zstandard.ZstdCompressor(level=QUICK, write_checksum=True).compress
        self.thorough = zstandard.ZstdCompressor(level=THOROUGH, write_checksum=True).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_tools: Final = _Tools()


def squeeze(data: bytes) -> bytes:
    """Some 20 bytes more than there were, where nothing can be saved."""
    return _tools.thorough(data) if len(data) <= THOROUGH_BYTES_MAX else _tools.quick(data)


def unsqueeze(frame: bytes, table: str, block: int) -> bytes:
    """Raises sqlite3.DatabaseError when it is damaged, as SQLite itself does for what it can tell; says where it is."""
    try:
        return _tools.decompress(frame)
    except (zstandard.ZstdError, MemoryError) as error:  # of memory: the length that it begins with may be wrong
        raise sqlite3.DatabaseError(f"block {block} in {table} is damaged: {error}") from error
