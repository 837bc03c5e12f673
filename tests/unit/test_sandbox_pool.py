"""Children that die, lie, starve or are killed; and a parent that is."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.config import Sandbox
from relay.errors import ConfigError, SandboxUnavailable, TransformError
from relay.sandbox import SandboxPool
from relay.sandbox_channel import RUN
from relay.sandbox_process import ChildCrashed, ChildNotStarted
from relay.sandbox_turns import TURN_CALLS_MAX
from relay.sandbox_worker import Child, Reply
from relay.telemetry import Telemetry
from tests.support.sandboxes import call, outcome, sandbox, script

ROOT = Path(__file__).parent.parent.parent
ECHO = "const transform = (evt) => evt"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


async def until(condition: object, seconds: float = 10) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_children_killed_at_random_cost_no_answer() -> None:
    random.seed(7)
    async with sandbox(processes=2) as pool:
        runs = [asyncio.create_task(pool.run(script(ECHO), call(json.dumps({"n": n})))) for n in range(600)]
        for _ in range(10):
            await asyncio.sleep(0.02)
            if pool._children:
                os.kill(random.choice(pool._children).pid, signal.SIGKILL)
        answers = await asyncio.gather(*runs)
        assert answers == [f'{{"n":{n}}}'.encode() for n in range(600)]
        await until(lambda: len(pool._children) >= 3)


async def test_a_child_killed_while_idle_is_replaced() -> None:
    async with sandbox(processes=1) as pool:
        before = {child.pid for child in pool._children}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert await outcome(pool, ECHO) == '{"x":1}'
        await until(lambda: len(pool._children) == 2)
        assert before.isdisjoint(child.pid for child in pool._children)


async def test_a_call_whose_child_crashes_twice_is_the_scripts_fault() -> None:
    async with sandbox(processes=1, deadline_ms=5000) as pool:
        run = asyncio.create_task(pool.run(script("const transform = () => { for (;;) {} }"), call()))
        for _ in range(2):
            await until(lambda: any(child.busy_seconds > 0.02 for child in pool._active))
            victim = next(iter(pool._active))
            os.kill(victim.pid, signal.SIGSEGV)
            await until(lambda victim=victim: victim not in pool._active)
        result = await run
        assert isinstance(result, TransformError)
        assert result.code == "script_crashed"
        assert "SIGSEGV" in result.message
        assert await outcome(pool, ECHO) == '{"x":1}'


async def test_a_call_that_crashes_once_is_run_again() -> None:
    async with sandbox(processes=1, deadline_ms=1000) as pool:
        text = "const transform = (e) => { const end = Date.now() + 200; while (Date.now() < end); return e }"
        run = asyncio.create_task(outcome(pool, text))
        await until(lambda: any(child.busy_seconds > 0.02 for child in pool._active))
        os.kill(next(iter(pool._active)).pid, signal.SIGSEGV)
        assert await run == '{"x":1}'


async def test_a_stopped_child_is_starvation_and_not_the_scripts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.sandbox_worker.STARVED_SECONDS", 0.2)
    async with sandbox(processes=1, deadline_ms=50) as pool:
        for child in pool._children:
            os.kill(child.pid, signal.SIGSTOP)  # as a machine that gives it no time at all
        with pytest.raises(SandboxUnavailable):
            await pool.run(script(ECHO), call())


async def test_a_child_that_is_given_time_late_still_answers() -> None:
    async with sandbox(processes=1, deadline_ms=50) as pool:
        for child in pool._children:
            os.kill(child.pid, signal.SIGSTOP)
        run = asyncio.create_task(outcome(pool, ECHO))
        await asyncio.sleep(0.8)  # well past the deadline and its grace
        for child in pool._children:
            os.kill(child.pid, signal.SIGCONT)
        assert await run == '{"x":1}'


async def test_close_refuses_what_waits_and_leaves_no_process() -> None:
    async with sandbox(processes=1, deadline_ms=5000) as pool:
        hanging = script("const transform = () => { for (;;) {} }")
        runs = [asyncio.create_task(pool.run(hanging, call())) for _ in range(4)]
        await until(lambda: bool(pool._active))
        processes = [child._process for child in pool._children]
        await pool.close()
        results = await asyncio.gather(*runs, return_exceptions=True)
        assert all(isinstance(result, SandboxUnavailable) for result in results)
        assert all(process.returncode is not None for process in processes)
        with pytest.raises(SandboxUnavailable):
            await pool.run(script(ECHO), call())


async def test_a_cancelled_call_frees_its_turn() -> None:
    async with sandbox(processes=1, deadline_ms=5000) as pool:
        run = asyncio.create_task(pool.run(script("const transform = () => { for (;;) {} }"), call()))
        await until(lambda: bool(pool._active))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert not pool._active
        assert await outcome(pool, ECHO) == '{"x":1}'


async def test_scripts_take_turns() -> None:
    """One script's long queue does not come before another script's first call: at most one turn of it does."""
    async with sandbox(processes=1) as pool:
        order: list[str] = []

        async def run(name: str) -> None:
            await pool.run(script(ECHO, name), call())
            order.append(name)

        await asyncio.gather(*(run("many.js") for _ in range(50)), run("one.js"))
        assert order.index("one.js") <= 1 + TURN_CALLS_MAX


async def test_wrong_packages_are_refused_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "quickjs-1.19.4.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: quickjs\nVersion: 1.19.4\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="pip uninstall quickjs"):
        await SandboxPool(Sandbox(), Telemetry()).start()


async def test_an_old_engine_is_known_by_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `_quickjs` that shadows the right one: here the real engine with the newer methods taken away."""
    engine = Path(next(p for p in sys.path if (Path(p) / "_quickjs.abi3.so").exists())) / "_quickjs.abi3.so"
    (tmp_path / "_quickjs.py").write_text(
        "import importlib.machinery, importlib.util\n"
        f"loader = importlib.machinery.ExtensionFileLoader('_quickjs', {str(engine)!r})\n"
        "real = importlib.util.module_from_spec(importlib.util.spec_from_loader('_quickjs', loader))\n"
        "loader.exec_module(real)\n"
        "JSException = real.JSException\n"
        "def Context():\n"
        "    context = real.Context()\n"
        "    context.eval('delete Array.prototype.at')\n"
        "    return context\n"
        "import sys, types\n"  # loading the real one has put it into sys.modules
        "sys.modules['_quickjs'] = types.SimpleNamespace(Context=Context, JSException=JSException)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="quickjs-ng"):
        await SandboxPool(Sandbox(), Telemetry()).start()


class Heard:
    """Who hears what becomes of one child."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def heard(self, child: Child, replies: list[Reply]) -> None:
        self.replies += replies

    def lost(self, child: Child) -> None:
        pass


class Liar(Child):
    """A real process in the child's place that says what it should not."""

    program = ""

    def _spawn(self, channel: socket.socket, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", self.program], stdin=channel.fileno())


@asynccontextmanager
async def liar(answer: str) -> AsyncIterator[Child]:
    """Ready like a child; `answer` is a Python expression for the bytes it answers the first request with."""
    Liar.program = (
        "import json, os, socket, struct, time\n"
        "s = socket.socket(fileno=0)\n"
        "ready = json.dumps({'layers': {}, 'engine': {'modern': True}}).encode()\n"
        "s.sendall(struct.pack('>I', len(ready)) + ready)\n"
        "s.recv(1 << 20)\n"
        f"s.sendall({answer})\n"
        "time.sleep(60)\n"
    )
    child = await Liar.start(Sandbox(output_bytes_max=2000), Heard())
    try:
        yield child
    finally:
        child.kill()
        await child.wait()


@pytest.mark.parametrize(
    "answer",
    [
        "struct.pack('>I', 0xffffffff) + b'x' * 100000",
        "struct.pack('>I', 2000000)",
        "struct.pack('>IIIBI', 15, 99, 1, 0, 2) + b'{}'",
        "struct.pack('>I', 2) + b'ab'",
        "struct.pack('>IIIBI', 15, 1, 1, 0, 2) + bytes([255, 254])",
        "struct.pack('>IIIBI', 15, 1, 1, 3, 2) + b'{}'",
        "struct.pack('>IIIBI', 15, 1, 1, 0, 1) + b'{}'",
        "struct.pack('>IIIBI', 15, 1, 1, 0, 0xffffffff) + b'{}'",
        "struct.pack('>III', 8, 1, 0)",
        "struct.pack('>III', 8, 1, 1)",
        "struct.pack('>III', 8, 1, 0xffffffff)",
        "struct.pack('>IIIBBII', 20, 1, 2, 0, 0, 2, 0) + b'{}'",
        "b''); s.close(",
        "(struct.pack('>IIIBI', 15, 1, 1, 0, 2) + b'{}') * 2",
    ],
)
async def test_a_child_that_lies_is_ended(answer: str) -> None:
    async with liar(answer) as child:
        child.ask(RUN, script("script"), [call()])
        await until(lambda: not child.alive)
        assert isinstance(await child.wait(), ChildCrashed)
        assert isinstance(child.owner, Heard)
        assert child.owner.replies == ([b"{}"] if "* 2" in answer else [])  # the second of two is one too many
        assert len(child._partial) < 300_000


async def test_a_program_that_is_no_child_does_not_start() -> None:
    Liar.program = "raise SystemExit(9)"
    with pytest.raises(ChildNotStarted, match="exit code 9"):
        await Liar.start(Sandbox(), Heard())


@linux
def test_children_end_with_a_parent_that_is_killed() -> None:
    """Also the one that hangs in a loop and never looks at its channel."""
    program = """
import asyncio
from tests.support.sandboxes import call, sandbox, script

async def main():
    async with sandbox(processes=2, deadline_ms=60000) as pool:
        run = asyncio.create_task(pool.run(script("const transform = () => { for (;;) {} }"), call()))
        while not any(child.busy_seconds > 0.05 for child in pool._active):
            await asyncio.sleep(0.01)
        print(*(child.pid for child in pool._children), flush=True)
        await run

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 3
    ends = time.monotonic() + 10
    while any(running(pid) for pid in pids):
        assert time.monotonic() < ends, "children outlived their parent"
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
