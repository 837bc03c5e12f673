"""Sources changed without a restart: by SIGHUP, or when the configuration's files change.

The whole file is judged as at the start, scripts included, before anything takes effect; a mistake leaves everything as
it was. What is held goes on with the source it began with. Only [sources] can change so; the rest waits for a restart,
and the log says what waits.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

from relay.config import Config, files_named, load_config
from relay.errors import ConfigError, SandboxUnavailable
from relay.sandbox import SandboxPool
from relay.sources import RunningSource, check_scripts, load_sources
from relay.telemetry import Telemetry

POLL_SECONDS: Final = 1.0

#: What a file is known by: (modified, size, inode) in nanoseconds and bytes; None when it is not there.
Mark = tuple[int, int, int] | None


class Reloader:
    """Watches one relay.toml. `sources` is the mapping that the stages read; it is changed in place."""

    def __init__(
        self, config: Config, sources: dict[str, RunningSource], pool: SandboxPool, telemetry: Telemetry
    ) -> None:
        self.config, self.sources, self.pool, self.telemetry = config, sources, pool, telemetry
        self.asked = asyncio.Event()
        self.files = files_named(config.file)
        self.marks = self.look()

    def listen(self) -> None:
        """SIGHUP asks for a reload from now on."""
        loop = asyncio.get_running_loop()
        # Not through the loop, which gives the signal its deadly meaning back when it is closed.
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self.asked.set))

    def stop(self) -> None:
        """SIGHUP changes nothing any more, to the very end."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def run(self) -> None:
        """Reload when asked, or when a file has changed and then stayed the same for a moment; for ever."""
        seen = self.marks
        while True:
            asked = await self.wait()
            marks = self.look()
            settled, seen = marks == seen, marks
            if asked or (settled and marks != self.marks):
                self.files = files_named(self.config.file)  # it may name others now
                seen = self.marks = self.look()  # before they are read: what changes from here on is seen
                await self.reload()

    async def wait(self) -> bool:
        """True when somebody asked, False when it is time to look again."""
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self.asked.wait()
        except TimeoutError:
            return False
        self.asked.clear()
        return True

    async def reload(self) -> None:
        """All of the new sources, or none."""
        try:
            config, sources = await asyncio.to_thread(self.read)  # hundreds of sources take a while
            self.check_sources(sources)
            await check_scripts(config, self.with_new_scripts(sources), self.pool)
        except (ConfigError, SandboxUnavailable) as error:
            self.telemetry.log("config.refused", level="error", code=error.code, reason=str(error))
            self.telemetry.config_usable.set(0)
            return
        changed = changed_names(self.sources, sources)
        self.sources.clear()
        self.sources.update(sources)
        waiting = changed_sections(self.config, config)
        self.config = self.config.model_copy(update={"sources": config.sources})
        self.telemetry.config_usable.set(1)
        level = "warning" if waiting else "info"
        self.telemetry.log(
            "config.reloaded", level=level, changed=",".join(changed), waiting_for_restart=",".join(waiting) or None
        )

    def read(self) -> tuple[Config, dict[str, RunningSource]]:
        config = load_config(self.config.file)
        return config, load_sources(config)

    def with_new_scripts(self, sources: dict[str, RunningSource]) -> dict[str, RunningSource]:
        """Those whose script did not compile here before."""
        known = {source.script for source in self.sources.values()}
        return {name: source for name, source in sources.items() if source.script not in known}

    def check_sources(self, sources: dict[str, RunningSource]) -> None:
        """A source may forward only to what is running. Raises ConfigError."""
        if self.sources and not sources:
            message = "there is no source any more, as in a file that is being written: to remove the last one, restart"
            raise ConfigError(message, file=self.config.file, key="sources")
        for name, source in sources.items():
            if source.settings.destination not in self.config.destinations:
                message = f"[destinations.{source.settings.destination}] is new: it needs a restart"
                raise ConfigError(message, file=self.config.file, key=f"sources.{name}.destination")

    def look(self) -> tuple[Mark, ...]:
        return tuple(mark_of(file) for file in self.files)


def mark_of(file: Path) -> Mark:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def changed_names(old: dict[str, RunningSource], new: dict[str, RunningSource]) -> list[str]:
    """Sources that are new, gone or otherwise; Schemes are compared by what made them."""
    names = dict.fromkeys([*old, *new])
    return [name for name in names if identity(old.get(name)) != identity(new.get(name))]


def identity(source: RunningSource | None) -> object:
    return source and (source.settings, source.script)


def changed_sections(old: Config, new: Config) -> list[str]:
    """Sections other than [sources] that differ: they take effect at the next start."""
    names = ("receiver", "operator", "store", "sandbox", "keys", "rejected", "destinations")
    return [name for name in names if getattr(old, name) != getattr(new, name)]
