"""A real `relay serve` in a process of its own, its log, and the ways to stop it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GITHUB_SECRET = "it-is-a-secret-to-everybody"
STRIPE_SECRET = "whsec_test_0123456789abcdef"

PLAIN_TRANSFORM = """
function transform(evt, headers, queryParams, raw) {
  return { id: evt.id, name: "test/" + (evt.type || "received"), data: evt };
}
"""


#: The ways in which requests are read, for tests of what must be the same in each of them.
LANES = ("fast lane", "fast lane in Python", "aiohttp")

PORTS_FIRST, PORTS_EACH, PORT_PARTS = 10_000, 1_250, 16
_ports_given: deque[int] = deque(maxlen=500)


def free_port() -> int:
    """A port that nobody listens on; restarts need to find the same one again.

    From below the range that the system gives to outgoing connections: one of those may take it in between. So may
    another test, until the relay listens: each of the workers that run tests beside each other has its own part of the
    range, and gives none of it twice in a row.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PORT_PARTS
    first = PORTS_FIRST + worker * PORTS_EACH
    while True:
        port = random.randrange(first, first + PORTS_EACH)
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in _ports_given:
                probe.bind(("127.0.0.1", port))
                _ports_given.append(port)
                return port


@dataclass
class RelayProcess:
    """One relay in its own folder. `start` may be called again after a kill: the store stays."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, "-m", "relay")
    process: subprocess.Popen[bytes] | None = None
    receiver_url: str = ""
    operator_url: str = ""
    starts: int = 0

    @property
    def log_path(self) -> Path:
        return self.folder / f"relay-{self.starts}.log"

    def lane(self, name: str) -> dict[str, bool]:
        """Have requests read in one of LANES: what the configuration's [receiver] has to say for it."""
        if name == "fast lane in Python":
            self.environ["RELAY_COMPILED"] = "0"
        return {"fast_lane": name != "aiohttp"}

    async def start(self, *arguments: str, seconds: float = 20.0) -> RelayProcess:
        """Start and wait for its relay.started line. Fails with the log's end when there is none."""
        self.starts += 1
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.program, *(arguments or ("serve",))],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**clean_environ(), **self.environ},
                start_new_session=True,
            )
        started = await self.wait_for_log("relay.started", seconds)
        self.receiver_url, self.operator_url = started["receiver"], started["operator"]
        return self

    async def wait_for_log(self, event: str, seconds: float = 10.0) -> dict[str, Any]:
        """The first log line of that name."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.log_lines():
                if line.get("event") == event:
                    return line
            if self.process is not None and self.process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        code = None if self.process is None else self.process.poll()
        raise AssertionError(f"no {event} (exit code {code}); the log ends:\n{self.log_text()[-3000:]}")

    def log_text(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def log_lines(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for line in self.log_text().splitlines():
            try:
                parsed = json.loads(line)
            except ValueError:
                continue
            if isinstance(parsed, dict):
                lines.append(parsed)
        return lines

    def writer_pids(self) -> list[int]:
        """The process that writes the store, when there is one. Linux only."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task")
        children = [int(pid) for each in tasks.glob("*/children") for pid in each.read_text().split()]
        return [pid for pid in children if b"sqlite_process_child" in command_of(pid)]

    def writer_pid(self) -> int:
        (pid,) = self.writer_pids()
        return pid

    def kill(self) -> None:
        """SIGKILL, to the main process only: its children have to notice by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self, seconds: float = 12.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, seconds)

    def end(self) -> None:
        """For fixtures: whatever state it is in, it and its children are gone afterwards."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def command_of(pid: int) -> bytes:
    """How a process was started; nothing when it is gone. Linux only."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def clean_environ() -> dict[str, str]:
    """The environment without anything that would configure a relay."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("INNGEST_", "RELAY_"))}


def write_config(
    folder: Path,
    sink_url: str,
    *,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    scripts: Mapping[str, str] | None = None,
    destinations: Mapping[str, Mapping[str, Any]] | None = None,
    **sections: Mapping[str, Any],
) -> Path:
    """A relay.toml with quick retries, and its scripts, in `folder`."""
    for name, text in {"plain.js": PLAIN_TRANSFORM, **(scripts or {})}.items():
        (folder / name).write_text(text)
    table: dict[str, Any] = {
        "receiver": {"port": free_port(), **sections.pop("receiver", {})},
        "operator": {"port": free_port(), **sections.pop("operator", {})},
        **sections,
        "destinations": destinations or {"default": destination(sink_url)},
        "sources": sources or {"github": {"provider": "github", "secrets": [GITHUB_SECRET], "transform": "plain.js"}},
    }
    path = folder / "relay.toml"
    path.write_text(to_toml(table))
    return path


def destination(sink_url: str, **keys: Any) -> dict[str, Any]:
    quick = {"retry_delay_ms_min": 20, "retry_delay_ms_max": 200, "stopped_retry_seconds": 0.3, "request_seconds": 3.0}
    return {"url": sink_url, "event_key": "test-key", **quick, **keys}


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of nested tables of plain values (JSON's strings, numbers and lists are TOML's too)."""
    plain = [f"{json.dumps(k)} = {json.dumps(v)}" for k, v in table.items() if not isinstance(v, Mapping)]
    text = (f"[{prefix}]\n" if prefix else "") + "\n".join(plain) + "\n"
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += to_toml(value, f"{prefix}.{json.dumps(key)}" if prefix else json.dumps(key))
    return text
