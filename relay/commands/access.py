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
    try:
        store = await open_store(config, read_only=not write)
    except ConfigError as error:  # somebody else owns the file, or it is no store of this version's
        raise StoreUnavailable(str(error)) from error
    try:
        yield Records(store)
    finally:
        await store.close()


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
