"""Getting the peers from PyPI, Debian and npm, each in a version that is written down, into a folder of their own.

They go into `relay-bench-peers` beside the stores that are measured (BENCH_FOLDER), never into the relay's own virtual
environment; what is there already is used again. What cannot be had is a `CannotBeHad` that says why, and its reason
stands in the table instead of a figure.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.bench.processes import bench_folder
from tests.support.relay_process import clean_environ

HERE: Final = Path(__file__).parent
HOOKSPOOL: Final = "0.2.0"  # with its hash in hookspool.txt
WEBHOOK: Final = "2.8.0"  # of any Debian revision
NODE_PACKAGES: Final = ("package.json", "package-lock.json")  # the second names every package and its hash
#: npm may have to compile two modules.
FETCH_SECONDS_MAX: Final = 600.0
#: A registry that does not answer is given up after about half a minute.
PIP_PATIENCE: Final = ("--retries", "1", "--timeout", "15")
APT_PATIENCE: Final = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15")
NPM_PATIENCE: Final = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=15000")
REASON_LETTERS_MAX: Final = 200


class CannotBeHad(Exception):
    """A peer that is not to be had here, or does not start: in one line, why."""


def hookspool() -> Path:
    """The folder to put on PYTHONPATH. It has no dependencies."""

    def fill(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PIP_PATIENCE]
        what = ["--no-deps", "--require-hashes", "--requirement", str(HERE / "hookspool.txt")]
        run([*pip, *what, "--target", str(folder)], folder)

    return had(f"hookspool-{HOOKSPOOL}", fill)


def webhook() -> Path:
    """Debian's program. The package is unpacked, not installed: nobody needs to be root, and nothing is started."""

    def fill(folder: Path) -> None:
        run(["apt-get", *APT_PATIENCE, "download", f"webhook={WEBHOOK}*"], folder)
        package = next(folder.glob("webhook_*.deb"))
        run(["dpkg-deb", "--extract", package.name, "."], folder)

    return had(f"webhook-{WEBHOOK}", fill) / "usr" / "bin" / "webhook"


def node() -> Path:
    """The folder with our server and its node_modules, as the lockfile has them, for this very Node."""
    version = run(["node", "--version"], HERE).strip()
    locked = hashlib.sha256(b"".join((HERE / "node" / name).read_bytes() for name in NODE_PACKAGES)).hexdigest()

    def fill(folder: Path) -> None:
        for name in NODE_PACKAGES:
            shutil.copy(HERE / "node" / name, folder)
        run(["npm", "ci", "--no-audit", "--no-fund", *NPM_PATIENCE], folder)

    folder = had(f"node-{version}-{locked[:12]}", fill)
    for script in (HERE / "node").glob("*.mjs"):  # Node looks for node_modules beside the script
        shutil.copy(script, folder)
    return folder


def had(name: str, fill: Callable[[Path], None]) -> Path:
    """A folder of this name; filled when it is not there yet, and there only when that went well."""
    folder = cache() / name
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder.parent) as made:
        filled = Path(made) / name
        filled.mkdir()
        fill(filled)
        filled.rename(folder)
    return folder


def cache() -> Path:
    """Ours alone: programs are started from it, and /var/tmp is everybody's."""
    folder = bench_folder() / "relay-bench-peers"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise CannotBeHad(f"{folder} is somebody else's, or others may write there")
    return folder


def run(command: Sequence[str], folder: Path) -> str:
    """What it printed. Whatever goes wrong is a reason not to have the peer."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=clean_environ(), capture_output=True, timeout=FETCH_SECONDS_MAX, check=False
        )
    except FileNotFoundError:
        raise CannotBeHad(f"there is no {command[0]} here") from None
    except subprocess.TimeoutExpired:
        raise CannotBeHad(f"{command[0]} took more than {FETCH_SECONDS_MAX:.0f} s") from None
    if done.returncode:
        raise CannotBeHad(
            f"{Path(command[0]).name}: {reason_in((done.stderr or done.stdout).decode('utf-8', 'replace'))}"
        )
    return done.stdout.decode("utf-8", "replace")


def reason_in(output: str) -> str:
    """The line that says most, fit for a table: the first that speaks of an error, or else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    found = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it said nothing")
    return found.replace("|", "/")[:REASON_LETTERS_MAX]
