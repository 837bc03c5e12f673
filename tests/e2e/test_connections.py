"""What senders do below the level of requests: bytes that are no HTTP, half-closed and broken connections, floods."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.connection import ACCEPTS_MAX
from tests.support.relay_process import GITHUB_SECRET, LANES, RelayProcess, write_config

NOWHERE = "http://127.0.0.1:9"  # nothing listens there: events wait
SOURCES: dict[str, dict[str, Any]] = {
    "github": {"provider": "github", "secrets": [GITHUB_SECRET], "transform": "plain.js"},
    "open": {"provider": "none", "transform": "plain.js"},
    "token": {"provider": "token", "secrets": ["sesame"], "scheme": {"query": "token"}, "transform": "plain.js"},
}


@pytest.fixture(params=LANES)
async def serving(relay: RelayProcess, request: pytest.FixtureRequest) -> RelayProcess:
    write_config(relay.folder, NOWHERE, sources=SOURCES, receiver=relay.lane(request.param))
    return await relay.start()


async def connect(relay: RelayProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = relay.receiver_url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(relay: RelayProcess, sent: bytes, *, half_close: bool = False) -> bytes:
    """Everything that is answered until the relay closes the connection."""
    reader, writer = await connect(relay)
    writer.write(sent)
    if half_close:
        writer.write_eof()
    answered = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answered


def request(
    target: bytes = b"/in/open", *, method: bytes = b"POST", headers: bytes = b"", body: bytes = b'{"id":1}'
) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return method + b" " + target + b" HTTP/1.1\r\nHost: r\r\n" + headers + length + b"\r\n" + body


LAST = b"Connection: close\r\n"


async def kept(http: aiohttp.ClientSession, relay: RelayProcess) -> list[dict[str, Any]]:
    async with http.get(f"{relay.operator_url}/api/deliveries") as answer:
        found: list[dict[str, Any]] = (await answer.json())["deliveries"]
        return found


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (request(headers=b"Transfer-Encoding: chunked\r\n"), 400, "request_malformed"),
        (request(headers=b"Content-Length: 8\r\n"), 400, "request_malformed"),
        (request(headers=b"Content-Length: -1\r\n"), 400, "request_malformed"),
        (request().replace(b"Content-Length: 8", b"Transfer-Encoding: chunked"), 400, "request_malformed"),
        (request(headers=b"X-Secret-Name : a\r\n"), 400, "request_malformed"),
        (request(headers=b"X-A: a\0b\r\n"), 400, "request_malformed"),
        (request(b"/in/token?token=sesame\x01"), 400, "request_malformed"),
        (request(b"/in/token?token=sesame", method=b"sesame"), 400, "request_malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "request_malformed"),
        (request(headers=b"X-Long: " + b"sesame" * 3000 + b"\r\n"), 431, "headers_too_large"),
        (request(b"/in/token?token=" + b"sesame" * 3000), 431, "headers_too_large"),
        (request(headers=b"".join(b"X-%d: 1\r\n" % number for number in range(500))), 431, "headers_too_large"),
        (request(b"*", method=b"OPTIONS", headers=LAST), 404, "unknown_source"),
        (b"CONNECT sesame:1 HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n", 404, "unknown_source"),
    ],
)
async def test_what_is_no_request_is_answered_in_the_contracts_form(
    serving: RelayProcess, http: aiohttp.ClientSession, sent: bytes, status: int, code: str
) -> None:
    answered = await exchange(serving, sent)
    head, _, body = answered.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"application/json" in head
    assert json.loads(body)["error"]["code"] == code
    assert b"sesame" not in body
    line = await serving.wait_for_log("delivery.rejected")
    assert (line["source"], line["code"]) == ("_unknown", code)
    assert "sesame" not in serving.log_text()
    assert "library.warned" not in serving.log_text()
    assert await kept(http, serving) == []


async def test_pipelined_requests_are_answered_in_order(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    sent = request() + request(b"/in/nobody") + request(b"/in/github") + request(method=b"GET", body=b"")
    answered = await exchange(serving, sent + request(headers=LAST))
    assert re.findall(rb"HTTP/1.1 (\d+) ", answered) == [b"200", b"404", b"401", b"405", b"200"]
    assert len(await kept(http, serving)) == 2


@pytest.mark.parametrize("step", [1, 7, 60])
async def test_a_request_in_pieces_is_one_and_the_connection_stays(
    serving: RelayProcess, http: aiohttp.ClientSession, step: int
) -> None:
    """Also when the pieces take longer than the fast lane waits, and what follows comes whole again."""
    reader, writer = await connect(serving)
    for sent, pause in ((request(), 0.0), (request(), 0.3), (request(), 0.0)):
        for at in range(0, len(sent), step):
            writer.write(sent[at : at + step])
            await writer.drain()
            await asyncio.sleep(pause if at == step else 0)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
    writer.close()
    assert len(await kept(http, serving)) == 3


async def test_a_half_closed_connection_still_gets_its_answer(
    serving: RelayProcess, http: aiohttp.ClientSession
) -> None:
    answered = await exchange(serving, request(), half_close=True)
    assert answered.startswith(b"HTTP/1.1 200")
    assert len(await kept(http, serving)) == 1


async def test_what_was_pipelined_before_the_sender_ended_is_answered_or_not_kept(
    serving: RelayProcess, http: aiohttp.ClientSession
) -> None:
    """The fast lane answers all three, aiohttp the first; neither keeps what it does not answer."""
    answered = await exchange(serving, request() + request(b"/in/nobody") + request(), half_close=True)
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", answered)
    assert statuses in ([b"200"], [b"200", b"404", b"200"])
    assert len(await kept(http, serving)) == statuses.count(b"200")


async def test_who_does_not_read_answers_is_not_read_either(relay: RelayProcess) -> None:
    """Twenty megabytes of requests: the relay stops reading long before, and goes on when its answers are taken.

    In the fast lane only: aiohttp 3.14.5 itself, also without us, now and then stops reading for good when thousands of
    requests are pipelined whose bodies are refused unread and the machine is busy.
    """
    write_config(relay.folder, NOWHERE, sources=SOURCES)
    serving = await relay.start()
    count, one = 2500, request(b"/in/nobody", body=b"x" * 8000)
    reader, writer = await connect(serving)
    writer.transport.set_write_buffer_limits(high=0)
    sending = asyncio.create_task(send_all(writer, one * count))
    await asyncio.sleep(0)
    try:
        for _ in range(count):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            assert head.startswith(b"HTTP/1.1 404 ")
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            await reader.readexactly(int(length[1]))
        await sending
    finally:
        sending.cancel()
        writer.close()


async def send_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_a_chunk_that_is_malformed_is_refused_when_it_comes(
    serving: RelayProcess, http: aiohttp.ClientSession
) -> None:
    reader, writer = await connect(serving)
    writer.write(b"POST /in/open HTTP/1.1\r\nHost: r\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 100")
    writer.write(b"zz\r\n")
    answered = await asyncio.wait_for(reader.read(), 10)  # receiver.body_seconds is 30
    writer.close()
    assert answered.startswith(b"HTTP/1.1 400")
    assert b"request_malformed" in answered
    assert "surprise.met" not in serving.log_text()
    assert await kept(http, serving) == []


@pytest.mark.parametrize("half_close", [True, False])
async def test_a_body_that_is_cut_short_is_neither_kept_nor_a_surprise(
    serving: RelayProcess, http: aiohttp.ClientSession, half_close: bool
) -> None:
    for head in (b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
        reader, writer = await connect(serving)
        writer.write(b"POST /in/open HTTP/1.1\r\nHost: r\r\n" + head)
        await writer.drain()
        if half_close:
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.transport.abort()
    assert (await exchange(serving, request(headers=LAST))).startswith(b"HTTP/1.1 200")
    assert len(await kept(http, serving)) == 1
    assert {line["level"] for line in serving.log_lines() if line["event"].startswith(("lib", "sur"))} == set()


async def test_a_request_that_names_the_whole_url_means_its_path(
    serving: RelayProcess, http: aiohttp.ClientSession
) -> None:
    answered = await exchange(serving, request(b"http://r/in/open?a=%20b", headers=LAST))
    delivery_id = json.loads(answered.partition(b"\r\n\r\n")[2])["id"]
    async with http.get(f"{serving.operator_url}/api/deliveries/{delivery_id}") as answer:
        asked = (await answer.json())["request"]
    assert (asked["path"], asked["query"]) == ("/in/open", "a=%20b")


async def test_a_flood_of_connections_leaves_files_for_the_relay(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    limited = ("sh", "-c", 'ulimit -n 256; exec "$0" "$@"', sys.executable, "-m", "relay")
    relay = RelayProcess(tmp_path, program=limited)
    write_config(relay.folder, NOWHERE, sources=SOURCES)
    try:
        await relay.start()
        async with contextlib.AsyncExitStack() as stack:
            first, *_ = [stack.enter_context(connected(relay)) for _ in range(80)]
            async with http.get(f"{relay.operator_url}/readyz") as answer:
                assert answer.status == 200
            first.sendall(request(headers=LAST))
            assert (await asyncio.to_thread(first.recv, 100)).startswith(b"HTTP/1.1 200")
            assert (await relay.wait_for_log("delivery.rejected"))["code"] == "overloaded"
            assert "library.warned" not in relay.log_text()
        deadline = time.monotonic() + 10
        while not await is_accepted(http, relay):
            assert time.monotonic() < deadline
    finally:
        relay.end()


def connected(relay: RelayProcess) -> socket.socket:
    host, port = relay.receiver_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


async def is_accepted(http: aiohttp.ClientSession, relay: RelayProcess) -> bool:
    try:
        async with http.post(f"{relay.receiver_url}/in/open", data=b'{"id":2}') as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
async def test_the_receiver_accepts_several_connections_in_a_turn(serving: RelayProcess) -> None:
    """Its one listening socket is there so often (tests/unit/test_listening.py shows what that does)."""
    port = int(serving.receiver_url.rsplit(":", 1)[1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]  # listening
    assert serving.process is not None
    files = [os.readlink(file) for file in Path(f"/proc/{serving.process.pid}/fd").iterdir()]
    assert files.count(f"socket:[{inode}]") == ACCEPTS_MAX
