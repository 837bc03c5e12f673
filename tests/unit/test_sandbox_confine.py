"""The operating system's layers, each tried from inside."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relay.confine import LAYERS
from relay.sandbox_worker import Child
from tests.support.confined import ACTIONS
from tests.support.sandboxes import sandbox

ROOT = Path(__file__).parent.parent.parent
FORBIDDEN = sorted(set(ACTIONS) - {"compute", "allocate"})


def attempt(action: str, *without: str) -> tuple[int, dict[str, str]]:
    """The exit code and the layers' report."""
    program = [sys.executable, "-m", "tests.support.confined", action, *without]
    done = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    return done.returncode, json.loads(done.stdout)


def require(layer: str, report: dict[str, str]) -> None:
    if not report[layer].startswith("on"):
        pytest.skip(f"{layer}: {report[layer]}")


@pytest.mark.parametrize("action", FORBIDDEN)
def test_seccomp_ends_whoever_tries(action: str) -> None:
    code, report = attempt(action)
    require("seccomp", report)
    assert code == -signal.SIGSYS


@pytest.mark.parametrize("action", ["open", "create", "list", "exec"])
def test_landlock_refuses_files_without_seccomp(action: str) -> None:
    code, report = attempt(action, "seccomp")
    require("landlock", report)
    assert code == 3


@pytest.mark.parametrize("action", ["fork", "create", "regain_root"])
def test_limits_and_uid_refuse_without_kernel_filters(action: str) -> None:
    if action == "fork" and sys.platform != "linux":
        pytest.skip("a limit on processes counts all of the user's own there")
    if action == "create" and os.geteuid() != 0:
        pytest.skip("without Landlock only the uid keeps a file from being created; it was not root's to drop")
    if action == "create":
        Path("/tmp/relay-confined").unlink(missing_ok=True)
        Path("/tmp/relay-confined").touch(mode=0o600)
    code, report = attempt(action, "seccomp", "landlock")
    require("rlimits", report)
    assert code == 3


def test_memory_is_bounded_and_ordinary_work_goes_on() -> None:
    code, report = attempt("allocate")
    require("rlimits", report)
    assert code == 3
    assert attempt("compute")[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS means nothing elsewhere")
def test_a_stricter_limit_from_outside_stays() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29));"
        "from relay.confine import set_limits; print(set_limits(1 << 40), resource.getrlimit(resource.RLIMIT_AS))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == f"on {(1 << 29, 1 << 29)}\n"


def test_a_layer_left_out_is_said_openly() -> None:
    _, report = attempt("compute", "seccomp", "landlock")
    assert tuple(report) == LAYERS
    assert report["seccomp"] == report["landlock"] == "unavailable: switched off"


async def test_the_pool_reports_every_layer() -> None:
    async with sandbox() as pool:
        assert tuple(pool.report) == LAYERS
        assert all(state.startswith(("on", "unavailable: ")) for state in pool.report.values())
        if sys.platform == "linux" and platform.machine() == "x86_64":
            assert pool.report["no_new_privs"] == "on"
        if os.geteuid() == 0:
            assert pool.report["uid"] == "on (uid 65534)"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_child_holds_one_descriptor_one_thread_and_no_environment() -> None:
    async with sandbox() as pool:
        for child in pool._children:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
            assert status["Threads"] == "1"
            assert status["NoNewPrivs"] == "1"
            if os.geteuid() == 0:
                assert os.listdir(f"/proc/{child.pid}/fd") == ["0"]
                assert Path(f"/proc/{child.pid}/environ").read_bytes() == b"TZ=UTC\0"
                assert status["Uid"].split() == ["65534"] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such scheduling")
async def test_a_child_that_wakes_up_takes_no_cpu_from_the_relay() -> None:
    async with sandbox() as pool:
        assert {os.sched_getscheduler(child.pid) for child in pool._children} == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


async def test_scripts_run_without_seccomp_too() -> None:
    """Where a child cannot live under a layer it is started without it."""
    async with sandbox() as pool:
        child = await Child.start(pool.settings, pool, without=("seccomp",))
        try:
            assert child.report["layers"]["seccomp"] == "unavailable: switched off"
            assert child.report["engine"] == {"modern": True}
        finally:
            child.kill()
            await child.wait()
