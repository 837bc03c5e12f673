"""A file of an earlier version, with work in every state, is brought forward whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable
from pathlib import Path

import pytest

from relay.models import DeliveryState, EventState
from relay.stores import sqlite_migrate
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_file import APPLICATION_ID
from relay.stores.sqlite_migrate import SCHEMAS
from relay.stores.sqlite_values import event_hash
from tests.support.store import HOUR_MS, START_MS, Clock, accept_names, claim_all, claim_lane, delivery, event, process

#: id, state, environment now, generation, events, settled; each asked for environment "main".
DELIVERIES = [
    ("received", 0, "main", 0, 0, None),
    ("replayed", 0, "pr-7", 1, 1, None),
    ("processed", 1, "main", 0, 6, START_MS),
    ("filtered", 2, "main", 0, 0, START_MS),
    ("dead", 3, "main", 0, 0, START_MS),
    ("lone \ud800", 0, "main", 0, 0, None),
]
SOURCES = ("github", "stripe")
#: id, lane, state, at_ms, attempt
EVENTS = [
    ("pending", 1, 0, 0, 0),
    ("sent", 1, 1, 0, 1),
    ("dead", 1, 2, 0, 3),
    ("retried", 1, 0, START_MS + 5000, 2),
    ("revived", 2, 0, 0, 0),
    ("other", 2, 0, 0, 0),
]


def text(value: str) -> str | bytes:
    return value if value.isascii() else value.encode("utf-8", "surrogatepass")


def write_version_2(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for schema in SCHEMAS[:2]:
        connection.executescript(schema.read_text())
    connection.executescript(
        f"PRAGMA journal_mode = WAL; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 2;"
    )
    for seq, (name, state, environment, generation, count, settled_ms) in enumerate(DELIVERIES, start=1):
        headers = json.dumps([["X-Name", "value"]]).encode()
        arrived = (
            seq,
            text(name),
            "github",
            text(name),
            START_MS + seq,
            "main",
            "POST",
            "/in/github",
            "",
            headers,
            b"{}",
        )
        connection.execute(f"INSERT INTO deliveries VALUES ({', '.join('?' * 11)})", arrived)
        happened = (seq, state, "github", START_MS + seq, 2, environment, generation, count, settled_ms)
        columns = "seq, state, source, received_ms, body_bytes, environment, generation, event_count, settled_ms"
        connection.execute(f"INSERT INTO delivery_state ({columns}) VALUES ({', '.join('?' * 9)})", happened)
    connection.execute("UPDATE delivery_state SET code = 'script_raised', message = 'boom' WHERE state = 3")
    connection.execute("INSERT INTO lanes VALUES (1, 'default', 'main'), (2, 'default', 'pr-7')")
    for seq, (name, lane, state, at_ms, attempt) in enumerate(EVENTS, start=1):
        row = (seq, 3, 0, seq - 1, name, "github/push", START_MS, START_MS + seq, b'{"id":"x"}')
        connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * 9)})", row)
        columns = "seq, state, lane, source, at_ms, attempt"
        connection.execute(
            f"INSERT INTO event_state ({columns}) VALUES (?, ?, ?, ?, ?, ?)",
            (seq, state, lane, "github", at_ms, attempt),
        )
    for end, name, first_ms in ((START_MS, "long ago", START_MS - 2), (START_MS + HOUR_MS, "lately", START_MS + 5)):
        connection.execute(f"CREATE TABLE seen_{end} (hash BLOB PRIMARY KEY, first_ms INTEGER) WITHOUT ROWID")
        connection.execute(f"INSERT INTO seen_{end} VALUES (?, ?)", (event_hash("default", None, name), first_ms))
    connection.execute("INSERT INTO secrets (source, secret, kept_ms) VALUES ('asana', 's', 1)")
    connection.close()


def opening(path: Path, clock: Clock) -> Awaitable[SqliteStore]:
    return SqliteStore.open(path, clock_ms=clock, dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=1 << 26)


async def test_a_file_of_version_2_with_work_in_every_state(tmp_path: Path) -> None:
    write_version_2(tmp_path / "relay.db")
    clock = Clock(START_MS + 100)
    for _ in range(2):
        store = await opening(tmp_path / "relay.db", clock)
        stats = await store.stats()
        assert stats.deliveries == {"received": 3, "processed": 1, "filtered": 1, "dead": 1}
        assert stats.events == {"pending": 4, "sent": 1, "dead": 1}
        records = {each.id: each for each in await store.list_deliveries()}
        assert {name: (each.state, each.environment, each.generation) for name, each in records.items()} == {
            name: (tuple(DeliveryState)[state], environment, generation)
            for name, state, environment, generation, _, _ in DELIVERIES
        }
        assert [records[name].settled_ms for name in ("received", "filtered")] == [None, START_MS]
        assert (records["processed"].event_count, records["dead"].code) == (6, "script_raised")
        assert {each.id: (each.state, each.attempt) for each in await store.list_events()} == {
            name: (tuple(EventState)[state], attempt) for name, _, state, _, attempt in EVENTS
        }
        assert await store.kept_secrets("asana") == ("s",)
        claims = await claim_all(store)
        assert [(each.delivery.id, each.delivery.environment) for each in claims] == [
            ("received", "main"),
            ("replayed", "pr-7"),
            ("lone \ud800", "main"),
        ]
        assert claims[0].delivery.request.headers == ((b"X-Name", b"value"),)
        assert [each.id for each in await claim_lane(store, "main")] == ["pending"]
        assert [each.id for each in await claim_lane(store, "pr-7")] == ["revived", "other"]
        await store.close()


async def test_keys_and_ids_of_version_2_stay_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_migrate, "PORTION", 2)
    write_version_2(tmp_path / "relay.db")
    clock = Clock(START_MS + 24 * HOUR_MS - 1)
    store = await opening(tmp_path / "relay.db", clock)
    copies = [delivery(f"copy of {name}", key=name, environment="main") for name, *_ in DELIVERIES]
    answers = await store.accept([*copies, delivery("new", key="received", environment=None)])
    assert [answer.id for answer in answers] == [*(name for name, *_ in DELIVERIES), "new"]
    assert await store.prune(0) == 0
    (claim,) = [claim for claim in await claim_all(store) if claim.delivery.id == "new"]
    done = await store.finish_delivery(claim, [event("long ago"), event("lately"), event("never")])
    assert (done.stored, done.duplicates) == (2, ("lately",))
    await store.close()
    connection = sqlite3.connect(tmp_path / "relay.db")
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    connection.close()
    assert not [name for name in names if name.startswith("seen_") or name == "delivery_by_key"]


async def test_a_migration_that_fails_leaves_the_old_version_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version_2(tmp_path / "relay.db")

    def fail(connection: sqlite3.Connection) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(sqlite_migrate.STEPS, 3, (sqlite_migrate.carry_keys, fail))
        with pytest.raises(KeyboardInterrupt):
            sqlite_migrate.migrate(sqlite3.connect(tmp_path / "relay.db", isolation_level=None), APPLICATION_ID)
    store = await opening(tmp_path / "relay.db", Clock())
    assert (await store.stats()).deliveries == {"received": 3, "processed": 1, "filtered": 1, "dead": 1}
    await accept_names(store, "d9")
    await process(store, "d10", [])
    await store.close()


async def test_deliveries_of_version_3_become_blocks(tmp_path: Path) -> None:
    """Some were pruned, some are large, one stands alone: each is what it was, under its seq."""
    connection = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
    for schema in SCHEMAS[:3]:
        connection.executescript(schema.read_text())
    connection.executescript(
        f"PRAGMA journal_mode = WAL; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 3;"
    )
    seqs = [seq for seq in range(5, 200) if seq % 17] + [1000]
    bodies = {seq: b"%d" % seq * (20_000 if seq % 10 == 0 else 1) for seq in seqs}
    for seq in seqs:
        headers = b"\0X-Name\0value %d" % seq
        row = (
            seq,
            f"delivery-{seq}",
            SOURCES[seq % 2],
            None,
            START_MS + seq,
            None,
            "POST",
            "/in/x",
            "",
            headers,
            bodies[seq],
        )
        connection.execute(f"INSERT INTO deliveries VALUES ({', '.join('?' * 11)})", row)
    connection.execute("INSERT INTO delivery_state (seq, state, received_ms, body_bytes) VALUES (1000, 2, 0, 1)")
    connection.close()

    store = await opening(tmp_path / "relay.db", Clock(START_MS + 1000))
    newest_first = [f"delivery-{seq}" for seq in reversed(seqs)]
    assert [each.id for each in await store.list_deliveries(limit=1000)] == newest_first
    assert [each.id for each in await store.list_deliveries(source="stripe", limit=1000)] == [
        f"delivery-{seq}" for seq in reversed(seqs) if seq % 2
    ]
    for seq in seqs:
        record = await store.get_delivery(f"delivery-{seq}")
        assert record is not None
        assert record.request is not None
        assert record.request.body == bodies[seq]
        assert record.request.headers == ((b"X-Name", b"value %d" % seq),)
        assert record.received_ms == START_MS + seq
    claims = await claim_all(store, *SOURCES, limit=1000)
    assert {each.delivery.id for each in claims} == set(newest_first) - {"delivery-1000"}
    await accept_names(store, "new")
    assert [each.id for each in await store.list_deliveries(limit=2)] == ["new", "delivery-1000"]
    await store.close()
