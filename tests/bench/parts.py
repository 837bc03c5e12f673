"""Parts that are measured alone, each in a process on one core.

`python -m tests.bench.parts sandbox BYTES SECONDS | window IDS | store DELIVERIES` prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import _quickjs

from relay.config import Sandbox
from relay.models import Delivery, Request
from relay.sandbox import Call, SandboxPool, Script
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_file import open_writer
from relay.stores.sqlite_seen import TABLES_PER_WINDOW, Seen
from relay.telemetry import Telemetry
from tests.bench.processes import ROOT, bench_folder
from tests.bench.signed import MARK, charge

HOUR_MS: Final = 3_600_000
WINDOW_MS: Final = 24 * HOUR_MS
GROUP: Final = 64
IN_FLIGHT: Final = 16
HEADERS: Final = json.dumps({"Content-Type": "application/json", "User-Agent": "Stripe/1.0"})
CALLED: Final = """
function call(raw, headers, query) {
  return JSON.stringify(transform(JSON.parse(raw), JSON.parse(headers), JSON.parse(query), raw));
}
"""


def sandbox(size_bytes: int, seconds: float) -> dict[str, float]:
    """Calls a second through the pool, one child on the relay's own core, and of the engine called right here."""
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

    async def keep_calling(until: float) -> None:
        nonlocal done
        while time.perf_counter() < until:
            answer = await pool.run(script, Call(raw, None, HEADERS, "{}"))
            assert isinstance(answer, str)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(keep_calling(began + seconds) for _ in range(IN_FLIGHT)))
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
    """New ids a second, 64 a commit, into a window that knows none and one that knows so many; and the pause when
    the oldest part of it is dropped.
    """
    with folder() as made:
        empty = new_ids(Seen(fresh(made / "empty.db"), WINDOW_MS))
        connection = fresh(made / "full.db")
        seen = Seen(connection, WINDOW_MS)
        fill(connection, seen, ids)
        full = new_ids(seen)
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        assert seen.drop_expired(now_of(TABLES_PER_WINDOW + 2))  # the first part's last id is past the window
        connection.execute("COMMIT")
        pause_ms = (time.perf_counter() - began) * 1000
    return {"empty_per_second": empty, "full_per_second": full, "pause_ms": pause_ms}


def fresh(path: Path) -> sqlite3.Connection:
    path.touch()
    return open_writer(path)


def now_of(part: int) -> int:
    """A time in the part of the window with this number."""
    return 20_000 * WINDOW_MS + part * (WINDOW_MS // TABLES_PER_WINDOW) + 1


def fill(connection: sqlite3.Connection, seen: Seen, ids: int) -> None:
    """Every part of the window but the last, with hashes in order, which is the quick way to make the same table."""
    for part in range(1, TABLES_PER_WINDOW + 1):
        connection.execute("BEGIN IMMEDIATE")
        assert seen.is_new("default", None, f"first of {part}", now_of(part))
        end = (now_of(part) // (WINDOW_MS // TABLES_PER_WINDOW) + 1) * (WINDOW_MS // TABLES_PER_WINDOW)
        rows = sorted(os.urandom(16) for _ in range(ids // TABLES_PER_WINDOW))
        connection.executemany(f"INSERT INTO seen_{end} VALUES (?, ?)", ((row, now_of(part)) for row in rows))
        connection.execute("COMMIT")


def new_ids(seen: Seen, groups: int = 400) -> float:
    connection, began = seen._connection, time.perf_counter()
    for _ in range(groups):
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(GROUP):
            assert seen.is_new("default", None, os.urandom(12).hex(), now_of(TABLES_PER_WINDOW))
        connection.execute("COMMIT")
    return groups * GROUP / (time.perf_counter() - began)


def store(deliveries: int) -> dict[str, float]:
    """Deliveries a second that the store takes, 64 at a time: the first twentieth and the last of so many."""
    with folder() as made:
        return asyncio.run(fill_store(made / "relay.db", deliveries))


async def fill_store(path: Path, deliveries: int) -> dict[str, float]:
    opened = await SqliteStore.open(
        path,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        dedupe_hours=24,
        disk_free_bytes_min=0,
        queue_bytes_max=64 * 1024 * 1024,
    )
    rates = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(deliveries // 20 // GROUP):
            await asyncio.gather(*(opened.accept([delivery()]) for _ in range(GROUP)))
        rates.append(deliveries // 20 // GROUP * GROUP / (time.perf_counter() - began))
    await opened.close()
    return {"first_per_second": rates[0], "last_per_second": rates[-1], "bytes": float(path.stat().st_size)}


def delivery() -> Delivery:
    name = f"evt_{os.urandom(12).hex()}"
    request = Request(
        "POST", "/in/stripe", "", ((b"Content-Type", b"application/json"),), BODY.replace(b"ID", name.encode())
    )
    return Delivery(name, "stripe", name, time.time_ns() // 1_000_000, request)


BODY: Final = charge(2048).replace(MARK.encode(), b"ID")


def main(part: str, *arguments: str) -> None:
    parts: dict[str, Callable[..., Any]] = {"sandbox": sandbox, "window": window, "store": store}
    print(json.dumps(parts[part](*(int(argument) for argument in arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])
