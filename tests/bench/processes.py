"""Processes with cores of their own, what they used, and one round of load against them."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from tests.bench.load import STEPS, WARM_UP_SECONDS
from tests.bench.signed import SECRET
from tests.support.relay_process import clean_environ, free_port, write_config

ROOT: Final = Path(__file__).parents[2]
CORES: Final = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []  # elsewhere there is no bench
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
#: More than rounding can make: threads have ended with this time.
DEAD_SECONDS_MIN: Final = 0.05
Cores = tuple[int, ...]


def cores_for(servers: int) -> tuple[Cores, Cores]:
    """So many cores for what is measured, and the rest for load and sink."""
    return tuple(CORES[:servers]), tuple(CORES[servers:])


@contextmanager
def started(
    arguments: Sequence[str],
    cores: Cores,
    *,
    program: str = sys.executable,
    folder: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    log: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program, by default a Python of ours, held to its cores with all that it starts; ended with the block."""
    process = subprocess.Popen(
        [program, *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=log or subprocess.PIPE,
        stderr=log,
        env={**clean_environ(), "PYTHONPATH": str(ROOT), **(environ or {})},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


@dataclass(slots=True)
class Served:
    """What listens now, where it wants its webhooks and how signed. `pids` are measured; their children with them."""

    port: int
    pids: list[int]
    folder: Path = ROOT
    sink_port: int = 0
    sink_pid: int = 0
    ready_seconds: float = 0.0
    path: str = "/in/stripe"
    scheme: str = "stripe"

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in family(self.pids))

    def delivered(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.sink_port}/count", timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
        return found


@contextmanager
def bare_server(cores: Cores) -> Iterator[Served]:
    """An empty aiohttp per core, all on one port."""
    port = free_port()
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(["-m", "tests.bench.servers", "bare", str(port)], (core,))) for core in cores
        ]
        for process in processes:
            wait_ready(process)
        yield Served(port, [process.pid for process in processes])


@contextmanager
def relay_server(
    cores: Cores,
    others: Cores,
    *options: str,
    environ: Mapping[str, str] | None = None,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Served]:
    """A relay with an empty store in a folder of its own, and its sink beside the load."""
    folder = Path(tempfile.mkdtemp(prefix="relay-bench-", dir=bench_folder()))
    sink_port = free_port()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sink = stack.enter_context(started(["-m", "tests.bench.servers", "sink", str(sink_port)], others[-1:]))
        wait_ready(sink)
        script = (ROOT / "transforms" / "stripe.js").read_text("utf-8")
        source = {"provider": "stripe", "secrets": [SECRET], "transform": "stripe.js"}
        write_config(
            folder,
            f"http://127.0.0.1:{sink_port}",
            sources={"stripe": source},
            scripts={"stripe.js": script},
            **(sections or {}),
        )
        log = stack.enter_context((folder / "relay.log").open("wb"))
        began = time.monotonic()
        command = ["-m", "tests.bench.serve", *options]
        process = stack.enter_context(started(command, cores, folder=folder, environ=environ, log=log))
        receiver = wait_started(process, folder / "relay.log")["receiver"]
        ready_seconds = time.monotonic() - began
        port = int(str(receiver).rpartition(":")[2])
        yield Served(port, [process.pid], folder, sink_port, sink.pid, ready_seconds)


def bench_folder() -> Path:
    """Where stores are made: a disk, not memory, unless BENCH_FOLDER says otherwise."""
    return Path(os.environ.get("BENCH_FOLDER", "/var/tmp"))


def wait_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"ready", "a process of the benchmark did not start"


def wait_started(process: subprocess.Popen[bytes], log: Path, seconds: float = 30.0) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text("utf-8").splitlines(keepends=True):
            if '"relay.started"' in line and line.endswith("\n"):
                found: dict[str, Any] = json.loads(line)
                return found
        time.sleep(0.01)
    raise RuntimeError(f"the relay did not start:\n{log.read_text('utf-8')[-2000:]}")


def family(pids: Sequence[int]) -> list[int]:
    """The processes and their children, and theirs."""
    found = list(pids)
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):
                found += [int(child) for child in task.read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """What a process has used so far; with its dead children, so that no sandbox child is lost.

    To the microsecond by its threads, as long as none of them has ended: their time is only in the process's own count,
    in steps of 10 ms.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own = sum(thread_seconds(task) for task in Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    with_dead_threads = sum(int(field) for field in fields[11:13]) / CLOCK_TICKS
    children = sum(int(field) for field in fields[13:15]) / CLOCK_TICKS
    return (with_dead_threads if with_dead_threads > own + DEAD_SECONDS_MIN else own) + children


def thread_seconds(task: Path) -> float:
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


@dataclass(slots=True)
class Round:
    """What one round of load found."""

    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    statuses: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    began: float = 0.0

    @property
    def not_accepted(self) -> dict[str, int]:
        return {status: count for status, count in self.statuses.items() if status != "200"}


def drive(
    served: Served, cores: Cores, *, connections: int, seconds: float, size_bytes: int = 2048, keep_alive: bool = True
) -> Round:
    """Load from a process per core, all starting at once; the server's time is that of the counted part."""
    mode = "keep-alive" if keep_alive else "one-each"
    with ExitStack() as stack:
        loads = []
        for number, core in enumerate(cores):
            share = connections // len(cores) + (number < connections % len(cores))
            arguments = [str(served.port), str(share), str(seconds), str(size_bytes), mode, served.path, served.scheme]
            loads.append(stack.enter_context(started(["-m", "tests.bench.load", *arguments], (core,))))
        for load in loads:
            wait_ready(load)
        began = time.monotonic()
        for load in loads:
            assert load.stdin is not None
            load.stdin.write(b"go\n")
            load.stdin.flush()
        time.sleep(WARM_UP_SECONDS)
        used = served.cpu_seconds()
        time.sleep(seconds)
        used = served.cpu_seconds() - used
        reports = [json.loads(load.stdout.read()) for load in loads if load.stdout is not None]
    return summed(reports, seconds, used, began)


def summed(reports: Sequence[Mapping[str, Any]], seconds: float, used: float, began: float) -> Round:
    answered = sum(report["answered"] for report in reports)
    took: Counter[int] = Counter()
    statuses: Counter[str] = Counter()
    for report in reports:
        statuses.update(report["statuses"])
        took.update({int(step): count for step, count in report["took"].items()})
    if not answered:
        raise RuntimeError(f"the server answered nothing: {dict(statuses)}")
    p50_ms, p99_ms = quantile_ms(took, 0.5), quantile_ms(took, 0.99)
    return Round(answered / seconds, used * 1e6 / answered, p50_ms, p99_ms, statuses, answered, began)


def quantile_ms(took: Mapping[int, int], part: float) -> float:
    below = part * sum(took.values())
    for step in sorted(took):
        below -= took[step]
        if below <= 0:
            return math.exp(step / STEPS) * 1000
    raise ValueError("nothing was counted")


def fsync_ms(folder: Path, times: int = 200) -> float:
    """The median of an append of 4 KB and its fdatasync."""
    found = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(times):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found)
