"""The operator listener over a real socket and a real store."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Response
from aiohttp.web import Request as WebRequest

from relay.config import Operator
from relay.console import operator_app
from relay.console_guard import API_ERRORS, host_is_local
from relay.errors import TransformError
from relay.models import Delivery, Event, EventState, Request, Settlement
from relay.operator_client import Refused, RemoteRecords, Unreachable
from relay.records import BODY_SHOWN_BYTES_MAX, Records
from relay.stores.sqlite import SqliteStore
from relay.telemetry import Telemetry

NOW_MS = 1_800_000_000_000
TOKEN = "a-token-of-some-length"
Client = TestClient[WebRequest, Application]


class Clock:
    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


class Reasons:
    """What the relay itself would say against being ready."""

    def __init__(self) -> None:
        self.given: list[str] = []

    async def __call__(self) -> list[str]:
        return self.given


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(
        tmp_path / "relay.db",
        clock_ms=Clock(),
        dedupe_hours=24,
        disk_free_bytes_min=0,
        queue_bytes_max=64 * 1024 * 1024,
    )
    yield opened
    await opened.close()


@asynccontextmanager
async def serving(
    store: SqliteStore, *, token: str | None = None, reasons: Reasons | None = None, telemetry: Telemetry | None = None
) -> AsyncIterator[Client]:
    app = operator_app(
        store,
        telemetry or Telemetry(),
        token=token,
        host="127.0.0.1",
        clock_ms=Clock(),
        ready=reasons or Reasons(),
    )
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.fixture
async def client(store: SqliteStore) -> AsyncIterator[Client]:
    async with serving(store) as made:
        yield made


def delivery(number: int, *, body: bytes = b'{"n":1}', source: str = "stripe") -> Delivery:
    headers = ((b"Content-Type", b"application/json"), (b"X-Odd", b"\xff"), (b"X-Odd", "é".encode()))
    request = Request("POST", f"/in/{source}", "a=1", headers, body)
    return Delivery(f"01ARZ3NDEKTSV4RRFFQ69G5F{number:02}", source, f"key-{number}", NOW_MS - 1000 + number, request)


def event(name: str, *, environment: str | None = None) -> Event:
    text = json.dumps({"id": name, "name": "test/x", "data": {}, "ts": NOW_MS}).encode()
    return Event(name, "test/x", NOW_MS, text, "default", environment)


async def processed(store: SqliteStore, *deliveries: Delivery, sent: bool = False) -> None:
    """Accept, and give each one event, named for its delivery."""
    await store.accept(deliveries)
    for claim in await store.claim_deliveries(100, 60, {"stripe": 100, "github": 100}):
        await store.finish_delivery(claim, [event(f"event-of-{claim.delivery.id}")])
    if sent:
        claimed = await store.claim_events("default", None, 100, 10**6, 60)
        await store.settle([Settlement(one, EventState.SENT, inngest_id=f"inngest-{one.id}") for one in claimed])


async def died(store: SqliteStore, *deliveries: Delivery) -> None:
    await store.accept(deliveries)
    for claim in await store.claim_deliveries(100, 60, {"stripe": 100, "github": 100}):
        await store.fail_delivery(claim, TransformError("script_raised", "t.js:1:2: boom", 1, 2))


async def refusal(client: Client, method: str, path: str, **options: Any) -> tuple[int, str]:
    """(status, code), after looking that the answer has the one form of a refusal."""
    async with client.request(method, path, **options) as answer:
        document = await answer.json()
        assert set(document) == {"error"}
        assert set(document["error"]) == {"code", "message"}
        assert API_ERRORS[document["error"]["code"]][0] == answer.status
        return answer.status, document["error"]["code"]


async def test_health_says_that_the_process_lives(client: Client) -> None:
    async with client.get("/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "alive"})


async def test_ready_until_the_relay_says_otherwise(store: SqliteStore) -> None:
    reasons = Reasons()
    async with serving(store, reasons=reasons) as client:
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ready", "reasons": []})
        reasons.given = ["stopping"]
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (503, {"status": "not_ready", "reasons": ["stopping"]})


async def test_not_ready_while_the_store_cannot_be_written(store: SqliteStore) -> None:
    telemetry = Telemetry()
    await store.close()
    async with serving(store, telemetry=telemetry) as client:
        async with client.get("/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"][0].startswith("store_unavailable: ")
        async with client.get("/metrics") as answer:
            assert answer.status == 200
            assert "relay_store_usable 0.0" in await answer.text()
        assert await refusal(client, "GET", "/api/deliveries") == (503, "store_unavailable")
        async with client.get("/healthz") as answer:
            assert answer.status == 200


class ProbedStore(SqliteStore):
    """A store that counts how often it is asked."""

    probes = 0

    async def probe(self) -> None:
        self.probes += 1
        await super().probe()


async def test_the_store_is_probed_once_a_second_at_most(tmp_path: Path) -> None:
    store = await ProbedStore.open(
        tmp_path / "probed.db", clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=1 << 26
    )
    assert isinstance(store, ProbedStore)
    async with serving(store) as client:
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(client.get(path) for path in ["/readyz", "/metrics"] * 20))
        assert {answer.status for answer in answers} == {200}
        assert 1 <= store.probes <= 1 + int(asyncio.get_running_loop().time() - began)
    await store.close()


async def test_metrics_hold_what_the_store_holds(store: SqliteStore, client: Client) -> None:
    await died(store, delivery(1))
    await store.accept([delivery(2)])
    async with client.get("/metrics") as answer:
        text = await answer.text()
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'relay_deliveries{state="dead"} 1.0' in text
    assert 'relay_deliveries{state="received"} 1.0' in text
    assert "relay_oldest_received_seconds 0.998" in text
    assert "relay_store_usable 1.0" in text


async def test_a_delivery_with_its_request_and_events(store: SqliteStore, client: Client) -> None:
    await processed(store, delivery(1), sent=True)
    async with client.get(f"/api/deliveries/{delivery(1).id}") as answer:
        found = await answer.json()
    assert (found["state"], found["source"], found["key"], found["event_count"]) == ("processed", "stripe", "key-1", 1)
    assert found["request"]["headers"] == [["Content-Type", "application/json"], ["X-Odd", "ÿ"], ["X-Odd", "é"]]
    assert (found["request"]["body"], found["request"]["body_encoding"]) == ('{"n":1}', "utf-8")
    assert found["request"]["body_truncated"] is False
    assert [(one["ref"], one["state"]) for one in found["events"]] == [(f"{delivery(1).id}.0", "sent")]
    async with client.get(f"/api/events/{delivery(1).id}.0") as answer:
        shown = await answer.json()
    assert shown["event"]["id"] == shown["id"] == f"event-of-{delivery(1).id}"
    assert shown["inngest_id"] == f"inngest-{shown['id']}"


@pytest.mark.parametrize(
    "body", [b"", b"\x00\xff", "é".encode() * BODY_SHOWN_BYTES_MAX, b"\xff" * (BODY_SHOWN_BYTES_MAX + 1)]
)
async def test_bodies_are_shown_bounded_and_given_whole(store: SqliteStore, client: Client, body: bytes) -> None:
    await store.accept([delivery(1, body=body)])
    async with client.get(f"/api/deliveries/{delivery(1).id}") as answer:
        request = (await answer.json())["request"]
    text: str = request["body"]
    shown = base64.b64decode(text) if request["body_encoding"] == "base64" else text.encode()
    assert body.startswith(shown)
    assert (len(shown) < len(body)) == request["body_truncated"]
    assert len(shown) <= BODY_SHOWN_BYTES_MAX
    async with client.get(f"/api/deliveries/{delivery(1).id}/body") as answer:
        assert await answer.read() == body
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"] == "attachment"


async def test_lists_are_filtered_and_paged(store: SqliteStore, client: Client) -> None:
    await processed(store, *(delivery(number) for number in range(3)))
    await died(store, delivery(3), delivery(4, source="github"))

    async def ids(query: str) -> tuple[list[str], str | None]:
        async with client.get(f"/api/deliveries?{query}") as answer:
            page = await answer.json()
            return [one["id"][-1] for one in page["deliveries"]], page["next"]

    assert (await ids(""))[0] == ["4", "3", "2", "1", "0"]
    assert (await ids("state=dead"))[0] == ["4", "3"]
    assert (await ids("state=dead&source=stripe"))[0] == ["3"]
    first, cursor = await ids("limit=3")
    assert (first, cursor) == (["4", "3", "2"], delivery(2).id)
    assert await ids(f"limit=3&before={cursor}") == (["1", "0"], None)
    async with client.get(f"/api/events?delivery_id={delivery(1).id}&state=pending") as answer:
        assert [one["ref"] for one in (await answer.json())["events"]] == [f"{delivery(1).id}.0"]
    async with client.get("/api/events?source=github") as answer:
        assert await answer.json() == {"events": [], "next": None}


@pytest.mark.parametrize(
    "path",
    [
        "/api/deliveries?stat=dead",
        "/api/deliveries?state=pending",
        "/api/events?state=received",
        "/api/deliveries?limit=0",
        "/api/deliveries?limit=1001",
        "/api/deliveries?limit=-1",
        "/api/deliveries?limit=%C2%B2",
        "/api/deliveries?source=a&source=b",
        "/api/stats?x=1",
    ],
)
async def test_wrong_parameters_are_refused(client: Client, path: str) -> None:
    assert await refusal(client, "GET", path) == (400, "invalid_parameter")


async def test_what_is_not_there(client: Client) -> None:
    for path in ("/", "/api", "/api/deliveries/nope", "/api/deliveries/nope/body", "/api/events/nope.0"):
        assert await refusal(client, "GET", path) == (404, "not_found")
    assert await refusal(client, "POST", "/api/stats", json={}) == (405, "method_not_allowed")
    assert await refusal(client, "GET", "/api/replay") == (405, "method_not_allowed")


async def test_replay(store: SqliteStore, client: Client) -> None:
    await died(store, delivery(1))
    asked = {"ids": [delivery(1).id, "nope"], "environment": "pr-1"}
    async with client.post("/api/replay", json=asked) as answer:
        done = await answer.json()
    assert done["replayed"] == [delivery(1).id]
    assert [one["id"] for one in done["refused"]] == ["nope"]
    record = await store.get_delivery(delivery(1).id)
    assert record is not None
    assert (record.state, record.environment) == ("received", "pr-1")


async def test_finished_work_is_replayed_only_with_again(store: SqliteStore, client: Client) -> None:
    await processed(store, delivery(1), sent=True)
    async with client.post("/api/replay", json={"ids": [delivery(1).id]}) as answer:
        assert (await answer.json())["replayed"] == []
    async with client.post("/api/replay", json={"ids": [delivery(1).id], "again": True}) as answer:
        assert (await answer.json())["replayed"] == [delivery(1).id]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": []},
        {"ids": "one"},
        {"ids": [1]},
        {"ids": [""]},
        {"ids": ["x" * 513]},
        {"ids": ["x"] * 1001},
        {"ids": ["x"], "agian": True},
        {"ids": ["x"], "environment": "a\nb"},
        {"ids": ["x"], "environment": ""},
        [],
    ],
)
async def test_a_replay_that_is_not_as_documented_is_refused(client: Client, body: object) -> None:
    assert await refusal(client, "POST", "/api/replay", json=body) == (400, "invalid_parameter")


async def test_a_post_must_be_json_of_a_bounded_size(client: Client) -> None:
    text = {"content-type": "text/plain"}
    assert await refusal(client, "POST", "/api/replay", data="{}", headers=text) == (415, "unsupported_content_type")
    kind = {"content-type": "application/json"}
    assert await refusal(client, "POST", "/api/replay", data="{", headers=kind) == (400, "invalid_parameter")
    large = b" " * (512 * 1024 + 1)
    assert await refusal(client, "POST", "/api/replay", data=large, headers=kind) == (413, "request_too_large")


async def test_prune_in_steps(store: SqliteStore, client: Client) -> None:
    await processed(store, delivery(1), sent=True)
    await store.accept([delivery(2)])
    answers = []
    for _ in range(2):
        async with client.post("/api/prune", json={"before_ms": NOW_MS}) as answer:
            answers.append(await answer.json())
    assert answers == [{"pruned": 1, "done": False}, {"pruned": 0, "done": True}]
    assert [record.id for record in await store.list_deliveries()] == [delivery(2).id]
    for wrong in (NOW_MS + 1, -1, "now"):
        assert await refusal(client, "POST", "/api/prune", json={"before_ms": wrong}) == (400, "invalid_parameter")


async def test_with_a_token_everything_but_health_wants_it(store: SqliteStore) -> None:
    async with serving(store, token=TOKEN) as client:
        for path in ("/healthz", "/readyz"):
            async with client.get(path) as answer:
                assert answer.status == 200
        for wrong in (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer é"},
        ):
            for path in ("/metrics", "/api/stats", "/nowhere"):
                assert await refusal(client, "GET", path, headers=wrong) == (401, "unauthorized")
            assert await refusal(client, "POST", "/api/replay", json={"ids": ["x"]}, headers=wrong) == (
                401,
                "unauthorized",
            )
        right = {"Authorization": f"Bearer {TOKEN}", "Host": "relay.example.com"}
        async with client.get("/api/stats", headers=right) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    "host", ["evil.example.com", "evil.example.com:8081", "127.0.0.1.evil.example.com", "10.0.0.1"]
)
async def test_without_a_token_no_page_reaches_it_by_rebinding(client: Client, host: str) -> None:
    assert await refusal(client, "GET", "/api/stats", headers={"Host": host}) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8081", "127.0.0.1:1", "[::1]:8081", "127.1.2.3"])
def test_loopback_names(host: str) -> None:
    assert host_is_local(host, "127.0.0.1")
    assert not host_is_local("", "127.0.0.1")


def settings_of(client: Client, token: str | None = None) -> Operator:
    return Operator(port=client.port or 0, token=token)


async def test_the_client_says_the_same_as_the_store(store: SqliteStore, client: Client) -> None:
    """Over HTTP or from the file: one form of answer."""
    await processed(store, delivery(1), sent=True)
    await died(store, delivery(2))
    here, there = Records(store), RemoteRecords(settings_of(client))
    one = delivery(1).id
    assert await there.answers()
    assert await there.stats() == json.loads(json.dumps(await here.stats()))
    assert await there.deliveries(state="dead") == await here.deliveries(state="dead")
    assert await there.delivery(one) == await here.delivery(one)
    assert await there.body(one) == await here.body(one) == b'{"n":1}'
    assert await there.events(delivery_id=one, limit=10) == await here.events(delivery_id=one, limit=10)
    assert await there.event(f"{one}.0") == await here.event(f"{one}.0")
    assert (await there.delivery("no/pe"), await there.event("nope"), await there.body("nope")) == (None, None, None)
    assert (await there.replay([delivery(2).id, "nope"]))["replayed"] == [delivery(2).id]
    assert await there.prune(NOW_MS) == 1


async def test_the_client_and_the_token(store: SqliteStore) -> None:
    async with serving(store, token=TOKEN) as client:
        assert await RemoteRecords(settings_of(client, TOKEN)).answers()
        with pytest.raises(Refused, match=r"does not take this configuration's operator\.token") as caught:
            await RemoteRecords(settings_of(client, "another-token")).answers()
        assert caught.value.code == "unauthorized"
    assert not await RemoteRecords(settings_of(client, TOKEN)).answers()
    with pytest.raises(Unreachable):
        await RemoteRecords(settings_of(client, TOKEN)).stats()


async def test_something_else_at_the_address_is_no_relay() -> None:
    async def page(_: WebRequest) -> Response:
        return Response(text="<h1>It works!</h1>", content_type="text/html")

    app = Application()
    app.router.add_get("/api/stats", page)
    async with TestClient(TestServer(app)) as client:
        remote = RemoteRecords(settings_of(client))
        with pytest.raises(Refused, match="is no relay"):
            await remote.answers()
        with pytest.raises(Refused, match="is no relay"):
            await remote.deliveries()
