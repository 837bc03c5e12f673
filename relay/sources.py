"""A configured source made ready to run: its preset, its secrets' form checked, its script read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.config import Config, Source, shipped_transforms
from relay.errors import ConfigError
from relay.handshakes import methods_of
from relay.models import Request
from relay.presets import Preset, preset_for, secret_problems
from relay.sandbox import SandboxPool, Script
from relay.transform import default_script

#: A script larger than this is a mistake (Inngest's own limit was 2 KB).
SCRIPT_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RunningSource:
    """What the stages need to know about one source."""

    name: str
    settings: Source
    preset: Preset
    script: Script

    @property
    def methods(self) -> frozenset[str]:
        """The HTTP methods that its URL takes: POST, and what else its provider's webhooks and handshakes come by."""
        return methods_of(self.preset.handshakes) | set(self.preset.methods)


def public_url(base: str | None, source: RunningSource, asked: str, target: str) -> str:
    """The URL as the provider sees it, for schemes that sign it: the source's url, else receiver.public_url (`base`)
    and the path, else what the request says (`asked` is its scheme and host).
    """
    if source.settings.url is not None:
        _, question, query = target.partition("?")
        return source.settings.url + question + query
    return f"{base or asked}{target}"


def plain_url(base: str | None, source: RunningSource, request: Request) -> str:
    """The same of a request of the fast lane, which has one Host and came without TLS."""
    host = next(value for name, value in request.headers if name.lower() == b"host")
    target = f"{request.path}?{request.query}" if request.query else request.path
    return public_url(base, source, f"http://{host.decode('utf-8', 'surrogateescape')}", target)


def load_sources(config: Config) -> dict[str, RunningSource]:
    """Every configured source, or the first ConfigError. Disabled ones too: what they took is still processed."""
    return {name: load_source(config, name) for name in config.sources}


def load_source(config: Config, name: str) -> RunningSource:
    settings, key = config.sources[name], f"sources.{name}"
    preset = preset_for(settings.provider, settings.scheme, file=config.file, key=key)
    for problem in secret_problems(preset, settings.secrets):
        raise ConfigError(problem, file=config.file, key=f"{key}.secrets")
    return RunningSource(name, settings, preset, load_script(config, name))


def load_script(config: Config, name: str) -> Script:
    """The source's transform as text; Inngest's own default when none is configured."""
    path = config.sources[name].transform
    if path is None:
        return default_script(name)
    key = f"sources.{name}.transform"
    try:
        raw = find_script(config.folder, path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", file=config.file, key=key) from error
    if len(raw) > SCRIPT_BYTES_MAX:
        raise ConfigError(f"{path} is over {SCRIPT_BYTES_MAX:,} bytes", file=config.file, key=key)
    try:
        return Script(file=shown_path(path, config.folder), text=raw.decode("utf-8-sig"), source=name)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start})", file=config.file, key=key) from error


async def check_scripts(config: Config, sources: Mapping[str, RunningSource], pool: SandboxPool) -> None:
    """Refuse a script that does not compile before the first webhook meets it. Raises ConfigError."""
    for name, source in sources.items():
        error = await pool.compile(source.script)
        if error is not None:
            raise ConfigError(f"{error.code}: {error.message}", file=config.file, key=f"sources.{name}.transform")


def find_script(folder: Path, path: Path) -> Path:
    """The file in the configuration's folder; `transforms/NAME.js` that is not there is the one the relay ships."""
    own = folder / path
    if not own.exists() and len(path.parts) == 2 and path.parts[0] == "transforms":
        return shipped_transforms() / path.name
    return own


def shown_path(path: Path, folder: Path) -> str:
    """The path as a person would type it from the configuration's folder."""
    try:
        return str((folder / path).resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(path)
