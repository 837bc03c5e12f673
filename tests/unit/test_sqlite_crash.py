"""Power, processes and disks fail: what was acknowledged stays, what was refused never appears."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.errors import StoreUnavailable
from relay.stores.sqlite import SqliteStore
from tests.support.store import Clock, claim_all, claim_lane, delivery, event, sent

ACCEPTING = """
import asyncio, sys
from pathlib import Path
from relay.stores import sqlite_core, sqlite_feeds
from relay.stores.sqlite import SqliteStore
from tests.support.store import Clock, again_at, claim_all, claim_lane, delivery, event, sent

sqlite_core.MARK_EVERY = 7  # marks are written all the time
sqlite_feeds.FEED_COUNT_MAX = 5  # and sources and lanes fall behind and catch up again

async def main() -> None:
    run = sys.argv[2]
    store = await SqliteStore.open(
        Path(sys.argv[1]), clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 << 20
    )
    async def accept(worker: int) -> None:
        for n in range(10**9):
            name = f"{run}-{worker}-{n}"
            await store.accept([delivery(name, body=bytes(2000))])
            print(name, flush=True)
    async def work() -> None:
        while True:
            await asyncio.sleep(0)
            claims = await claim_all(store, limit=50)
            done = [(claim, [event(f"e{claim.delivery.id}")]) for claim in claims if hash(claim.claim) % 5]
            await store.finish_deliveries(done)
            events = await claim_lane(store)
            await store.settle([sent(each) if n % 4 else again_at(each, 1) for n, each in enumerate(events)])
    await asyncio.gather(work(), *(accept(worker) for worker in range(8)))

asyncio.run(main())
"""


def accept_until_killed(path: Path, run: int, wanted: int) -> set[str]:
    """The ids that a child had acknowledged before it was killed."""
    command = [sys.executable, "-c", ACCEPTING, str(path), str(run)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert child.stdout is not None
    said = [child.stdout.readline().strip() for _ in range(wanted)]
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read()
    child.wait()
    child.stdout.close()
    whole = rest.rpartition("\n")[0].split()
    return {*said, *whole} - {""}


async def test_every_acknowledged_delivery_survives_sigkill(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for run in range(3):
        acknowledged |= await asyncio.to_thread(accept_until_killed, tmp_path / "relay.db", run, 150)
    store = await SqliteStore.open(
        tmp_path / "relay.db", clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 << 20
    )
    kept, events, last = set[str](), (await store.stats()).events, None
    while page := await store.list_deliveries(limit=1000, before=last):
        kept |= {each.id for each in page}
        last = page[-1].id
    stats, claimed, pending = await store.stats(), 0, 0
    while claims := await claim_all(store, limit=1000):
        claimed += len(claims)
    while batch := await claim_lane(store, limit=1000):
        pending += len(batch)
    await store.close()
    assert len(acknowledged) >= 450
    assert acknowledged <= kept
    assert stats.deliveries["received"] + stats.deliveries["processed"] == len(kept)
    assert sum(events.values()) == stats.deliveries["processed"]
    assert claimed == stats.deliveries["received"], "what waits is found, wherever the marks were"
    assert pending == events["pending"]
    connection = sqlite3.connect(tmp_path / "relay.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
async def small_store(small_disk: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(
        small_disk / "relay.db", clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 << 20
    )
    yield store
    await store.close()


async def test_a_full_disk_refuses_whole_calls_and_recovers_without_reopening(
    small_store: SqliteStore, small_disk: Path
) -> None:
    store = small_store
    await store.accept([delivery("d1"), delivery("d2")])
    (one, two) = await claim_all(store)
    await store.finish_delivery(one, [event("e1")])
    (claimed,) = await claim_lane(store)
    fill(small_disk / "ballast")
    refused = await refused_accepts(store)
    assert refused
    with pytest.raises(StoreUnavailable):
        await store.finish_delivery(two, [event(f"big{n}", size=100_000) for n in range(20)])
    with pytest.raises(StoreUnavailable):
        await store.probe()
    assert len(await store.list_deliveries(limit=1000)) == (await store.stats()).deliveries.get("received", 0) + 1
    (small_disk / "ballast").unlink()
    await store.probe()
    assert (await store.finish_delivery(two, [event("e2")])).stored == 1
    await store.settle([sent(claimed)])
    assert store.late_settlements == 0
    kept = {each.id for each in await store.list_deliveries(limit=1000)}
    assert kept.isdisjoint(refused)
    assert not any(answer.duplicate for answer in await store.accept([delivery(name) for name in refused[:5]]))


async def refused_accepts(store: SqliteStore) -> list[str]:
    """Deliveries in groups of ten until three groups in a row were refused; the names of the refused."""
    refused: list[str] = []
    in_a_row = number = 0
    while in_a_row < 3:
        names = [f"x{number + n}" for n in range(10)]
        number += 10
        calls = (store.accept([delivery(name, body=bytes(3000))]) for name in names)
        results = await asyncio.gather(*calls, return_exceptions=True)
        lost = [name for name, result in zip(names, results, strict=True) if isinstance(result, StoreUnavailable)]
        assert len(lost) in (0, 10), "a group is committed whole or refused whole"
        refused += lost
        in_a_row = in_a_row + 1 if lost else 0
    return refused


def fill(ballast: Path) -> None:
    """Take every free byte of the file system."""
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(file, bytes(4096))
    except OSError:
        os.close(file)


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from relay.errors import StoreUnavailable
from relay.stores.sqlite import SqliteStore
from tests.support.store import Clock, delivery

async def main() -> None:
    store = await SqliteStore.open(
        Path(sys.argv[1]), clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 << 20
    )
    await store.accept([delivery("before")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    try:
        await store.accept([delivery("refused", body=bytes(1_000_000))])
        raise SystemExit("was accepted")
    except StoreUnavailable:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.accept([delivery("after", body=bytes(1_000_000))])
    print(*(each.id for each in await store.list_deliveries()))
    await store.close()

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_refuses_and_recovers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "relay.db")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert (done.stdout.split(), done.returncode) == (["after", "before"], 0), done.stderr


async def test_a_disk_that_is_full_at_the_start_is_named(small_disk: Path) -> None:
    async def opened() -> SqliteStore:
        return await SqliteStore.open(
            small_disk / "relay.db", clock_ms=Clock(), dedupe_hours=24, disk_free_bytes_min=0, queue_bytes_max=64 << 20
        )

    store = await opened()
    await store.accept([delivery("d1")])
    await store.close()
    fill(small_disk / "ballast")
    with pytest.raises(StoreUnavailable, match=r"relay\.db is full \(0 bytes are free\): free some space"):
        await opened()
    (small_disk / "ballast").unlink()
    store = await opened()
    assert [each.delivery.id for each in await claim_all(store)] == ["d1"]
    await store.close()
