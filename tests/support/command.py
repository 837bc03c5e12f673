"""`relay …` as a person or a script runs it: a process, its output, its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.relay_process import clean_environ


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(folder: Path, *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "relay", *arguments],
        cwd=folder,
        input=stdin.encode(),
        capture_output=True,
        timeout=60,
        check=False,
        env={**clean_environ(), **(environ or {})},
    )
    err = done.stderr.decode()
    assert "Traceback" not in err, err
    return Ran(done.returncode, done.stdout.decode(), err)
