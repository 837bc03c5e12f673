"""The composition root: the only place that names concrete classes and puts them together.

Start: sandbox, store, listeners, stages. Stop: the public listener first; what it holds is answered, what the stages
hold is settled or given back, then the store is closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from relay import __version__
from relay.compiled import IS_COMPILED
from relay.config import Config
from relay.connection import ACCEPTS_MAX, PublicRunner, find_room, raise_files_limit
from relay.console import operator_app
from relay.console_rejected import add_rejected
from relay.dev_sink import DevSink, TerminalSink
from relay.errors import StoreUnavailable
from relay.forwarder import Forwarder
from relay.inngest import InngestSink, Sink
from relay.judge import Judge
from relay.keys import KeyResolver
from relay.memory import settle_memory
from relay.pipeline import Pipeline
from relay.receiver import KEEPALIVE_SECONDS, LINGER_SECONDS, Receiver
from relay.rejected import RejectedRequests
from relay.reloading import Reloader
from relay.sandbox import SandboxPool
from relay.sources import RunningSource, check_scripts, load_sources
from relay.stores.base import Store
from relay.stores.pen import Pen
from relay.stores.sqlite import SqliteStore
from relay.stores.sqlite_pen import SqlitePen
from relay.supervisor import PRUNE_EVERY_SECONDS, Stopping, Supervisor, housekeep, listen, listening_url
from relay.telemetry import LibraryLines, Telemetry

#: What a connection has left for its last answer once the drain is over.
CUT_SECONDS: Final = 0.5


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def run_relay(config: Config, *, telemetry: Telemetry, dev: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; 0 then. Raises ConfigError or StoreUnavailable when it cannot start."""
    if not dev:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the reloader listens, a reload changes nothing
    stopping = Stopping()
    stopping.listen()
    logging.getLogger().addHandler(LibraryLines(telemetry))
    telemetry.attach(asyncio.get_running_loop())
    sources = load_sources(config)
    keys = KeyResolver(config.keys, config.folder, telemetry)
    async with AsyncExitStack() as stack:
        stack.callback(telemetry.attach, None)
        stack.push_async_callback(keys.close)
        pool = SandboxPool(config.sandbox, telemetry)
        reloader = Reloader(config, sources, pool, telemetry)  # sees what changes while we start
        stack.push_async_callback(pool.close)
        await pool.start()
        await check_scripts(config, sources, pool)  # before anything is made on disk
        own_process = has_own_process(config.store.writer)
        store = await open_store(config, own_process=own_process, on_lost=stopping.give_up)
        stack.push_async_callback(store.close)
        pen = open_pen(config, telemetry)
        stack.push_async_callback(pen.close)
        sinks = make_sinks(config, dev=dev)
        for sink in sinks.values():
            stack.push_async_callback(sink.close)
        relay = Relay(config, sources, Parts(store, pen, keys, pool, sinks, reloader), telemetry, dev=dev)
        await relay.start()
        settle_memory()
        await relay.announce()
        for sink in sinks.values():
            if isinstance(sink, DevSink):
                await sink.answers()  # says at once where events go
        await stopping.event.wait()
        await relay.stop()
        if stopping.reason:
            raise StoreUnavailable(stopping.reason)
    telemetry.log("relay.stopped")
    return 0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the stages work with; made before them, closed after them."""

    store: Store
    pen: Pen
    keys: KeyResolver
    pool: SandboxPool
    sinks: Mapping[str, Sink]
    reloader: Reloader


class Relay:
    """The stages and listeners of one process. `sources` changes in place when they are reloaded."""

    def __init__(
        self, config: Config, sources: dict[str, RunningSource], parts: Parts, telemetry: Telemetry, *, dev: bool
    ) -> None:
        self.config, self.sources, self.telemetry, self.dev = config, sources, telemetry, dev
        self.store, self.pool, self.pen, self.reloader = parts.store, parts.pool, parts.pen, parts.reloader
        judge = Judge(parts.store, parts.keys, parts.pen, config.receiver, now_ms)
        self.receiver = Receiver(parts.store, sources, judge, config.receiver, telemetry)
        self.rejected = RejectedRequests(parts.pen, parts.store, judge, sources, telemetry)
        self.pipeline = Pipeline(parts.store, parts.pool, sources, config, telemetry)
        self.forwarder = Forwarder(parts.store, parts.sinks, config.destinations, telemetry, now_ms)
        self.supervisor = Supervisor(telemetry)
        self.stopping = False

    async def start(self) -> None:
        """The listeners first: an address that is taken is found before anything runs."""
        self.operator_listener = await self.listen_operator()
        try:
            self.public_listener = await self.listen_public()
        except BaseException:
            await self.operator_listener.cleanup()
            raise
        self.supervisor.keep("pipeline", self.pipeline.run)
        self.supervisor.keep("forwarder", self.forwarder.run)
        self.supervisor.keep("housekeeping", self.housekeep)
        if self.config.file is not None:
            self.supervisor.keep("reloading", self.reloader.run)
            if not self.dev:  # there SIGHUP means what it always did: the terminal is gone
                self.reloader.listen()

    async def housekeep(self) -> None:
        days = self.config.store.retention_days
        await housekeep(self.store, self.telemetry, now_ms, days, PRUNE_EVERY_SECONDS)

    async def listen_operator(self) -> web.AppRunner:
        settings = self.config.operator
        app = operator_app(
            self.store,
            self.telemetry,
            token=settings.token,
            host=settings.host,
            clock_ms=now_ms,
            ready=self.unready_reasons,
        )
        add_rejected(app, self.rejected)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        return await listen(runner, settings.host, settings.port, key="operator")

    async def listen_public(self) -> web.AppRunner:
        settings, room = self.config.receiver, find_room(raise_files_limit())
        runner = PublicRunner(
            self.receiver.app(),
            self.receiver.refuse,
            room,
            self.receiver.lane if settings.fast_lane else None,
            access_log=None,
            auto_decompress=False,  # signatures are over the bytes on the wire
            max_headers=settings.headers_max + 1,  # one more, so that the answer is ours and not the parser's
            max_field_size=settings.header_bytes_max,
            max_line_size=settings.header_bytes_max,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            shutdown_timeout=CUT_SECONDS,
        )
        return await listen(
            runner, settings.host, settings.port, key="receiver", backlog=room.backlog, accepts=ACCEPTS_MAX
        )

    async def unready_reasons(self) -> list[str]:
        return ["stopping"] if self.stopping else []

    async def announce(self) -> None:
        """Say what runs where, and what deserves attention."""
        self.telemetry.log(
            "relay.started",
            version=__version__,
            pid=os.getpid(),
            receiver=listening_url(self.public_listener),
            operator=listening_url(self.operator_listener),
            sources=",".join(self.sources),
            destinations=",".join(f"{name}={d.url}" for name, d in self.config.destinations.items()),
            compiled=IS_COMPILED,
            sandbox="; ".join(f"{layer}: {state}" for layer, state in self.pool.report.items()),
        )
        for source in self.sources.values():
            if source.preset.scheme.open and source.settings.enabled:
                self.telemetry.log(
                    "source.unverified",
                    level="warning",
                    source=source.name,
                    remedy='provider = "none" takes webhooks from anybody: name a provider, or keep the URL secret',
                )
        if self.config.receiver.clock_s is not None:
            remedy = "receiver.clock_s is for tests: old requests are genuine for ever"
            self.telemetry.log("clock.fixed", level="warning", at=self.config.receiver.clock_s, remedy=remedy)
        for name, count in (await self.store.stats()).received_by_source.items():
            if name not in self.sources:
                self.telemetry.log(
                    "source.missing",
                    level="error",
                    source=name,
                    waiting=count,
                    remedy="deliveries of this source wait: configure it again",
                )

    async def stop(self) -> None:
        """Stop taking; answer, settle or give back what is held, all at the same time."""
        self.stopping = True
        if self.config.file is not None and not self.dev:
            self.reloader.stop()
        self.telemetry.log("relay.stopping")
        for site in list(self.public_listener.sites):
            await site.stop()
        seconds = self.config.receiver.drain_seconds
        stages = (self.receiver.drain(seconds), self.pipeline.stop(seconds), self.forwarder.stop())
        for ended in await asyncio.gather(*stages, return_exceptions=True):
            if isinstance(ended, Exception):
                self.telemetry.surprised("stop", ended)  # and go on: the others must be stopped too
        await self.public_listener.cleanup()
        await self.supervisor.stop()
        await self.operator_listener.cleanup()


def has_own_process(writer: str) -> bool:
    """Whether the store writes in a process of its own. With one core it would only cost more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return writer == "process" or (writer == "auto" and cores > 1)


async def open_store(
    config: Config,
    *,
    read_only: bool = False,
    own_process: bool = False,
    on_lost: Callable[[str], None] = lambda reason: None,
) -> SqliteStore:
    return await SqliteStore.open(
        config.store_path,
        clock_ms=now_ms,
        dedupe_hours=config.store.dedupe_hours,
        disk_free_bytes_min=config.store.disk_free_bytes_min,
        queue_bytes_max=config.store.queue_bytes_max,
        wait_seconds_max=config.store.wait_seconds_max,
        read_only=read_only,
        own_process=own_process,
        on_lost=on_lost,
    )


def open_pen(config: Config, telemetry: Telemetry, *, read_only: bool = False) -> SqlitePen:
    """The rejected requests, in a file beside the store's."""
    settings = config.rejected
    return SqlitePen(
        config.store_path.with_name("rejected.db"),
        clock_ms=now_ms,
        count_max=settings.count_max,
        bytes_max=settings.bytes_max,
        hours=settings.hours,
        sources=len(config.sources),
        disk_free_bytes_min=config.store.disk_free_bytes_min,
        telemetry=telemetry,
        read_only=read_only,
    )


def make_sinks(config: Config, *, dev: bool) -> dict[str, Sink]:
    """One sink per destination; `relay dev` prints events when no Dev Server answers."""
    sinks: dict[str, Sink] = {}
    for name, settings in config.destinations.items():
        sink = InngestSink(settings)
        sinks[name] = DevSink(sink, TerminalSink(sys.stdout)) if dev else sink
    return sinks
