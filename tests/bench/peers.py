"""Others beside the relay: the same load on the same core, each in turn with the bare server.

What a peer does before its answer differs, so each says it in a line: a ratio without that line is worth nothing.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.bench import peers_had
from tests.bench.figures import Figure
from tests.bench.over_http import Pair, Plan, said
from tests.bench.peers_had import CannotBeHad
from tests.bench.peers_served import CONNECTIONS, Serving, ack_path, fastify, hookspool, ordinary, webhook
from tests.bench.processes import Cores, Round, Served, bare_server, cores_for, drive

ROUNDS_MAX: Final = 3
#: Of all its answers. Connections that a peer refuses are told in the table; more than these, and it was not measured.
NOT_ACCEPTED_SHARE_MAX: Final = 0.01

DURABLE: Final = "HMAC, dedupe, fsync (group commit)"
ONE_COMMIT_EACH: Final = "HMAC, dedupe, fsync (a commit for each); has no JavaScript"


@dataclass(frozen=True, slots=True)
class Peer:
    """One line of the table. `serve` gives what listens on the cores; it and `fetch` may raise `CannotBeHad`."""

    name: str
    does: str
    serve: Callable[[Cores], Serving]
    fetch: Callable[[], object] = lambda: None
    keep_alive: bool = True


def peers() -> dict[str, Peer]:
    """Each under the name that `--only` takes."""
    with_transform = f"{DURABLE}, the transform; delivers nothing"
    waits, at_once = partial(webhook, waits=True), partial(webhook, waits=False)
    isolate, quickjs = partial(fastify, engine="isolated-vm"), partial(fastify, engine="quickjs-emscripten")
    spool, hook = f"hookspool {peers_had.HOOKSPOOL}, intake", f"Debian webhook {peers_had.WEBHOOK}"
    return {
        "peer-relay": Peer("this relay, ack path", DURABLE, ack_path),
        "peer-aiohttp": Peer("aiohttp.web + sqlite3, the ordinary way", f"{DURABLE}; nothing behind it", ordinary),
        "peer-node": Peer("Node: fastify + better-sqlite3", f"{DURABLE}; nothing behind it", fastify, peers_had.node),
        "peer-isolated-vm": Peer("Node, and isolated-vm", with_transform, isolate, peers_had.node),
        "peer-quickjs": Peer("Node, and quickjs-emscripten", with_transform, quickjs, peers_had.node),
        "peer-hookspool": Peer(spool, ONE_COMMIT_EACH, hookspool, peers_had.hookspool),
        "peer-hookspool-new": Peer(
            f"{spool}, a connection each", ONE_COMMIT_EACH, hookspool, peers_had.hookspool, keep_alive=False
        ),
        "peer-webhook": Peer(
            hook, "HMAC; **answers before** its command runs; no dedupe, stores nothing", at_once, peers_had.webhook
        ),
        "peer-webhook-waits": Peer(
            f"{hook}, waiting", "HMAC, one run of /bin/true; no dedupe, stores nothing", waits, peers_had.webhook
        ),
    }


def measured(plan: Plan, peer: Peer) -> Figure:
    """Its ratio to the bare server, or why there is none. A peer never fails the run."""
    cores, others = cores_for(1)
    pairs = []
    try:
        peer.fetch()
        for _ in range(min(plan.rounds, ROUNDS_MAX)):
            with bare_server(cores) as bare:
                base = loaded(bare, others, plan, peer)
            with peer.serve(cores) as served:
                pairs.append(Pair(base, mostly_accepted(loaded(served, others, plan, peer))))
    except (CannotBeHad, RuntimeError, OSError, subprocess.SubprocessError) as why:
        return Figure(peer.name, None, None, f"not measured: {peers_had.reason_in(str(why))}", does=peer.does)
    lost = sum(sum(pair.ours.not_accepted.values()) for pair in pairs)
    text = said(pairs) + (f", {lost} not accepted" if lost else "")
    return Figure(peer.name, statistics.median(pair.ratio for pair in pairs), None, text, does=peer.does)


def loaded(served: Served, others: Cores, plan: Plan, peer: Peer) -> Round:
    loading = others[-2:] if peer.keep_alive else others  # connecting costs the sender more than sending
    return drive(served, loading, connections=CONNECTIONS, seconds=plan.seconds, keep_alive=peer.keep_alive)


def mostly_accepted(found: Round) -> Round:
    """A refusal is cheap: what refuses much would look fast."""
    lost = sum(found.not_accepted.values())
    if lost > NOT_ACCEPTED_SHARE_MAX * found.statuses.total():
        raise RuntimeError(f"not every webhook was accepted: {found.not_accepted}")
    return found
