"""The ordinary way in Python: an aiohttp.web handler that verifies, stores and deduplicates before its 200.

`python -m tests.bench.ordinary PORT FOLDER`: what the relay's way to the 200 is without the relay: no fast lane, no
sources, no environments, no limits but one, nothing behind it. SQLite in WAL mode with synchronous=FULL; a thread
commits whatever waits in one transaction.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import queue
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import uvloop
from aiohttp import web

from tests.bench.servers import BODY_BYTES_MAX, Identified, serve
from tests.bench.signed import SECRET

TOLERANCE_SECONDS: Final = 300
GROUP_MAX: Final = 512
SCHEMA: Final = """
    PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 256;
    CREATE TABLE deliveries (seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, received_ms INTEGER NOT NULL,
                             headers TEXT NOT NULL, body BLOB NOT NULL);
"""
INSERT: Final = "INSERT INTO deliveries (key, received_ms, headers, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
Row: TypeAlias = tuple[str, int, str, bytes]
Waiting: TypeAlias = "tuple[Row, asyncio.Future[bool]]"


class Writer:
    """One thread that owns the file; `store` returns after the fsync, True for an id that was not there before."""

    def __init__(self, file: Path) -> None:
        self.file, self.loop = file, asyncio.get_running_loop()
        self.queue: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    async def store(self, row: Row) -> bool:
        stored: asyncio.Future[bool] = self.loop.create_future()
        self.queue.put((row, stored))
        return await stored

    def work(self) -> None:
        connection = sqlite3.connect(self.file, isolation_level=None)
        connection.executescript(SCHEMA)
        while True:
            group = [self.queue.get()]
            while len(group) < GROUP_MAX and not self.queue.empty():
                group.append(self.queue.get())
            try:
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    new = [connection.execute(INSERT, row).rowcount == 1 for row, _ in group]
            except sqlite3.Error as error:
                self.loop.call_soon_threadsafe(answer, group, error)
            else:
                self.loop.call_soon_threadsafe(answer, group, new)


def answer(group: list[Waiting], outcome: list[bool] | Exception) -> None:
    """To each of the group its own outcome, or to all that the commit failed: aiohttp makes a 500 of it."""
    for number, (_, stored) in enumerate(group):
        if stored.done():  # its request was cancelled
            continue
        if isinstance(outcome, Exception):
            stored.set_exception(outcome)
        else:
            stored.set_result(outcome[number])


def genuine(header: str, body: bytes) -> bool:
    """Whether one of the header's v1 signatures is that of the time and the body, and the time is about now."""
    parts = [part.partition("=")[::2] for part in header.split(",")]
    stamp = dict(parts).get("t", "")
    if not stamp.isdecimal() or abs(time.time() - int(stamp)) > TOLERANCE_SECONDS:
        return False
    expected = hmac.digest(SECRET.encode(), b"%b.%b" % (stamp.encode(), body), "sha256").hex()
    return any(name == "v1" and hmac.compare_digest(given.encode(), expected.encode()) for name, given in parts)


async def ordinary(file: Path) -> web.Application:
    writer = Writer(file)

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if not genuine(request.headers.get("Stripe-Signature", ""), body):
            return web.json_response({"error": "not genuine"}, status=401)
        key = msgspec.json.decode(body, type=Identified).id
        headers = json.dumps(dict(request.headers))
        new = await writer.store((key, time.time_ns() // 1_000_000, headers, body))
        return web.json_response({"id": key, "duplicate": not new})

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/in/stripe", take)
    return app


async def main(port: int, folder: Path) -> None:
    await serve(await ordinary(folder / "ordinary.db"), port)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
