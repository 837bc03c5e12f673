"""What the relay and a sandbox child say to each other: frames on one socket.

A frame is a u32 length (big-endian) and so many bytes. The child speaks first:
  ready    JSON {"layers": {layer: state}, "engine": {…}}, or {"problem": "…"}
Then one reply per request, in the order of the requests:
  request  REQUEST header, then script, raw, evt, headers, query as UTF-8
  reply    REPLY header, then the text: for RESULT the JSON that transform returned, for NOTHING none,
           for ERROR a JSON object {code, name, message, stack}
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from typing import Final

#: u8 operation, u32 id, u32 place of the script, then the byte lengths of script, raw, evt, headers, query. ABSENT
#: stands for an evt of None, and for a script that the child has in that place already.
REQUEST: Final = struct.Struct(">BIIIIIII")
#: Places for scripts: the parent says what stands in them, and puts a new script where the least used one was.
PLACES_MAX: Final = 64
REPLY: Final = struct.Struct(">IB")
LENGTH: Final = struct.Struct(">I")
ABSENT: Final = 0xFFFFFFFF
#: RUN may use a context again, RUN_ONCE takes a fresh one whatever the settings say.
RUN, COMPILE, RUN_ONCE = 1, 2, 3
RESULT, NOTHING, ERROR = 0, 1, 2
#: What an error's text may take at most, in bytes: name, message and stack are cut in the engine.
ERROR_BYTES_MAX: Final = 64 * 1024
#: Several small requests that wait are read at once.
READ_BYTES: Final = 64 * 1024


class Channel:
    """The child's end. Its parent is trusted, and gone when nothing comes any more."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = bytearray()
        self.waiting = select.poll()
        self.waiting.register(connection, select.POLLIN)

    def idle(self) -> bool:
        """True while nobody asks."""
        return not self.buffer and not self.waiting.poll(0)

    def read(self) -> bytearray | None:
        """The next frame, or None when the parent is gone."""
        if not self._fill(LENGTH.size):
            return None
        (size,) = LENGTH.unpack_from(self.buffer)
        del self.buffer[: LENGTH.size]
        if size > READ_BYTES:
            return self._read_large(size)
        if not self._fill(size):
            return None
        frame = self.buffer[:size]
        del self.buffer[:size]
        return frame

    def send(self, data: bytes) -> None:
        self.connection.sendall(LENGTH.pack(len(data)) + data)

    def _fill(self, size: int) -> bool:
        while len(self.buffer) < size:
            more = self.connection.recv(READ_BYTES)
            if not more:
                return False
            self.buffer += more
        return True

    def _read_large(self, size: int) -> bytearray | None:
        """Into one piece of memory, and no copy of it."""
        frame = bytearray(size)
        view, got = memoryview(frame), len(self.buffer)
        view[:got] = self.buffer
        self.buffer.clear()
        while got < size:
            more = self.connection.recv_into(view[got:])
            if not more:
                return None
            got += more
        return frame


def encode_request(operation: int, number: int, place: int, texts: tuple[str | None, ...]) -> list[bytes]:
    """The frame in parts: length, header, then up to five texts."""
    parts = [None if text is None else text.encode("utf-8", "replace") for text in (*texts, *[None] * (5 - len(texts)))]
    sizes = [ABSENT if part is None else len(part) for part in parts]
    body = [part for part in parts if part]
    header = REQUEST.pack(operation, number, place, *sizes)
    length = LENGTH.pack(len(header) + sum(map(len, body)))
    return [length, header, *body]


def decode_texts(frame: bytearray) -> Iterator[str | None]:
    """The five texts of a request, one by one: for a later one there may be no memory."""
    _, _, _, *sizes = REQUEST.unpack_from(frame)
    at = REQUEST.size
    for size in sizes:
        yield None if size == ABSENT else frame[at : at + size].decode("utf-8", "replace")
        at += 0 if size == ABSENT else size
