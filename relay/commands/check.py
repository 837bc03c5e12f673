"""`relay check`: every mistake in the configuration, the presets and the scripts, without starting anything."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from relay.commands.arguments import Commands, add_command, add_json
from relay.commands.output import COLOURS, EXIT_CONFIG, EXIT_DONE, EXIT_UNSUCCESSFUL, Output
from relay.commands.settings import config_path
from relay.config import Config, examine_table, is_loopback, process_environ, read_toml, sound_part
from relay.errors import ConfigError, SandboxUnavailable, TransformError
from relay.javascript import lint
from relay.keys import KeyResolver
from relay.presets import preset_for, secret_problems
from relay.sandbox import SandboxPool, Script
from relay.sources import load_script
from relay.telemetry import Telemetry

TOKEN_CHARACTERS_MIN: Final = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """`level` is error, warning or note; `where` names file and key, or script and line."""

    level: str
    where: str
    code: str
    message: str


def register(commands: Commands) -> None:
    parser = add_command(commands, "check", check, "find every mistake in the configuration and the scripts")
    parser.add_argument("--strict", action="store_true", help="warnings fail too")
    add_json(parser)


async def check(args: argparse.Namespace, output: Output) -> int:
    path = config_path(args) or Path("relay.toml")
    try:
        table = read_toml(path)
    except ConfigError as mistake:
        if not args.json:
            raise
        report([of_mistake(mistake)], {}, path, args, output)
        return EXIT_CONFIG
    config, mistakes = examine_table(table, process_environ(), path)
    problems = [of_mistake(mistake) for mistake in mistakes]
    problems += general_problems(config) if config else []
    sound, more = (config, []) if config else sound_part(table, process_environ(), path)
    found, layers = await deeper_problems(sound)
    found = [*map(of_mistake, more), *found]
    problems += [problem for problem in found if not any(is_about(problem, mistake) for mistake in mistakes)]
    report(problems, layers, path, args, output)
    if config is None:
        return EXIT_CONFIG
    fatal = ("error", "warning") if args.strict else ("error",)
    return EXIT_UNSUCCESSFUL if any(problem.level in fatal for problem in problems) else EXIT_DONE


async def deeper_problems(config: Config) -> tuple[list[Problem], dict[str, str]]:
    """The sources' own and their scripts', and what the sandbox's layers say of themselves."""
    scripts: dict[str, Script] = {}
    problems = [problem for name in config.sources for problem in source_problems(config, name, scripts)]
    problems += await key_problems(config)
    found, layers = await script_problems(config, scripts)
    return [*problems, *found], layers


def is_about(problem: Problem, mistake: ConfigError) -> bool:
    """Does `mistake` say already what is wrong there?"""
    where = of_mistake(mistake).where
    return where == problem.where or where.startswith((f"{problem.where}[", f"{problem.where}."))


def of_mistake(mistake: ConfigError) -> Problem:
    where = ": ".join(part for part in (mistake.file, mistake.key) if part)
    return Problem("error", where, mistake.code, mistake.message)


def general_problems(config: Config) -> Iterator[Problem]:
    """What is not a source's own."""

    def problem(level: str, key: str, code: str, message: str) -> Problem:
        return Problem(level, f"{config.file}: {key}", code, message)

    if not config.sources:
        yield problem("warning", "sources", "no_sources", "no source is configured: nothing can be received")
    for name, destination in config.destinations.items():
        key = f"destinations.{name}"
        if all(source.destination != name for source in config.sources.values()):
            yield problem("warning", key, "destination_unused", "no source forwards to it")
        address = urlsplit(destination.url)
        if address.scheme == "http" and not is_loopback(address.hostname or ""):
            yield problem("warning", f"{key}.url", "not_encrypted", "http:// shows the event key to the network")
    token = config.operator.token
    if token and len(token) < TOKEN_CHARACTERS_MIN:
        message = f"is short: anybody can try them all; use {TOKEN_CHARACTERS_MIN} random characters or more"
        yield problem("warning", "operator.token", "token_short", message)
    folder = existing_folder(config.store_path.parent)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield problem("error", "store.url", "store_not_writable", f"the folder {folder} cannot be written by this user")


def existing_folder(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def source_problems(config: Config, name: str, scripts: dict[str, Script]) -> Iterator[Problem]:
    """One source's own; its script, when it can be read, is added to `scripts`."""
    source, key = config.sources[name], f"{config.file}: sources.{name}"
    try:
        preset = preset_for(source.provider, source.scheme, file=config.file, key=f"sources.{name}")
    except ConfigError as mistake:
        yield of_mistake(mistake)
    else:
        for sentence in secret_problems(preset, source.secrets):
            yield Problem("error", f"{key}.secrets", "secret_unusable", sentence)
        for option in preset.scheme.options_wanting(source.secrets):
            message = f"is missing: without it no key is fetched, and every request is refused ({preset.secret_form})"
            yield Problem("warning", f"{key}.scheme.{option}", "key_unavailable", message)
        if preset.scheme.open:
            yield Problem("warning", f"{key}.provider", "unverified", "takes webhooks from anybody who knows the URL")
    if not source.enabled:
        yield Problem("note", f"{key}.enabled", "source_disabled", "is disabled: its URL answers 404")
    if source.transform is None:
        message = "no transform is set: Inngest's default makes the events"
        yield Problem("note", f"{key}.transform", "default_transform", message)
        return
    try:
        scripts[name] = load_script(config, name)
    except ConfigError as mistake:
        yield of_mistake(mistake)


async def key_problems(config: Config) -> list[Problem]:
    """Hosts of public keys that cannot be reached from here: their sources' webhooks would get 503."""
    wanted = [(name, host) for name in config.sources for host in key_hosts(config, name)]
    try:
        keys = KeyResolver(config.keys, config.folder, Telemetry())
    except ConfigError as mistake:
        return [of_mistake(mistake)]
    try:
        reasons = {host: await keys.probe(host) for host in dict.fromkeys(host for _, host in wanted)}
    finally:
        await keys.close()
    where = f"{config.file}: sources"
    remedy = "until it can, webhooks that need a key from there get 503"
    return [
        Problem("warning", f"{where}.{name}", "key_unreachable", f"{host} cannot be reached ({reason}): {remedy}")
        for name, host in wanted
        if (reason := reasons[host])
    ]


def key_hosts(config: Config, name: str) -> tuple[str, ...]:
    source = config.sources[name]
    try:
        preset = preset_for(source.provider, source.scheme, file=config.file, key=f"sources.{name}")
    except ConfigError:  # said already
        return ()
    return preset.scheme.key_hosts(source.secrets) if source.enabled else ()


async def script_problems(config: Config, scripts: dict[str, Script]) -> tuple[list[Problem], dict[str, str]]:
    """Compile each script once, in the engine and the sandbox that will run it; then lint it."""
    pool = SandboxPool(config.sandbox.model_copy(update={"processes": 1}), Telemetry())
    problems: list[Problem] = []
    try:
        await pool.start()
        for script in dict.fromkeys(scripts.values()):
            problems += judged(script, await pool.compile(script))
    except (SandboxUnavailable, ConfigError) as error:
        problems.append(Problem("error", "sandbox", error.code, str(error)))
    finally:
        await pool.close()
    off = [layer for layer, state in pool.report.items() if not state.startswith("on")]
    problems += [Problem("note", f"sandbox: {layer}", "layer_off", pool.report[layer]) for layer in off]
    return problems, pool.report


def judged(script: Script, error: TransformError | None) -> list[Problem]:
    found = [
        Problem(
            "note" if finding.code == "lint_skipped" else "warning",
            place(script, finding.line),
            finding.code,
            finding.message,
        )
        for finding in lint(script.text)
        if not (error and finding.code == "lint_skipped")  # the engine has said where the syntax is wrong
    ]
    if error is None:
        return found
    where = place(script, error.line, error.column)
    return [Problem("error", where, error.code, error.message.removeprefix(f"{where}: ")), *found]


def place(script: Script, line: int | None, column: int | None = None) -> str:
    return ":".join(str(part) for part in (script.file, line, column if line else None) if part is not None)


def report(
    problems: list[Problem], layers: dict[str, str], path: Path, args: argparse.Namespace, output: Output
) -> None:
    counts = {level: sum(problem.level == level for problem in problems) for level in ("error", "warning")}
    ok = not counts["error"] and not (args.strict and counts["warning"])
    if args.json:
        shown = [asdict(problem) for problem in problems]
        summary = {"ok": ok, "errors": counts["error"], "warnings": counts["warning"]}
        output.document({**summary, "problems": shown, "sandbox": layers})
        return
    for problem in problems:
        level = output.paint(COLOURS.get(problem.level, ""), f"{problem.level:<8}")
        print(f"{level} ", end="", file=output.stdout)
        output.line(f"{problem.where}: {problem.message} [{problem.code}]")
    if layers:
        output.line("sandbox: " + ", ".join(f"{layer} {state}" for layer, state in layers.items()))
    totals = ", ".join(f"{number} {level}{'' if number == 1 else 's'}" for level, number in counts.items())
    output.line(f"{path}: {totals}" if any(counts.values()) else f"{path}: no mistakes found")
