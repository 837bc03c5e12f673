"""No byte of what a scheme signs can be changed: body, headers, URL, method, token; every valid vector, every byte."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.errors import Rejected
from relay.presets import load_presets
from tests.support.mutations import mutations, signed_places
from tests.support.requests import NOW, URL, Vector, judge, scheme_for, vectors
from tests.support.throwaway import sign_sample

PRESETS = load_presets()
VALID = [vector for vector in vectors() if vector.valid]
ON_BEHALF = [replace(vector, preset="gitlab") for vector in VALID if vector.preset.startswith("gitlab_")]


@pytest.mark.parametrize("vector", VALID + ON_BEHALF, ids=lambda vector: f"{vector.preset}:{vector.id}")
def test_no_signed_byte_can_be_changed(vector: Vector) -> None:
    scheme = scheme_for(PRESETS[vector.preset], vector)
    tried = 0
    for changed in mutations(vector, scheme):
        answer = judge(scheme, [vector.secret], changed.request, changed.url, vector.now)
        assert isinstance(answer, Rejected), changed
        tried += 1
    signs_an_empty_body = not vector.request.body and set(signed_places(vector.preset, scheme)) == {"body"}
    assert tried or signs_an_empty_body


WITHOUT = sorted(set(PRESETS) - {vector.preset for vector in VALID} - {"gitlab", "none"})


@pytest.mark.parametrize("name", WITHOUT)
def test_no_signed_byte_of_a_sample_can_be_changed(name: str) -> None:
    """The same for presets without vectors, on what we signed ourselves."""
    preset = PRESETS[name]
    signed = sign_sample(preset, preset.sample().request("/in/demo", now_s=NOW, delivery_id="01JABC"))
    (secret,) = signed.secrets
    changes = list(mutations(Vector(name, name, secret, signed.request, URL, NOW, True), signed.scheme))
    assert changes
    for changed in changes:
        answer = judge(signed.scheme, [secret], changed.request, changed.url)
        assert isinstance(answer, Rejected), changed


SIGNS_THE_BODY = [vector for vector in VALID if "body" in signed_places(vector.preset, PRESETS[vector.preset].scheme)]


@pytest.mark.parametrize("vector", SIGNS_THE_BODY, ids=lambda vector: vector.id)
def test_no_body_can_be_shortened_or_lengthened(vector: Vector) -> None:
    scheme, body = scheme_for(PRESETS[vector.preset], vector), vector.request.body
    for changed in (body[:-1], body[1:], body + b"x", b"x" + body, body + body + b" ", body + b"\x00", b""):
        if changed != body:
            request = vector.request.but(body=changed)
            assert isinstance(judge(scheme, [vector.secret], request, vector.url, vector.now), Rejected), changed


def test_the_schemes_that_sign_no_body_are_known() -> None:
    """Tokens, and the few that sign some fields: an operator must know that these vouch for less."""
    signed = {vector.preset for vector in SIGNS_THE_BODY}
    fields_only = {"mailgun", "mailgun_form", "mandrill", "twilio", "adyen", "sns", "braintree", "dropbox_sign"}
    tokens = {"google_pubsub_push", "monday", "msgraph_clientstate"} | {
        vector.preset for vector in VALID if type(PRESETS[vector.preset].scheme).__name__ == "Token"
    }
    assert {vector.preset for vector in VALID} - signed <= fields_only | tokens
