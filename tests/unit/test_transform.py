"""A delivery through a real child: scripts as Inngest's users write them, and the default one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.errors import TransformError
from relay.models import Delivery, Event
from relay.sandbox import SandboxPool, Script
from relay.transform import TransformLimits, default_script, transform
from tests.support.sandboxes import RECEIVED_MS, delivery, sandbox, script

LIMITS = TransformLimits(1000, 3 << 20)


async def events(pool: SandboxPool, which: Script, given: Delivery) -> list[Event] | TransformError:
    return await transform(pool, which, given, destination="default", environment=None, limits=LIMITS)


async def sent(which: Script, given: Delivery) -> dict[str, Any]:
    async with sandbox() as pool:
        found = await events(pool, which, given)
    assert isinstance(found, list), found
    parsed: dict[str, Any] = json.loads(found[0].json)
    return parsed


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


# In the manner of the scripts that services' users paste into Inngest's dashboard.
STRIPE = """function transform(evt, headers, queryParams, raw) {
  return {
    id: evt.id,
    name: `stripe/${evt.type}`,
    data: evt.data.object,
    ts: evt.created * 1000,
  };
}"""
CLERK = """function transform(evt, headers, queryParams) {
  return { name: `clerk/${evt.type}`, data: evt.data };
};"""
GITHUB = """function transform(evt, headers = {}, queryParams = {}) {
  const name = headers["X-Github-Event"];
  return {
    name: "github/" + name.trim().replace("Event", "").toLowerCase(),
    data: evt,
    id: headers["X-Github-Delivery"],
  };
};"""
LINEAR = """function transform(evt, headers, queryParams, raw) {
  return {
    id: headers["Linear-Delivery"],
    name: `linear/${evt.type.toLowerCase()}.${evt.action}`,
    data: { ...evt, raw, sig: headers["Linear-Signature"] },
    ts: evt.webhookTimestamp,
  };
}"""
INTERCOM = """function transform(evt, headers, queryParams) {
  return { name: `intercom/${evt.topic}`, data: evt.data, ts: evt.created_at * 1000 };
};"""
RESEND = """const transform = (evt) => ({
  name: `resend/${evt.type}`, data: evt.data, ts: new Date(evt.created_at).getTime() });"""


@pytest.mark.parametrize(
    ("text", "body", "headers", "expected"),
    [
        (STRIPE, {"id": "evt_9", "type": "charge.paid", "created": 1700000000, "data": {"object": {"a": 1}}}, {},
         {"id": "evt_9", "name": "stripe/charge.paid", "data": {"a": 1}, "ts": 1700000000000}),
        (CLERK, {"type": "user.created", "data": {"id": "user_1"}}, {},
         {"id": "acme:evt_1:0", "name": "clerk/user.created", "data": {"id": "user_1"}, "ts": RECEIVED_MS}),
        (GITHUB, {"zen": "x"}, {"x-github-event": "push", "X-GitHub-Delivery": "d-1"},
         {"id": "d-1", "name": "github/push", "data": {"zen": "x"}, "ts": RECEIVED_MS}),
        (LINEAR, {"type": "Issue", "action": "create", "webhookTimestamp": 1700000000000}, {"linear-delivery": "l-1"},
         {"id": "l-1", "name": "linear/issue.create", "ts": 1700000000000,
          "data": {"type": "Issue", "action": "create", "webhookTimestamp": 1700000000000,
                   "raw": '{"type": "Issue", "action": "create", "webhookTimestamp": 1700000000000}'}}),
        (INTERCOM, {"topic": "user.created", "created_at": 1700000000, "data": {"item": {}}}, {},
         {"id": "acme:evt_1:0", "name": "intercom/user.created", "data": {"item": {}}, "ts": 1700000000000}),
        (RESEND, {"type": "email.sent", "created_at": "2024-02-22T23:41:12.126Z", "data": {"to": ["a"]}}, {},
         {"id": "acme:evt_1:0", "name": "resend/email.sent", "data": {"to": ["a"]}, "ts": 1708645272126}),
    ],
)  # fmt: skip
async def test_scripts_pasted_from_inngest_run_unchanged(
    text: str, body: Any, headers: dict[str, str], expected: dict[str, Any]
) -> None:
    assert await sent(script(text), delivery(as_json(body), headers)) == expected


@pytest.mark.parametrize(
    ("body", "headers", "name", "data"),
    [
        (b'{"type":"a.b","data":{"x":1}}', {}, "acme/a.b", {"x": 1}),
        (b'{"name":"n","x":1}', {}, "acme/n", {"name": "n", "x": 1}),
        (b'{"event_type":"e"}', {}, "acme/e", {"event_type": "e"}),
        (b'{"type":7,"data":"text"}', {}, "acme/webhook.received", {"type": 7, "data": "text"}),
        (b'{"data":[1]}', {}, "acme/webhook.received", {"data": [1]}),
        (b"[1,2]", {}, "acme/webhook.received", {"body": [1, 2]}),
        (b'"text"', {}, "acme/webhook.received", {"body": "text"}),
        (b"<xml/>", {}, "acme/webhook.received", {"raw": "<xml/>"}),
        (b"", {}, "acme/webhook.received", {"raw": ""}),
        (b"type=sms&a=1", {"Content-Type": "application/x-www-form-urlencoded"}, "acme/sms",
         {"type": ["sms"], "a": ["1"]}),
    ],
)  # fmt: skip
async def test_the_default_is_inngests_and_safe_for_every_body(
    body: bytes, headers: dict[str, str], name: str, data: Any
) -> None:
    found = await sent(default_script("acme"), delivery(body, headers))
    assert (found["name"], found["data"]) == (name, data)


async def test_the_default_never_makes_a_reserved_or_overlong_name() -> None:
    assert (await sent(default_script("inngest"), delivery(b"{}")))["name"] == "inngest-source/webhook.received"
    long = await sent(default_script("acme"), delivery(as_json({"type": "x" * 300})))
    assert len(long["name"]) == 256


async def test_one_delivery_may_become_several_events_or_none() -> None:
    text = "const transform = (evt) => evt.map((n) => ({ name: 'n', data: { n } }))"
    async with sandbox() as pool:
        several = await events(pool, script(text), delivery(b"[1,2,3]"))
        assert isinstance(several, list)
        assert [event.id for event in several] == ["acme:evt_1:0", "acme:evt_1:1", "acme:evt_1:2"]
        assert await events(pool, script(text), delivery(b"[]")) == []
        assert await events(pool, script("function transform() { return null }"), delivery()) == []


async def test_large_bodies_and_bad_ones() -> None:
    text = "const transform = (evt, h, q, raw) => ({ name: 'n', data: { size: raw.length, evt: typeof evt } })"
    found = await sent(script(text), delivery(b"x" * 300_000))
    assert found["data"] == {"size": 300_000, "evt": "object"}
    async with sandbox() as pool:
        bad = await events(pool, script(text), delivery(b"no", {"content-encoding": "br"}))
        assert isinstance(bad, TransformError)
        assert bad.code == "body_unreadable"


async def test_half_a_surrogate_reaches_inngest_as_the_replacement_character() -> None:
    found = await sent(script(r"const transform = () => ({ name: 'n', data: { s: 'a\ud800' } })"), delivery())
    assert found["data"] == {"s": "a\ufffd"}
