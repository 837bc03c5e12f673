"""What the relay and a sandbox child say to each other: frames on one socket.

A frame is a u32 length (big-endian) and so many bytes. The child speaks first:
  ready    JSON {"layers": {layer: state}, "engine": {…}}, or {"problem": "…"}
Then one reply per request, in the order of the requests; several may be under way:
  request  REQUEST header, then script, raw, evt, headers, query as UTF-8
  reply    REPLY header, then the text: for RESULT the JSON that transform returned, for NOTHING none,
           for ERROR a JSON object {code, name, message, stack}
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import Final, TypeAlias

#: u32 length, then u8 operation, u32 id, u32 place of the script, and the byte lengths of script, raw, evt, headers,
#: query. ABSENT stands for a text that there is not, and for a script that the child has in that place already.
REQUEST: Final = struct.Struct(">IBIIIIIII")
#: Places for scripts: the parent says what stands in them, and puts a new script where the least used one was.
PLACES_MAX: Final = 64
#: u32 length, u32 id, u8 kind.
REPLY: Final = struct.Struct(">IIB")
LENGTH: Final = struct.Struct(">I")
ABSENT: Final = 0xFFFFFFFF
#: RUN may use a context again, RUN_ONCE takes a fresh one whatever the settings say.
RUN, COMPILE, RUN_ONCE = 1, 2, 3
RESULT, NOTHING, ERROR = 0, 1, 2
#: What an error's text may take at most, in bytes: name, message and stack are cut in the engine.
ERROR_BYTES_MAX: Final = 64 * 1024
#: Several small requests that wait are read at once.
READ_BYTES: Final = 64 * 1024
#: Answers are written together: at most so many, so many bytes, and so many seconds after the first of their calls
#: began, so that one which took long is answered at once. None waits for a request that is not there yet.
HELD_ANSWERS_MAX: Final = 32
HELD_BYTES_MAX: Final = 64 * 1024
HELD_SECONDS_MAX: Final = 0.001


#: Where a request begins in bytes that may hold others too.
Frame: TypeAlias = tuple[bytes | bytearray, int]


class Channel:
    """The child's end. Its parent is trusted, and gone when nothing comes any more."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data, self.at = b"", 0  # what was received, and how far it was read
        self.held: list[bytes] = []  # of each answer the header and the text
        self.held_bytes, self.held_until, self.read_at = 0, 0.0, 0.0
        self.waiting = select.poll()
        self.waiting.register(connection, select.POLLIN)

    def idle(self) -> bool:
        """True while nobody asks. Whoever waits for an answer has it then."""
        if self.at < len(self.data):
            return False
        self.flush()
        return not self.waiting.poll(0)

    def read(self) -> Frame | None:
        """The next frame, or None when the parent is gone. No answer is held while this waits."""
        while True:
            have = len(self.data) - self.at
            size = LENGTH.unpack_from(self.data, self.at)[0] + LENGTH.size if have >= LENGTH.size else LENGTH.size
            if LENGTH.size < size <= have:
                frame = self.data, self.at
                self.at += size
                self.read_at = time.perf_counter()
                return frame
            self.flush()
            if size > READ_BYTES:
                return self._read_large(size)
            more = self.connection.recv(READ_BYTES)
            if not more:
                return None
            self.data, self.at = self.data[self.at :] + more, 0

    def answer(self, number: int, kind: int, text: bytes) -> None:
        """Write the reply to a request, soon: with others, if they follow at once."""
        if not self.held:
            self.held_until = self.read_at + HELD_SECONDS_MAX
        self.held += (REPLY.pack(REPLY.size - LENGTH.size + len(text), number, kind), text)
        self.held_bytes += len(text)
        is_full = len(self.held) >= 2 * HELD_ANSWERS_MAX or self.held_bytes >= HELD_BYTES_MAX
        if is_full or time.perf_counter() >= self.held_until:
            self.flush()

    def send(self, data: bytes) -> None:
        """A frame that is no reply, now."""
        self.connection.sendall(LENGTH.pack(len(data)) + data)

    def flush(self) -> None:
        """Write the answers that are held."""
        if self.held:
            held, self.held, self.held_bytes = self.held, [], 0
            self.connection.sendall(b"".join(held))

    def _read_large(self, size: int) -> Frame | None:
        """Into one piece of memory, and no copy of it."""
        data = bytearray(size)
        view, got = memoryview(data), min(size, len(self.data) - self.at)
        view[:got] = self.data[self.at : self.at + got]
        self.data, self.at = b"", 0
        while got < size:
            more = self.connection.recv_into(view[got:])
            if not more:
                return None
            got += more
        return data, 0


#: raw, evt, headers, query
Texts: TypeAlias = tuple[bytes, bytes | None, bytes, bytes | None]


def add_request(parts: list[bytes], operation: int, number: int, place: int, script: bytes | None, texts: Texts) -> int:
    """Append the frame, in parts. Its size in bytes."""
    raw, evt, headers, query = texts
    raw_bytes, headers_bytes = len(raw), len(headers)
    size = REQUEST.size + raw_bytes + headers_bytes
    script_bytes = evt_bytes = query_bytes = ABSENT
    header_at = len(parts)
    parts.append(b"")
    if script is not None:
        script_bytes = len(script)
        size += script_bytes
        parts.append(script)
    parts.append(raw)
    if evt is not None:
        evt_bytes = len(evt)
        size += evt_bytes
        parts.append(evt)
    parts.append(headers)
    if query is not None:
        query_bytes = len(query)
        size += query_bytes
        parts.append(query)
    parts[header_at] = REQUEST.pack(
        size - LENGTH.size,
        operation,
        number,
        place,
        script_bytes,
        raw_bytes,
        evt_bytes,
        headers_bytes,
        query_bytes,
    )
    return size
