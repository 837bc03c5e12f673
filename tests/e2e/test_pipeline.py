"""From a signed webhook to the event in Inngest: transforms, environments, dedupe, replay, with a real process."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import aiohttp
import pytest

from tests.support import signing
from tests.support.command import run
from tests.support.fake_inngest import FakeInngest, Mode
from tests.support.relay_process import (
    GITHUB_SECRET,
    STRIPE_SECRET,
    RelayProcess,
    destination,
    write_config,
)

HANGS = "function transform() { for (;;) new Promise(() => { while (1) {} }) }"
THROWS = (
    'function transform(evt) {\n  if (!evt.ok) {\n    throw new TypeError("not ok");\n  }\n  return { name: "a/b" };\n}'
)
SHOWS = """
function transform(evt, headers, queryParams, raw) {
  return { id: "shown", name: "test/shown", data: { evt, headers, queryParams, raw } };
}
"""


def open_source(script: str, **keys: Any) -> dict[str, Any]:
    return {"provider": "none", "transform": script, **keys}


async def post(http: aiohttp.ClientSession, url: str, body: bytes, **headers: str) -> dict[str, Any]:
    async with http.post(url, data=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def get(http: aiohttp.ClientSession, relay: RelayProcess, path: str) -> Any:
    async with http.get(relay.operator_url + path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def state_of(http: aiohttp.ClientSession, relay: RelayProcess, delivery_id: str, wanted: str) -> dict[str, Any]:
    """The delivery, once it is in the wanted state."""
    deadline = time.monotonic() + 15
    while True:
        found: dict[str, Any] = await get(http, relay, f"/api/deliveries/{delivery_id}")
        if found["state"] == wanted:
            return found
        assert time.monotonic() < deadline, f"it is {found['state']}, not {wanted}: {found}"
        await asyncio.sleep(0.02)


async def test_signed_webhooks_of_two_providers_become_events(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(
        relay.folder,
        inngest.url,
        sources={
            "github": {"provider": "github", "secrets": [GITHUB_SECRET], "transform": "transforms/github.js"},
            "stripe": {"provider": "stripe", "secrets": [STRIPE_SECRET], "transform": "transforms/stripe.js"},
        },
    )
    await relay.start()
    push = json.dumps({"ref": "refs/heads/main", "repository": {"full_name": "a/b"}}).encode()
    await post(http, f"{relay.receiver_url}/in/github", push, **signing.github(push, "guid-1"))
    charge = json.dumps(
        {"id": "evt_1", "type": "charge.succeeded", "created": 1700000000, "data": {"object": {"id": "ch_1"}}}
    ).encode()
    await post(http, f"{relay.receiver_url}/in/stripe", charge, **signing.stripe(charge))
    await inngest.wait_for(lambda: len(inngest.accepted) == 2)
    by_name = {got.event["name"]: got.event for got in inngest.accepted}
    assert set(by_name) == {"github/push", "stripe/charge.succeeded"}
    assert by_name["stripe/charge.succeeded"]["ts"] == 1700000000000
    assert {got.key for got in inngest.accepted} == {"test-key"}


async def test_what_a_script_is_given(relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest) -> None:
    write_config(relay.folder, inngest.url, scripts={"shows.js": SHOWS}, sources={"open": open_source("shows.js")})
    await relay.start()
    wire = gzip.compress('{"name":"Zoë","n":1}'.encode())
    headers = {"Content-Encoding": "gzip", "content-type": "application/json", "x-github-event": "push"}
    await post(http, f"{relay.receiver_url}/in/open?a=1&a=2&b=", wire, **headers)
    await inngest.wait_for(lambda: bool(inngest.accepted))
    data = inngest.accepted[0].event["data"]
    assert data["evt"] == {"name": "Zoë", "n": 1}
    assert data["raw"] == '{"name":"Zoë","n":1}'
    assert data["queryParams"] == {"a": ["1", "2"], "b": [""]}
    assert data["headers"]["X-Github-Event"] == "push"
    assert data["headers"]["Content-Type"] == "application/json"

    delivery_id = (await get(http, relay, "/api/deliveries"))["deliveries"][0]["id"]
    (relay.folder / "kept.json").write_text(run(relay.folder, "deliveries", "show", delivery_id, "--json").out)
    once_more = run(relay.folder, "transform", "shows.js", "kept.json", "--json")
    assert once_more.code == 0, once_more.err
    assert [event["data"] for event in json.loads(once_more.out)] == [data]


async def test_a_form_body_is_fields_of_strings(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url, scripts={"shows.js": SHOWS}, sources={"open": open_source("shows.js")})
    await relay.start()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    await post(http, f"{relay.receiver_url}/in/open", b"From=%2B1415&Body=hi+there&Body=again", **headers)
    await inngest.wait_for(lambda: bool(inngest.accepted))
    assert inngest.accepted[0].event["data"]["evt"] == {"From": ["+1415"], "Body": ["hi there", "again"]}


async def test_headers_that_are_no_utf8_arrive_all_the_same(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url, scripts={"shows.js": SHOWS}, sources={"open": open_source("shows.js")})
    await relay.start()
    host, port = relay.receiver_url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /in/open HTTP/1.1\r\nHost: r\r\nX-Bytes: a\xff\xfeb\r\nContent-Length: 4\r\n\r\n\xff\xfe{}")
    await inngest.wait_for(lambda: bool(inngest.accepted))
    writer.close()
    assert "X-Bytes" in inngest.accepted[0].event["data"]["headers"]


@pytest.mark.parametrize(
    ("header", "query", "source", "wanted"),
    [
        ("pr-1", "pr-2", "pr-3", "pr-1"),
        (None, "pr-2", "pr-3", "pr-2"),
        (None, None, "pr-3", "pr-3"),
        (None, None, None, "of-destination"),
    ],
)
async def test_the_environment_is_chosen_in_order(
    relay: RelayProcess,
    http: aiohttp.ClientSession,
    inngest: FakeInngest,
    header: str | None,
    query: str | None,
    source: str | None,
    wanted: str,
) -> None:
    keys = {"environment": source} if source else {}
    write_config(
        relay.folder,
        inngest.url,
        sources={"open": open_source("plain.js", **keys)},
        destinations={"default": destination(inngest.url, environment="of-destination")},
    )
    await relay.start()
    url = f"{relay.receiver_url}/in/open" + (f"?x-inngest-env={query}" if query else "")
    await post(http, url, b'{"id":"1"}', **({"X-Inngest-Env": header} if header else {}))
    await inngest.wait_for(lambda: bool(inngest.accepted))
    assert inngest.accepted[0].environment == wanted


async def test_an_event_id_is_sent_once_per_environment(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url, sources={"open": open_source("plain.js")})
    await relay.start()
    url = f"{relay.receiver_url}/in/open"
    await asyncio.gather(*(post(http, url, b'{"id":"same"}') for _ in range(40)))
    await post(http, f"{url}?x-inngest-env=pr-1", b'{"id":"same"}')
    await post(http, url, b'{"id":"later"}')
    await inngest.wait_for(lambda: {"same", "later"} <= set(inngest.ids(None)) and bool(inngest.ids("pr-1")))
    assert sorted(inngest.ids(None)) == ["later", "same"]
    assert inngest.ids("pr-1") == ["same"]


async def test_a_hung_script_and_a_throwing_one_harm_nobody_else(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(
        relay.folder,
        inngest.url,
        scripts={"hangs.js": HANGS, "throws.js": THROWS},
        sources={"open": open_source("plain.js"), "hung": open_source("hangs.js"), "bad": open_source("throws.js")},
    )
    await relay.start()
    hung = [await post(http, f"{relay.receiver_url}/in/hung", b"{}") for _ in range(20)]
    bad = await post(http, f"{relay.receiver_url}/in/bad", b"{}")
    for number in range(50):
        await post(http, f"{relay.receiver_url}/in/open", json.dumps({"id": f"good-{number}"}).encode())
    await inngest.wait_for(lambda: len(inngest.accepted) == 50, seconds=10)
    still_hung = await get(http, relay, f"/api/deliveries/{hung[-1]['id']}")
    assert still_hung["state"] == "received", "the hung script was through first: nothing was proved"
    dead = await state_of(http, relay, bad["id"], "dead")
    assert dead["code"] == "script_raised"
    assert "throws.js:3" in dead["message"]
    assert "not ok" in dead["message"]
    dead = await state_of(http, relay, hung[0]["id"], "dead")
    assert dead["code"] == "script_timed_out"


async def test_one_that_hangs_among_many_of_its_source(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    """The script is known to be quick, so that they are asked together."""
    script = f"""
function transform(evt) {{
  if (evt.hangs) {{ {HANGS.partition("{")[2].rpartition("}")[0]} }}
  return {{ id: evt.id, name: "a/b" }};
}}
"""
    write_config(relay.folder, inngest.url, scripts={"some.js": script}, sources={"open": open_source("some.js")})
    await relay.start()
    url = f"{relay.receiver_url}/in/open"
    for number in range(30):
        await post(http, url, json.dumps({"id": f"before-{number}"}).encode())
    await inngest.wait_for(lambda: len(inngest.accepted) == 30)
    bodies = [{"id": f"good-{number}"} for number in range(100)]
    bodies.insert(40, {"hangs": "yes"})
    answers = await asyncio.gather(*(post(http, url, json.dumps(body).encode()) for body in bodies))
    await inngest.wait_for(lambda: len(inngest.accepted) == 130, seconds=10)
    assert sorted(inngest.ids()[30:]) == sorted(f"good-{number}" for number in range(100))
    assert (await state_of(http, relay, answers[40]["id"], "dead"))["code"] == "script_timed_out"


async def test_filtered_dead_and_replayed(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    script = """
function transform(evt) {
  if (evt.quiet) return null;
  if (evt.bad) return { name: 5 };
  return { name: "a/b", data: evt };
}
"""
    write_config(relay.folder, inngest.url, scripts={"some.js": script}, sources={"open": open_source("some.js")})
    await relay.start()
    url = f"{relay.receiver_url}/in/open"
    quiet = await post(http, url, b'{"quiet":true}')
    bad = await post(http, url, b'{"bad":true}')
    good = await post(http, url, b"{}")
    await state_of(http, relay, quiet["id"], "filtered")
    assert (await state_of(http, relay, bad["id"], "dead"))["code"] == "invalid_event"
    await state_of(http, relay, good["id"], "processed")
    await inngest.wait_for(lambda: len(inngest.accepted) == 1)
    first = inngest.accepted[0].event["id"]
    assert first == f"open:{good['id']}:0"

    refused = run(relay.folder, "replay", good["id"])
    assert refused.code == 1
    assert "--again" in refused.out + refused.err
    assert run(relay.folder, "replay", good["id"], "--again", "--env", "pr-9").code == 0
    await inngest.wait_for(lambda: len(inngest.accepted) == 2)
    again = inngest.accepted[1]
    assert again.event["id"] == f"{first}:again-1"
    assert again.environment == "pr-9"

    (relay.folder / "some.js").write_text('function transform(evt) { return { name: "now/good", data: evt }; }')
    assert await relay.stop() == 0
    await relay.start()
    assert run(relay.folder, "replay", "--dead").code == 0
    await inngest.wait_for(lambda: len(inngest.accepted) == 3)
    assert inngest.accepted[2].event["name"] == "now/good"
    assert inngest.accepted[2].event["id"] == f"open:{bad['id']}:0"


async def test_deliveries_of_a_source_that_is_gone_wait_for_it(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    sources = {"hung": open_source("hangs.js"), "other": open_source("plain.js")}
    write_config(relay.folder, inngest.url, scripts={"hangs.js": HANGS}, sources=sources)
    await relay.start()
    waiting = [await post(http, f"{relay.receiver_url}/in/hung", b'{"id":"w"}') for _ in range(10)][-1]
    relay.kill()
    config = relay.folder / "relay.toml"
    whole = config.read_text()
    config.write_text(whole.replace('["sources"."hung"]', '["sources"."renamed"]'))
    await relay.start()
    missing = await relay.wait_for_log("source.missing")
    assert missing["source"] == "hung"
    assert (await get(http, relay, f"/api/deliveries/{waiting['id']}"))["state"] == "received"
    assert await relay.stop() == 0
    config.write_text(whole.replace("hangs.js", "plain.js"))
    await relay.start()
    await inngest.wait_for(lambda: "w" in inngest.ids())


async def test_one_dead_environment_delays_no_other(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url, sources={"open": open_source("plain.js")})
    inngest.set_mode(Mode(hang=2.5), environment="pr-hung")
    inngest.set_mode(Mode(status=503), environment="pr-down")
    await relay.start()
    url = f"{relay.receiver_url}/in/open"
    for environment in ("pr-hung", "pr-down"):
        await post(http, f"{url}?x-inngest-env={environment}", b'{"id":"stuck"}')
    began = time.monotonic()
    for number in range(20):
        await post(http, f"{url}?x-inngest-env=pr-well", json.dumps({"id": f"e{number}"}).encode())
    await inngest.wait_for(lambda: len(inngest.ids("pr-well")) == 20)
    assert time.monotonic() - began < 2.5
    inngest.set_mode(Mode(), environment="pr-down")
    await inngest.wait_for(lambda: inngest.ids("pr-down") == ["stuck"] and inngest.ids("pr-hung") == ["stuck"])


async def test_a_wrong_key_stops_with_an_alarm_and_keeps_everything(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url, sources={"open": open_source("plain.js")})
    inngest.set_mode(Mode(status=401, error="Event key not found"))
    await relay.start()
    for number in range(30):
        await post(http, f"{relay.receiver_url}/in/open", json.dumps({"id": f"e{number}"}).encode())
    stopped = await relay.wait_for_log("destination.stopped")
    assert stopped["destination"] == "default"
    async with http.get(f"{relay.operator_url}/metrics") as answer:
        assert 'relay_destination_stopped{destination="default"} 1.0' in await answer.text()
    inngest.set_mode(Mode())
    await inngest.wait_for(lambda: len(set(inngest.ids())) == 30)
    await relay.wait_for_log("destination.resumed")
    assert "test-key" not in relay.log_text()
    stats = await get(http, relay, "/api/stats")
    assert stats["events"].get("dead", 0) == 0
