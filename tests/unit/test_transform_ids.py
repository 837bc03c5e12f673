"""Two events never share an id, or one of them would be dropped as a copy; a retry has the id of the first attempt."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest

from relay.errors import TransformError
from relay.models import Delivery, Event, Request
from relay.presets import load_preset
from relay.transform import TransformLimits, transform
from tests.support.requests import NOW, judge
from tests.support.throwaway import sign_sample
from tests.unit.test_shipped_transforms import RECEIVED_MS, check_event, sandbox, script_of

ADYEN = {
    "notificationItems": [
        {
            "NotificationRequestItem": {
                "pspReference": "7914073381342284",
                "eventCode": "CHARGEBACK",
                "success": "true",
                "eventDate": "2026-11-21T17:15:34+02:00",
            }
        }
    ]
}
HUBSPOT = [
    {
        "eventId": 101,
        "subscriptionId": 13,
        "subscriptionType": "deal.associationChange",
        "fromObjectId": 356,
        "toObjectId": 1246965,
        "associationType": "DEAL_TO_CONTACT",
        "associationTypeId": 3,
        "occurredAt": 1795323592000,
    }
]
GRAPH = {"value": [{"id": "lsgTZMr9KwAAA", "subscriptionId": "76222963", "changeType": "created"}]}
INSTAGRAM = {
    "object": "instagram",
    "entry": [
        {"id": "17841", "messaging": [{"sender": {"id": "1"}, "timestamp": 1795323597000, "message": {"mid": "m_1"}}]}
    ],
}
GROUP = {
    "object": "whatsapp_business_account",
    "entry": [
        {
            "id": "1",
            "changes": [
                {
                    "field": "messages",
                    "value": {"statuses": [{"id": "wamid.1", "status": "read", "recipient_participant_id": "491"}]},
                }
            ],
        }
    ],
}
PAYSTACK = {"event": "charge.success", "data": {"id": 302961, "reference": "order-1"}}
WEBFLOW = {
    "triggerType": "ecomm_new_order",
    "payload": {"orderId": "fc7-128", "acceptedOn": "2026-11-22T04:59:55.000Z"},
}
ZOOM = {
    "event": "phone.callee_ringing",
    "event_ts": 1795323597000,
    "payload": {"object": {"call_id": "71", "callee": {"extension_id": "a"}}},
}
OPEN = {
    "RecordType": "Open",
    "MessageID": "f4830d10",
    "Recipient": "ada@example.com",
    "ReceivedAt": "2026-11-22T04:59:51Z",
    "Geo": {"IP": "192.0.2.8"},
}
XERO = {"events": [{"eventCategory": "INVOICE", "eventType": "UPDATE", "resourceId": "44aa"}]}
TELEGRAM = {"update_id": 10000, "message": {"message_id": 1, "chat": {"id": 1111}, "date": 1795323597}}
CALLBACK = {"update_id": 10000, "callback_query": {"id": "4382bfdwdsb323b2d9", "from": {"id": 1111}}}
RECORDING = {"RecordingSid": "RE1", "RecordingStatus": "completed", "CallSid": "CA1"}
Path = list[str | int]
PAIRS: list[tuple[str, Any, Path, Any]] = [
    ("adyen", ADYEN, ["notificationItems", 0, "NotificationRequestItem", "eventDate"], "2026-11-22T01:00:00+02:00"),
    ("hubspot_v3", HUBSPOT, [0, "associationTypeId"], 5),
    ("msgraph_clientstate", GRAPH, ["value", 0, "subscriptionId"], "another"),
    ("meta", INSTAGRAM, ["entry", 0, "messaging", 0, "message", "is_deleted"], True),
    ("meta", GROUP, ["entry", 0, "changes", 0, "value", "statuses", 0, "recipient_participant_id"], "492"),
    ("paystack", PAYSTACK, ["data", "id"], 302962),
    ("webflow", WEBFLOW, ["payload", "acceptedOn"], "2026-11-22T04:00:00.000Z"),
    ("zoom", ZOOM, ["payload", "object", "callee", "extension_id"], "b"),
    ("postmark", OPEN, ["Geo", "IP"], "192.0.2.9"),
    ("twilio", RECORDING, ["TranscriptionSid"], "TR1"),
    ("telegram", TELEGRAM, ["message", "chat", "id"], 2222),
    ("telegram", CALLBACK, ["callback_query", "id"], "4382bfdwdsb323b2e0"),
]


def delivery(body: Any, headers: Mapping[str, str] | None = None, key: str = "1") -> Delivery:
    raw = tuple((name.encode(), value.encode()) for name, value in (headers or {}).items())
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivery(f"delivery-{key}", "example", None, RECEIVED_MS, Request("POST", "/", "", raw, text))


async def events(name: str, *given: Delivery) -> list[list[Event] | TransformError]:
    async with sandbox() as pool:
        limits = TransformLimits(1000, 3 * 1024 * 1024)
        script = script_of(name)
        return [
            await transform(pool, script, each, destination="default", environment=None, limits=limits)
            for each in given
        ]


async def ids(name: str, *given: Delivery) -> list[str]:
    found = []
    for each in await events(name, *given):
        assert not isinstance(each, TransformError), each
        check_event(each[0])
        found.append(each[0].id)
    return found


@pytest.mark.parametrize(("name", "body", "path", "value"), PAIRS)
async def test_what_differs_in_one_place_is_another_event(name: str, body: Any, path: Path, value: Any) -> None:
    changed = copy.deepcopy(body)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    first, retry, other = await ids(name, delivery(body), delivery(body, key="2"), delivery(changed, key="3"))
    assert first == retry
    assert first != other


async def test_an_event_without_a_time_has_an_id_of_its_own() -> None:
    first, other = await ids("xero", delivery(XERO, key="1"), delivery(XERO, key="2"))
    assert first != other


@pytest.mark.parametrize(
    ("name", "body", "headers", "expected"),
    [
        ("twilio", {"CallSid": "CA1", "CallStatus": "in-progress"}, {}, "twilio/call.in_progress"),
        ("twilio", RECORDING | {"TranscriptionSid": "TR1"}, {}, "twilio/transcription.updated"),
        (
            "linear",
            {"type": "AppUserNotification", "action": "issueMention"},
            {},
            "linear/appusernotification.issue_mention",
        ),
    ],
)
async def test_names_are_in_small_letters(name: str, body: Any, headers: dict[str, str], expected: str) -> None:
    [found] = await events(name, delivery(body, headers))
    assert not isinstance(found, TransformError)
    check_event(found[0])
    assert found[0].name == expected


@pytest.mark.parametrize(
    ("name", "body", "headers", "words"),
    [
        ("shopify", b"<order/>", {"X-Shopify-Topic": "orders/create"}, "the body is no JSON"),
        ("adyen", {"notificationItems": [None]}, {}, "this is no Adyen event"),
        ("asana", {"events": [None]}, {}, "this is no Asana event"),
        ("msgraph_clientstate", {"value": [None]}, {}, "this is no notification of Microsoft Graph"),
    ],
)
async def test_what_cannot_be_read_is_said(name: str, body: Any, headers: dict[str, str], words: str) -> None:
    [found] = await events(name, delivery(body, headers))
    assert isinstance(found, TransformError)
    assert words in found.message


async def test_a_password_of_a_video_call_is_left_out() -> None:
    payload = {"uid": "u1", "videoCallData": {"type": "daily_video", "password": "let-me-in", "url": "https://x.test"}}
    [found] = await events("cal_com", delivery({"triggerEvent": "BOOKING_CREATED", "payload": payload}))
    assert not isinstance(found, TransformError)
    assert json.loads(found[0].json)["data"]["videoCallData"] == {"type": "daily_video", "url": "https://x.test"}


@pytest.mark.parametrize("event", ["submission", "submission-form"])
def test_a_submission_to_formstack_that_was_changed_is_another_delivery(event: str) -> None:
    preset = load_preset("formstack")
    bare = preset.sample(event).request("/in/demo", now_s=NOW, delivery_id="77")
    changed = Request(bare.method, bare.path, bare.query, bare.headers, bare.body.replace(b"Ada", b"Eve"))
    assert changed.body != bare.body
    keys = []
    for request in (bare, bare, changed):
        signed = sign_sample(preset, request, delivery_id="77")
        keys.append(getattr(judge(signed.scheme, signed.secrets, signed.request), "key", None))
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] is not None
