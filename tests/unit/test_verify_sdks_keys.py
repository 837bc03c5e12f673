"""Public keys and tokens: the providers' own libraries judge what we sign, and sign where they can."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from relay.presets import load_preset
from tests.support.oracles import BELIEVED, BODIES, ONLY_THEY, REFUSED, Case, Sent, accepts, oracle
from tests.support.requests import URL, code, judge, request_to
from tests.support.throwaway import (
    certificate,
    ec_key,
    ed_key,
    private_pem,
    public_der,
    public_pem,
    public_raw,
    rsa_key,
)


def discord_says(sent: Sent) -> bool:
    verify = oracle("discord_interactions").verify_key
    signature, time_text = sent.header("X-Signature-Ed25519"), sent.header("X-Signature-Timestamp")
    return bool(verify(sent.body, signature, time_text, sent.secret))


def google_says(sent: Sent) -> bool:
    token = sent.header("Authorization").removeprefix("Bearer ")
    decode, refusal = oracle("google.auth.jwt").decode, oracle("google.auth.exceptions")
    return accepts(lambda: decode(token, sent.secret, audience="aud"), refusal.InvalidValue, refusal.MalformedError)


def livekit_says(sent: Sent) -> bool:
    livekit, refusal = oracle("livekit.api"), oracle("jwt").InvalidTokenError
    receiver = livekit.WebhookReceiver(livekit.TokenVerifier("key", sent.secret))
    try:
        receiver.receive(sent.text, sent.header("Authorization"))
    except refusal:
        return False
    except Exception as error:  # the library has no narrower one for this
        if str(error) != "hash mismatch":
            raise
        return False
    return True


def messagebird_says(sent: Sent) -> bool:
    validator = oracle("messagebird.request_validator").RequestValidator(sent.secret)
    refusal, token = oracle("messagebird.error").ValidationError, sent.header("MessageBird-Signature-JWT")
    return accepts(lambda: validator.validate_signature(token, sent.url, sent.body), refusal)


def sendgrid_says(sent: Sent) -> bool:
    webhook = oracle("sendgrid.helpers.eventwebhook").EventWebhook(sent.secret)
    header = "X-Twilio-Email-Event-Webhook-"
    return bool(
        webhook.verify_signature(sent.text, sent.header(f"{header}Signature"), sent.header(f"{header}Timestamp"))
    )


def telnyx_says(sent: Sent) -> bool:
    client = oracle("telnyx").Telnyx(api_key="k", public_key=sent.secret)
    return accepts(lambda: client.webhooks.unwrap(sent.text, headers=sent.headers), ValueError)


def vonage_says(sent: Sent) -> bool:
    token = sent.header("Authorization").removeprefix("Bearer ")
    return bool(oracle("vonage_jwt").verify_signature(token, sent.secret))


def raw(number: int) -> bytes:
    return public_raw(ed_key(number))


def spki(number: int) -> str:
    return base64.b64encode(public_der(ec_key(number))).decode()


LONG, OTHER = "a secret of more than 32 bytes, for HS256", "another secret of more than 32 bytes, for HS256"
CASES = {
    case.preset: case
    for case in [
        Case(
            preset="discord",
            secret=raw(0).hex(),
            other=raw(1).hex(),
            sign_with=private_pem(ed_key(0)),
            says=discord_says,
        ),
        Case(
            preset="google_pubsub_push",
            secret=public_pem(rsa_key(0)),
            other=public_pem(rsa_key(1)),
            sign_with=private_pem(rsa_key(0)),
            options={"audience": "aud", "email": "relay@example.test"},
            says=google_says,
            expect={"another body": BELIEVED},  # the token says who sends, and nothing of what
        ),
        Case(preset="livekit", secret=LONG, other=OTHER, options={"api_key": "key"}, says=livekit_says),
        Case(preset="messagebird", secret=LONG, other=OTHER, says=messagebird_says),
        Case(
            preset="sendgrid",
            secret=spki(0),
            other=spki(1),
            sign_with=private_pem(ec_key(0)),
            says=sendgrid_says,
        ),
        Case(
            preset="telnyx",
            secret=base64.b64encode(raw(0)).decode(),
            other=base64.b64encode(raw(1)).decode(),
            sign_with=private_pem(ed_key(0)),
            says=telnyx_says,
            past=300,
            future=300,
        ),
        Case(
            preset="vonage",
            secret=LONG,
            other=OTHER,
            says=vonage_says,
            expect={"another body": ONLY_THEY},  # the library leaves payload_hash to its caller
        ),
    ]
}


@pytest.mark.parametrize("name", CASES)
def test_both_say_the_same_of_what_we_sign(name: str) -> None:
    for body in BODIES:
        assert CASES[name].found(body) == CASES[name].expected(), body


def sent_with(name: str, headers: dict[str, str], body: str) -> Sent:
    return Sent(request_to(URL, {"Content-Type": "application/json", **headers}, body.encode()), CASES[name].secret)


def judged_three_times(name: str, headers: dict[str, str], body: str) -> list[str]:
    """What both say of a request that the library signed: as it is, with another body, under another secret."""
    case, now, sent = CASES[name], time.time(), sent_with(name, headers, body)
    changed = sent_with(name, headers, body + " ")
    return [case.both(what, now) for what in (sent, changed, replace(sent, secret=case.other))]


@pytest.mark.parametrize("body", BODIES, ids=["plain", "unicode", "spaced"])
class TestWeBelieveWhatTheLibrarySigns:
    def test_livekit(self, body: str) -> None:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        token = oracle("livekit.api").AccessToken("key", LONG).with_sha256(digest).to_jwt()
        assert judged_three_times("livekit", {"Authorization": token}, body) == [BELIEVED, REFUSED, REFUSED]

    def test_google_pubsub_push(self, body: str) -> None:
        now = int(time.time())
        signer = oracle("google.auth.crypt").RSASigner.from_string(private_pem(rsa_key(0)), "k1")
        claims = {"iss": "https://accounts.google.com", "aud": "aud", "iat": now, "exp": now + 3600}
        claims |= {"email": "relay@example.test", "email_verified": True, "sub": "1"}
        token = oracle("google.auth.jwt").encode(signer, claims).decode()
        headers = {"Authorization": f"Bearer {token}"}
        assert judged_three_times("google_pubsub_push", headers, body) == [BELIEVED, BELIEVED, REFUSED]

    @pytest.mark.parametrize("name", ["discord", "telnyx"])
    def test_the_library_under_discords_and_telnyxs(self, name: str, body: str) -> None:
        """Both verify with PyNaCl, which signs as well; neither of them does."""
        key = oracle("nacl.signing").SigningKey(ed_key(0).private_bytes_raw())
        now = str(int(time.time()))
        if name == "discord":
            signature = key.sign(f"{now}{body}".encode()).signature.hex()
            headers = {"X-Signature-Ed25519": signature, "X-Signature-Timestamp": now}
        else:
            signature = base64.b64encode(key.sign(f"{now}|{body}".encode()).signature).decode()
            headers = {"Telnyx-Signature-Ed25519": signature, "Telnyx-Timestamp": now}
        assert judged_three_times(name, headers, body) == [BELIEVED, REFUSED, REFUSED]


def test_messagebird_signs_the_url() -> None:
    case, now = CASES["messagebird"], time.time()
    sent = case.signed(BODIES[0], now)
    assert case.both(replace(sent, url=f"{URL}?a=1"), now) == REFUSED


def test_livekit_refuses_another_accounts_key() -> None:
    digest = base64.b64encode(hashlib.sha256(b"{}").digest()).decode()
    token = oracle("livekit.api").AccessToken("another key", LONG).with_sha256(digest).to_jwt()
    assert CASES["livekit"].both(sent_with("livekit", {"Authorization": token}, "{}"), time.time()) == REFUSED


@pytest.mark.parametrize("body", BODIES, ids=["plain", "unicode", "spaced"])
def test_paypal(body: str) -> None:
    """PayPal's library says what is signed. It no longer verifies: pyOpenSSL has dropped what it calls for that."""
    moment, url = "2025-10-09T08:53:20Z", "https://api.paypal.com/v1/notifications/certs/CERT-1"
    signed_text = oracle("paypalrestsdk").WebhookEvent._get_expected_sig("id_1", moment, "WH-1", body)
    signature = rsa_key(0).sign(signed_text.encode(), padding.PKCS1v15(), hashes.SHA256())
    headers = {
        "Paypal-Transmission-Id": "id_1",
        "Paypal-Transmission-Time": moment,
        "Paypal-Transmission-Sig": base64.b64encode(signature).decode(),
        "Paypal-Auth-Algo": "SHA256withRSA",
        "Paypal-Cert-Url": url,
    }
    for number, expected in ((0, "verified"), (1, "signature_mismatch")):
        pinned = {"certs": {url: certificate(rsa_key(number), "messageverificationcerts.paypal.com")}}
        scheme = replace(load_preset("paypal").scheme, options=pinned)
        assert code(judge(scheme, ["WH-1"], request_to(URL, headers, body.encode()))) == expected
        assert code(judge(scheme, ["WH-1"], request_to(URL, headers, body.encode() + b" "))) == "signature_mismatch"
        assert code(judge(scheme, ["WH-2"], request_to(URL, headers, body.encode()))) == "signature_mismatch"
