"""Deliveries share rows: each is found by itself all the same, and what is pruned leaves the others as they were."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.models import ClaimedDelivery, Delivery, DeliveryState, Request
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_blocks import (
    BLOCK_BYTES_MAX,
    BLOCK_DELIVERIES_MAX,
    START_CHARACTERS,
    Blocks,
    ends_of,
    places_of,
    seq_of,
)
from relay.stores.sqlite_squeeze import unsqueeze
from tests.support.store import START_MS, Clock, delivery, event

SOURCES = ("github", "stripe", "quiet", "lone \ud800")
KIB = 1024


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await opening(tmp_path)
    yield opened
    await opened.close()


async def opening(folder: Path) -> SqliteStore:
    path = folder / "relay.db"
    return await SqliteStore.open(
        path, clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=1 << 28
    )


def blocks_in(folder: Path) -> list[tuple[int, int]]:
    """(first, last) of each, as another process sees it."""
    connection = sqlite3.connect(folder / "relay.db")
    found = connection.execute("SELECT first, block FROM blocks ORDER BY block").fetchall()
    connection.close()
    return found


# ── what goes together ──


@given(st.lists(st.integers(0, 2 * BLOCK_BYTES_MAX), max_size=300))
def test_a_block_is_bounded_and_none_could_be_joined_with_the_next(sizes: list[int]) -> None:
    ends = list(ends_of(sizes))
    blocks = [sizes[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert [size for block in blocks for size in block] == sizes
    for number, block in enumerate(blocks):
        assert 1 <= len(block) <= BLOCK_DELIVERIES_MAX
        assert sum(block) <= BLOCK_BYTES_MAX or len(block) == 1
        if number + 1 < len(blocks) and len(block) < BLOCK_DELIVERIES_MAX:
            assert sum(block) + blocks[number + 1][0] > BLOCK_BYTES_MAX


@given(st.lists(st.sampled_from(SOURCES), max_size=BLOCK_DELIVERIES_MAX))
def test_places_say_which_delivery_is_of_which_source(sources: list[str]) -> None:
    places = places_of([delivery("d", source=source) for source in sources])
    assert sum(places.values()) == 2 ** len(sources) - 1 < 2**63, "each has one, and SQLite's integers hold them"
    for place, source in enumerate(sources):
        assert places[source] >> place & 1


# ── through the store ──


def made_up(chance: random.Random, number: int) -> Delivery:
    """Of any source; mostly small, now and then larger than a block; with whatever a sender may write."""
    size = chance.choice((0, 1, 300, 2 * KIB, 20 * KIB, BLOCK_BYTES_MAX + 1 if chance.random() < 0.1 else 5))
    odd = chance.choice(("", "ü", "\ud800", "\0"))
    headers = tuple((b"X-%d" % each, chance.choice((b"", b"v", b"\xff\0"))) for each in range(chance.randrange(4)))
    request = Request("POST", f"/in/x{odd}", f"q={odd}", headers, chance.randbytes(size))
    key = None if chance.random() < 0.2 else f"key {number} {odd}"
    environment = chance.choice((None, f"pr-{odd}"))
    name = f"start {number // 50:03d}{number:06d}{odd}"  # many begin alike, also in different blocks
    return Delivery(name, chance.choice(SOURCES), key, START_MS + number, request, environment)


@pytest.mark.parametrize("seed", range(6))
async def test_every_delivery_is_found_whatever_went_before_it(tmp_path: Path, seed: int) -> None:
    """A model: accept, finish, prune, open again, in any order; then everything is where the model has it."""
    chance = random.Random(seed)
    store, held = await opening(tmp_path), list[ClaimedDelivery]()
    kept: dict[str, Delivery] = {}
    states: dict[str, DeliveryState] = {}
    for _ in range(60):
        what = chance.choice(("accept", "accept", "claim", "finish", "finish", "prune", "reopen"))
        if what == "accept":
            new = [made_up(chance, len(states) + number) for number in range(chance.choice((1, 3, 70)))]
            answers = await store.accept(new)
            assert [answer.id for answer in answers] == [each.id for each in new]
            again = [each for each in chance.sample(list(kept.values()), min(3, len(kept))) if each.key is not None]
            copies = [Delivery("copy", each.source, each.key, 0, each.request, each.environment) for each in again]
            assert [answer.id for answer in await store.accept(copies)] == [each.id for each in again]
            kept |= {each.id: each for each in new}
            states |= dict.fromkeys((each.id for each in new), DeliveryState.RECEIVED)
        elif what == "claim":
            held += await store.claim_deliveries(40, 60, dict.fromkeys(SOURCES, 20))
        elif what == "finish":
            done, held = held[: len(held) // 2], held[len(held) // 2 :]
            for claim in done:
                assert claim.delivery == kept[claim.delivery.id]
                states[claim.delivery.id] = DeliveryState.FILTERED
            await store.finish_deliveries([(claim, []) for claim in done])
        elif what == "prune":
            before_ms = START_MS + chance.randrange(len(states) + 1)
            gone = {
                name
                for name, each in kept.items()
                if states[name] is DeliveryState.FILTERED and each.received_ms < before_ms
            }
            pruned = 0
            while count := await store.prune(before_ms, limit=25):
                pruned += count
            assert pruned == len(gone)
            kept = {name: each for name, each in kept.items() if name not in gone}
        else:
            await store.close()
            store, held = await opening(tmp_path), []
    await assert_like_model(store, kept, states)
    await store.close()
    assert_starts(tmp_path, kept)


def assert_starts(folder: Path, kept: dict[str, Delivery]) -> None:
    """Each block has a row for every way in which its ids begin, and none for those that are gone."""
    connection = sqlite3.connect(folder / "relay.db")
    blocks, found = Blocks(connection), set[tuple[int, str]]()
    for name in kept:
        seq = seq_of(connection, name)
        block = None if seq is None else blocks.of(seq)
        assert block is not None
        found.add((block.last, name[:START_CHARACTERS]))
    assert set(connection.execute("SELECT block, start FROM block_ids")) == found
    connection.close()


async def assert_like_model(store: SqliteStore, kept: dict[str, Delivery], states: dict[str, DeliveryState]) -> None:
    for name in states:
        record = await store.get_delivery(name)
        if name not in kept:
            assert record is None
            continue
        assert record is not None
        made_of = kept[name]
        assert record.request == made_of.request
        assert (record.source, record.key, record.environment) == (made_of.source, made_of.key, made_of.environment)
        assert (record.state, record.received_ms) == (states[name], made_of.received_ms)
        assert record.body_bytes == len(made_of.request.body)
    for source in (None, *SOURCES):
        for state in (None, *DeliveryState):
            listed, last = list[str](), None
            while page := await store.list_deliveries(source=source, state=state, before=last, limit=7):
                listed += [record.id for record in page]
                last = page[-1].id
            newest = sorted(kept, key=lambda name: kept[name].received_ms, reverse=True)
            wanted = [n for n in newest if source in (None, kept[n].source) and state in (None, states[n])]
            assert listed == wanted, (source, state)
    stats = await store.stats()
    assert stats.deliveries["received"] == sum(states[name] is DeliveryState.RECEIVED for name in kept)


async def test_pruned_deliveries_leave_no_byte_behind(tmp_path: Path, store: SqliteStore) -> None:
    await store.accept([delivery(f"d{number}", body=b"%d" % number * 900) for number in range(20)])
    claims = await store.claim_deliveries(20, 60, {"github": 20})
    for claim in claims:
        if claim.delivery.id != "d7":
            await store.finish_delivery(claim, [event(f"e-{claim.delivery.id}")] if claim.delivery.id == "d8" else [])
    assert await store.prune(START_MS + 1) == 18
    connection = sqlite3.connect(tmp_path / "relay.db")
    (bodies,) = connection.execute("SELECT bodies FROM blocks").fetchone()
    count = connection.execute("SELECT count FROM block_sources").fetchone()[0]
    names = {name for (name,) in connection.execute("SELECT start FROM block_ids")}
    connection.close()
    assert (unsqueeze(bodies, "blocks", 20), count, names) == (b"7" * 900 + b"8" * 900, 2, {"d7", "d8"})
    answers = await store.accept([delivery("later", key="d3"), delivery("copy", key="d8")])
    assert [(answer.id, answer.duplicate) for answer in answers] == [("later", False), ("d8", True)]


async def test_a_block_whose_deliveries_are_all_pruned_goes(tmp_path: Path, store: SqliteStore) -> None:
    await store.accept([delivery(f"d{number}", source=SOURCES[number % 2]) for number in range(10)])
    await store.accept([delivery("after")])
    assert blocks_in(tmp_path) == [(1, 10), (11, 11)]
    claims = await store.claim_deliveries(100, 60, dict.fromkeys(SOURCES, 100))
    await store.finish_deliveries([(claim, []) for claim in claims if claim.delivery.id != "after"])
    while await store.prune(START_MS + 1, limit=3):
        pass
    assert blocks_in(tmp_path) == [(11, 11)]
    connection = sqlite3.connect(tmp_path / "relay.db")
    found = Blocks(connection)
    assert [found.head(seq) for seq in (0, 1, 10, 12)] == [None] * 4, "the next block is not theirs"
    assert [found.name(seq) for seq in (10, 12)] == [None] * 2
    head = found.head(11)
    assert head is not None
    assert head.id == "after"
    connection.close()
    assert [each.id for each in await store.list_deliveries()] == ["after"]
    assert [each.id for each in await store.list_deliveries(source="stripe")] == []


async def test_what_is_known_is_found_one_by_one_among_what_is_new(store: SqliteStore) -> None:
    """Keys come again within a call, within a transaction and after it; those beside them are stored all the same."""
    await store.accept([delivery("d1", key="a"), delivery("d2", key="b")])
    first = store.accept([delivery("d3", key="c"), delivery("d4", key="a"), delivery("d5", key=None)])
    second = store.accept([delivery("d6", key="c"), delivery("d7", key="d"), delivery("d8", key="d")])
    answers = [answer for call in await asyncio.gather(first, second) for answer in call]
    assert [(answer.id, answer.duplicate) for answer in answers] == [
        ("d3", False),
        ("d1", True),
        ("d5", False),
        ("d3", True),
        ("d7", False),
        ("d7", True),
    ]
    assert [each.id for each in await store.list_deliveries()] == ["d7", "d5", "d3", "d2", "d1"]
    claims = await store.claim_deliveries(10, 60, {"github": 10})
    assert [each.delivery.id for each in claims] == ["d1", "d2", "d3", "d5", "d7"], "each under its own seq"
    await store.finish_deliveries([(each, [event(f"e-{each.delivery.id}")]) for each in claims])
    assert {each.ref for each in await store.list_events()} == {f"{name}.0" for name in ("d1", "d2", "d3", "d5", "d7")}
