"""`make bench`: all of it, into docs/performance.md; `make bench-quick`: the main figures, in under two minutes.

`python -m tests.bench [--quick] [--peers] [--only TEXT] [--write PAGE]`; --peers measures others beside the relay,
fetched from public registries when they are wanted first. Every figure of a server is a ratio to an empty aiohttp on
the same cores in the same run; rounds alternate and the median of their ratios counts. So a machine that is slower
today changes little, but one that is busy with something else changes much: have it to yourself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tests.bench import over_http, peers
from tests.bench.figures import Figure, machine, table, write
from tests.bench.over_http import Plan
from tests.bench.processes import CORES, ROOT, bench_folder, cores_for, fsync_ms, started

Measures: TypeAlias = dict[str, Callable[[], Figure | Iterable[Figure]]]

#: Below this an fsync reaches no disk.
MEMORY_MS = 0.02


def ran(part: str, *arguments: int) -> dict[str, float]:
    """One of the parts, on a core of its own."""
    command = ["-m", "tests.bench.parts", part, *map(str, arguments)]
    with started(command, cores_for(1)[0]) as process:
        assert process.stdout is not None
        found: dict[str, float] = json.loads(process.stdout.read())
        return found


def sandbox(plan: Plan, size_bytes: int, goal: float) -> Figure:
    found = ran("sandbox", size_bytes, max(3, round(plan.seconds)))
    engine, pool = found["engine_per_second"], found["pool_per_second"]
    text = f"{pool:,.0f}/s of {engine:,.0f}/s ({1e6 / pool:.0f} µs of {1e6 / engine:.0f} µs)"
    return Figure(f"transform, {size_bytes // 1024} KB, one core", pool / engine, goal, text, "the engine in process")


def window(plan: Plan) -> list[Figure]:
    ids = 1_000_000 if plan.quick else 10_000_000
    found = ran("window", ids)
    empty, full, pause = found["empty_per_second"], found["full_per_second"], found["pause_ms"]
    cpu = f"CPU {found['full_cpu_us']:.1f} µs of {found['empty_cpu_us']:.1f} µs"
    text = f"{full:,.0f}/s of {empty:,.0f}/s ({1e6 / full:.1f} µs of {1e6 / empty:.1f} µs an id, {cpu})"
    return [
        Figure(f"dedupe window of {ids // 10**6} M ids", full / empty, 0.9, text, "an empty one"),
        Figure("pause when ids expire", pause / 50, 1.0, f"{pause:.1f} ms", "50 ms", at_most=True),
    ]


def store(plan: Plan) -> Figure:
    found = ran("store", 1_000_000)
    first, last = found["first_per_second"], found["last_per_second"]
    cpu = f"CPU {found['last_cpu_us']:.1f} µs of {found['first_cpu_us']:.1f} µs"
    text = f"{last:,.0f}/s of {first:,.0f}/s ({cpu})"
    return Figure("the millionth delivery", last / first, 0.9, text, "an empty store")


def figures(plan: Plan) -> Measures:
    """What there is to measure, in the order of the page; those before `sandbox` are the main ones."""
    ack = over_http.ack_path
    main: Measures = {
        "ack": lambda: ack(plan, "ack path, 64 connections", 1.3, connections=64),
        "ack-256": lambda: ack(plan, "ack path, 256 connections", 1.8, connections=256),
        "p99": lambda: over_http.p99(plan),
        "whole-1": lambda: over_http.whole_way(plan, 1, 0.40),
        "whole-2": lambda: over_http.whole_way(plan, 2, 0.45),
        "sandbox-1": lambda: sandbox(plan, 1024, 0.6),
        "idle": lambda: over_http.idle(plan),
    }
    rest: Measures = {
        "ack-10": lambda: ack(plan, "ack path, 10 KB bodies", 0.8, connections=64, size_bytes=10_240),
        "ack-new": lambda: ack(plan, "ack path, a connection each", 2.0, connections=64, keep_alive=False),
        "sandbox-10": lambda: sandbox(plan, 10_240, 0.8),
        "window": lambda: window(plan),
        "store": lambda: store(plan),
        "backlog": lambda: over_http.backlog(plan),
    }
    return main if plan.quick else {**main, **rest}


def peer_figures(plan: Plan) -> Measures:
    return {name: partial(peers.measured, plan, peer) for name, peer in peers.peers().items()}


def main(arguments: list[str]) -> int:
    parsed = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parsed.add_argument("--quick", action="store_true", help="the main figures only, shorter")
    parsed.add_argument("--peers", action="store_true", help="others beside the relay too; what cannot be had is named")
    parsed.add_argument("--only", default="", metavar="TEXT", help="those whose name begins so")
    parsed.add_argument("--rounds", type=int, default=0)
    parsed.add_argument("--seconds", type=float, default=0.0)
    parsed.add_argument("--backlog", type=int, default=200_000, help="deliveries that wait while the sink is away")
    parsed.add_argument("--write", type=Path, metavar="PAGE", help="write table and plot into this page")
    args = parsed.parse_args(arguments)
    if len(CORES) < 3:
        print(
            f"{len(CORES)} cores are too few: the load needs one of its own, and the relay up to two", file=sys.stderr
        )
        return 2
    plan = Plan(
        args.rounds or (2 if args.quick else 5), args.seconds or (1.5 if args.quick else 4.0), args.quick, args.backlog
    )
    disk_ms = fsync_ms(bench_folder())
    if disk_ms < MEMORY_MS:
        print(f"{bench_folder()} is memory: name a folder on a disk with BENCH_FOLDER", file=sys.stderr)
    wanted = figures(plan) | (peer_figures(plan) if args.peers else {})
    found = measured(wanted, args.only)
    how = f"{machine(disk_ms)} {plan.rounds} rounds of {plan.seconds:g} s each."
    print(f"{how}\n\n{table(found)}")
    if args.write:
        write(found, ROOT / args.write, how)
    return 0


def measured(wanted: Measures, only: str) -> list[Figure]:
    found: list[Figure] = []
    for name, measure in wanted.items():
        if name.startswith(only):
            began = time.monotonic()
            made = measure()
            found += [made] if isinstance(made, Figure) else made
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
