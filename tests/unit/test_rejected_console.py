"""/api/rejected over a real socket, and the command line's client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application
from aiohttp.web import Request as WebRequest

from relay.config import Operator
from relay.console import operator_app
from relay.console_guard import API_ERRORS
from relay.console_rejected import add_rejected
from relay.operator_client import Refused, RemoteRecords, RemoteRejected
from relay.rejected import IDS_MAX
from tests.support import signing
from tests.support.desk import Desk, open_desk
from tests.support.pen import numbered, rejected
from tests.support.relay_process import GITHUB_SECRET

TOKEN = "a-token-of-some-length"
BODY = signing.json_body("evt_1")
Client = TestClient[WebRequest, Application]


async def ready() -> list[str]:
    return []


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path, {"github": {"provider": "github", "secrets": ["old"]}}) as made:
        yield made


@asynccontextmanager
async def serving(desk: Desk, token: str | None = None) -> AsyncIterator[Client]:
    app = operator_app(desk.store, desk.telemetry, token=token, host="127.0.0.1", clock_ms=desk.clock, ready=ready)
    add_rejected(app, desk.requests)
    async with TestClient(TestServer(app)) as client:
        yield client


def remote(client: Client, token: str | None = None) -> RemoteRejected:
    return RemoteRejected(RemoteRecords(Operator(host="127.0.0.1", port=client.port or 0, token=token)))


async def refusal(client: Client, method: str, path: str, **options: Any) -> tuple[int, str]:
    async with client.request(method, path, **options) as answer:
        document = await answer.json()
        assert API_ERRORS[document["error"]["code"]][0] == answer.status
        return answer.status, document["error"]["code"]


async def test_the_client_says_what_the_desk_says(desk: Desk) -> None:
    name = await desk.refuse("github", signing.github(BODY, "d-1"), BODY)
    async with serving(desk, TOKEN) as client:
        there = remote(client, TOKEN)
        assert await there.rejected() == await desk.requests.rejected()
        assert await there.one(name) == await desk.requests.one(name)
        assert await there.one("nobody") is None
        assert await there.body(name) == BODY
        assert await there.body("nobody") is None
        assert await there.verify([name, "nobody"]) == await desk.requests.verify([name, "nobody"])
        desk.configure(github={"provider": "github", "secrets": [GITHUB_SECRET]})
        assert (await there.verify([name]))[0]["genuine"]
        done = await there.accept([name, "nobody"])
        assert [one["id"] for one in done["accepted"]] == [name]
        assert [one["code"] for one in done["refused"]] == ["not_found"]
        assert await there.rejected() == []
        with pytest.raises(Refused, match=r"operator\.token"):
            await remote(client).rejected()
    assert await desk.store.get_delivery(name) is not None


async def test_lists_are_filtered_and_paged(desk: Desk) -> None:
    for number in range(5):
        desk.pen.keep(
            numbered(number, source="ab"[number % 2], code=("signature_missing", "body_altered")[number // 3])
        )
    async with serving(desk) as client:

        async def ids(query: str) -> tuple[list[str], str | None]:
            async with client.get(f"/api/rejected?{query}") as answer:
                page = await answer.json()
                return [one["id"][-1] for one in page["rejected"]], page["next"]

        assert await ids("") == (["4", "3", "2", "1", "0"], None)
        assert await ids("source=a&code=signature_missing") == (["2", "0"], None)
        first, cursor = await ids("limit=3")
        assert (first, cursor) == (["4", "3", "2"], numbered(2).id)
        assert await ids(f"limit=3&before={cursor}") == (["1", "0"], None)


async def test_bodies_are_no_pages_of_ours(desk: Desk) -> None:
    desk.pen.keep(rejected("01HTML", body=b"<script>alert(1)</script>"))
    desk.pen.keep(rejected("01LARGE", body=b"x" * (5 << 20)))
    async with serving(desk) as client:
        async with client.get("/api/rejected/01HTML/body") as answer:
            assert await answer.read() == b"<script>alert(1)</script>"
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Disposition"] == "attachment"
        assert await refusal(client, "GET", "/api/rejected/01LARGE/body") == (404, "not_found")


@pytest.mark.parametrize("path", ["/api/rejected?stat=x", "/api/rejected?code=nope", "/api/rejected?limit=0"])
async def test_wrong_parameters_are_refused(desk: Desk, path: str) -> None:
    async with serving(desk) as client:
        assert await refusal(client, "GET", path) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    "body", [{}, {"ids": []}, {"ids": ["x"] * (IDS_MAX + 1)}, {"ids": [""]}, {"ids": ["x"], "all": True}, {"ids": "x"}]
)
@pytest.mark.parametrize("verb", ["verify", "accept"])
async def test_a_body_that_is_not_as_documented_is_refused(desk: Desk, verb: str, body: object) -> None:
    async with serving(desk) as client:
        assert await refusal(client, "POST", f"/api/rejected/{verb}", json=body) == (400, "invalid_parameter")


async def test_accepting_needs_json_and_the_token(desk: Desk) -> None:
    """A foreign page in the operator's browser can do neither."""
    async with serving(desk) as client:
        text = {"content-type": "text/plain"}
        answer = await refusal(client, "POST", "/api/rejected/accept", data='{"ids":["x"]}', headers=text)
        assert answer == (415, "unsupported_content_type")
    async with serving(desk, TOKEN) as client:
        for path in ("/api/rejected", "/api/rejected/x", "/api/rejected/x/body"):
            assert await refusal(client, "GET", path) == (401, "unauthorized")
        assert await refusal(client, "POST", "/api/rejected/accept", json={"ids": ["x"]}) == (401, "unauthorized")


async def test_a_store_that_is_gone_is_503(desk: Desk) -> None:
    name = await desk.refuse("github", signing.github(BODY, "d-1"), BODY)
    desk.configure(github={"provider": "github", "secrets": [GITHUB_SECRET]})
    async with serving(desk) as client:
        await desk.store.close()
        asked = {"ids": [name]}
        assert await refusal(client, "POST", "/api/rejected/accept", json=asked) == (503, "store_unavailable")
        assert await desk.pen.get(name) is not None, "what was not stored stays"
        await desk.pen.close()
        assert await refusal(client, "GET", "/api/rejected") == (503, "store_unavailable")
