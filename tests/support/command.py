"""`relay …` as a person or a script runs it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.relay_process import clean_environ

ROOT: Final = Path(__file__).parents[2]
SECONDS_MAX: Final = 60
#: Processes that have imported the command line and wait for a command; several where tests run several at once.
IDLE: Final[list[subprocess.Popen[bytes]]] = []


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(folder: Path, *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> Ran:
    """The command in a process of its own, forked from one that has done the imports."""
    with tempfile.TemporaryDirectory() as made:
        streams = {name: Path(made) / name for name in ("stdin", "stdout", "stderr")}
        for name, file in streams.items():
            file.write_bytes(stdin.encode() if name == "stdin" else b"")
        code = forked(
            {
                "folder": str(folder),
                "arguments": arguments,
                "environ": {**clean_environ(), **(environ or {})},
                **{name: str(file) for name, file in streams.items()},
            }
        )
        out, err = streams["stdout"].read_text("utf-8"), streams["stderr"].read_text("utf-8")
    assert "Traceback" not in err, err
    return Ran(code, out, err)


def forked(asked: Mapping[str, Any]) -> int:
    server = IDLE.pop() if IDLE else started()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(asked).encode() + b"\n")
    server.stdin.flush()
    answered, _, _ = select.select([server.stdout], [], [], SECONDS_MAX)
    line = server.stdout.readline() if answered else b""
    if not line:
        os.killpg(server.pid, signal.SIGKILL)
        raise AssertionError(f"relay {' '.join(asked['arguments'])}: no end within {SECONDS_MAX} seconds")
    IDLE.append(server)
    return int(line)


def started() -> subprocess.Popen[bytes]:
    """It ends with this process, whose end closes its stdin."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.command_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_environ(),
        start_new_session=True,
    )
