"""A sandbox child as a process: what it is started with, on which engine, and the ways it ends."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final

from relay import config
from relay.errors import ConfigError, SandboxUnavailable

#: Address space beside the engine's memory: the interpreter (about 60 MiB) and a call's texts in several copies.
ADDRESS_SPACE_BYTES: Final = 320 * 1024 * 1024
WRONG_ENGINE: Final = (
    "the archived package quickjs is installed and takes the place of quickjs-ng:"
    " pip uninstall quickjs quickjs-ng, then pip install quickjs-ng"
)
#: All that the interpreter is told: where the relay lies (it imports nothing else by itself), then to be a child.
PROGRAM: Final = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:0] = settings['paths'];"
    " from relay.sandbox_child import run; run(settings)"
)


class ChildLost(Exception):
    """The child ended before it answered. `reason` is what counters and log lines call it."""

    reason = "ended"


class ChildEnded(ChildLost):
    """By us: not needed any more, or the relay stops."""


class ChildCrashed(ChildLost):
    """By itself: a signal, an exit, or nonsense on the channel."""

    reason = "crashed"


class ChildKilled(ChildLost):
    """By somebody else's SIGKILL: the kernel short of memory, or a person. It says nothing about the script."""

    reason = "killed"


class ChildHung(ChildLost):
    """By the watchdog: it had used its CPU time and could not be interrupted."""

    reason = "hung"


class ChildStarved(ChildLost):
    """By the watchdog: the machine gave it too little CPU time to judge it."""

    reason = "starved"


class ChildDropped(ChildLost):
    """By us, because a call was given up by whoever asked: the others are to be asked again."""


class ChildNotStarted(SandboxUnavailable):
    """`exit_code` is how it ended, negative for a signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def child_settings(settings: config.Sandbox, without: Collection[str]) -> dict[str, Any]:
    """What sandbox_child.main wants to know, and `paths` to import it from."""
    here = Path(__file__).resolve().parent.parent
    spec = PathFinder.find_spec("_quickjs")
    engine = Path(spec.origin).parent if spec and spec.origin else here
    return {
        "paths": [str(here), str(engine)],
        "reuse": settings.isolation == "auto",
        "seconds": settings.deadline_ms / 1000,
        "memory_bytes": settings.memory_bytes_max,
        "output_bytes": settings.output_bytes_max,
        "address_space_bytes": settings.memory_bytes_max * 3 + ADDRESS_SPACE_BYTES,
        "without": sorted(without),
    }


def spawn(channel: socket.socket, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    """From the event loop's own thread: the kernel ends the child with the thread that started it."""
    return subprocess.Popen(  # noqa: S603 our own program with our own settings
        [sys.executable, "-I", "-S", "-B", "-c", PROGRAM, json.dumps(settings)],
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"TZ": "UTC"},
        cwd="/",
    )


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def check_packages() -> None:
    """Refuse to start on the archived engine. Raises ConfigError.

    The packages `quickjs` (archived, known memory errors) and `quickjs-ng` install modules of the same names; with
    both present the archived engine runs without a word.
    """
    installed = {
        str(found.metadata["Name"] or "").lower().replace("_", "-") for found in importlib.metadata.distributions()
    }
    if "quickjs" in installed:
        raise ConfigError(WRONG_ENGINE)
    if PathFinder.find_spec("_quickjs") is None:
        raise ConfigError("the JavaScript engine is not installed: pip install quickjs-ng")
