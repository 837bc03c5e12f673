"""Start, stop and the ways a start is refused, with real processes and signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import aiohttp
import pytest

from relay import compiled
from tests.support import signing
from tests.support.command import run
from tests.support.relay_process import LANES, RelayProcess, free_port, write_config

NOWHERE = "http://127.0.0.1:9"


def children_of(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    parent = int(stat.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(name))
    return found


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(params=LANES)
def lane(relay: RelayProcess, request: pytest.FixtureRequest) -> dict[str, bool]:
    return relay.lane(request.param)


async def test_sigterm_answers_what_it_holds_and_exits_0(
    relay: RelayProcess, http: aiohttp.ClientSession, lane: dict[str, bool]
) -> None:
    write_config(relay.folder, NOWHERE, receiver=lane)
    await relay.start()
    body = signing.json_body("evt_slow")
    reader, writer = await asyncio.open_connection(*relay.receiver_url.removeprefix("http://").split(":"))
    head = "".join(f"{k}: {v}\r\n" for k, v in signing.github(body, "slow").items())
    writer.write(
        f"POST /in/github HTTP/1.1\r\nHost: r\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body[:5]
    )
    async with http.get(f"{relay.operator_url}/healthz") as answer:  # the request above is in its handler by now
        assert answer.status == 200
    assert relay.process is not None
    relay.process.send_signal(signal.SIGTERM)
    await relay.wait_for_log("relay.stopping")
    with pytest.raises(OSError):
        await asyncio.open_connection(*relay.receiver_url.removeprefix("http://").split(":"))
    writer.write(body[5:])
    answer_head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert answer_head.startswith(b"HTTP/1.1 200")
    writer.close()
    began = time.monotonic()
    assert await relay.stop() == 0
    assert time.monotonic() - began < 10


async def test_sigterm_during_a_hung_body_still_ends_within_ten_seconds(
    relay: RelayProcess, lane: dict[str, bool]
) -> None:
    write_config(relay.folder, NOWHERE, receiver=lane)
    await relay.start()
    _, writer = await asyncio.open_connection(*relay.receiver_url.removeprefix("http://").split(":"))
    writer.write(b"POST /in/github HTTP/1.1\r\nHost: r\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()
    began = time.monotonic()
    assert await relay.stop() == 0
    assert time.monotonic() - began < 10
    writer.close()


async def test_more_sigterms_change_nothing(relay: RelayProcess) -> None:
    write_config(relay.folder, NOWHERE)
    await relay.start()
    assert relay.process is not None
    deadline = time.monotonic() + 12
    while relay.process.poll() is None:  # also in its very last moments
        relay.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.001)
        assert time.monotonic() < deadline
    assert relay.process.returncode == 0, relay.log_text()[-2000:]


async def test_sigterm_under_load_leaves_nothing_stored_unanswered(
    relay: RelayProcess, http: aiohttp.ClientSession, lane: dict[str, bool]
) -> None:
    write_config(relay.folder, NOWHERE, receiver=lane)
    await relay.start()
    senders = [asyncio.create_task(send_until_closed(relay.receiver_url, number)) for number in range(20)]
    deadline = time.monotonic() + 10
    while sum(line.get("event") == "delivery.accepted" for line in relay.log_lines()) < 100:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert await relay.stop() == 0
    acknowledged = [delivery_id for of_one in await asyncio.gather(*senders) for delivery_id in of_one]
    await relay.start()
    async with http.get(f"{relay.operator_url}/api/stats") as answer:
        kept = sum((await answer.json())["deliveries"].values())
    assert kept == len(acknowledged) == len(set(acknowledged))


async def send_until_closed(url: str, number: int) -> list[str]:
    """Webhooks one after another on one connection until it is closed, between two answers: the ids acknowledged."""
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    head = b""
    ids: list[str] = []
    while b"connection: close" not in head.lower():
        body = signing.json_body(f"evt_{number}_{len(ids)}")
        named = {**signing.github(body, f"d-{number}-{len(ids)}"), "Host": "r", "Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        writer.write(f"POST /in/github HTTP/1.1\r\n{lines}\r\n".encode() + body)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            break
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        ids.append(json.loads(await reader.readexactly(length))["id"])
    writer.close()
    return ids


async def test_children_die_with_a_killed_relay(relay: RelayProcess) -> None:
    write_config(relay.folder, NOWHERE)
    await relay.start()
    assert relay.process is not None
    children = children_of(relay.process.pid)
    assert children
    relay.kill()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in children):
        assert time.monotonic() < deadline, "a sandbox child outlived its relay"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_of_the_whole_group_leaves_the_scripts_their_drain(relay: RelayProcess, number: int) -> None:
    """A terminal sends its SIGINT, and systemd its SIGTERM, to the sandbox's children too."""
    write_config(relay.folder, NOWHERE)
    await relay.start()
    assert relay.process is not None
    os.killpg(relay.process.pid, number)
    assert await asyncio.to_thread(relay.process.wait, 12) == 0
    assert "child.lost" not in relay.log_text()


async def test_ready_and_healthy(relay: RelayProcess, http: aiohttp.ClientSession) -> None:
    write_config(relay.folder, NOWHERE)
    await relay.start()
    for path in ("/healthz", "/readyz", "/metrics"):
        async with http.get(relay.operator_url + path) as answer:
            assert answer.status == 200, path


async def test_a_second_relay_on_the_same_store_is_refused(relay: RelayProcess) -> None:
    write_config(relay.folder, NOWHERE)
    await relay.start()
    config = (relay.folder / "relay.toml").read_text()
    lines = [f'"port" = {free_port()}' if line.startswith('"port"') else line for line in config.splitlines()]
    (relay.folder / "other.toml").write_text("\n".join(lines))
    second = run(relay.folder, "serve", "--config", "other.toml")
    assert second.code in (2, 3)
    assert "Traceback" not in second.err
    assert relay.process is not None
    assert str(relay.process.pid) in second.err


async def test_a_port_in_use_is_named_with_its_key(relay: RelayProcess) -> None:
    with subprocess.Popen([sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        write_config(relay.folder, NOWHERE, receiver={"port": port})
        refused = run(relay.folder, "serve")
        holder.kill()
    assert refused.code == 2
    assert "receiver.port" in refused.err
    assert str(port) in refused.err
    assert "Traceback" not in refused.err


LISTEN = """
import socket, time
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True); time.sleep(60)
"""


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[sources.x]\nprovider = 'github'\n", "sources.x.secrets"),
        ("[sources.x]\nprovider = 'githup'\nsecrets = ['s']\n", "github"),
        ("[sources.x]\nprovider = 'none'\ntransform = 'absent.js'\n", "absent.js"),
        ("[sources.x]\nprovider = 'none'\ntransform = 'broken.js'\n", "broken.js:2"),
        ("[sources.x]\nprovider = 'none'\ntransform = 'nameless.js'\n", "no function named transform"),
        ("[reciever]\nport = 1\n", "receiver"),
        ("[receiver]\nports = 1\n", "port"),
        ("[operator]\nhost = '0.0.0.0'\n", "token"),
        ("[sources.x]\nprovider = 'github'\nsecrets = ['${NOT_SET_ANYWHERE}']\n", "NOT_SET_ANYWHERE"),
        ("[sources.x]\nprovider = 'none'\ndestination = 'other'\n", "destinations.other"),
        ("not toml", "TOML"),
    ],
)
async def test_a_wrong_configuration_is_refused_with_the_place_and_the_remedy(
    relay: RelayProcess, toml: str, said: str
) -> None:
    destination = "" if toml == "not toml" else f"[destinations.default]\nurl = '{NOWHERE}'\n"
    (relay.folder / "relay.toml").write_text(destination + toml)
    (relay.folder / "broken.js").write_text("function transform(evt) {\n  return { name: ;\n}\n")
    (relay.folder / "nameless.js").write_text("function other() {}")
    refused = run(relay.folder, "serve")
    assert refused.code == 2
    assert not (relay.folder / "data").exists()
    assert "relay.toml" in refused.err
    assert said in refused.err
    assert "Traceback" not in refused.err


async def test_serve_without_a_configuration_says_what_to_do(relay: RelayProcess) -> None:
    refused = run(relay.folder, "serve")
    assert refused.code == 2
    assert "relay.example.toml" in refused.err


async def test_the_start_tells_whether_compiled_code_runs(relay: RelayProcess) -> None:
    """That it does makes a relay quicker; whoever wonders why one is slower finds it there."""
    write_config(relay.folder, NOWHERE)
    await relay.start()
    assert (await relay.wait_for_log("relay.started"))["compiled"] is compiled.IS_COMPILED
    await relay.stop()
    relay.lane("fast lane in Python")
    await relay.start()
    assert (await relay.wait_for_log("relay.started"))["compiled"] is False
