"""Standard Webhooks and its kin, as each provider's own library reads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.support.oracles import BELIEVED, BODIES, ONLY_THEY, REFUSED, Case, Sent, accepts, oracle


def finch_says(sent: Sent) -> bool:
    client = oracle("finch").Finch(access_token="t", webhook_secret=sent.secret)
    return accepts(lambda: client.webhooks.verify_signature(sent.text, sent.headers), ValueError)


def increase_says(sent: Sent) -> bool:
    client, refusal = oracle("increase").Increase(api_key="k", webhook_secret=sent.secret), standard_refusal()
    return accepts(lambda: client.events.unwrap(sent.text, headers=sent.headers), refusal)


def lithic_says(sent: Sent) -> bool:
    client, refusal = oracle("lithic").Lithic(api_key="k", webhook_secret=sent.secret), standard_refusal()
    return accepts(lambda: client.webhooks.verify_signature(sent.text, sent.headers), refusal)


def openai_says(sent: Sent) -> bool:
    openai = oracle("openai")
    client = openai.OpenAI(api_key="k", webhook_secret=sent.secret)
    return accepts(
        lambda: client.webhooks.verify_signature(sent.text, sent.headers), openai.InvalidWebhookSignatureError
    )


def polar_says(sent: Sent) -> bool:
    """The library has this check in front of the reading of each event's type, which wants real events."""
    webhooks = oracle("polar.webhooks")
    names = frozenset({"hello"})
    try:
        webhooks.validate_event(sent.text, sent.headers, sent.secret, names, dict)
    except webhooks.PolarWebhookVerificationError:
        return False
    except webhooks.PolarWebhookUnknownTypeError:
        return True  # it was verified: only its type is none that the library knows
    return True


def replicate_says(sent: Sent) -> bool:
    webhook = oracle("replicate.webhook")
    secret = webhook.WebhookSigningSecret(key=sent.secret)
    validate = webhook.Webhooks.validate
    return accepts(
        lambda: validate(headers=sent.headers, body=sent.text, secret=secret, tolerance=300),
        webhook.WebhookValidationError,
    )


def resend_says(sent: Sent) -> bool:
    headers = {name: sent.header(f"svix-{name}") for name in ("id", "timestamp", "signature")}
    options = {"payload": sent.text, "headers": headers, "webhook_secret": sent.secret}
    return accepts(lambda: oracle("resend").Webhooks.verify(options), ValueError)


def standard_refusal() -> type[Exception]:
    refusal: type[Exception] = oracle("standardwebhooks").WebhookVerificationError
    return refusal


def standard_says(sent: Sent) -> bool:
    """Supabase's documentation strips `v1,whsec_` and hands the rest to this library."""
    webhook = oracle("standardwebhooks").Webhook(sent.secret.removeprefix("v1,"))
    return accepts(lambda: webhook.verify(sent.text, sent.headers), standard_refusal())


WHSEC, OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
CASES = {
    case.preset: case
    for case in [
        Case(
            preset="finch",
            secret=WHSEC.removeprefix("whsec_"),
            other=OTHER.removeprefix("whsec_"),
            says=finch_says,
            past=300,
            future=300,
        ),
        Case(preset="brex", secret=WHSEC, other=OTHER, says=standard_says, past=300, future=300),
        Case(preset="increase", secret="an utf-8 sécret", other="other", says=increase_says, past=300, future=300),
        Case(preset="lithic", secret=WHSEC, other=OTHER, says=lithic_says, past=300, future=300),
        Case(preset="openai", secret=WHSEC, other=OTHER, says=openai_says, past=300, future=300),
        Case(preset="polar", secret="polar_whs_1", other="polar_whs_2", says=polar_says, past=300, future=300),
        Case(preset="replicate", secret=WHSEC, other=OTHER, says=replicate_says, past=300, future=300),
        Case(preset="resend", secret=WHSEC, other=OTHER, says=resend_says, past=300, future=300),
        Case(
            preset="supabase_auth_hook",
            secret=f"v1,{WHSEC}",
            other=f"v1,{OTHER}",
            says=standard_says,
            past=300,
            future=300,
        ),
    ]
}


@pytest.mark.parametrize("name", CASES)
def test_both_say_the_same_of_what_we_sign(name: str) -> None:
    for body in BODIES:
        assert CASES[name].found(body) == CASES[name].expected(), body


def with_signatures(case: Case, change: Callable[[bytes], bytes]) -> Sent:
    """What we sign, with the header of the signature rewritten."""
    sent = case.signed(BODIES[1], time.time())
    headers = tuple(
        (name, change(value) if name.lower().endswith(b"-signature") else value) for name, value in sent.request.headers
    )
    return replace(sent, request=sent.request.but(headers=headers))


@pytest.mark.parametrize("name", CASES)
def test_any_of_several_signatures_may_match(name: str) -> None:
    case = CASES[name]
    two = with_signatures(case, lambda value: b"v1,bm90IHRoaXMgb25lIGJ1dCBvdGhlciBieXRlcyB0aGF0 " + value)
    assert case.both(two, time.time()) == BELIEVED


@pytest.mark.parametrize("name", CASES)
def test_another_version_is_no_signature(name: str) -> None:
    """Resend's and Replicate's libraries look at no version; the specification, and we, take v1 alone."""
    case = CASES[name]
    expected = ONLY_THEY if name in ("resend", "replicate") else REFUSED
    assert case.both(with_signatures(case, lambda value: value.replace(b"v1,", b"v2,")), time.time()) == expected


@pytest.mark.parametrize("name", ["brex", "lithic", "openai", "replicate", "supabase_auth_hook"])
def test_we_believe_what_the_specifications_library_signs(name: str) -> None:
    """The senders sign like this; their own libraries only verify."""
    case, now = CASES[name], int(time.time())
    webhook = oracle("standardwebhooks").Webhook(case.secret.removeprefix("v1,"))
    for body in BODIES:
        signature = webhook.sign("msg_1", datetime.fromtimestamp(now, UTC), body)
        headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now), "webhook-signature": signature}
        raw = tuple((key.encode(), value.encode()) for key, value in headers.items())
        bare = case.signed(body, now)
        sent = replace(bare, request=bare.request.but(headers=raw))
        assert case.both(sent, now) == BELIEVED
        assert case.both(replace(sent, secret=case.other), now) == REFUSED
