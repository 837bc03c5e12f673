"""The commands that need no relay: check, transform, providers, and how every command begins and ends."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from relay.cli import parser
from relay.commands.check import general_problems
from relay.commands.send import addresses
from relay.config import load_config, parse_config
from tests.support.command import run
from tests.support.relay_process import free_port

ROOT = Path(__file__).parents[2]
COMMANDS = ("serve", "dev", "check", "send", "transform", "deliveries", "events", "replay", "prune", "providers")
GOOD = (
    'function transform(evt, headers, queryParams, raw) {\n  return { name: "a/b", data: evt, ts: 1700000000000 };\n}\n'
)
CONFIG = """
[receiver]
port = 0
[operator]
port = 0
[destinations.default]
url = "http://127.0.0.1:9"
"""


def write(folder: Path, text: str, **scripts: str) -> None:
    (folder / "relay.toml").write_text(CONFIG + text)
    for name, script in scripts.items():
        (folder / f"{name}.js").write_text(script)


def source(name: str, *lines: str, provider: str = "github", secrets: str = '["a-secret"]') -> str:
    return "\n".join([f"[sources.{name}]", f'provider = "{provider}"', f"secrets = {secrets}", *lines, ""])


def test_help_and_version(tmp_path: Path) -> None:
    helped = run(tmp_path, "--help")
    assert helped.code == 0
    assert all(command in helped.out for command in COMMANDS)
    assert all(code in helped.out for code in ("  0 ", "  1 ", "  2 ", "  3 ", "  130 "))
    assert re.fullmatch(r"relay \d+\.\d+\.\d+\n", run(tmp_path, "--version").out)


def test_ctrl_c_is_quiet_while_the_program_is_still_being_imported() -> None:
    script = """if True:
        import sys, relay.__main__
        class Interrupt:
            def find_spec(self, name, *rest):
                if name == "relay.cli":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Interrupt())
        sys.exit(relay.__main__.main())"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_closed_stdout_is_no_surprise(tmp_path: Path) -> None:
    shell = f"exec {sys.executable} -m relay providers >&-"
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_config_stands_before_or_after_any_command(command: str) -> None:
    more = {"send": ["github"], "transform": ["a.js", "b.json"]}.get(command, [])
    assert parser().parse_args(["--config", "x.toml", command, *more]).config == "x.toml"
    assert parser().parse_args([command, *more, "--config", "x.toml"]).config == "x.toml"
    assert parser().parse_args([command, *more]).config is None


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["deliveries", "--state", "pending"], ["replay"], ["send"]])
def test_wrong_usage_is_2(tmp_path: Path, arguments: list[str]) -> None:
    assert run(tmp_path, *arguments).code == 2


@pytest.mark.parametrize("command", ["serve", "check"])
def test_without_a_configuration(tmp_path: Path, command: str) -> None:
    ran = run(tmp_path, command)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert "copy relay.example.toml, or name one with --config" in ran.err


def test_a_wrong_configuration_is_2_for_every_command(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text("[reciever]\n")
    for command in (["serve"], ["dev"], ["check"], ["send", "github"], ["deliveries"], ["replay", "--dead"], ["prune"]):
        ran = run(tmp_path, *command)
        assert ran.code == 2
        assert "did you mean 'receiver'?" in ran.out + ran.err


def test_check_finds_no_mistake(tmp_path: Path) -> None:
    write(tmp_path, source("github", 'transform = "good.js"'), good=GOOD)
    ran = run(tmp_path, "check", "--strict")
    assert (ran.code, ran.err) == (0, "")
    assert "no mistakes found" in ran.out
    assert "sandbox: " in ran.out
    assert not (tmp_path / "data").exists()


def test_check_finds_every_mistake(tmp_path: Path) -> None:
    text = "".join(
        [
            source("syntax", 'transform = "syntax.js"'),
            source("nothing", 'transform = "nothing.js"'),
            source("typo", 'transform = "typo.js"'),
            source("gone", 'transform = "gone.js"'),
            source("unknown", provider="githup"),
            source("secretless", secrets="[]"),
            source("open", provider="none", secrets="[]"),
            source("scheme", provider="hmac") + "[sources.scheme.scheme]\nnonsense = 1\n",
        ]
    )
    write(
        tmp_path,
        text,
        syntax="\nfunction transform( {",
        nothing="let a = 1;",
        typo="function tranform(evt) { return evt }",
    )
    ran = run(tmp_path, "check", "--json")
    assert (ran.code, ran.json["ok"]) == (1, False)
    found = {(problem["where"].removeprefix("relay.toml: "), problem["level"]) for problem in ran.json["problems"]}
    places = {re.sub(r":\d+$", "", where) for where, level in found if level == "error"}
    assert {"sources.gone.transform", "sources.unknown.provider", "sources.secretless.secrets"} <= places
    assert any(where.startswith("syntax.js:2") for where, _ in found)
    assert any(where.startswith("nothing.js") for where, _ in found)
    assert any(where.startswith("typo.js") for where, _ in found)
    assert any(where.startswith("sources.scheme") for where, _ in found)
    assert ("sources.open.provider", "warning") in found
    assert "did you mean 'github'?" in ran.out


def test_check_shows_all_mistakes_of_the_file_at_once(tmp_path: Path) -> None:
    write(tmp_path, source("a", "enabled = 1", secrets='["${NOT_SET}"]') + "[sandbox]\ndeadlines = 1\n")
    ran = run(tmp_path, "check")
    assert ran.code == 2
    assert ran.out.count("error ") >= 3
    for word in ("NOT_SET", "sources.a.enabled", "did you mean 'deadline_ms'?", "3 errors"):
        assert word in ran.out


def test_check_goes_on_behind_mistakes_of_the_file(tmp_path: Path) -> None:
    text = "".join(
        [
            "[sandbox]\ndeadlines = 1\n",
            source("a", 'transform = "gone.js"', "enabled = 1", provider="githup", secrets='["${NOT_SET}"]'),
            source("b", 'transform = "syntax.js"', secrets='"one"'),
            source("c", 'destination = "nowhere"', provider="clerk", secrets='["not base64"]'),
            "[sources.d]\nsecrets = []\n",
        ]
    )
    write(tmp_path, text, syntax="function transform(evt) {\n  return { a: 1  b: 2 };\n}\n")
    ran = run(tmp_path, "check", "--json")
    assert ran.code == 2
    errors = [problem["where"].removeprefix("relay.toml: ") for problem in ran.json["problems"]]
    assert sorted(where for where in errors if not where.startswith(("sandbox: ", "syntax.js"))) == [
        "sandbox.deadlines", "sources.a.enabled", "sources.a.provider", "sources.a.secrets[0]", "sources.a.transform",
        "sources.b.secrets", "sources.c.destination", "sources.c.secrets", "sources.c.transform", "sources.d.provider",
    ]  # fmt: skip
    assert [where for where in errors if where.startswith("syntax.js:2:")] != []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", [None, "[receiver\n"])
def test_check_has_one_json_document_for_a_file_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "relay.toml").write_text(text)
    ran = run(tmp_path, "check", "--json")
    assert (ran.code, ran.json["ok"], ran.json["errors"]) == (2, False, 1)


def test_check_has_nothing_to_say_about_the_default_transform_but_that_it_runs(tmp_path: Path) -> None:
    write(tmp_path, source("a"))
    notes = [problem["code"] for problem in run(tmp_path, "check", "--json").json["problems"]]
    assert [code for code in notes if code != "layer_off"] == ["default_transform"]


def test_warnings_fail_only_when_strict(tmp_path: Path) -> None:
    write(tmp_path, source("open", 'transform = "good.js"', provider="none", secrets="[]"), good=GOOD)
    assert run(tmp_path, "check").code == 0
    assert run(tmp_path, "check", "--strict").code == 1


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://localhost/path", False),
        ("http://127.0.0.1:8288", False),
        ("http://[::1]:8288/x", False),
        ("https://inngest.example", False),
        ("http://inngest.example", True),
        ("http://inngest.example:8288/x", True),
    ],
)
def test_check_warns_of_a_key_sent_in_the_clear(url: str, warned: bool) -> None:
    table = {"destinations": {"default": {"url": url, "event_key": "k"}}}
    problems = general_problems(parse_config(table, {}, Path("relay.toml")))
    assert ("not_encrypted" in [problem.code for problem in problems]) is warned


def test_check_never_shows_a_secret(tmp_path: Path) -> None:
    write(tmp_path, source("clerk", provider="clerk", secrets='["hunter2-hunter2"]'))
    ran = run(tmp_path, "check")
    assert ran.code == 1
    assert "sources.clerk.secrets" in ran.out
    assert "hunter2" not in ran.out + ran.err


def test_transform_prints_the_events(tmp_path: Path) -> None:
    (tmp_path / "t.js").write_text(GOOD)
    (tmp_path / "r.json").write_text('{"json": {"n": 1}}')
    ran = run(tmp_path, "transform", "t.js", "r.json")
    assert ran.code == 0
    assert [(event["name"], event["data"], event["ts"]) for event in ran.json] == [("a/b", {"n": 1}, 1700000000000)]
    (tmp_path / "expected.json").write_text(ran.out)
    assert run(tmp_path, "transform", "t.js", "r.json", "--expect", "expected.json").code == 0
    (tmp_path / "r.json").write_text('{"json": {"n": 2}}')
    differs = run(tmp_path, "transform", "t.js", "r.json", "--expect", "expected.json")
    assert differs.code == 1
    assert '-      "n": 1' in differs.out
    assert '+      "n": 2' in differs.out


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('function transform() {\n  throw new Error("boom");\n}', r"t\.js:2:\d+: script_raised: .*boom"),
        ("function transform( {", r"t\.js:1:?\d*: script_invalid"),
        ("function transform() { for (;;) {} }", r"script_timed_out"),
        ("function transform() { return { name: 1, data: {} } }", r"invalid_event"),
    ],
)
def test_transform_says_where_it_went_wrong(tmp_path: Path, script: str, says: str) -> None:
    (tmp_path / "t.js").write_text(script)
    (tmp_path / "r.json").write_text("{}")
    ran = run(tmp_path, "transform", "t.js", "r.json")
    assert (ran.code, ran.out) == (1, "")
    assert re.search(says, ran.err)


def test_transform_needs_no_secrets(tmp_path: Path) -> None:
    """A configuration whose secrets are not set here must not stop anybody from trying a script; its limits hold."""
    write(tmp_path, source("github", secrets='["${NOT_SET}"]') + "[sandbox]\nevents_per_delivery_max = 1\n")
    (tmp_path / "t.js").write_text('function transform(evt) { return [1, 2].map(() => ({ name: "a", data: {} })) }')
    (tmp_path / "r.json").write_text("{}")
    ran = run(tmp_path, "transform", "t.js", "r.json")
    assert (ran.code, "too_many_events" in ran.err) == (1, True)


@pytest.mark.parametrize(("script", "request_text"), [(None, "{}"), (GOOD, "{"), (GOOD, '{"jsn": 1}')])
def test_transform_with_wrong_files_is_2(tmp_path: Path, script: str | None, request_text: str) -> None:
    if script:
        (tmp_path / "t.js").write_text(script)
    (tmp_path / "r.json").write_text(request_text)
    assert run(tmp_path, "transform", "t.js", "r.json").code == 2


def test_providers(tmp_path: Path) -> None:
    names = {provider["name"] for provider in run(tmp_path, "providers", "--json").json}
    assert {"github", "stripe", "slack", "hmac", "token", "none"} <= names
    assert "whsec_" in run(tmp_path, "providers", "show", "stripe").out
    assert "x-slack-request-timestamp, x-slack-signature" in run(tmp_path, "providers", "show", "slack").out
    assert 'header = "X-Signature"' in run(tmp_path, "providers", "show", "hmac").out
    assert '# environment = "production"   # ' in run(tmp_path, "providers", "show", "plaid").out
    assert "the key of a certificate" in run(tmp_path, "providers", "key", "sns").err
    wrong = run(tmp_path, "providers", "show", "strpe")
    assert (wrong.code, "did you mean 'stripe'?" in wrong.err) == (2, True)


def test_nobody_there_is_3(tmp_path: Path) -> None:
    write(tmp_path, source("github").replace("port = 0", f"port = {free_port()}"))
    for command in (["deliveries"], ["events", "show", "x"], ["replay", "--dead"], ["prune"]):
        ran = run(tmp_path, *command)
        assert (ran.code, ran.out) == (3, "")
        assert "there is no store at" in ran.err
    assert not (tmp_path / "data").exists()
    assert run(tmp_path, "send", "github", "--to", f"http://127.0.0.1:{free_port()}/in/github").code == 3


def test_send_to_nobody_asks_whether_the_relay_runs(tmp_path: Path) -> None:
    write(tmp_path, source("github"))
    ran = run(tmp_path, "send", "github", "--to", f"http://127.0.0.1:{free_port()}")
    assert (ran.code, ran.out) == (3, "")
    assert "nothing listens there (is the relay running?)" in ran.err


def test_what_fetching_keys_needs_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, '[sources.bank]\nprovider = "plaid"\n[sources.bank.scheme]\nclient_id = "c"\n')
    found = run(tmp_path, "check", "--json").json["problems"]
    assert [one["where"] for one in found if one["code"] == "key_unavailable"] == [
        "relay.toml: sources.bank.scheme.client_secret"
    ]


def test_send_signs_the_url_of_the_source_and_says_what_it_lacks(tmp_path: Path) -> None:
    voice = source("voice", 'url = "https://a.example/b"', provider="twilio")
    write(tmp_path, voice + '[sources.tasks]\nprovider = "asana"\n')
    config = load_config(tmp_path / "relay.toml", {})
    assert addresses(config, parser().parse_args(["send", "voice"]))[1] == "https://a.example/b"
    assert "Asana sends it when the webhook is made" in run(tmp_path, "send", "tasks").err


def test_dev_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    to = ["--to", f"http://127.0.0.1:{free_port()}/in/github"]
    assert run(tmp_path, "deliveries").code in (0, 3)  # 0 where somebody runs `make dev` beside the tests
    assert not (tmp_path / "data").exists(), "looking on makes no secrets"
    assert run(tmp_path, "send", "github", *to).code == 3
    file = tmp_path / "data" / "dev-secrets.json"
    made = json.loads(file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["stripe"].startswith("whsec_")
    assert len(made["github"]) == 64
    assert run(tmp_path, "send", "stripe", *to).code == 3
    assert json.loads(file.read_text()) == made
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_send_lists_samples_and_knows_sources(tmp_path: Path) -> None:
    write(tmp_path, source("github"))
    assert "push" in run(tmp_path, "send", "github", "--list").out.split()
    unknown = run(tmp_path, "send", "githib")
    assert (unknown.code, "did you mean 'github'?" in unknown.err) == (2, True)
    event = run(tmp_path, "send", "github", "--event", "psh")
    assert (event.code, "did you mean 'push'?" in event.err) == (2, True)
    assert run(tmp_path, "send", "github", "--env", " ").code == 2
    assert run(tmp_path, "send", "github", "--to", "ftp://x").code == 2


def test_a_preset_can_be_printed_changed_and_shown(tmp_path: Path) -> None:
    printed = run(tmp_path, "providers", "show", "discord", "--toml")
    assert printed.code == 0
    (tmp_path / "acme.toml").write_text(printed.out.replace('title = "Discord', 'title = "Acme'))
    shown = run(tmp_path, "providers", "show", "acme.toml")
    assert (shown.code, "Acme" in shown.out, 'provider = "acme.toml"' in shown.out) == (0, True, True)
    assert run(tmp_path, "providers", "show", "nothing.toml").code == 2
