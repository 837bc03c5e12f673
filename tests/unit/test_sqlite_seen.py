"""The dedupe window forgets by dropping tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from relay.stores.sqlite_seen import TABLES_PER_WINDOW, Seen, event_hash
from tests.support.store import HOUR_MS, START_MS


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0])


def test_the_number_of_tables_stays_bounded_and_falls_to_none(connection: sqlite3.Connection) -> None:
    seen = Seen(connection, 24 * HOUR_MS)
    for hour in range(24 * 10):
        assert seen.is_new("default", None, f"e{hour}", START_MS + hour * HOUR_MS)
        assert tables(connection) <= TABLES_PER_WINDOW + 2
    while seen.drop_expired(START_MS + 20 * 24 * HOUR_MS):
        pass
    assert tables(connection) == 0


def test_nothing_is_forgotten_before_the_window_ends(connection: sqlite3.Connection) -> None:
    seen = Seen(connection, 24 * HOUR_MS)
    assert seen.is_new("default", None, "e", START_MS)
    while seen.drop_expired(START_MS + 24 * HOUR_MS - 1):
        pass
    assert not seen.is_new("default", None, "e", START_MS + 24 * HOUR_MS - 1)


def test_a_clock_that_goes_back_keeps_ids_known(connection: sqlite3.Connection) -> None:
    seen = Seen(connection, 24 * HOUR_MS)
    assert seen.is_new("default", None, "e", START_MS)
    assert not seen.is_new("default", None, "e", START_MS - 5 * HOUR_MS)


def test_another_window_after_a_restart_reads_the_old_tables(connection: sqlite3.Connection) -> None:
    assert Seen(connection, 24 * HOUR_MS).is_new("default", None, "e", START_MS)
    shorter = Seen(connection, HOUR_MS)
    assert not shorter.is_new("default", None, "e", START_MS + HOUR_MS - 1)
    assert shorter.is_new("default", None, "e", START_MS + HOUR_MS)
    assert not shorter.is_new("default", None, "e", START_MS + HOUR_MS + 1)


def test_a_rollback_takes_table_and_id_back(connection: sqlite3.Connection) -> None:
    seen = Seen(connection, HOUR_MS)
    connection.execute("BEGIN")
    assert seen.is_new("default", None, "e", START_MS)
    connection.execute("ROLLBACK")
    seen.forget()
    assert seen.is_new("default", None, "e", START_MS)
    assert not seen.is_new("default", None, "e", START_MS)


def test_the_hash_keeps_names_apart() -> None:
    names = [("a", "b", "c"), ("ab", "", "c"), ("ab", None, "c"), ("a", None, "bc"), ("a", "bc", "")]
    assert len({event_hash(*each) for each in names}) == len(names)
