"""What waited while the relay was down is worked off in bounded memory."""

from __future__ import annotations

import json
import time
from pathlib import Path

from relay.models import Delivery, Request
from relay.stores.sqlite import SqliteStore
from tests.support.fake_inngest import FakeInngest
from tests.support.relay_process import RelayProcess, write_config

MIB = 1024 * 1024
SOURCES = tuple(f"source{number}" for number in range(8))
DELIVERIES = 8
SCRIPT = 'function transform(evt) { return { id: evt.id, name: "big/seen", data: { characters: evt.pad.length } }; }'


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def keep_big_deliveries(path: Path) -> set[str]:
    """As an earlier run leaves them; the ids of the events that they will be."""
    store = await SqliteStore.open(
        path, clock_ms=now_ms, dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 * MIB
    )
    ids = [f"{source}-{number}" for number in range(DELIVERIES) for source in SOURCES]
    for event_id in ids:
        body = json.dumps({"id": event_id, "pad": "x" * 4_000_000}).encode()
        source = event_id.partition("-")[0]
        request = Request("POST", f"/in/{source}", "", ((b"Content-Type", b"application/json"),), body)
        await store.accept([Delivery(event_id, source, event_id, now_ms(), request)])
    await store.close()
    return set(ids)


def peak_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))


async def test_big_bodies_of_many_sources_are_worked_off_in_little_memory(
    relay: RelayProcess, inngest: FakeInngest
) -> None:
    sources = {source: {"provider": "none", "transform": "size.js"} for source in SOURCES}
    write_config(
        relay.folder,
        inngest.url,
        scripts={"size.js": SCRIPT},
        sources=sources,
        sandbox={"deadline_ms": 5000},
    )
    expected = await keep_big_deliveries(relay.folder / "data" / "relay.db")
    await relay.start()
    await inngest.wait_for(lambda: expected <= set(inngest.ids()), seconds=30)
    assert relay.process is not None
    assert peak_mib(relay.process.pid) < 260
    assert await relay.stop() == 0
