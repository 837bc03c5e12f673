"""Providers' own libraries for MACs over the body, the time and the URL: each judges what we sign."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from relay.presets import load_preset
from tests.support.oracles import BELIEVED, BODIES, ONLY_WE, REFUSED, Case, Sent, accepts, oracle
from tests.support.requests import NOW, URL, code, judge, request_to


def adyen_says(sent: Sent) -> bool:
    return bool(oracle("Adyen.util").is_valid_hmac_payload(sent.header("HmacSignature"), sent.secret, sent.body))


def airtable_says(sent: Sent) -> bool:
    """pyairtable is the library that Airtable's documentation names; it reads the notification after the MAC."""
    notification = oracle("pyairtable.models.webhook").WebhookNotification
    signature = sent.header("X-Airtable-Content-MAC")
    return accepts(lambda: notification.from_request(sent.text, signature, sent.secret), ValueError)


def box_says(sent: Sent) -> bool:
    webhooks = oracle("box_sdk_gen.managers.webhooks").WebhooksManager
    return bool(webhooks.validate_message(sent.text, sent.headers, sent.secret))


def cloudinary_says(sent: Sent) -> bool:
    oracle("cloudinary").config(api_secret=sent.secret)
    verify = oracle("cloudinary.utils").verify_notification_signature
    return bool(verify(sent.text, sent.header("X-Cld-Timestamp"), sent.header("X-Cld-Signature")))


def coinbase_commerce_says(sent: Sent) -> bool:
    webhook, error = oracle("coinbase_commerce.webhook"), oracle("coinbase_commerce.error")
    verify = webhook.WebhookSignature.verify_sig_header
    signature = sent.header("X-CC-Webhook-Signature")
    return accepts(lambda: verify(sent.text, signature, sent.secret), error.SignatureVerificationError)


def elevenlabs_says(sent: Sent) -> bool:
    client = oracle("elevenlabs.webhooks_custom").WebhooksClient(client_wrapper=None)
    signature = sent.header("ElevenLabs-Signature")
    refusal = oracle("elevenlabs.errors").BadRequestError
    return accepts(lambda: client.construct_event(sent.text, signature, sent.secret), refusal)


def gocardless_says(sent: Sent) -> bool:
    parse, refusal = oracle("gocardless_pro.webhooks").parse, oracle("gocardless_pro.errors").InvalidSignatureError
    return accepts(lambda: parse(sent.text, sent.secret, sent.header("Webhook-Signature")), refusal)


def hook0_says(sent: Sent) -> bool:
    hook0 = oracle("hook0")
    signature = sent.header("X-Hook0-Signature")
    verify = hook0.verify_webhook_signature
    return accepts(lambda: verify(signature, sent.body, sent.headers, sent.secret, 300), hook0.Hook0ClientError)


def hubspot_says(version: str) -> Callable[[Sent], bool]:
    header = "X-HubSpot-Signature-V3" if version == "v3" else "X-HubSpot-Signature"

    def says(sent: Sent) -> bool:
        signature, refusal = oracle("hubspot.utils.signature").Signature, oracle("hubspot.exceptions")
        more = {"http_uri": sent.url, "http_method": "POST", "signature_version": version}
        more["timestamp"] = sent.headers.get("x-hubspot-request-timestamp", "")
        valid = signature.is_valid
        return accepts(
            lambda: valid(sent.header(header), sent.secret, sent.text, **more), refusal.InvalidSignatureTimestampError
        )

    return says


def line_says(sent: Sent) -> bool:
    validator = oracle("linebot.v3.webhook").SignatureValidator(sent.secret)
    return bool(validator.validate(sent.text, sent.header("X-Line-Signature")))


def modern_treasury_says(sent: Sent) -> bool:
    client = oracle("modern_treasury").ModernTreasury(api_key="k", organization_id="o", webhook_key=sent.secret)
    return bool(client.webhooks.validate_signature(sent.text, sent.headers))


def paddle_says(sent: Sent) -> bool:
    """The library's own 5 s would make a slow machine fail; our preset's are those too."""
    notifications = oracle("paddle_billing.Notifications")
    headers = {"Paddle-Signature": sent.header("Paddle-Signature")}
    request = SimpleNamespace(headers=headers, body=sent.body)
    return bool(notifications.Verifier(300).verify(request, notifications.Secret(sent.secret)))


def quickbooks_says(sent: Sent) -> bool:
    client = oracle("quickbooks.client").QuickBooks(minorversion=75)  # without one it warns
    return bool(client.validate_webhook_signature(sent.text, sent.header("Intuit-Signature"), sent.secret))


def razorpay_says(sent: Sent) -> bool:
    utility, errors = oracle("razorpay.utility").Utility(), oracle("razorpay.errors")
    signature = sent.header("X-Razorpay-Signature")
    return accepts(
        lambda: utility.verify_webhook_signature(sent.text, signature, sent.secret), errors.SignatureVerificationError
    )


def square_says(sent: Sent) -> bool:
    verify = oracle("square.utils.webhooks_helper").verify_signature
    return bool(
        verify(
            request_body=sent.text,
            signature_header=sent.header("X-Square-HmacSha256-Signature"),
            signature_key=sent.secret,
            notification_url=sent.url,
        )
    )


def workos_says(sent: Sent) -> bool:
    """WorkOS writes a space after the comma, and its library insists on it."""
    client = oracle("workos").WorkOSClient(api_key="sk_1", client_id="client_1")
    signature = sent.header("WorkOS-Signature").replace(",v1", ", v1")
    verify = client.webhooks.verify_header
    return accepts(lambda: verify(event_body=sent.body, event_signature=signature, secret=sent.secret), ValueError)


HEX, OTHER_HEX = "00ff" * 16, "00fe" * 16
CASES = {
    case.preset: case
    for case in [
        Case(preset="adyen_platform", secret=HEX, other=OTHER_HEX, says=adyen_says),
        Case(preset="box", secret="key", other="other", says=box_says, past=600, future=0),
        Case(preset="cloudinary", secret="s3cret", other="other", says=cloudinary_says, past=7200),
        Case(
            preset="coinbase_cdp_v0",
            secret="s3cret",
            other="other",
            says=hook0_says,
            past=300,
            future=300,
            expect={"too early": ONLY_WE},  # the library tolerates 300 s either way, the preset judges the age alone
        ),
        Case(preset="coinbase_commerce", secret="s3cret", other="other", says=coinbase_commerce_says),
        Case(preset="elevenlabs", secret="wsec_1", other="wsec_2", says=elevenlabs_says, past=1800),
        Case(preset="gocardless", secret="s3cret", other="other", says=gocardless_says),
        Case(preset="hubspot_v1", secret="s3cret", other="other", says=hubspot_says("v1")),
        Case(preset="hubspot_v2", secret="s3cret", other="other", says=hubspot_says("v2")),
        Case(preset="hubspot_v3", secret="s3cret", other="other", says=hubspot_says("v3"), past=300),
        Case(preset="line", secret="s3cret", other="other", says=line_says),
        Case(preset="modern_treasury", secret="s3cret", other="other", says=modern_treasury_says),
        Case(preset="paddle", secret="pdl_ntfset_1", other="pdl_ntfset_2", says=paddle_says, past=300, future=300),
        Case(preset="quickbooks", secret="s3cret", other="other", says=quickbooks_says),
        Case(preset="razorpay", secret="s3cret", other="other", says=razorpay_says),
        Case(preset="square", secret="s3cret", other="other", says=square_says),
        Case(preset="workos", secret="s3cret", other="other", says=workos_says, past=180, future=180),
    ]
}


@pytest.mark.parametrize("name", CASES)
def test_both_say_the_same_of_what_we_sign(name: str) -> None:
    for body in BODIES:
        assert CASES[name].found(body) == CASES[name].expected(), body


def test_airtable() -> None:
    """Its library takes ASCII only, and so is Airtable's notification."""
    body = '{"base":{"id":"app1"},"webhook":{"id":"ach1"},"timestamp":"2026-11-22T05:00:00.000Z"}'
    case = Case(preset="airtable", secret="MDEyMzQ1Njc4OWFiY2RlZg==", other="b3RoZXI=", says=airtable_says)
    assert case.found(body) == case.expected()


def adyen_signs(text: str) -> dict[str, str]:
    return {"HmacSignature": oracle("Adyen.util").generate_payload_sig(text.encode(), HEX).decode()}


def box_signs(text: str, *, header: str = "box-signature-primary", escape: bool = False) -> dict[str, str]:
    headers = {
        "box-delivery-timestamp": datetime.fromtimestamp(NOW, UTC).isoformat(),
        "box-signature-version": "1",
        "box-signature-algorithm": "HmacSHA256",
    }
    signature = oracle("box_sdk_gen.internal.utils").compute_webhook_signature(text, headers, "s3cret", escape)
    return {**headers, header: signature}


def cloudinary_signs(text: str) -> dict[str, str]:
    """What its verifier compares with, by the library's own hash."""
    signature = oracle("cloudinary.utils").compute_hex_hash(f"{text}{NOW}s3cret")
    return {"X-Cld-Timestamp": str(NOW), "X-Cld-Signature": signature}


def hubspot_signs(version: str) -> Callable[[str], dict[str, str]]:
    def signs(text: str) -> dict[str, str]:
        get_signature = oracle("hubspot.utils.signature").Signature.get_signature
        time_ms = str(NOW * 1000)
        signature = get_signature("s3cret", text, version, http_uri=URL, http_method="POST", timestamp=time_ms)
        if version == "v3":
            return {"X-HubSpot-Signature-V3": signature, "X-HubSpot-Request-Timestamp": time_ms}
        return {"X-HubSpot-Signature": signature}

    return signs


def modern_treasury_signs(text: str) -> dict[str, str]:
    client = oracle("modern_treasury").ModernTreasury(api_key="k", organization_id="o", webhook_key="s3cret")
    return {"X-Signature": client.webhooks.get_signature(text)}


def paddle_signs(text: str) -> dict[str, str]:
    calculate = oracle("paddle_billing.Notifications.PaddleSignature").PaddleSignature.calculate_hmac
    digests = [calculate(key, f"{NOW}:{text}".encode()).hexdigest() for key in ("an old key", "s3cret")]
    return {"Paddle-Signature": f"ts={NOW};h1={digests[0]};h1={digests[1]}"}


SIGNERS: dict[str, tuple[str, Callable[[str], dict[str, str]]]] = {
    "adyen_platform": (HEX, adyen_signs),
    "box": ("s3cret", box_signs),
    "cloudinary": ("s3cret", cloudinary_signs),
    "hubspot_v1": ("s3cret", hubspot_signs("v1")),
    "hubspot_v2": ("s3cret", hubspot_signs("v2")),
    "hubspot_v3": ("s3cret", hubspot_signs("v3")),
    "modern_treasury": ("s3cret", modern_treasury_signs),
    "paddle": ("s3cret", paddle_signs),
}


def we_say(preset: str, secret: str, headers: dict[str, str], text: str) -> str:
    return code(judge(load_preset(preset).scheme, [secret], request_to(URL, headers, text.encode())))


@pytest.mark.parametrize("name", SIGNERS)
def test_we_believe_what_the_library_signs(name: str) -> None:
    secret, signs = SIGNERS[name]
    for body in BODIES:
        assert we_say(name, secret, signs(body), body) == "verified"
        assert we_say(name, secret, signs(body), body + " ") == "signature_mismatch"
        assert we_say(name, "abcd", signs(body), body) == "signature_mismatch"


def test_box_signs_a_body_with_escapes_too() -> None:
    """The library also doubles backslashes and escapes line ends, which makes other JSON: of those we believe none."""
    for body, expected in (('{"name":"Zoë ☃ 🚀"}', "verified"), (BODIES[1], "signature_mismatch")):
        assert we_say("box", "s3cret", box_signs(body, escape=True), body) == expected
    assert we_say("box", "s3cret", box_signs(BODIES[2], escape=True), BODIES[2]) == "signature_mismatch"


def test_box_has_a_second_key() -> None:
    secondary = box_signs(BODIES[1], header="box-signature-secondary")
    assert we_say("box", "s3cret", secondary, BODIES[1]) == "verified"
    assert we_say("box", "other", secondary, BODIES[1]) == "signature_mismatch"


def dropbox_sign_event(body: bytes) -> dict[str, Any]:
    """The JSON in the form that we signed."""
    found = re.search(rb"\r\n\r\n(\{.*\})\r\n", body, re.S)
    assert found
    event: dict[str, Any] = json.loads(found[1])
    return event


def dropbox_sign_says(sent: Sent) -> bool:
    library = oracle("dropbox_sign")
    callback = library.EventCallbackRequest.init(dropbox_sign_event(sent.body))
    return bool(library.EventCallbackHelper.is_valid(sent.secret, callback))


DROPBOX_SIGN = Case(
    preset="dropbox_sign",
    secret="s3cret",
    other="other",
    says=dropbox_sign_says,
    content_type="multipart/form-data; boundary=----relay",
    expect={"another body": BELIEVED},  # only the event's time and type are signed
)


def test_dropbox_sign() -> None:
    for sample in load_preset("dropbox_sign").samples:
        body = sample.request("/", now_s=NOW, delivery_id="1").body
        assert DROPBOX_SIGN.found(body) == DROPBOX_SIGN.expected()
        sent = DROPBOX_SIGN.signed(body, NOW)
        event = dropbox_sign_event(sent.body)["event"]
        for name, other in (("event_type", "signature_request_viewed"), ("event_time", event["event_time"] + "0")):
            changed = sent.body.replace(f'"{event[name]}"'.encode(), f'"{other}"'.encode())
            assert changed != sent.body
            assert DROPBOX_SIGN.both(replace(sent, request=sent.request.but(body=changed)), NOW) == REFUSED
