"""What the relay and a sandbox child say to each other: frames on one socket.

A frame is a u32 length (big-endian) and so many bytes. The child speaks first:
  ready    JSON {"layers": {layer: state}, "engine": {…}}, or {"problem": "…"}
Then it answers the calls that it is asked, in their order. Both kinds of frame hold several; many may be under way:
  request  REQUEST header, the SIZES of each call, then the script, then of each call raw, evt, headers, query as UTF-8
  reply    REPLY header, a kind (u8) for each answer, a size (u32) for each, then their texts: for RESULT the JSON that
           transform returned, for NOTHING none, for ERROR a JSON object {code, name, message, stack}
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final, TypeAlias

#: u32 length, then u8 operation, u32 place of the script, u32 bytes of the script and u32 number of calls. ABSENT
#: stands for a script that the child has in that place already.
REQUEST: Final = struct.Struct(">IBIII")
#: The bytes of raw, evt, headers and query, u32 each; 0 for an evt or a query that there is not.
SIZES: Final = struct.Struct(">IIII")
#: Places for scripts: the parent says what stands in them, and puts a new script where the least used one was.
PLACES_MAX: Final = 64
#: u32 length, u32 number of the first answer, counted from 1 on, and u32 how many there are.
REPLY: Final = struct.Struct(">III")
LENGTH: Final = struct.Struct(">I")
ABSENT: Final = 0xFFFFFFFF
#: RUN may use a context again, RUN_ONCE takes a fresh one whatever the settings say.
RUN, COMPILE, RUN_ONCE = 1, 2, 3
RESULT, NOTHING, ERROR = 0, 1, 2
#: What an error's text may take at most, in bytes: name, message and stack are cut in the engine.
ERROR_BYTES_MAX: Final = 64 * 1024
#: Requests are read into memory that is there already, as many as wait; larger ones into memory of their own.
BUFFER_BYTES: Final = 256 * 1024
#: Answers are written together: at most so many, so many bytes, and so many seconds after the first of their calls
#: began, so that one which took long is answered at once. None waits for a request that is not there yet.
HELD_ANSWERS_MAX: Final = 32
HELD_BYTES_MAX: Final = 128 * 1024
HELD_SECONDS_MAX: Final = 0.001
#: What the answers of one frame take at most beside their texts.
REPLY_HEAD_BYTES_MAX: Final = REPLY.size + 5 * HELD_ANSWERS_MAX


#: Where a request begins in bytes that may hold others too, until the next one is read.
Frame: TypeAlias = tuple[memoryview, int]
#: An answer as it is written: its kind, and its text.
Encoded: TypeAlias = tuple[int, bytes]


class Channel:
    """The child's end. Its parent is trusted, and gone when nothing comes any more."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.at = self.end = 0  # what was received and not read yet
        self.held: list[Encoded] = []
        self.held_bytes, self.held_until, self.written = 0, 0.0, 0
        self.waiting = select.poll()
        self.waiting.register(connection, select.POLLIN)

    def idle(self) -> bool:
        """True while nobody asks. Whoever waits for an answer has it then."""
        if self.at < self.end or self.waiting.poll(0):
            return False
        self.flush()
        return True

    def read(self) -> Frame | None:
        """The next frame, or None when the parent is gone. No answer is held while this waits."""
        while True:
            have = self.end - self.at
            size = LENGTH.unpack_from(self.buffer, self.at)[0] + LENGTH.size if have >= LENGTH.size else LENGTH.size
            if LENGTH.size < size <= have:
                frame = self.buffer, self.at
                self.at += size
                if not self.held:
                    self.held_until = time.perf_counter() + HELD_SECONDS_MAX
                return frame
            if size > BUFFER_BYTES:
                return self._read_large(size)
            if self.held and not self.waiting.poll(0):
                self.flush()
            self.buffer[:have] = self.buffer[self.at : self.end]
            got = self.connection.recv_into(self.buffer[have:])
            if not got:
                return None
            self.at, self.end = 0, have + got

    def answer(self, answer: Encoded) -> None:
        """Write the answer to a call, soon: with others, if they follow at once."""
        self.held.append(answer)
        self.held_bytes += len(answer[1])
        now = time.perf_counter()
        is_full = len(self.held) >= HELD_ANSWERS_MAX or self.held_bytes >= HELD_BYTES_MAX
        if is_full or now >= self.held_until:
            self.flush()
            self.held_until = now + HELD_SECONDS_MAX

    def send(self, data: bytes) -> None:
        """A frame that is no reply, now."""
        self.connection.sendall(LENGTH.pack(len(data)) + data)

    def flush(self) -> None:
        """Write the answers that are held."""
        if self.held:
            data = reply(self.held, self.held_bytes, self.written + 1)
            self.written += len(self.held)
            self.held, self.held_bytes = [], 0
            self.connection.sendall(data)

    def _read_large(self, size: int) -> Frame | None:
        """Into one piece of memory, and no copy of it."""
        self.flush()
        self.held_until = time.perf_counter() + HELD_SECONDS_MAX
        data, got = memoryview(bytearray(size)), self.end - self.at
        data[:got] = self.buffer[self.at : self.end]
        self.at = self.end = 0
        while got < size:
            more = self.connection.recv_into(data[got:])
            if not more:
                return None
            got += more
        return data, 0


def reply(answers: Sequence[Encoded], texts_bytes: int, number: int) -> bytes:
    """The frame of answers, the first of which has this number; their texts take so many bytes together."""
    kinds, texts = zip(*answers, strict=True)
    count = len(answers)
    head = REPLY.pack(REPLY.size - LENGTH.size + 5 * count + texts_bytes, number & 0xFFFFFFFF, count)
    return b"".join((head, bytes(kinds), struct.pack(f">{count}I", *map(len, texts)), *texts))


#: raw, evt, headers, query
Texts: TypeAlias = tuple[bytes, bytes | None, bytes, bytes | None]


def add_request(
    parts: list[bytes], operation: int, place: int, script: bytes | None, calls: Sequence[Texts]
) -> list[int]:
    """Append the frame, in parts. The bytes of each of its calls."""
    header_at = len(parts)
    parts.append(b"")
    if script is not None:
        parts.append(script)
    heads = bytearray()
    sizes = []
    for raw, evt, headers, query in calls:
        evt, query = evt or b"", query or b""
        heads += SIZES.pack(len(raw), len(evt), len(headers), len(query))
        sizes.append(len(raw) + len(evt) + len(headers) + len(query))
        parts += (raw, evt, headers, query)
    size = REQUEST.size - LENGTH.size + len(heads) + len(script or b"") + sum(sizes)
    script_bytes = ABSENT if script is None else len(script)
    parts[header_at] = REQUEST.pack(size, operation, place, script_bytes, len(sizes)) + heads
    return sizes
