"""relay.toml + the environment → one frozen Config. The only module that reads os.environ.

Every mistake is a ConfigError that names the file, the key and the remedy; nothing is guessed, nothing unknown is
passed over. The keys, their defaults and a sentence for each stand in relay.example.toml (a test compares).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from relay.config_errors import explain, known_keys, leave_out, unknown_key_message
from relay.config_sections import CLOUD_URL as CLOUD_URL
from relay.config_sections import Destination as Destination
from relay.config_sections import Keys as Keys
from relay.config_sections import Operator as Operator
from relay.config_sections import Receiver as Receiver
from relay.config_sections import RejectedPen as RejectedPen
from relay.config_sections import Sandbox as Sandbox
from relay.config_sections import Section as Section
from relay.config_sections import Source as Source
from relay.config_sections import StoreSettings as StoreSettings
from relay.config_values import FILE_VARIABLE, VARIABLE, check_environment, check_url, fill_variables
from relay.config_values import environment_is_valid as environment_is_valid
from relay.config_values import is_cloud as is_cloud
from relay.config_values import is_loopback as is_loopback
from relay.errors import ConfigError, nearest

DEV_SERVER_URL: Final = "http://127.0.0.1:8288"
#: `provider = "acme.toml"`: a preset of one's own, watched like the configuration itself. Any text that ends so counts.
PRESET_FILE: Final = re.compile(r"""["']([^"'\n]+\.toml)["']""")
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"


def folder_of(path: Path | None) -> Path:
    """Where the configuration's relative paths start. Not resolved: a mounted file may be a link."""
    return path.absolute().parent if path else Path.cwd()


class Config(Section):
    """The whole configuration. `file` is where it came from (None: built-in defaults); paths start at its folder."""

    receiver: Receiver = Field(default_factory=Receiver)
    operator: Operator = Field(default_factory=Operator)
    store: StoreSettings = Field(default_factory=StoreSettings)
    sandbox: Sandbox = Field(default_factory=Sandbox)
    keys: Keys = Field(default_factory=Keys)
    rejected: RejectedPen = Field(default_factory=RejectedPen)
    destinations: dict[str, Destination] = Field(default_factory=dict)
    sources: dict[str, Source] = Field(default_factory=dict)
    file: Path | None = None

    @property
    def folder(self) -> Path:
        return folder_of(self.file)

    @property
    def store_path(self) -> Path:
        return self.folder / self.store.url.removeprefix("sqlite:///")


#: Which model a table of relay.toml is; "" is the file itself.
TABLES: Final[dict[str, type[Section]]] = {
    "": Config,
    "receiver": Receiver,
    "operator": Operator,
    "store": StoreSettings,
    "sandbox": Sandbox,
    "keys": Keys,
    "rejected": RejectedPen,
    "destinations": Destination,
    "sources": Source,
}


class Variables(Mapping[str, str]):
    """What ${NAME} may be: the environment's variables, and ${file:PATH}, a file's text without its last line break."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.environ, self.folder = environ, folder

    def __getitem__(self, name: str) -> str:
        if not name.startswith(FILE_VARIABLE):
            return self.environ[name]
        try:
            return (self.folder / name.removeprefix(FILE_VARIABLE)).read_text("utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no name of a file
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.environ)

    def __len__(self) -> int:
        return len(self.environ)


def files_named(path: Path | None) -> tuple[Path, ...]:
    """The configuration's own file, those that stand in it as ${file:PATH}, and presets of one's own."""
    if path is None:
        return ()
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return (path,)
    secrets = [name.removeprefix(FILE_VARIABLE) for name in VARIABLE.findall(text) if name.startswith(FILE_VARIABLE)]
    return (path, *(path.absolute().parent / name for name in (*secrets, *PRESET_FILE.findall(text))))


def process_environ() -> Mapping[str, str]:
    """The process's environment, for those above who may not read it themselves."""
    return dict(os.environ)


def load_config(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path`, or ./relay.toml. Raises ConfigError when there is none or anything in it is wrong."""
    path = path or Path("relay.toml")
    return parse_config(read_toml(path), process_environ() if environ is None else environ, path)


def parse_config(table: dict[str, Any], environ: Mapping[str, str], path: Path | None) -> Config:
    """A parsed table → Config. Raises the first ConfigError of examine_table."""
    config, problems = examine_table(table, environ, path)
    if config is None:
        raise problems[0]
    return config


def examine_table(
    table: dict[str, Any], environ: Mapping[str, str], path: Path | None
) -> tuple[Config | None, list[ConfigError]]:
    """Variables filled in, Inngest's own variables as defaults, every rule checked: the Config, or all its mistakes."""
    problems: list[ConfigError] = []
    later: list[ConfigError] = []
    filled = fill_variables(table, Variables(environ, folder_of(path)), path, problems)
    unset = {problem.key for problem in problems}
    filled["destinations"] = default_destinations(filled.get("destinations", {}), environ, path, later)
    if filled.pop("file", None) is not None:
        problems.append(ConfigError(unknown_key_message("file", known_keys((), TABLES)), file=path, key="file"))
    try:
        config = Config.model_validate({**filled, "file": path})
    except ValidationError as error:
        wrong = [problem for problem in explain(error, path, TABLES) if problem.key not in unset]
        return None, [*problems, *wrong, *later]
    problems += [*later, *check_names(config)]
    return (None if problems else config), problems


def sound_part(
    table: dict[str, Any], environ: Mapping[str, str], path: Path | None
) -> tuple[Config, list[ConfigError]]:
    """What is left of a wrong table without its mistakes, never to be run, and what is wrong between its tables."""
    filled = fill_variables(table, Variables(environ, folder_of(path)), path, [])
    filled["destinations"] = default_destinations(filled.get("destinations", {}), environ, path, [])
    named: Any = filled["destinations"] if isinstance(filled["destinations"], dict) else {}
    names = dict.fromkeys(named, Destination())  # a wrong one is there all the same
    while True:
        try:
            config = Config.model_validate({**filled, "file": path})
        except ValidationError as error:
            left_out = [leave_out(filled, details) for details in error.errors()]
            if any(left_out):
                continue
            config = Config(file=path)
        config = config.model_copy(update={"destinations": {**names, **config.destinations}})
        # A port that was left out is not the one that was meant.
        return config, [mistake for mistake in check_names(config) if mistake.key != "operator.port"]


def dev_table(environ: Mapping[str, str], folder: Path, secrets: Mapping[str, str]) -> dict[str, Any]:
    """The table that `relay dev` uses when there is no relay.toml: GitHub and Stripe, forwarded to a Dev Server."""
    base = inngest_base_url(environ) or DEV_SERVER_URL
    key = environ.get("INNGEST_EVENT_KEY") or "dev"
    return {
        "store": {"url": f"sqlite:///{folder / 'data' / 'relay.db'}"},
        "destinations": {"default": {"url": base, "event_key": key}},
        "sources": {
            name: {
                "provider": name,
                "secrets": [secrets[name]],
                "transform": str(shipped_transforms() / f"{name}.js"),
            }
            for name in ("github", "stripe")
        },
    }


def without_cloud(config: Config) -> Config:
    """For `relay dev` with a relay.toml: what would go to Inngest Cloud goes to a Dev Server instead."""
    destinations = {
        name: table.model_copy(update={"url": DEV_SERVER_URL}) if is_cloud(table.url) else table
        for name, table in config.destinations.items()
    }
    return config.model_copy(update={"destinations": destinations})


def shipped_transforms() -> Path:
    """The folder of transforms that come with the relay: in the installed package, else in the checkout."""
    installed = Path(__file__).parent / "shipped_transforms"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "transforms"


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(
            "there is no such file: copy relay.example.toml, or name one with --config", file=path
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=path) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}", file=path) from error


def default_destinations(
    tables: Any, environ: Mapping[str, str], path: Path | None, problems: list[ConfigError]
) -> Any:
    """Give every destination Inngest's own variables as defaults, and make `default` when none is configured."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        return tables  # the model says what is wrong with it
    defaults = inngest_defaults(environ, problems)
    filled = {name: {**defaults, **table} for name, table in (tables or {"default": {}}).items()}
    for name, table in filled.items():
        url = table.get("url", CLOUD_URL)
        if not table.get("event_key") and isinstance(url, str):
            if is_cloud(url):
                message = "Inngest Cloud needs an event key: set it here, or in the environment as INNGEST_EVENT_KEY"
                problems.append(ConfigError(message, file=path, key=f"destinations.{name}.event_key"))
            table["event_key"] = "dev"  # the Dev Server takes any key
    return filled


def inngest_defaults(environ: Mapping[str, str], problems: list[ConfigError]) -> dict[str, Any]:
    """What Inngest's own variables say about a destination; a wrong one is a problem under its own name."""
    base, branch = None, environ.get("INNGEST_ENV")
    try:
        base = inngest_base_url(environ)
        check_environment(branch or None)
    except ConfigError as error:
        problems.append(error)
        base = DEV_SERVER_URL
    except ValueError as error:
        problems.append(ConfigError(str(error), key="INNGEST_ENV"))
        branch = None
    given = {"url": base, "event_key": environ.get("INNGEST_EVENT_KEY"), "environment": branch}
    return {key: value for key, value in given.items() if value}


def inngest_base_url(environ: Mapping[str, str]) -> str | None:
    """The Event API's address by Inngest's own variables, the most exact first; None when they name none."""
    for name in ("INNGEST_EVENT_API_BASE_URL", "INNGEST_BASE_URL", "INNGEST_DEV"):
        value = environ.get(name, "").strip()
        if not value or (name == "INNGEST_DEV" and value.lower() in ("0", "false", "no", "off")):
            continue
        if name == "INNGEST_DEV" and value.lower() in ("1", "true", "yes", "on"):
            return DEV_SERVER_URL
        try:
            return check_url(value)
        except ValueError as error:
            raise ConfigError(str(error), key=name) from error
    return None


def check_names(config: Config) -> list[ConfigError]:
    """The rules between tables: names fit for URLs, destinations that exist, two listeners that are two."""
    problems = [
        ConfigError(
            "a name is 1 to 63 of a-z 0-9 . _ - and starts with a letter or digit",
            file=config.file,
            key=f"{table}.{name}",
        )
        for table in ("sources", "destinations")
        for name in getattr(config, table)
        if not re.fullmatch(NAME_PATTERN, name)
    ]
    for name, source in config.sources.items():
        if source.destination not in config.destinations:
            message = f"there is no [destinations.{source.destination}]" + nearest(
                source.destination, list(config.destinations)
            )
            problems.append(ConfigError(message, file=config.file, key=f"sources.{name}.destination"))
    hosts = {config.receiver.host, config.operator.host}
    if config.receiver.port == config.operator.port != 0 and (len(hosts) == 1 or hosts & {"0.0.0.0", "::"}):  # noqa: S104 - compared with
        message = "is receiver.port too: webhooks and operators must not share a listener"
        problems.append(ConfigError(message, file=config.file, key="operator.port"))
    return problems
