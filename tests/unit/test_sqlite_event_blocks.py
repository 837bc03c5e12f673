"""The JSON of events shares rows: each is found by itself all the same, and what is pruned leaves the others."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import pytest

from relay.models import Event
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_event_blocks import ELSEWHERE
from relay.stores.sqlite_squeeze import unsqueeze
from tests.support.store import START_MS, Clock, claim_all, claim_lane, delivery, died, event, process, sent

ENVIRONMENTS = (None, "pr-1", "pr-2")


def opening(folder: Path) -> Awaitable[SqliteStore]:
    path = folder / "relay.db"
    return SqliteStore.open(path, clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=1 << 28)


def blocks_in(folder: Path) -> list[tuple[int, int, list[bytes | None]]]:
    """(first, last, what is in it) of each, as another process sees it."""
    connection = sqlite3.connect(folder / "relay.db")
    rows = connection.execute("SELECT first, block, jsons FROM event_blocks ORDER BY block").fetchall()
    connection.close()
    return [
        (first, last, msgspec.msgpack.decode(unsqueeze(jsons, "event_blocks", last))) for first, last, jsons in rows
    ]


def made_up(chance: random.Random, name: str) -> Event:
    """Mostly small, now and then larger than a block."""
    size = chance.choice((0, 300, 20_000, 150_000 if chance.random() < 0.2 else 1))
    text = json.dumps({"id": name, "name": "a/b", "ts": START_MS, "data": chance.randbytes(size // 2).hex()})
    return Event(name, "a/b", START_MS, text.encode(), "default", chance.choice(ENVIRONMENTS))


@pytest.mark.parametrize("seed", range(4))
async def test_every_event_is_found_whatever_went_before_it(tmp_path: Path, seed: int) -> None:
    """A model: finish with events, of which some are duplicates; settle; prune; open again, in any order."""
    chance = random.Random(seed)
    store = await opening(tmp_path)
    made: dict[str, Event] = {}  # by ref
    names: set[tuple[str | None, str]] = set()
    number = 0
    for _ in range(50):
        what = chance.choice(("finish", "finish", "settle", "prune", "reopen"))
        if what == "finish":
            count = chance.choice((1, 5, 70))
            await store.accept([delivery(f"d{number + place}") for place in range(count)])
            number += count
            finishes = []
            for claim in await claim_all(store, limit=1000):
                events = [made_up(chance, f"e{chance.randrange(2000)}") for _ in range(chance.choice((0, 1, 1, 3)))]
                finishes.append((claim, events))
                for position, each in enumerate(events):
                    if (each.environment, each.id) not in names:
                        names.add((each.environment, each.id))
                        made[f"{claim.delivery.id}.{position}"] = each
            await store.finish_deliveries(finishes)
        elif what == "settle":
            for environment in ENVIRONMENTS:
                claims = await claim_lane(store, environment, limit=chance.randrange(1, 90))
                for claimed in claims:
                    of_it = made[claimed.ref]
                    assert (claimed.json, environment) == (of_it.json, of_it.environment)
                await store.settle([chance.choice((sent, died))(claimed) for claimed in claims])
        elif what == "prune":
            await store.prune(START_MS + 1, limit=chance.randrange(1, 30))
        else:
            await store.close()
            store = await opening(tmp_path)
    kept = 0
    for ref, each in made.items():
        is_kept = await store.get_delivery(ref.partition(".")[0]) is not None
        record = await store.get_event(ref)
        assert (None if record is None else record.json) == (each.json if is_kept else None)
        kept += is_kept
    await store.close()
    assert 0 < kept < len(made)
    jsons = [json for first, last, jsons in blocks_in(tmp_path) for json in jsons if json is not None]
    assert len(jsons) == kept, "what was pruned has left no byte"
    assert all(first + len(jsons) - 1 == last for first, last, jsons in blocks_in(tmp_path))


async def test_a_block_whose_events_are_all_pruned_goes(tmp_path: Path) -> None:
    store = await opening(tmp_path)
    for name in ("d1", "d2"):
        await process(store, name, [event(f"{name}-{place}") for place in range(3)])
    assert [(first, last) for first, last, _ in blocks_in(tmp_path)] == [(1, 3), (4, 6)]
    claims = await claim_lane(store)
    await store.settle([sent(each) for each in claims if each.id != "d2-1"])
    assert await store.prune(START_MS + 1) == 1
    assert [(first, last) for first, last, _ in blocks_in(tmp_path)] == [(4, 6)]
    await store.close()


async def test_a_copy_has_its_own_json(tmp_path: Path) -> None:
    store = await opening(tmp_path)
    await process(store, "d1", [event("e1")])
    await store.settle([sent(each) for each in await claim_lane(store)])
    assert (await store.replay(["d1.0"], again=True)).replayed == ("d1.r1.0",)
    (copy,) = await claim_lane(store)
    assert json.loads(copy.json) == {**json.loads(event("e1").json), "id": "e1:again-1"}
    original = await store.get_event("d1.0")
    assert original is not None
    assert original.json == event("e1").json
    await store.close()


async def test_events_of_version_6_are_sent_and_pruned_as_they_are(tmp_path: Path) -> None:
    """Their rows hold their JSON, and no block does; those after them have blocks."""
    store = await opening(tmp_path)
    await process(store, "old", [event("old-0"), event("old-1")])
    await store.close()
    connection = sqlite3.connect(tmp_path / "relay.db")
    assert connection.execute("SELECT DISTINCT json FROM events").fetchall() == [(ELSEWHERE,)]
    with connection:
        for seq in (1, 2):
            connection.execute("UPDATE events SET json = ? WHERE seq = ?", (event(f"old-{seq - 1}").json, seq))
        connection.execute("DROP TABLE event_blocks")
        connection.execute("PRAGMA user_version = 6")
    connection.close()

    store = await opening(tmp_path)
    await process(store, "new", [event("new-0")])
    claims = await claim_lane(store)
    assert {each.ref: each.json for each in claims} == {
        "old.0": event("old-0").json,
        "old.1": event("old-1").json,
        "new.0": event("new-0").json,
    }
    await store.settle([sent(each) for each in claims])
    record = await store.get_event("old.1")
    assert record is not None
    assert record.json == event("old-1").json
    assert await store.prune(START_MS + 1, limit=1) == 1
    assert blocks_in(tmp_path) == [(3, 3, [event("new-0").json])]
    assert await store.prune(START_MS + 1, limit=1) == 1
    assert blocks_in(tmp_path) == []
    await store.close()
