"""Public keys from the network: real TLS, a real proxy; cached, limited, and absent when they cannot be had."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relay import config
from relay.errors import ConfigError
from relay.keys import BURST, DOCUMENT_BYTES_MAX, HOSTS_MAX, PAUSE_SECONDS, WAITING_MAX, KeyResolver
from relay.telemetry import Telemetry
from relay.verify import Wanted
from tests.support.key_server import KeyServer, key_server

HOST = "keys.example.com"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def resolver(
    server: KeyServer, clock: Clock | None = None, log: io.StringIO | None = None, **settings: Any
) -> AsyncIterator[KeyResolver]:
    keys = config.Keys(**{"proxy": server.proxy, "ca_file": str(server.ca_file), "request_seconds": 3.0, **settings})
    made = KeyResolver(keys, Path(), Telemetry(log, as_json=True), clock or Clock())
    try:
        yield made
    finally:
        await made.close()


def asked(path: str = "/jwks", holds: bytes = b"", host: str = HOST) -> Wanted:
    return Wanted(f"https://{host}{path}", f"https://{host}{path}", holds=holds)


async def fetch(keys: KeyResolver, *wanted: Wanted) -> dict[str, bytes]:
    return await keys.documents(wanted)


async def test_a_document_is_fetched_once_and_then_known(tmp_path: Path) -> None:
    async with key_server(tmp_path, HOST) as server, resolver(server) as keys:
        server.says("/jwks", "the keys")
        found = await asyncio.gather(*(fetch(keys, asked()) for _ in range(20)))
        assert found == [{asked().name: b"the keys"}] * 20
        assert await fetch(keys, asked()) == {asked().name: b"the keys"}
        assert server.asked == [("GET", HOST, "/jwks")]


async def test_it_is_fetched_again_when_it_has_grown_old(tmp_path: Path) -> None:
    clock = Clock()
    async with key_server(tmp_path, HOST) as server, resolver(server, clock, cache_hours=1.0) as keys:
        server.says("/jwks", "old", headers={"Cache-Control": "public, max-age=600"})
        await fetch(keys, asked())
        server.says("/jwks", "new")
        clock.now += 599
        assert await fetch(keys, asked()) == {asked().name: b"old"}
        clock.now += 2
        assert await fetch(keys, asked()) == {asked().name: b"new"}


async def test_an_old_one_serves_while_its_server_is_away_but_not_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    async with key_server(tmp_path, HOST) as server, resolver(server, clock, cache_hours=1.0) as keys:
        server.says("/jwks", "old", headers={"Cache-Control": "max-age=600"})
        await fetch(keys, asked())
        server.says("/jwks", "", status=500)
        clock.now += 3000
        assert await fetch(keys, asked()) == {asked().name: b"old"}
        clock.now += 700
        assert await fetch(keys, asked()) == {}


async def test_an_unknown_key_is_asked_for_again_but_not_by_every_stranger(tmp_path: Path) -> None:
    clock = Clock()
    async with key_server(tmp_path, HOST) as server, resolver(server, clock) as keys:
        server.says("/jwks", "kid-1")
        await fetch(keys, asked(holds=b"kid-1"))
        for _ in range(5):
            assert await fetch(keys, asked(holds=b"kid-2")) == {asked().name: b"kid-1"}
        assert len(server.asked) == 1  # it was fetched a moment ago
        clock.now += PAUSE_SECONDS + 1
        server.says("/jwks", "kid-1 kid-2")
        assert await fetch(keys, asked(holds=b"kid-2")) == {asked().name: b"kid-1 kid-2"}
        assert len(server.asked) == 2


async def test_a_key_that_may_be_new_is_not_denied_by_an_old_document(tmp_path: Path) -> None:
    clock = Clock()
    async with key_server(tmp_path, HOST) as server, resolver(server, clock) as keys:
        server.says("/jwks", "kid-1")
        await fetch(keys, asked(holds=b"kid-1"))
        clock.now += PAUSE_SECONDS + 1
        server.says("/jwks", "", status=500)
        for _ in range(3):
            assert await fetch(keys, asked(holds=b"kid-2")) == {}  # 503, so that the provider sends it again
            assert await fetch(keys, asked(holds=b"kid-1")) == {asked().name: b"kid-1"}


async def test_a_failure_is_an_absent_document_and_has_a_pause(tmp_path: Path) -> None:
    clock, log = Clock(), io.StringIO()
    async with key_server(tmp_path, HOST) as server, resolver(server, clock, log) as keys:
        server.says("/jwks", "no", status=503)
        assert await fetch(keys, asked()) == {}
        server.says("/jwks", "yes")
        assert await fetch(keys, asked()) == {}
        assert len(server.asked) == 1
        clock.now += PAUSE_SECONDS + 1
        assert await fetch(keys, asked()) == {asked().name: b"yes"}
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["key.unreachable", "key.fetched"]
    assert (lines[0]["host"], lines[0]["reason"]) == (HOST, "the answer was HTTP 503")


async def test_one_that_fails_does_not_hide_the_others(tmp_path: Path) -> None:
    async with key_server(tmp_path, HOST) as server, resolver(server) as keys:
        server.says("/a", "A")
        assert await fetch(keys, asked("/a"), asked("/b")) == {asked("/a").name: b"A"}


async def test_a_body_is_posted_as_json(tmp_path: Path) -> None:
    async with key_server(tmp_path, HOST) as server, resolver(server) as keys:
        server.says("/get", "{}")
        assert await fetch(keys, Wanted("a name", f"https://{HOST}/get", body=b'{"key_id":"k"}')) == {"a name": b"{}"}
        assert (server.asked, server.bodies) == ([("POST", HOST, "/get")], [b'{"key_id":"k"}'])


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


REFUSED = {
    "redirect": ("", 302, {"Location": f"https://{HOST}/other"}, "HTTP 302"),
    "too large": ("x" * (DOCUMENT_BYTES_MAX + 1), 200, {}, "is over"),
    "not found": ("", 404, {}, "HTTP 404"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_answers_that_are_no_document(tmp_path: Path, case: str) -> None:
    text, status, headers, words = REFUSED[case]
    log = io.StringIO()
    async with key_server(tmp_path, HOST) as server, resolver(server, log=log) as keys:
        server.says("/jwks", text, status=status, headers=headers)
        server.says("/other", "elsewhere")
        assert await fetch(keys, asked()) == {}
        assert len(server.asked) == 1
    assert words in log.getvalue()


async def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    log = io.StringIO()
    async with key_server(tmp_path, HOST) as server, resolver(server, log=log, request_seconds=0.3) as keys:
        server.answers["/jwks"] = hang
        assert await fetch(keys, asked()) == {}
    assert "no answer within 0.3 s" in log.getvalue()


async def test_only_trusted_tls(tmp_path: Path) -> None:
    log = io.StringIO()
    (tmp_path / "other").mkdir()
    async with key_server(tmp_path, HOST) as server, key_server(tmp_path / "other", HOST) as stranger:
        server.says("/jwks", "forged")
        async with resolver(server, log=log, ca_file=str(stranger.ca_file)) as keys:
            assert await fetch(keys, asked()) == {}
        assert "TLS certificate is not trusted" in log.getvalue()
        async with resolver(server, log=log) as keys:
            assert await fetch(keys, Wanted("plain", f"http://{HOST}/jwks")) == {}
            assert await fetch(keys, asked(host="other.example.com")) == {}  # the proxy knows no way
        assert server.asked == []


async def test_never_without_tls() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="keys that anybody on the way could have changed")

    app = web.Application()
    app.router.add_get("/jwks", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    keys = KeyResolver(config.Keys(), Path(), Telemetry())
    try:
        assert await fetch(keys, Wanted("plain", f"http://127.0.0.1:{runner.addresses[0][1]}/jwks")) == {}
    finally:
        await keys.close()
        await runner.cleanup()


async def test_a_flood_of_names_is_limited_by_host(tmp_path: Path) -> None:
    clock = Clock()
    async with key_server(tmp_path, HOST) as server, resolver(server, clock) as keys:
        for number in range(BURST + 20):
            server.says(f"/{number}", "x")
        found = await fetch(keys, *(asked(f"/{number}") for number in range(BURST + 20)))
        assert BURST <= len(found) <= BURST + 5  # the bucket fills while they are fetched


async def test_a_flood_of_names_does_not_keep_a_known_document_from_being_renewed(tmp_path: Path) -> None:
    clock = Clock()
    async with key_server(tmp_path, HOST) as server, resolver(server, clock, cache_hours=1.0) as keys:
        server.says("/jwks", "old")
        await fetch(keys, asked())
        await fetch(keys, *(asked(f"/{number}") for number in range(BURST + 20)))
        assert not keys.budget_of(HOST).take()
        server.says("/jwks", "new")
        clock.now += 3601
        assert await fetch(keys, asked()) == {asked().name: b"new"}


async def test_a_flood_of_hosts_is_forgotten(tmp_path: Path) -> None:
    async with key_server(tmp_path, HOST) as server, resolver(server) as keys:
        server.says("/jwks", "the keys")
        flood = [asked(host=f"{number}.example.com") for number in range(HOSTS_MAX + 50)]
        assert await fetch(keys, *flood) == {}
        assert len(keys.budgets) == HOSTS_MAX
        for budget in keys.budgets.values():
            budget.at -= BURST
        assert await fetch(keys, asked()) == {asked().name: b"the keys"}
        assert list(keys.budgets) == [HOST]


async def test_a_server_that_hangs_holds_so_many_and_the_rest_is_told_at_once(tmp_path: Path) -> None:
    async with key_server(tmp_path, HOST) as server, resolver(server) as keys:
        going_on = asyncio.Event()

        async def answer(_: web.Request) -> web.Response:
            await going_on.wait()
            return web.Response(text="the keys")

        server.answers["/jwks"] = answer
        waiting = [asyncio.create_task(fetch(keys, asked())) for _ in range(WAITING_MAX)]
        await asyncio.sleep(0)
        assert await fetch(keys, asked()) == {}
        going_on.set()
        assert await asyncio.gather(*waiting) == [{asked().name: b"the keys"}] * WAITING_MAX
        assert await fetch(keys, asked()) == {asked().name: b"the keys"}
        assert len(server.asked) == 1


async def test_confirming_and_probing(tmp_path: Path) -> None:
    async with key_server(tmp_path, HOST) as server, resolver(server) as keys:
        server.says("/confirm", "<ok/>")
        assert await keys.confirm(f"https://{HOST}/confirm?Token=1")
        assert not await keys.confirm(f"https://{HOST}/gone")
        assert await keys.probe(HOST) is None  # any answer over TLS is one
        assert await keys.probe("other.example.com") is not None


def test_a_wrong_ca_file_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=name):
            KeyResolver(config.Keys(ca_file=name), tmp_path, Telemetry())  # type: ignore[arg-type]  # as TOML gives it
