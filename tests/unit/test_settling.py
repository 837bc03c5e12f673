"""How deliveries that were asked together end in the store: one that is odd costs the others nothing."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.config import parse_config
from relay.errors import SandboxUnavailable, StoreUnavailable, TransformError
from relay.models import ClaimedDelivery, Event, Finished
from relay.pipeline import runs_of
from relay.settling import SURPRISES_MAX, Settler
from relay.sources import load_sources
from relay.stores.sqlite import SqliteStore
from relay.telemetry import Telemetry
from relay.transform import INLINE_BYTES_MAX, TransformLimits
from tests.support.store import Clock, accept_names, claim_all, delivery

GOOD = b'{"name":"a/b","data":{}}'


class OddStore(SqliteStore):
    """A store that meets a surprise with one delivery, or is unusable for a while."""

    odd: str | None = None
    unusable = 0

    async def finish_deliveries(
        self, finishes: Sequence[tuple[ClaimedDelivery, Sequence[Event]]]
    ) -> list[Finished | None]:
        if self.unusable:
            self.unusable -= 1
            raise StoreUnavailable("the disk is full")
        if any(claim.delivery.id == self.odd for claim, _ in finishes):
            raise RuntimeError("odd")
        return await super().finish_deliveries(finishes)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[OddStore]:
    settings: dict[str, Any] = {"dedupe_hours": 24, "disk_free_bytes_min": 0, "queue_bytes_max": 64 << 20}
    opened = await OddStore.open(tmp_path / "relay.db", clock_ms=Clock(), **settings)
    assert isinstance(opened, OddStore)
    yield opened
    await opened.close()


@pytest.fixture
def lines() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def settler(store: OddStore, lines: io.StringIO) -> Settler:
    config = parse_config(
        {"destinations": {"default": {"url": "http://127.0.0.1:1"}}, "sources": {"github": {"provider": "none"}}},
        {},
        None,
    )
    source = load_sources(config)["github"]
    return Settler(store, Telemetry(lines, as_json=True), source, TransformLimits(10, 1 << 20), None)


async def states(store: OddStore) -> dict[str, str]:
    return {record.id: record.state.value for record in await store.list_deliveries()}


def logged(lines: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in lines.getvalue().splitlines()]


async def claims_of(store: OddStore, *names: str) -> list[ClaimedDelivery]:
    await accept_names(store, *names)
    return await claim_all(store)


async def test_each_ends_by_its_own_answer(store: OddStore, settler: Settler, lines: io.StringIO) -> None:
    good, filtered, bad, dead, postponed = await claims_of(store, "a", "b", "c", "d", "e")
    await settler.settle(
        [
            (good, GOOD),
            (filtered, None),
            (bad, b'{"name":5}'),
            (dead, TransformError("script_raised", "t.js:1: no", 1)),
            (postponed, SandboxUnavailable("no child")),
        ]
    )
    assert await states(store) == {"a": "processed", "b": "filtered", "c": "dead", "d": "dead", "e": "received"}
    assert sorted(logged(lines)) == [
        *("delivery.died", "delivery.died", "delivery.filtered", "delivery.postponed", "delivery.processed")
    ]
    metrics = settler.telemetry.exposition().decode()
    assert 'relay_deliveries_settled_total{code="",source="github",state="processed"} 1.0' in metrics
    assert 'relay_deliveries_settled_total{code="",source="github",state="filtered"} 1.0' in metrics
    assert 'relay_deliveries_settled_total{code="invalid_event",source="github",state="dead"} 1.0' in metrics
    assert 'relay_events_stored_total{source="github"} 1.0' in metrics


async def test_a_surprise_costs_the_delivery_it_is_about(store: OddStore, settler: Settler, lines: io.StringIO) -> None:
    claims = await claims_of(store, *"abcdef")
    store.odd = "c"
    await settler.settle([(claim, GOOD) for claim in claims])
    found = await states(store)
    assert found.pop("c") == "received"
    assert set(found.values()) == {"processed"}
    assert logged(lines).count("surprise.met") == 1


async def test_a_delivery_that_surprises_again_and_again_is_dead(store: OddStore, settler: Settler) -> None:
    await accept_names(store, "c")
    store.odd = "c"
    for _ in range(SURPRISES_MAX):
        clock = store._clock_ms
        assert isinstance(clock, Clock)
        clock.pass_seconds(60)
        (claim,) = await claim_all(store)
        await settler.settle([(claim, GOOD)])
    assert await states(store) == {"c": "dead"}


async def test_a_store_that_cannot_is_asked_again(
    store: OddStore, settler: Settler, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.settling.STORE_RETRY_SECONDS", 0.01)
    claims = await claims_of(store, "a", "b")
    store.unusable = 2
    await settler.settle([(claim, GOOD) for claim in claims])
    assert set((await states(store)).values()) == {"processed"}
    assert logged(lines).count("delivery.unsettled") == 2


async def test_a_lost_lease_is_counted_and_harms_no_other(store: OddStore, settler: Settler) -> None:
    claims = await claims_of(store, "a", "b", "c")
    await store.release_delivery(claims[1])
    await settler.settle([(claims[0], GOOD), (claims[1], GOOD), (claims[2], TransformError("script_raised", "no"))])
    assert await states(store) == {"a": "processed", "b": "received", "c": "dead"}
    await settler.settle([(claims[2], TransformError("script_raised", "no"))])
    assert 'relay_leases_lost_total{stage="pipeline"} 2.0' in settler.telemetry.exposition().decode()


async def test_an_environment_that_was_asked_for_goes_before_the_sources(store: OddStore, settler: Settler) -> None:
    settler.environment = "of-source"
    await accept_names(store, "a")
    (claim,) = await claim_all(store)
    await settler.settle([(claim, GOOD)])
    assert [lane.environment for lane in await store.lanes()] == ["of-source"]


async def test_a_surprise_before_the_answer_is_one_of_that_delivery(store: OddStore, settler: Settler) -> None:
    odd, good = await claims_of(store, "a", "b")
    await settler.settle([(odd, ValueError("odd")), (good, GOOD)])
    assert await states(store) == {"a": "received", "b": "processed"}


def test_runs_are_of_one_source_and_a_large_body_has_its_own() -> None:
    sources, large = {"a": "github", "b": "stripe", "c": "github", "d": "github", "e": "stripe"}, "d"
    claims = [
        ClaimedDelivery(delivery(name, source=source, body=b"x" * (name == large) * (INLINE_BYTES_MAX + 1)), number, 1)
        for number, (name, source) in enumerate(sources.items())
    ]
    found = [[claim.delivery.id for claim in run] for run in runs_of(claims)]
    assert found == [["a", "c"], ["b", "e"], ["d"]]
