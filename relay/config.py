"""relay.toml + the environment → one frozen Config. The only module that reads os.environ.

Every mistake is a ConfigError that names the file, the key and the remedy; nothing is guessed, nothing unknown is
passed over. The keys, their defaults and a sentence for each stand in relay.example.toml (a test compares).
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from relay.errors import ConfigError

CLOUD_URL: Final = "https://inn.gs"
DEV_SERVER_URL: Final = "http://127.0.0.1:8288"
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
KIB: Final = 1024
MIB: Final = 1024 * 1024

Port = Annotated[int, Field(ge=0, le=65535)]
Bytes = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of relay.toml: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", validate_default=True)


class Receiver(Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    public_url: str | None = None
    body_bytes_max: Annotated[int, Field(ge=1, le=100 * MIB)] = 5 * MIB
    body_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    headers_max: Annotated[int, Field(ge=8, le=1000)] = 100
    header_bytes_max: Annotated[int, Field(ge=1024, le=256 * KIB)] = 16 * KIB
    requests_max: Annotated[int, Field(ge=1)] = 1000
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

    @model_validator(mode="after")
    def _guarded(self) -> Operator:
        if not is_loopback(self.host) and not self.token:
            raise ValueError(f"host {self.host} is not loopback, so a token is required: set operator.token")
        return self


class StoreSettings(Section):
    url: str = "sqlite:///data/relay.db"
    dedupe_hours: Annotated[int, Field(ge=1, le=24 * 30)] = 24
    retention_days: Annotated[int, Field(ge=1)] = 30
    disk_free_bytes_min: Annotated[int, Field(ge=0)] = 4 * MIB
    queue_bytes_max: Annotated[int, Field(ge=MIB)] = 64 * MIB

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
    output_bytes_max: Annotated[int, Field(ge=1024)] = 8 * MIB
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
    retry_hours: Annotated[float, Field(gt=0)] = 72.0
    retry_delay_ms_min: Annotated[int, Field(ge=1)] = 500
    retry_delay_ms_max: Annotated[int, Field(ge=1)] = 60_000
    stopped_retry_seconds: Annotated[float, Field(gt=0)] = 60.0

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
    """The whole configuration. `file` is where it came from (None: built-in defaults); paths are relative to its folder."""

    receiver: Receiver = Field(default_factory=Receiver)
    operator: Operator = Field(default_factory=Operator)
    store: StoreSettings = Field(default_factory=StoreSettings)
    sandbox: Sandbox = Field(default_factory=Sandbox)
    destinations: dict[str, Destination] = Field(default_factory=dict)
    sources: dict[str, Source] = Field(default_factory=dict)
    file: Path | None = None

    @property
    def folder(self) -> Path:
        return self.file.resolve().parent if self.file else Path.cwd()

    @property
    def store_path(self) -> Path:
        return self.folder / self.store.url.removeprefix("sqlite:///")


def load_config(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path`, or ./relay.toml. Raises ConfigError when there is none or anything in it is wrong."""
    environ = os.environ if environ is None else environ
    path = path or Path("relay.toml")
    return parse_config(read_toml(path), environ, path)


def parse_config(table: dict[str, Any], environ: Mapping[str, str], path: Path | None) -> Config:
    """A parsed table → Config: variables filled in, Inngest's own variables as defaults, every rule checked."""
    if "file" in table:
        raise ConfigError(unknown_key_message("file", list(Config.model_fields)), file=path, key="file")
    filled = fill_variables(table, environ, path)
    filled["destinations"] = default_destinations(filled.get("destinations", {}), environ, path)
    try:
        config = Config.model_validate({**filled, "file": path})
    except ValidationError as error:
        raise explain(error, path) from error
    check_names(config)
    return config


def dev_table(environ: Mapping[str, str], folder: Path, secrets: Mapping[str, str]) -> dict[str, Any]:
    """The table that `relay dev` uses when there is no relay.toml: GitHub and Stripe, forwarded to a Dev Server."""
    base = environ.get("INNGEST_EVENT_API_BASE_URL") or environ.get("INNGEST_BASE_URL") or DEV_SERVER_URL
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


def shipped_transforms() -> Path:
    """The folder of transforms that come with the relay: in the installed package, else in the checkout."""
    installed = Path(__file__).parent / "shipped_transforms"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "transforms"


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "there is no such file: copy relay.example.toml, or name one with --config", file=path
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=path) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}", file=path) from error


VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")


def fill_variables(value: Any, environ: Mapping[str, str], path: Path | None, key: str = "") -> Any:
    """Replace every ${NAME} in every string; a name that is not set, or set to nothing, is an error."""
    if isinstance(value, dict):
        return {k: fill_variables(v, environ, path, f"{key}.{k}" if key else k) for k, v in value.items()}
    if isinstance(value, list):
        return [fill_variables(v, environ, path, f"{key}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = environ.get(match[1], "")
        if not found:
            raise ConfigError(
                f"the environment variable {match[1]} is not set: set it, or write the value here",
                file=path,
                key=key,
            )
        return found

    return VARIABLE.sub(replace, value)


def default_destinations(tables: Any, environ: Mapping[str, str], path: Path | None) -> Any:
    """Give every destination Inngest's own variables as defaults, and make `default` when none is configured."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        return tables  # the model says what is wrong with it
    base = inngest_base_url(environ)
    defaults: dict[str, Any] = {"url": base} if base else {}
    if environ.get("INNGEST_EVENT_KEY"):
        defaults["event_key"] = environ["INNGEST_EVENT_KEY"]
    if environ.get("INNGEST_ENV"):
        defaults["environment"] = environ["INNGEST_ENV"]
    filled = {name: {**defaults, **table} for name, table in (tables or {"default": {}}).items()}
    for name, table in filled.items():
        url = table.get("url", CLOUD_URL)
        if not table.get("event_key") and isinstance(url, str):
            if is_cloud(url):
                raise ConfigError(
                    f"{url} needs an event key: set it here, or in the environment as INNGEST_EVENT_KEY",
                    file=path,
                    key=f"destinations.{name}.event_key",
                )
            table["event_key"] = "dev"  # the Dev Server takes any key
    return filled


def inngest_base_url(environ: Mapping[str, str]) -> str | None:
    """The Event API's address by Inngest's own variables, the most exact first; None when they name none."""
    for name in ("INNGEST_EVENT_API_BASE_URL", "INNGEST_BASE_URL"):
        if environ.get(name):
            return environ[name]
    dev = environ.get("INNGEST_DEV", "")
    if dev.startswith(("http://", "https://")):
        return dev
    return DEV_SERVER_URL if dev.lower() in ("1", "true", "yes", "on") else None


def is_cloud(url: str) -> bool:
    return url.rstrip("/").endswith(("//inn.gs", ".inngest.com"))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError(f"{value!r} must be http:// or https://, a host, and no query, fragment or password")
    return value.rstrip("/")


def check_environment(value: str | None) -> str | None:
    if value is not None and not environment_is_valid(value):
        raise ValueError(f"{value!r} must be 1 to 128 printable characters")
    return value


def environment_is_valid(value: str) -> bool:
    """Fit to be an HTTP header value and a branch name."""
    return 0 < len(value) <= 128 and value.isascii() and value.isprintable() and value == value.strip()


def check_names(config: Config) -> None:
    """The rules between tables: names are fit for URLs, and every destination that is named exists."""
    for table in ("sources", "destinations"):
        for name in getattr(config, table):
            if not re.fullmatch(NAME_PATTERN, name):
                raise ConfigError(
                    "a name is 1 to 63 of a-z 0-9 . _ - and starts with a letter or digit",
                    file=config.file,
                    key=f"{table}.{name}",
                )
    for name, source in config.sources.items():
        if source.destination not in config.destinations:
            raise ConfigError(
                f"there is no [destinations.{source.destination}]"
                + nearest(source.destination, list(config.destinations)),
                file=config.file,
                key=f"sources.{name}.destination",
            )


def explain(error: ValidationError, path: Path | None) -> ConfigError:
    """pydantic's first complaint, in the words of relay.toml."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        return ConfigError(unknown_key_message(location[-1], known_keys(location[:-1])), file=path, key=key)
    if first["type"] == "missing":
        return ConfigError("is required", file=path, key=key)
    message = str(first["msg"]).removeprefix("Value error, ")
    given = first.get("input")
    if isinstance(given, bool | int | float) or (isinstance(given, str) and not is_secret_key(location)):
        message += f" (it is {given!r})"
    return ConfigError(message, file=path, key=key)


def is_secret_key(location: list[str]) -> bool:
    return any(part in ("secrets", "event_key", "token") for part in location)


def known_keys(location: list[str]) -> list[str]:
    """The keys of the table at `location`."""
    tables: dict[str, type[Section]] = {
        "receiver": Receiver,
        "operator": Operator,
        "store": StoreSettings,
        "sandbox": Sandbox,
        "destinations": Destination,
        "sources": Source,
    }
    model = tables.get(location[0], Config) if location else Config
    return [name for name in model.model_fields if name != "file"]


def unknown_key_message(key: str, known: list[str]) -> str:
    return f"there is no key {key!r} here{nearest(key, known)}; the keys are {', '.join(known)}"


def nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""
