"""The receiver's contract, against a real `relay serve`: what every kind of request is answered, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hmac
import json
import time
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import brotli
import pytest
import zstandard

from tests.support import signing
from tests.support.relay_process import GITHUB_SECRET, LANES, STRIPE_SECRET, RelayProcess, write_config

NOWHERE = "http://127.0.0.1:9"  # nothing listens there: events wait
SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"

SOURCES: dict[str, dict[str, Any]] = {
    "github": {"provider": "github", "secrets": ["an older secret", GITHUB_SECRET], "transform": "plain.js"},
    "stripe": {"provider": "stripe", "secrets": [STRIPE_SECRET], "transform": "plain.js"},
    "slack": {"provider": "slack", "secrets": [SLACK_SECRET], "transform": "plain.js"},
    "open": {"provider": "none", "transform": "plain.js", "environments_allowed": ["pr-*"]},
    "asleep": {"provider": "none", "enabled": False},
    "xero": {"provider": "xero", "secrets": ["a webhook key"], "transform": "plain.js"},
}
BODY_BYTES_MAX = 64 * 1024


@pytest.fixture(params=LANES)
async def serving(relay: RelayProcess, request: pytest.FixtureRequest) -> RelayProcess:
    receiver = {"body_bytes_max": BODY_BYTES_MAX, "body_seconds": 1.0, **relay.lane(request.param)}
    write_config(relay.folder, NOWHERE, sources=SOURCES, receiver=receiver)
    return await relay.start()


async def post(http: aiohttp.ClientSession, url: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
    async with http.post(url, data=body, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


async def stored(http: aiohttp.ClientSession, relay: RelayProcess, delivery_id: str) -> dict[str, Any]:
    async with http.get(f"{relay.operator_url}/api/deliveries/{delivery_id}") as answer:
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
        return found


async def stored_body(http: aiohttp.ClientSession, relay: RelayProcess, delivery_id: str) -> bytes:
    async with http.get(f"{relay.operator_url}/api/deliveries/{delivery_id}/body") as answer:
        assert answer.status == 200
        return await answer.read()


async def count(http: aiohttp.ClientSession, relay: RelayProcess) -> int:
    async with http.get(f"{relay.operator_url}/api/deliveries?limit=1000") as answer:
        return len((await answer.json())["deliveries"])


async def test_genuine_is_accepted_and_the_same_again_is_a_duplicate(
    serving: RelayProcess, http: aiohttp.ClientSession
) -> None:
    body = signing.json_body("evt_1")
    url = f"{serving.receiver_url}/in/github"
    status, first, _ = await post(http, url, body, **signing.github(body, "d-1"))
    assert (status, first["status"]) == (200, "accepted")
    assert len(first["id"]) == 26
    status, second, _ = await post(http, url, body, **signing.github(body, "d-1"))
    assert (status, second) == (200, {"id": first["id"], "status": "duplicate"})
    status, third, _ = await post(http, url, body, **signing.github(body, "d-2"))
    assert (status, third["status"]) == (200, "accepted")
    assert third["id"] != first["id"]


async def test_a_header_that_comes_twice_counts_when_it_says_the_same(
    serving: RelayProcess, http: aiohttp.ClientSession
) -> None:
    body, url = signing.json_body("evt_1"), f"{serving.receiver_url}/in/github"
    signed = [*signing.github(body, "d-1").items(), ("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "10.0.0.2")]
    for headers, status in (
        (signed, "accepted"),
        ([*signed, *signed[1:]], "duplicate"),
        ([*signed, signed[0]], None),  # the type of the body may be said once
        ([*signed, ("X-Hub-Signature-256", "sha256=" + "0" * 64)], None),
    ):
        async with http.post(url, data=body, headers=headers) as answer:
            assert (await answer.json()).get("status") == status


REFUSALS: list[tuple[str, dict[str, str], int, str]] = [
    ("/in/github", {}, 401, "signature_missing"),
    ("/in/github", {"X-Hub-Signature-256": "sha256=" + "0" * 64}, 401, "signature_mismatch"),
    ("/in/github", {"X-Hub-Signature-256": ""}, 401, "signature_missing"),
    ("/in/nobody", {}, 404, "unknown_source"),
    ("/", {}, 404, "unknown_source"),
    ("/in/github/more", {}, 404, "unknown_source"),
    ("/healthz", {}, 404, "unknown_source"),
    ("/in/asleep", {}, 404, "source_disabled"),
    ("/in/open", {"Content-Encoding": "lzma"}, 415, "unsupported_encoding"),
    ("/in/open", {"Content-Encoding": "gzip"}, 400, "body_undecodable"),
    ("/in/open", {"x-inngest-env": "production"}, 403, "environment_not_allowed"),
    ("/in/open?x-inngest-env=production", {}, 403, "environment_not_allowed"),
    ("/in/open", {"x-inngest-env": "pr-" + "1" * 200}, 400, "environment_invalid"),
]


async def test_refusals_have_their_status_and_code_and_keep_nothing(
    serving: RelayProcess, http: aiohttp.ClientSession
) -> None:
    for path, headers, status, code in REFUSALS:
        answered, body, _ = await post(http, serving.receiver_url + path, b'{"id":1}', **headers)
        assert (answered, body["error"]["code"]) == (status, code), (path, headers)
        assert body["error"]["message"]
        assert await count(http, serving) == 0, (path, headers)


async def test_other_methods_are_not_allowed(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        async with http.request(method, f"{serving.receiver_url}/in/github") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "POST"
            assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_a_stale_signature_says_so(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    body = signing.json_body("evt_old")
    url = f"{serving.receiver_url}/in/stripe"
    status, answer, _ = await post(http, url, body, **signing.stripe(body, at=time.time() - 3600))
    assert (status, answer["error"]["code"]) == (401, "timestamp_stale")
    status, answer, _ = await post(http, url, body, **signing.stripe(body))
    assert (status, answer["status"]) == (200, "accepted")


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_size_limit_is_exact_with_and_without_a_length(
    serving: RelayProcess, http: aiohttp.ClientSession, chunked: bool
) -> None:
    async def send(size: int) -> int:
        body = b"x" * size

        async def pieces() -> Any:
            for start in range(0, size, 5000):
                yield body[start : start + 5000]

        status, _, _ = await post(http, f"{serving.receiver_url}/in/open", pieces() if chunked else body)
        return status

    assert await send(BODY_BYTES_MAX) == 200
    assert await send(BODY_BYTES_MAX + 1) == 413


async def test_a_huge_chunked_body_is_refused_at_the_limit_without_being_held(serving: RelayProcess) -> None:
    host, port = serving.receiver_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /in/open HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
    while not answer.done() and sent < 4096:  # 256 MiB at most
        try:
            writer.write(chunk)
            await writer.drain()
        except ConnectionError:
            break
        sent += 1
    assert (await answer).startswith(b"HTTP/1.1 413")
    writer.close()
    assert serving.process is not None
    status = Path(f"/proc/{serving.process.pid}/status").read_text()
    peak_kib = int(status.split("VmHWM:")[1].split()[0])
    assert peak_kib < 250 * 1024


async def test_expect_100_continue_is_refused_before_the_body_is_sent(serving: RelayProcess) -> None:
    host, port = serving.receiver_url.removeprefix("http://").split(":")

    async def first_line(path: str, length: int) -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: relay\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        return line

    assert b" 413 " in await first_line("/in/open", BODY_BYTES_MAX + 1)
    assert b" 404 " in await first_line("/in/nobody", 10)
    assert b" 100 " in await first_line("/in/open", 10)


async def test_a_body_that_never_ends_is_given_up(serving: RelayProcess) -> None:
    host, port = serving.receiver_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /in/open HTTP/1.1\r\nHost: relay\r\nContent-Length: 100\r\n\r\nhalf")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert answer.startswith(b"HTTP/1.1 408")
    writer.close()


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("br", brotli.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
    ],
)
async def test_encoded_bodies_are_verified_on_the_wire_and_kept_as_sent(
    serving: RelayProcess, http: aiohttp.ClientSession, coding: str, encode: Any
) -> None:
    wire = encode(signing.json_body(f"evt_{coding}"))
    headers = {**signing.github(wire, f"d-{coding}"), "Content-Encoding": coding}
    status, answer, _ = await post(http, f"{serving.receiver_url}/in/github", wire, **headers)
    assert (status, answer["status"]) == (200, "accepted")
    assert await stored_body(http, serving, answer["id"]) == wire
    bomb = encode(b"0" * (BODY_BYTES_MAX * 50))
    headers = {**signing.github(bomb, f"bomb-{coding}"), "Content-Encoding": coding}
    status, answer, _ = await post(http, f"{serving.receiver_url}/in/github", bomb, **headers)
    assert (status, answer["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b""),
        ("application/json", b"\xef\xbb\xbf{}"),
        ("application/json", b"{not json"),
        ("application/x-www-form-urlencoded", b"a=1&a=2&b=%ff"),
        (
            "multipart/form-data; boundary=xx",
            b'--xx\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--xx--\r\n',
        ),
        ("text/xml", b"<a/>"),
        ("application/octet-stream", bytes(range(256))),
    ],
)
async def test_any_body_is_kept_byte_for_byte(
    serving: RelayProcess, http: aiohttp.ClientSession, content_type: str, body: bytes
) -> None:
    headers = {**signing.github(body, "d"), "Content-Type": content_type}
    status, answer, _ = await post(http, f"{serving.receiver_url}/in/github", body, **headers)
    assert status == 200
    assert await stored_body(http, serving, answer["id"]) == body


async def test_odd_headers_are_kept(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    host, port = serving.receiver_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /in/open?a=1&a=%ff HTTP/1.1\r\nHost: relay\r\nX-Twice: one\r\nX-Twice: two\r\nX-Bytes: \xff\xfe\r\n"
        b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
    )
    raw = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    answer = json.loads(raw.split(b"\r\n\r\n", 1)[1])
    assert answer["status"] == "accepted"
    request = (await stored(http, serving, answer["id"]))["request"]
    headers = [tuple(pair) for pair in request["headers"]]
    assert ("X-Twice", "one") in headers
    assert ("X-Twice", "two") in headers
    assert ("X-Bytes", "\xff\xfe") in headers
    assert request["query"] == "a=1&a=%ff"


async def test_too_many_headers(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    headers = {f"X-H{i}": "1" for i in range(150)}
    async with http.post(f"{serving.receiver_url}/in/open", data=b"{}", headers=headers) as answer:
        assert answer.status in (400, 431)
    assert await count(http, serving) == 0


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [("pr-1", 200, None), ("main", 403, "environment_not_allowed"), ("x" * 129, 400, "environment_invalid")],
)
@pytest.mark.parametrize("place", ["header", "query"])
async def test_only_environments_that_are_allowed_are_taken(
    serving: RelayProcess, http: aiohttp.ClientSession, place: str, asked: str, status: int, code: str | None
) -> None:
    url, headers = f"{serving.receiver_url}/in/open", {}
    if place == "header":
        headers["x-inngest-env"] = asked
    else:
        url += f"?x-inngest-env={asked}"
    found, answer, _ = await post(http, url, b"{}", **headers)
    assert found == status, answer
    if code is None:
        assert (await stored(http, serving, answer["id"]))["environment"] == asked
    else:
        assert answer["error"]["code"] == code
        assert await count(http, serving) == 0


async def test_a_provider_that_wants_its_own_answer_gets_it(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    """Xero wants a 200 without a body, and no body in refusals either."""
    body = b'{"events":[{"resourceId":"1"}],"entropy":"S0m3r4Nd0mt3xt"}'
    signature = base64.b64encode(hmac.digest(b"a webhook key", body, "sha256")).decode()
    for sent, status in ((signature, 200), (signature[::-1], 401)):
        headers = {"x-xero-signature": sent}
        async with http.post(f"{serving.receiver_url}/in/xero", data=body, headers=headers) as answer:
            assert (answer.status, await answer.read()) == (status, b"")
    assert await count(http, serving) == 1


async def test_slack_url_verification_is_answered_and_not_kept(
    serving: RelayProcess, http: aiohttp.ClientSession
) -> None:
    body = json.dumps({"type": "url_verification", "challenge": "3eZbrw1aBm2rZgRN", "token": "t"}).encode()
    url = f"{serving.receiver_url}/in/slack"
    async with http.post(url, data=body, headers=signing.slack(body, secret=SLACK_SECRET)) as answer:
        assert (answer.status, await answer.text()) == (200, "3eZbrw1aBm2rZgRN")
    async with http.post(url, data=body, headers=signing.slack(body, secret="wrong")) as answer:
        assert answer.status == 401
    assert await count(http, serving) == 0


async def test_unknown_urls_mint_no_metric_series(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    async def series() -> int:
        async with http.get(f"{serving.operator_url}/metrics") as answer:
            assert answer.status == 200
            return len((await answer.text()).splitlines())

    await post(http, f"{serving.receiver_url}/in/none-0", b"{}")
    before = await series()
    for number in range(1, 50):
        await post(http, f"{serving.receiver_url}/in/none-{number}", b"{}")
    assert await series() == before


async def test_no_secret_and_no_body_reaches_the_log(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    body = signing.json_body("evt_1", card="4242-4242-4242-4242")
    await post(http, f"{serving.receiver_url}/in/github", body, **signing.github(body, "d-1"))
    await post(http, f"{serving.receiver_url}/in/github", body, **signing.github(body, "d-2", secret="wrong"))
    await serving.wait_for_log("delivery.rejected")
    log = serving.log_text()
    assert "4242" not in log
    assert GITHUB_SECRET not in log
    assert signing.github(body, "d-1")["X-Hub-Signature-256"] not in log


async def test_many_copies_at_once_are_one_delivery(serving: RelayProcess, http: aiohttp.ClientSession) -> None:
    body = signing.json_body("evt_race")
    url = f"{serving.receiver_url}/in/github"
    answers = await asyncio.gather(*(post(http, url, body, **signing.github(body, "race")) for _ in range(50)))
    assert {status for status, _, _ in answers} == {200}
    assert len({answer["id"] for _, answer, _ in answers}) == 1
    assert sum(answer["status"] == "accepted" for _, answer, _ in answers) == 1
    assert await count(http, serving) == 1
