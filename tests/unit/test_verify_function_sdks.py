"""The schemes that are code, against the providers' own libraries: each believes what the other signs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from relay.models import Request
from relay.presets import load_preset, preset_for
from relay.verify import sign
from tests.support.handshakes import braintree_answer
from tests.support.oracles import oracle
from tests.support.requests import NOW, URL, code, judge, request_to

ADYEN_KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
TEXTS = ["", "plain", "A:B\\C/d", "é ☃ 🚀", '"quoted"', "\\u0041"]


def gateway() -> Any:
    braintree = oracle("braintree")
    sandbox = braintree.Environment.Sandbox
    return braintree.BraintreeGateway(
        braintree.Configuration(sandbox, merchant_id="m", public_key="pub", private_key="priv")
    )


def answer(preset: str, secret: str, request: Request, **options: Any) -> str:
    return code(judge(preset_for(preset, options, file=None, key="sources.x").scheme, [secret], request))


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_adyen(text: str, ascii_only: bool) -> None:
    adyen = oracle("Adyen.util")
    item: dict[str, Any] = {
        "pspReference": text,
        "originalReference": text,
        "merchantAccountCode": "TestMerchant",
        "merchantReference": text,
        "amount": {"currency": "EUR", "value": 10**18},
        "eventCode": "AUTHORISATION",
        "success": "false",
    }
    item["additionalData"] = {"hmacSignature": adyen.generate_notification_sig(item, ADYEN_KEY).decode()}
    batch = {"notificationItems": [{"NotificationRequestItem": item}]}
    request = request_to(URL, {}, json.dumps(batch, ensure_ascii=ascii_only).encode())
    assert answer("adyen", ADYEN_KEY, request) == "verified"
    assert answer("adyen", "ab" * 32, request) == "signature_mismatch"
    ours = sign(load_preset("adyen").scheme, ADYEN_KEY, request, url=URL, now_s=NOW, delivery_id="x")
    assert adyen.is_valid_hmac_notification(json.loads(ours.body), ADYEN_KEY)


@pytest.mark.parametrize("names", [[], ["content-type"], ["x-event-id", "content-type", "x-event-type"]])
def test_hook0(names: list[str]) -> None:
    """Hook0's library only verifies: it judges what we sign, and what was changed on the way."""
    headers = {"X-Event-Type": "wallet.activity.detected", **({"Content-Type": "application/json"} if names else {})}
    for body in (b"{}", "é ☃".encode(), b"\xff\x00"):
        request = request_to(URL, headers, body)
        ours = sign(load_preset("coinbase_cdp_v1").scheme, "s", request, url=URL, now_s=NOW, delivery_id="e1")
        sent = {name.decode().lower(): value.decode() for name, value in ours.headers}
        assert hook0_says(sent, body, NOW) == answer("coinbase_cdp_v1", "s", ours) == "verified"
        assert hook0_says(sent, body + b"x", NOW) == "refused"
        assert hook0_says({**sent, "x-event-id": "other"}, body, NOW) == "refused", "the id's header is signed too"
        for skew, expected in ((300, "verified"), (301, "refused"), (-300, "verified"), (-301, "refused")):
            assert hook0_says(sent, body, NOW + skew) == expected
            ours_says = code(judge(load_preset("coinbase_cdp_v1").scheme, ["s"], ours, now=NOW + skew))
            assert (ours_says == "verified") == (expected == "verified")


def hook0_says(headers: dict[str, str], body: bytes, now: float) -> str:
    hook0 = oracle("hook0")
    moment = datetime.fromtimestamp(now, UTC)
    signature = headers["x-hook0-signature"]
    try:
        hook0.verify_webhook_signature_with_current_time(signature, body, headers, "s", 300, moment)
    except hook0.Hook0ClientError:
        return "refused"
    return "verified"


@pytest.mark.parametrize(
    "kind", ["check", "dispute_opened", "subscription_charged_successfully", "local_payment_completed"]
)
def test_braintree(kind: str) -> None:
    form = gateway().webhook_testing.sample_notification(kind, "my_id")
    request = request_to(URL, {"Content-Type": "application/x-www-form-urlencoded"}, urlencode(form).encode())
    assert answer("braintree", "priv", request) == "verified"
    assert answer("braintree", "priv", request, public_key="pub") == "verified"
    assert answer("braintree", "priv", request, public_key="other") == "signature_mismatch"
    assert answer("braintree", "other", request) == "signature_mismatch"


def test_braintree_reads_what_we_sign() -> None:
    preset = preset_for("braintree", {"public_key": "pub"}, file=None, key="sources.x")
    for sample in preset.samples:
        request = sample.request("/in/demo", now_s=NOW, delivery_id="id")
        signed = sign(preset.scheme, "priv", request, url=URL, now_s=NOW, delivery_id="id")
        form = parse_qs(signed.body.decode())
        read = gateway().webhook_notification.parse(form["bt_signature"][0], form["bt_payload"][0])
        assert read.kind == sample.event


def test_braintree_challenge() -> None:
    challenge = "20f9f8ed05f77439fe955c977e4c8a53"
    assert braintree_answer("priv", "pub", challenge) == gateway().webhook_notification.verify(challenge)
