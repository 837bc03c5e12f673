"""Sources described in relay.toml: provider = "hmac", "token", "none", and what named presets let one set."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest

from relay.errors import ConfigError
from relay.models import Request
from relay.presets import preset_for
from relay.schemes.places import Reader, parse_place
from relay.verify import Scheme, Verified, sign
from tests.support.requests import NOW, URL, code, judge, request_to

BODY = b'{"id":"e1","type":"thing.made"}'
FILE = Path("relay.toml")


def scheme(provider: str, **keys: Any) -> Scheme:
    return preset_for(provider, keys, file=FILE, key="sources.acme").scheme


def mac(key: bytes, content: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.digest(key, content, algorithm)


def sent(name: str, value: str | bytes, **more: str) -> Request:
    return request_to(URL, [(name, value), *((k.replace("_", "-"), v) for k, v in more.items())], BODY)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize(
    ("encoding", "write"),
    [
        ("hex", lambda digest: digest.hex()),
        ("hex", lambda digest: digest.hex().upper()),
        ("base64", lambda digest: base64.b64encode(digest).decode()),
        ("base64url", lambda digest: base64.urlsafe_b64encode(digest).decode()),
        ("base64url", lambda digest: base64.urlsafe_b64encode(digest).decode().rstrip("=")),
    ],
)
def test_algorithms_and_encodings(algorithm: str, encoding: str, write: Any) -> None:
    acme = scheme("hmac", header="X-Acme-Sig", algorithm=algorithm, encoding=encoding, prefix="sig=")
    good = sent("x-acme-sig", "sig=" + write(mac(b"s", BODY, algorithm)))
    assert code(judge(acme, ["s"], good)) == "verified"
    assert code(judge(acme, ["t"], good)) == "signature_mismatch"
    unprefixed = sent("x-acme-sig", write(mac(b"s", BODY, algorithm)))
    assert code(judge(acme, ["s"], unprefixed)) == "signature_mismatch"


def test_defaults_are_sha256_hex_of_the_body() -> None:
    assert code(judge(scheme("hmac", header="x-s"), ["s"], sent("X-S", mac(b"s", BODY).hex()))) == "verified"


@pytest.mark.parametrize(
    ("encoding", "secret", "key"),
    [
        ("utf8", "hé", "hé".encode()),
        ("hex", "00ff10", b"\x00\xff\x10"),
        ("base64", "AP8Q", b"\x00\xff\x10"),
        ("base64", "AP8=", b"\x00\xff"),
        ("base64", "AP8", b"\x00\xff"),
        ("base64", "whsec_AP8Q", b"\x00\xff\x10"),
    ],
)
def test_key_encodings(encoding: str, secret: str, key: bytes) -> None:
    acme = scheme("hmac", header="x-s", key_encoding=encoding, key_strip=["whsec_"])
    assert code(judge(acme, [secret], sent("X-S", mac(key, BODY).hex()))) == "verified"


class TestSignedTime:
    def test_in_its_own_header(self) -> None:
        acme = scheme("hmac", header="x-s", timestamp_header="X-T", content="v0:{t}:{body}")
        good = mac(b"s", f"v0:{NOW}:".encode() + BODY).hex()
        assert code(judge(acme, ["s"], sent("X-S", good, x_t=str(NOW)))) == "verified"
        assert code(judge(acme, ["s"], sent("X-S", good, x_t=str(NOW)), now=NOW + 301)) == "timestamp_stale"
        assert code(judge(acme, ["s"], sent("X-S", good, x_t=str(NOW)), now=NOW - 301)) == "timestamp_stale"
        assert code(judge(acme, ["s"], sent("X-S", good, x_t=str(NOW + 1)))) == "signature_mismatch"
        assert code(judge(acme, ["s"], sent("X-S", good))) == "signature_missing"
        assert code(judge(acme, ["s"], sent("X-S", good, x_t=""))) == "signature_missing"

    @pytest.mark.parametrize(
        ("unit", "text"),
        [("s", "1760000000"), ("ms", "1760000000000"), ("iso", "2025-10-09T08:53:20Z"), ("iso", "2025-10-09T08:53:20")],
    )
    def test_units(self, unit: str, text: str) -> None:
        keys = {"header": "x-s", "timestamp_header": "x-t", "timestamp_unit": unit, "content": "{t}.{body}"}
        acme = scheme("hmac", **keys, tolerance_seconds=10)
        good = sent("X-S", mac(b"s", text.encode() + b"." + BODY).hex(), x_t=text)
        assert code(judge(acme, ["s"], good, now=NOW + 10)) == "verified"
        assert code(judge(acme, ["s"], good, now=NOW + 11)) == "timestamp_stale"

    def test_in_the_signatures_header(self) -> None:
        keys = {"header": "x-s", "pattern": "v1=([0-9a-f]+)", "timestamp_pattern": r"t=(\d+)"}
        acme = scheme("hmac", **keys, content="{t}.{body}")
        good = mac(b"s", f"{NOW}.".encode() + BODY).hex()
        assert code(judge(acme, ["s"], sent("X-S", f"t={NOW},v1=00,v1={good}"))) == "verified"
        assert code(judge(acme, ["s"], sent("X-S", f"v1={good}"))) == "signature_missing"

    @pytest.mark.parametrize(
        ("pattern", "written"),
        [("v1=([0-9a-f]+)", "t=1760000000,v1="), (r"(?:^|,)\s*sig:([0-9a-f]+)", "t=1760000000,sig:")],
    )
    def test_we_write_what_the_patterns_find(self, pattern: str, written: str) -> None:
        keys = {"header": "x-s", "pattern": pattern, "timestamp_pattern": "t=([0-9]+)", "content": "{t}.{body}"}
        acme = scheme("hmac", **keys)
        request = sign(acme, "s", request_to(URL, {}, BODY), url=URL, now_s=1_760_000_000, delivery_id="d")
        assert (request.header("x-s") or "").startswith(written)
        assert code(judge(acme, ["s"], request, now=1_760_000_000)) == "verified"

    def test_other_things_signed(self) -> None:
        acme = scheme("hmac", header="x-s", content="{method}|{url}|{path}|{header:x-id}|{query:q}|{json:type}|{body}")
        content = b"POST|" + URL.encode() + b"?q=a+b|/in/demo|7|a b|thing.made|" + BODY
        headers = {"x-s": mac(b"s", content).hex(), "x-id": "7"}
        request = request_to(URL + "?q=a+b", headers, BODY)
        assert code(judge(acme, ["s"], request, URL + "?q=a+b")) == "verified"
        assert code(judge(acme, ["s"], request, URL + "?q=a+c")) == "signature_mismatch"


class TestToken:
    def test_in_a_header(self) -> None:
        acme = scheme("token", header="Authorization", prefix="Bearer ")
        assert code(judge(acme, ["old", "s3"], sent("authorization", "Bearer s3"))) == "verified"
        for wrong in ("s3", "bearer s3", "Bearer s3 x", "Bearer S3", "Bearer s"):
            assert code(judge(acme, ["s3"], sent("authorization", wrong))) == "signature_mismatch"
        assert code(judge(acme, ["s3"], sent("x-other", "s3"))) == "signature_missing"
        assert code(judge(acme, ["s3"], sent("authorization", "Bearer "))) == "signature_mismatch"

    def test_in_the_query(self) -> None:
        acme = scheme("token", query="key")
        for query, expected in {
            "key=s%2B3": "verified",
            "a=1&key=s%2B3": "verified",
            "key=s%2B3&key=s%2B3": "verified",
            "key=s+3": "signature_mismatch",
            "key=s%2B3&key=x": "signature_missing",
            "key=": "signature_missing",
            "KEY=s%2B3": "signature_missing",
            "": "signature_missing",
        }.items():
            assert code(judge(acme, ["s+3"], request_to(f"{URL}?{query}", {}, BODY))) == expected, query

    def test_basic(self) -> None:
        acme = scheme("token", basic=True)
        good = base64.b64encode(b"user:pa ss").decode()
        assert code(judge(acme, ["user:pa ss"], sent("Authorization", f"Basic {good}"))) == "verified"
        assert code(judge(acme, ["user:pa ss"], sent("Authorization", f"basic {good}"))) == "verified"
        for wrong in (good, "Basic user:pa ss", "Basic !!!", "Basic ", f"Bearer {good}", f"Basic {good} x"):
            assert code(judge(acme, ["user:pa ss"], sent("Authorization", wrong))) == "signature_mismatch"

    def test_a_secret_from_an_odd_environment(self) -> None:
        acme = scheme("token", header="x-t")
        assert code(judge(acme, ["\udcff"], sent("X-T", "x"))) == "signature_mismatch"


class TestDeliveryId:
    def key(self, acme: Scheme, *headers: tuple[str, str], secret: str = "s") -> str | None:
        request = request_to(URL, [("x-s", mac(b"s", BODY).hex()), ("x-t", "s"), *headers], BODY)
        answer = judge(acme, [secret], request)
        assert isinstance(answer, Verified)
        return answer.key

    @pytest.mark.parametrize(("provider", "header"), [("hmac", "x-s"), ("token", "x-t")])
    def test_the_only_guesses(self, provider: str, header: str) -> None:
        acme = scheme(provider, header=header)
        ids = [("X-Request-Id", "no"), ("X-GitHub-Delivery", "no"), ("Idempotency-Key", "b"), ("Webhook-Id", "a")]
        assert self.key(acme, *ids) == "a"
        assert self.key(acme, *ids[:3]) == "b"
        assert self.key(acme, *ids[:2]) is None

    def test_configured(self) -> None:
        assert (
            self.key(scheme("hmac", header="x-s", delivery_id="header:X-Mine"), ("x-mine", "7"), ("webhook-id", "a"))
            == "7"
        )
        assert self.key(scheme("hmac", header="x-s", delivery_id=["header:x-no", "json:id"])) == "e1"
        assert self.key(scheme("hmac", header="x-s", delivery_id="{json:type}/{json:id}")) == "thing.made/e1"
        assert self.key(scheme("hmac", header="x-s", delivery_id="{json:type}/{json:no}")) is None
        assert self.key(scheme("hmac", header="x-s", delivery_id=[]), ("webhook-id", "a")) is None
        assert self.key(scheme("hmac", header="x-s", delivery_id="body_sha256")) == hashlib.sha256(BODY).hexdigest()

    @pytest.mark.parametrize(
        ("body", "found"),
        [
            (b'{"id":"e1"}', b"e1"),
            (b' {"a":[{"id":"inner"}],"id":"e1"} ', b"e1"),
            (b'{"id":"e1","id":"last"}', b"last"),
            (b'{"i\\u0064":"e\\u0031"}', b"e1"),
            (b'{"id":-1.50e3}', b"-1.50e3"),
            (b'{"id":"e1","id":1e999}', b"1e999"),
            (b'{"a":"\\ud800","id":"e1"}', b"e1"),
            (b'{"id":"\\ud800"}', b"\xed\xa0\x80"),
            (b'\xef\xbb\xbf{"id":"e1"}', b"e1"),
            (b'{"a":NaN,"id":"e1"}', b"e1"),
            (b'{"a":"\xc3\xa9","id":"e1"}', b"e1"),
            (b'{"\xff":1,"id":"e1"}', None),
            (b'{"pad":"' + bytes(70_000).replace(b"\0", b"x") + b'","id":"e1"}', b"e1"),
            *[
                (odd, None)
                for odd in (
                    b"",
                    b"{}",
                    b"[]",
                    b'"id"',
                    b'{"id":null}',
                    b'{"id":""}',
                    b'{"id":{"id":"x"}}',
                    b'{"id":["x"]}',
                )
            ],
            *[(odd, None) for odd in (b'{"id":"e1"', b'{"id":"e1",}', b'{"id":"e1"}x', b'{"id":"\xff"}')],
            (b'{"a":' + b"[" * 100_000 + b',"id":"e1"}', None),
        ],
    )
    def test_a_member_of_the_body_is_the_same_the_quick_way(self, body: bytes, found: bytes | None) -> None:
        for name in ("id", '"'):
            reader = Reader.of(frozenset(), request_to(URL, [], body), URL, body)
            assert parse_place(f"json:{name}").read(reader) == reader.json((name,))
        assert parse_place("json:id").read(reader) == found

    def test_none_has_none_unless_told(self) -> None:
        assert self.key(scheme("none"), ("webhook-id", "a")) is None
        assert self.key(scheme("none", delivery_id="json:id")) == "e1"
        assert scheme("none").open
        assert not scheme("token", header="x-t").open

    def test_of_a_named_preset(self) -> None:
        own = scheme("github", delivery_id="json:id", event_type="json:type")
        request = sent("X-Hub-Signature-256", "sha256=" + mac(b"s", BODY).hex(), x_github_delivery="g")
        assert judge(own, ["s"], request) == Verified("e1", "thing.made")


@pytest.mark.parametrize(
    ("provider", "keys", "secret"),
    [
        ("hmac", {"header": "X-S", "prefix": "v=", "encoding": "base64url"}, "s"),
        ("hmac", {"header": "X-S", "timestamp_header": "X-T", "timestamp_unit": "ms", "content": "{t}{body}"}, "s"),
        ("hmac", {"header": "X-S", "timestamp_header": "X-T", "timestamp_unit": "iso", "content": "{t}{body}"}, "s"),
        ("hmac", {"header": "X-S", "delivery_id": "header:x-mine", "content": "{header:x-mine}{body}"}, "s"),
        ("token", {"header": "Authorization", "prefix": "Bearer "}, "{id}"),
        ("token", {"query": "the key"}, "a+b&c=é"),
        ("token", {"basic": True}, "user:pass"),
        ("none", {}, ""),
    ],
)
def test_what_we_sign_we_believe(provider: str, keys: dict[str, Any], secret: str) -> None:
    acme = scheme(provider, **keys)
    request = sign(acme, secret, request_to(URL, {}, BODY), url=URL, now_s=NOW + 0.5, delivery_id="d1")
    answer = judge(acme, [secret] if secret else [], request)
    assert isinstance(answer, Verified)
    assert answer.key == (None if provider == "none" else "d1")


@pytest.mark.parametrize(
    ("provider", "keys", "key", "words"),
    [
        ("hmac", {}, "header", "is required"),
        ("hmac", {"header": ""}, "header", "is empty"),
        ("hmac", {"header": 7}, "header", "must be a string"),
        ("hmac", {"header": "x y"}, "header", "is no header's name"),
        ("hmac", {"header": "x", "algoritm": "sha1"}, "algoritm", "did you mean 'algorithm'?"),
        ("hmac", {"header": "x", "algorithm": "md5"}, "algorithm", "'md5' is not known"),
        ("hmac", {"header": "x", "algorithm": "sha265"}, "algorithm", "did you mean 'sha256'?"),
        ("hmac", {"header": "x", "encoding": "base46"}, "encoding", "did you mean 'base64'?"),
        ("hmac", {"header": "x", "key_encoding": "utf-8"}, "key_encoding", "did you mean 'utf8'?"),
        ("hmac", {"header": "x", "content": "{bdy}"}, "content", "did you mean 'body'?"),
        ("hmac", {"header": "x", "content": "{t}.{body}"}, "content", "there is no value 't'"),
        ("hmac", {"header": "x", "content": "{body"}, "content", "a brace without its partner"),
        ("hmac", {"header": "x", "content": "{cookie:x}"}, "content", "is no place"),
        ("hmac", {"header": "x", "pattern": "("}, "pattern", "is not a regular expression"),
        ("hmac", {"header": "x", "pattern": "v1=.*"}, "pattern", "exactly one group"),
        ("hmac", {"header": "x", "prefix": "a", "pattern": "(.)"}, "pattern", "exclude each other"),
        ("hmac", {"header": "x", "timestamp_header": "t"}, "content", "the time is not signed"),
        ("hmac", {"header": "x", "tolerance_seconds": 5}, "tolerance_seconds", "needs timestamp_header"),
        (
            "hmac",
            {"header": "x", "timestamp_header": "t", "content": "{t}", "tolerance_seconds": -1},
            "tolerance_seconds",
            "from 0 up",
        ),
        ("hmac", {"header": "x", "tolerance_seconds": True}, "tolerance_seconds", "must be a number"),
        ("hmac", {"header": "x", "delivery_id": "x-id"}, "delivery_id", "is no place"),
        ("hmac", {"header": "x", "delivery_id": "header:"}, "delivery_id", "names nothing"),
        ("hmac", {"header": "x", "delivery_id": ["json:a", 7]}, "delivery_id", "a list of strings"),
        ("token", {}, "", "exactly one of header, query, basic"),
        ("token", {"header": "a", "query": "b"}, "", "exactly one of header, query, basic"),
        ("token", {"query": "b", "prefix": "x"}, "prefix", "goes with header"),
        ("token", {"header": "a", "basic": "yes"}, "basic", "true or false"),
        ("none", {"header": "a"}, "header", "there is no key"),
        ("github", {"header": "a"}, "header", "there is no key"),
        ("github", {"deliveryid": "a"}, "deliveryid", "did you mean 'delivery_id'?"),
        ("github", {"tolerance_seconds": 5}, "tolerance_seconds", "signs no time"),
        ("stripe", {"tolerance_seconds": "5"}, "tolerance_seconds", "must be a number"),
    ],
)
def test_mistakes_name_file_key_and_remedy(provider: str, keys: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scheme(provider, **keys)
    assert caught.value.file == "relay.toml"
    assert caught.value.key == ".".join(part for part in ("sources.acme.scheme", key) if part)
    assert words in caught.value.message
