"""What goes to the process that writes and comes back: every value, every error, and the ways it can fail to begin."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ConfigError, StoreUnavailable
from relay.models import Delivery, Event, Request
from relay.stores import sqlite_jobs as jobs
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_file import take_ownership
from tests.support.store import Clock, claim_all, delivery, event

MIB = 1024 * 1024

texts = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
numbers = st.integers(-(2**70), 2**70)
requests = st.builds(
    Request, texts, texts, texts, st.lists(st.tuples(st.binary(), st.binary()), max_size=4).map(tuple), st.binary()
)
deliveries = st.builds(Delivery, texts, texts, st.none() | texts, numbers, requests, st.none() | texts, numbers)
events = st.builds(Event, texts, texts, numbers, st.binary(), texts, st.none() | texts)
cells = st.none() | numbers | texts | st.binary()
rows = st.lists(st.lists(cells, max_size=3), max_size=3)


def run_anything(session: object, what: Any) -> Any:
    return what


calls = st.builds(jobs.Call, st.just(run_anything), numbers, st.booleans())
any_job = (
    st.builds(jobs.Accept, st.lists(deliveries, max_size=3), numbers, st.booleans())
    | st.builds(
        jobs.Finish,
        numbers,
        numbers,
        numbers,
        numbers,
        numbers,
        st.lists(events, max_size=3),
        st.none() | st.tuples(texts, texts),
        numbers,
    )
    | st.builds(jobs.Settle, rows, rows, numbers)
    | calls
)
any_result = (
    st.builds(jobs.AcceptResult, numbers, st.dictionaries(numbers, texts))
    | st.builds(jobs.FinishResult, st.lists(st.tuples(numbers, numbers, numbers)), st.lists(texts))
    | st.just(jobs.SettleResult())
    | st.builds(jobs.CallResult, cells | st.lists(cells))
)


def carried(packed: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    head, rest = packed
    kind, size = jobs.FRAME.unpack(head)
    assert size == len(rest)
    return kind, rest


@given(st.lists(any_job, max_size=4))
def test_jobs_arrive_as_they_were_sent(sent: list[jobs.Job]) -> None:
    assert list(jobs.unpack_jobs(*carried(jobs.pack_jobs(sent)))) == sent


@given(st.lists(any_result, max_size=4), st.floats(0, 1), st.integers(0, 2**40))
def test_replies_arrive_as_they_were_sent(results: list[jobs.Result], rest_seconds: float, commits: int) -> None:
    reply = jobs.Reply(results, rest_seconds, commits)
    assert jobs.unpack_reply(*carried(jobs.pack_reply(reply))) == reply


def test_the_masses_are_no_pickles() -> None:
    many: list[jobs.Job] = [
        jobs.Accept([delivery("d1")], 1, whole=False),
        jobs.Finish(1, 0, 0, 0, 0, [event("e1")], None, 1),
    ]
    assert carried(jobs.pack_jobs(many))[0] == jobs.MSGPACK
    results: list[jobs.Result] = [
        jobs.AcceptResult(1, {0: "d0"}),
        jobs.FinishResult([(1, 1, 0)], []),
        jobs.SettleResult(),
    ]
    assert carried(jobs.pack_reply(jobs.Reply(results, 0.0, 1)))[0] == jobs.MSGPACK


class OddError(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OverflowError("too large"), OverflowError, "too large"),
        (StoreUnavailable("not now"), StoreUnavailable, "not now"),
        (ConfigError("wrong", key="store.url"), ConfigError, "wrong"),
        (OddError("an", "error"), StoreUnavailable, "OddError: an error"),  # its class cannot be made of its text
    ],
)
def test_errors_arrive(error: Exception, kind: type[Exception], text: str) -> None:
    reply = jobs.Reply([jobs.Failed(jobs.portable(error))], 0.0, 1)
    (failed,) = jobs.unpack_reply(*carried(jobs.pack_reply(reply))).results
    assert isinstance(failed, jobs.Failed)
    assert type(failed.error) is kind
    assert text in str(failed.error)


# ── with the process itself ──


async def opening(path: Path, **settings: Any) -> SqliteStore:
    limits = {"dedupe_hours": 24, "disk_free_bytes_min": 0, "queue_bytes_max": 64 * MIB, **settings}
    return await SqliteStore.open(path, clock_ms=Clock(), **{"own_process": True, **limits})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await opening(tmp_path / "relay.db")
    yield opened
    await opened.close()


def writer_pid(store: SqliteStore) -> int:
    return int(vars(vars(store)["_writer"])["_committing"]._process.pid)


async def test_a_file_that_cannot_be_opened_says_the_same_as_in_a_thread(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, however often it is read" * 100)
    with sqlite3.connect(tmp_path / "strange.db") as strange:
        strange.execute("CREATE TABLE other (x)")
    for name in ("text", "strange.db"):
        said = []
        for own_process in (True, False):
            with pytest.raises(ConfigError) as caught:
                await opening(tmp_path / name, own_process=own_process)
            said.append((str(caught.value), caught.value.key))
        assert said[0] == said[1]


async def test_a_group_larger_than_any_buffer(store: SqliteStore) -> None:
    large = [delivery(f"d{n}", body=os.urandom(6 * MIB)) for n in range(6)]
    await asyncio.gather(*(store.accept([each]) for each in large))
    found = []
    while claims := await claim_all(store):  # 16 MiB a call
        found += [claim.delivery for claim in claims]
    assert found == large


async def test_what_cannot_be_sent_is_not_waited_for(store: SqliteStore) -> None:
    writer = vars(store)["_writer"]
    with pytest.raises(Exception, match="pickle"):
        await asyncio.wait_for(writer.submit(lambda session: None), 5)
    await store.accept([delivery("d1")])
    assert len(await claim_all(store)) == 1


async def test_a_writer_that_is_killed_is_told_once_and_nothing_is_taken_any_more(tmp_path: Path) -> None:
    told: list[str] = []
    store = await opening(tmp_path / "relay.db", on_lost=told.append)
    await store.accept([delivery("d1")])
    (claim,) = await claim_all(store)
    os.kill(writer_pid(store), signal.SIGSTOP)
    waiting = [asyncio.create_task(store.accept([delivery(f"w{n}")])) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    behind = asyncio.create_task(store.finish_delivery(claim, [event("e1")]))
    await asyncio.sleep(0)
    os.kill(writer_pid(store), signal.SIGKILL)
    ended = await asyncio.gather(*waiting, behind, return_exceptions=True)
    assert {type(each) for each in ended} == {StoreUnavailable}
    assert len(told) == 1
    assert "SIGKILL" in told[0]
    with pytest.raises(StoreUnavailable, match="SIGKILL"):
        await store.accept([delivery("after")])
    assert len(await store.list_deliveries()) >= 1, "what is there can still be read"
    await store.close()
    again = await opening(tmp_path / "relay.db")
    assert "d1" in [each.delivery.id for each in await claim_all(again)]
    await again.close()


async def test_as_long_as_it_writes_the_file_has_an_owner(store: SqliteStore, tmp_path: Path) -> None:
    os.close(vars(store).pop("_lock"))  # as when the relay has been killed, and its writer not yet
    began = time.monotonic()
    with pytest.raises(ConfigError, match="another relay process"):
        take_ownership(tmp_path / "relay.db")
    assert time.monotonic() - began < 5, "one that lives is not waited for"


HOLDER = """
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.pwrite(lock, sys.argv[2].encode() + b"\\n", 0)
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


def test_the_writer_of_a_relay_that_was_killed_is_waited_for(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    command = [sys.executable, "-c", HOLDER, f"{tmp_path}/relay.db.lock", str(gone.pid), "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        os.close(take_ownership(tmp_path / "relay.db"))
        assert holder.wait(10) == 0


async def test_closing_twice_and_after_the_end(tmp_path: Path) -> None:
    store = await opening(tmp_path / "relay.db")
    os.kill(writer_pid(store), signal.SIGKILL)
    await asyncio.gather(store.close(), store.close())
    await (await opening(tmp_path / "relay.db")).close()
