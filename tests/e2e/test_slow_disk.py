"""A disk that does not answer for a while: an early 503 instead of a late answer, and no restart."""

from __future__ import annotations

import asyncio
import sqlite3
import time

import aiohttp

from tests.support import signing
from tests.support.fake_inngest import FakeInngest
from tests.support.relay_process import RelayProcess, write_config


async def test_webhooks_are_refused_early_while_the_disk_is_late(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    """Given a store's file that somebody else has locked, when a webhook has waited for longer than
    `store.wait_seconds_max`, then the next ones get 503 at once, and afterwards all of them are taken again."""
    write_config(relay.folder, inngest.url, store={"wait_seconds_max": 0.3})
    await relay.start()

    async def send(name: str) -> tuple[int, float]:
        """The status, and the seconds that it took."""
        body = signing.json_body(name)
        began = time.monotonic()
        url = f"{relay.receiver_url}/in/github"
        async with http.post(url, data=body, headers=signing.github(body, name)) as answer:
            if answer.status == 503:
                assert int(answer.headers["Retry-After"]) > 0
                assert (await answer.json())["error"]["code"] == "store_unavailable"
            return answer.status, time.monotonic() - began

    assert (await send("evt_before"))[0] == 200
    await inngest.wait_for(lambda: "evt_before" in inngest.ids())
    other = sqlite3.connect(relay.folder / "data" / "relay.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    first = asyncio.create_task(send("evt_first"))  # in the transaction that waits, or behind one that settles
    await asyncio.sleep(0.7)
    status, seconds = await send("evt_refused")
    assert (status, seconds < 0.3) == (503, True)
    other.execute("ROLLBACK")
    other.close()
    assert (await first)[0] in (200, 503)
    for name in ("evt_first", "evt_refused"):
        async with asyncio.timeout(10):
            while (await send(name))[0] != 200:  # as providers do
                await asyncio.sleep(0.02)
    await inngest.wait_for(lambda: {"evt_first", "evt_refused"} <= set(inngest.ids()))
    assert len(inngest.ids()) == 3
    assert await relay.stop() == 0
