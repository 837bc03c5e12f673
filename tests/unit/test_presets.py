"""The shipped presets as data, the mistakes that one can make in a file, secrets' forms."""

from __future__ import annotations

import base64
import hmac
import json
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest

from relay.errors import ConfigError
from relay.presets import FOLDER, Preset, load_presets, preset_for, secret_problems
from relay.verify import Verified
from tests.support.requests import NOW, URL, judge, request_to

PRESETS = load_presets()
#: Nothing in their requests tells two occurrences apart and is the same on a retry, or nothing says what happened.
WITHOUT_DELIVERY_ID = {
    "acuity",
    "buildkite",
    "doppler",
    "dropbox",
    "grafana",
    "hubspot_v2",
    "huggingface",
    "mailerlite",
    "none",
    "plaid",
    "webex",
}
WITHOUT_EVENT_TYPE = {
    "airtable",
    "braintree",
    "dropbox",
    "formstack",
    "hmac",
    "hubspot_v2",
    "mandrill",
    "mautic",
    "none",
    "sendgrid",
    "telegram",
    "token",
    "x_twitter",
}


def test_all_are_there() -> None:
    """140 schemes, Smartsheet for its handshake, and the four that choose or are described in relay.toml."""
    assert len(PRESETS) == 145
    assert {"gitlab", "hmac", "token", "none"} <= set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_complete(preset: Preset) -> None:
    assert preset.docs_url.startswith("https://")
    assert preset.title
    assert preset.paste
    assert preset.secret_form
    assert preset.expects
    assert preset.traps
    assert preset.samples
    assert bool(preset.scheme.delivery_id) == (preset.name not in WITHOUT_DELIVERY_ID)
    assert bool(preset.scheme.event_type) == (preset.name not in WITHOUT_EVENT_TYPE)
    assert len({sample.event for sample in preset.samples}) == len(preset.samples)
    assert preset.scheme.open == (preset.name == "none")


def test_samples_are_new_each_time() -> None:
    sample = PRESETS["stripe"].sample("invoice.paid")
    one = sample.request("/in/stripe", now_s=NOW + 0.7, delivery_id="A")
    event = json.loads(one.body)
    assert (event["id"], event["created"], event["type"]) == ("evt_A", NOW, "invoice.paid")
    assert (one.method, one.path, one.header("content-type")) == ("POST", "/in/stripe", "application/json")
    assert sample.request("/in/stripe", now_s=NOW, delivery_id="B").body != one.body
    assert PRESETS["github"].sample().event == "push"
    assert {"push", "pull_request", "issues", "ping"} <= {sample.event for sample in PRESETS["github"].samples}
    with pytest.raises(ConfigError, match="did you mean 'issues'"):
        PRESETS["github"].sample("isues")


def test_an_unknown_provider_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'stripe'") as caught:
        preset_for("strpie", {}, file=Path("relay.toml"), key="sources.pay")
    assert (caught.value.file, caught.value.key) == ("relay.toml", "sources.pay.provider")
    for odd in ("", "../config", "STRIPE", "stripe.toml"):
        with pytest.raises(ConfigError):
            preset_for(odd, {}, file=None, key="sources.pay")


MISTAKES = [
    ("stripe", 'kind = "mac"', 'kind = "mack"', "scheme.kind", "did you mean 'mac'?"),
    ("stripe", 'kind = "mac"', 'kind = "oauth"', "scheme.kind", "'oauth' is not known"),
    ("stripe", 'kind = "mac"\n', "", "scheme.kind", "is required"),
    ("stripe", 'algorithm = "sha256"', 'algorithm = "md5"', "scheme.algorithm", "'md5' is not known"),
    ("stripe", 'algorithm = "sha256"', 'algoritm = "sha256"', "scheme.algorithm", "is required"),
    ("stripe", 'encoding = "hex"', 'encoding = "hex"\nencodingg = "x"', "scheme.encodingg", "did you mean 'encoding'?"),
    ("stripe", 'content = "{t}.{body}"', 'content = "{time}.{body}"', "scheme.content", "there is no value 'time'"),
    ("stripe", "'(?:^|,)\\s*v1=([^,\\s]+)'", "'v1=('", "scheme.signature.pattern", "is not a regular expression"),
    ("stripe", "'(?:^|,)\\s*t=(\\d+)'", "'t=\\d+'", "scheme.values.t.pattern", "exactly one group"),
    ("stripe", 'from = "header:stripe-signature"', 'from = "hedder:x"', "scheme.signature.from", "is no place"),
    ("stripe", 'from = "value:t"', 'from = "value:u"', "scheme.timestamp.from", "there is no value 'u'"),
    ("stripe", 'unit = "s"', 'unit = "sec"', "scheme.timestamp.unit", "is not known"),
    (
        "stripe",
        "tolerance_seconds = 300",
        'tolerance_seconds = "300"',
        "scheme.timestamp.tolerance_seconds",
        "a number",
    ),
    ("stripe", 'delivery_id = "json:id"', "delivery_id = 7", "scheme.delivery_id", "a string or a list"),
    ("stripe", 'title = "Stripe"', 'titel = "Stripe"', "title", "is required"),
    ("twilio", 'methods = ["GET"]', 'methods = ["HEAD"]', "methods", "some of GET, PUT"),
    ("stripe", 'title = "Stripe"', 'title = "Stripe"\ncolour = "blue"', "colour", "there is no key 'colour'"),
    ("stripe", "[[samples]]", "[[sample]]", "sample", "did you mean 'samples'?"),
    ("stripe", "'^(sk|rk|pk)_(test|live)_'", "'('", "secret_mistakes", "is not a regular expression"),
    ("stripe", '{"id":"evt_@id@"', '"id":"evt_@id@"', "samples[0].body", "Extra data"),
    ("slack", '"url_verification" }', "7 }", "handshakes[0].when.json:type", "must be a string"),
    ("slack", 'body = "{json:challenge}"', 'body = "{challenge}"', "handshakes[0].body", "there is no value"),
    ("twilio", 'name = "twilio"', 'name = "twillio"', "scheme.name", "did you mean 'twilio'?"),
    ("gitlab", 'preset = "gitlab_token"', 'preset = "gitlab"', "scheme.choices[1].preset", "no other preset"),
    ("gitlab", '\n[[scheme.choices]]\npreset = "gitlab_token"', "", "scheme.choices", "must take every secret"),
    ("gitlab_token", 'from = "header:x-gitlab-token"', "", "scheme.token.from", "is required"),
]


@pytest.mark.parametrize(("name", "old", "new", "key", "words"), MISTAKES, ids=lambda value: str(value)[:30])
def test_a_mistake_in_a_file_names_file_and_key(
    tmp_path: Path, name: str, old: str, new: str, key: str, words: str
) -> None:
    folder = tmp_path / "providers"
    shutil.copytree(FOLDER, folder)
    text = (folder / f"{name}.toml").read_text("utf-8")
    assert old in text
    (folder / f"{name}.toml").write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_presets(folder)
    assert caught.value.file == str(folder / f"{name}.toml")
    assert caught.value.key == key
    assert words in caught.value.message


def test_what_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text("title = ")
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'acme.toml'}: is not TOML")):
        load_presets(tmp_path)


WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.parametrize(
    ("name", "secrets", "words"),
    [
        ("stripe", [], "needs a secret"),
        ("github", [""], "secrets[0] is empty"),
        ("github", ["fine", "copied badly\n"], "secrets[1] begins or ends with white space"),
        ("stripe", ["sk_test_abc"], "is an API key"),
        ("stripe", ["rk_live_abc"], "is an API key"),
        ("github", ["ghp_abcdef"], "is an access token"),
        ("slack", ["xoxb-1-2"], "is an API token"),
        ("shopify", ["shpat_123"], "is an access token"),
        ("linear", ["lin_api_123"], "is an API key"),
        ("twilio", ["AC" + "0" * 32], "is a SID"),
        ("gitlab", ["glpat-123"], "is an access token"),
        ("gitlab", ["plain", "whsec_not base64"], "secrets[1] is not base64"),
        ("svix", ["whsec_!!!"], "is not base64"),
        ("svix", ["whsec_"], "is not base64"),
        ("clerk", ["sk_test_abcd"], "is an API key"),
        ("none", ["x"], "takes no secret"),
    ],
)
def test_secret_problems(name: str, secrets: list[str], words: str) -> None:
    problems = secret_problems(PRESETS[name], secrets)
    assert len(problems) == 1
    assert words in problems[0]
    assert not any(secret in problems[0] for secret in secrets if len(secret) > 6)


@pytest.mark.parametrize(
    ("name", "secrets"),
    [
        ("stripe", ["whsec_x", "anything"]),
        ("github", ["any text"]),
        ("gitlab", ["plain", WHSEC]),
        ("svix", [WHSEC, WHSEC.removeprefix("whsec_")]),
        ("twilio", ["12345"]),
        ("none", []),
    ],
)
def test_secrets_that_may_be_right(name: str, secrets: list[str]) -> None:
    assert secret_problems(PRESETS[name], secrets) == []


def test_a_preset_that_is_not_shipped_is_some_lines_of_toml(tmp_path: Path) -> None:
    """The format has room for what other providers need: a place in the query, a joined id, a key in hex."""
    (tmp_path / "acme.toml").write_text(
        """
title = "Acme"
docs_url = "https://acme.example/docs"
paste = "here"
secret_form = "hex"
[scheme]
kind = "mac"
algorithm = "sha512"
encoding = "base64"
content = "{method}{url_noquery}{t}{body}"
delivery_id = "{json:items.0.id}+{header:x-kind}"
[scheme.key]
encoding = "hex"
[scheme.signature]
from = "query:sig"
[scheme.values.t]
from = "json:at"
[scheme.timestamp]
from = "value:t"
unit = "ms"
tolerance_seconds = 5
""",
        "utf-8",
    )
    preset = load_presets(tmp_path)["acme"]
    body = b'{"items":[{"id":7}],"at":%d000}' % NOW
    digest = hmac.digest(b"\x01\x02", b"POST" + URL.encode() + b"%d000" % NOW + body, "sha512")
    url = f"{URL}?sig={quote(base64.b64encode(digest))}"
    answer = judge(preset.scheme, ["0102"], request_to(url, {"X-Kind": "k"}, body), url)
    assert answer == Verified("7+k", None)


def test_a_preset_of_ones_own_is_a_file_beside_the_configuration(tmp_path: Path) -> None:
    text = (FOLDER / "github.toml").read_text("utf-8").replace("x-hub-signature-256", "x-acme-signature")
    (tmp_path / "acme.toml").write_text(text, "utf-8")
    file = tmp_path / "relay.toml"
    preset = preset_for("acme.toml", {"delivery_id": "header:x-acme-id"}, file=file, key="sources.acme")
    assert (preset.name, preset.title) == ("acme", "GitHub")
    digest = hmac.new(b"secret", b"{}", "sha256").hexdigest()
    headers = {"X-Acme-Signature": f"sha256={digest}", "X-Acme-Id": "d1"}
    assert judge(preset.scheme, ["secret"], request_to(URL, headers, b"{}")) == Verified("d1", None)
    with pytest.raises(ConfigError, match=r"there is no file other\.toml") as caught:
        preset_for("other.toml", {}, file=file, key="sources.acme")
    assert (caught.value.file, caught.value.key) == (str(file), "sources.acme.provider")
    (tmp_path / "acme.toml").write_text(text.replace('kind = "mac"', 'kind = "mack"'), "utf-8")
    with pytest.raises(ConfigError, match="did you mean 'mac'") as caught:
        preset_for("acme.toml", {}, file=file, key="sources.acme")
    assert (caught.value.file, caught.value.key) == (str(tmp_path / "acme.toml"), "scheme.kind")
