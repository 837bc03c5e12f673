"""Every handshake through a running relay: answered to the byte, and neither stored nor transformed."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from relay.presets import load_preset
from tests.support.command import Ran, run
from tests.support.fake_inngest import FakeInngest
from tests.support.handshakes import Case, case, cases
from tests.support.key_server import key_server
from tests.support.relay_process import RelayProcess, write_config
from tests.support.requests import NOW

SNS = "sns.us-east-1.amazonaws.com"
NOWHERE = "http://127.0.0.1:9"  # nothing listens there: events wait
TASK = b'{"events":[{"action":"changed","resource":{"gid":"1","resource_type":"task"},"created_at":"2025-10-09"}]}'


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def source_of(each: Case) -> dict[str, Any]:
    source: dict[str, Any] = {"provider": each.preset, "scheme": dict(each.options)}
    if not load_preset(each.preset).keeps_secrets:
        source["secrets"] = list(each.secrets) or ["not used by this handshake"]
    return source


async def send(relay: RelayProcess, name: str, each: Case) -> Answer:
    """The request byte for byte, over a connection of its own."""
    query = urlsplit(each.url).query
    lines = [f"{each.method} /in/{name}{'?' if query else ''}{query} HTTP/1.1", "Host: relay.example.test"]
    lines += [f"{header}: {value}" for header, value in each.headers.items()]
    lines += [f"Content-Length: {len(each.body)}"] if each.method == "POST" else []
    address = urlsplit(relay.receiver_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + each.body)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, *rest = head.decode().split("\r\n")
    return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in rest), body)


async def stats(relay: RelayProcess, http: aiohttp.ClientSession) -> dict[str, int]:
    async with http.get(f"{relay.operator_url}/api/stats") as answer:
        found: dict[str, int] = (await answer.json())["deliveries"]
    return found


async def command(relay: RelayProcess, *words: str) -> Ran:
    return await asyncio.to_thread(run, relay.folder, *words)


async def test_every_handshake_is_answered_and_kept_nowhere(
    relay: RelayProcess, inngest: FakeInngest, http: aiohttp.ClientSession
) -> None:
    named = {f"source-{number}": each for number, each in enumerate(cases())}
    async with key_server(relay.folder, SNS) as server:
        server.says("/", "<ConfirmSubscriptionResponse/>")
        write_config(
            relay.folder,
            inngest.url,
            sources={name: source_of(each) for name, each in named.items()},
            receiver={"clock_s": NOW},
            keys={"proxy": server.proxy, "ca_file": str(server.ca_file)},
        )
        await relay.start()
        for name, each in named.items():
            answer = await send(relay, name, each)
            assert (answer.status, answer.body) == (each.status, each.answer_body), each.name
            assert {key: answer.headers.get(key) for key in each.answer_headers} == dict(each.answer_headers), each.name
            assert not {"Set-Cookie", "Transfer-Encoding"} & set(answer.headers), each.name
        assert server.asked == [("GET", SNS, "/")]
        assert set((await stats(relay, http)).values()) == {0}
        await relay.stop()
    lines = [line for line in relay.log_lines() if line["event"] == "handshake.answered"]
    assert [line["source"] for line in lines] == list(named)
    assert not inngest.accepted


async def test_a_subscription_that_cannot_be_confirmed_is_to_be_sent_again(relay: RelayProcess) -> None:
    each = case("sns")
    async with key_server(relay.folder, SNS) as server:  # which answers 404
        keys = {"proxy": server.proxy, "ca_file": str(server.ca_file)}
        sources = {"sns": source_of(each)}
        write_config(relay.folder, NOWHERE, sources=sources, receiver={"clock_s": NOW}, keys=keys)
        await relay.start()
        assert (await send(relay, "sns", each)).status == 503
        server.says("/", "")
        assert (await send(relay, "sns", each)).status == 200
        await relay.stop()


async def test_what_is_not_genuine_is_refused_like_any_request(
    relay: RelayProcess, http: aiohttp.ClientSession
) -> None:
    """Discord and Xero send wrong signatures on purpose, and want 401."""
    signed = {f"source-{number}": each for number, each in enumerate(cases()) if each.signed}
    sources = {name: source_of(each) for name, each in signed.items()}
    meta = case("meta")
    sources["meta"] = source_of(meta)
    write_config(relay.folder, NOWHERE, sources=sources, receiver={"clock_s": NOW})
    await relay.start()
    for name, each in signed.items():
        body = each.body.replace(b"{", b"{ ", 1).replace(b"2336412f37fake", b"2336412f38fake")
        assert (await send(relay, name, replace(each, body=body))).status == 401, each.name
        assert (await send(relay, name, replace(each, method="GET", body=b""))).status == 405, each.name
    wrong = await send(relay, "meta", replace(meta, url=meta.url.replace("fake-verify", "guess")))
    assert (wrong.status, b"verify_token_mismatch" in wrong.body) == (403, True)
    assert set((await stats(relay, http)).values()) == {0}


def signed_with(secret: str) -> Case:
    signature = hmac.digest(secret.encode(), TASK, "sha256").hex()
    headers = {"Content-Type": "application/json", "X-Hook-Signature": signature}
    return replace(case("asana"), headers=headers, body=TASK)


def bringing(secret: str) -> Case:
    return replace(case("asana"), headers={"X-Hook-Secret": secret})


async def test_asanas_secret_outlasts_a_kill_and_only_an_operator_lets_another_in(relay: RelayProcess) -> None:
    first, second = str(case("asana").keeps), "another-webhook's-secret"
    write_config(relay.folder, NOWHERE, sources={"asana": {"provider": "asana"}})
    await relay.start()
    assert (await send(relay, "asana", signed_with(first))).status == 401
    answer = await send(relay, "asana", case("asana"))
    assert (answer.status, answer.headers["X-Hook-Secret"]) == (200, first)
    relay.kill()

    await relay.start()
    assert (await send(relay, "asana", signed_with(first))).status == 200
    assert (await send(relay, "asana", bringing(first))).status == 200, "the same one again is no other"
    refused = await send(relay, "asana", bringing(second))
    assert (refused.status, b"pairing_closed" in refused.body, second.encode() in refused.body) == (403, True, False)
    assert (await send(relay, "asana", signed_with(second))).status == 401

    assert (await command(relay, "secrets", "open", "asana")).code == 0
    assert (await send(relay, "asana", bringing(second))).status == 200
    for secret in (first, second):
        assert (await send(relay, "asana", signed_with(secret))).status == 200
    assert (await command(relay, "secrets", "show", "asana")).out == f"{second}\n{first}\n"
    assert (await command(relay, "secrets", "forget", "asana", "1")).code == 0
    assert (await send(relay, "asana", signed_with(first))).status == 401
    assert not any(secret in relay.log_text() for secret in (first, second))


@pytest.mark.parametrize("configured", [True, False])
async def test_a_source_with_a_secret_of_its_own_believes_no_stranger(relay: RelayProcess, configured: bool) -> None:
    source = {"provider": "asana", "secrets": ["ours"]} if configured else {"provider": "asana"}
    write_config(relay.folder, NOWHERE, sources={"asana": source})
    await relay.start()
    answers = await asyncio.gather(*(send(relay, "asana", bringing(f"stranger-{number}")) for number in range(20)))
    statuses = sorted(answer.status for answer in answers)
    assert statuses == ([403] * 20 if configured else [200, *[403] * 19])


async def test_a_refused_method_learns_the_right_ones_before_its_body_is_sent(relay: RelayProcess) -> None:
    write_config(relay.folder, NOWHERE, sources={"dropbox": {"provider": "dropbox", "secrets": ["key"]}})
    await relay.start()
    address = urlsplit(relay.receiver_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"PUT /in/dropbox HTTP/1.1\r\nHost: r\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET, POST\r\n" in head
