"""The contract of relay/stores/base.py, sentence by sentence: accept."""

from __future__ import annotations

import asyncio

import pytest

from relay.models import Accepted, Request
from tests.support.store import (
    CountingStore,
    OpenStore,
    claim_all,
    delivery,
    process,
)


async def test_an_accepted_delivery_is_there_after_reopening(open_store: OpenStore) -> None:
    store = await open_store()
    assert await store.accept([delivery("d1")]) == [Accepted("d1", duplicate=False)]
    await store.close()
    (claimed,) = await claim_all(await open_store())
    assert claimed.delivery == delivery("d1")


async def test_answers_come_in_the_order_of_the_deliveries(store: CountingStore) -> None:
    await store.accept([delivery("first", key="k2")])
    answers = await store.accept([delivery("a", key="k1"), delivery("b", key="k2"), delivery("c", key=None)])
    assert answers == [Accepted("a", False), Accepted("first", True), Accepted("c", False)]


async def test_the_same_key_again_answers_the_first_ones_id(store: CountingStore) -> None:
    await store.accept([delivery("d1", key="k")])
    assert await store.accept([delivery("d2", key="k")]) == [Accepted("d1", duplicate=True)]
    assert [each.delivery.id for each in await claim_all(store)] == ["d1"]


async def test_the_same_key_twice_in_one_call_is_stored_once(store: CountingStore) -> None:
    answers = await store.accept([delivery("d1", key="k"), delivery("d2", key="k")])
    assert answers == [Accepted("d1", False), Accepted("d1", True)]


async def test_the_same_key_of_another_source_is_another_delivery(store: CountingStore) -> None:
    answers = await store.accept([delivery("d1", key="k"), delivery("d2", key="k", source="stripe")])
    assert [answer.duplicate for answer in answers] == [False, False]


async def test_the_same_key_for_another_environment_is_another_delivery(store: CountingStore) -> None:
    """Stripe, say, sends one event to the URLs of several environments, with one id."""
    await store.accept([delivery("d1", key="k")])
    await store.accept([delivery("d2", key="k", environment="pr-1")])
    answers = await store.accept(
        [delivery(f"d{n}", key="k", environment=e) for n, e in ((3, None), (4, "pr-1"), (5, "pr-2"))]
    )
    assert answers == [Accepted("d1", True), Accepted("d2", True), Accepted("d5", False)]


async def test_deliveries_without_a_key_are_never_duplicates(store: CountingStore) -> None:
    answers = await store.accept([delivery("d1", key=None), delivery("d2", key=None)])
    assert [answer.duplicate for answer in answers] == [False, False]


async def test_200_concurrent_accepts_of_one_key_agree_on_one_id(store: CountingStore) -> None:
    answers = await asyncio.gather(*(store.accept([delivery(f"d{n}", key="k")]) for n in range(200)))
    assert len({answer.id for (answer,) in answers}) == 1
    assert sum(not answer.duplicate for (answer,) in answers) == 1
    assert len(await claim_all(store)) == 1


async def test_a_key_stays_known_when_its_delivery_is_finished(store: CountingStore) -> None:
    await process(store, "d1", [], key="k")
    assert await store.accept([delivery("d2", key="k")]) == [Accepted("d1", True)]


@pytest.mark.parametrize(
    "hostile",
    ["nul \0 nul", "lone \ud800 surrogate", b"\xff\xfe raw".decode("utf-8", "surrogateescape"), "ünïcødé 😀", ""],
)
async def test_hostile_text_comes_back_as_it_was(store: CountingStore, hostile: str) -> None:
    given = delivery(f"d {hostile}", source=f"s {hostile}", key=hostile, environment=hostile)
    given = delivery(
        given.id,
        source=given.source,
        key=hostile,
        environment=hostile,
        request=Request(hostile, hostile, hostile, ((b"X-\xff\0", b"\0\xfe\r\n"), (b"", b"")), b"\0\xff"),
    )
    assert await store.accept([given, given]) == [Accepted(given.id, False), Accepted(given.id, True)]
    (claimed,) = await claim_all(store, given.source)
    assert claimed.delivery == given
    record = await store.get_delivery(given.id)
    assert record is not None
    assert (record.source, record.key, record.environment, record.request) == (
        given.source,
        hostile,
        hostile,
        given.request,
    )


async def test_five_megabytes_and_every_byte_come_back(store: CountingStore) -> None:
    body = bytes(range(256)) * (5 * 1024 * 4)
    await store.accept([delivery("big", body=body)])
    ((claimed,), record) = await claim_all(store), await store.get_delivery("big")
    assert claimed.delivery.request.body == body
    assert record is not None
    assert record.request is not None
    assert record.request.body == body
    assert record.body_bytes == len(body)
