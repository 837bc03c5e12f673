"""relay.toml + the environment → one frozen Config. The only module that reads os.environ.

Every mistake is a ConfigError that names the file, the key and the remedy; nothing is guessed, nothing unknown is
passed over. The keys, their defaults and a sentence for each stand in relay.example.toml (a test compares).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from relay.config_errors import explain, known_keys, leave_out, unknown_key_message
from relay.config_values import check_environment, check_url, fill_variables
from relay.config_values import environment_is_valid as environment_is_valid
from relay.config_values import is_cloud as is_cloud
from relay.config_values import is_loopback as is_loopback
from relay.errors import ConfigError, nearest

CLOUD_URL: Final = "https://inn.gs"
DEV_SERVER_URL: Final = "http://127.0.0.1:8288"
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
KIB: Final = 1024
MIB: Final = 1024 * 1024

Port = Annotated[int, Field(ge=0, le=65535)]
Bytes = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of relay.toml: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Receiver(Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    public_url: str | None = None
    body_bytes_max: Annotated[int, Field(ge=1, le=100 * MIB)] = 5 * MIB
    body_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    headers_max: Annotated[int, Field(ge=8, le=1000)] = 100
    header_bytes_max: Annotated[int, Field(ge=1024, le=256 * KIB)] = 16 * KIB
    requests_max: Annotated[int, Field(ge=1, le=100_000)] = 1000
    drain_seconds: Annotated[float, Field(gt=0, le=60)] = 8.0
    processes: Literal[1] = 1

    @field_validator("public_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value)


class Operator(Section):
    host: str = "127.0.0.1"
    port: Port = 8081
    token: str | None = None

    @field_validator("token")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not (value.isascii() and value.isprintable() and value == value.strip() and value):
            raise ValueError("must be printable ASCII, not empty, without spaces around it")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Operator:
        if not is_loopback(self.host) and not self.token:
            raise ValueError(f"host {self.host} is not loopback, so a token is required: set operator.token")
        return self


class StoreSettings(Section):
    url: str = "sqlite:///data/relay.db"
    dedupe_hours: Annotated[int, Field(ge=1, le=24 * 30)] = 24
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    disk_free_bytes_min: Annotated[int, Field(ge=0, le=1024 * 1024 * MIB)] = 4 * MIB
    queue_bytes_max: Annotated[int, Field(ge=MIB, le=16 * 1024 * MIB)] = 64 * MIB

    @field_validator("url")
    @classmethod
    def _known(cls, value: str) -> str:
        if not value.startswith("sqlite:///") or len(value) == len("sqlite:///"):
            raise ValueError("must be sqlite:///PATH (sqlite:///data/relay.db, or sqlite:////abs/path)")
        return value


class Sandbox(Section):
    processes: Annotated[int, Field(ge=1, le=64)] = 2
    deadline_ms: Annotated[int, Field(ge=10, le=60_000)] = 250
    memory_bytes_max: Annotated[int, Field(ge=4 * MIB, le=1024 * MIB)] = 64 * MIB
    output_bytes_max: Annotated[int, Field(ge=1024, le=256 * MIB)] = 8 * MIB
    events_per_delivery_max: Annotated[int, Field(ge=1, le=5000)] = 1000


class Destination(Section):
    url: str = CLOUD_URL
    event_key: str | None = None
    environment: str | None = None
    batch_events_max: Annotated[int, Field(ge=1, le=4999)] = 512
    batch_bytes_max: Annotated[int, Field(ge=1024, le=10 * MIB)] = 512 * KIB
    event_bytes_max: Annotated[int, Field(ge=1024, le=3 * MIB)] = 3 * MIB
    batch_wait_ms: Annotated[int, Field(ge=0, le=10_000)] = 20
    request_seconds: Annotated[float, Field(gt=0, le=300)] = 30.0
    retry_hours: Annotated[float, Field(gt=0, le=24 * 365)] = 72.0
    retry_delay_ms_min: Annotated[int, Field(ge=1, le=86_400_000)] = 500
    retry_delay_ms_max: Annotated[int, Field(ge=1, le=86_400_000)] = 60_000
    stopped_retry_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return check_url(value)

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: str | None) -> str | None:
        return check_environment(value)

    @model_validator(mode="after")
    def _delays(self) -> Destination:
        if self.retry_delay_ms_min > self.retry_delay_ms_max:
            raise ValueError("retry_delay_ms_min is over retry_delay_ms_max")
        return self


class Source(Section):
    provider: str
    secrets: tuple[str, ...] = ()
    transform: Path | None = None
    destination: str = "default"
    environment: str | None = None
    environments_allowed: tuple[str, ...] = ("*",)
    enabled: bool = True
    scheme: dict[str, Any] = Field(default_factory=dict)

    @field_validator("secrets", "environments_allowed", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("transform", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return Path(value) if isinstance(value, str) and value else value

    @field_validator("secrets")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not secret.strip() for secret in value):
            raise ValueError("holds an empty secret: anybody could sign with it")
        return value

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: str | None) -> str | None:
        return check_environment(value)


class Config(Section):
    """The whole configuration. `file` is where it came from (None: built-in defaults); paths start at its folder."""

    receiver: Receiver = Field(default_factory=Receiver)
    operator: Operator = Field(default_factory=Operator)
    store: StoreSettings = Field(default_factory=StoreSettings)
    sandbox: Sandbox = Field(default_factory=Sandbox)
    destinations: dict[str, Destination] = Field(default_factory=dict)
    sources: dict[str, Source] = Field(default_factory=dict)
    file: Path | None = None

    @property
    def folder(self) -> Path:
        return self.file.absolute().parent if self.file else Path.cwd()  # not resolved: a mounted file may be a link

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
    "destinations": Destination,
    "sources": Source,
}


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
    filled = fill_variables(table, environ, path, problems)
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
    filled = fill_variables(table, environ, path, [])
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
