"""Rejected requests judged again and accepted: only genuine ones, durably, once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.errors import Rejected
from relay.judge import DIAGNOSES_PER_SECOND
from relay.models import DeliveryState
from relay.rejected import REFUSALS
from tests.support import signing
from tests.support.desk import HOST, Desk, open_desk
from tests.support.pen import logged, names, rejected
from tests.support.relay_process import GITHUB_SECRET, STRIPE_SECRET
from tests.support.requests import VECTORS, request_to
from tests.support.store import START_MS

SOURCES: dict[str, dict[str, Any]] = {
    "github": {"provider": "github", "secrets": ["an old secret"]},
    "stripe": {"provider": "stripe", "secrets": [STRIPE_SECRET]},
    "gitlab": {"provider": "gitlab_token", "secrets": ["the old token"]},
    "twilio": {"provider": "twilio", "secrets": ["a twilio token"]},
}
RIGHT: dict[str, Any] = {"provider": "github", "secrets": [GITHUB_SECRET]}
BODY = signing.json_body("evt_1")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path, SOURCES) as made:
        yield made


async def test_genuine_after_the_secret_was_corrected(desk: Desk) -> None:
    name = await desk.refuse("github", signing.github(BODY, "d-1"), BODY)
    assert (await desk.requests.verify([name]))[0]["code"] == "signature_mismatch"
    desk.configure(**{**SOURCES, "github": RIGHT})
    desk.clock.pass_seconds(3600)
    judged = (await desk.requests.verify([name]))[0]
    assert judged == {"id": name, "source": "github", "genuine": True, "key": "d-1", "event_type": "push"}
    assert names(await desk.pen.list_rejected()) == [name], "verify changes nothing"
    assert await desk.requests.accept([name]) == {
        "accepted": [{"id": name, "delivery_id": name, "duplicate": False}],
        "refused": [],
    }
    assert await desk.pen.list_rejected() == []
    kept = await desk.store.get_delivery(name)
    assert kept is not None
    assert kept.request is not None
    assert (kept.state, kept.key, kept.received_ms) == (DeliveryState.RECEIVED, "d-1", START_MS)
    assert (kept.request.body, kept.request.header("x-github-event")) == (BODY, "push")
    assert "rejected.accepted" in logged(desk.telemetry)


async def test_what_is_not_genuine_is_never_accepted(desk: Desk) -> None:
    forged = await desk.refuse("github", signing.github(BODY, "d-1", secret="a forger's"), BODY)
    missing = await desk.refuse("github", {"Content-Type": "application/json"}, BODY)
    desk.configure(github=RIGHT)
    for stale in (False, True):
        done = await desk.requests.accept([forged, missing, "nobody"], stale=stale)
        assert done["accepted"] == []
        codes = [(one["id"], one["code"]) for one in done["refused"]]
        assert codes == [(forged, "signature_mismatch"), (missing, "signature_missing"), ("nobody", "not_found")]
    assert names(await desk.pen.list_rejected()) == [missing, forged], "they stay"
    assert (await desk.store.stats()).deliveries.get("received", 0) == 0


async def test_a_stale_one_is_judged_at_the_time_it_came(desk: Desk) -> None:
    at_s = START_MS / 1000
    old = await desk.refuse("stripe", signing.stripe(BODY, at=at_s - 1000), BODY)
    desk.configure(stripe={"provider": "stripe", "secrets": ["whsec_another_one_than_that"]})
    recent = await desk.refuse("stripe", signing.stripe(BODY, at=at_s - 100), BODY)
    desk.configure(**SOURCES)
    desk.clock.pass_seconds(24 * 3600)
    judged = {one["id"]: one for one in await desk.requests.verify([old, recent])}
    assert judged[recent]["genuine"], "100 s were within the tolerance when it came"
    assert (judged[old]["code"], "1000 s ago" in judged[old]["message"]) == ("timestamp_stale", True)
    assert [one["code"] for one in (await desk.requests.accept([old]))["refused"]] == ["timestamp_stale"]
    assert [one["id"] for one in (await desk.requests.accept([old], stale=True))["accepted"]] == [old]


async def test_stale_never_means_unsigned(desk: Desk) -> None:
    forged = await desk.refuse("stripe", signing.stripe(BODY, secret="whsec_of_a_forger", at=1), BODY)
    done = await desk.requests.accept([forged], stale=True)
    assert [one["code"] for one in done["refused"]] == ["signature_mismatch"]


async def test_copies_are_duplicates_of_the_first(desk: Desk) -> None:
    copies = [await desk.refuse("github", signing.github(BODY, "d-1"), BODY) for _ in range(3)]
    desk.configure(github=RIGHT)
    done = (await desk.requests.accept(copies))["accepted"]
    assert [(one["delivery_id"], one["duplicate"]) for one in done] == [
        (copies[0], False),
        (copies[0], True),
        (copies[0], True),
    ]
    assert await desk.pen.list_rejected() == []
    assert len(await desk.store.list_deliveries()) == 1


async def test_accepting_at_the_same_time_accepts_once(desk: Desk) -> None:
    name = await desk.refuse("github", {**signing.github(BODY, ""), "X-GitHub-Delivery": ""}, BODY)
    desk.configure(github=RIGHT)
    both = await asyncio.gather(desk.requests.accept([name]), desk.requests.accept([name]))
    assert sorted(len(done["accepted"]) for done in both) == [0, 1]
    assert len(await desk.store.list_deliveries()) == 1


async def test_cut_off_between_store_and_pen_it_is_accepted_once(desk: Desk) -> None:
    """Without a delivery id of the provider's there is nothing else to tell it by than our own."""
    name = await desk.refuse("github", {**signing.github(BODY, ""), "X-GitHub-Delivery": ""}, BODY)
    kept = await desk.pen.get(name)
    assert kept is not None
    assert kept.request is not None
    desk.configure(github=RIGHT)
    await desk.requests.accept([name])
    desk.pen.keep(rejected(name, request=kept.request))  # as if the relay had ended before it left the pen
    done = (await desk.requests.accept([name]))["accepted"]
    assert done == [{"id": name, "delivery_id": name, "duplicate": True}]
    assert len(await desk.store.list_deliveries()) == 1
    assert await desk.pen.list_rejected() == []


async def test_a_body_that_was_not_kept_is_seen_and_not_accepted(tmp_path: Path) -> None:
    async with open_desk(tmp_path, SOURCES) as desk:
        body = signing.json_body("evt_1", filler="x" * (5 << 20))
        assert desk.pen.keep(rejected("01LARGE", body=body, headers=()))
        assert (await desk.requests.rejected())[0]["body_kept"] is False
        assert await desk.requests.body("01LARGE") is None
        done = await desk.requests.accept(["01LARGE"])
        assert done["refused"] == [{"id": "01LARGE", "code": "body_not_kept", "message": REFUSALS["body_not_kept"]}]


async def test_a_source_that_is_gone_or_disabled_accepts_nothing(desk: Desk) -> None:
    name = await desk.refuse("github", signing.github(BODY, "d-1"), BODY)
    for sources in ({}, {"github": {**RIGHT, "enabled": False}}):
        desk.configure(**sources)
        assert [one["code"] for one in (await desk.requests.accept([name]))["refused"]] == ["unknown_source"]
    desk.configure(github=RIGHT)
    assert len((await desk.requests.accept([name]))["accepted"]) == 1


async def test_the_environment_is_the_requests_own(desk: Desk) -> None:
    url = f"{HOST}/in/github?x-inngest-env=pr-7"
    names_ = [await desk.refuse("github", signing.github(BODY, f"d-{n}"), BODY, url) for n in range(2)]
    desk.configure(github={**RIGHT, "environments_allowed": ["main"]})
    assert (await desk.requests.accept(names_))["refused"][0]["code"] == "environment_not_allowed"
    desk.configure(github={**RIGHT, "environments_allowed": ["pr-*"]})
    await desk.requests.accept(names_)
    assert [record.environment for record in await desk.store.list_deliveries()] == ["pr-7", "pr-7"]


async def test_a_wrong_public_url_is_corrected_like_a_wrong_secret(tmp_path: Path) -> None:
    """Twilio signs the URL; behind a proxy the relay saw another one."""
    url, form = f"{HOST}/in/twilio?a=1", b"Body=hi&From=%2B1"
    signed = hmac.new(b"a twilio token", f"{url}BodyhiFrom+1".encode(), hashlib.sha1).digest()
    headers = {
        "X-Twilio-Signature": base64.b64encode(signed).decode(),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    async with open_desk(tmp_path, SOURCES) as desk:
        name = await desk.refuse("twilio", headers, form, "http://127.0.0.1:8080/in/twilio?a=1")
    async with open_desk(tmp_path, SOURCES, receiver={"public_url": HOST}) as desk:
        assert (await desk.requests.verify([name]))[0]["genuine"]
    async with open_desk(tmp_path, {"twilio": {**SOURCES["twilio"], "url": f"{HOST}/in/twilio"}}) as desk:
        assert (await desk.requests.verify([name]))[0]["genuine"]
        assert len((await desk.requests.accept([name]))["accepted"]) == 1


async def test_what_proves_the_sender_is_hidden(desk: Desk) -> None:
    headers = {
        "X-Gitlab-Token": "the new token",
        "Authorization": "Basic dXNlcjpwYXNz",
        "Cookie": "session=1",
        "X-Request-Id": "r-1",
    }
    url = f"{HOST}/in/gitlab?token=letmein&a=b%20c"
    name = await desk.refuse("gitlab", headers, BODY, url)
    shown = await desk.requests.one(name)
    assert shown is not None
    assert dict(shown["request"]["headers"]) == {
        "X-Gitlab-Token": "(hidden, 13 bytes)",
        "Authorization": "Basic (hidden, 12 bytes)",
        "Cookie": "(hidden, 9 bytes)",
        "X-Request-Id": "r-1",
    }
    assert shown["request"]["query"] == "token=(hidden,7)&a=b%20c"
    listed = (await desk.requests.rejected())[0]
    assert "letmein" not in str((shown, listed))
    assert "request" not in listed
    assert "body" not in shown["request"]
    assert await desk.requests.body(name) == BODY


async def test_a_handshake_is_no_delivery(tmp_path: Path) -> None:
    sources = {"slack": {"provider": "slack", "secrets": ["a secret of slack's"]}}
    body = b'{"type":"url_verification","challenge":"abc","token":"t"}'
    headers = signing.slack(body, secret="another secret", at=START_MS / 1000)
    async with open_desk(tmp_path, sources) as desk:
        kept = rejected(
            "01HANDSHAKE",
            source="slack",
            body=body,
            headers=tuple((name.encode(), value.encode()) for name, value in headers.items()),
        )
        desk.pen.keep(kept)
        desk.configure(slack={"provider": "slack", "secrets": ["another secret"]})
        assert [one["code"] for one in (await desk.requests.accept(["01HANDSHAKE"]))["refused"]] == ["is_handshake"]
        assert await desk.store.list_deliveries() == []


async def test_secrets_that_came_in_a_handshake_count(tmp_path: Path) -> None:
    """Asana's secret is in the store, not in relay.toml."""
    body = b'{"events":[{"a":1}]}'
    signature = hmac.new(b"asanas own secret of some length", body, hashlib.sha256).hexdigest()
    async with open_desk(tmp_path, {"asana": {"provider": "asana", "secrets": []}}) as desk:
        name = await desk.refuse("asana", {"X-Hook-Signature": signature}, body)
        await desk.store.keep_secret("asana", "asanas own secret of some length", now_ms=START_MS)
        assert (await desk.requests.verify([name]))[0]["genuine"]


async def test_a_cause_that_is_costly_to_find_leaves_less_for_others(desk: Desk) -> None:
    """Or a few forgeries a second, of the kind that takes longest, would keep the relay busy."""
    await desk.refuse("github", signing.github(BODY, "d-1", secret="a forger's"), BODY)
    assert desk.judge.diagnoses_of["github"].left > DIAGNOSES_PER_SECOND - 2
    form = b"&".join(b"%04d=1" % number for number in range(9000))
    signature = base64.b64encode(b"x" * 20).decode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Twilio-Signature": signature}
    await desk.refuse("twilio", headers, form)
    assert desk.judge.diagnoses_of["twilio"].left < DIAGNOSES_PER_SECOND - 3


async def test_a_flood_at_one_source_leaves_causes_for_the_others(desk: Desk) -> None:
    for number in range(int(DIAGNOSES_PER_SECOND) * 4):
        await desk.refuse("github", signing.github(BODY, f"d-{number}", secret="a forger's"), BODY)
    assert desk.judge.diagnoses_of["github"].left < 1
    name = await desk.refuse("stripe", signing.stripe(BODY + b"\n"), BODY)
    found = await desk.pen.get(name)
    assert found is not None
    assert found.code == "body_altered"


async def test_no_key_is_fetched_for_what_is_refused_anyway(tmp_path: Path) -> None:
    """Or strangers would have the relay ask Amazon for whatever certificates they think of."""
    row = json.loads((VECTORS / "sns.json").read_text("utf-8"))[0]
    body = row["body"].encode()
    topics = {"ours": row["secret"], "others": "arn:aws:sns:us-east-1:123456789012:other"}
    sources = {name: {"provider": "sns", "secrets": [topic]} for name, topic in topics.items()}
    nowhere = {"proxy": "http://127.0.0.1:9"}
    async with open_desk(tmp_path, sources, keys=nowhere) as desk:
        await desk.refuse("others", {}, body)
        assert b'relay_key_fetches_total{outcome="unreachable"}' not in desk.telemetry.exposition()
        answer = await desk.judge.judge(desk.sources["ours"], request_to(f"{HOST}/in/ours", {}, body), "")
        assert isinstance(answer, Rejected)
        assert (answer.code, answer.status) == ("key_unreachable", 503)
        assert b'relay_key_fetches_total{outcome="unreachable"} 1.0' in desk.telemetry.exposition()
