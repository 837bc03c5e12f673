"""A pen with what judges and stores what is in it, for tests of rejected requests: all real, without a receiver."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.config import Config, parse_config
from relay.errors import Rejected
from relay.judge import Judge
from relay.keys import KeyResolver
from relay.rejected import RejectedRequests
from relay.sources import RunningSource, load_sources
from relay.stores.pen import Pen
from relay.stores.sqlite import SqliteStore
from relay.telemetry import Telemetry
from tests.support.pen import open_pen
from tests.support.requests import request_to
from tests.support.store import Clock

HOST = "https://relay.example"


def configuration(sources: Mapping[str, Mapping[str, Any]], **tables: Any) -> Config:
    table = {"destinations": {"default": {"url": "http://127.0.0.1:9"}}, "sources": sources, **tables}
    return parse_config(table, {}, None)


@dataclass
class Desk:
    """`sources` may be changed in place, as a reload does."""

    sources: dict[str, RunningSource]
    store: SqliteStore
    pen: Pen
    judge: Judge
    requests: RejectedRequests
    telemetry: Telemetry
    clock: Clock

    def configure(self, **sources: Mapping[str, Any]) -> None:
        self.sources.clear()
        self.sources.update(load_sources(configuration(sources)))

    async def refuse(self, name: str, headers: Mapping[str, str], body: bytes, url: str | None = None) -> str:
        """A request goes through the judge, which refuses it; its id in the pen."""
        url = url or f"{HOST}/in/{name}"
        answer = await self.judge.judge(self.sources[name], request_to(url, headers, body), url)
        assert isinstance(answer, Rejected)
        found = await self.pen.list_rejected(limit=1)
        assert (found[0].source, found[0].code, found[0].body_bytes) == (name, answer.code, len(body))
        return found[0].id


@asynccontextmanager
async def open_desk(folder: Path, sources: Mapping[str, Mapping[str, Any]], **tables: Any) -> AsyncIterator[Desk]:
    config, clock, telemetry = configuration(sources, **tables), Clock(), Telemetry(io.StringIO(), as_json=True)
    running = load_sources(config)
    store = await SqliteStore.open(
        folder / "relay.db", clock_ms=clock, dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 << 20
    )
    pen, keys = open_pen(folder / "rejected.db", clock), KeyResolver(config.keys, folder, telemetry)
    judge = Judge(store, keys, pen, config.receiver, clock)
    try:
        requests = RejectedRequests(pen, store, judge, running, telemetry)
        yield Desk(running, store, pen, judge, requests, telemetry, clock)
    finally:
        await keys.close()
        await pen.close()
        await store.close()
