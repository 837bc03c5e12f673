"""The commands on what the relay keeps: through a running relay, and from its file after it has ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.errors import TransformError
from relay.models import Delivery, Request
from relay.stores.sqlite import SqliteStore
from tests.support.command import Ran, run
from tests.support.fake_inngest import FakeInngest
from tests.support.relay_process import RelayProcess, clean_environ, free_port, write_config

TRANSFORM = """function transform(evt, headers) {
  if (headers["X-Github-Event"] === "issues") throw new Error("no issues here");
  return { id: evt.id, name: "github/" + headers["X-Github-Event"], data: { text: "\\u001b[31mred" } };
}
"""
TOKEN = "an-operators-token"


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    process = RelayProcess(tmp_path)
    yield process
    process.end()


def configure(folder: Path, sink_url: str, **receiver: Any) -> None:
    sources: dict[str, dict[str, Any]] = {
        "github": {"provider": "github", "secrets": ["one", "two"], "transform": "plain.js"},
        "twilio": {"provider": "twilio", "secrets": ["an-auth-token"]},
        "wrong": {"provider": "github", "secrets": ["one"], "enabled": False},
    }
    scripts = {"plain.js": TRANSFORM}
    write_config(
        folder,
        sink_url,
        sources=sources,
        scripts=scripts,
        operator={"token": TOKEN},
        receiver={"port": free_port(), **receiver},
    )


async def command(folder: Path, *arguments: str, stdin: str = "") -> Ran:
    return await asyncio.to_thread(run, folder, *arguments, stdin=stdin)


async def settled(folder: Path, count: int, seconds: float = 15.0) -> list[dict[str, Any]]:
    """The deliveries, once so many of them are settled and no event waits."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found: list[dict[str, Any]] = (await command(folder, "deliveries", "--json")).json
        waiting = (await command(folder, "events", "--state", "pending", "--json")).json
        if sum(one["state"] != "received" for one in found) >= count and not waiting:
            return found
    raise AssertionError(f"not settled: {found}")


async def test_send_list_show_replay_prune(tmp_path: Path, relay: RelayProcess) -> None:
    async with FakeInngest() as inngest:
        configure(tmp_path, inngest.url)
        await relay.start()
        sent = await command(tmp_path, "send", "github", "--event", "push", "--env", "pr-1", "--json")
        assert (sent.code, sent.json["http_status"], sent.json["answer"]["status"]) == (0, 200, "accepted")
        first = sent.json["answer"]["id"]
        copy = ("send", "github", "--id", sent.json["delivery_id"], "--env", "pr-1", "--json")
        again = await command(tmp_path, *copy)
        assert (again.code, again.json["answer"]) == (0, {"id": first, "status": "duplicate"})
        assert (await command(tmp_path, "send", "twilio")).code == 0, "the URL that is signed is the receiver's"
        refused = await command(tmp_path, "send", "wrong")
        assert (refused.code, "source_disabled" in refused.out) == (1, True)
        dead = (await command(tmp_path, "send", "github", "--event", "issues", "--json")).json["answer"]["id"]
        states = {one["id"]: one["state"] for one in await settled(tmp_path, 3)}
        assert (states[first], states[dead]) == ("processed", "dead")

        await look(tmp_path, first, dead)
        await replay_and_prune(tmp_path, first, dead)
        assert await relay.stop() == 0
    await look_at_the_file(tmp_path)


async def look(folder: Path, first: str, dead: str) -> None:
    table = (await command(folder, "deliveries")).out
    assert table.splitlines()[0].split() == ["ID", "AGE", "SOURCE", "STATE", "EVENTS", "SIZE", "ENV", "CODE", "MESSAGE"]
    assert "no issues here" in table
    only = (await command(folder, "deliveries", "list", "--state", "dead", "--source", "github", "--json")).json
    assert [one["id"] for one in only] == [dead]
    newest = (await command(folder, "deliveries", "--limit", "1", "--json")).json
    older = (await command(folder, "deliveries", "--before", newest[0]["id"], "--json")).json
    assert (newest[0]["id"], len(older)) == (dead, 2)
    shown = (await command(folder, "deliveries", "show", dead)).out
    for word in ("script_raised: plain.js:2:", "X-GitHub-Event: issues", '"action": "opened"', "No events"):
        assert word in shown
    body = (await command(folder, "deliveries", "show", dead, "--body")).out
    assert body.encode()[:12] == b'{"action":"o'
    event = (await command(folder, "events", "--delivery", first, "--json")).json[0]
    assert (event["name"], event["environment"], event["state"]) == ("github/push", "pr-1", "sent")
    shown = (await command(folder, "events", "show", event["ref"])).out
    assert event["inngest_id"] in shown
    assert "\\x1b" not in shown, "what strangers send must not steer the terminal"
    for missing in (["deliveries", "show", "nope"], ["events", "show", "nope.0"]):
        assert (await command(folder, *missing)).code == 1


async def replay_and_prune(folder: Path, first: str, dead: str) -> None:
    refused = await command(folder, "replay", first)
    assert (refused.code, refused.out) == (1, "0 replayed, 1 refused\n")
    assert first in refused.err
    (folder / "plain.js").write_text(TRANSFORM)
    by_stdin = await command(folder, "replay", "-", "nope", "--json", stdin=f"{dead}\n{dead}\n")
    assert (by_stdin.code, by_stdin.json["replayed"], [one["id"] for one in by_stdin.json["refused"]]) == (
        1,
        [dead],
        ["nope"],
    )
    await settled(folder, 3)
    bulk = await command(folder, "replay", "--dead", "--source", "github", "--json")
    assert (bulk.code, bulk.json) == (0, {"replayed": [dead], "refused": []})
    await settled(folder, 3)
    assert (await command(folder, "replay", "--source", "twilio")).out == "nothing is dead of source twilio\n"
    afresh = await command(folder, "replay", "--again", first, "--env", "pr-2")
    assert (afresh.code, afresh.out) == (0, "1 replayed\n")
    await settled(folder, 3)
    environments = [one["environment"] for one in (await command(folder, "events", "--delivery", first, "--json")).json]
    assert sorted(environments) == ["pr-1", "pr-2"]
    assert (await command(folder, "prune")).out == "0 deliveries pruned\n"


async def look_at_the_file(folder: Path) -> None:
    """The relay has ended: the same commands, on its file."""
    assert len((await command(folder, "deliveries", "--json")).json) == 3
    replayed = await command(folder, "replay", "--dead")
    assert (replayed.code, replayed.out) == (0, "1 replayed\n")
    assert "taken up when one starts" in replayed.err
    assert [one["state"] for one in (await command(folder, "deliveries", "--json")).json].count("received") == 1
    pruned = await command(folder, "prune", "--older-than", "0d", "--json")
    assert pruned.json == {"pruned": 2}


async def test_more_than_a_page_is_replayed(tmp_path: Path, relay: RelayProcess) -> None:
    """1,001 dead ones: the cursor goes over the page's end, and over nothing twice."""
    configure(tmp_path, "http://127.0.0.1:9")
    store = await SqliteStore.open(
        tmp_path / "data" / "relay.db",
        clock_ms=lambda: time.time_ns() // 1_000_000,
        dedupe_hours=24,
        disk_free_bytes_min=0,
        queue_bytes_max=1 << 26,
    )
    request = Request("POST", "/in/github", "", (), b"{}")
    await store.accept([Delivery(f"01ARZ3NDEKTSV4RRFFQ6{n:06}", "github", None, 1, request) for n in range(1001)])
    while claims := await store.claim_deliveries(500, 60, {"github": 500}):
        for claim in claims:
            await store.fail_delivery(claim, TransformError("script_raised", "boom"))
    await store.close()
    done = await command(tmp_path, "replay", "--dead", "--json")
    assert (done.code, len(done.json["replayed"]), len(set(done.json["replayed"]))) == (0, 1001, 1001)
    assert len((await command(tmp_path, "deliveries", "--state", "received", "--limit", "2000", "--json")).json) == 1001


async def test_a_wrong_token_is_told(tmp_path: Path, relay: RelayProcess) -> None:
    configure(tmp_path, "http://127.0.0.1:9")
    await relay.start()
    text = (tmp_path / "relay.toml").read_text()
    (tmp_path / "other.toml").write_text(text.replace(TOKEN, "another-token-than-that"))
    ran = await command(tmp_path, "deliveries", "--config", "other.toml")
    assert ran.code == 3
    assert "operator.token" in ran.err
    assert "another-token" not in ran.err


async def test_a_store_in_use_is_told(tmp_path: Path, relay: RelayProcess) -> None:
    """The relay's operator listener is elsewhere: looking is possible, changing is not."""
    configure(tmp_path, "http://127.0.0.1:9")
    await relay.start()
    text = (tmp_path / "relay.toml").read_text()
    port = relay.operator_url.rpartition(":")[2]
    (tmp_path / "other.toml").write_text(text.replace(port, str(free_port())))
    assert (await command(tmp_path, "deliveries", "--json", "--config", "other.toml")).json == []
    assert (await command(tmp_path, "prune", "--config", "other.toml")).code == 3


async def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -m relay providers --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script], cwd=tmp_path, capture_output=True, check=False, env=clean_environ()
    )
    assert done.stdout.decode().endswith("0\n")
    assert done.stderr == b""


async def test_interrupted_is_130(tmp_path: Path) -> None:
    """Ctrl-C while the other side does not answer."""
    connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")  # from here on it waits for an answer
        connected.set_result(writer)

    server = await asyncio.start_server(taken, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    configure(tmp_path, "http://127.0.0.1:9")
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "send", "github", "--to", f"http://127.0.0.1:{port}/in/github"],
        cwd=tmp_path,
        env=clean_environ(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    writer = await asyncio.wait_for(connected, 20)
    os.kill(process.pid, signal.SIGINT)
    _, err = await asyncio.to_thread(process.communicate, timeout=20)
    assert (process.returncode, err) == (130, b"")
    writer.close()
    server.close()
    await server.wait_closed()


def test_json_is_one_document(tmp_path: Path) -> None:
    assert isinstance(json.loads(run(tmp_path, "providers", "--json").out), list)
