"""What is measured with a relay and requests: the way to the 200, and the whole way to Inngest."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.figures import Figure
from tests.bench.processes import (
    ROOT,
    Round,
    Served,
    bare_server,
    bench_folder,
    cores_for,
    cpu_seconds,
    drive,
    family,
    fsync_ms,
    relay_server,
)

#: How long a delivery may take to arrive once nothing new is sent.
STALLED_SECONDS: Final = 30.0
INJECTED_MS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often: the quick run takes less of both."""

    rounds: int
    seconds: float
    quick: bool
    backlog: int

    @property
    def long_rounds(self) -> int:
        """Of what takes long for one."""
        return 1 if self.quick else self.rounds


@dataclass(frozen=True, slots=True)
class Pair:
    """One round: the bare server, and ours right after it."""

    base: Round
    ours: Round

    @property
    def ratio(self) -> float:
        return self.ours.per_second / self.base.per_second

    @property
    def cpu_ratio(self) -> float:
        return self.base.cpu_us / self.ours.cpu_us


def ack_path(plan: Plan, name: str, goal: float, **load: Any) -> Figure:
    """Verified, deduplicated and on disk before the 200; what comes after it rests."""
    cores, others = cores_for(1)
    loading = others[-2:] if load.get("keep_alive", True) else others  # connecting costs the sender more than sending
    pairs = []
    for _ in range(plan.rounds):
        with bare_server(cores) as bare:
            base = drive(bare, loading, seconds=plan.seconds, **load)
        with relay_server(cores, others, "--ack-only") as relay:
            pairs.append(Pair(base, accepted(drive(relay, loading, seconds=plan.seconds, **load))))
    return Figure(name, statistics.median(pair.ratio for pair in pairs), goal, said(pairs))


def p99(plan: Plan) -> list[Figure]:
    """The slowest of a hundred at saturation, on this disk and on one whose fsync takes 5 ms longer."""
    cores, others = cores_for(1)
    found, slowed = [], []
    with slow_fsync() as environ:
        for _ in range(plan.long_rounds):
            with relay_server(cores, others, "--ack-only") as relay:
                found.append(accepted(drive(relay, others[-2:], connections=64, seconds=plan.seconds)))
            if environ:
                with relay_server(cores, others, "--ack-only", environ=environ) as relay:
                    slowed.append(accepted(drive(relay, others[-2:], connections=64, seconds=plan.seconds)))
    figures = [limited("p99, 64 connections", "6 ms", found, 6.0)]
    if not slowed:
        return [*figures, Figure("p99, fsync 5 ms slower", None, None, "skipped: no C compiler (cc) here")]
    one_fsync = INJECTED_MS + fsync_ms(bench_folder())
    return [*figures, limited("p99, fsync 5 ms slower", "2 fsyncs + 2 ms", slowed, 2 * one_fsync + 2)]


def limited(name: str, limit: str, rounds: list[Round], limit_ms: float) -> Figure:
    p99_ms = statistics.median(each.p99_ms for each in rounds)
    per_second = statistics.median(each.per_second for each in rounds)
    text = f"{p99_ms:.1f} ms of {limit_ms:.1f}, at {per_second:,.0f}/s"
    return Figure(name, p99_ms / limit_ms, 1.0, text, against=limit, at_most=True)


def whole_way(plan: Plan, cores_count: int, goal: float) -> Figure:
    """As many as can be accepted in a while, and all of them delivered: how many a second, from first to last."""
    cores, others = cores_for(cores_count)
    loading = others[-2:] if len(others) > 1 else others
    pairs = []
    for _ in range(plan.long_rounds):
        with bare_server(cores) as bare:
            base = drive(bare, loading, connections=64 * cores_count, seconds=plan.seconds)
        with relay_server(cores, others) as relay:
            used = relay.cpu_seconds()
            loaded = accepted(drive(relay, loading, connections=64 * cores_count, seconds=2 * plan.seconds))
            pairs.append(Pair(base, delivered(relay, loaded, used)))
    name = f"whole pipeline, {cores_count} core{'s' if cores_count > 1 else ''}"
    return Figure(name, statistics.median(pair.ratio for pair in pairs), goal, said(pairs))


def delivered(relay: Served, loaded: Round, used_before: float) -> Round:
    """The same round, told by what arrived: every one of them, each once."""
    count = loaded.statuses["200"]
    seconds = wait_delivered(relay, count) - loaded.began
    cpu_us = (relay.cpu_seconds() - used_before) * 1e6 / count
    return Round(count / seconds, cpu_us, loaded.p50_ms, loaded.p99_ms, loaded.statuses, count, loaded.began)


def wait_delivered(relay: Served, count: int, *, once: bool = True) -> float:
    """When the last arrived. Fails when one is missing, or came twice though no request went unanswered."""
    last, moved = -1, time.monotonic()
    while (arrived := relay.delivered())["different"] < count:
        if arrived["events"] != last:
            last, moved = arrived["events"], time.monotonic()
        if time.monotonic() - moved > STALLED_SECONDS:
            raise RuntimeError(f"{count} accepted, {arrived} delivered, and no more come")
        time.sleep(0.05)
    at = time.monotonic()
    if arrived["different"] != count or (once and arrived["events"] != count):
        raise RuntimeError(f"{count} accepted, {arrived} delivered")
    return at


def backlog(plan: Plan) -> list[Figure]:
    """Inngest is away while so many are accepted, then it is back: memory, acks meanwhile and beside the way down."""
    cores, others = cores_for(1)
    loading = others[-2:] if len(others) > 1 else others
    with relay_server(cores, others) as relay:
        quiet = [accepted(drive(relay, loading, connections=64, seconds=plan.seconds)) for _ in range(plan.long_rounds)]
        before = sorted(quiet, key=lambda each: each.p99_ms)[len(quiet) // 2]
        count = sum(each.statuses["200"] for each in quiet)
        wait_delivered(relay, count)
        os.kill(relay.sink_pid, signal.SIGSTOP)
        waiting = 0
        while waiting < plan.backlog:
            meanwhile = accepted(drive(relay, loading, connections=64, seconds=10.0))
            waiting += meanwhile.statuses["200"]
        os.kill(relay.sink_pid, signal.SIGCONT)
        began = time.monotonic()
        during = accepted(drive(relay, loading, connections=64, seconds=plan.seconds))
        all_of_them = waiting + during.statuses["200"]
        drained = all_of_them / (wait_delivered(relay, count + all_of_them, once=False) - began)
        mib = max(peak_mib(pid) for pid in family(relay.pids))
    how = f"with {waiting:,} waiting, {before.p99_ms:.1f} ms before"
    return [
        beside("acks while a backlog waits: p99", meanwhile, before, how),
        beside("acks while it is worked off: p99", during, before, f"at {during.per_second:,.0f}/s beside it"),
        Figure("backlog worked off", None, None, f"{drained:,.0f} a second"),
        Figure("memory with a backlog", mib / 200, 1.0, f"{mib} MiB at most", "200 MiB", at_most=True),
    ]


def beside(name: str, loaded: Round, before: Round, how: str) -> Figure:
    text = f"p99 {loaded.p99_ms:.1f} ms {how}"
    return Figure(name, loaded.p99_ms / before.p99_ms, 1.5, text, "p99 without", at_most=True)


def peak_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def idle(plan: Plan) -> list[Figure]:
    cores, others = cores_for(1)
    starts, shares = [], []
    for _ in range(plan.long_rounds):
        with relay_server(cores, others) as relay:
            starts.append(relay.ready_seconds)
            time.sleep(1.0)
            used = sum(cpu_seconds(pid) for pid in family(relay.pids))
            time.sleep(2 * plan.seconds)
            shares.append((relay.cpu_seconds() - used) / (2 * plan.seconds) * 100)
    share, ready = statistics.median(shares), statistics.median(starts)
    return [
        Figure("idle", share / 0.5, 1.0, f"{share:.2f} % of a core", "0.5 % of a core", at_most=True),
        Figure("start to ready", ready, 1.0, f"{ready:.2f} s", "1 s", at_most=True),
    ]


def accepted(found: Round) -> Round:
    """Only a round in which every answer was a 200 says anything."""
    if found.not_accepted:
        raise RuntimeError(f"not every webhook was accepted: {found.not_accepted}")
    return found


def said(pairs: list[Pair]) -> str:
    def middle(values: list[float]) -> float:
        return statistics.median(values)

    ratios = [pair.ratio for pair in pairs]
    ours, base = [pair.ours for pair in pairs], [pair.base for pair in pairs]
    return (
        f"{middle([each.per_second for each in ours]):,.0f}/s of {middle([each.per_second for each in base]):,.0f}/s"
        f" [{min(ratios):.2f}–{max(ratios):.2f}], by CPU {middle([pair.cpu_ratio for pair in pairs]):.2f}"
        f" ({middle([each.cpu_us for each in ours]):.0f} µs of {middle([each.cpu_us for each in base]):.0f} µs),"
        f" p50 {middle([each.p50_ms for each in ours]):.1f} ms, p99 {middle([each.p99_ms for each in ours]):.1f} ms"
    )


@contextmanager
def slow_fsync() -> Iterator[dict[str, str]]:
    """What to put into a relay's environment so that its disk is slower; nothing where no compiler is."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        library = Path(folder) / "slow_fsync.so"
        source = ROOT / "tests" / "bench" / "slow_fsync.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        library.chmod(0o755)
        yield {"LD_PRELOAD": str(library), "FSYNC_DELAY_US": str(round(INJECTED_MS * 1000))}
