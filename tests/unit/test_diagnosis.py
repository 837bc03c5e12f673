"""Causes behind a signature that does not match: the secret in another form, a body or a URL changed on the way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest

from relay.diagnosis import BODY_BYTES_MAX, diagnose
from relay.errors import Rejected
from relay.models import Request
from relay.presets import Preset, load_preset, preset_for
from tests.support.requests import NOW, URL, judge, request_to
from tests.support.signing import github, stripe

BODY = b'{"id":"evt_1","name":"Zo\xc3\xab","path":"a/b","n":1}'


def cause(preset: Preset, secrets: list[str], request: Request, url: str = URL, body: bytes | None = None) -> Rejected:
    """What the operator is told. Fails when the request is genuine after all."""
    refused = judge(preset.scheme, secrets, request, url)
    assert isinstance(refused, Rejected)
    decoded = request.body if body is None else body
    return diagnose(refused, preset.scheme, secrets, request, url=url, body=decoded, now_s=NOW)


def svix(key: bytes, body: bytes = BODY) -> Request:
    digest = hmac.digest(key, b"msg_1." + str(NOW).encode() + b"." + body, "sha256")
    headers = {
        "svix-id": "msg_1",
        "svix-timestamp": str(NOW),
        "svix-signature": "v1," + base64.b64encode(digest).decode(),
    }
    return request_to(URL, headers, body)


SECRET_BYTES = b"0123456789abcdef01234567"
SECRET_BASE64 = base64.b64encode(SECRET_BYTES).decode()
FORMS = [
    ("github", "key", request_to(URL, github(BODY, "d", secret="key"), BODY), [" key\n"], "white space"),
    (
        "stripe",
        "the verbatim text is the key, base64 was made of it",
        request_to(URL, stripe(BODY, secret="bare", at=NOW), BODY),
        ["whsec_bare"],
        "without 'whsec_'",
    ),
    ("stripe", "whole", request_to(URL, stripe(BODY, secret="whsec_bare", at=NOW), BODY), ["bare"], "with 'whsec_'"),
    ("svix", "the text as it is", svix(f"whsec_{SECRET_BASE64}".encode()), [f"whsec_{SECRET_BASE64}"], "as it is"),
    ("svix", "hex", svix(bytes.fromhex("ab" * 24)), ["ab" * 24], "hex"),
    (
        "github",
        "base64",
        request_to(
            URL,
            {"X-Hub-Signature-256": "sha256=" + hmac.new(SECRET_BYTES, BODY, hashlib.sha256).hexdigest()},
            BODY,
        ),
        [SECRET_BASE64],
        "base64",
    ),
]


@pytest.mark.parametrize(("preset", "form", "request_", "secrets", "words"), FORMS)
def test_the_right_secret_in_the_wrong_form(
    preset: str, form: str, request_: Request, secrets: list[str], words: str
) -> None:
    found = cause(load_preset(preset), secrets, request_)
    assert found.code == "wrong_secret_form", form
    assert words in found.detail
    assert all(secret.strip() not in found.detail for secret in secrets)
    assert all(secret.strip() not in found.message for secret in secrets)


ALTERED = [
    ("a line break was added", BODY + b"\n"),
    ("a line break was taken off", None),
    ("parsed and written with spaces", json.dumps(json.loads(BODY)).encode()),
    ("parsed and written with escapes", json.dumps(json.loads(BODY), separators=(",", ":")).encode()),
    ("indented", json.dumps(json.loads(BODY), indent=2).encode()),
]


@pytest.mark.parametrize(("how", "came"), ALTERED, ids=lambda value: str(value)[:20])
def test_a_body_that_something_changed(how: str, came: bytes | None) -> None:
    sent = BODY + b"\n" if came is None else BODY
    found = cause(load_preset("github"), ["key"], request_to(URL, github(sent, "d", secret="key"), came or BODY))
    assert found.code == "body_altered"
    assert b"evt_1".decode() not in found.detail


def test_a_body_that_was_unpacked_or_packed_on_the_way() -> None:
    import gzip

    request = request_to(URL, {**github(BODY, "d", secret="key"), "Content-Encoding": "gzip"}, gzip.compress(BODY))
    found = cause(load_preset("github"), ["key"], request, body=BODY)
    assert (found.code, "Content-Encoding" in found.detail) == ("body_altered", True)


def test_a_stale_time_does_not_hide_the_cause() -> None:
    request = request_to(URL, stripe(BODY, secret="bare", at=NOW - 4000), BODY)
    assert cause(load_preset("stripe"), ["whsec_bare"], request).code == "wrong_secret_form"


@pytest.mark.parametrize(
    "seen", ["http://relay.example.test/in/demo", "https://relay.example.test:8443/in/demo", f"{URL}/"]
)
def test_a_url_that_a_proxy_changed(seen: str) -> None:
    scheme = {"header": "x-sig", "content": "{url}{body}"}
    preset = preset_for("hmac", scheme, file=None, key="sources.acme")
    signature = hmac.new(b"key", URL.encode() + BODY, hashlib.sha256).hexdigest()
    found = cause(preset, ["key"], request_to(URL, {"x-sig": signature}, BODY), seen)
    assert found.code == "signature_mismatch"
    assert URL in found.detail
    assert "public_url" in found.detail


def test_what_nobody_signed_stays_a_mismatch() -> None:
    for name, secret in (("github", "key"), ("stripe", "whsec_x"), ("svix", f"whsec_{SECRET_BASE64}")):
        request = request_to(URL, github(BODY, "d", secret="other") | stripe(BODY, secret="other", at=NOW), BODY)
        refused = judge(load_preset(name).scheme, [secret], request)
        assert isinstance(refused, Rejected)
        same = diagnose(refused, load_preset(name).scheme, [secret], request, url=URL, body=BODY, now_s=NOW)
        assert same == refused


def test_large_bodies_are_not_judged_again_and_again() -> None:
    body = b"x" * (BODY_BYTES_MAX + 1)
    request = request_to(URL, github(body + b"\n", "d", secret="key"), body)
    assert cause(load_preset("github"), ["key"], request).code == "signature_mismatch"


def test_a_token_with_the_word_before_it() -> None:
    preset = preset_for("token", {"header": "authorization"}, file=None, key="sources.acme")
    request = request_to(URL, {"Authorization": "Bearer abc"}, BODY)
    assert cause(preset, ["abc"], request).code == "wrong_secret_form"
    request = request_to(URL, {"Authorization": "abc"}, BODY)
    assert cause(preset, ["Bearer abc"], request).code == "wrong_secret_form"
