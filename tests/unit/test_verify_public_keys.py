"""Ed25519, ECDSA and RSA: keys in every form an operator may paste, and certificates that a request names."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Rejected
from relay.models import Request
from relay.presets import load_presets, preset_for
from relay.schemes.public_keys import fits, read_public_key
from relay.verify import Scheme, wanted
from tests.support.requests import NOW, URL, code, judge, request_to, vectors
from tests.support.throwaway import (
    PrivateKey,
    certificate,
    ec_key,
    ed_key,
    private_pem,
    public_der,
    public_pem,
    public_raw,
    rsa_key,
)

PRESETS = load_presets()
PAYPAL_TIME = "2025-10-09T08:53:20Z"
CERTIFICATE_URL = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-5a29e601"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ed_signed(content: bytes) -> bytes:
    return ed_key().sign(content)


def ec_signed(content: bytes) -> bytes:
    return ec_key().sign(content, ec.ECDSA(hashes.SHA256()))


def rsa_signed(content: bytes, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
    return rsa_key().sign(content, padding.PKCS1v15(), algorithm or hashes.SHA256())


def discord(body: bytes) -> dict[str, str]:
    signature = ed_signed(b"%d%s" % (NOW, body)).hex()
    return {"X-Signature-Timestamp": str(NOW), "X-Signature-Ed25519": signature}


def telnyx(body: bytes) -> dict[str, str]:
    return {"telnyx-timestamp": str(NOW), "telnyx-signature-ed25519": b64(ed_signed(b"%d|%s" % (NOW, body)))}


def sendgrid(body: bytes) -> dict[str, str]:
    name = "X-Twilio-Email-Event-Webhook"
    return {f"{name}-Timestamp": str(NOW), f"{name}-Signature": b64(ec_signed(b"%d%s" % (NOW, body)))}


def standard(body: bytes) -> dict[str, str]:
    signature = b64(ed_signed(b"msg_1.%d.%s" % (NOW, body)))
    return {"webhook-id": "msg_1", "webhook-timestamp": str(NOW), "webhook-signature": f"v1,AAAA v1a,{signature}"}


def postal(body: bytes) -> dict[str, str]:
    return {"X-Postal-Signature": b64(rsa_signed(body, hashes.SHA1()))}


def wise(body: bytes) -> dict[str, str]:
    return {"X-Signature-SHA256": b64(rsa_signed(body))}


SIGNERS: dict[str, tuple[Callable[[bytes], dict[str, str]], str]] = {
    "discord": (discord, public_raw(ed_key()).hex()),
    "telnyx": (telnyx, b64(public_raw(ed_key()))),
    "sendgrid": (sendgrid, b64(public_der(ec_key()))),
    "standard_webhooks_v1a": (standard, "whpk_" + b64(public_raw(ed_key()))),
    "postal": (postal, b64(public_der(rsa_key()))),
    "wise": (wise, public_pem(rsa_key())),
}


def judged(name: str, headers: dict[str, str], body: bytes, *secrets: str, now: float = NOW) -> str:
    return code(judge(PRESETS[name].scheme, secrets, request_to(URL, headers, body), now=now))


@pytest.mark.parametrize("name", SIGNERS)
class TestSignedByHand:
    @pytest.mark.parametrize("body", [b"{}", b"", b"\xff\x00", "Zoë ☃\r\n".encode()])
    def test_the_key_vouches(self, name: str, body: bytes) -> None:
        signs, key = SIGNERS[name]
        assert judged(name, signs(body), body, key) == "verified"
        assert judged(name, signs(body), body + b" ", key) == "signature_mismatch"
        assert judged(name, {}, body, key) == "signature_missing"

    def test_any_of_several_keys(self, name: str) -> None:
        signs, key = SIGNERS[name]
        others = [public_pem(one) for one in (rsa_key(1), ec_key(1), ed_key(1))]
        assert judged(name, signs(b"{}"), b"{}", *others, "nonsense", key) == "verified"
        assert judged(name, signs(b"{}"), b"{}", *others) == "signature_mismatch"
        assert judged(name, signs(b"{}"), b"{}", "nonsense", "") == "key_unavailable"

    def test_signatures_that_are_none(self, name: str) -> None:
        signs, key = SIGNERS[name]
        good = signs(b"{}")
        where = next(header for header in good if "signature" in header.lower() and "timestamp" not in header.lower())
        for text in (
            "x",
            "v1a,",
            "v1a,AAAA",
            "00",
            "AAAA",
            "v1a," + b64(bytes(64)),
            b64(bytes(64)),
            "00" * 64,
            "=" * 300,
        ):
            assert judged(name, {**good, where: text}, b"{}", key) == "signature_mismatch", text

    def test_every_form_of_the_key(self, name: str) -> None:
        signs, key = SIGNERS[name]
        whole: dict[str, PrivateKey] = {
            "discord": ed_key(),
            "telnyx": ed_key(),
            "standard_webhooks_v1a": ed_key(),
            "sendgrid": ec_key(),
        }
        private = whole.get(name, rsa_key())
        pem, der = public_pem(private), public_der(private)
        forms = [
            key,
            pem,
            pem.replace("\n", "\\n"),
            f"\n{pem}\n",
            b64(der),
            der.hex(),
            base64.encodebytes(der).decode(),
        ]
        forms += [base64.urlsafe_b64encode(der).decode().rstrip("="), certificate(private, "x")]
        for form in forms:
            assert PRESETS[name].scheme.key_problem(form) is None, form
            assert judged(name, signs(b"{}"), b"{}", form) == "verified", form

    def test_what_is_no_key_is_said_clearly(self, name: str) -> None:
        _, key = SIGNERS[name]
        problem = PRESETS[name].scheme.key_problem
        assert problem("") == "is empty"
        assert problem("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") is not None
        assert "is not a public key" in (problem("nonsense!") or "")
        assert "is not a public key" in (problem(key[:-9]) or "")
        assert "is a private key" in (problem(private_pem(rsa_key())) or "")
        others = [one for one in (rsa_key(), ec_key(), ed_key()) if problem(public_pem(one)) is not None]
        assert len(others) == 2
        assert all("is needed" in (problem(public_pem(one)) or "") for one in others)
        assert key not in str([problem(key[:-9]), problem(public_pem(others[0]))])


def test_times() -> None:
    for name, tolerance in (("telnyx", 300), ("standard_webhooks_v1a", 300)):
        signs, key = SIGNERS[name]
        assert judged(name, signs(b"{}"), b"{}", key, now=NOW + tolerance) == "verified"
        assert judged(name, signs(b"{}"), b"{}", key, now=NOW + tolerance + 1) == "timestamp_stale"
        assert judged(name, signs(b"{}"), b"{}", key, now=NOW - tolerance - 1) == "timestamp_stale"
    signs, key = SIGNERS["sendgrid"]
    assert judged("sendgrid", signs(b"{}"), b"{}", key, now=NOW + 1e6) == "verified"
    judging = preset_for("sendgrid", {"tolerance_seconds": 60}, file=None, key="sources.x").scheme
    assert code(judge(judging, [key], request_to(URL, signs(b"{}"), b"{}"), now=NOW + 61)) == "timestamp_stale"


def test_only_the_presets_algorithm() -> None:
    """An RSA key signs with SHA-1 and SHA-256 alike; each preset takes its own only."""
    key = public_pem(rsa_key())
    assert judged("wise", {"X-Signature-SHA256": b64(rsa_signed(b"{}", hashes.SHA1()))}, b"{}", key) != "verified"
    assert judged("postal", {"X-Postal-Signature": b64(rsa_signed(b"{}"))}, b"{}", key) != "verified"


def test_another_curve_is_no_key() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    assert PRESETS["sendgrid"].scheme.key_problem(public_pem(other)) == "is an EC secp384r1 key, and EC P-256 is needed"
    strange = ed448.Ed448PrivateKey.generate().public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    assert read_public_key(strange.public_bytes(serialization.Encoding.PEM, form).decode()) is None


def test_a_point_of_the_curve() -> None:
    form = serialization.PublicFormat.UncompressedPoint
    point = ec_key().public_key().public_bytes(serialization.Encoding.X962, form)
    assert judged("sendgrid", sendgrid(b"{}"), b"{}", b64(point)) == "verified"
    assert read_public_key(b64(point[:-1] + bytes([point[-1] ^ 1]))) is None


@given(st.text(max_size=80) | st.binary(max_size=80).map(b64) | st.binary(max_size=80).map(bytes.hex))
def test_no_text_makes_reading_a_key_raise(text: str) -> None:
    for shape in (
        text,
        f"-----BEGIN PUBLIC KEY-----\n{text}",
        f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----",
    ):
        key = read_public_key(shape)
        problem = PRESETS["discord"].scheme.key_problem(shape)
        assert (problem is None) == (key is not None and fits(key, "ed25519"))


class TestPaypal:
    """The key is in a certificate whose URL the request names."""

    @property
    def scheme(self) -> Scheme:
        return PRESETS["paypal"].scheme

    def request(self, body: bytes = b'{"id":"WH-1"}', url: str = CERTIFICATE_URL, webhook: str = "WH-ID") -> Request:
        content = f"t1|{PAYPAL_TIME}|{webhook}|{zlib.crc32(body)}".encode()
        headers = {
            "PAYPAL-TRANSMISSION-ID": "t1",
            "PAYPAL-TRANSMISSION-TIME": PAYPAL_TIME,
            "PAYPAL-AUTH-ALGO": "SHA256withRSA",
            "PAYPAL-CERT-URL": url,
            "PAYPAL-TRANSMISSION-SIG": b64(rsa_signed(content)),
        }
        return request_to(URL, headers, body)

    def judged(self, document: str | None, request: Request | None = None, *secrets: str, now: float = NOW) -> str:
        documents = {} if document is None else {CERTIFICATE_URL: document.encode()}
        answer = judge(self.scheme, secrets or ["WH-ID"], request or self.request(), now=now, documents=documents)
        return code(answer)

    def wanted(self, request: Request, scheme: Scheme | None = None) -> list[str]:
        return [one.url for one in wanted(scheme or self.scheme, request, url=URL, body=request.body)]

    def test_the_fetched_certificate_vouches(self) -> None:
        assert self.wanted(self.request()) == [CERTIFICATE_URL]
        good = certificate(rsa_key(), "messageverificationcerts.paypal.com")
        assert self.judged(good) == "verified"
        assert self.judged(good + certificate(rsa_key(2), "an authority")) == "verified"
        assert self.judged(good, None, "other", "WH-ID") == "verified"
        assert self.judged(good, None, "other") == "signature_mismatch"
        assert self.judged(good, self.request().but(body=b'{"id":"WH-2"}')) == "signature_mismatch"
        assert self.judged(certificate(rsa_key(2), "x.paypal.com")) == "signature_mismatch"

    def test_the_words_of_an_explanation_are_no_webhook_id(self) -> None:
        good = certificate(rsa_key(), "x.paypal.com")
        assert self.judged(good, self.request(webhook="<the secret>")) == "signature_mismatch"

    def test_not_fetched_is_to_be_sent_again(self) -> None:
        assert self.judged(None) == "key_unreachable"
        for garbage in ("", "<html>", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"):
            assert self.judged(garbage) == "key_unreachable"

    def test_whose_and_when(self) -> None:
        for name in ("paypal.com.evil.test", "evilpaypal.com", "a.b.paypal.com", "example.com"):
            assert self.judged(certificate(rsa_key(), name)) == "signature_mismatch", name
        for name in ("*.paypal.com", "MessageVerificationCerts.PayPal.com", "x.sandbox.paypal.com"):
            assert self.judged(certificate(rsa_key(), name)) == "verified", name
        good = certificate(rsa_key(), "x.paypal.com", first_s=NOW - 5, last_s=NOW + 5)
        assert self.judged(good) == "verified"
        assert self.judged(good, now=NOW - 6) == "signature_mismatch"
        assert self.judged(good, now=NOW + 6) == "signature_mismatch"

    @pytest.mark.parametrize(
        "url",
        [
            "http://api.paypal.com/v1/notifications/certs/CERT-1",
            "https://api.paypal.com.evil.test/v1/notifications/certs/CERT-1",
            "https://evil.test/https://api.paypal.com/v1/notifications/certs/CERT-1",
            "https://api.paypal.com@evil.test/v1/notifications/certs/CERT-1",
            "https://api.paypal.com:444/v1/notifications/certs/CERT-1",
            "https://apiXpaypal.com/v1/notifications/certs/CERT-1",
            "https://api.paypal.com/v1/notifications/certs/CERT-1/../../x",
            "https://api.paypal.com/v1/notifications/certs/CERT-1?x",
            "https://api.paypal.com/v1/notifications/certs/CERT-1#x",
            "https://api.paypal.com/v1/notifications/certs/CERT-",
            "https://API.paypal.com/v1/notifications/certs/CERT-1",
            "https://api.paypal.com/v1/notifications/certs/CERT-1\n",
            "https://api.paypal.com/v1/notifications/certs/CERT-1\u2028",
        ],
    )
    def test_any_other_url_is_never_fetched(self, url: str) -> None:
        request = self.request(url=url)
        assert self.wanted(request) == []
        pinned = replace(self.scheme, options={"certs": {url: certificate(rsa_key(), "x.paypal.com")}})
        for scheme in (self.scheme, pinned):
            assert code(judge(scheme, ["WH-ID"], request)) == "signature_mismatch"

    @pytest.mark.parametrize("host", ["api", "api-m", "api.sandbox", "api-m.sandbox"])
    def test_the_four_hosts(self, host: str) -> None:
        url = f"https://{host}.paypal.com/v1/notifications/certs/CERT-1"
        assert self.wanted(self.request(url=url)) == [url]

    def test_a_pinned_certificate_comes_first(self) -> None:
        pinned = replace(self.scheme, options={"certs": {CERTIFICATE_URL: certificate(rsa_key(), "anybody")}})
        assert self.wanted(self.request(), pinned) == []
        assert code(judge(pinned, ["WH-ID"], self.request())) == "verified"
        other = replace(self.scheme, options={"certs": {"https://else": certificate(rsa_key(), "anybody")}})
        assert code(judge(other, ["WH-ID"], self.request())) == "key_unavailable"

    def test_twice_with_different_values(self) -> None:
        request = self.request()
        twice = request.but(headers=(*request.headers, (b"paypal-cert-url", b"https://evil.test/")))
        assert self.wanted(twice) == []
        answer = judge(self.scheme, ["WH-ID"], twice)
        assert code(answer) == "signature_missing"

    def test_no_secret(self) -> None:
        good = certificate(rsa_key(), "x.paypal.com")
        answer = judge(self.scheme, ["", ""], self.request(), documents={CERTIFICATE_URL: good.encode()})
        assert isinstance(answer, Rejected)
        assert answer.code == "key_unavailable"


def test_the_published_sendgrid_key_is_read() -> None:
    vector = next(vector for vector in vectors() if vector.id == "sendgrid/published_sdk")
    assert PRESETS["sendgrid"].scheme.key_problem(vector.secret) is None
    assert json.loads(vector.request.body)
