"""The way into the pen's thread: the pace of each source, the size of a request, and a queue that is never waited for.

`put` and `ask` are for the event loop, `take` and `done` for the pen's thread.
"""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final

from relay.stores.pen import RejectedRequest
from relay.stores.sqlite_pen_file import ROW_BYTES, PenFile, Waiting

#: What waits for the thread, of all sources together. A source may take half of what is free, so that there is always
#: room for another one.
QUEUE_MAX: Final = 1_024
QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
#: The size of a request, whatever the settings say; a larger one is kept without its body.
REQUEST_BYTES_MAX: Final = 8 * 1024 * 1024
#: The pace of each source: so many at once, then so many in a second.
BURST: Final = 100
PER_SECOND: Final = 20.0
BYTES_PER_SECOND: Final = 2 * 1024 * 1024
GROUP_MAX: Final = 256
GROUP_BYTES_MAX: Final = 8 * 1024 * 1024
DETAIL_CHARACTERS_MAX: Final = 1_000


class End(Enum):
    """The last thing in the queue."""

    END = auto()


@dataclass(slots=True, eq=False)
class Ask:
    """Something to do with the file for somebody who waits; `absent` is the answer when there is no file."""

    run: Callable[[PenFile], Any]
    absent: Any
    future: Future[Any]


class Pace:
    """One source's requests and bytes: token buckets."""

    def __init__(self, bytes_burst: float, now_s: float) -> None:
        self.bytes_burst = bytes_burst
        self.requests, self.bytes, self.at_s = float(BURST), bytes_burst, now_s

    def allows(self, now_s: float) -> bool:
        passed_s, self.at_s = max(0.0, now_s - self.at_s), now_s
        self.requests = min(float(BURST), self.requests + passed_s * PER_SECOND)
        self.bytes = min(self.bytes_burst, self.bytes + passed_s * BYTES_PER_SECOND)
        return self.requests >= 1 and self.bytes > 0

    def take(self, size: int) -> None:
        """The bytes may fall below nothing: a large one is waited for afterwards, not before."""
        self.requests -= 1
        self.bytes -= size


class Tally:
    """What went into the queue, or came out of it, since the start. Only one thread counts on; the other reads."""

    def __init__(self) -> None:
        self.count: defaultdict[str, int] = defaultdict(int)
        self.bytes: defaultdict[str, int] = defaultdict(int)
        self.total_count = self.total_bytes = 0

    def add(self, source: str, size: int) -> None:
        self.count[source] += 1
        self.bytes[source] += size
        self.total_count += 1
        self.total_bytes += size


class PenQueue:
    """`bytes_max` is each source's share of the file."""

    def __init__(self, bytes_max: int, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._bytes_max, self._monotonic_s = bytes_max, monotonic_s
        self._paces: dict[str, Pace] = {}
        self._in, self._out = Tally(), Tally()
        self._queue: queue.SimpleQueue[Waiting | Ask | End] = queue.SimpleQueue()

    def put(self, rejected: RejectedRequest) -> str | None:
        """None, or why it is dropped: rate, size, queue."""
        source, now_s = rejected.source, self._monotonic_s()
        pace = self._paces.get(source)
        if pace is None:
            pace = self._paces[source] = Pace(float(self._bytes_max), now_s)
        if not pace.allows(now_s):
            return "rate"
        waiting = self._fitted(rejected)
        if waiting is None:
            return "size"
        if not self._has_place(source, waiting.size):
            return "queue"
        pace.take(waiting.size)
        self._in.add(source, waiting.size)
        self._queue.put(waiting)
        return None

    def ask(self, ask: Ask) -> None:
        """Answered after everything that was put before it."""
        self._queue.put(ask)

    def end(self) -> None:
        self._queue.put(End.END)

    def take(self, seconds: float) -> tuple[list[Waiting], Ask | End | None]:
        """What waits, up to a group, and what comes after it; nothing when nothing comes for so many seconds."""
        group: list[Waiting] = []
        size = 0
        try:
            item = self._queue.get(timeout=seconds)
            while isinstance(item, Waiting):
                group.append(item)
                size += item.size
                if len(group) >= GROUP_MAX or size >= GROUP_BYTES_MAX:
                    return group, None
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, None
        return group, item

    def done(self, waiting: Waiting) -> None:
        """Its place is free again."""
        self._out.add(waiting.rejected.source, waiting.size)

    def _fitted(self, rejected: RejectedRequest) -> Waiting | None:
        """With its body, or without where that is too large, or not at all."""
        most = min(self._bytes_max, REQUEST_BYTES_MAX)
        rejected = replace(rejected, detail=rejected.detail[:DETAIL_CHARACTERS_MAX])
        around, body_bytes = size_around(rejected), len(rejected.request.body)
        if around + body_bytes <= most:
            return Waiting(rejected, around + body_bytes, body_bytes, body_kept=True)
        bare = replace(rejected, request=rejected.request.but(body=b""))
        return Waiting(bare, around, body_bytes, body_kept=False) if around <= most else None

    def _has_place(self, source: str, size: int) -> bool:
        free = QUEUE_MAX - (self._in.total_count - self._out.total_count)
        free_bytes = QUEUE_BYTES_MAX - (self._in.total_bytes - self._out.total_bytes)
        held = self._in.count.get(source, 0) - self._out.count.get(source, 0)
        held_bytes = self._in.bytes.get(source, 0) - self._out.bytes.get(source, 0)
        return held < free and held_bytes + size <= free_bytes


def size_around(rejected: RejectedRequest) -> int:
    """What a request costs beside its body. Headers are kept as JSON, where a byte may take two."""
    request = rejected.request
    headers = sum(len(name) + len(value) + 4 for name, value in request.headers)
    texts = (rejected.url, rejected.detail, request.method, request.path, request.query)
    return ROW_BYTES + 2 * headers + sum(map(len, texts))
