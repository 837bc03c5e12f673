"""What `relay send` signs is what the engine believes: every preset, every sample."""

from __future__ import annotations

import json

import pytest

from relay.errors import Rejected
from relay.presets import load_presets
from relay.verify import Verified, explain, sign
from tests.support.requests import NOW, URL, code, judge, request_to
from tests.support.throwaway import believing, ed_key, private_pem, public_pem, rsa_key, sign_sample

PRESETS = load_presets()
SAMPLES = [(name, sample.event) for name, preset in PRESETS.items() for sample in preset.samples]


@pytest.mark.parametrize(("name", "event"), SAMPLES, ids=lambda value: str(value))
class TestEverySample:
    def test_signed_is_verified(self, name: str, event: str) -> None:
        preset = PRESETS[name]
        bare = preset.sample(event).request("/in/demo", now_s=NOW, delivery_id="01JABC")
        signed = sign_sample(preset, bare, delivery_id="01JABC")
        answer = judge(signed.scheme, signed.secrets, signed.request)
        assert isinstance(answer, Verified), answer
        json.dumps(answer.event_type)

    def test_another_secret_is_not(self, name: str, event: str) -> None:
        preset = PRESETS[name]
        if preset.scheme.open:
            return
        bare = preset.sample(event).request("/in/demo", now_s=NOW, delivery_id="01JABC")
        signed = sign_sample(preset, bare, delivery_id="01JABC")
        others = ["whsec_" + "A" * 32, "another", "00" * 32, "arn:aws:sns:eu-west-1:1:other", public_pem(rsa_key(9))]
        assert isinstance(judge(signed.scheme, others, signed.request), Rejected)
        assert isinstance(judge(signed.scheme, others, bare), Rejected)

    def test_explained_is_judged_the_same_and_shows_no_secret(self, name: str, event: str) -> None:
        preset = PRESETS[name]
        bare = preset.sample(event).request("/in/demo", now_s=NOW, delivery_id="01JABC")
        signed = sign_sample(preset, bare, delivery_id="01JABC")
        body = signed.request.body
        answer, steps = explain(signed.scheme, signed.secrets, signed.request, url=URL, body=body, now_s=NOW)
        assert isinstance(answer, Verified)
        assert steps or preset.scheme.open
        for secret in signed.secrets:
            assert not any(secret in step.found or secret in step.what for step in steps if name != "sns"), steps


@pytest.mark.parametrize("name", ["discord", "telnyx", "sendgrid", "standard_webhooks_v1a", "postal", "wise", "plaid"])
def test_the_public_key_alone_cannot_sign(name: str) -> None:
    preset = PRESETS[name]
    scheme, _, secrets = believing(preset)
    bare = request_to(URL, {"Content-Type": "application/json"}, b"{}")
    with pytest.raises(ValueError, match="the relay holds only the public key: sign with a private key"):
        sign(scheme, secrets[0], bare, url=URL, now_s=NOW, delivery_id="1")


def test_a_key_of_another_type_cannot_sign() -> None:
    bare = request_to(URL, {}, b"{}")
    for name, key in (("discord", rsa_key()), ("wise", ed_key())):
        with pytest.raises(ValueError, match="is needed"):
            sign(PRESETS[name].scheme, private_pem(key), bare, url=URL, now_s=NOW, delivery_id="1")
    with pytest.raises(ValueError, match="ES256"):
        sign(PRESETS["plaid"].scheme, private_pem(rsa_key()), bare, url=URL, now_s=NOW, delivery_id="1")


class TestSecretsInTheBody:
    def signed(self, name: str, body: bytes, kind: str = "application/json") -> tuple[bytes, str]:
        scheme, secret, secrets = believing(PRESETS[name])
        request = sign(
            scheme, secret, request_to(URL, {"Content-Type": kind}, body), url=URL, now_s=NOW, delivery_id="1"
        )
        return request.body, code(judge(scheme, secrets, request))

    def test_figma(self) -> None:
        body, answer = self.signed("figma", b'{"passcode":"?","event_type":"PING"}')
        assert json.loads(body)["event_type"] == "PING"
        assert answer == "verified"

    def test_each_notification_of_graph(self) -> None:
        body, answer = self.signed("msgraph_clientstate", b'{"value":[{"id":"1"},{"id":"2","clientState":"?"}]}')
        states = {item["clientState"] for item in json.loads(body)["value"]}
        assert len(states) == 1
        assert answer == "verified"

    def test_mailgun_as_a_form(self) -> None:
        form = f"timestamp={NOW}&token=abc&subject=a%26b".encode()
        body, answer = self.signed("mailgun_form", form, "application/x-www-form-urlencoded")
        assert body.startswith(form + b"&signature=")
        assert answer == "verified"

    def test_a_body_of_another_kind_is_refused(self) -> None:
        scheme, secret, _ = believing(PRESETS["msgraph_clientstate"])
        for body in (b"", b"[]", b"null", b'{"value":7}', b'{"value":["x"]}'):
            with pytest.raises(ValueError, match="not the JSON"):
                sign(scheme, secret, request_to(URL, {}, body), url=URL, now_s=NOW, delivery_id="1")
