"""Providers without vectors of another's making, signed here from their documentation and not with the relay's code."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping

import pytest

from relay.errors import Rejected
from relay.models import Request
from relay.presets import load_presets
from relay.verify import Verified
from tests.support.requests import NOW, URL, code, judge, request_to

PRESETS = load_presets()
BODIES = [b'{"id":"evt_1","type":"made"}', '{"name":"Zoë ☃", "n": 1.0}\n'.encode(), b"", b"\xff\x00"]
TEXT, HEX_KEY, BASE64_KEY = "fake_secret", "00ff" * 16, base64.b64encode(bytes(range(32))).decode()
SECRETS = {"close_crm": HEX_KEY, "teams_outgoing": BASE64_KEY}


def hexed(content: bytes, algorithm: str = "sha256", key: bytes = TEXT.encode()) -> str:
    return hmac.new(key, content, algorithm).hexdigest()


def coded(content: bytes, algorithm: str = "sha256", key: bytes = TEXT.encode()) -> str:
    return base64.b64encode(hmac.new(key, content, algorithm).digest()).decode()


def at(body: bytes, form: bytes = b"%d.%s") -> bytes:
    return form % (NOW, body)


SIGNERS: dict[str, Callable[[bytes], Mapping[str, str]]] = {
    "authorize_net": lambda body: {"X-ANET-Signature": "sha512=" + hexed(body, "sha512").upper()},
    "buildkite": lambda body: {"X-Buildkite-Signature": f"timestamp={NOW},signature={hexed(at(body))}"},
    "checkout_com": lambda body: {"Cko-Signature": hexed(body)},
    "close_crm": lambda body: {
        "close-sig-timestamp": str(NOW),
        "close-sig-hash": hexed(at(body, b"%d%s"), key=bytes.fromhex(HEX_KEY)),
    },
    "customerio": lambda body: {"X-CIO-Timestamp": str(NOW), "X-CIO-Signature": hexed(at(body, b"v0:%d:%s"))},
    "dwolla": lambda body: {"X-Request-Signature-SHA-256": hexed(body)},
    "elevenlabs": lambda body: {"ElevenLabs-Signature": f"t={NOW},v0={hexed(at(body))}"},
    "gocardless": lambda body: {"Webhook-Signature": hexed(body)},
    "google_channel_token": lambda body: {"X-Goog-Channel-Token": TEXT},
    "helpscout": lambda body: {"X-HelpScout-Signature": coded(body, "sha1")},
    "huggingface": lambda body: {"X-Webhook-Secret": TEXT},
    "klaviyo": lambda body: {"Klaviyo-Timestamp": "1760", "Klaviyo-Signature": hexed(body + b"1760")},
    "line": lambda body: {"X-Line-Signature": coded(body)},
    "mux": lambda body: {"Mux-Signature": f"t={NOW},v1={hexed(at(body))}"},
    "nylas": lambda body: {"X-Nylas-Signature": hexed(body)},
    "paystack": lambda body: {"X-Paystack-Signature": hexed(body, "sha512")},
    "persona": lambda body: {"Persona-Signature": f"t={NOW},v1={hexed(at(body))}"},
    "smartsheet": lambda body: {"Smartsheet-Hmac-SHA256": hexed(body)},
    "snyk": lambda body: {"X-Hub-Signature": "sha256=" + hexed(body)},
    "tally": lambda body: {"Tally-Signature": coded(body)},
    "teams_outgoing": lambda body: {"Authorization": "HMAC " + coded(body, key=base64.b64decode(BASE64_KEY))},
    "twitch": lambda body: {
        "Twitch-Eventsub-Message-Id": "m1",
        "Twitch-Eventsub-Message-Timestamp": "2025-10-09T08:53:20.123456789Z",
        "Twitch-Eventsub-Message-Signature": "sha256=" + hexed(b"m12025-10-09T08:53:20.123456789Z" + body),
    },
    "webflow": lambda body: {
        "X-Webflow-Timestamp": f"{NOW}000",
        "X-Webflow-Signature": hexed(at(body, b"%d000:%s")),
    },
    "woocommerce": lambda body: {"X-WC-Webhook-Signature": coded(body)},
}
TOKENS = ("google_channel_token", "huggingface")


def answered(name: str, request: Request, secret: str | None = None, now: float = NOW) -> str:
    return code(judge(PRESETS[name].scheme, [secret or SECRETS.get(name, TEXT)], request, now=now))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", SIGNERS)
def test_signed_by_hand(name: str, body: bytes) -> None:
    headers = SIGNERS[name](body)
    assert answered(name, request_to(URL, headers, body)) == "verified"
    assert name in TOKENS or answered(name, request_to(URL, headers, body + b" ")) == "signature_mismatch"
    assert answered(name, request_to(URL, {}, body)) == "signature_missing"
    other = {"close_crm": "ff" * 16, "teams_outgoing": BASE64_KEY[::-1].replace("=", "A")}.get(name, "another")
    assert answered(name, request_to(URL, headers, body), other) == "signature_mismatch"


@pytest.mark.parametrize("name", [name for name in SIGNERS if PRESETS[name].scheme.with_tolerance(1)])
def test_an_old_one_is_stale(name: str) -> None:
    request = request_to(URL, SIGNERS[name](b"{}"), b"{}")
    assert answered(name, request, now=NOW + 4000) == "timestamp_stale"


def test_pandadoc_signs_in_the_query() -> None:
    body = b'[{"event":"document_state_changed"}]'
    url = f"{URL}?signature={hexed(body)}"
    assert answered("pandadoc", request_to(url, {}, body)) == "verified"
    assert answered("pandadoc", request_to(url, {}, body + b" ")) == "signature_mismatch"
    assert answered("pandadoc", request_to(URL, {}, body)) == "signature_missing"
    assert answered("pandadoc", request_to(f"{url}&signature=00", {}, body)) == "signature_missing"


class TestPersonasGroups:
    """While a secret is rotated there are two groups, each with a time of its own."""

    def judged(self, *groups: str, between: str = " ", secret: str = TEXT, now: float = NOW) -> str:
        request = request_to(URL, {"Persona-Signature": between.join(groups)}, b"{}")
        return code(judge(PRESETS["persona"].scheme, [secret], request, now=now))

    def group(self, t: int, key: str = TEXT) -> str:
        return f"t={t},v1={hexed(b'%d.{}' % t, key=key.encode())}"

    @pytest.mark.parametrize("between", [" ", "  ", "\t"])
    def test_either_may_match(self, between: str) -> None:
        mine, other = self.group(NOW - 1), self.group(NOW - 2, "other")
        assert self.judged(mine, other, between=between) == "verified"
        assert self.judged(other, mine, between=between) == "verified"
        assert self.judged(other, mine, between=between, secret="third") == "signature_mismatch"

    def test_a_blank_after_the_comma_is_no_border(self) -> None:
        assert self.judged(self.group(NOW).replace(",", ", "), self.group(NOW, "other")) == "verified"

    def test_a_time_is_of_its_own_group_only(self) -> None:
        old = self.group(NOW - 999)
        assert self.judged(old) == "timestamp_stale"
        assert self.judged(f"t={NOW}", old) == "timestamp_stale"
        assert self.judged(old, f"t={NOW},v1=00") == "timestamp_stale"
        assert self.judged(old.replace(str(NOW - 999), str(NOW)), old) == "timestamp_stale"

    def test_the_nearest_refusal_is_told(self) -> None:
        assert self.judged("v1=00", self.group(NOW, "other")) == "signature_mismatch"
        assert self.judged("v1=00") == "signature_missing"

    def test_two_headers_are_groups_too(self) -> None:
        pairs = [("Persona-Signature", self.group(NOW, "other")), ("Persona-Signature", self.group(NOW))]
        assert code(judge(PRESETS["persona"].scheme, [TEXT], request_to(URL, pairs, b"{}"))) == "verified"

    def test_more_groups_than_anybody_sends_are_not_tried(self) -> None:
        assert self.judged(*["t=1,v1=00"] * 100, self.group(NOW)) == "signature_mismatch"


class TestDocusignsFamily:
    """A header per key: X-DocuSign-Signature-1 to -100."""

    def judged(self, headers: Mapping[str, str], secret: str = TEXT) -> str:
        return code(judge(PRESETS["docusign"].scheme, [secret], request_to(URL, headers, b"<xml/>")))

    @pytest.mark.parametrize("number", [1, 2, 10, 100])
    def test_any_of_them_may_match(self, number: int) -> None:
        other = {"X-DocuSign-Signature-1": coded(b"<xml/>", key=b"other")}
        assert self.judged({**other, f"X-DocuSign-Signature-{number}": coded(b"<xml/>")}) == "verified"
        assert self.judged({f"X-DocuSign-Signature-{number}": coded(b"<xml/>")}) == "verified"
        assert self.judged({**other, f"X-DocuSign-Signature-{number}": coded(b"<xml />")}) == "signature_mismatch"

    def test_beyond_the_family(self) -> None:
        for name in ("X-DocuSign-Signature-0", "X-DocuSign-Signature-101", "X-DocuSign-Signature"):
            assert self.judged({name: coded(b"<xml/>")}) == "signature_missing"


class TestGraph:
    """Every notification of a batch carries the clientState."""

    def judged(self, body: bytes, *secrets: str) -> str:
        return code(judge(PRESETS["msgraph_clientstate"].scheme, secrets or ["state"], request_to(URL, {}, body)))

    def test_all_of_them(self) -> None:
        assert self.judged(b'{"value":[{"clientState":"state"}]}') == "verified"
        assert self.judged(b'{"value":[{"clientState":"state"},{"a":1,"clientState":"state"}]}') == "verified"
        assert self.judged(b'{"value":[{"clientState":"state"},{"clientState":"other"}]}') == "signature_mismatch"
        assert self.judged(b'{"value":[{"clientState":"state"},{"a":1}]}') == "signature_mismatch"
        assert self.judged(b'{"value":[{"a":1},{"clientState":"state"}]}') == "signature_mismatch"
        assert self.judged(b'{"value":[{"clientState":"state"},7]}') == "signature_mismatch"

    def test_the_same_secret_for_all(self) -> None:
        mixed = b'{"value":[{"clientState":"one"},{"clientState":"two"}]}'
        assert self.judged(mixed, "one", "two") == "signature_mismatch"
        assert self.judged(mixed.replace(b"one", b"two"), "one", "two") == "verified"

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"[]", b"{}", b"null", b'{"value":[]}', b'{"value":{}}', b'{"value":{"clientState":"state"}}'),
            *(b'{"value":"clientState"}', b'{"value":[{}]}', b'{"value":[{"clientState":""}]}', b"\xff", b"[" * 5000),
            *(b'{"value":[{"clientState":null}]}', b'{"value":[{"clientState":["state"]}]}', b'{"value":[null]}'),
        ],
    )
    def test_nothing_vouches_for_nothing(self, body: bytes) -> None:
        assert self.judged(body) == "signature_missing"

    def test_beside_a_lone_surrogate(self) -> None:
        body = b'{"value":[{"clientState":"state","t":"\\ud83d"},{"clientState":"%s"}]}'
        assert self.judged(body % b"state") == "verified"
        assert self.judged(body % b"other") == "signature_mismatch"
        assert self.judged(body % b"\\ud83d") == "signature_mismatch"


class TestPlainHashes:
    def test_the_secret_is_hashed_and_no_key(self) -> None:
        for name, content in (
            ("hubspot_v1", TEXT.encode() + b"{}"),
            ("hubspot_v2", TEXT.encode() + b"POST" + URL.encode() + b"{}"),
        ):
            good = {"X-HubSpot-Signature": hashlib.sha256(content).hexdigest()}
            assert answered(name, request_to(URL, good, b"{}")) == "verified"
            assert (
                answered(name, request_to(URL, {"X-HubSpot-Signature": hexed(content)}, b"{}")) == "signature_mismatch"
            )
            shown = {"X-HubSpot-Signature": hashlib.sha256(content.replace(TEXT.encode(), b"<the secret>")).hexdigest()}
            assert answered(name, request_to(URL, shown, b"{}")) == "signature_mismatch"

    def test_each_secret_is_hashed_in_its_turn(self) -> None:
        sent = {"X-HubSpot-Signature": hashlib.sha256(b"two{}").hexdigest()}
        answer = judge(PRESETS["hubspot_v1"].scheme, ["one", "two"], request_to(URL, sent, b"{}"))
        assert isinstance(answer, Verified)

    def test_an_empty_secret_hashes_nothing(self) -> None:
        sent = {"X-HubSpot-Signature": hashlib.sha256(b"{}").hexdigest()}
        answer = judge(PRESETS["hubspot_v1"].scheme, [""], request_to(URL, sent, b"{}"))
        assert isinstance(answer, Rejected)


def test_surveymonkeys_key_is_two_texts_joined() -> None:
    sent = {"Sm-Signature": coded(b"{}", "sha1", b"client_id&client_secret")}
    assert answered("surveymonkey", request_to(URL, sent, b"{}"), "client_id&client_secret") == "verified"
    assert answered("surveymonkey", request_to(URL, sent, b"{}"), "client_secret") == "signature_mismatch"
