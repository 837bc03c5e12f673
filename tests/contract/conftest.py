"""Every test here runs on every store there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.stores.sqlite import SqliteStore
from tests.support.store import Clock, CountingStore, OpenStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "sqlite, own process"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[OpenStore]:
    """Opens this test's store; closes at the end what the test left open."""
    opened: list[CountingStore] = []

    async def open_it(**settings: Any) -> CountingStore:
        settings = {"dedupe_hours": 24, "disk_free_bytes_min": 0, "queue_bytes_max": 64 << 20, **settings}
        settings["own_process"] = "process" in request.param
        store = await SqliteStore.open(tmp_path / "data" / "relay.db", clock_ms=clock, **settings)
        opened.append(store)
        return store

    yield open_it
    for store in reversed(opened):
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> CountingStore:
    return await open_store()
