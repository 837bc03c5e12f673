"""The way to the records: the running relay's operator API when it answers, else the store's file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from relay.app import open_store
from relay.commands.output import Output
from relay.config import Config
from relay.errors import ConfigError, StoreUnavailable
from relay.operator_client import Refused, RemoteRecords
from relay.presets import Preset
from relay.records import Records

AnyRecords: TypeAlias = Records | RemoteRecords


@asynccontextmanager
async def open_records(config: Config, output: Output, *, write: bool = False) -> AsyncIterator[AnyRecords]:
    """Records to read, or with `write` to change too. Raises StoreUnavailable when there is no way to them."""
    remote = RemoteRecords(config.operator)
    if await relay_answers(remote, config, output):
        yield remote
        return
    if not config.store_path.exists():
        raise StoreUnavailable(f"no relay answers at {remote.base}, and there is no store at {config.store_path} yet")
    async with open_file(config, write=write) as records:
        yield records


@asynccontextmanager
async def open_file(config: Config, *, write: bool = False) -> AsyncIterator[Records]:
    """The store's file; without `write` beside a running relay too. Raises StoreUnavailable when it cannot be used."""
    try:
        store = await open_store(config, read_only=not write)
    except ConfigError as error:  # there is none, somebody else owns it, or it is no store of this version's
        raise StoreUnavailable(str(error)) from error
    try:
        yield Records(store)
    finally:
        await store.close()


async def secrets_of(config: Config, name: str, preset: Preset) -> tuple[str, ...]:
    """A source's secrets: the configured ones, and those that came in handshakes, from the store's file."""
    configured = config.sources[name].secrets
    if not preset.keeps_secrets or not config.store_path.exists():
        return configured
    async with open_file(config) as records:
        return (*configured, *await records.store.kept_secrets(name))


async def relay_answers(remote: RemoteRecords, config: Config, output: Output) -> bool:
    if config.operator.port == 0:
        return False  # it could be anywhere
    try:
        return await remote.answers()
    except Refused as error:
        if error.code != "not_a_relay":
            raise
        output.note(f"{error}; reading the store's file instead")
        return False
