"""Parts that are measured alone, each in a process on one core.

`python -m tests.bench.parts sandbox BYTES SECONDS | window IDS | store DELIVERIES` prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import _quickjs

from relay.config import Sandbox
from relay.ids import new_id
from relay.models import Delivery, Request
from relay.sandbox import Call, SandboxPool, Script
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_file import open_writer
from relay.stores.sqlite_known import Known
from relay.stores.sqlite_known_jobs import SIZES
from relay.telemetry import Telemetry
from tests.bench.processes import ROOT, bench_folder
from tests.bench.signed import Charges, charge

GROUP: Final = 64
ROUNDS: Final = 5
#: Different ones: none comes twice in a block.
BODIES: Final = 4096
RUN: Final = 64
RUNS_IN_FLIGHT: Final = 2
HEADERS: Final = json.dumps({"Content-Type": "application/json", "User-Agent": "Stripe/1.0"})
CALLED: Final = """
function call(raw, headers, query) {
  return JSON.stringify(transform(JSON.parse(raw), JSON.parse(headers), JSON.parse(query), raw));
}
"""


def sandbox(size_bytes: int, seconds: float) -> dict[str, float]:
    """Calls a second through the pool, in runs as the pipeline makes them, one child on the relay's own core; and of
    the engine called right here.
    """
    text = (ROOT / "transforms" / "stripe.js").read_text("utf-8")
    raw = charge(size_bytes).decode()
    context = _quickjs.Context()
    context.eval(text + CALLED)
    call = context.get("call")
    engine = pool = 0.0
    for _ in range(3):
        engine = max(engine, per_second(lambda: call(raw, HEADERS, "{}"), seconds / 3))
        pool = max(pool, asyncio.run(through_the_pool(Script("stripe.js", text), raw, seconds / 3)))
    return {"engine_per_second": engine, "pool_per_second": pool}


def per_second(run: Callable[[], object], seconds: float) -> float:
    began, done = time.perf_counter(), 0
    while (now := time.perf_counter()) - began < seconds:
        run()
        done += 1
    return done / (now - began)


async def through_the_pool(script: Script, raw: str, seconds: float) -> float:
    pool = SandboxPool(Sandbox(processes=1), Telemetry())
    await pool.start()
    done = 0

    calls = [Call(raw.encode(), None, HEADERS.encode(), None)] * RUN

    async def keep_calling(until: float) -> None:
        nonlocal done
        while time.perf_counter() < until:
            answers = await pool.run_many(script, calls)
            assert all(isinstance(answer, bytes) for answer in answers)
            done += len(answers)

    began = time.perf_counter()
    await asyncio.gather(*(keep_calling(began + seconds) for _ in range(RUNS_IN_FLIGHT)))
    took = time.perf_counter() - began
    await pool.close()
    return done / took


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="relay-bench-", dir=bench_folder()))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def window(ids: int) -> dict[str, float]:
    """Ids a second, 64 a commit and half of them seen before, in a set that knew none and in one that knew so many;
    the same in µs of CPU an id; µs for an id that was seen long ago; and the longest pause while old ones go.
    """
    with folder() as made:
        full, old = filled(made / "full.db", ids)
        empty = Ids(fresh(made / "empty.db"))
        open_ms = timed_ms(lambda: Known(full.connection, "bench", None))
        rounds = [(empty.round(), full.round()) for _ in range(ROUNDS)]  # alternating: the machine has its moods
        seconds = [statistics.median(each[side][0] for each in rounds) for side in (0, 1)]
        cpu = [statistics.median(each[side][1] for each in rounds) for side in (0, 1)]
        old_ms = timed_ms(lambda: [full.known.find(hashed(name)) for name in old])
        return {
            "empty_per_second": Ids.PER_ROUND / seconds[0],
            "full_per_second": Ids.PER_ROUND / seconds[1],
            "empty_cpu_us": cpu[0] / Ids.PER_ROUND * 1e6,
            "full_cpu_us": cpu[1] / Ids.PER_ROUND * 1e6,
            "old_us": old_ms / len(old) * 1000,
            "open_ms": open_ms,
            "pause_ms": expire(full),
        }


def timed_ms(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1000


def fresh(path: Path) -> sqlite3.Connection:
    path.touch()
    return open_writer(path)


class Ids:
    """Ids that come, 64 in a transaction; half of them for the second time. Who sends one again does so soon."""

    PER_ROUND: Final = 2 * SIZES.run_ids
    AGAIN_WITHIN: Final = 50_000

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.known = Known(connection, "bench", None)
        self.number = 0
        self._recent = deque([os.urandom(16)], self.AGAIN_WITHIN)

    @contextmanager
    def committed(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        yield
        self.known.before_commit()
        self.connection.execute("COMMIT")
        self.known.committed()

    def add(self, names: list[bytes]) -> None:
        for name in names:
            digest = hashed(name)
            if self.known.find(digest) is None:
                self.known.add(digest, self.number)
        self.number += len(names)

    def round(self) -> tuple[float, float]:
        """Seconds, and seconds of CPU, of as many new ids as make one run."""
        groups = [self._group() for _ in range(self.PER_ROUND // GROUP)]
        began, began_cpu = time.perf_counter(), time.process_time()
        for group in groups:
            with self.committed():
                self.add(group)
        return time.perf_counter() - began, time.process_time() - began_cpu

    def _group(self) -> list[bytes]:
        new = [os.urandom(16) for _ in range(GROUP // 2)]
        again = [self._recent[random.randrange(len(self._recent))] for _ in new]
        self._recent.extend(new)
        return new + again


def hashed(name: bytes) -> bytes:
    """As the store does it with an event's id: part of what an id costs."""
    return blake2b(name, digest_size=16).digest()


def filled(path: Path, count: int) -> tuple[Ids, list[bytes]]:
    """So many, quickly; and one in a thousand of them."""
    ids, some = Ids(fresh(path)), []
    ids.connection.execute("PRAGMA synchronous = OFF")
    for _ in range(0, count, 1000):
        new = [os.urandom(16) for _ in range(1000)]
        some.append(new[0])
        with ids.committed():
            ids.add(new)
    ids.connection.execute("PRAGMA synchronous = FULL")
    ids.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the disk has it all before anything is measured
    return ids, some


def expire(ids: Ids) -> float:
    """The longest commit, in ms, while the oldest partition is dropped and ids go on coming."""
    longest, more = 0.0, True
    below = ids.known._prints.partitions[0].high + 1
    while more:
        new = [os.urandom(16) for _ in range(GROUP)]
        began = time.perf_counter()
        with ids.committed():
            more = ids.known.drop_below(below)
            ids.add(new)
        longest = max(longest, time.perf_counter() - began)
    return longest * 1000


def store(deliveries: int) -> dict[str, float]:
    """Deliveries a second that the store takes, 64 at a time: the first twentieth and the last of so many; the same in
    µs of CPU a delivery.
    """
    with folder() as made:
        return asyncio.run(fill_store(made / "relay.db", deliveries))


async def fill_store(path: Path, deliveries: int) -> dict[str, float]:
    """After each twentieth the kernel forgets the file's pages, so that the next ones go where these were: a virtual
    machine may get memory from its host only when it is first used, which takes six times as long as the write itself.
    """
    opened = await SqliteStore.open(
        path,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        dedupe_hours=24,
        disk_free_bytes_min=0,
        queue_bytes_max=64 * 1024 * 1024,
    )
    groups = deliveries // 20 // GROUP
    charges = Charges(2048)
    bodies = cycle([charges.draw() for _ in range(BODIES)])  # drawing them is not what is measured
    rates, cpu_us = [], []
    file = os.open(path, os.O_RDONLY)  # open until the store is closed: closing it ends SQLite's locks in this process
    for _ in range(20):
        began, began_cpu = time.perf_counter(), time.process_time()
        for _ in range(groups):
            await asyncio.gather(*(opened.accept([delivery(next(bodies))]) for _ in range(GROUP)))
        cpu_us.append((time.process_time() - began_cpu) / (groups * GROUP) * 1e6)
        rates.append(groups * GROUP / (time.perf_counter() - began))
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    await opened.close()
    os.close(file)
    return {
        "first_per_second": rates[0],
        "last_per_second": rates[-1],
        "first_cpu_us": cpu_us[0],
        "last_cpu_us": cpu_us[-1],
        "bytes": float(path.stat().st_size),
    }


def delivery(body: bytes) -> Delivery:
    """With an id of ours, as the receiver makes them, in the order of time; the provider's key is random."""
    name = f"evt_{os.urandom(12).hex()}"
    request = Request("POST", "/in/stripe", "", ((b"Content-Type", b"application/json"),), body)
    return Delivery(new_id(), "stripe", name, time.time_ns() // 1_000_000, request)


def main(part: str, *arguments: str) -> None:
    parts: dict[str, Callable[..., Any]] = {"sandbox": sandbox, "window": window, "store": store}
    print(json.dumps(parts[part](*(int(argument) for argument in arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])
