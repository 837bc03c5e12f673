"""`make profile`: where the time goes, on the way to the 200 and on the whole way to Inngest.

With py-spy installed every thread is sampled from outside; without it cProfile shows the event loop's thread, slowed
down by being watched. The shares are of the time in which a thread was at work, not of the clock.
"""

from __future__ import annotations

import io
import os
import pstats
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.bench.over_http import wait_delivered
from tests.bench.processes import Served, cores_for, cpu_seconds, drive, family, relay_server, thread_seconds

SECONDS: Final = 5.0
FUNCTIONS_SHOWN: Final = 15
#: A thread that stands in one of these waits for work, whatever the sampler thinks of it.
WAITING: Final = ("_worker (concurrent/", "select (selectors.py", "PenQueue.take", "Writer._work ", "Condition.wait")


def main() -> None:
    spy = Path(sys.executable).with_name("py-spy")
    found = str(spy) if spy.exists() else shutil.which("py-spy")
    for name, options in (("the way to the 200", ["--ack-only"]), ("the whole way", [])):
        print(f"\n{name}, 64 connections, 2 KB, one core\n")
        if found:
            sample(found, options)
        else:
            watch(options)


def sample(spy: str, options: list[str]) -> None:
    cores, others = cores_for(1)
    with tempfile.TemporaryDirectory() as made, relay_server(cores, others, *options) as relay:
        raw = Path(made) / "stacks"
        command = [spy, "record", "--pid", str(relay.pids[0]), "--duration", "600", "--rate", "250"]
        with subprocess.Popen(
            [*command, "--format", "raw", "--output", str(raw)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as sampler:
            before = threads(relay)
            load = drive(relay, others[-2:], connections=64, seconds=SECONDS)
            if not options:
                wait_delivered(relay, load.statuses["200"])
            show_threads(before, threads(relay), load.statuses["200"])
            sampler.send_signal(signal.SIGINT)
        print_shares(raw.read_text("utf-8").splitlines())


def threads(relay: Served) -> Counter[str]:
    """CPU seconds of the loop's thread, of the relay's other threads, and of its children."""
    pid = relay.pids[0]
    tasks = {int(task.name): thread_seconds(task) for task in Path(f"/proc/{pid}/task").iterdir()}
    children = sum(cpu_seconds(child) for child in family([pid])[1:])
    return Counter({"event loop": tasks.pop(pid), "other threads": sum(tasks.values()), "sandbox children": children})


def show_threads(before: Counter[str], after: Counter[str], answered: int) -> None:
    parts = [f"{name} {(after[name] - before[name]) * 1e6 / answered:.0f} µs" for name in after]
    print(f"CPU per accepted webhook: {', '.join(parts)} ({answered:,} accepted)")


def print_shares(stacks: Iterable[str]) -> None:
    """The functions in which the time is spent, and those under which."""
    own: Counter[str] = Counter()
    under: Counter[str] = Counter()
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] + ")" for frame in stack.split(";") if ".py" in frame]
        if frames and not frames[-1].startswith(WAITING) and not any(word in frames[-1] for word in WAITING):
            own[frames[-1]] += int(samples)
            under.update(dict.fromkeys(frames, int(samples)))
    total = own.total() or 1
    ours = Counter({name: count for name, count in under.items() if "relay/" in name and "relay/cli" not in name})
    for title, counts, shown in (
        ("in the function itself", own, FUNCTIONS_SHOWN),
        ("in the relay's functions and what they call", ours, 2 * FUNCTIONS_SHOWN),
    ):
        print(f"\n  {title}")
        for frame, count in counts.most_common(shown):
            print(f"  {count / total:6.1%}  {frame}")


def watch(options: list[str]) -> None:
    cores, others = cores_for(1)
    with tempfile.TemporaryDirectory() as made:
        file = os.path.join(made, "profile")
        with relay_server(cores, others, *options, environ={"BENCH_PROFILE": file}) as relay:
            drive(relay, others[-2:], connections=64, seconds=SECONDS)
        text = io.StringIO()
        pstats.Stats(file, stream=text).sort_stats("tottime").print_stats(FUNCTIONS_SHOWN)
        print(text.getvalue())


if __name__ == "__main__":
    main()
