"""django-anymail, which verifies for six providers of mail that publish nothing of their own that does."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from relay.presets import load_preset
from tests.support.oracles import BELIEVED, BODIES, REFUSED, Case, Sent, accepts, oracle
from tests.support.requests import URL
from tests.support.throwaway import private_pem, public_der, rsa_key

Settings = Callable[[Sent], dict[str, Any]]


def django() -> Any:
    """Django's requests, configured once in this process."""
    conf = oracle("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")
    return oracle("django.test.client").RequestFactory()


def anymail_says(view: str, settings: Settings) -> Callable[[Sent], bool]:
    """`view` is module.class; `settings` are those of a view that has the source's secret."""
    module, _, name = view.partition(".")

    def says(sent: Sent) -> bool:
        factory, parts = django(), urlsplit(sent.url)
        refusal = oracle("anymail.exceptions").AnymailWebhookValidationFailure
        headers = {f"HTTP_{key.upper().replace('-', '_')}": value for key, value in sent.headers.items()}
        kind = headers.pop("HTTP_CONTENT_TYPE")
        secure = {"secure": True, "SERVER_NAME": parts.hostname, "SERVER_PORT": "443", **headers}
        request = factory.generic("POST", f"{parts.path}?{parts.query}", sent.body, kind, **secure)
        judged = getattr(oracle(f"anymail.webhooks.{module}"), name)(**settings(sent))
        return accepts(lambda: judged.run_validators(request), refusal)

    return says


def mailgun(sent: Sent) -> dict[str, Any]:
    return {"webhook_signing_key": sent.secret}


def mandrill(sent: Sent) -> dict[str, Any]:
    return {"webhook_key": sent.secret, "webhook_url": sent.url}


def mailersend(sent: Sent) -> dict[str, Any]:
    return {"signing_secret": sent.secret}


def postal(sent: Sent) -> dict[str, Any]:
    return {"webhook_key": sent.secret}


def postmark(sent: Sent) -> dict[str, Any]:
    return {"webhook_secret": [sent.secret]}


def unisender(sent: Sent) -> dict[str, Any]:
    return {"api_key": sent.secret}


def spki(number: int) -> str:
    return base64.b64encode(public_der(rsa_key(number))).decode()


FORM = "application/x-www-form-urlencoded"
CASES = {
    case.preset: case
    for case in [
        Case(
            preset="mailgun",
            secret="key",
            other="other",
            says=anymail_says("mailgun.MailgunTrackingWebhookView", mailgun),
            expect={"another body": BELIEVED},  # a time and a token are signed, not the event
        ),
        Case(
            preset="mailgun_form",
            secret="key",
            other="other",
            says=anymail_says("mailgun.MailgunTrackingWebhookView", mailgun),
            content_type=FORM,  # what "another body" appends is part of the last field, the signature
        ),
        Case(
            preset="mandrill",
            secret="key",
            other="other",
            says=anymail_says("mandrill.MandrillCombinedWebhookView", mandrill),
            content_type=FORM,
        ),
        Case(
            preset="mailersend",
            secret="key",
            other="other",
            says=anymail_says("mailersend.MailerSendTrackingWebhookView", mailersend),
        ),
        Case(
            preset="postal",
            secret=spki(0),
            other=spki(1),
            sign_with=private_pem(rsa_key(0)),
            says=anymail_says("postal.PostalTrackingWebhookView", postal),
        ),
        Case(
            preset="postmark",
            secret="user:pässword",
            other="user:other",
            says=anymail_says("postmark.PostmarkTrackingWebhookView", postmark),
            expect={"another body": BELIEVED},  # it signs nothing
        ),
        Case(
            preset="unisender_go",
            secret="key",
            other="other",
            says=anymail_says("unisender_go.UnisenderGoTrackingWebhookView", unisender),
        ),
    ]
}


def samples(name: str) -> list[bytes]:
    return [sample.request("/", now_s=time.time(), delivery_id="1").body for sample in load_preset(name).samples]


@pytest.mark.parametrize("name", CASES)
def test_both_say_the_same_of_every_sample_that_we_sign(name: str) -> None:
    bodies = samples(name)
    assert bodies
    for body in bodies:
        assert CASES[name].found(body) == CASES[name].expected()


@pytest.mark.parametrize("name", ["mailersend", "postal", "postmark"])
def test_both_say_the_same_of_any_body(name: str) -> None:
    for body in BODIES:
        assert CASES[name].found(body) == CASES[name].expected(), body


@pytest.mark.parametrize("body", ["a=1&b=2", "b=%C3%A9+%E2%98%83&a=&c=%25%2B", "Z=1&a=2&A=3&z=4"])
def test_mandrill_signs_the_url_and_every_field(body: str) -> None:
    case, now = CASES["mandrill"], time.time()
    assert case.found(body) == case.expected()
    sent = case.signed(body, now)
    assert case.both(replace(sent, url=f"{URL}/"), now) == REFUSED


@pytest.mark.parametrize("name", ["mailgun", "mailgun_form"])
@pytest.mark.parametrize("field", [b"timestamp", b"token"])
def test_mailgun_signs_a_time_and_a_token(name: str, field: bytes) -> None:
    case, now = CASES[name], time.time()
    sent = case.signed(samples(name)[0], now)
    marks = {"mailgun": b'"%s":"', "mailgun_form": b"%s="}
    mark = marks[name] % field
    changed = sent.body.replace(mark, mark + b"1", 1)
    assert changed != sent.body
    assert case.both(replace(sent, request=sent.request.but(body=changed)), now) == REFUSED
