"""`relay serve` as it is, with two things that only measuring needs.

`python -m tests.bench.serve [--ack-only] [--count-rows]`: --ack-only lets the pipeline and the forwarder rest, so that
what is measured is the way to the 200 and nothing else; --count-rows answers SIGUSR1 with a file `rows` in the current
folder: how many rows the store's writer has inserted, updated and deleted.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import signal
import sqlite3
import sys
from pathlib import Path

import relay.app
from relay.cli import main
from relay.forwarder import Forwarder
from relay.pipeline import Pipeline
from relay.stores import sqlite_committer, sqlite_file


class RestingPipeline(Pipeline):
    async def run(self) -> None:
        await asyncio.Event().wait()


class RestingForwarder(Forwarder):
    async def run(self) -> None:
        await asyncio.Event().wait()


def count_rows() -> None:
    opened: list[sqlite3.Connection] = []

    def open_and_keep(path: Path) -> sqlite3.Connection:
        opened.append(sqlite_file.open_writer(path))
        return opened[-1]

    def tell(*_: object) -> None:
        made = Path("rows.new")
        made.write_text(str(sum(connection.total_changes for connection in opened)))
        made.rename("rows")

    vars(sqlite_committer)["open_writer"] = open_and_keep
    signal.signal(signal.SIGUSR1, tell)


def run(arguments: list[str]) -> int:
    if "--count-rows" in arguments:
        count_rows()
    if "--ack-only" in arguments:
        vars(relay.app).update(Pipeline=RestingPipeline, Forwarder=RestingForwarder)
    profile = os.environ.get("BENCH_PROFILE")
    if profile is None:
        return main(["serve"])
    profiler = cProfile.Profile()
    code = profiler.runcall(main, ["serve"])
    profiler.dump_stats(profile)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
