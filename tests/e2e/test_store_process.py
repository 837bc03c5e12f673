"""The store's writer as a process of its own: what happens when it or the relay is killed, stopped or interrupted."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from tests.support import signing
from tests.support.fake_inngest import FakeInngest
from tests.support.relay_process import RelayProcess, command_of, write_config

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")


async def send(http: aiohttp.ClientSession, relay: RelayProcess, name: str) -> int:
    """The status, 0 when there was no answer."""
    body = signing.json_body(name)
    try:
        async with http.post(
            f"{relay.receiver_url}/in/github", data=body, headers=signing.github(body, name)
        ) as answer:
            return answer.status
    except (aiohttp.ClientError, OSError):
        return 0


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while command_of(pid):
            await asyncio.sleep(0.01)


async def test_when_the_writer_is_killed_the_relay_says_so_and_a_new_start_has_everything(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url, store={"writer": "process"})
    await relay.start()
    acknowledged: set[str] = set()
    statuses: set[int] = set()
    running = True

    async def keep_sending(sender: int) -> None:
        number = 0
        while running:
            name, number = f"evt_{sender}_{number}", number + 1
            status = await send(http, relay, name)
            statuses.add(status)
            acknowledged.update([name] if status == 200 else [])
            if status == 0:
                return

    senders = [asyncio.create_task(keep_sending(sender)) for sender in range(16)]
    async with asyncio.timeout(20):
        while len(acknowledged) < 300:
            await asyncio.sleep(0.01)
    os.kill(relay.writer_pid(), signal.SIGKILL)
    assert relay.process is not None
    assert await asyncio.to_thread(relay.process.wait, 15) == 3
    running = False
    await asyncio.gather(*senders)
    assert "the store's writer" in relay.log_text()
    assert "SIGKILL" in relay.log_text()
    assert "Traceback" not in relay.log_text()
    assert statuses <= {200, 503, 0}
    await relay.start()
    await inngest.wait_for(lambda: acknowledged <= set(inngest.ids()), seconds=30)
    assert await relay.stop() == 0


async def test_when_the_relay_is_killed_its_writer_goes_and_the_file_is_free(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url, store={"writer": "process"})
    await relay.start()
    writer = relay.writer_pid()
    assert await send(http, relay, "evt_1") == 200
    os.kill(writer, signal.SIGSTOP)  # so that it cannot go by itself
    relay.kill()
    await gone(writer)
    began = time.monotonic()
    await relay.start()
    assert time.monotonic() - began < 5
    assert await relay.stop() == 0


async def test_signals_for_the_whole_group_are_the_relays_alone(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    """Ctrl-C and some supervisors signal every process of a service: the writer is needed to the end."""
    write_config(relay.folder, inngest.url, store={"writer": "process"})
    await relay.start()
    assert relay.process is not None
    writer = relay.writer_pid()
    assert await send(http, relay, "evt_1") == 200
    os.killpg(relay.process.pid, signal.SIGINT)
    assert await asyncio.to_thread(relay.process.wait, 15) == 0
    await gone(writer)
    assert not (relay.folder / "data" / "relay.db-wal").exists(), "the store was not closed properly"


async def test_a_writer_that_hangs_means_503_and_then_it_goes_on(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url, store={"writer": "process", "wait_seconds_max": 0.3})
    await relay.start()
    writer = relay.writer_pid()
    os.kill(writer, signal.SIGSTOP)
    try:
        caught = asyncio.create_task(send(http, relay, "evt_caught"))  # may be in the group that hangs
        await asyncio.sleep(0.05)
        assert await send(http, relay, "evt_late") == 503
        assert await send(http, relay, "evt_later") == 503
    finally:
        os.kill(writer, signal.SIGCONT)
    status = await caught
    assert status in (200, 503)
    expected = {"evt_again"} | ({"evt_caught"} if status == 200 else set())
    async with asyncio.timeout(10):
        while await send(http, relay, "evt_again") != 200:  # as providers do: what hung has to be answered first
            await asyncio.sleep(0.02)
    await inngest.wait_for(lambda: expected <= set(inngest.ids()), seconds=20)
    assert await relay.stop() == 0


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_an_answer_during_a_stop_is_told_to_be_the_last(
    relay: RelayProcess, inngest: FakeInngest, fast_lane: bool
) -> None:
    """Given a request that waits for the disk when the relay is told to stop, then it is answered 200 in its time, and
    the connection is closed with the answer saying so.
    """
    write_config(relay.folder, inngest.url, store={"writer": "process"}, receiver={"fast_lane": fast_lane})
    await relay.start()
    assert relay.process is not None
    host, port = relay.receiver_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = signing.json_body("evt_1")
    headers = {"Host": host, "Content-Length": str(len(body)), **signing.github(body, "evt_1")}
    os.kill(relay.writer_pid(), signal.SIGSTOP)
    try:
        head = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
        writer.write(f"POST /in/github HTTP/1.1\r\n{head}\r\n".encode() + body)
        async with asyncio.timeout(10):
            while not await held(relay):
                await asyncio.sleep(0.02)
        relay.process.send_signal(signal.SIGTERM)
        await relay.wait_for_log("relay.stopping")
    finally:
        os.kill(relay.writer_pid(), signal.SIGCONT)
    answered = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answered
    assert await asyncio.to_thread(relay.process.wait, 15) == 0


async def held(relay: RelayProcess) -> bool:
    """Whether the relay has read what came: nothing waits in the kernel for it to read."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    port = f":{int(relay.receiver_url.rsplit(':', 1)[1]):04X}"
    ours = [row for row in rows if row[1].endswith(port) and row[3] == "01"]
    return bool(ours) and all(row[4].endswith(":00000000") for row in ours)


async def test_on_one_core_it_is_a_thread(relay: RelayProcess, inngest: FakeInngest) -> None:
    write_config(relay.folder, inngest.url)
    relay.program = ("taskset", "-c", str(min(os.sched_getaffinity(0))), *relay.program)
    await relay.start()
    assert relay.writer_pids() == []
    assert await relay.stop() == 0
