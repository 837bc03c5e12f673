"""The tables of relay.toml as frozen models: their keys, defaults and limits. config.py puts them together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from relay.config_values import check_environment, check_url, is_loopback

CLOUD_URL: Final = "https://inn.gs"
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
    fast_lane: bool = True
    clock_s: Annotated[float, Field(ge=0, lt=1e11)] | None = None

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
    wait_seconds_max: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    writer: Literal["auto", "thread", "process"] = "auto"

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
    isolation: Literal["auto", "one-shot"] = "auto"


class Keys(Section):
    """How public keys are fetched from providers' servers."""

    request_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    cache_hours: Annotated[float, Field(gt=0, le=24 * 7)] = 24.0
    proxy: str | None = None
    ca_file: Path | None = None

    @field_validator("ca_file", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return Path(value) if isinstance(value, str) and value else value

    @field_validator("proxy")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value)


class RejectedPen(Section):
    """What is kept of rejected requests, per source; 0 keeps nothing."""

    count_max: Annotated[int, Field(ge=0, le=10_000)] = 100
    bytes_max: Annotated[int, Field(ge=0, le=1024 * MIB)] = 4 * MIB
    hours: Annotated[float, Field(ge=0, le=24 * 365)] = 72.0


class Destination(Section):
    url: str = CLOUD_URL
    event_key: str | None = None
    environment: str | None = None
    batch_events_max: Annotated[int, Field(ge=1, le=4999)] = 512
    batch_bytes_max: Annotated[int, Field(ge=1024, le=10 * MIB)] = 512 * KIB
    event_bytes_max: Annotated[int, Field(ge=1024, le=3 * MIB)] = 3 * MIB
    batch_wait_ms: Annotated[int, Field(ge=0, le=10_000)] = 20
    batches_max: Annotated[int, Field(ge=1, le=32)] = 2
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
    url: str | None = None
    scheme: dict[str, Any] = Field(default_factory=dict)

    @field_validator("secrets", "environments_allowed", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("transform", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return Path(value) if isinstance(value, str) and value else value

    @field_validator("url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value)

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
