"""Amazon SNS: whose certificate counts, what is signed, and that the topic is ours."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from relay.presets import load_preset, preset_for
from relay.verify import Verified, Wanted, sign, verify, wanted
from tests.support.requests import NOW, URL, code, request_to

SNS = load_preset("sns").scheme
TOPIC = "arn:aws:sns:us-east-1:123456789012:demo"
CERTIFICATE_URL = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123abcd.pem"
FIELDS = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def certificate(*, days: tuple[int, int] = (-1, 1), elliptic: bool = False) -> bytes:
    """Signed by itself, valid from and until so many days from NOW."""
    key = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    first, last = (datetime.fromtimestamp(NOW, UTC) + timedelta(days=day) for day in days)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(first).not_valid_after(last)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def message(*, version: str = "2", **changed: Any) -> dict[str, Any]:
    """Signed over what is in it, as AWS describes, except for what is None."""
    found = {
        "Type": "Notification",
        "MessageId": "22b80b92",
        "TopicArn": TOPIC,
        "Message": "Hello",
        "Timestamp": "2025-10-09T08:52:20.000Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE_URL,
        **changed,
    }
    text = "".join(f"{name}\n{found[name]}\n" for name in FIELDS if found.get(name) is not None)
    algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
    signature = rsa_key().sign(text.encode(), padding.PKCS1v15(), algorithm)
    return {"Signature": b64encode(signature).decode(), **found}


def answer_to(found: dict[str, Any], document: bytes | None = None, now: float = NOW, **options: Any) -> str:
    body = json.dumps(found).encode()
    documents = {} if document is None else {CERTIFICATE_URL: document}
    scheme = replace(SNS, options=options)
    request = request_to(URL, {"Content-Type": "text/plain; charset=UTF-8"}, body)
    return code(verify(scheme, [TOPIC], request, url=URL, body=body, now_s=now, documents=documents))


def wants(found: dict[str, Any], **options: Any) -> tuple[Wanted, ...]:
    body = json.dumps(found).encode()
    return wanted(replace(SNS, options=options), request_to(URL, {}, body), url=URL, body=body)


@pytest.mark.parametrize("version", ["1", "2"])
def test_both_versions_of_the_signature(version: str) -> None:
    assert answer_to(message(version=version), certificate()) == "verified"
    other = "1" if version == "2" else "2"
    assert answer_to({**message(version=version), "SignatureVersion": other}, certificate()) == "signature_mismatch"
    assert answer_to({**message(version=version), "SignatureVersion": "3"}, certificate()) == "signature_mismatch"


def test_the_certificate_is_wanted_from_the_network_unless_it_is_configured() -> None:
    assert wants(message()) == (Wanted(CERTIFICATE_URL, CERTIFICATE_URL),)
    pinned = {CERTIFICATE_URL: certificate().decode()}
    assert wants(message(), certs=pinned) == ()
    assert answer_to(message(), certs=pinned) == "verified"
    assert answer_to(message(), certs={"https://other": certificate().decode()}) == "key_unavailable"
    assert answer_to(message(), certs={CERTIFICATE_URL: "x"}) == "key_unavailable"


@pytest.mark.parametrize(
    "document",
    [
        None,
        b"",
        b"<html>busy</html>",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        certificate(days=(-9, -2)),
        certificate(days=(2, 9)),
    ],
    ids=["none", "empty", "html", "broken", "expired", "not yet valid"],
)
def test_without_a_certificate_the_sender_shall_try_again(document: bytes | None) -> None:
    assert answer_to(message(), document) == "key_unreachable"


def test_another_kind_of_key_signs_nothing() -> None:
    assert answer_to(message(), certificate(elliptic=True)) == "signature_mismatch"


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com.evil.test/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com@evil.test/SimpleNotificationService-0.pem",
        "https://user@sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com:444/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com/../x/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem?x=.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem\n",
        "https://sns.us-east-1.amazonaws.com/other.pem",
        "https://evil.test/sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns-us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.s3-us-west-2.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.s3.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.us-east-1.s3.amazonaws.com/SimpleNotificationService-0.pem",
        "https://SNS.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
        "",
    ],
)
def test_a_certificate_from_elsewhere_is_never_fetched_nor_believed(url: str) -> None:
    assert wants(message(SigningCertURL=url)) == ()
    pinned = {url: certificate().decode()}
    assert answer_to(message(SigningCertURL=url), certs=pinned) == "signature_mismatch"


@pytest.mark.parametrize(
    "region", ["cn-north-1.amazonaws.com.cn", "us-gov-west-1.amazonaws.com", "ap-southeast-7.amazonaws.com"]
)
def test_every_region_has_its_host(region: str) -> None:
    url = f"https://sns.{region}/SimpleNotificationService-9f8e.pem"
    assert wants(message(SigningCertURL=url)) == (Wanted(url, url),)


def test_a_message_of_another_topic_is_not_ours() -> None:
    """It is signed by Amazon all the same, for anybody with an account."""
    assert (
        answer_to(message(TopicArn=TOPIC.replace("123456789012", "999999999999")), certificate())
        == "signature_mismatch"
    )
    assert answer_to(message(TopicArn=TOPIC + "2"), certificate()) == "signature_mismatch"


def test_the_end_of_a_field_cannot_pass_for_another_field() -> None:
    """The canonical text of both is the same, but the second has another MessageId: a replay."""
    genuine = message(Subject="Sale")
    replayed = {name: value for name, value in genuine.items() if name != "Subject"}
    replayed["MessageId"] += "\nSubject\nSale"
    assert answer_to(genuine, certificate()) == "verified"
    assert answer_to(replayed, certificate()) == "signature_mismatch"


def test_a_subject_may_be_absent_or_null_and_nothing_else() -> None:
    assert answer_to({**message(), "Subject": None}, certificate()) == "verified"
    assert answer_to({**message(), "Subject": ""}, certificate()) == "signature_mismatch"
    assert answer_to({**message(), "Subject": 5}, certificate()) == "signature_missing"


@pytest.mark.parametrize(
    "name", ["Type", "MessageId", "TopicArn", "Message", "Timestamp", "SigningCertURL", "Signature"]
)
def test_what_must_be_there(name: str) -> None:
    assert answer_to({**message(), name: None}, certificate()) == "signature_missing"
    assert answer_to({**message(), name: ["x"]}, certificate()) == "signature_missing"


@pytest.mark.parametrize("kind", ["SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_confirmations_sign_their_url(kind: str) -> None:
    found = message(Type=kind, Token="t", SubscribeURL="https://sns.us-east-1.amazonaws.com/?Action=x")
    assert answer_to(found, certificate()) == "verified"
    assert answer_to({**found, "SubscribeURL": "https://evil.test/"}, certificate()) == "signature_mismatch"
    assert answer_to(message(Type=kind), certificate()) == "signature_missing"
    assert answer_to({**found, "Type": "Notification"}, certificate()) == "signature_mismatch"


def test_a_name_that_stands_twice_is_refused() -> None:
    body = json.dumps(message()).replace('"Message": "Hello"', '"Message": "Hello", "Message": "Hello"').encode()
    answer = verify(
        SNS,
        [TOPIC],
        request_to(URL, {}, body),
        url=URL,
        body=body,
        now_s=NOW,
        documents={CERTIFICATE_URL: certificate()},
    )
    assert code(answer) == "signature_missing"


def test_a_time_is_judged_where_a_tolerance_is_set() -> None:
    strict = preset_for("sns", {"tolerance_seconds": 59}, file=None, key="sources.x").scheme
    body = json.dumps(message()).encode()
    documents = {CERTIFICATE_URL: certificate()}
    request = request_to(URL, {}, body)
    for scheme, expected in ((SNS, "verified"), (strict, "timestamp_stale")):
        answer = verify(scheme, [TOPIC], request, url=URL, body=body, now_s=NOW, documents=documents)
        assert code(answer) == expected


def test_the_secret_is_a_topic() -> None:
    assert SNS.key_problem(TOPIC) is None
    assert SNS.key_problem("AKIAIOSFODNN7EXAMPLE") == "is no topic's ARN"


def test_a_sample_is_signed_with_a_key_of_ones_own() -> None:
    pem = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for sample in load_preset("sns").samples:
        request = sample.request("/in/sns", now_s=NOW, delivery_id="made-here")
        signed = sign(SNS, pem, request, url=URL, now_s=NOW, delivery_id="made-here")
        url = json.loads(signed.body)["SigningCertURL"]
        scheme = replace(SNS, options={"certs": {url: certificate().decode()}})
        answer = verify(scheme, [TOPIC], signed, url=URL, body=signed.body, now_s=NOW)
        assert answer == Verified("made-here", sample.event)
        with pytest.raises(ValueError, match="private key"):
            sign(SNS, TOPIC, request, url=URL, now_s=NOW, delivery_id="x")
