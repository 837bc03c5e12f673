"""How each peer is started: on the core that is measured, with an empty folder on the disk that is measured."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from tests.bench import peers_had
from tests.bench.peers_had import CannotBeHad
from tests.bench.processes import ROOT, Cores, Served, bench_folder, cores_for, relay_server, started
from tests.bench.signed import SECRET
from tests.support.relay_process import free_port

#: How many connections the load keeps open.
CONNECTIONS: Final = 64
START_SECONDS_MAX: Final = 20.0
TRANSFORM: Final = ROOT / "transforms" / "stripe.js"
Serving: TypeAlias = AbstractContextManager[Served]


def ack_path(cores: Cores) -> Serving:
    """The same as the first line of the main table, in the peers' rounds."""
    return relay_server(cores, cores_for(1)[1], "--ack-only")


@contextmanager
def ordinary(cores: Cores) -> Iterator[Served]:
    with (
        own_folder() as folder,
        listening(["-m", "tests.bench.ordinary", "PORT", str(folder)], cores, folder) as served,
    ):
        yield served


@contextmanager
def fastify(cores: Cores, engine: str | None = None) -> Iterator[Served]:
    home, program = peers_had.node(), shutil.which("node") or "node"
    with own_folder() as folder:
        transforming = [engine, str(TRANSFORM)] if engine else []
        # isolated-vm asks for --no-node-snapshot; all run with it, so that they differ in nothing else.
        command = ["--no-node-snapshot", str(home / "server.mjs"), "PORT", str(folder), *transforming]
        with listening(command, cores, folder, program=program, environ={"BENCH_SECRET": SECRET}) as served:
            yield served


@contextmanager
def hookspool(cores: Cores) -> Iterator[Served]:
    """Its intake without its dispatcher, as the relay's pipeline rests too; a thread for each connection."""
    environ = {"PYTHONPATH": str(peers_had.hookspool()), "BENCH_SECRET": SECRET}
    with own_folder() as folder:
        port = free_port()
        (folder / "config.toml").write_text(HOOKSPOOL_CONFIG.format(port=port, threads=2 * CONNECTIONS))
        (folder / "bench_stripe.py").write_text(HOOKSPOOL_SOURCE)
        command = ["-m", "hookspool", "--home", str(folder)]
        environ["PYTHONPATH"] += f":{folder}"
        with started([*command, "migrate"], cores, folder=folder, environ=environ) as migrating:
            migrating.wait(START_SECONDS_MAX)
        with listening([*command, "intake"], cores, folder, environ=environ, port=port) as served:
            served.path = "/hooks/stripe"
            yield served


HOOKSPOOL_CONFIG: Final = """
[intake]
listen = "127.0.0.1:{port}"
threads = {threads}

[sources.stripe]
module = "bench_stripe"
action = "script:nothing"
secrets.secret = {{ env = "BENCH_SECRET" }}

[destinations."script:nothing"]
type = "script"
argv = ["true"]
"""
#: Its ready-made source signs the body alone; this is how one adds a provider, with its own check of Stripe's scheme.
HOOKSPOOL_SOURCE: Final = """
from hookspool.plugin import verify as v

name = "stripe"
secrets = ("secret",)
auth_headers = ("stripe-signature",)
span = "immediate"
sender_retries = True


def verify(req, secrets):
    return v.timestamped(req.header("stripe-signature"), secrets["secret"], req.body, now=req.now)


def key(payload, req):
    return payload["id"]


dedup_id = key
"""


@contextmanager
def webhook(cores: Cores, *, waits: bool) -> Iterator[Served]:
    """It cannot check Stripe's scheme: no rule of it signs the time with the body. So its load signs the body alone."""
    program = str(peers_had.webhook())
    signed = {"source": "header", "name": "X-Hub-Signature-256"}
    hook = {
        "id": "stripe",
        "execute-command": shutil.which("true") or "/bin/true",
        "include-command-output-in-response": waits,
        "pass-arguments-to-command": [{"source": "payload", "name": "id"}],
        "trigger-rule": {"match": {"type": "payload-hmac-sha256", "secret": SECRET, "parameter": signed}},
    }
    with own_folder() as folder:
        (folder / "hooks.json").write_text(json.dumps([hook]))
        command = ["-hooks", "hooks.json", "-ip", "127.0.0.1", "-port", "PORT", "-urlprefix", "in"]
        with listening(command, cores, folder, program=program) as served:
            served.scheme = "body"
            yield served


@contextmanager
def own_folder() -> Iterator[Path]:
    """On the disk that is measured; emptied afterwards."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-", dir=bench_folder(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def listening(
    arguments: Sequence[str],
    cores: Cores,
    folder: Path,
    *,
    program: str = sys.executable,
    environ: Mapping[str, str] | None = None,
    port: int = 0,
) -> Iterator[Served]:
    """A peer that takes connections; PORT among its arguments is replaced. What it says goes to a file."""
    port = port or free_port()
    given = [str(port) if argument == "PORT" else argument for argument in arguments]
    log = folder / "peer.log"
    with (
        log.open("wb") as file,
        started(given, cores, program=program, folder=folder, environ=environ, log=file) as process,
    ):
        began = time.monotonic()
        while not connects(port):
            wait_a_little(process, log, began)
        yield Served(port, [process.pid], folder, ready_seconds=time.monotonic() - began)
        process.kill()  # its store is thrown away, and some take their time


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_a_little(process: subprocess.Popen[bytes], log: Path, began: float) -> None:
    if process.poll() is not None:
        raise CannotBeHad(f"it ended at once: {peers_had.reason_in(log.read_text('utf-8', 'replace'))}")
    if time.monotonic() - began > START_SECONDS_MAX:
        raise CannotBeHad(f"it did not listen within {START_SECONDS_MAX:.0f} s")
    time.sleep(0.02)
