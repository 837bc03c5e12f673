"""`relay secrets` on the store's file, and the operator API behind it: what is kept is shown to its owner only."""

from __future__ import annotations

import asyncio
import io
import json
import os
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
from relay.models import KeptSecret
from relay.operator_client import Refused, RemoteRecords
from relay.stores.sqlite import SqliteStore
from relay.telemetry import Telemetry
from tests.support.command import Ran, run
from tests.support.relay_process import RelayProcess, write_config

NOW_MS = 1_800_000_000_000
TOKEN = "an-operators-token"
SECRET = "b537207f20cbfa02357cf448134da559"
Client = TestClient[WebRequest, Application]


def now_ms() -> int:
    return NOW_MS


async def ready() -> list[str]:
    return []


async def open_store(folder: Path) -> SqliteStore:
    limits: dict[str, Any] = {"dedupe_hours": 24, "disk_free_bytes_min": 0, "queue_bytes_max": 64 << 20}
    return await SqliteStore.open(folder / "data" / "relay.db", clock_ms=now_ms, **limits)


async def kept(folder: Path) -> list[KeptSecret]:
    store = await open_store(folder)
    try:
        return await store.list_secrets()
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await open_store(tmp_path)
    await opened.keep_secret("asana", SECRET, NOW_MS - 5)
    yield opened
    await opened.close()


@asynccontextmanager
async def serving(store: SqliteStore, telemetry: Telemetry, token: str | None = None) -> AsyncIterator[Client]:
    app = operator_app(store, telemetry, token=token, host="127.0.0.1", clock_ms=now_ms, ready=ready)
    async with TestClient(TestServer(app)) as client:
        yield client


async def asked(client: Client, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with client.request(method, path, **options) as answer:
        return answer.status, await answer.json()


# ── the operator API ──


async def test_the_list_holds_everything_but_the_secret(store: SqliteStore) -> None:
    async with serving(store, Telemetry()) as client:
        listed = {"id": 1, "source": "asana", "kept_ms": NOW_MS - 5}
        assert await asked(client, "GET", "/api/secrets") == (200, {"secrets": [listed], "open": []})
        assert await asked(client, "GET", "/api/secrets?source=x") == (200, {"secrets": [], "open": []})
        async with client.get("/api/secrets") as answer:
            assert SECRET not in await answer.text()
            assert answer.headers["Cache-Control"] == "no-store"


async def test_opening_and_forgetting(store: SqliteStore) -> None:
    log = io.StringIO()
    async with serving(store, Telemetry(log, as_json=True)) as client:
        opened = {"source": "asana", "opened_ms": NOW_MS, "until_ms": NOW_MS + 3 * 60_000}
        body = {"source": "asana", "minutes": 3}
        assert await asked(client, "POST", "/api/secrets/open", json=body) == (200, opened)
        assert (await asked(client, "GET", "/api/secrets"))[1]["open"] == [opened]
        assert (await asked(client, "GET", "/api/secrets?source=x"))[1]["open"] == []
        assert await store.keep_secret("asana", "another", NOW_MS) is not None
        one = {"source": "asana", "id": 2}
        assert await asked(client, "POST", "/api/secrets/forget", json=one) == (200, {"forgotten": 1})
        assert await store.kept_secrets("asana") == (SECRET,)
        all_of_it = {"source": "asana"}
        assert await asked(client, "POST", "/api/secrets/forget", json=all_of_it) == (200, {"forgotten": 1})
        assert await asked(client, "POST", "/api/secrets/forget", json=all_of_it) == (200, {"forgotten": 0})
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["event"], line["source"]) for line in lines] == [
        ("secrets.opened", "asana"),
        ("secrets.forgotten", "asana"),
        ("secrets.forgotten", "asana"),
        ("secrets.forgotten", "asana"),
    ]
    assert SECRET not in log.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"source": "", "minutes": 1},
        {"source": "x" * 513, "minutes": 1},
        {"source": "asana"},
        {"source": "asana", "minutes": 0},
        {"source": "asana", "minutes": 1441},
        {"source": "asana", "minutes": "1"},
        {"source": "asana", "minutes": 1, "id": 1},
    ],
)
async def test_a_wrong_opening_is_refused(store: SqliteStore, body: dict[str, Any]) -> None:
    async with serving(store, Telemetry()) as client:
        status, answer = await asked(client, "POST", "/api/secrets/open", json=body)
        assert (status, answer["error"]["code"]) == (400, "invalid_parameter")
    assert await store.list_pairings(NOW_MS) == []


@pytest.mark.parametrize("number", [0, -1, 2**60, "1", 1.5])
async def test_a_wrong_id_is_refused(store: SqliteStore, number: object) -> None:
    async with serving(store, Telemetry()) as client:
        body = {"source": "asana", "id": number}
        assert (await asked(client, "POST", "/api/secrets/forget", json=body))[0] == 400
    assert await store.kept_secrets("asana") == (SECRET,)


PATHS = [("GET", "/api/secrets"), ("POST", "/api/secrets/open"), ("POST", "/api/secrets/forget")]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_nothing_is_said_or_done_without_the_guards_leave(store: SqliteStore, method: str, path: str) -> None:
    body = {"source": "asana", "minutes": 1} if path.endswith("open") else {"source": "asana"}
    sent = {} if method == "GET" else {"json": body}
    async with serving(store, Telemetry(), token=TOKEN) as client:
        assert (await asked(client, method, path, **sent))[0] == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert (await asked(client, method, path, headers=wrong, **sent))[0] == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        if path.endswith("forget"):
            assert await store.kept_secrets("asana") == (SECRET,)
        assert (await asked(client, method, path, headers=right, **sent))[0] == 200
    async with serving(store, Telemetry()) as client:
        foreign = {"Host": "evil.example"}
        assert (await asked(client, method, path, headers=foreign, **sent))[0] == 403
        if method == "POST":
            assert (await asked(client, method, path, data=b'{"source":"asana"}'))[0] == 415


async def test_the_client_asks_the_same(store: SqliteStore) -> None:
    async with serving(store, Telemetry(), token=TOKEN) as client:
        records = RemoteRecords(Operator(host="127.0.0.1", port=client.port or 0, token=TOKEN))
        opened = await records.open_pairing("asana", minutes=2, now_ms=0)
        assert opened["until_ms"] == NOW_MS + 120_000
        found = await records.secrets(now_ms=0, source="asana")
        assert ([each["id"] for each in found["secrets"]], found["open"]) == ([1], [opened])
        assert await records.forget_secrets("asana", 7) == 0
        assert await records.forget_secrets("asana") == 1
        with pytest.raises(Refused):
            await records.open_pairing("", minutes=2, now_ms=0)


# ── the commands ──

SOURCES: dict[str, dict[str, Any]] = {
    "asana": {"provider": "asana"},
    "github": {"provider": "github", "secrets": ["one"]},
}


async def command(folder: Path, *arguments: str) -> Ran:
    return await asyncio.to_thread(run, folder, *arguments)


async def test_without_a_running_relay(tmp_path: Path) -> None:
    write_config(tmp_path, "http://127.0.0.1:1", sources=SOURCES, scripts={})
    assert (await command(tmp_path, "secrets")).code == 3, "there is no store yet"
    store = await open_store(tmp_path)
    await store.keep_secret("asana", SECRET, NOW_MS)
    await store.close()

    for words in (["secrets"], ["secrets", "list"], ["secrets", "list", "asana"], ["secrets", "--json"]):
        listed = await command(tmp_path, *words)
        assert (listed.code, "asana" in listed.out, SECRET in listed.out + listed.err) == (0, True, False)
    assert (await command(tmp_path, "secrets", "show", "asana")).out == f"{SECRET}\n"
    shown = await command(tmp_path, "secrets", "show", "asana", "--json")
    assert shown.json == [{"id": 1, "kept_ms": NOW_MS, "secret": SECRET}]
    assert (await command(tmp_path, "secrets", "show", "notion")).code == 1

    opened = await command(tmp_path, "secrets", "open", "asana", "--minutes", "5")
    assert (opened.code, "for 5 minutes" in opened.out) == (0, True)
    assert "asana takes further ones" in (await command(tmp_path, "secrets", "list")).err

    assert (await command(tmp_path, "secrets", "forget", "asana", "9")).code == 1
    forgotten = await command(tmp_path, "secrets", "forget", "asana", "1")
    assert (forgotten.code, forgotten.out) == (0, "1 forgotten, 0 left\n")
    assert "is kept" in forgotten.err
    assert await kept(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["open", "asanna"], "did you mean 'asana'?"),
        (["open", "github"], "sends no secret in a handshake"),
        (["open", "asana", "--minutes", "0"], "must be a number"),
        (["open", "asana", "--minutes", "1441"], "from 1 to 1,440"),
        (["forget", "asana", "first"], "must be a number"),
        (["show"], "SOURCE"),
    ],
)
async def test_a_wrong_command_says_what_is_wrong(tmp_path: Path, words: list[str], sentence: str) -> None:
    write_config(tmp_path, "http://127.0.0.1:1", sources=SOURCES, scripts={})
    ran = await command(tmp_path, "secrets", *words)
    assert (ran.code, sentence in ran.err) == (2, True), ran.err


async def test_through_a_running_relay(tmp_path: Path) -> None:
    write_config(tmp_path, "http://127.0.0.1:1", sources=SOURCES, scripts={}, operator={"token": TOKEN})
    store = await open_store(tmp_path)
    await store.keep_secret("asana", SECRET, NOW_MS)
    await store.close()
    relay = RelayProcess(tmp_path)
    try:
        await relay.start()
        assert (await command(tmp_path, "secrets", "show", "asana")).out == f"{SECRET}\n"
        assert (await command(tmp_path, "secrets", "open", "asana", "--json")).json["source"] == "asana"
        assert "asana takes further ones" in (await command(tmp_path, "secrets", "list")).err
        assert (await command(tmp_path, "secrets", "forget", "asana")).out == "1 forgotten, 0 left\n"
        assert (await command(tmp_path, "secrets", "show", "asana")).code == 1
        await relay.wait_for_log("secrets.forgotten")
        assert SECRET not in relay.log_text()
    finally:
        relay.end()


async def test_the_file_is_its_owners(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.keep_secret("asana", SECRET, NOW_MS)
    modes = {os.stat(file).st_mode & 0o777 for file in (tmp_path / "data").iterdir()}
    await store.close()
    assert modes == {0o600}
