"""What holds for every scheme that is code: vectors, no signed byte can be changed, total, linear, signing, steps."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import REJECTIONS, Rejected
from relay.models import Request
from relay.presets import load_preset
from relay.schemes.functions import FUNCTIONS
from relay.verify import Scheme, Verified, explain, sign, verify, wanted
from tests.support.requests import NOW, URL, Vector, code, judge, request_to, scheme_for, vectors

NAMES = ["adyen", "box", "braintree", "coinbase_cdp_v1", "contentful", "dropbox_sign", "sns", "twilio", "unisender_go"]
PRESETS = {name: load_preset(name) for name in NAMES}
API_KEY = "fake-dropbox-sign-api-key"
FORM = "application/x-www-form-urlencoded"


def dropbox_vector() -> Vector:
    """Signed as Dropbox Sign's own EventCallbackHelper does it, in the other kind of form than the vectors have."""
    digest = hmac.new(API_KEY.encode(), f"{NOW}signature_request_sent".encode(), hashlib.sha256).hexdigest()
    event = {"event_time": str(NOW), "event_type": "signature_request_sent", "event_hash": digest}
    body = "json=" + quote_plus(json.dumps({"event": event, "signature_request": {"title": "NDA"}}))
    request = request_to(URL, {"Content-Type": FORM}, body.encode())
    return Vector("dropbox_sign/made_here", "dropbox_sign", API_KEY, request, URL, NOW, True)


VECTORS = [*(vector for vector in vectors() if vector.preset in NAMES), dropbox_vector()]
VALID = [vector for vector in VECTORS if vector.valid]


def scheme_of(vector: Vector) -> Scheme:
    return scheme_for(PRESETS[vector.preset], vector)


def answer_to(vector: Vector, request: Request, url: str | None = None) -> Verified | Rejected:
    return judge(scheme_of(vector), [vector.secret], request, url or vector.url, vector.now)


def test_every_function_has_its_preset_and_its_vectors() -> None:
    assert {type(PRESETS[name].scheme) for name in NAMES} == set(FUNCTIONS.values())
    assert {vector.preset for vector in VALID} == set(NAMES)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_vector(vector: Vector) -> None:
    answer = answer_to(vector, vector.request)
    assert isinstance(answer, Verified) == vector.valid, answer


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.id)
def test_any_of_several_secrets_vouches_and_no_secret_never(vector: Vector) -> None:
    scheme, other = scheme_of(vector), "arn:aws:sns:eu-west-1:1:x" if vector.preset == "sns" else "ab" * 32
    assert code(judge(scheme, [other, "", vector.secret], vector.request, vector.url, vector.now)) == "verified"
    assert code(judge(scheme, [other, ""], vector.request, vector.url, vector.now)) in (
        "signature_mismatch",
        "verified",
    )
    bare = replace(scheme, options={name: value for name, value in scheme.options.items() if name == "certs"})
    for none in ([], [""]):
        assert code(judge(bare, none, vector.request, vector.url, vector.now)) == "key_unavailable"


def adyen_signed(body: bytes) -> object:
    items = [item["NotificationRequestItem"] for item in json.loads(body)["notificationItems"]]
    names = ("pspReference", "originalReference", "merchantAccountCode", "merchantReference", "eventCode", "success")
    return [[*(item.get(name) for name in names), *sorted(item["amount"].items())] for item in items]


def sns_signed(body: bytes) -> object:
    names = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
    message = json.loads(body)
    confirmed = ("Token", "SubscribeURL") if message["Type"] != "Notification" else ()
    return [message.get(name) for name in (*names, *confirmed)]


def dropbox_signed(body: bytes) -> object:
    text = body.decode("utf-8", "replace")  # either kind of form
    text = parse_qs(text)["json"][0] if body.startswith(b"json=") else text[text.index("{") : text.rindex("}") + 1]
    event = json.loads(text)["event"]
    return event["event_time"], event["event_type"]


def twilio_signed(body: bytes) -> object:
    """Names and values without anything between them: where one ends and the other begins is not signed."""
    pairs = {(name, value) for name, values in parse_qs(body, keep_blank_values=True).items() for value in values}
    return b"".join(name + value for name, value in sorted(pairs))


#: What the signature covers of a body, read here by other means than the scheme's. Not in here: all of the body.
SIGNED: dict[str, Callable[[bytes], object]] = {
    "adyen": adyen_signed,
    "sns": sns_signed,
    "braintree": lambda body: parse_qs(body.decode(), strict_parsing=True)["bt_payload"],
    "dropbox_sign": dropbox_signed,
    "twilio": twilio_signed,
}


def signed_part(vector: Vector, body: bytes) -> object:
    try:
        return SIGNED.get(vector.preset, bytes)(body)
    except Exception:  # noqa: BLE001  # a body that is ruined holds nothing of what was signed
        return None


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.id)
def test_no_signed_byte_of_the_body_can_be_changed(vector: Vector) -> None:
    body, before = vector.request.body, signed_part(vector, vector.request.body)
    assert before is not None
    accepted = 0
    for index in range(len(body)):
        for changed in (
            *(body[:index] + bytes([body[index] ^ flip]) + body[index + 1 :] for flip in (0x01, 0x20, 0x80)),
            body[:index] + body[index + 1 :],
        ):
            if isinstance(answer_to(vector, vector.request.but(body=changed)), Verified):
                assert signed_part(vector, changed) == before, (index, changed[index - 20 : index + 20])
                accepted += 1
    assert vector.preset in SIGNED or accepted == 0


CHANGES: dict[str, list[str]] = {
    "contentful": ["x-contentful-crn", "x-contentful-signed-headers", "x-contentful-timestamp"],
    "coinbase_cdp_v1": ["Content-Type", "X-Event-Id"],
    "box": ["BOX-DELIVERY-TIMESTAMP", "BOX-SIGNATURE-VERSION", "BOX-SIGNATURE-ALGORITHM"],
}


@pytest.mark.parametrize("vector", [v for v in VALID if v.preset in CHANGES], ids=lambda vector: vector.id)
def test_no_byte_of_a_signed_header_can_be_changed(vector: Vector) -> None:
    for name in CHANGES[vector.preset]:
        value = next(value for key, value in vector.request.headers if key.decode() == name)
        for index in range(len(value)):
            changed = value[:index] + bytes([value[index] ^ 1]) + value[index + 1 :]
            headers = tuple((k, changed if k.decode() == name else v) for k, v in vector.request.headers)
            assert isinstance(answer_to(vector, vector.request.but(headers=headers)), Rejected), (name, index)


@pytest.mark.parametrize("vector", [v for v in VALID if v.preset == "contentful"], ids=lambda vector: vector.id)
def test_no_byte_of_a_signed_url_can_be_changed(vector: Vector) -> None:
    for index in range(len("https://relay.example.test"), len(vector.url)):
        changed = vector.url[:index] + chr(ord(vector.url[index]) ^ 1) + vector.url[index + 1 :]
        assert isinstance(answer_to(vector, vector.request, changed), Rejected), changed


values = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"1", b"t=1,v1=00,h=a b", b"a,b", b"HmacSHA256", b"A" * 44])
)
kinds = st.sampled_from([FORM, "application/json", "multipart/form-data; boundary=x", "multipart/form-data; boundary="])
bodies = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: f"json={text}&bt_signature=a|b&bt_payload={text}".encode("utf-8", "ignore")),
    st.binary(max_size=80).map(lambda part: b'--x\r\nContent-Disposition: form-data; name="json"\r\n\r\n' + part),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(
                    ["notificationItems", "NotificationRequestItem", "amount", "additionalData", "Type", "auth"]
                )
                | st.text(max_size=3),
                inner,
            )
            | st.lists(inner, max_size=3)
        ),
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b'{"auth":' + b"9" * 9000 + b"}", b'{"Type":"Notification"}']),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=80, deadline=None)
@given(data=st.data(), body=bodies, kind=kinds, url=st.text(max_size=40), secrets=st.lists(st.text(max_size=9)))
def test_never_raises(name: str, data: st.DataObject, body: bytes, kind: str, url: str, secrets: list[str]) -> None:
    scheme = PRESETS[name].scheme
    read = st.sampled_from(sorted(scheme.headers) or [b"x"])
    headers = [*data.draw(st.lists(st.tuples(read, values), max_size=8)), (b"content-type", kind.encode())]
    request = Request("POST", "/in/x", "a=b", tuple(headers), body)
    answer = verify(
        scheme, [*secrets, "00ff", "arn:x"], request, url=url, body=body, now_s=data.draw(st.floats(0, 1e12))
    )
    assert isinstance(answer, Verified) or answer.code in REJECTIONS
    assert isinstance(wanted(scheme, request, url=url, body=body), tuple)


def test_a_strangers_broken_form_writes_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (b"", b"x", b"--b\r\n\xff: 1\r\n", b"--b\r\nA\r\n\r\n"):
        assert code(judge(PRESETS["dropbox_sign"].scheme, ["s"], request_to(URL, kind, body))) == "signature_missing"
    assert caplog.records == []


PIECES = [
    b"&",
    b"json=1&",
    b"bt_payload=A&",
    b"%41",
    b'{"a":',
    b"[",
    b"9",
    b'"',
    b"\\",
    b"\xc3\xa9",
    b"\r\n",
    b"--x\r\n\r\n\r\n",
    b'--x\r\nContent-Disposition: form-data; name="json"\r\n\r\n1\r\n',
    b'{"auth":"","b":1},',
    b"00000000000000000000000000000000",
]


@pytest.mark.parametrize("name", NAMES)
def test_long_bodies_cost_little(name: str) -> None:
    """1 MiB of the worst stays under a second."""
    scheme = PRESETS[name].scheme
    for piece in PIECES:
        for kind in (FORM, "application/json", "multipart/form-data; boundary=x"):
            long = (piece * (1024 * 1024 // len(piece)))[: 1024 * 1024]
            for body in (long, b'{"auth":"00000000000000000000000000000000","notificationItems":[' + long + b"]}"):
                headers: list[tuple[str, Any]] = [(name.decode(), b"1" * 64) for name in sorted(scheme.headers)]
                request = request_to(URL, [*headers, ("content-type", kind)], body)
                started = time.process_time()
                judge(scheme, ["00ff", "arn:x"], request)
                assert time.process_time() - started < 1, (piece, kind)


SECRETS = {"adyen": "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sns"])
def test_samples_are_signed_and_each_is_a_new_delivery(name: str) -> None:
    preset, secret = PRESETS[name], SECRETS.get(name, "k" * 64)
    ids: set[str | None] = set()
    for sample in preset.samples:
        for delivery_id in (f"{sample.event}-1", f"{sample.event}-2"):
            request = sample.request("/in/demo", now_s=NOW + 0.25, delivery_id=delivery_id)
            signed = sign(preset.scheme, secret, request, url=URL, now_s=NOW + 0.25, delivery_id=delivery_id)
            answer = judge(preset.scheme, ["other", secret] if name != "adyen" else [secret], signed, now=NOW + 1)
            assert isinstance(answer, Verified), answer
            assert code(judge(preset.scheme, ["ee" * 32], signed, now=NOW + 1)) == "signature_mismatch"
            ids.add(answer.key)
        with pytest.raises(ValueError, match=r"\w"):
            sign(preset.scheme, "", request, url=URL, now_s=NOW, delivery_id="x")
    assert len(ids) == 2 * len(preset.samples), "each of the samples, each time, is another delivery"
    assert None not in ids


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.id)
def test_the_steps_say_what_was_signed_and_never_hold_the_secret(vector: Vector) -> None:
    answer, steps = explain(
        scheme_of(vector),
        [vector.secret],
        vector.request,
        url=vector.url,
        body=vector.request.body,
        now_s=vector.now,
    )
    assert isinstance(answer, Verified)
    said = "\n".join(f"{step.what}: {step.found}" for step in steps)
    assert "secrets[0]: read as" in said
    assert "what is signed" in said or "what is hashed" in said
    if vector.preset != "sns":  # a topic's ARN is no secret
        assert vector.secret not in said or vector.secret.encode() in vector.request.body
        assert "was sent" in said
