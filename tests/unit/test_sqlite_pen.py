"""The pen's file on real disks: broken, foreign, gone, full, half written. The relay runs on in all of them."""

from __future__ import annotations

import asyncio
import json
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

from relay.errors import StoreUnavailable
from relay.stores.sqlite_pen import SqlitePen
from relay.telemetry import Telemetry
from tests.support import pen as support
from tests.support.disks import small_tmpfs
from tests.support.pen import logged, metric, names, numbered
from tests.support.store import START_MS, Clock

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rejected.db"


@pytest.fixture
async def open_pen(path: Path) -> AsyncIterator[support.OpenPen]:
    opened: list[SqlitePen] = []

    def open_it(**settings: Any) -> SqlitePen:
        opened.append(support.open_pen(settings.pop("path", path), Clock(), **settings))
        return opened[-1]

    yield open_it
    for pen in opened:
        await pen.close()


def events(telemetry: Telemetry) -> list[str]:
    return [json.loads(line)["event"] for line in logged(telemetry).splitlines()]


def in_memory() -> Telemetry:
    """Lines that a test reads."""
    import io

    return Telemetry(io.StringIO(), as_json=True)


async def filled(pen: SqlitePen, count: int, **changes: Any) -> None:
    for number in range(count):
        assert pen.keep(numbered(number, **changes))
    await pen.counts()


@pytest.mark.parametrize(
    "content", [b"this is no database, whatever its name says" * 100, b"SQLite format 3\0" + bytes(5000)]
)
async def test_a_broken_file_is_replaced_with_one_line(open_pen: support.OpenPen, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    telemetry = in_memory()
    pen = open_pen(telemetry=telemetry)
    await filled(pen, 3)
    assert len(await pen.list_rejected()) == 3
    assert events(telemetry) == ["pen.replaced"]


async def test_a_file_that_breaks_under_the_running_pen_is_replaced(open_pen: support.OpenPen, path: Path) -> None:
    telemetry = in_memory()
    pen = open_pen(telemetry=telemetry)
    await filled(pen, 50, body=b"x" * 5000)
    with path.open("r+b") as file:  # the same file, its pages overwritten
        file.seek(0)
        file.write(b"\xaa" * (path.stat().st_size // 2))
    assert pen.keep(numbered(60))
    assert names(await pen.list_rejected()) == [numbered(60).id]
    assert events(telemetry) == ["pen.replaced"]
    assert metric(telemetry, "relay_rejected_kept_total") == 51


async def test_a_file_of_another_version_is_replaced(open_pen: support.OpenPen, path: Path) -> None:
    first = open_pen()
    await filled(first, 1)
    await first.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    telemetry = in_memory()
    pen = open_pen(telemetry=telemetry)
    await filled(pen, 2)
    assert events(telemetry) == ["pen.replaced"]
    assert len(await pen.list_rejected()) == 2


async def test_somebody_elses_database_is_left_alone(open_pen: support.OpenPen, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    telemetry = in_memory()
    pen = open_pen(telemetry=telemetry)
    assert pen.keep(numbered(1))
    with pytest.raises(StoreUnavailable, match="something else's"):
        await pen.list_rejected()
    assert events(telemetry) == ["pen.lost"], "said once"
    assert metric(telemetry, "relay_rejected_dropped_total", reason="disk") == 1
    assert path.read_bytes() == before


async def test_a_path_that_cannot_be_a_file_costs_one_line(open_pen: support.OpenPen, path: Path) -> None:
    path.mkdir()
    telemetry = in_memory()
    pen = open_pen(telemetry=telemetry)
    for number in range(20):
        assert pen.keep(numbered(number))
    with pytest.raises(StoreUnavailable):
        await pen.counts()
    assert events(telemetry) == ["pen.lost"]
    assert metric(telemetry, "relay_rejected_dropped_total", reason="disk") == 20


async def test_it_goes_on_when_the_file_can_be_had_again(open_pen: support.OpenPen, path: Path) -> None:
    path.mkdir()
    telemetry, now_s = in_memory(), [0.0]
    pen = open_pen(telemetry=telemetry, monotonic_s=lambda: now_s[0])
    pen.keep(numbered(1))
    with pytest.raises(StoreUnavailable):
        await pen.counts()
    path.rmdir()
    pen.keep(numbered(2))
    assert await pen.counts() == {}, "it is not tried again with every request"
    now_s[0] += 11
    pen.keep(numbered(3))
    assert await pen.counts() == {"github": 1}
    assert events(telemetry) == ["pen.lost", "pen.regained"]


async def test_a_file_that_was_removed_is_made_anew(open_pen: support.OpenPen, path: Path) -> None:
    pen = open_pen()
    await filled(pen, 3)
    path.unlink()
    assert await pen.list_rejected() == []
    assert pen.keep(numbered(9))
    assert names(await pen.list_rejected()) == [numbered(9).id]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_the_file_gives_its_space_back(open_pen: support.OpenPen, path: Path) -> None:
    pen = open_pen()
    await filled(pen, 6, body=b"x" * 500_000)
    assert path.stat().st_size > 3_000_000
    await pen.remove([numbered(number).id for number in range(6)])
    assert path.stat().st_size < 200_000


async def test_the_file_stays_within_the_total(
    open_pen: support.OpenPen, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.stores.sqlite_pen.TOTAL_BYTES_MAX", 8 * MIB)
    pen = open_pen(bytes_max=4 * MIB, sources=8)
    for source in range(8):
        for number in range(40):
            pen.keep(numbered(number, id=f"{source}.{number}", source=f"s{source}", body=b"x" * 100_000))
        await pen.counts()
    kept = await pen.counts()
    assert set(kept.values()) == {10}, "each source has its share, of 1 MiB"
    assert path.stat().st_size < 8 * MIB * 1.25 + MIB


async def test_another_process_reads_beside_the_owner(open_pen: support.OpenPen) -> None:
    pen = open_pen()
    await filled(pen, 3)
    beside = open_pen(read_only=True)
    assert len(await beside.list_rejected()) == 3
    assert not beside.keep(numbered(7))
    with pytest.raises(StoreUnavailable, match="reading only"):
        await beside.remove([numbered(1).id])
    assert pen.keep(numbered(8))
    assert await pen.counts() == {"github": 4}
    assert await beside.counts() == {"github": 4}


async def test_a_reader_replaces_nothing(open_pen: support.OpenPen, path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)
    beside = open_pen(read_only=True)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await beside.list_rejected()
    assert path.read_bytes().startswith(b"no database")


WRITER = """
import itertools, sys, time
from tests.support.pen import numbered, open_pen
from pathlib import Path
pen = open_pen(Path(sys.argv[1]), lambda: 1_700_000_000_000, monotonic_s=itertools.count(step=10).__next__)
print("writing", flush=True)
for number in itertools.count():
    pen.keep(numbered(number, id=f"{time.time_ns()}", body=b"x" * 200_000))
    time.sleep(0.0005)
"""


async def test_a_killed_owner_leaves_a_whole_file(open_pen: support.OpenPen, path: Path) -> None:
    """SIGKILL in the middle of a flood, five times over: what is opened next is one of ours and whole."""
    for round_number in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            env={**os.environ},
        )
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"writing\n"
        await wait_for_file(path, 3_000_000)
        await asyncio.sleep(0.003 * round_number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert 10 <= len(await open_pen(read_only=True).list_rejected()) <= 21, "what was half written is rolled back"
    telemetry = in_memory()
    pen = open_pen(telemetry=telemetry)
    assert 10 <= len(await pen.list_rejected()) <= 21
    assert events(telemetry) == []
    await pen.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


async def wait_for_file(path: Path, size: int) -> None:
    async with asyncio.timeout(20):
        while not path.exists() or path.stat().st_size < size:
            await asyncio.sleep(0.005)


async def test_a_full_disk_drops_and_recovers(open_pen: support.OpenPen, tmp_path: Path) -> None:
    """Accepted work comes first: 16 MiB beyond the store's own floor stay free, however much is offered."""
    with small_tmpfs(tmp_path / "small", 32) as folder:
        telemetry, now_s = in_memory(), [0.0]
        pen = open_pen(
            path=folder / "rejected.db", telemetry=telemetry, monotonic_s=lambda: now_s[0], bytes_max=64 * MIB
        )
        for number in range(60):
            pen.keep(numbered(number, body=b"x" * MIB))
            now_s[0] += 10
            await pen.counts()
            assert free_bytes(folder) >= 16 * MIB
        assert metric(telemetry, "relay_rejected_dropped_total", reason="disk") > 10
        kept = sum((await pen.counts()).values())
        assert 3 <= kept < 16
        assert "nearly full" in logged(telemetry)
        (folder / "ballast").write_bytes(bytes(free_bytes(folder)))
        assert free_bytes(folder) == 0
        pen.keep(numbered(70))
        assert sum((await pen.counts()).values()) == kept, "it is read on a full disk too"
        with pytest.raises(StoreUnavailable, match="full"):
            await pen.remove([record.id for record in await pen.list_rejected()])
        (folder / "ballast").unlink()
        assert await pen.remove([record.id for record in await pen.list_rejected()]) == kept
        now_s[0] += 11
        async with asyncio.timeout(10):  # the known amount of free disk is trusted for a second
            while not await pen.list_rejected():
                pen.keep(numbered(71))
                now_s[0] += 11
                await asyncio.sleep(0.05)
        assert events(telemetry)[-1] == "pen.regained"
        await pen.close()


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


async def test_old_ones_go_at_the_start(open_pen: support.OpenPen, path: Path) -> None:
    pen = open_pen()
    await filled(pen, 5)
    await pen.close()
    later = Clock(START_MS + 73 * 3_600_000)
    again = support.open_pen(path, later)
    await again.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM rejected").fetchone() == (0,)
    connection.close()


async def test_a_file_that_somebody_holds_locked_holds_nobody_up(open_pen: support.OpenPen, path: Path) -> None:
    """Whoever looks at the file with another program: what comes meanwhile waits within bounds, then is dropped."""
    telemetry, now_s = in_memory(), [0.0]
    pen = open_pen(telemetry=telemetry, monotonic_s=lambda: now_s[0], count_max=10_000)
    await filled(pen, 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began, taken = time.perf_counter(), 0
    for number in range(1, 3001):
        now_s[0] += 1
        taken += pen.keep(numbered(number))
    assert time.perf_counter() - began < 1
    assert 0 < taken <= 1024
    assert metric(telemetry, "relay_rejected_dropped_total", reason="queue") == 3000 - taken
    assert pen.keep(numbered(9000, source="stripe")), "there is room for another source"
    other.execute("ROLLBACK")
    other.close()
    assert await pen.counts() == {"github": 1 + taken, "stripe": 1}
    assert events(telemetry) == []


async def test_a_write_that_fails_half_way_leaves_nothing_behind(open_pen: support.OpenPen) -> None:
    telemetry, now_s = in_memory(), [0.0]
    pen = open_pen(telemetry=telemetry, monotonic_s=lambda: now_s[0], count_max=3)
    await filled(pen, 2)
    pen.keep(numbered(5))
    pen.keep(numbered(6, received_ms=1 << 70))  # more than a file's number can be
    await pen.counts()
    now_s[0] += 11
    for number in (7, 8):
        assert pen.keep(numbered(number))
    kept = names(await pen.list_rejected())
    assert kept[:2] == [numbered(8).id, numbered(7).id]
    assert len(kept) == 3, "what is counted is what is there"
    assert events(telemetry) == ["pen.lost", "pen.regained"]
