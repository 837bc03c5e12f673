"""A wrong secret, a person who corrects it, and nothing lost: rejected requests through real processes."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import signing
from tests.support.command import Ran, run
from tests.support.fake_inngest import FakeInngest
from tests.support.pen import metric_of
from tests.support.relay_process import GITHUB_SECRET, STRIPE_SECRET, RelayProcess, write_config

WRONG = "the-secret-before-it-was-changed"
TOKEN = "an-operators-token"


async def command(folder: Path, *arguments: str, stdin: str = "") -> Ran:
    return await asyncio.to_thread(run, folder, *arguments, stdin=stdin)


def configure(relay: RelayProcess, sink_url: str, secret: str = WRONG, **sections: Any) -> None:
    sources = {"github": {"provider": "github", "secrets": [secret], "transform": "plain.js"}}
    write_config(relay.folder, sink_url, sources=sources, operator={"token": TOKEN}, **sections)


def correct(relay: RelayProcess) -> None:
    path = relay.folder / "relay.toml"
    path.write_text(path.read_text().replace(WRONG, GITHUB_SECRET))


async def post(
    http: aiohttp.ClientSession, relay: RelayProcess, body: bytes, delivery: str, secret: str = GITHUB_SECRET
) -> tuple[int, str]:
    headers = signing.github(body, delivery, secret=secret)
    async with http.post(f"{relay.receiver_url}/in/github", data=body, headers=headers) as answer:
        document = await answer.json()
        return answer.status, document.get("error", {}).get("code") or document["status"]


async def test_kept_corrected_accepted_after_a_restart(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    """The commands work on the files while no relay runs."""
    configure(relay, inngest.url)
    await relay.start()
    for number in range(3):
        body = signing.json_body(f"evt_{number}")
        assert await post(http, relay, body, f"d-{number}") == (401, "signature_mismatch")
    assert await post(http, relay, signing.json_body("forged"), "d-9", "a forger's") == (401, "signature_mismatch")
    assert await relay.stop() == 0

    found = (await command(relay.folder, "rejected", "--json")).json
    assert [one["code"] for one in found] == ["signature_mismatch"] * 4
    before = await command(relay.folder, "rejected", "verify", "--all")
    assert (before.code, "0 of 4 are genuine" in before.err) == (1, True)
    correct(relay)
    verified = await command(relay.folder, "rejected", "verify", "--all")
    assert (verified.code, verified.out.count("genuine"), "3 of 4" in verified.err) == (0, 3, True)
    accepted = await command(relay.folder, "rejected", "accept", "--all")
    assert (accepted.code, accepted.out) == (0, "3 accepted, 1 not genuine\n")
    assert "taken up when one starts" in accepted.err
    assert (await command(relay.folder, "rejected", "accept", "--all")).code == 1, "only the forged one is left"

    await relay.start()
    await inngest.wait_for(lambda: len(inngest.ids()) >= 3, seconds=15)
    assert sorted(inngest.ids()) == ["evt_0", "evt_1", "evt_2"]
    assert await relay.stop() == 0


async def test_looked_at_and_accepted_through_the_running_relay(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    configure(relay, inngest.url)
    await relay.start()
    bodies = [signing.json_body(f"evt_{number}", filler="é" * number) for number in range(3)]
    for number, body in enumerate(bodies):
        await post(http, relay, body, f"d-{number}")
    found = (await command(relay.folder, "rejected", "list", "--source", "github", "--json")).json
    last, middle, first = (one["id"] for one in found)
    logged = [line["id"] for line in relay.log_lines() if line["event"] == "delivery.rejected"]
    assert logged == [first, middle, last]  # what to give to `relay rejected show`
    table = (await command(relay.folder, "rejected")).out
    assert table.splitlines()[0].split() == ["ID", "AGE", "SOURCE", "SIZE", "BODY", "CODE", "DETAIL"]
    await look(relay, first, last, bodies)

    correct(relay)
    await relay.wait_for_log("config.reloaded")
    one = await command(relay.folder, "rejected", "accept", first)
    assert (one.code, one.out) == (0, "1 accepted\n")
    again = await command(relay.folder, "rejected", "accept", first, "-", stdin=f"{middle}\n")
    assert (again.code, again.out) == (1, "1 accepted, 1 refused\n")
    assert f"{first}: not_found" in again.err
    assert await post(http, relay, bodies[2], "d-2") == (200, "accepted"), "the provider's own retry was quicker"
    rest = await command(relay.folder, "rejected", "accept", "--all", "--json")
    assert [one["duplicate"] for one in rest.json["accepted"]] == [True]
    await inngest.wait_for(lambda: len(inngest.ids()) >= 3, seconds=15)
    assert sorted(inngest.ids()) == ["evt_0", "evt_1", "evt_2"]
    assert (await command(relay.folder, "rejected")).err.strip() == "relay: no rejected requests"
    assert (await command(relay.folder, "rejected", "verify", "--all")).code == 0
    assert metric_of(await metrics(relay, http), "relay_rejected_kept_total", source="github") == 3


async def look(relay: RelayProcess, first: str, last: str, bodies: list[bytes]) -> None:
    page = (await command(relay.folder, "rejected", "--before", last, "--limit", "1", "--json")).json
    assert len(page) == 1
    shown = await command(relay.folder, "rejected", "show", first)
    for text in ("signature_mismatch", "X-GitHub-Delivery: d-0", "POST /in/github", f"{len(bodies[0])} B"):
        assert text in shown.out
    assert "evt_0" not in shown.out, "a body is shown to those who ask for it"
    assert (await command(relay.folder, "rejected", "show", last, "--body")).out.encode() == bodies[2]
    done = await command(relay.folder, "rejected", "show", last, "--body", "body.json")
    assert (done.code, (relay.folder / "body.json").read_bytes()) == (0, bodies[2])
    (relay.folder / "saved.json").write_text((await command(relay.folder, "rejected", "show", first, "--json")).out)
    explained = await command(relay.folder, "verify", "saved.json", "--source", "github", "--json")
    assert explained.json["genuine"] is (explained.code == 0)
    assert any(bodies[0].decode()[:40] in step["found"] for step in explained.json["steps"])
    assert (await command(relay.folder, "rejected", "show", "nobody")).code == 1
    for wrong in (["verify"], ["accept", "--all", first], ["accept", first, "--source", "github"]):
        assert (await command(relay.folder, "rejected", *wrong)).code == 2
    assert (await command(relay.folder, "rejected", "--code", "stale")).code == 2


async def metrics(relay: RelayProcess, http: aiohttp.ClientSession) -> str:
    async with http.get(f"{relay.operator_url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        return await answer.text()


async def test_a_stale_one_needs_a_persons_word(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    sources = {"stripe": {"provider": "stripe", "secrets": [STRIPE_SECRET], "transform": "plain.js"}}
    write_config(relay.folder, inngest.url, sources=sources)
    await relay.start()
    body = signing.json_body("evt_old")
    headers = signing.stripe(body, at=time.time() - 3600)
    async with http.post(f"{relay.receiver_url}/in/stripe", data=body, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (401, "timestamp_stale")
    found = (await command(relay.folder, "rejected", "--code", "timestamp_stale", "--json")).json[0]
    shown = (await command(relay.folder, "rejected", "show", found["id"])).out
    assert re.search(r"360\d s ago, the tolerance is 300 s", shown)
    refused = await command(relay.folder, "rejected", "accept", found["id"])
    assert (refused.code, "timestamp_stale" in refused.err) == (1, True)
    assert (await command(relay.folder, "rejected", "verify", found["id"], "--stale")).code == 0
    taken = await command(relay.folder, "rejected", "accept", found["id"], "--stale")
    assert (taken.code, taken.out) == (0, "1 accepted\n")
    await inngest.wait_for(lambda: inngest.ids() == ["evt_old"], seconds=15)


@pytest.mark.parametrize("nothing", ["count_max", "bytes_max", "hours"])
async def test_0_keeps_nothing(relay: RelayProcess, http: aiohttp.ClientSession, nothing: str) -> None:
    configure(relay, "http://127.0.0.1:9", rejected={nothing: 0})
    await relay.start()
    assert await post(http, relay, b"{}", "d-1") == (401, "signature_mismatch")
    assert (await command(relay.folder, "rejected", "--json")).json == []
    assert not (relay.folder / "data" / "rejected.db").exists()


async def test_a_pen_that_cannot_be_opened_refuses_no_start(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    configure(relay, inngest.url, GITHUB_SECRET)
    (relay.folder / "data" / "rejected.db").mkdir(parents=True)
    await relay.start()
    for number in range(3):
        assert (await post(http, relay, b"{}", f"d-{number}", "wrong"))[0] == 401
    body = signing.json_body("evt_1")
    assert await post(http, relay, body, "d-9") == (200, "accepted")
    await inngest.wait_for(lambda: inngest.ids() == ["evt_1"], seconds=15)
    await relay.wait_for_log("pen.lost")
    assert [line["event"] for line in relay.log_lines()].count("pen.lost") == 1
    assert (await command(relay.folder, "rejected")).code == 3
    assert await relay.stop() == 0


async def test_a_flood_of_forgeries_does_not_slow_the_receiver(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    """1,000 forgeries of 100 KB: the genuine ones among them are taken, and the pen stays within its bounds."""
    configure(relay, inngest.url, GITHUB_SECRET)
    await relay.start()
    forged, genuine = b"x" * 100_000, [signing.json_body(f"evt_{number}") for number in range(20)]

    async def flood() -> None:
        for _ in range(100):
            assert (await post(http, relay, forged, "d-x", "wrong"))[0] == 401

    async def deliver() -> None:
        for number, body in enumerate(genuine):
            assert await post(http, relay, body, f"d-{number}") == (200, "accepted")

    await asyncio.gather(deliver(), *(flood() for _ in range(10)))
    await inngest.wait_for(lambda: len(inngest.ids()) == 20, seconds=20)
    found = (await command(relay.folder, "rejected", "--limit", "1000", "--json")).json
    assert 20 <= len(found) <= 41, "4 MiB hold that many"
    assert (relay.folder / "data" / "rejected.db").stat().st_size < 6 << 20
    text = await metrics(relay, http)
    kept = metric_of(text, "relay_rejected_kept_total", source="github")
    assert kept >= len(found)
    assert kept + metric_of(text, "relay_rejected_dropped_total", source="github") == 1000, "each is counted"
