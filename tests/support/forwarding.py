"""A forwarder at work between a real store and whatever its destinations are, for tests of stage 3."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.config import Destination
from relay.forwarder import Forwarder
from relay.inngest import InngestSink
from relay.models import Delivery, Event, EventRecord, EventState, Request
from relay.stores.sqlite import SqliteStore
from relay.telemetry import Telemetry

FAST: dict[str, Any] = {
    "event_key": "key",
    "batch_wait_ms": 5,
    "retry_delay_ms_min": 10,
    "retry_delay_ms_max": 80,
    "stopped_retry_seconds": 0.1,
    "request_seconds": 1.0,
}


class Clock:
    """The time of day, which a test may move."""

    moved_ms = 0

    def __call__(self) -> int:
        return int(time.time() * 1000) + self.moved_ms


@dataclass
class Stage:
    """A forwarder at work, and what is around it."""

    store: SqliteStore
    forwarder: Forwarder
    telemetry: Telemetry
    clock: Clock
    lines: io.StringIO
    path: Path

    async def put(self, ids: Iterable[str], *, to: str = "default", env: str | None = None, size: int = 0) -> None:
        """Store events of these ids as the stages before this one do, by one delivery."""
        now_ms = self.clock()
        delivery = Delivery(f"{time.time_ns():026d}", "test", None, now_ms, Request("POST", "/in/test", "", (), b""))
        events = []
        for event_id in ids:
            value = {"id": event_id, "name": "test/x", "data": {"s": "x" * size}, "ts": now_ms}
            events.append(Event(event_id, "test/x", now_ms, json.dumps(value).encode(), to, env))
        await self.store.accept([delivery])
        (claim,) = await self.store.claim_deliveries(1, 30, {"test": 1})
        await self.store.finish_delivery(claim, events)

    async def until(self, wanted: dict[EventState, int], seconds: float = 20.0) -> None:
        """Until so many events have each state (and no other events are there)."""

        async def reached() -> bool:
            counts = (await self.store.stats()).events
            return {str(state): n for state, n in counts.items() if n} == {str(s): n for s, n in wanted.items()}

        await wait_until(reached, seconds)

    async def records(self) -> list[EventRecord]:
        return await self.store.list_events(limit=1000)

    def logged(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.lines.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    def metric(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"relay_{name}", labels) or 0.0


async def wait_until(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def forwarding(path: Path, settings: dict[str, Destination], **options: Any) -> AsyncIterator[Stage]:
    clock, lines = Clock(), io.StringIO()
    async with AsyncExitStack() as stack:
        store = await SqliteStore.open(
            path, clock_ms=clock, dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 << 20
        )
        stack.push_async_callback(store.close)
        sinks = {name: InngestSink(destination) for name, destination in settings.items()}
        for sink in sinks.values():
            stack.push_async_callback(sink.close)
        telemetry = Telemetry(lines, as_json=True)
        forwarder = Forwarder(store, sinks, settings, telemetry, clock, **options)
        running = asyncio.create_task(forwarder.run())
        yield Stage(store, forwarder, telemetry, clock, lines, path)
        await forwarder.stop()
        await running
