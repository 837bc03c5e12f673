"""The contract of relay/stores/base.py, sentence by sentence: secrets that came in handshakes."""

from __future__ import annotations

import asyncio

import pytest

from relay.errors import StoreUnavailable
from relay.models import KeptSecret, Pairing
from relay.stores.base import SECRETS_MAX, Store
from tests.support.store import START_MS, CountingStore, OpenStore

MINUTE_MS = 60_000


def opened(source: str = "asana", at_ms: int = START_MS, minutes: int = 10) -> Pairing:
    return Pairing(source, at_ms, at_ms + minutes * MINUTE_MS)


async def keep(store: Store, *secrets: str, source: str = "asana", at_ms: int = START_MS) -> list[bool]:
    """Which of them were kept."""
    return [await store.keep_secret(source, secret, at_ms) is not None for secret in secrets]


async def test_the_first_secret_of_a_source_is_kept_and_durable(open_store: OpenStore) -> None:
    store = await open_store()
    kept = await store.keep_secret("asana", "s1", START_MS + 5)
    assert kept == KeptSecret(kept.id if kept else 0, "asana", "s1", START_MS + 5)
    await store.close()
    again = await open_store()
    assert await again.kept_secrets("asana") == ("s1",)
    assert await again.list_secrets() == [kept]


async def test_another_one_is_refused_and_changes_nothing(store: CountingStore) -> None:
    assert await keep(store, "s1", "s2") == [True, False]
    assert await store.kept_secrets("asana") == ("s1",)


async def test_a_source_with_configured_secrets_keeps_none(store: CountingStore) -> None:
    assert await store.keep_secret("asana", "s1", START_MS, configured=True) is None
    assert await store.kept_secrets("asana") == ()
    await store.open_pairing(opened())
    assert await store.keep_secret("asana", "s1", START_MS, configured=True) is not None


async def test_one_that_is_kept_already_is_given_as_it_is(store: CountingStore) -> None:
    first = await store.keep_secret("asana", "s1", START_MS)
    assert await store.keep_secret("asana", "s1", START_MS + 1, configured=True) == first
    assert len(await store.list_secrets()) == 1


async def test_of_a_hundred_at_once_one_is_kept(store: CountingStore) -> None:
    found = await asyncio.gather(*(store.keep_secret("asana", f"s{number}", START_MS) for number in range(100)))
    assert len([kept for kept in found if kept]) == 1
    assert len(await store.kept_secrets("asana")) == 1


async def test_sources_do_not_meet(store: CountingStore) -> None:
    assert await keep(store, "s1") == [True]
    assert await keep(store, "s1", source="other") == [True]
    await store.open_pairing(opened("other"))
    assert await keep(store, "s2") == [False]
    assert await store.forget_secrets("other") == 1
    assert await store.kept_secrets("asana") == ("s1",)


async def test_an_open_source_takes_more_until_the_time_is_over(store: CountingStore) -> None:
    await keep(store, "s1")
    await store.open_pairing(opened(minutes=10))
    assert await store.list_pairings(START_MS) == [opened(minutes=10)]
    assert await keep(store, "s2", "s3", at_ms=START_MS + 10 * MINUTE_MS - 1) == [True, True]
    assert await keep(store, "s4", at_ms=START_MS + 10 * MINUTE_MS) == [False]
    assert await store.list_pairings(START_MS + 10 * MINUTE_MS) == []
    assert await store.kept_secrets("asana") == ("s3", "s2", "s1")


async def test_an_opening_outlasts_a_restart_and_replaces_the_one_before(open_store: OpenStore) -> None:
    store = await open_store()
    await keep(store, "s1")
    await store.open_pairing(opened(minutes=60))
    await store.open_pairing(opened(minutes=5))
    await store.close()
    store = await open_store()
    assert await store.list_pairings(START_MS) == [opened(minutes=5)]
    assert await keep(store, "s2", at_ms=START_MS + 6 * MINUTE_MS) == [False]
    assert await keep(store, "s2", at_ms=START_MS + 4 * MINUTE_MS) == [True]


async def test_a_clock_that_is_set_back_closes_it(store: CountingStore) -> None:
    await keep(store, "s1")
    await store.open_pairing(opened())
    assert await keep(store, "s2", at_ms=START_MS - 1) == [False]
    assert await store.list_pairings(START_MS - 1) == []


async def test_a_source_keeps_no_more_than_the_most(store: CountingStore) -> None:
    await store.open_pairing(opened())
    names = [f"s{number}" for number in range(SECRETS_MAX + 2)]
    assert await keep(store, *names) == [True] * SECRETS_MAX + [False, False]
    assert await store.kept_secrets("asana") == tuple(reversed(names[:SECRETS_MAX]))


async def test_lists_are_by_source_and_the_newest_first(store: CountingStore) -> None:
    for source in ("notion", "asana"):
        await store.open_pairing(opened(source))
        await keep(store, "a", "b", source=source)
    found = [(kept.source, kept.secret) for kept in await store.list_secrets()]
    assert found == [("asana", "b"), ("asana", "a"), ("notion", "b"), ("notion", "a")]
    assert [kept.secret for kept in await store.list_secrets("notion")] == ["b", "a"]
    assert await store.list_secrets("nobody") == []
    assert "'a'" not in repr(await store.list_secrets()), "a secret is shown by nobody's repr"


async def test_forgetting_one_or_all_and_pairing_anew(open_store: OpenStore) -> None:
    store = await open_store()
    await store.open_pairing(opened(minutes=1))
    await keep(store, "s1", "s2", "s3")
    (third, second, _) = await store.list_secrets("asana")
    assert await store.forget_secrets("asana", second.id) == 1
    assert await store.forget_secrets("asana", second.id) == 0
    assert await store.forget_secrets("other", third.id) == 0, "an id is named with its source"
    assert await store.kept_secrets("asana") == ("s3", "s1")
    assert await store.forget_secrets("asana") == 2
    assert await store.kept_secrets("asana") == ()
    assert await keep(store, "s4", "s5", at_ms=START_MS + MINUTE_MS) == [True, False]
    await store.close()
    again = await open_store()
    (fourth,) = await again.list_secrets()
    assert (fourth.secret, fourth.id > third.id) == ("s4", True), "an id is never given twice"


async def test_any_text_comes_back_as_it_was(open_store: OpenStore) -> None:
    odd = "\ud800 'quoted\" \x00 é"
    store = await open_store()
    assert await store.keep_secret(odd, odd, START_MS) is not None
    await store.close()
    again = await open_store()
    assert await again.kept_secrets(odd) == (odd,)


async def test_a_closed_store_keeps_nothing(store: CountingStore) -> None:
    await store.close()
    for write in (store.keep_secret("asana", "s1", START_MS), store.forget_secrets("asana")):
        with pytest.raises(StoreUnavailable):
            await write
    with pytest.raises(StoreUnavailable):
        await store.open_pairing(opened())
