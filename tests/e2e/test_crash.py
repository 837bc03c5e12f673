"""SIGKILL at random moments, again and again: every acknowledged webhook arrives, and none under two ids.

What is checked is counted at the far end: the fake Inngest keeps what it accepted, with bodies.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import aiohttp
import pytest

from tests.support import signing
from tests.support.fake_inngest import FakeInngest, Mode
from tests.support.relay_process import RelayProcess, write_config

ROUNDS = int(os.environ.get("RELAY_CRASH_ROUNDS", "6"))
SENDERS = 16
#: Events that Inngest refuses in the variant where everything goes wrong, and how else it errs there.
POISON = tuple(f"evt_{number}" for number in range(7, 2000, 80))
TROUBLES = [
    Mode(status=503),
    Mode(status=429, retry_after="0"),
    Mode(status=401),
    Mode(reset="before"),
    Mode(reset="after"),
    Mode(hang=0.2),
    Mode(text="<html>"),
    Mode(fewer_ids=1),
    Mode(body_bytes_max=10_000),
    Mode(cancel=3),
    Mode(cancel_holes=True),
]
#: Two events a webhook, one with its own id and one whose id the relay makes.
SCRIPT = """
function transform(evt, headers) {
  return [
    { id: evt.id, name: "crash/first", data: { of: evt.id, filler: evt.filler } },
    { name: "crash/second", data: { of: evt.id } },
  ];
}
"""


@dataclass
class Senders:
    """Providers that send new webhooks, and send again what was not answered 200, as providers do."""

    url: str
    http: aiohttp.ClientSession
    acknowledged: set[str] = field(default_factory=set)
    sent: int = 0
    stopping: bool = False

    async def run(self) -> None:
        await asyncio.gather(*(self.send_for_ever() for _ in range(SENDERS)))

    async def send_for_ever(self) -> None:
        while not self.stopping:
            self.sent += 1
            identity = f"evt_{self.sent}"
            while not await self.send(identity) and not self.stopping:
                await asyncio.sleep(0.02)

    async def send(self, identity: str) -> bool:
        body = signing.json_body(identity, filler=random.randbytes(random.choice((5, 250, 2500))).hex())
        try:
            async with self.http.post(self.url, data=body, headers=signing.github(body, f"d-{identity}")) as answer:
                if answer.status == 200:
                    self.acknowledged.add(identity)
                else:
                    assert answer.status == 503, answer.status
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False  # killed while it was sent: whether it was stored nobody knows, so it is sent again


@pytest.mark.timeout(300)
@pytest.mark.parametrize("writer", ["thread", "process"])
@pytest.mark.parametrize("sink", ["quick", "slow and failing", "failing in every way"])
async def test_nothing_acknowledged_is_lost(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest, sink: str, writer: str
) -> None:
    """Given senders at concurrency, when the relay is killed at random moments and started again, then every
    acknowledged webhook's events arrive, no event id arrives with two contents, and repeats are only batches that
    were in flight at a kill.
    """
    poison = set(POISON) if sink == "failing in every way" else set[str]()
    if sink != "quick":
        inngest.set_mode(Mode(refuse=POISON) if poison else Mode(slow=0.05))
    write_config(relay.folder, inngest.url, scripts={"plain.js": SCRIPT}, store={"writer": writer})
    await relay.start()
    senders = Senders(f"{relay.receiver_url}/in/github", http)
    sending = asyncio.create_task(senders.run())
    in_flight_max = 0
    for round_number in range(ROUNDS):
        await asyncio.sleep(random.uniform(0.05, 0.8))
        if poison:
            inngest.set_mode(replace(random.choice(TROUBLES), refuse=POISON, times=3), key="test-key")
            in_flight_max += 3 * 512
        elif sink != "quick" and round_number % 2:
            inngest.set_mode(Mode(status=503, times=3))
        relay.kill()
        in_flight_max += 512
        await relay.start()
    senders.stopping = True
    await sending
    expected = senders.acknowledged
    assert len(expected) > ROUNDS * 5, "hardly anything was sent: the test would prove nothing"

    def arrived() -> set[str]:
        both = defaultdict(set)
        for got in inngest.accepted:
            both[got.event["data"]["of"]].add(got.event["name"])
        return {of for of, names in both.items() if len(names) == 2 or (of in poison and "crash/second" in names)}

    try:
        await inngest.wait_for(lambda: expected <= arrived(), seconds=60)
    except TimeoutError:
        missing = sorted(expected - arrived())
        pytest.fail(f"{len(missing)} of {len(expected)} acknowledged webhooks never arrived whole: {missing[:5]}")

    contents = defaultdict(set)
    ids_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    for got in inngest.accepted:
        contents[got.event["id"]].add(json.dumps(got.event, sort_keys=True))
        ids_of[got.event["data"]["of"], got.event["name"]].add(got.event["id"])
    assert [identity for identity, texts in contents.items() if len(texts) > 1] == []
    assert [one for one, ids in ids_of.items() if len(ids) > 1] == []
    assert poison.isdisjoint(contents)
    repeats = sum(count - 1 for count in Counter(inngest.ids()).values())
    assert repeats <= in_flight_max
    assert await relay.stop() == 0


async def test_an_idle_relay_that_was_killed_sends_nothing_twice(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url)
    await relay.start()
    for number in range(20):
        body = signing.json_body(f"evt_{number}")
        async with http.post(
            f"{relay.receiver_url}/in/github", data=body, headers=signing.github(body, f"d{number}")
        ) as r:
            assert r.status == 200
    await inngest.wait_for(lambda: len(inngest.accepted) == 20)
    await settled(relay, http, 20)
    for _ in range(2):
        relay.kill()
        await relay.start()
    body = signing.json_body("evt_last")
    async with http.post(f"{relay.receiver_url}/in/github", data=body, headers=signing.github(body, "last")) as r:
        assert r.status == 200
    await inngest.wait_for(lambda: "evt_last" in inngest.ids())
    assert Counter(inngest.ids()) == Counter([*(f"evt_{n}" for n in range(20)), "evt_last"])


async def settled(relay: RelayProcess, http: aiohttp.ClientSession, count: int, seconds: float = 10.0) -> None:
    """Until so many events are in state sent."""
    async with asyncio.timeout(seconds):
        while True:
            async with http.get(f"{relay.operator_url}/api/stats") as answer:
                if (await answer.json())["events"].get("sent", 0) >= count:
                    return
            await asyncio.sleep(0.02)
