"""The transforms that the relay ships, on golden cases in the real sandbox; and the examples of the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from relay import config
from relay.cases import Case, load_case
from relay.engine_names import ENGINE_NAMES
from relay.errors import TRANSFORM_FAILURES, TransformError
from relay.javascript import FINDINGS, lint
from relay.models import Delivery, Event, Request
from relay.sandbox import Call, SandboxPool, Script
from relay.telemetry import Telemetry
from relay.transform import TransformLimits, transform

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "transforms"
DOCUMENT = (ROOT / "docs" / "transforms.md").read_text("utf-8")
SCRIPTS = sorted(path.stem for path in SHIPPED.glob("*.js"))
RECEIVED_MS = 1795323600000  # 2026-11-22T05:00:00Z
#: As `relay transform` has them: an id that the relay makes holds both.
DELIVERY_ID = "00000000000000000000000000"
PROVIDERS = {
    "github": 6,
    "stripe": 2,
    "standard_webhooks": 2,
    "svix": 2,
    "clerk": 2,
    "resend": 2,
    "slack": 2,
    "shopify": 2,
    "gitlab": 2,
    "linear": 2,
    "intercom": 2,
    "twilio": 2,
    "bitbucket_cloud": 4,
    "jira": 3,
    "trello": 3,
    "asana": 3,
    "notion": 2,
    "vercel": 2,
    "sentry": 4,
    "pagerduty": 3,
    "circleci": 3,
    "msgraph_clientstate": 3,
    "webflow": 3,
    "zoom": 4,
    "docusign": 3,
    "meta": 4,
    "line": 3,
    "telegram": 3,
    "twitch": 3,
    "openai": 2,
    "okta": 2,
    "auth0_logs": 3,
    "workos": 2,
    "supabase_auth_hook": 4,
    "cloudflare_notifications": 3,
    "mux": 2,
    "mailgun": 3,
    "mandrill": 4,
    "postmark": 4,
    "mailersend": 2,
    "customerio": 2,
    "segment": 3,
    "zendesk": 3,
    "hubspot_v3": 2,
    "front_app": 2,
    "typeform": 2,
    "calendly": 2,
    "cal_com": 4,
    "pipedrive": 3,
    "adyen": 3,
    "sns": 4,
    "contentful": 5,
    "box": 2,
    "square": 2,
    "paddle": 2,
    "lemonsqueezy": 3,
    "razorpay": 2,
    "coinbase_commerce": 2,
    "gocardless": 3,
    "paystack": 3,
    "chargebee": 3,
    "quickbooks": 3,
    "xero": 3,
    "polar": 2,
    "woocommerce": 3,
    "sendgrid": 4,
    "discord": 4,
    "paypal": 2,
    "plaid": 2,
    "google_pubsub_push": 4,
    "monday": 4,
    "vonage": 4,
    "livekit": 3,
    "netlify": 3,
    "telnyx": 2,
    "bitbucket_server": 4,
    "gitea": 3,
}
#: Where the names and ids of the events begin otherwise than the script is called.
EVENT_PREFIXES = {
    "standard_webhooks": "webhook",
    "auth0_logs": "auth0",
    "supabase_auth_hook": "supabase",
    "cloudflare_notifications": "cloudflare",
    "bitbucket_cloud": "bitbucket",
    "msgraph_clientstate": "msgraph",
    "hubspot_v3": "hubspot",
    "front_app": "front",
    "bitbucket_server": "bitbucket",
    "google_pubsub_push": "google_pubsub",
}


@asynccontextmanager
async def sandbox() -> AsyncIterator[SandboxPool]:
    pool = SandboxPool(config.Sandbox(processes=1, deadline_ms=5000), Telemetry())
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def run(pool: SandboxPool, script: Script, case: Case) -> list[dict[str, Any]]:
    """The events as they would be sent; fails when there is an error in their place."""
    received_ms = RECEIVED_MS if case.received_ms is None else case.received_ms
    delivery = Delivery(DELIVERY_ID, "example", None, received_ms, case.request)
    limits = TransformLimits(1000, 3 * 1024 * 1024)
    events = await transform(pool, script, delivery, destination="default", environment=None, limits=limits)
    assert not isinstance(events, TransformError), events
    for event in events:
        check_event(event)
    return [json.loads(event.json) for event in events]


def check_event(event: Event) -> None:
    """Inngest's rules, read off the JSON that would be sent."""
    sent = json.loads(event.json)
    assert (sent["id"], sent["name"], sent["ts"]) == (event.id, event.name, event.ts)
    assert isinstance(sent["id"], str)
    assert re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+(\.[a-z0-9_]+)*", sent["name"]), sent["name"]
    assert type(sent["ts"]) is int
    assert 1577836800000 < sent["ts"] <= RECEIVED_MS  # from 2020 on: no seconds, no microseconds
    assert isinstance(sent["data"], dict)
    assert "undefined" not in sent["id"] + sent["name"]


def script_of(name: str) -> Script:
    return Script(f"transforms/{name}.js", (SHIPPED / f"{name}.js").read_text("utf-8"))


def cases_of(name: str) -> list[Path]:
    return sorted((SHIPPED / name).glob("*.request.json"))


def expected_of(case: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(
        case.with_name(case.name.replace(".request.json", ".events.json")).read_text("utf-8")
    )
    return events


def test_every_promised_provider_has_its_transform_and_cases() -> None:
    assert set(SCRIPTS) >= set(PROVIDERS)
    short = {name: len(cases_of(name)) for name in SCRIPTS if len(cases_of(name)) < PROVIDERS.get(name, 2)}
    assert short == {}


def test_no_file_is_without_its_other_half() -> None:
    for name in (path.name for path in SHIPPED.iterdir() if path.is_dir()):
        assert name in SCRIPTS
        requests = {path.name.removesuffix(".request.json") for path in cases_of(name)}
        assert requests == {path.name.removesuffix(".events.json") for path in (SHIPPED / name).glob("*.events.json")}


async def test_golden_cases() -> None:
    async with sandbox() as pool:  # one for all: starting it costs more than everything it then does
        for name in SCRIPTS:
            for path in cases_of(name):
                assert await run(pool, script_of(name), load_case(path)) == expected_of(path), path


@pytest.mark.parametrize("name", SCRIPTS)
def test_ids_begin_with_the_provider(name: str) -> None:
    prefix = EVENT_PREFIXES.get(name, name)
    for path in cases_of(name):
        for event in expected_of(path):
            assert event["name"].startswith(f"{prefix}/"), path
            assert event["id"].startswith((f"{prefix}/", f"example:{DELIVERY_ID}:")), path


@pytest.mark.parametrize("name", SCRIPTS)
def test_lints_are_silent(name: str) -> None:
    assert lint(script_of(name).text) == []


async def test_a_body_of_another_kind_makes_no_nonsense() -> None:
    """Nothing is sent under a name or an id with a hole in it."""
    strangers = [
        Case(Request("POST", "/", "", (), body), None) for body in (b"", b"{}", b"[]", b'"text"', b"7", b"<a/>")
    ]
    limits = TransformLimits(1000, 3 * 1024 * 1024)
    async with sandbox() as pool:
        for name, case in product(SCRIPTS, strangers):
            delivery = Delivery(DELIVERY_ID, "example", None, RECEIVED_MS, case.request)
            found = await transform(
                pool, script_of(name), delivery, destination="default", environment=None, limits=limits
            )
            if isinstance(found, TransformError):
                assert found.code == "script_raised", (name, case)
                assert "TypeError" not in found.message, (name, case)
            else:
                assert all("undefined" not in event.id + event.name for event in found), (name, case)


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [
        ("slack", "payload=null", "no Slack interaction"),
        ("slack", "payload=%7B%7D", "no Slack interaction"),
        ("github", "payload=null", "neither JSON nor a form"),
        ("twilio", "CallSid=CA1", "twilio/call.updated"),
        ("twilio", "EventType=x", "about no message, call or recording"),
    ],
)
async def test_forms_without_what_matters_make_no_nonsense(name: str, form: str, expected: str) -> None:
    headers = ((b"Content-Type", b"application/x-www-form-urlencoded"), (b"X-GitHub-Event", b"push"))
    request = Request("POST", "/", "", headers, form.encode())
    given = Delivery(DELIVERY_ID, "example", None, RECEIVED_MS, request)
    limits = TransformLimits(1000, 3 * 1024 * 1024)
    async with sandbox() as pool:
        found = await transform(pool, script_of(name), given, destination="d", environment=None, limits=limits)
    said = found.message if isinstance(found, TransformError) else found[0].name
    assert expected in said


async def test_the_names_of_the_checks_are_the_engines() -> None:
    text = "function transform() { return [{ name: 'a', data: { names: Object.getOwnPropertyNames(globalThis) } }]; }"
    async with sandbox() as pool:
        answer = await pool.run(Script("names.js", text), Call(b"{}", None, b"{}", None))
    assert isinstance(answer, bytes)
    assert set(json.loads(answer)[0]["data"]["names"]) == ENGINE_NAMES - {"arguments"}


# Scripts in the style of Inngest's public documentation.

CLERK = (
    "function transform(evt, headers = {}, queryParams = {}) { return { name: `clerk/${evt.type}`, data: evt.data }; };"
)
STRIPE = """function transform(evt, headers = {}, queryParams = {}) {
  return { id: evt.id, name: `stripe/${evt.type}`, data: evt, ts: evt.created * 1000 };
};"""
GITHUB = """function transform(evt, headers = {}, queryParams = {}) {
  const name = headers["X-Github-Event"];
  return {
    // the event's name is in a header
    name: "github." + name.trim().replace("Event", "").toLowerCase(),
    data: evt,
  };
};"""
DEFAULT = """// the raw argument is the original body
function transform(evt, headers = {}, queryParams = {}, raw = "") {
  return {
    name: "webhook/request.received",
    data: { evt: evt, raw: raw, team: queryParams.team[0] },
  };
};"""


@pytest.mark.parametrize(
    ("text", "case", "name", "event_id"),
    [
        (CLERK, "clerk/user.created", "clerk/user.created", None),
        (STRIPE, "stripe/charge.succeeded", "stripe/charge.succeeded", "evt_3SVxYZ2eZvKYlo2C0Charge1"),
        (GITHUB, "github/push", "github.push", None),
    ],
)
async def test_scripts_from_inngests_documentation_run_unchanged(
    text: str, case: str, name: str, event_id: str | None
) -> None:
    assert lint(text) == []
    request = load_case(SHIPPED / f"{case}.request.json").request
    delivery = Delivery(DELIVERY_ID, "example", None, RECEIVED_MS, request)
    async with sandbox() as pool:
        [event] = await accepted(pool, Script("inngest.js", text), delivery)
    assert event.name == name
    assert event_id in (None, event.id)
    assert json.loads(event.json)["data"]


async def test_inngests_dashboard_default_runs_unchanged() -> None:
    request = Request("POST", "/in/x", "team=a&team=b", ((b"Content-Type", b"application/json"),), b'{"a": 1}')
    delivery = Delivery(DELIVERY_ID, "example", None, RECEIVED_MS, request)
    async with sandbox() as pool:
        [event] = await accepted(pool, Script("inngest.js", DEFAULT), delivery)
    assert json.loads(event.json)["data"] == {"evt": {"a": 1}, "raw": '{"a": 1}', "team": "a"}
    assert event.ts == RECEIVED_MS


async def accepted(pool: SandboxPool, script: Script, delivery: Delivery) -> list[Event]:
    limits = TransformLimits(1000, 3 * 1024 * 1024)
    events = await transform(pool, script, delivery, destination="default", environment=None, limits=limits)
    assert not isinstance(events, TransformError), events
    return events


# The documentation.

EXAMPLES = re.findall(r"```js\n// makes ([^\n]*)\n(.*?)```", DOCUMENT, re.S)
SAMPLE = {
    "id": "42",
    "type": "order.paid",
    "created": 1795323598,
    "livemode": True,
    "data": {"object": {"total": 12}},
    "lines": [{"sku": "a"}, {"sku": "b"}],
}


def test_every_js_block_of_the_page_is_an_example() -> None:
    assert len(EXAMPLES) == DOCUMENT.count("```js\n") >= 6


@pytest.mark.parametrize(("names", "text"), EXAMPLES)
async def test_examples_of_the_page(names: str, text: str) -> None:
    assert {finding.code for finding in lint(text)} <= {"lint_skipped"}
    sample = SAMPLE if names != "nothing" else {**SAMPLE, "livemode": False}
    headers = ((b"Content-Type", b"application/json"), (b"User-Agent", b"acme/1.0"))
    case = Case(Request("POST", "/in/acme", "team=blue", headers, json.dumps(sample).encode()), None)
    async with sandbox() as pool:
        events = await run(pool, Script("acme.js", text), case)
    assert ", ".join(event["name"] for event in events) == names.replace("nothing", "")
    assert len({event["id"] for event in events}) == len(events)


def test_the_page_names_every_check_with_its_meaning() -> None:
    rows = {line.split("|")[1].strip(): line for line in DOCUMENT.splitlines() if line.startswith("| `")}
    assert [code for code, text in FINDINGS.items() if text not in rows.get(f"`{code}`", "")] == []


def test_the_page_names_every_way_to_die() -> None:
    assert [code for code in TRANSFORM_FAILURES if f"| `{code}` |" not in DOCUMENT] == []


def test_the_page_names_every_shipped_transform() -> None:
    assert [name for name in SCRIPTS if f"`{name}`" not in DOCUMENT] == []


def test_the_request_of_the_page_can_be_read(tmp_path: Path) -> None:
    [text] = re.findall(r"```json\n(.*?)```", DOCUMENT, re.S)
    (tmp_path / "request.json").write_text(text)
    case = load_case(tmp_path / "request.json")
    assert json.loads(case.request.body)["id"] == "42"
    assert case.received_ms == RECEIVED_MS
