"""What one webhook costs in things that can be counted: the same on a slow machine as on a fast one.

The bounds leave room over what was counted when they were set, and none for a step that is done once more for every
webhook. How many share a transaction would hang on how quick the senders are; so up to the 200 they come in waves,
which lie ready before the relay may go on. Times are measured by `make bench`.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.support import signing
from tests.support.fake_inngest import FakeInngest
from tests.support.relay_process import RelayProcess, write_config

WEBHOOKS = 1000
CONNECTIONS = 64
BODY_BYTES = 2048
ROOT = Path(__file__).parents[2]

#: Up to the 200, per 1,000 webhooks in waves of 64: 16 to 26. A transaction of its own for each would be 1,000.
TRANSACTIONS_MAX = 40
#: One for each transaction, and three for each checkpoint, of which there is one every 2.5 MB.
FSYNCS_MAX = TRANSACTIONS_MAX + 12
#: Up to the 200, per webhook, of all threads: receiving, logging, answering, and a share of a transaction; 3.2 were
#: counted, of which 0.4 accept the connections.
SYSCALLS_MAX = 4.0
#: Through to Inngest, per webhook with one event: the event, and what happened to it and to the delivery.
ROWS = 3
#: Beside them, per transaction: a block of deliveries, its source, how its ids begin (anew every 32 ms), a block of
#: events, and what is known from now on.
ROWS_OF_TRANSACTION_MAX = 8
#: On disk when all is delivered, per webhook of 2 KB: half of the body and of its event, and what is kept of both.
DISK_BYTES_MAX = 3.5 * 1024


@contextmanager
def bench_relay(folder: Path, option: str) -> Iterator[RelayProcess]:
    program = (sys.executable, "-m", "tests.bench.serve", option)
    process = RelayProcess(folder, {"PYTHONPATH": str(ROOT)}, program)
    try:
        yield process
    finally:
        process.end()


@pytest.fixture
def resting(tmp_path: Path) -> Iterator[RelayProcess]:
    """A relay that takes webhooks and does no more with them."""
    with bench_relay(tmp_path, "--ack-only") as process:
        yield process


async def send(http: aiohttp.ClientSession, url: str) -> None:
    """WEBHOOKS different ones, CONNECTIONS at a time."""
    numbers = iter(range(WEBHOOKS))

    async def keep_sending() -> None:
        for number in numbers:
            body, headers = webhook(number)
            async with http.post(f"{url}/in/github", data=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()

    await asyncio.gather(*(keep_sending() for _ in range(CONNECTIONS)))


async def send_waves(relay: RelayProcess) -> None:
    """WEBHOOKS different ones over CONNECTIONS, one on each at a time; the relay stands still until these wait."""
    assert relay.process is not None
    port = urlsplit(relay.receiver_url).port
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    for first in range(0, WEBHOOKS, CONNECTIONS):
        wave = connections[: WEBHOOKS - first]
        relay.process.send_signal(signal.SIGSTOP)
        for number, (_, writer) in enumerate(wave, first):
            writer.write(request(number))
            await writer.drain()
        relay.process.send_signal(signal.SIGCONT)
        for reader, _ in wave:
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
    for _, writer in connections:
        writer.close()


def request(number: int) -> bytes:
    body, headers = webhook(number)
    lines = [f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body)}.items()]
    return f"POST /in/github HTTP/1.1\r\nHost: relay\r\n{''.join(lines)}\r\n".encode() + body


def webhook(number: int) -> tuple[bytes, dict[str, str]]:
    name = f"evt_{number:06d}"
    own = random.Random(number).randbytes(BODY_BYTES // 4).hex()  # half of it: more than real ones have
    body = signing.json_body(name, pad=own.ljust(BODY_BYTES - 60, "x"))
    return body, signing.github(body, name)


def transactions(database: Path) -> int:
    """How many were written since the file was opened: SQLite counts them in the header of its WAL index."""
    with Path(f"{database}-shm").open("rb") as index:
        version, _, count = struct.unpack("=III", index.read(12))
    assert version == 3007000, "the WAL index has another form now"
    return int(count)


@pytest.mark.parametrize("writer", ["process", "thread"])
async def test_transactions_up_to_the_ack(resting: RelayProcess, inngest: FakeInngest, writer: str) -> None:
    write_config(resting.folder, inngest.url, store={"writer": writer})
    await resting.start()
    database = resting.folder / "data" / "relay.db"
    before = transactions(database)
    await send_waves(resting)
    count = transactions(database) - before
    assert WEBHOOKS / CONNECTIONS <= count <= TRANSACTIONS_MAX
    assert await resting.stop() == 0


@contextmanager
def counted_syscalls(pids: Sequence[int], report: Path) -> Iterator[Counter[str]]:
    """What the processes and their threads call, by name; complete when the block is left. Skips without strace."""
    program = shutil.which("strace")
    if program is None:
        give_up("strace is not installed")
    command = [str(program), "-f", "-c", "-o", str(report), *(f"-p{pid}" for pid in pids)]
    found: Counter[str] = Counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        for _ in pids:
            first = tracer.stderr.readline().decode()
            if "attached" not in first:
                give_up(f"strace cannot attach here: {first.strip()}")
        yield found
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)
    for line in report.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            found[words[-1]] = int(words[3])


def give_up(reason: str) -> None:
    if os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_syscalls_and_fsyncs_up_to_the_ack(resting: RelayProcess, inngest: FakeInngest, writer: str) -> None:
    write_config(resting.folder, inngest.url, store={"writer": writer})
    await resting.start()
    assert resting.process is not None
    pids = [resting.process.pid, *([resting.writer_pid()] if writer == "process" else [])]
    with counted_syscalls(pids, resting.folder / "strace") as calls:
        await send_waves(resting)
    fsyncs = calls["fsync"] + calls["fdatasync"]
    assert WEBHOOKS / CONNECTIONS <= fsyncs <= FSYNCS_MAX, calls
    others = calls["futex"] + calls["getpid"]  # the scheduler's, and one of Python 3.11's event loop
    assert calls.total() - others <= SYSCALLS_MAX * WEBHOOKS, calls


async def test_bytes_on_disk_when_all_is_delivered(
    relay: RelayProcess, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    write_config(relay.folder, inngest.url)
    await relay.start()
    database = relay.folder / "data" / "relay.db"
    empty = database.stat().st_size
    await send(http, relay.receiver_url)
    await inngest.wait_for(lambda: len(set(inngest.ids())) == WEBHOOKS, seconds=60)
    assert await relay.stop() == 0
    each_bytes = (database.stat().st_size - empty) / WEBHOOKS
    assert BODY_BYTES / 2 < each_bytes <= DISK_BYTES_MAX


async def test_rows_written_through_to_inngest(
    tmp_path: Path, http: aiohttp.ClientSession, inngest: FakeInngest
) -> None:
    with bench_relay(tmp_path, "--count-rows") as relay:
        write_config(relay.folder, inngest.url, store={"writer": "thread"})  # whose connections can be asked
        await relay.start()
        database = relay.folder / "data" / "relay.db"
        before, count = await rows_written(relay), transactions(database)
        await send(http, relay.receiver_url)
        await inngest.wait_for(lambda: len(set(inngest.ids())) == WEBHOOKS, seconds=60)
        await until_settled(http, relay)
        rows = await rows_written(relay) - before
        count = transactions(database) - count
        assert ROWS * WEBHOOKS < rows <= ROWS * WEBHOOKS + ROWS_OF_TRANSACTION_MAX * count
        assert await relay.stop() == 0


async def rows_written(relay: RelayProcess) -> int:
    """Asks the process; see tests/bench/serve.py."""
    assert relay.process is not None
    answer = relay.folder / "rows"
    answer.unlink(missing_ok=True)
    relay.process.send_signal(signal.SIGUSR1)
    async with asyncio.timeout(10):
        while not answer.exists():
            await asyncio.sleep(0.01)
    return int(answer.read_text())


async def until_settled(http: aiohttp.ClientSession, relay: RelayProcess) -> None:
    async with asyncio.timeout(30):
        while True:
            async with http.get(f"{relay.operator_url}/metrics") as answer:
                if f'relay_events{{state="sent"}} {WEBHOOKS}.0' in await answer.text():
                    return
            await asyncio.sleep(0.01)
