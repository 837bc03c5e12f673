"""relay.toml and the environment: what is taken, what is refused, and in which words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from relay.config import (
    TABLES,
    Config,
    dev_table,
    environment_is_valid,
    examine_table,
    is_cloud,
    is_loopback,
    load_config,
    parse_config,
    shipped_transforms,
)
from relay.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "relay.example.toml"
LOCAL = {"destinations": {"default": {"url": "http://127.0.0.1:8288"}}}
ENVIRON = {"INNGEST_EVENT_KEY": "key", "STRIPE_WEBHOOK_SECRET": "whsec_x"}


def parse(text: str, environ: dict[str, str] | None = None) -> Config:
    return parse_config({**LOCAL, **tomllib.loads(text)}, environ or {}, Path("relay.toml"))


def refusal(text: str, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, environ)
    return caught.value


def test_nothing_configured_is_all_defaults() -> None:
    config = parse("")
    assert (config.receiver.host, config.receiver.port) == ("127.0.0.1", 8080)
    assert (config.operator.host, config.operator.port) == ("127.0.0.1", 8081)
    assert (config.store.dedupe_hours, config.store.retention_days) == (24, 30)
    assert config.sandbox.deadline_ms == 250
    assert config.destinations["default"].retry_hours == 72
    assert config.sources == {}


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("[reciever]\nport = 1", "reciever", ["'reciever'", "did you mean 'receiver'?"]),
        ("[receiver]\nprot = 1", "receiver.prot", ["did you mean 'port'?", "body_bytes_max"]),
        ("[sources.a]\nprovider = 'stripe'\nsecret = 's'", "sources.a.secret", ["did you mean 'secrets'?"]),
        ("[destinations.default]\nurl = 'http://x'\nevent_kee = ''", "destinations.default.event_kee", ["'event_key'"]),
        ("file = 'x'", "file", ["there is no key 'file'"]),
        ("[sources.a]\nsecrets = []", "sources.a.provider", ["is required"]),
        ("[receiver]\nport = '8080'", "receiver.port", ["whole number, without quotes", "(it is '8080')"]),
        ("[receiver]\nport = true", "receiver.port", ["whole number"]),
        ("[receiver]\nport = 70000", "receiver.port", ["65535", "(it is 70000)"]),
        ("[receiver]\nbody_seconds = nan", "receiver.body_seconds", ["finite"]),
        ("[receiver]\nprocesses = 2", "receiver.processes", ["1"]),
        ("[receiver]\npublic_url = 'hooks.example.com'", "receiver.public_url", ["http:// or https://"]),
        ("[receiver]\npublic_url = 'https://x:99999'", "receiver.public_url", ["port"]),
        ("[store]\nurl = 'postgres://x'", "store.url", ["sqlite:///PATH"]),
        ("[store]\nurl = 'sqlite:///'", "store.url", ["sqlite:///PATH"]),
        ("[operator]\nhost = '0.0.0.0'", "operator", ["a token is required", "operator.token"]),
        ("[operator]\ntoken = ''", "operator.token", ["not empty"]),
        ("[operator]\nport = 8080", "operator.port", ["must not share"]),
        ("[sandbox]\ndeadline_ms = 0", "sandbox.deadline_ms", ["10"]),
        ("[destinations.default]\nurl = 'http://x'\nretry_hours = inf", "destinations.default.retry_hours", ["finite"]),
        (
            "[destinations.default]\nurl = 'http://x'\nenvironment = ' '",
            "destinations.default.environment",
            ["printable"],
        ),
        ("[destinations.default]\nurl = 'http://x'\nretry_delay_ms_min = 90_000", "destinations.default", ["over"]),
        ("[destinations.Default]\nurl = 'http://x'", "destinations.Default", ["a-z 0-9"]),
        ("[sources.'a/b']\nprovider = 'stripe'", "sources.a/b", ["a-z 0-9"]),
        ("[sources.a]\nprovider = 'x'\ndestination = 'defualt'", "sources.a.destination", ["did you mean 'default'?"]),
        ("[sources.a]\nprovider = 'x'\nsecrets = ['']", "sources.a.secrets", ["empty secret"]),
        ("[sources.a]\nprovider = 'x'\nsecrets = 'one'", "sources.a.secrets", ['write secrets = ["…"]']),
        ("[sources.a]\nprovider = 'x'\nsecrets = [1]", "sources.a.secrets[0]", ["text in quotes"]),
        ("sources = 3", "sources", ["[sources.NAME]", "3"]),
        ("destinations = []", "destinations", ["[destinations.NAME]"]),
        ("[sources]\na = 'x'", "sources.a", ["must be a table", "[sources.a]"]),
        ("[sources.a]\nsecrets = ['x']", "sources.a.provider", ["is required", "relay providers"]),
        ("[sources.a]\nprovider = 'x'\nenabled = 'yes'", "sources.a.enabled", ["true or false", "'yes'"]),
        ("[sources.a]\nprovider = 'x'\ntransform = 5", "sources.a.transform", ["must be a path in quotes", "5"]),
        ("[receiver]\nbody_seconds = '30'", "receiver.body_seconds", ["must be a number, without quotes", "'30'"]),
        ("[receiver]\nport = 70_000", "receiver.port", ["must be 65535 or less", "70000"]),
        ("[receiver]\ndrain_seconds = 0", "receiver.drain_seconds", ["must be more than 0"]),
    ],
)
def test_a_mistake_names_file_key_and_remedy(text: str, key: str, words: list[str]) -> None:
    error = refusal(text)
    assert (error.file, error.key) == ("relay.toml", key)
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "[operator]\ntoken = ' hunter2hunter2'",
        "[sources.a]\nprovider = 'x'\nsecrets = [7331]",
        "[destinations.default]\nurl = 'https://me:hunter2hunter2@inn.gs'",
        "[destinations.default]\nurl = 'http://x'\nevent_key = 7331",
        "[sources.a]\nprovider = 'x'\nscheme = 7331",
    ],
)
def test_no_secret_in_a_message(text: str) -> None:
    error = refusal(text)
    assert "hunter2" not in str(error)
    assert "7331" not in str(error)


def test_variables_are_filled_in_anywhere() -> None:
    text = '[sources.a]\nprovider = "x"\nsecrets = ["${ONE}", "a-${TWO}-b"]\n[sources.a.scheme]\nheader = "${ONE}"'
    config = parse(text, {"ONE": "1", "TWO": "2 ${ONE}"})
    assert config.sources["a"].secrets == ("1", "a-2 ${ONE}-b")
    assert config.sources["a"].scheme == {"header": "1"}


@pytest.mark.parametrize("environ", [{}, {"ONE": ""}])
def test_a_variable_that_is_not_set_is_a_mistake(environ: dict[str, str]) -> None:
    error = refusal('[sources.a]\nprovider = "x"\nsecrets = ["k", "${ONE}"]', environ)
    assert error.key == "sources.a.secrets[1]"
    assert "environment variable ONE is not set" in str(error)


def test_every_mistake_is_found_at_once() -> None:
    table = tomllib.loads(
        '[receiver]\nport = -1\nprot = 1\n[operator]\ntoken = "${T}"\n'
        '[destinations.default]\n[sources.a]\nprovider = "${P}"\nenabled = "yes"'
    )
    config, problems = examine_table(table, {}, None)
    assert config is None
    assert sorted(problem.key or "" for problem in problems) == [
        "destinations.default.event_key",
        "operator.token",
        "receiver.port",
        "receiver.prot",
        "sources.a.enabled",
        "sources.a.provider",
    ]


@pytest.mark.parametrize(
    ("environ", "url", "environment"),
    [
        ({"INNGEST_EVENT_KEY": "k"}, "https://inn.gs", None),
        ({"INNGEST_DEV": "1"}, "http://127.0.0.1:8288", None),
        ({"INNGEST_DEV": "http://dev:8288/"}, "http://dev:8288", None),
        ({"INNGEST_DEV": "0", "INNGEST_EVENT_KEY": "k"}, "https://inn.gs", None),
        ({"INNGEST_DEV": "1", "INNGEST_BASE_URL": "http://self:1"}, "http://self:1", None),
        ({"INNGEST_BASE_URL": "http://self:1", "INNGEST_EVENT_API_BASE_URL": "http://api:2"}, "http://api:2", None),
        ({"INNGEST_DEV": "1", "INNGEST_ENV": "pr-1"}, "http://127.0.0.1:8288", "pr-1"),
    ],
)
def test_inngests_own_variables_are_defaults(environ: dict[str, str], url: str, environment: str | None) -> None:
    destination = parse_config({}, environ, None).destinations["default"]
    assert (destination.url, destination.environment) == (url, environment)
    assert destination.event_key == environ.get("INNGEST_EVENT_KEY", "dev")


def test_what_is_configured_wins_over_inngests_variables() -> None:
    table = {"destinations": {"default": {"url": "http://mine", "event_key": "mine", "environment": "mine"}}}
    environ = {"INNGEST_DEV": "1", "INNGEST_EVENT_KEY": "theirs", "INNGEST_ENV": "theirs"}
    destination = parse_config(table, environ, None).destinations["default"]
    assert (destination.url, destination.event_key, destination.environment) == ("http://mine", "mine", "mine")


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({}, "destinations.default.event_key"),
        ({"INNGEST_DEV": "maybe"}, "INNGEST_DEV"),
        ({"INNGEST_BASE_URL": "inn.gs"}, "INNGEST_BASE_URL"),
        ({"INNGEST_DEV": "1", "INNGEST_ENV": "a\nb"}, "INNGEST_ENV"),
    ],
)
def test_inngests_variables_are_checked_too(environ: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({}, environ, None)
    assert caught.value.key == key


def test_a_number_may_be_whole_where_a_fraction_is_allowed() -> None:
    assert parse("[receiver]\nbody_seconds = 30").receiver.body_seconds == 30


def test_paths_start_at_the_files_folder_even_when_it_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "seen").mkdir()
    (tmp_path / "real" / "relay.toml").write_text("")
    (tmp_path / "seen" / "relay.toml").symlink_to(tmp_path / "real" / "relay.toml")
    config = load_config(tmp_path / "seen" / "relay.toml", {"INNGEST_DEV": "1"})
    assert config.store_path == tmp_path / "seen" / "data" / "relay.db"


def test_an_absolute_store_path_stays_absolute(tmp_path: Path) -> None:
    config = parse(f'[store]\nurl = "sqlite:///{tmp_path}/x.db"')
    assert config.store_path == tmp_path / "x.db"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"[receiver", "is not TOML"), (b"a = '\xff'", "cannot be read")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "relay.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(file, {})
    assert caught.value.file == str(file)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_bytes(b"\xef\xbb\xbf[receiver]\r\nport = 1\r\n")
    assert load_config(tmp_path / "relay.toml", {"INNGEST_DEV": "1"}).receiver.port == 1


def test_the_built_in_configuration_of_dev(tmp_path: Path) -> None:
    table = dev_table({}, tmp_path, {"github": "g", "stripe": "s"})
    config = parse_config(table, {}, None)
    assert list(config.sources) == ["github", "stripe"]
    assert config.store_path == tmp_path / "data" / "relay.db"
    assert config.destinations["default"].url == "http://127.0.0.1:8288"
    assert all(source.transform and source.transform.is_file() for source in config.sources.values())
    assert dev_table({"INNGEST_DEV": "http://x:1"}, tmp_path, {"github": "g", "stripe": "s"})["destinations"][
        "default"
    ]["url"] == ("http://x:1")


def test_small_judgements() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "example.com", "localhost.example.com", "10.0.0.1")))
    assert all(map(is_cloud, ("https://inn.gs", "https://inn.gs:443/", "https://api.inngest.com")))
    assert not any(map(is_cloud, ("http://127.0.0.1:8288", "https://inn.gs.example.com", "https://notinn.gs")))
    assert environment_is_valid("pr-17")
    assert not any(map(environment_is_valid, ("", " a", "a ", "a\n", "ä", "x" * 129)))
    assert (shipped_transforms() / "github.js").is_file()


# relay.example.toml


def shown_keys() -> dict[tuple[str, ...], dict[str, Any]]:
    """Table → key → value, those that are commented out because they have no default as None."""
    tables: dict[tuple[str, ...], dict[str, Any]] = {}
    current: dict[str, Any] = {}
    for line in EXAMPLE.read_text().splitlines():
        if found := re.match(r"\[([a-z.]+)\]", line):
            current = tables.setdefault(tuple(found[1].split(".")), {})
        elif found := re.match(r"# ([a-z_]+) = \S+ +# \w", line):
            current[found[1]] = None
        elif found := re.match(r"([a-z_]+) = ", line):
            assert re.search(r" # \w.{10}", line), f"{found[1]} has no sentence"
            current[found[1]] = tomllib.loads(line)[found[1]]
    return tables


def test_the_example_is_right() -> None:
    config = load_config(EXAMPLE, ENVIRON)
    assert list(config.sources) == ["stripe"]


@pytest.mark.parametrize("table", [name for name in TABLES if name])
def test_the_example_shows_every_key_with_its_default(table: str) -> None:
    shown = next(keys for name, keys in shown_keys().items() if name[0] == table)
    fields = TABLES[table].model_fields
    assert set(shown) == set(fields) - {"scheme"}
    for name, value in shown.items():
        default = fields[name].default
        if default is PydanticUndefined or name in ("event_key", "secrets", "transform"):
            continue  # these are examples: there is no default to show
        assert (tuple(value) if isinstance(value, list) else value) == default, name
        assert type(value) is type(default) or isinstance(value, list), f"{name} is written as another type"


def test_the_example_has_every_table() -> None:
    assert {name[0] for name in shown_keys()} == {name for name in TABLES if name}
