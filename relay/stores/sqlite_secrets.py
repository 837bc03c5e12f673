"""Secrets that came in handshakes: kept in the file, and all of them in memory, because every request asks for them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import partial
from typing import Final

from relay.models import KeptSecret, Pairing
from relay.stores.base import SECRETS_MAX
from relay.stores.sqlite_core import SqliteCore
from relay.stores.sqlite_reads import ROW_BYTES
from relay.stores.sqlite_session import Session
from relay.stores.sqlite_values import bound, text

LISTED_MAX: Final = 1_000
OF_SOURCE: Final = "SELECT id, source, secret, kept_ms FROM secrets WHERE source = ? ORDER BY id DESC"
ALL: Final = "SELECT id, source, secret, kept_ms FROM secrets ORDER BY id DESC"
OPEN_NOW: Final = """
    SELECT source, opened_ms, until_ms FROM pairings WHERE opened_ms <= ? AND until_ms > ? ORDER BY source LIMIT ?"""
IS_OPEN: Final = "SELECT 1 FROM pairings WHERE source = ? AND opened_ms <= ? AND until_ms > ?"
OPEN: Final = """
    INSERT INTO pairings (source, opened_ms, until_ms) VALUES (?, ?, ?)
    ON CONFLICT (source) DO UPDATE SET opened_ms = excluded.opened_ms, until_ms = excluded.until_ms"""


@dataclass(slots=True)
class Kept:
    """The answer to keep_secret, and what the source has afterwards."""

    secret: KeptSecret | None
    of_source: list[KeptSecret]


@dataclass(slots=True)
class Gone:
    """How many secrets went, and what the source has left."""

    count: int
    left: list[KeptSecret]


class SqliteSecrets(SqliteCore):
    """`_books.secrets` has what the last commit left; only the callbacks of commits change it."""

    async def keep_secret(
        self, source: str, secret: str, now_ms: int, *, configured: bool = False
    ) -> KeptSecret | None:
        """See Store."""
        run = partial(keep, source=source, secret=secret, now_ms=now_ms, configured=configured)
        kept = await self._owner.submit(
            run, apply=lambda kept: self._set(source, kept.of_source), size_bytes=ROW_BYTES + len(secret), grows=True
        )
        return kept.secret

    async def kept_secrets(self, source: str) -> tuple[str, ...]:
        """See Store."""
        return tuple(kept.secret for kept in self._books.secrets.get(source, ()))

    async def list_secrets(self, source: str | None = None) -> list[KeptSecret]:
        """See Store."""
        names = sorted(self._books.secrets) if source is None else [source]
        found = [kept for name in names for kept in self._books.secrets.get(name, ())]
        return found[:LISTED_MAX]

    async def forget_secrets(self, source: str, secret_id: int | None = None) -> int:
        """See Store."""
        run = partial(forget, source=source, secret_id=secret_id)
        gone = await self._owner.submit(run, apply=lambda gone: self._set(source, gone.left), size_bytes=ROW_BYTES)
        return gone.count

    async def open_pairing(self, pairing: Pairing) -> None:
        """See Store."""
        await self._owner.submit(partial(open_pairing, pairing=pairing), size_bytes=ROW_BYTES, grows=True)

    async def list_pairings(self, now_ms: int) -> list[Pairing]:
        """See Store."""
        return await self._people.read(partial(read_pairings, now_ms=now_ms))

    def _set(self, source: str, kept: list[KeptSecret]) -> None:
        self._books.secrets[source] = kept
        if not kept:
            del self._books.secrets[source]


def keep(session: Session, source: str, secret: str, now_ms: int, configured: bool) -> Kept:
    known = read_secrets(session.connection, source)
    for kept in known:
        if kept.secret == secret:
            return Kept(kept, known)
    if len(known) >= SECRETS_MAX or ((known or configured) and not is_open(session, source, now_ms)):
        return Kept(None, known)
    sql = "INSERT INTO secrets (source, secret, kept_ms) VALUES (?, ?, ?)"
    number = session.execute(sql, (bound(source), bound(secret), now_ms)).lastrowid
    new = KeptSecret(number or 0, source, secret, now_ms)
    return Kept(new, [new, *known])


def is_open(session: Session, source: str, now_ms: int) -> bool:
    return session.execute(IS_OPEN, (bound(source), now_ms, now_ms)).fetchone() is not None


def forget(session: Session, source: str, secret_id: int | None) -> Gone:
    sql = "DELETE FROM secrets WHERE source = ? AND (id = ? OR ? IS NULL)"
    count = session.execute(sql, (bound(source), secret_id, secret_id)).rowcount
    return Gone(count, read_secrets(session.connection, source))


def open_pairing(session: Session, pairing: Pairing) -> None:
    session.execute("DELETE FROM pairings WHERE until_ms <= ?", (pairing.opened_ms,))
    session.execute(OPEN, (bound(pairing.source), pairing.opened_ms, pairing.until_ms))


def read_all_secrets(connection: sqlite3.Connection) -> dict[str, list[KeptSecret]]:
    """For the books: by source, the newest first."""
    found: dict[str, list[KeptSecret]] = {}
    for kept in kept_of(connection.execute(ALL)):
        found.setdefault(kept.source, []).append(kept)
    return found


def read_secrets(connection: sqlite3.Connection, source: str) -> list[KeptSecret]:
    return kept_of(connection.execute(OF_SOURCE, (bound(source),)))


def kept_of(rows: sqlite3.Cursor) -> list[KeptSecret]:
    return [KeptSecret(number, text(source), text(secret), kept_ms) for number, source, secret, kept_ms in rows]


def read_pairings(connection: sqlite3.Connection, now_ms: int) -> list[Pairing]:
    rows = connection.execute(OPEN_NOW, (now_ms, now_ms, LISTED_MAX))
    return [Pairing(text(source), opened_ms, until_ms) for source, opened_ms, until_ms in rows]
