"""`relay verify`: saved requests in every form, the steps, the hints, and files of vectors."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import signing
from tests.support.command import Ran, run
from tests.support.relay_process import write_config

NOW = 1_760_000_000
URL = "https://relay.example.test/in/stripe"
BODY = signing.json_body("evt_1").decode()
SECRET = "whsec_a-stripe-secret"


def row(**other: Any) -> dict[str, Any]:
    made = {
        "id": "stripe/one",
        "preset": "stripe",
        "secret": SECRET,
        "method": "POST",
        "url": URL,
        "headers": signing.stripe(BODY.encode(), secret=SECRET, at=NOW),
        "body": BODY,
        "body_encoding": "utf-8",
        "now": NOW,
        "expect": "valid",
    }
    return {**made, **other}


def save(folder: Path, value: Any, name: str = "saved.json") -> str:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), newline="")
    return name


def verify(folder: Path, *arguments: str, secret: str = SECRET) -> Ran:
    return run(folder, "verify", *arguments, "--provider", "stripe", "--secret", secret)


def test_a_genuine_request_and_its_steps(tmp_path: Path) -> None:
    ran = verify(tmp_path, save(tmp_path, row()))
    assert ran.code == 0, ran.out + ran.err
    assert ran.out.startswith("genuine: Stripe signed this request")
    assert f"{NOW}.{BODY}"[:40] in ran.out  # what was signed
    assert row()["headers"]["Stripe-Signature"][-64:] in ran.out  # the signature
    assert "evt_1" in ran.out.split("delivery id")[1]
    assert SECRET not in ran.out


@pytest.mark.parametrize(
    ("changed", "arguments", "code"),
    [
        ({"body": BODY + " "}, (), "body_altered"),
        ({"body": BODY.replace("made", "forged")}, (), "signature_mismatch"),
        ({"headers": {}}, (), "signature_missing"),
        ({"now": NOW + 1000}, (), "timestamp_stale"),
        ({}, ("--at", str(NOW + 1000)), "timestamp_stale"),
        ({}, ("--at", "2026-01-01T00:00:00Z"), "timestamp_stale"),
    ],
)
def test_what_is_not_genuine_says_why(
    tmp_path: Path, changed: dict[str, Any], arguments: tuple[str, ...], code: str
) -> None:
    ran = verify(tmp_path, save(tmp_path, row(**changed)), *arguments)
    assert ran.code == 1
    assert ran.out.startswith(f"not genuine: {code}: ")
    document = verify(tmp_path, "saved.json", *arguments, "--json").json
    assert (document["genuine"], document["code"]) == (False, code)
    if code == "timestamp_stale":
        assert "1000 s" in ran.out or "--at" in arguments
    if code != "signature_missing":
        assert len(document["steps"]) >= 3


def test_the_secret_in_another_form_and_what_people_paste_instead(tmp_path: Path) -> None:
    saved = save(tmp_path, row(headers=signing.stripe(BODY.encode(), secret="bare", at=NOW)))
    ran = verify(tmp_path, saved, secret="whsec_bare")
    assert ran.out.startswith("not genuine: wrong_secret_form: ")
    ran = verify(tmp_path, saved, secret="sk_live_0123456789")
    assert "is an API key" in ran.out
    assert "sk_live_0123456789" not in ran.out


def test_every_form_in_which_a_request_is_saved(tmp_path: Path) -> None:
    headers = row()["headers"]
    at = ("--at", str(NOW))
    case = {"path": "/in/stripe", "headers": headers, "body": BODY, "received_ms": NOW * 1000}
    assert verify(tmp_path, save(tmp_path, case)).code == 0
    request = {key: value for key, value in case.items() if key != "received_ms"}
    shown = {"received_ms": NOW * 1000, "request": {**request, "body_encoding": "utf-8"}}
    assert verify(tmp_path, save(tmp_path, shown)).code == 0
    lines = [f"{name}: {value}" for name, value in headers.items()]
    for end in ("\r\n", "\n"):
        text = end.join(["POST /in/stripe HTTP/1.1", "Host: relay.example.test", *lines, "", BODY])
        assert verify(tmp_path, save(tmp_path, text, "saved.txt"), *at).code == 0
        assert verify(tmp_path, save(tmp_path, text + "\n", "saved.txt"), *at).code == 1  # the body is byte for byte
    encoded = row(body=base64.b64encode(BODY.encode()).decode(), body_encoding="base64")
    assert verify(tmp_path, save(tmp_path, encoded)).code == 0
    for wrong in ("hello", "", "[1]", '{"headers": 7}', '{"url": 7}', '{"url": "x", "body": 7}'):
        ran = verify(tmp_path, save(tmp_path, wrong))
        assert (ran.code, "saved.json" in ran.err or "relay: " in ran.err) == (2, True), wrong


def test_a_rejected_request_that_was_saved(tmp_path: Path) -> None:
    """As `relay rejected show ID --json` prints it."""
    headers = [*row()["headers"].items(), ("Authorization", "Bearer (hidden, 9 bytes)")]
    request = {"method": "POST", "path": "/in/pay", "query": "", "headers": headers, "body": BODY}
    record = {"id": "01K0", "received_ms": NOW * 1000, "url": URL, "body_kept": True, "code": "signature_mismatch"}
    saved = save(tmp_path, {**record, "request": {**request, "body_encoding": "utf-8"}})
    ran = verify(tmp_path, saved)
    assert (ran.code, "hidden in the saved request: Authorization" in ran.out) == (0, True), ran.out + ran.err
    cut = {**record, "request": {**request, "body_encoding": "utf-8", "body_truncated": True}}
    for unusable, words in ((cut, "the beginning of the body"), ({**record, "body_kept": False}, "has no body")):
        ran = verify(tmp_path, save(tmp_path, {"request": {}, **unusable}))
        assert (ran.code, words in ran.err) == (2, True), ran.err


def test_where_no_provider_signs(tmp_path: Path) -> None:
    saved = save(tmp_path, row(headers={"X-Token": "abc"}))
    ran = run(tmp_path, "verify", saved, "--provider", "none")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "genuine: nothing is checked, and every request is taken")
    generic = ["verify", saved, "--provider", "token", "--secret", "abc"]
    assert run(tmp_path, *generic, "--option", "header=X-Token").out.startswith("genuine: the signature is right")
    assert "say where the token is" in run(tmp_path, *generic, "--option", "basic=false").err


def test_by_a_source_of_the_configuration(tmp_path: Path) -> None:
    sources = {
        "pay": {"provider": "stripe", "secrets": ["whsec_first", SECRET]},
        "voice": {"provider": "twilio", "secrets": ["12345"], "url": "https://mycompany.com/myapp.php"},
    }
    write_config(tmp_path, "http://127.0.0.1:9", sources=sources)
    saved = save(tmp_path, row())
    assert run(tmp_path, "verify", saved, "--source", "pay").code == 0
    assert run(tmp_path, "verify", saved, "--source", "pay", "--secret", "whsec_first").code == 1
    body = "CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309"
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Twilio-Signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8=",  # published by Twilio
    }
    case = {"path": "/in/voice", "query": "foo=1&bar=2", "headers": headers, "body": body}
    assert run(tmp_path, "verify", save(tmp_path, case), "--source", "voice").code == 0
    assert run(tmp_path, "verify", save(tmp_path, case), "--source", "voice", "--url", "https://other.com/").code == 1
    assert run(tmp_path, "verify", saved, "--source", "payy").err.count("did you mean 'pay'") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a saved request"),
        (("missing.json", "--provider", "stripe"), "missing.json"),
        (("saved.json",), "say which rules"),
        (
            ("saved.json", "--provider", "strpie"),
            "relay: --provider: there is no provider 'strpie', did you mean 'stripe'",
        ),
        (("--vectors", "missing.json"), "missing.json"),
        (("saved.json", "--provider", "stripe", "--at", "soon"), "unix seconds"),
        (("saved.json", "--provider", "stripe", "--option", "x=y"), "relay: --option x: there is no key 'x'"),
        (("saved.json", "--provider", "stripe", "--option", "tolerance_seconds=no"), "must be a number of seconds"),
        (("saved.json", "--provider", "stripe", "--secret-file", "missing"), "missing"),
    ],
)
def test_mistakes_of_the_command_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    save(tmp_path, row())
    ran = run(tmp_path, "verify", *arguments)
    assert (ran.code, words in ran.err) == (2, True), ran.err


def test_a_file_of_vectors(tmp_path: Path) -> None:
    rows = [
        row(),
        row(id="stale", now=NOW + 1000, expect="invalid"),
        row(id="base64", body=base64.b64encode(BODY.encode()).decode(), body_encoding="base64"),
        row(id="extra", extra={"nobody": "knows"}),
    ]
    ran = run(tmp_path, "verify", "--vectors", save(tmp_path, rows))
    assert (ran.code, ran.out) == (0, "4 of 4 as expected\n")
    rows += [
        row(id="wrongly-valid", expect="invalid"),
        row(id="wrongly-invalid", body="{}"),
        row(id="stranger", preset="nobody"),
        row(id="odd", headers=7),
        row(id="odd-too", now="soon"),
        row(id="no-time", now=float("nan")),
        row(id="no-table", preset="sns", extra={"certs": "a certificate"}),
        {"preset": "stripe", "expect": "valid"},
    ]
    ran = run(tmp_path, "verify", "--vectors", save(tmp_path, rows))
    assert ran.code == 1
    *lines, last = ran.out.splitlines()
    assert last == "4 of 12 as expected"
    names = ["wrongly-valid", "wrongly-invalid", "stranger", "odd", "odd-too", "no-time", "no-table", "row 11"]
    assert [line.partition(":")[0] for line in lines] == names
    assert lines[1].startswith("wrongly-invalid: expected valid, judged invalid (signature_mismatch")
    assert SECRET not in ran.out
    document = run(tmp_path, "verify", "--vectors", "saved.json", "--json").json
    assert (document["as_expected"], len(document["disagreements"])) == (4, 8)


def test_a_file_that_holds_no_vectors(tmp_path: Path) -> None:
    for text in ("", "7", "[7]", '"x"'):
        ran = run(tmp_path, "verify", "--vectors", save(tmp_path, text))
        assert (ran.code, "saved.json" in ran.err) == (2, True)
    assert run(tmp_path, "verify", "--vectors", save(tmp_path, [])).out == "0 of 0 as expected\n"
