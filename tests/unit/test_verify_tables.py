"""Mistakes in the tables that describe schemes: each is refused, naming the key and the remedy."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

import pytest

from relay.errors import ConfigError
from relay.presets import load_presets, preset_for
from relay.schemes.reading import read_option, read_scheme
from relay.schemes.tables import Table

MAC = """
kind = "mac"
algorithm = "sha256"
encoding = "hex"
content = "{body}"
"""
ASYMMETRIC = """
kind = "asymmetric"
algorithm = "ed25519"
encoding = "hex"
content = "{body}"
signature = { from = "header:x-sig" }
"""
JWT = """
kind = "jwt"
token = { from = "header:x-token" }
"""
HS = JWT + 'algorithms = ["HS256"]\n'


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ('kind = "rsa"', "kind", "'rsa' is not known"),
        (MAC + 'signature = { from = "header:x-1", numbered_to = 101 }', "signature.numbered_to", "between 1 and 100"),
        (MAC + 'signature = { from = "header:x-1", numbered_to = 0 }', "signature.numbered_to", "between 1 and 100"),
        (MAC + 'signature = { from = "header:x", numbered_to = 2 }', "signature.numbered_to", "ends with 1"),
        (MAC + "signature = { from = 'header:x', groups = '(a)' }", "signature.groups", "must have no group"),
        (MAC + "signature = { from = 'header:x', groups = '(' }", "signature.groups", "is not a regular expression"),
        (MAC + "signature = { from = 'header:x', pattern = 'a' }", "signature.pattern", "must have exactly one group"),
        (MAC.replace("mac", "hash") + "signature = { from = 'header:x' }", "content", "must hold {secret}"),
        ('kind = "token"\ntoken = { from = "json:a", each = "header:a" }', "token.each", "such as json:value"),
        ('kind = "token"\ntoken = { from = "json:a", each = "json:a" }', "token.member", "is required"),
        ('kind = "token"\ntoken = { from = "json:a", member = "b" }', "token.member", "there is no key 'member'"),
        (ASYMMETRIC, "key.form", "is required"),
        (ASYMMETRIC + 'key = { form = "der" }', "key.form", "'der' is not known"),
        (ASYMMETRIC.replace("ed25519", "ed448") + 'key = { form = "pem" }', "algorithm", "it can be ed25519"),
        (ASYMMETRIC + 'key = { form = "certificate", certificate = "header:u" }', "key.allow", "is required"),
        (ASYMMETRIC + 'key = { form = "certificate", certificate = "u", allow = "h" }', "key.certificate", "no place"),
        (ASYMMETRIC + 'key = { form = "pem", allow = "h" }', "key.allow", "there is no key"),
        (JWT, "algorithms", "must be a list of some of HS256"),
        (JWT + 'algorithms = ["HS256", "none"]', "algorithms", "must be a list of some of HS256"),
        ('kind = "jwt"\nalgorithms = ["HS256"]', "token.from", "is required"),
        (HS + 'claims = { aud = "{option}" }', "claims.aud", "there is no value 'option'"),
        (HS + "claims = { aud = 7 }", "claims.aud", "must be a text, true or false"),
        (HS + 'claims = { aud = [""] }', "claims.aud", "must be a text, true or false"),
        (HS + 'optional_claims = ["aud"]', "optional_claims", "'aud' is none of the claims"),
        (HS + 'body_hash = { claim = "h" }', "body_hash.encoding", "is required"),
        (HS + 'url_hash = { encoding = "hex" }', "url_hash.claim", "is required"),
        (HS + 'keys = { url = "http://keys.example.test" }', "keys.urls", "must be https:// URLs"),
        (HS + "keys = {}", "keys.url", "is required"),
        (HS + 'keys = { url = "https://x", post = { a = "{t}" } }', "keys.post.a", "there is no value 't'"),
        (HS + "max_age_seconds = -1", "max_age_seconds", "from 0 up"),
    ],
)
def test_a_mistake_is_named(text: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_scheme(Table(tomllib.loads(text), None), lambda name: pytest.fail(name))
    assert caught.value.key == key
    assert message in caught.value.message


def given(provider: str, keys: Mapping[str, object]) -> Mapping[str, object]:
    return preset_for(provider, keys, file=None, key="sources.x").scheme.options


def test_options() -> None:
    assert given("plaid", {"client_id": "a"}) == {"client_id": "a", "environment": "production"}
    assert given("plaid", {"environment": "sandbox"}) == {"environment": "sandbox"}
    assert given("paypal", {"certs": {"https://x": "PEM"}}) == {"certs": {"https://x": "PEM"}}
    assert given("livekit", {}) == {}


@pytest.mark.parametrize(
    ("provider", "keys", "key", "message"),
    [
        ("plaid", {"environment": "development"}, "environment", "it can be production, sandbox"),
        ("plaid", {"client": "a"}, "client", "did you mean"),
        ("google_pubsub_push", {"audience": "x"}, "email", "is required"),
        ("google_pubsub_push", {"audience": "x", "email": " "}, "email", "is empty"),
        ("paypal", {"certs": "PEM"}, "certs", "must be a table of strings"),
        ("paypal", {"certs": {"https://x": 7}}, "certs.https://x", "must be a string"),
        ("discord", {"tolerance_seconds": 5}, "tolerance_seconds", "signs no time"),
        ("netlify", {"tolerance_seconds": 5}, "tolerance_seconds", "signs no time"),
    ],
)
def test_a_mistake_in_an_option_is_named(provider: str, keys: dict[str, object], key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        given(provider, keys)
    assert caught.value.key == f"sources.x.scheme.{key}"
    assert message in caught.value.message


def test_an_option_is_described_completely() -> None:
    with pytest.raises(ConfigError, match="about"):
        read_option("x", Table({}, None, "options.x"))
    with pytest.raises(ConfigError, match="there is no key"):
        read_option("x", Table({"about": "a", "choice": []}, None, "options.x"))


def test_the_keys_urls_are_what_the_option_chooses_among() -> None:
    plaid = load_presets()["plaid"]
    (environment,) = [option for option in plaid.options if option.name == "environment"]
    document = plaid.scheme.document  # type: ignore[attr-defined]  # it is a Jwt
    assert environment.choices == tuple(name for name, _ in document.urls)
