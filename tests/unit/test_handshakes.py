"""Handshakes: every one that is known, answered exactly; and what strangers try with them."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import REJECTIONS, ConfigError, Rejected
from relay.handshakes import BODY_BYTES_MAX, HandshakeAnswer, answer_signed, answer_unsigned, methods_of, pairing_closed
from relay.models import Request
from relay.presets import Preset, load_preset, load_presets, preset_for
from relay.verify import Verified
from tests.support.handshakes import Case, case, cases
from tests.support.requests import NOW, URL, code, judge, request_to

CASES = cases()
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def preset_of(name: str, options: Mapping[str, Any] | None = None) -> Preset:
    return preset_for(name, options or {}, file=None, key="sources.demo")


def asked(
    preset: Preset, request: Request, secrets: Sequence[str] = ()
) -> tuple[HandshakeAnswer | Rejected | None, HandshakeAnswer | Rejected | None]:
    """The answers before and after verification."""
    given = {"url": URL, "body": request.body, "secrets": secrets}
    return answer_unsigned(preset, request, **given), answer_signed(preset, request, **given)  # type: ignore[arg-type]  # as both take them


def unsigned(name: str, request: Request, secrets: Sequence[str] = (), **options: str) -> str:
    """What comes of it before verification: an answer's body, a code, or "delivery"."""
    return told(asked(preset_of(name, options), request, secrets)[0])


def signed(name: str, body: bytes, secrets: Sequence[str] = (), headers: Mapping[str, str] | None = None) -> str:
    return told(asked(preset_of(name), request_to(URL, headers or {}, body), secrets)[1])


def told(answer: HandshakeAnswer | Rejected | None) -> str:
    if answer is None:
        return "delivery"
    return answer.code if isinstance(answer, Rejected) else f"{answer.status} {answer.body.decode()}".strip()


def getting(query: str) -> Request:
    return request_to(f"{URL}?{query}", {}, method="GET")


# ── every handshake that is known ──


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_answered_exactly(each: Case) -> None:
    preset = preset_of(each.preset, each.options)
    before, after = asked(preset, each.request, each.secrets)
    answer, other = (after, before) if each.signed else (before, after)
    assert other is None
    assert isinstance(answer, HandshakeAnswer)
    assert (answer.status, answer.body) == (each.status, each.answer_body)
    assert {name: answer.headers.get(name) for name in each.answer_headers} == dict(each.answer_headers)
    assert (answer.keeps, answer.confirms) == (each.keeps, each.confirms)
    assert set(answer.headers) - set(each.answer_headers) <= {"X-Content-Type-Options"}
    assert ("nosniff" in answer.headers.values()) == bool(answer.body)
    assert each.method in methods_of(preset.handshakes)


@pytest.mark.parametrize("each", [each for each in CASES if each.signed], ids=lambda each: each.name)
def test_a_signed_one_is_judged_by_its_signature_like_any_delivery(each: Case) -> None:
    preset = preset_of(each.preset, each.options)
    assert isinstance(judge(preset.scheme, each.secrets, each.request, each.url), Verified)
    body = each.body.replace(b"{", b"{ ", 1).replace(b"2336412f37fake", b"2336412f38fake")
    altered = each.request.but(body=body)
    assert code(judge(preset.scheme, each.secrets, altered, each.url)) in ("signature_mismatch", "body_altered")


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_another_method_is_no_handshake(each: Case) -> None:
    preset = preset_of(each.preset, each.options)
    for method in {"POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "get"} - methods_of(preset.handshakes):
        assert asked(preset, each.request.but(method=method), each.secrets) == (None, None)


def test_samples_are_deliveries_unless_they_are_handshakes() -> None:
    asking: set[tuple[str, str]] = set()
    for name, preset in load_presets().items():
        for sample in preset.samples:
            request = sample.request("/in/demo", now_s=NOW, delivery_id="01ARZ3NDEKTSV4RRFFQ69G5FAV")
            if asked(preset, request, ["secret"]) != (None, None):
                asking.add((name, sample.event))
    assert ("slack", "url_verification") in asking
    assert all(re.search("(?i)verif|valid|challenge|ping|sync|confirm|receive", event) for _, event in asking)


def test_only_presets_that_need_it_take_other_methods_than_post() -> None:
    others = {name: methods_of(preset.handshakes) - {"POST"} for name, preset in load_presets().items()}
    known = {each.preset: methods_of(preset_of(each.preset, each.options).handshakes) - {"POST"} for each in CASES}
    assert {name: methods for name, methods in others.items() if methods} == {k: v for k, v in known.items() if v}


def test_every_code_that_a_handshake_is_refused_with_is_known() -> None:
    assert [REJECTIONS[name][0] for name in ("handshake_refused", "verify_token_mismatch", "pairing_closed")] == [
        400,
        403,
        403,
    ]
    assert (pairing_closed("asana").status, "relay secrets open asana" in pairing_closed("asana").detail) == (403, True)
    assert "asana" not in pairing_closed("asana").message


# ── deliveries that look like handshakes ──


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("slack", b'{"type":"event_callback","challenge":"x"}'),
        ("slack", b'{"type":"url_verification"}'),
        ("slack", b'{"type":"url_verification","challenge":{"a":1}}'),
        ("slack", b'{"event":{"type":"url_verification"},"challenge":"x"}'),
        ("slack", b"type=url_verification&challenge=x"),
        ("slack", b""),
        ("slack", b"[" * 100_000),
        ("discord", b'{"version":1,"type":1,"event":{"type":"APPLICATION_AUTHORIZED"}}'),
        ("discord", b'{"version":1,"type":1,"event":{"odd":"\\ud800"}}'),
        ("discord", b'{"type":2,"data":{"name":"x"}}'),
        ("discord", b'{"type":"x"}'),
        ("line", b'{"events":[{"type":"message"}]}'),
        ("line", b'{"events":{}}'),
        ("line", b'{"events":[\n{"type":"message","text":"\\ud800"}]}'),
        ("line", b"{}"),
        ("xero", b'{"events":[{"resourceUrl":"x"}]}'),
        ("xero", b'{"events":"[]"}'),
        ("zoom", b'{"event":"meeting.started","payload":{"plainToken":"x"}}'),
        ("zoom", b'{"event":"endpoint.url_validation","payload":{}}'),
        ("sns", b'{"Type":"Notification","SubscribeURL":"https://sns.us-east-1.amazonaws.com/"}'),
        ("sns", b'{"Type":"UnsubscribeConfirmation","SubscribeURL":"https://sns.us-east-1.amazonaws.com/"}'),
        ("front_app", b'{"type":"sync"}'),
        ("twitch", b'{"challenge":"x"}'),
    ],
)
def test_what_is_signed_and_no_handshake_is_a_delivery(name: str, body: bytes) -> None:
    assert signed(name, body, ["secret"]) == "delivery"


@pytest.mark.parametrize(
    ("name", "headers", "body"),
    [
        ("woocommerce", {**FORM, "X-WC-Webhook-Topic": "a"}, b"webhook_id=1"),
        ("asana", {"X-Hook-Signature": "00", "X-Hook-Secret": "a"}, b"{}"),
        ("asana", {}, b'{"events":[]}'),
        ("asana", {"X-Hook-Secret": ""}, b"{}"),
        ("notion", {}, b'{"type":"page.created","verification_token":"x"}'),
        ("notion", {}, b'{"verification_token":"x","entity":{"id":"1"}}'),
        ("notion", {}, b'{"verification_token":["x"]}'),
        ("monday", {}, b'{"challenge":"x","event":{"type":"update_column_value"}}'),
        ("monday", {}, b'{"event":{"challenge":"x"}}'),
        ("bitbucket_server", {"X-Event-Key": "repo:refs_changed"}, b'{"test":true}'),
        ("mandrill", FORM, b"mandrill_events=[{}]"),
        ("mandrill", {"Content-Type": "application/json"}, b"mandrill_events=[]"),
        ("woocommerce", {"Content-Type": "application/json"}, b"webhook_id=1"),
        ("monday", {}, b'{"challenge":"x","long":"' + b"x" * BODY_BYTES_MAX + b'"}'),
    ],
)
def test_what_is_not_signed_and_no_handshake_is_left_to_verification(
    name: str, headers: Mapping[str, str], body: bytes
) -> None:
    assert unsigned(name, request_to(URL, headers, body)) == "delivery"


def test_null_is_nothing_and_a_byte_order_mark_is_read_over() -> None:
    assert unsigned("monday", request_to(URL, {}, b'{"challenge":"x","event":null}')) == '200 {"challenge":"x"}'
    assert signed("line", b'\xef\xbb\xbf{"events":[ ]}') == "200"


# ── verify tokens ──

META = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="


class TestMeta:
    def test_the_option_is_the_token_and_the_secret_is_none_then(self) -> None:
        assert unsigned("meta", getting(META + "right"), ["app-secret"], verify_token="right") == "200 1158201444"
        refused = unsigned("meta", getting(META + "app-secret"), ["app-secret"], verify_token="right")
        assert refused == "verify_token_mismatch"

    def test_without_the_option_any_secret_is(self) -> None:
        assert unsigned("meta", getting(META + "two"), ["one", "two"]) == "200 1158201444"
        assert unsigned("meta", getting(META + "two"), []) == "verify_token_mismatch"

    @pytest.mark.parametrize("token", ["", "wrong", "on", "onee", "ONE", "one%00", "%ff%fe", "one&hub.verify_token=x"])
    def test_a_wrong_one_is_refused(self, token: str) -> None:
        assert unsigned("meta", getting(META + token), ["one"]) == "verify_token_mismatch"

    @pytest.mark.parametrize("query", ["", "hub.mode=subscribe", META.replace("subscribe", "unsubscribe") + "one"])
    def test_other_requests_are_none(self, query: str) -> None:
        assert unsigned("meta", getting(query), ["one"]) == "delivery"

    def test_neither_answer_nor_refusal_holds_the_token(self) -> None:
        refused = asked(preset_of("meta", {"verify_token": "the-token"}), getting(META + "wrong"), ["the-secret"])[0]
        assert isinstance(refused, Rejected)
        assert not any(word in f"{refused}" for word in ("the-token", "the-secret", "wrong"))


# ── echoes ──


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("%3Cscript%3E&x=1", "200 <script>"),
        ("a" * 4096, "200 " + "a" * 4096),
        ("a" * 4097, "handshake_refused"),
        ("a%0d%0aSet-Cookie:%20b", "handshake_refused"),
        ("a%00", "handshake_refused"),
        ("a%7f", "handshake_refused"),
        ("a%c2%85", "handshake_refused"),
        ("%ff", "handshake_refused"),
        ("%c3%a9", "200 é"),
        ("one&challenge=two", "delivery"),
        ("one&challenge=one", "200 one"),
        ("", "delivery"),
    ],
)
def test_what_may_be_echoed(text: str, outcome: str) -> None:
    assert unsigned("dropbox", getting(f"challenge={text}")) == outcome
    answer = asked(preset_of("dropbox"), getting(f"challenge={text}"))[0]
    if isinstance(answer, HandshakeAnswer):
        assert answer.headers == {"Content-Type": "text/plain", "X-Content-Type-Options": "nosniff"}


def test_graphs_token_is_decoded_once_and_harmless_as_html() -> None:
    token = quote('<b onload="x">\'&%3c', safe="")
    request = request_to(f"{URL}?validationToken={token}", {}, b"")
    assert unsigned("msgraph_clientstate", request) == "200 &lt;b onload=&quot;x&quot;&gt;&#x27;&amp;%3c"


@pytest.mark.parametrize("text", ['"},"x":{"a":"', "\\", "\\u0022", "</script>", "é😀", "{digest}", "{json:challenge}"])
def test_no_echo_breaks_out_of_json(text: str) -> None:
    request = request_to(URL, {}, json.dumps({"challenge": text}).encode())
    answer = asked(preset_of("monday"), request)[0]
    assert isinstance(answer, HandshakeAnswer)
    assert json.loads(answer.body) == {"challenge": text}
    assert answer.headers["Content-Type"] == "application/json"


def test_a_signed_challenge_that_cannot_be_echoed_is_refused_and_no_delivery() -> None:
    body = json.dumps({"type": "url_verification", "challenge": "a\nb"}).encode()
    assert signed("slack", body) == "handshake_refused"
    assert signed("slack", b'{"type":"url_verification","challenge":"\\ud800"}') == "handshake_refused"
    assert signed("slack", b'{"type":"url_verification","challenge":7}') == "200 7"


def test_a_refusal_names_the_place_and_not_what_stands_there() -> None:
    refused = asked(preset_of("dropbox"), getting("challenge=hello%00"))[0]
    assert isinstance(refused, Rejected)
    assert refused.detail == "challenge: query challenge holds control characters"
    assert "hello" not in f"{refused}"


# ── proofs of the secret ──


@pytest.mark.parametrize("token", ["challenge_string", "9b4507b3-9040-4669-9ca3-6b94edb50553", "YWJj+/A=="])
def test_x_gets_its_proof(token: str) -> None:
    digest = base64.b64encode(hmac.digest(b"key", token.encode(), "sha256")).decode()
    answer = unsigned("x_twitter", getting(f"crc_token={quote(token)}"), ["key"])
    assert json.loads(answer.removeprefix("200 ")) == {"response_token": f"sha256={digest}"}


@pytest.mark.parametrize("token", ['{"for":1}', "[]", '"a"', "a=b", "a&b", " ", "a b", "a" * 300, "é"])
def test_x_has_no_body_signed_for_a_stranger(token: str) -> None:
    """The proof is made with the key and the hash that sign bodies: it must not be one."""
    assert unsigned("x_twitter", getting(f"crc_token={quote(token)}"), ["key"]) == "handshake_refused"


@pytest.mark.parametrize("challenge", ["PHhtbC8+Cg==", "0" * 33, "0" * 19, "A" * 20, "0" * 20 + "%0a", "g" * 20])
def test_braintree_has_no_payload_signed_for_a_stranger(challenge: str) -> None:
    refused = unsigned("braintree", getting(f"bt_challenge={challenge}"), ["private"], public_key="public")
    assert refused == "handshake_refused"


def test_no_proof_without_a_secret() -> None:
    assert unsigned("x_twitter", getting("crc_token=abc"), []) == "key_unavailable"


def test_the_secret_that_signed_answers_while_secrets_are_changed() -> None:
    zoom = case("zoom")
    preset, old = preset_of("zoom"), zoom.secrets[0]
    for secrets in ([old], ["new", old], [old, "new"], ["new", "newer", old]):
        answer = asked(preset, zoom.request, secrets)[1]
        assert isinstance(answer, HandshakeAnswer)
        assert answer.body == zoom.answer_body


# ── secrets that come along ──


def test_a_secret_that_is_known_is_answered_and_not_kept_again() -> None:
    asana = case("asana")
    for known in ([str(asana.keeps)], ["other", str(asana.keeps)]):
        answer = asked(preset_of("asana"), asana.request, known)[0]
        assert isinstance(answer, HandshakeAnswer)
        assert (answer.keeps, answer.headers["X-Hook-Secret"]) == (None, asana.keeps)
    another = asked(preset_of("asana"), asana.request, ["other"])[0]
    assert isinstance(another, HandshakeAnswer)
    assert another.keeps == asana.keeps


@pytest.mark.parametrize("secret", ["a b", "é", "a" * 1025, "a\x00b", "a\tb"])
def test_what_is_no_secret_is_not_kept(secret: str) -> None:
    assert unsigned("asana", request_to(URL, {"X-Hook-Secret": secret}, b"{}")) == "handshake_refused"
    body = json.dumps({"verification_token": secret}).encode()
    assert unsigned("notion", request_to(URL, {}, body)) == "handshake_refused"


def test_two_secrets_at_once_are_none() -> None:
    request = request_to(URL, [("X-Hook-Secret", "one"), ("X-Hook-Secret", "two")], b"{}")
    assert unsigned("asana", request) == "delivery"


def test_only_presets_whose_secret_comes_along_do_without_one() -> None:
    assert {name for name, preset in load_presets().items() if preset.keeps_secrets} == {"asana", "notion"}
    assert load_preset("asana").secret_optional
    assert load_preset("notion").secret_optional


# ── URLs to visit ──


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/?Action=ConfirmSubscription",
        "http://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=1",
        "https://sns.us-east-1.amazonaws.com.evil.example/?Action=ConfirmSubscription",
        "https://evil.example/sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://user@sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com@evil.example/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com:8443/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com/?Action=DeleteTopic",
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscriptionX",
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription\nHost: evil",
        "https://s3.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.evil.example/.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=" + "1" * 5000,
    ],
)
def test_no_url_but_a_confirmation_at_sns_is_visited(url: str) -> None:
    body = json.dumps({"Type": "SubscriptionConfirmation", "SubscribeURL": url}).encode()
    assert signed("sns", body) == "handshake_refused"


# ── whatever comes ──

TEXT = st.text(max_size=40) | st.sampled_from(["url_verification", "[]", "subscribe", "challenge", "\ud800", "1"])
LEAVES = st.none() | st.booleans() | st.integers() | TEXT
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
NAMES = st.sampled_from(["type", "challenge", "event", "events", "verification_token", "SubscribeURL", "Type"])
BODIES = st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=5).map(lambda table: json.dumps(table).encode())
HEADER_NAMES = st.sampled_from(["x-hook-secret", "x-front-challenge", "content-type", "x-okta-verification-challenge"])


@pytest.mark.parametrize("name", sorted({each.preset for each in CASES}))
@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["POST", "GET", "HEAD", "X"]),
    query=st.text(max_size=60) | st.sampled_from(["challenge=%ff", META, "crc_token=%00", "validationToken=<"]),
    headers=st.lists(st.tuples(HEADER_NAMES.map(str.encode), st.binary(max_size=40)), max_size=4),
    body=st.binary(max_size=60) | BODIES,
    secrets=st.lists(st.text(max_size=10), max_size=2),
)
def test_no_bytes_make_it_raise_or_leave_its_bounds(
    name: str, method: str, query: str, headers: list[tuple[bytes, bytes]], body: bytes, secrets: list[str]
) -> None:
    request = Request(method, "/in/demo", query, tuple(headers), body)
    each = next(each for each in CASES if each.preset == name)
    for answer in asked(preset_of(name, each.options), request, secrets):
        assert answer is None or isinstance(answer, HandshakeAnswer | Rejected)
        if isinstance(answer, HandshakeAnswer):
            assert len(answer.body) < 50_000
            assert all(value.isascii() and value.isprintable() for value in answer.headers.values())


# ── handshakes of a preset that is not shipped ──

ACME = """
title = "Acme"
docs_url = "https://acme.example"
paste = "here"
secret_form = "any"
[scheme]
kind = "none"
[[handshakes]]
name = "hello"
"""


def test_smartsheets_handshake_is_some_lines_of_toml(tmp_path: Path) -> None:
    """An echo in a header and in JSON, with a value that is no string."""
    place = "header:smartsheet-hook-challenge"
    text = f"""signed = false
present = ["{place}"]
headers = {{ Smartsheet-Hook-Response = "{{{place}}}" }}
json = {{ smartsheetHookResponse = "{{{place}}}", version = 2, fine = true }}
"""
    (tmp_path / "acme.toml").write_text(ACME + text, "utf-8")
    preset = load_presets(tmp_path)["acme"]
    challenge = "7aca7e66-25bd-4c98-9ce8-5a5ea1ad8aef"
    answer = asked(preset, request_to(URL, {"Smartsheet-Hook-Challenge": challenge}, b"{}"))[0]
    assert isinstance(answer, HandshakeAnswer)
    assert answer.body == b'{"smartsheetHookResponse":"%s","version":2,"fine":true}' % challenge.encode()
    assert answer.headers["Smartsheet-Hook-Response"] == challenge


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("", "when", "is required for POST"),
        ('when = { "json:type" = 7 }', "when.json:type", "must be a string"),
        ('when = { "jsn:type" = "x" }', "when", "is no place"),
        ('present = ["query:"]', "present", "names nothing"),
        ('present = ["body"]\nempty = ["query:x"]', "empty", "must be places of JSON"),
        ('method = "PUT"', "method", "'PUT' is not known"),
        ('method = "GET"\nstatus = 302', "status", "from 200 to 299"),
        ('method = "GET"\nstatus = "200"', "status", "an HTTP status"),
        ('method = "GET"\nsigned = "no"', "signed", "true or false"),
        ('method = "GET"\nbody = "{challenge}"', "body", "there is no value"),
        ('method = "GET"\nbody = "a"\njson = { a = "b" }', "json", "exclude each other"),
        ('method = "GET"\njson = { a = [1] }', "json.a", "must be a string"),
        ('method = "GET"\njson = { a = "{" }', "json.a", "without its partner"),
        ('method = "HEAD"\nbody = "a"', "body", "has no body"),
        ('method = "GET"\nbody = "a"\nheaders = { content-type = "text/html" }', "headers", "leave it out"),
        ('method = "GET"\nheaders = { "a b" = "c" }', "headers", "is no header's name"),
        ('method = "GET"\nescape = "html"', "escape", "goes with body"),
        ('method = "GET"\nescape = "xml"\nbody = "a"', "escape", "'xml' is not known"),
        ('method = "GET"\nallow = { "query:a" = "(" }', "allow.query:a", "is not a regular expression"),
        ('method = "GET"\ntoken = { place = "query:a", option = "b" }', "token.option", "there is no [options.b]"),
        ('method = "GET"\nkeeps = "query:a"', "keeps", "needs signed = false"),
        ('method = "GET"\nconfirms = "query:a"', "confirms", "needs signed = true, and a pattern"),
        ('method = "GET"\nbdy = "a"', "bdy", "did you mean 'body'?"),
        (
            'method = "GET"\nsigned = false\n[handshakes.values.d]\nhmac = "sha256"\nencoding = "hex"\n'
            'content = "{query:a}"',
            "values.d.content",
            "allow must say",
        ),
        ('method = "GET"\n[handshakes.values.d]\nhmac = "md5"', "values.d.hmac", "'md5' is not known"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path: Path, text: str, key: str, words: str) -> None:
    (tmp_path / "acme.toml").write_text(ACME + text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_presets(tmp_path)
    assert caught.value.file == str(tmp_path / "acme.toml")
    assert caught.value.key == f"handshakes[0].{key}"
    assert words in caught.value.message
