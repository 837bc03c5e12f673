"""Start in order, watch, stop in reverse: what keeps the stages running and ends them within their time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from aiohttp import web

from relay.errors import ConfigError, StoreUnavailable
from relay.stores.base import Store
from relay.telemetry import Telemetry

RESTART_SECONDS: Final = 1.0
PRUNE_EVERY_SECONDS: Final = 600.0
PRUNE_PAUSE_SECONDS: Final = 0.05
DAY_MS: Final = 24 * 3600 * 1000


class Stopping:
    """Set by SIGTERM or SIGINT. Another SIGTERM changes nothing, to the very end; Ctrl-C once more ends at once.

    `reason` is set when the relay cannot go on.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.reason = ""

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        # Not through the loop, which gives the signal its deadly meaning back when it is closed.
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(self.stop))
        loop.add_signal_handler(signal.SIGINT, self.interrupt)

    def give_up(self, reason: str) -> None:
        self.reason = reason
        self.stop()

    def stop(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.event.set()

    def interrupt(self) -> None:
        if self.event.is_set():
            os._exit(130)  # like a kill: what was acknowledged is on disk
        self.stop()


class Supervisor:
    """Runs the stages' loops; one that meets a surprise is started again, openly."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.tasks: list[asyncio.Task[None]] = []
        self.stopping = False

    def keep(self, stage: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run `run` for as long as the relay does."""
        self.tasks.append(asyncio.create_task(self.rerun(stage, run), name=stage))

    async def rerun(self, stage: str, run: Callable[[], Awaitable[None]]) -> None:
        while not self.stopping:
            try:
                await run()
                return  # it was told to stop
            except Exception as error:  # noqa: BLE001 - a stage must not end while the relay takes deliveries
                self.telemetry.surprised(stage, error)
                await asyncio.sleep(RESTART_SECONDS)

    async def stop(self) -> None:
        """End the loops that did not end by themselves."""
        self.stopping = True
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def listen(
    runner: web.AppRunner, host: str, port: int, *, key: str, backlog: int = 128, accepts: int = 1
) -> web.AppRunner:
    """Open one listener. Raises ConfigError when the address cannot be had. `accepts`: so many connections may be
    accepted in one turn of the event loop.
    """
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=backlog)
    try:
        await site.start()
        await listen_again(runner, accepts - 1, backlog)
    except socket.gaierror as error:
        await runner.cleanup()
        raise ConfigError(f"{host} is no address of this machine ({error.strerror})", key=f"{key}.host") from error
    except OSError as error:
        await runner.cleanup()
        remedy = f"cannot listen on {host}:{port} ({error.strerror}): stop what uses it, or set another port"
        raise ConfigError(remedy, key=f"{key}.port") from error
    return runner


async def listen_again(runner: web.AppRunner, times: int, backlog: int) -> None:
    """Listen on the same sockets so many times more: libuv accepts one connection of each in a turn."""
    servers = [cast(asyncio.Server, site._server) for site in runner.sites]
    for listening in [each for server in servers for each in server.sockets]:
        for _ in range(times):
            again = socket.socket(fileno=os.dup(listening.fileno()))
            await web.SockSite(runner, again, backlog=backlog).start()


def listening_url(runner: web.AppRunner) -> str:
    """http://host:port with the port really in use (0 in the configuration means any)."""
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def housekeep(
    store: Store, telemetry: Telemetry, clock_ms: Callable[[], int], retention_days: int, every_seconds: float
) -> None:
    """Prune what is settled and past its days, in short steps with pauses, for ever."""
    while True:
        began, pruned = time.monotonic(), 0
        try:
            while count := await store.prune(clock_ms() - retention_days * DAY_MS):
                pruned += count
                await asyncio.sleep(PRUNE_PAUSE_SECONDS)
        except StoreUnavailable as error:
            telemetry.log("store.unpruned", level="error", reason=str(error))
        if pruned:
            telemetry.log("store.pruned", deliveries=pruned, seconds=round(time.monotonic() - began, 1))
        await asyncio.sleep(every_seconds)
