"""The providers' own libraries and our engine believe each other's signatures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import gidgethub
import gidgethub.sansio
import pytest
import standardwebhooks
import stripe
import svix
from slack_sdk.signature import Clock, SignatureVerifier
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # publishes no types

from relay.models import Request
from relay.presets import load_presets
from relay.verify import sign
from tests.support.requests import NOW, URL, code, judge, request_to

PRESETS = load_presets()
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODIES = ['{"type":"hello","id":"evt_1"}', '{"name":"Zoë ☃ 🚀", "esc":"caf\\u00e9"}', ""]


class At(Clock):
    """Slack's verifier, at a time of ours."""

    def now(self) -> float:
        return float(NOW)


@dataclass
class Params:
    """A form as Twilio's validator wants a multi-dict: `getall`."""

    pairs: list[tuple[str, str]]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def getall(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key == name]


def standard_headers(prefix: str, signature: str, now: int = NOW) -> dict[str, str]:
    return {f"{prefix}-id": "msg_1", f"{prefix}-timestamp": str(now), f"{prefix}-signature": signature}


def stripe_signs(body: str) -> dict[str, str]:
    return {"Stripe-Signature": stripe.WebhookSignature.generate_signature_header(body, "whsec_x", NOW)}


def slack_signs(body: str) -> dict[str, str]:
    signature = SignatureVerifier("s3cret").generate_signature(timestamp=str(NOW), body=body)
    return {"X-Slack-Request-Timestamp": str(NOW), "X-Slack-Signature": str(signature)}


def standard_signs(body: str) -> dict[str, str]:
    signature = standardwebhooks.Webhook(WHSEC).sign("msg_1", datetime.fromtimestamp(NOW, UTC), body)
    return standard_headers("webhook", signature)


def svix_signs(body: str) -> dict[str, str]:
    return standard_headers("svix", svix.Webhook(WHSEC).sign("msg_1", datetime.fromtimestamp(NOW, UTC), body))


SIGNERS: dict[str, tuple[str, Callable[[str], dict[str, str]]]] = {
    "stripe": ("whsec_x", stripe_signs),
    "slack": ("s3cret", slack_signs),
    "standard_webhooks": (WHSEC, standard_signs),
    "gitlab_signing": (WHSEC, standard_signs),
    "gitlab": (WHSEC, standard_signs),
    "svix": (WHSEC, svix_signs),
    "clerk": (WHSEC, svix_signs),
    "resend": (WHSEC, svix_signs),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", SIGNERS)
def test_we_believe_the_library(name: str, body: str) -> None:
    secret, signs = SIGNERS[name]
    request = request_to(URL, signs(body), body.encode())
    assert code(judge(PRESETS[name].scheme, [secret], request)) == "verified"
    other = request_to(URL, signs(body), body.encode() + b" ")
    assert code(judge(PRESETS[name].scheme, [secret], other)) == "signature_mismatch"


def signed(name: str, secret: str, body: str, now: float, url: str = URL, kind: str = "application/json") -> Request:
    bare = request_to(url, {"Content-Type": kind}, body.encode())
    return sign(PRESETS[name].scheme, secret, bare, url=url, now_s=now, delivery_id="msg_1")


def headers(request: Request) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in request.headers}


@pytest.mark.parametrize("body", BODIES)
class TestTheLibraryBelievesUs:
    def test_stripe(self, body: str) -> None:
        request = signed("stripe", "whsec_x", body, time.time())
        header = request.header("Stripe-Signature")
        assert stripe.WebhookSignature.verify_header(body, header, "whsec_x", tolerance=300)

    def test_slack(self, body: str) -> None:
        request = signed("slack", "s3cret", body, NOW)
        verifier = SignatureVerifier("s3cret", At())
        assert verifier.is_valid_request(body, headers(request))
        assert not verifier.is_valid_request(body + " ", headers(request))

    @pytest.mark.parametrize("name", ["standard_webhooks", "gitlab_signing"])
    def test_standard_webhooks(self, name: str, body: str) -> None:
        request = signed(name, WHSEC, body, time.time())
        standardwebhooks.Webhook(WHSEC).verify(body, headers(request), json_parse=False)

    @pytest.mark.parametrize("name", ["svix", "clerk", "resend"])
    def test_svix(self, name: str, body: str) -> None:
        svix.Webhook(WHSEC).verify(body, headers(signed(name, WHSEC, body, time.time())))

    def test_github(self, body: str) -> None:
        request = signed("github", "s3cret", body, NOW)
        signature = request.header("X-Hub-Signature-256") or ""
        gidgethub.sansio.validate_event(body.encode(), signature=signature, secret="s3cret")
        with pytest.raises(gidgethub.ValidationFailure):
            gidgethub.sansio.validate_event(body.encode() + b" ", signature=signature, secret="s3cret")
        assert code(judge(PRESETS["github"].scheme, ["s3cret"], request)) == "verified"

    def test_github_with_sha1(self, body: str) -> None:
        signature = signed("github_sha1_legacy", "s3cret", body, NOW).header("X-Hub-Signature") or ""
        gidgethub.sansio.validate_event(body.encode(), signature=signature, secret="s3cret")


FORM = "Digits=5678&Digits=1234&Digits=1234&From=%2B14158675309&Body=h%C3%A9llo+w%26rld&Empty=&A=%F0%9F%9A%80"
FORM_TYPE = "application/x-www-form-urlencoded"


class TestTwilio:
    validator = RequestValidator("12345")
    form: Params = Params(parse_qsl(FORM, keep_blank_values=True))

    def judged(self, url: str, signed_url: str, body: str = FORM, kind: str = FORM_TYPE, **more: str) -> str:
        params: object = self.form if kind == FORM_TYPE else {}
        algorithm = more.pop("algorithm", None)
        signature = self.validator.compute_signature(signed_url, params, algorithm)
        sent = {"Content-Type": kind, "X-Twilio-Signature": signature, **more}
        return code(judge(PRESETS["twilio"].scheme, ["12345"], request_to(url, sent, body.encode()), url))

    @pytest.mark.parametrize("url", ["https://example.com/in/t?a=1&b=2", "http://example.com/in/t", "https://[::1]/t"])
    @pytest.mark.parametrize("port", ["", ":443", ":8443"])
    def test_with_and_without_port(self, url: str, port: str) -> None:
        authority = url.split("/")[2]
        with_port = url.replace(authority, authority + port)
        assert self.judged(with_port, with_port) == "verified"
        assert self.judged(with_port, url) == "verified"
        assert self.judged(with_port, url + "x") == "signature_mismatch"

    def test_a_form_that_a_transform_would_read_as_json_is_none(self) -> None:
        body, url = '{"Body":"forged"}', "https://example.com/t"
        signature = self.validator.compute_signature(url, Params([(body, "")]))
        sent = {"Content-Type": FORM_TYPE, "X-Twilio-Signature": signature}
        answer = judge(PRESETS["twilio"].scheme, ["12345"], request_to(url, sent, body.encode()), url)
        assert code(answer) == "signature_mismatch"

    def test_the_schemes_own_port(self) -> None:
        assert self.judged("https://example.com/t", "https://example.com:443/t") == "verified"
        assert self.judged("http://example.com/t", "http://example.com:80/t") == "verified"
        assert self.judged("https://example.com/t", "https://example.com:80/t") == "signature_mismatch"

    def test_sha256_when_the_settings_say_so(self) -> None:
        settings = {"X-Twilio-Webhooks-Signature-Settings": "key=k1,algorithm=HMAC_SHA256"}
        assert self.judged(URL, URL, algorithm="HMAC_SHA256", **settings) == "verified"
        assert self.judged(URL, URL, algorithm="HMAC_SHA1", **settings) == "signature_mismatch"
        assert self.judged(URL, URL, algorithm="HMAC_SHA256") == "signature_mismatch"

    def test_two_algorithms_are_refused(self) -> None:
        settings = {"X-Twilio-Webhooks-Signature-Settings": "algorithm=HMAC_SHA256,algorithm=HMAC_SHA1"}
        for algorithm in ("HMAC_SHA1", "HMAC_SHA256"):
            assert self.judged(URL, URL, algorithm=algorithm, **settings) == "signature_mismatch"

    def test_a_form_of_an_unusual_size_is_not_taken_apart(self) -> None:
        body = "A=" + "x" * 300_000
        signature = self.validator.compute_signature(URL, {"A": "x" * 300_000})
        sent = {"Content-Type": FORM_TYPE, "X-Twilio-Signature": signature}
        answer = judge(PRESETS["twilio"].scheme, ["12345"], request_to(URL, sent, body.encode()))
        assert code(answer) == "signature_mismatch"

    def test_a_body_that_nothing_signed_covers_is_refused(self) -> None:
        assert self.judged(URL, URL, '{"a":1}', "application/json") == "signature_mismatch"
        assert self.judged(URL, URL, "", "application/json") == "verified"
        hashed = f"{URL}?bodySHA256=" + "0" * 64
        for kind in ("application/json", FORM_TYPE):
            url_signature = self.validator.compute_signature(hashed, {})
            sent = {"Content-Type": kind, "X-Twilio-Signature": url_signature}
            answer = judge(PRESETS["twilio"].scheme, ["12345"], request_to(hashed, sent, b""), hashed)
            assert code(answer) == "signature_mismatch"

    @pytest.mark.parametrize(
        "url", ["", "nonsense", "https://", "https://[::1/x", "https://h:99999999/x", "https://h:x/"]
    )
    def test_an_odd_url_is_no_surprise(self, url: str) -> None:
        request = request_to(URL, {"Content-Type": FORM_TYPE, "X-Twilio-Signature": "AAAA"}, b"a=1")
        assert code(judge(PRESETS["twilio"].scheme, ["12345"], request, url)) == "signature_mismatch"

    def test_the_library_believes_us(self) -> None:
        request = signed("twilio", "12345", FORM, NOW, "https://example.com/in/t?a=1", FORM_TYPE)
        signature = request.header("X-Twilio-Signature")
        assert self.validator.validate("https://example.com/in/t?a=1", self.form, signature)
        assert request.header("I-Twilio-Idempotency-Token") == "msg_1"

    def test_we_do_not_sign_what_we_would_refuse(self) -> None:
        with pytest.raises(ValueError, match="bodySHA256"):
            signed("twilio", "12345", "{}", NOW)
