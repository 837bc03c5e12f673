"""One process of the load: so many connections, each of which sends its next request when it has its answer.

`python -m tests.bench.load PORT CONNECTIONS SECONDS BYTES MODE PATH SCHEME`: prints `ready`, waits for a line on stdin,
sends, and prints what came of it as JSON. It reads no more of an answer than its status and its length, so that one of
these has more to give than a server on one core can take.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import time
from collections import Counter
from typing import Final, cast

import uvloop

from tests.bench.signed import Signer

#: Left out at the beginning: connections are made, caches filled, the first checkpoint is not due yet.
WARM_UP_SECONDS: Final = 0.7
SIGNED_AHEAD_PER_SECOND: Final = 20_000
#: Times are counted in steps of 1 %: the logarithm of the seconds, times this, rounded.
STEPS: Final = 100
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


class Load:
    """What all connections of this process share."""

    def __init__(self, port: int, seconds: float, signer: Signer, *, keep_alive: bool) -> None:
        self.port, self.keep_alive = port, keep_alive
        self.signer = signer
        self.signer.sign_ahead(int(SIGNED_AHEAD_PER_SECOND * min(5.0, seconds)))
        self.seconds = seconds
        self.statuses: Counter[str] = Counter()
        self.answered = 0
        self.took: Counter[int] = Counter()
        self.counts_from = self.ends_at = 0.0

    async def run(self, connections: int) -> None:
        now = time.perf_counter()
        self.counts_from, self.ends_at = now + WARM_UP_SECONDS, now + WARM_UP_SECONDS + self.seconds
        await asyncio.gather(*(self.keep_sending() for _ in range(connections)))

    async def keep_sending(self) -> None:
        """One connection after the other: the next when the last was closed."""
        loop = asyncio.get_running_loop()
        while time.perf_counter() < self.ends_at:
            try:
                _, sender = await loop.create_connection(self.sender, "127.0.0.1", self.port)
            except OSError:
                self.statuses["not connected"] += 1
                await asyncio.sleep(0.01)
                continue
            await sender.closed

    def sender(self) -> Sender:
        return Sender(self)

    def count(self, status: bytes, began: float) -> None:
        now = time.perf_counter()
        self.statuses[status.decode("ascii", "replace")] += 1
        if self.counts_from <= now < self.ends_at:
            self.answered += 1
            self.took[round(math.log(now - began) * STEPS)] += 1


class Sender(asyncio.Protocol):
    """One connection; a new one for each request when the load is not kept alive."""

    def __init__(self, load: Load) -> None:
        self.load, self.began = load, time.perf_counter()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's own class
        self.write, self.close = stream.write, stream.close
        self.write(self.load.signer.take())

    def data_received(self, data: bytes) -> None:
        self.got = got = self.got + data if self.got else data
        end = got.find(b"\r\n\r\n")
        if end < 0 or len(got) < end + 4 + length_of(got[:end]):
            return
        self.load.count(got[9:12], self.began)
        self.got = b""
        self.began = time.perf_counter()
        if self.load.keep_alive and self.began < self.load.ends_at:
            self.write(self.load.signer.take())
        else:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.load.statuses[type(exc).__name__] += 1
        if not self.closed.done():
            self.closed.set_result(None)


def length_of(head: bytes) -> int:
    found = LENGTH.search(head)
    return int(found[1]) if found else 0


def main(port: int, connections: int, seconds: float, size_bytes: int, mode: str, path: str, scheme: str) -> None:
    keep_alive = mode == "keep-alive"
    signer = Signer(size_bytes, close=not keep_alive, path=path, scheme=scheme)
    load = Load(port, seconds, signer, keep_alive=keep_alive)
    print("ready", flush=True)
    sys.stdin.readline()
    uvloop.run(load.run(connections))
    print(json.dumps({"answered": load.answered, "statuses": load.statuses, "took": load.took}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:8])
