"""The engine against the vectors, and each rule of it by itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Rejected
from relay.presets import Preset, load_presets, preset_for
from relay.schemes.encodings import Algorithm
from relay.schemes.mac import keyed
from relay.schemes.places import first_id
from relay.verify import Verified, verify, voucher
from tests.support.requests import NOW, URL, Vector, code, judge, readers, request_to, scheme_for, vectors

PRESETS = load_presets()
VECTORS = vectors()
GITLAB_BOTH = [replace(vector, preset="gitlab") for vector in VECTORS if vector.preset.startswith("gitlab_")]

#: Options that hold keys of their own.
KEY_OPTIONS = ("x509_certs", "secondary_key")


def preset(name: str) -> Preset:
    return PRESETS[name]


def judged(vector: Vector, *secrets: str, without: tuple[str, ...] = ()) -> Verified | Rejected:
    scheme = scheme_for(preset(vector.preset), vector, without=without)
    return judge(scheme, secrets, vector.request, vector.url, vector.now)


def hexed(secret: str, content: bytes, algorithm: str = "sha256") -> str:
    return hmac.new(secret.encode(), content, algorithm).hexdigest()


def github(body: bytes, *secrets: str, headers: tuple[tuple[str, str], ...] = ()) -> Verified | Rejected:
    signed = ("X-Hub-Signature-256", "sha256=" + hexed("one", body))
    return judge(preset("github").scheme, secrets, request_to(URL, (signed, *headers), body))


def stripe_header(body: bytes, *, t: int = NOW, secret: str = "whsec_a") -> str:
    return f"t={t},v1={hexed(secret, f'{t}.'.encode() + body)}"


def stripe(body: bytes, header: str, *secrets: str, now: float = NOW) -> Verified | Rejected:
    return judge(preset("stripe").scheme, secrets, request_to(URL, {"Stripe-Signature": header}, body), now=now)


@pytest.mark.parametrize("vector", VECTORS + GITLAB_BOTH, ids=lambda vector: f"{vector.preset}:{vector.id}")
def test_vector(vector: Vector) -> None:
    answer = judged(vector, vector.secret)
    assert isinstance(answer, Verified) == vector.valid, answer


@pytest.mark.parametrize("vector", [v for v in VECTORS + GITLAB_BOTH if v.valid], ids=lambda vector: vector.id)
def test_the_quicker_way_says_yes_too(vector: Vector) -> None:
    """Unless a key would have to be fetched. That it says yes to nothing else is seen in every other test."""
    scheme, request = scheme_for(preset(vector.preset), vector), vector.request
    answer = verify(scheme, [vector.secret], request, url=vector.url, body=request.body, now_s=vector.now)
    for reader in readers(scheme, request, vector.url):
        several = reader.several or scheme.remote
        assert several or voucher(scheme, ["another secret", vector.secret])(reader, vector.now)
        assert several or (isinstance(answer, Verified) and first_id(scheme.delivery_id, reader) == answer.key)


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=300), st.sampled_from(["sha1", "sha256", "sha512"]))
def test_a_mac_whose_key_is_hashed_once_is_the_same(key: bytes, content: bytes, algorithm: Algorithm) -> None:
    mac = keyed(key, algorithm)
    assert [mac(content), mac(b""), mac(content)] == [
        hmac.digest(key, each, algorithm) for each in (content, b"", content)
    ]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.valid], ids=lambda vector: vector.id)
def test_any_of_several_secrets_vouches(vector: Vector) -> None:
    others = ["whsec_" + base64.b64encode(b"another key, 24 bytes at least").decode(), "", vector.secret]
    assert code(judged(vector, *others)) == "verified"
    assert code(judged(vector, *others[:1], without=KEY_OPTIONS)) != "verified"


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.valid], ids=lambda vector: vector.id)
@pytest.mark.parametrize("secrets", [[], [""], ["", ""]])
def test_no_secret_fails_closed(vector: Vector, secrets: list[str]) -> None:
    answer = judged(vector, *secrets, without=KEY_OPTIONS)
    fetched = vector.preset == "google_pubsub_push"  # its keys are Google's, and are not here
    assert code(answer) == ("key_unreachable" if fetched else "key_unavailable")


def test_every_shipped_scheme_has_vectors() -> None:
    without = {"gitlab", "hmac", "token", "none"}  # gitlab is both of its choices
    assert {vector.preset for vector in VECTORS} == set(PRESETS) - without
    assert len(VECTORS) == 1224


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("stripe/stale_timestamp", "timestamp_stale"),
        ("slack/future_timestamp", "timestamp_stale"),
        ("slack/missing_timestamp_header", "signature_missing"),
        ("stripe/no_timestamp", "signature_missing"),
        ("linear/stale_body_timestamp", "timestamp_stale"),
        ("github/empty_signature_header", "signature_missing"),
        ("github/missing_signature_header", "signature_missing"),
        ("github/tampered_body", "signature_mismatch"),
        ("github/sha1_value_in_256_header", "signature_mismatch"),
        ("svix/unknown_version_prefix", "signature_mismatch"),
        ("svix/timestamp_replaced_after_signing", "signature_mismatch"),
        ("twilio/sharedkey_unknown_algorithm", "signature_mismatch"),
        ("gitlab_token/empty_token", "signature_missing"),
        ("gitlab_token/case_changed_token", "signature_mismatch"),
        ("msgraph_clientstate/second_item_forged", "signature_mismatch"),
        ("sendgrid/tampered_body", "signature_mismatch"),
        ("standard_webhooks_v1a/stale_timestamp", "timestamp_stale"),
        ("paypal/cert_url_foreign_host", "signature_mismatch"),
        ("paypal/wrong_webhook_id", "signature_mismatch"),
        ("plaid/tampered_body", "body_altered"),
        ("plaid/stale_iat", "timestamp_stale"),
        ("plaid/unknown_kid", "signature_mismatch"),
        ("plaid/alg_hs256_confusion", "signature_mismatch"),
        ("netlify/alg_none", "signature_mismatch"),
        ("netlify/tampered_body", "body_altered"),
        ("google_pubsub_push/wrong_audience", "signature_mismatch"),
        ("messagebird/expired", "timestamp_stale"),
        ("messagebird/url_mismatch", "signature_mismatch"),
        ("vonage/stale_iat", "timestamp_stale"),
        ("livekit/expired", "timestamp_stale"),
        ("hubspot_v1/tampered_body", "signature_mismatch"),
    ],
)
def test_codes(case: str, expected: str) -> None:
    vector = next(vector for vector in VECTORS if vector.id == case)
    assert code(judged(vector, vector.secret)) == expected


def test_the_wire_bytes_are_signed_and_the_decoded_bytes_are_read() -> None:
    wire, decoded = b"\x1f\x8bwhatever", b'{"id":"evt_1","type":"charge.succeeded"}'
    request = request_to(URL, {"Stripe-Signature": stripe_header(wire)}, wire)
    answer = verify(preset("stripe").scheme, ["whsec_a"], request, url=URL, body=decoded, now_s=NOW)
    assert answer == Verified("evt_1", "charge.succeeded")


class TestTime:
    def test_stale_says_the_skew(self) -> None:
        answer = stripe(b"{}", stripe_header(b"{}", t=NOW - 301), "whsec_a")
        assert isinstance(answer, Rejected)
        assert answer.code == "timestamp_stale"
        assert "301 s ago, the tolerance is 300 s" in answer.detail

    def test_a_wrong_signature_is_a_mismatch_however_old(self) -> None:
        assert code(stripe(b"{}", stripe_header(b"{}", t=5, secret="other"), "whsec_a")) == "signature_mismatch"

    def test_whole_seconds_are_judged_by_whole_seconds(self) -> None:
        header = stripe_header(b"{}", t=NOW - 300)
        assert code(stripe(b"{}", header, "whsec_a", now=NOW + 0.999)) == "verified"
        assert code(stripe(b"{}", header, "whsec_a", now=NOW + 1)) == "timestamp_stale"

    @pytest.mark.parametrize("text", ["1e9", "-5", "99999999999999999", "nan", "１７６", "1760000000.5"])
    def test_a_signed_time_that_is_no_time(self, text: str) -> None:
        signature = hexed("s", f"v0:{text}:x".encode())
        headers = {"X-Slack-Request-Timestamp": text, "X-Slack-Signature": f"v0={signature}"}
        assert code(judge(preset("slack").scheme, ["s"], request_to(URL, headers, b"x"))) == "timestamp_stale"

    @pytest.mark.parametrize("time", ["", "null", '"soon"', "[1760000000000]", "1760000000000.5", "9" * 400])
    def test_linear_without_a_usable_time(self, time: str) -> None:
        body = b'{"webhookTimestamp":' + time.encode() + b"}"
        answer = judge(preset("linear").scheme, ["s"], request_to(URL, {"Linear-Signature": hexed("s", body)}, body))
        assert code(answer) in ("signature_missing", "timestamp_stale")

    def test_linear_with_a_tolerance_of_its_own(self) -> None:
        body = b'{"webhookTimestamp":%d}' % ((NOW - 100) * 1000)
        request = request_to(URL, {"Linear-Signature": hexed("s", body)}, body)
        wider = preset_for("linear", {"tolerance_seconds": 100}, file=None, key="sources.linear")
        assert code(judge(preset("linear").scheme, ["s"], request)) == "timestamp_stale"
        assert code(judge(wider.scheme, ["s"], request)) == "verified"

    def test_linear_reads_a_time_beside_a_lone_surrogate(self) -> None:
        body = b'{"title":"\\ud83d","webhookTimestamp":%d000}' % NOW
        request = request_to(URL, {"Linear-Signature": hexed("s", body)}, body)
        assert code(judge(preset("linear").scheme, ["s"], request)) == "verified"


class TestSignatures:
    def test_uppercase_hex_where_the_provider_is_read_loosely(self) -> None:
        header = {"X-Hub-Signature-256": "sha256=" + hexed("one", b"x").upper()}
        assert code(judge(preset("github").scheme, ["one"], request_to(URL, header, b"x"))) == "verified"

    def test_uppercase_hex_is_not_slacks(self) -> None:
        digest = hexed("s", f"v0:{NOW}:x".encode())
        assert digest != digest.upper()
        headers = {"X-Slack-Request-Timestamp": str(NOW), "X-Slack-Signature": f"v0={digest.upper()}"}
        assert code(judge(preset("slack").scheme, ["s"], request_to(URL, headers, b"x"))) == "signature_mismatch"

    @pytest.mark.parametrize("prefix", ["", "SHA256=", "sha512=", " sha256=x", "sha256"])
    def test_the_prefix_is_anchored_and_its_case_counts(self, prefix: str) -> None:
        header = {"X-Hub-Signature-256": prefix + hexed("one", b"x")}
        assert code(judge(preset("github").scheme, ["one"], request_to(URL, header, b"x"))) == "signature_mismatch"

    def test_sha1_is_never_taken_by_github(self) -> None:
        headers = {
            "X-Hub-Signature": "sha1=" + hexed("one", b"x", "sha1"),
            "X-Hub-Signature-256": "sha256=" + hexed("one", b"x", "sha1"),
        }
        assert code(judge(preset("github").scheme, ["one"], request_to(URL, headers, b"x"))) == "signature_mismatch"
        del headers["X-Hub-Signature-256"]
        assert code(judge(preset("github").scheme, ["one"], request_to(URL, headers, b"x"))) == "signature_missing"

    def test_the_same_header_twice_with_one_value(self) -> None:
        assert (
            code(github(b"x", "one", headers=(("x-hub-signature-256", "sha256=" + hexed("one", b"x")),))) == "verified"
        )

    @pytest.mark.parametrize("other", ["", "sha256=00", "sha256=" + "0" * 64])
    def test_the_same_header_twice_with_two_values_is_refused(self, other: str) -> None:
        answer = github(b"x", "one", headers=(("x-hub-signature-256", other),))
        assert code(answer) == "signature_missing"
        assert isinstance(answer, Rejected)
        assert "twice" in answer.detail

    def test_headers_of_a_list_scheme_are_one_list(self) -> None:
        bad, good = f"t={NOW},v1=00", stripe_header(b"{}")
        for pair in ((bad, good), (good, bad)):
            request = request_to(URL, [("Stripe-Signature", value) for value in pair], b"{}")
            assert code(judge(preset("stripe").scheme, ["whsec_a"], request)) == "verified"

    def test_a_second_time_does_not_freshen_an_old_signature(self) -> None:
        old = stripe_header(b"{}", t=NOW - 9999)
        for header in (f"t={NOW},{old}", f"{old},t={NOW}"):
            assert code(stripe(b"{}", header, "whsec_a")) in ("signature_mismatch", "timestamp_stale")

    def test_two_different_ids_are_refused(self) -> None:
        vector = next(vector for vector in VECTORS if vector.id == "svix/valid_2")
        request = vector.request.but(headers=(*vector.request.headers, (b"svix-id", b"msg_other")))
        assert code(judge(preset("svix").scheme, [vector.secret], request, now=vector.now)) == "signature_missing"

    def test_more_signatures_than_anybody_sends_are_not_tried(self) -> None:
        header = f"t={NOW}," + "v1=00," * 200 + stripe_header(b"{}").partition(",")[2]
        assert code(stripe(b"{}", header, "whsec_a")) == "signature_mismatch"

    def test_a_secret_that_is_no_key_is_not_used(self) -> None:
        vector = next(vector for vector in VECTORS if vector.id == "svix/valid_2")
        scheme = preset("svix").scheme
        assert code(judge(scheme, ["whsec_not base64!"], vector.request, now=vector.now)) == "key_unavailable"
        assert code(judge(scheme, ["whsec_"], vector.request, now=vector.now)) == "key_unavailable"
        assert code(judge(scheme, ["whsec_!", vector.secret], vector.request, now=vector.now)) == "verified"


class TestGitlab:
    TOKEN = ("X-Gitlab-Token", "plain")
    SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()

    def signed(self, body: bytes = b"{}") -> tuple[tuple[str, str], ...]:
        digest = hmac.digest(base64.b64decode(self.SECRET[6:]), f"id1.{NOW}.".encode() + body, "sha256")
        signature = "v1," + base64.b64encode(digest).decode()
        return ("webhook-id", "id1"), ("webhook-timestamp", str(NOW)), ("webhook-signature", signature)

    def judged(self, secrets: list[str], *headers: tuple[str, str], body: bytes = b"{}") -> str:
        return code(judge(preset("gitlab").scheme, secrets, request_to(URL, headers, body)))

    def test_both_side_by_side(self) -> None:
        both = [self.SECRET, "plain"]
        assert self.judged(both, self.TOKEN) == "verified"
        assert self.judged(both, *self.signed()) == "verified"
        assert self.judged(both, ("X-Gitlab-Token", "wrong")) == "signature_mismatch"
        assert self.judged(both, *self.signed(), body=b"{ }") == "signature_mismatch"
        assert self.judged(both) == "signature_missing"

    def test_a_signing_secret_is_no_token(self) -> None:
        assert self.judged([self.SECRET], ("X-Gitlab-Token", self.SECRET)) == "signature_missing"
        assert self.judged([self.SECRET], self.TOKEN) == "signature_missing"

    def test_a_token_is_no_signing_secret(self) -> None:
        digest = hmac.digest(b"plain", f"id1.{NOW}.{{}}".encode(), "sha256")
        forged = ("webhook-signature", "v1," + base64.b64encode(digest).decode())
        assert (
            self.judged(["plain"], ("webhook-id", "id1"), ("webhook-timestamp", str(NOW)), forged)
            == "signature_missing"
        )

    def test_the_nearest_refusal_is_told(self) -> None:
        old = judge(
            preset("gitlab").scheme, [self.SECRET, "plain"], request_to(URL, self.signed(), b"{}"), now=NOW + 999
        )
        assert code(old) == "timestamp_stale"


class TestWords:
    def test_the_sender_learns_the_same_for_all_mismatches(self) -> None:
        answers = [
            github(b"x", "two"),
            github(b"x", "two", "three"),
            judge(preset("github").scheme, ["one"], request_to(URL, {"X-Hub-Signature-256": "sha256=zz"}, b"x")),
            judge(preset("shopify").scheme, ["one"], request_to(URL, {"X-Shopify-Hmac-Sha256": "AAAA"}, b"x")),
            judge(preset("gitlab").scheme, ["one"], request_to(URL, {"X-Gitlab-Token": "two"}, b"x")),
        ]
        assert {code(answer) for answer in answers} == {"signature_mismatch"}
        assert len({answer.message for answer in answers if isinstance(answer, Rejected)}) == 1

    @pytest.mark.parametrize("vector", [v for v in VECTORS if not v.valid], ids=lambda vector: vector.id)
    def test_no_secret_and_no_signature_in_the_words(self, vector: Vector) -> None:
        answer = judged(vector, vector.secret)
        assert isinstance(answer, Rejected)
        said = answer.message + answer.detail
        assert len(vector.secret) < 5 or vector.secret not in said.replace(vector.url, "")
        assert not any(value.decode() in said for _, value in vector.request.headers if len(value) > 20)
        assert answer.detail


class TestIds:
    def key(self, body: bytes) -> str | None:
        answer = stripe(body, stripe_header(body), "whsec_a")
        assert isinstance(answer, Verified)
        return answer.key

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (b'{"id":"evt_1"}', "evt_1"),
            (b'\xef\xbb\xbf {"id" : "evt_1"}', "evt_1"),
            (b'{"id":7}', "7"),
            (b'{"id":' + b"9" * 200 + b"}", "9" * 200),
            (b'{"id":1.50}', "1.50"),
            (b'{"id":"\\ud83d\\ude80"}', "\U0001f680"),
            (b'{"a":"\\ud83d","id":"evt_1"}', "evt_1"),
            (b'{"id":"x","id":"y"}', "y"),
            (b'{"id":"  "}', None),
            (b'{"id":""}', None),
            (b'{"id":null}', None),
            (b'{"id":true}', None),
            (b'{"id":{"a":1}}', None),
            (b'{"id":["a"]}', None),
            (b'["id"]', None),
            (b"7", None),
            (b'"id"', None),
            (b"", None),
            (b"not json", None),
            (b'{"id":"evt_1"', None),
            (b"<xml id='1'/>", None),
            (b"\xff\xfe", None),
            (b'{"id":"\xb1"}', None),
            (b'{"\xb1":1,"id":"evt_1"}', None),
            (b'{"a":"\xb1","id":"evt_1"}', "evt_1"),
            (b'{"id":"evt_1","deep":' + b"[" * 200_000 + b"]" * 200_000 + b"}", None),
            (b"[" * 200_000, None),
        ],
    )
    def test_read_from_the_body(self, body: bytes, expected: str | None) -> None:
        assert self.key(body) == expected

    @pytest.mark.parametrize("text", ["x" * 256, "a\x00b", "a\nb", "\u202eabc"])
    def test_long_or_unprintable_ids_become_their_hash(self, text: str) -> None:
        escaped = "".join(f"\\u{ord(c):04x}" for c in text)
        expected = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        assert self.key(f'{{"id":"{escaped}"}}'.encode()) == expected

    def test_ids_that_are_no_utf8_stay_apart(self) -> None:
        keys = set()
        for raw in (b"\xff", b"\xfe"):
            headers = [("X-Hub-Signature-256", "sha256=" + hexed("one", b"x")), (b"X-GitHub-Delivery", raw)]
            answer = judge(preset("github").scheme, ["one"], request_to(URL, headers, b"x"))
            assert isinstance(answer, Verified)
            keys.add(answer.key)
        assert len(keys) == 2

    def test_255_characters_are_kept(self) -> None:
        assert self.key(b'{"id":"' + b"x" * 255 + b'"}') == "x" * 255

    def test_github(self) -> None:
        headers = (("X-GitHub-Delivery", "72d3162e"), ("X-GitHub-Event", "push"))
        assert github(b"x", "one", headers=headers) == Verified("72d3162e", "push")

    def test_two_ids_are_none(self) -> None:
        headers = (("X-GitHub-Delivery", "a"), ("X-GitHub-Delivery", "b"))
        assert github(b"x", "one", headers=headers) == Verified(None, None)

    def test_slack_form(self) -> None:
        body = b"command=%2Fhello+you&text=x"
        headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "X-Slack-Request-Timestamp": str(NOW),
            "X-Slack-Signature": "v0=" + hexed("s", f"v0:{NOW}:".encode() + body),
        }
        assert judge(preset("slack").scheme, ["s"], request_to(URL, headers, body)) == Verified(None, "/hello you")
