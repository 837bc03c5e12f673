"""Bringing a file forward to the version that this program writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from relay.models import Delivery, Request
from relay.stores.sqlite_blocks import BLOCK_BYTES_MAX, BLOCK_DELIVERIES_MAX, pack, places_of
from relay.stores.sqlite_known import Known
from relay.stores.sqlite_values import bindable, bound, key_hash, text, text_or_none, unpack_headers

#: Entry n takes a file from version n to n + 1.
SCHEMAS: Final = tuple(
    Path(__file__).with_name(name)
    for name in (
        "schema.sql",
        "schema_secrets.sql",
        "schema_happened.sql",
        "schema_blocks.sql",
        "schema_block_ids.sql",
        "schema_squeezed.sql",
        "schema_event_blocks.sql",
    )
)
VERSION: Final = len(SCHEMAS)
#: What is known is written in portions, so that a big file needs no big memory.
PORTION: Final = 10_000
#: The time that one partition of the ids spans, as in the usual window of a day; the next ones as the settings say.
SPAN_MS: Final = 3 * 3_600_000


def migrate(connection: sqlite3.Connection, application_id: int) -> None:
    """Each step in one transaction of its own: a crash leaves a whole version."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    for number, schema in enumerate(SCHEMAS[version:], start=version + 1):
        before, after = STEPS.get(number, (nothing, nothing))
        connection.execute("BEGIN IMMEDIATE")
        try:
            before(connection)
            for statement in statements(schema.read_text("utf-8")):
                connection.execute(statement)
            after(connection)
            connection.execute(f"PRAGMA application_id = {application_id}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def statements(script: str) -> Iterable[str]:
    """The statements of a schema file one by one, each ending where SQLite says that it is complete."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def nothing(connection: sqlite3.Connection) -> None:
    """Most steps need no more than their schema."""


def carry_keys(connection: sqlite3.Connection) -> None:
    """Version 2 knew the keys of deliveries by a unique index, which is about to go."""
    sql = "SELECT seq, source, key, environment FROM deliveries WHERE key IS NOT NULL ORDER BY seq"
    rows = connection.execute(sql)
    fill(
        Known(connection, "keys", None),
        ((key_hash(text(source), text_or_none(asked) or "", text(key)), seq) for seq, source, key, asked in rows),
    )


def carry_seen(connection: sqlite3.Connection) -> None:
    """Version 2 kept the ids of events in tables seen_<end>."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE name GLOB 'seen_[0-9]*'").fetchall()
    ends = sorted(int(name.removeprefix("seen_")) for (name,) in names)
    known = Known(connection, "ids", SPAN_MS)
    for end in ends:
        fill(known, connection.execute(f"SELECT hash, first_ms FROM seen_{end} ORDER BY first_ms"))  # noqa: S608  a number
    for end in ends:
        connection.execute(f"DROP TABLE seen_{end}")


def fill(known: Known, entries: Iterable[tuple[bytes, int]]) -> None:
    for count, (digest, number) in enumerate(entries, start=1):
        known.add(digest, number)
        if count % PORTION == 0:
            known.before_commit()
            known.committed()
    known.before_commit()
    known.committed()


def carry_deliveries(connection: sqlite3.Connection) -> None:
    """Version 3 had a row for each delivery."""
    columns = "seq, id, source, key, received_ms, environment, method, path, query, headers, body"
    block: list[Delivery] = []
    first = size_bytes = 0
    for seq, *values in connection.execute(f"SELECT {columns} FROM deliveries ORDER BY seq"):  # noqa: S608  the text above
        size_bytes += len(values[-1])
        if len(block) == BLOCK_DELIVERIES_MAX or size_bytes > BLOCK_BYTES_MAX or seq != first + len(block):
            write_block(connection, first, block)
            block, first, size_bytes = [], seq, len(values[-1])
        block.append(delivery_of(values))
    write_block(connection, first, block)
    connection.execute("DROP TABLE deliveries")


def write_block(connection: sqlite3.Connection, first: int, deliveries: Sequence[Delivery]) -> None:
    """As version 4 had them: not squeezed."""
    if not deliveries:
        return
    last = first + len(deliveries) - 1
    block = last, first, pack(deliveries), b"".join([delivery.request.body for delivery in deliveries])
    connection.execute("INSERT INTO blocks (block, first, heads, bodies) VALUES (?, ?, ?, ?)", block)
    connection.executemany(
        "INSERT INTO block_sources (source, block, first, places, count) VALUES (?, ?, ?, ?, ?)",
        [(bindable(source), last, first, held, held.bit_count()) for source, held in places_of(deliveries).items()],
    )
    ids = [(bound(delivery.id), seq) for seq, delivery in enumerate(deliveries, first)]
    connection.executemany("INSERT INTO delivery_ids (id, seq) VALUES (?, ?)", ids)


def delivery_of(values: Sequence[Any]) -> Delivery:
    """A row of version 3, without its seq."""
    name, source, key, received_ms, environment, method, path, query, headers, body = values
    request = Request(text(method), text(path), text(query), unpack_headers(headers), body)
    return Delivery(text(name), text(source), text_or_none(key), received_ms, request, text_or_none(environment))


#: What is done before and after a step's schema, in its transaction.
STEPS: Final[dict[int, tuple[Callable[[sqlite3.Connection], None], Callable[[sqlite3.Connection], None]]]] = {
    3: (carry_keys, carry_seen),
    4: (nothing, carry_deliveries),
}
