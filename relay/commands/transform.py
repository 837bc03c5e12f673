"""`relay transform`: run a script on a saved request, exactly as the pipeline would, and print the events."""

from __future__ import annotations

import argparse
import difflib
import json
from pathlib import Path
from typing import Any, Final

from relay.cases import load_case
from relay.commands.arguments import Commands, add_command, add_environment, add_json, now_ms
from relay.commands.output import EXIT_DONE, EXIT_UNSUCCESSFUL, Output
from relay.commands.settings import config_path
from relay.config import DEV_SERVER_URL, Config, parse_config, process_environ, read_toml
from relay.errors import ConfigError, TransformError
from relay.models import Delivery, Event
from relay.sandbox import SandboxPool, Script
from relay.sources import SCRIPT_BYTES_MAX
from relay.telemetry import Telemetry
from relay.transform import TransformLimits, transform

#: Events made here have ids that say so, and the same ones every time.
DELIVERY_ID: Final = "00000000000000000000000000"


def register(commands: Commands) -> None:
    parser = add_command(commands, "transform", run, "run a script on a saved request and print the events", TEXT)
    parser.add_argument("file", metavar="FILE", help="the script")
    parser.add_argument("request", metavar="REQUEST.json", help="the saved request")
    parser.add_argument("--expect", metavar="EVENTS.json", help="compare with these events; exit 1 when they differ")
    parser.add_argument("--source", metavar="NAME", default="example", help="the source's name (example)")
    add_json(parser)
    add_environment(parser, "the environment that the request asks for")


TEXT: Final = """\
Run a script on a saved request and print the events, in the sandbox that the relay uses, under [sandbox]'s limits.

The request is a JSON file: {"headers": {"X-Name": "…"}, "query": "a=1", "json": …} with "body" or "body_base64" in
place of "json" for bodies of another kind. docs/transforms.md explains each key."""


async def run(args: argparse.Namespace, output: Output) -> int:
    config = sandbox_settings(args)
    script = read_script(Path(args.file))
    case = load_case(Path(args.request))
    received_ms = now_ms() if case.received_ms is None else case.received_ms
    delivery = Delivery(DELIVERY_ID, args.source, None, received_ms, case.request, args.env)
    result = await transformed(config, script, delivery)
    if isinstance(result, TransformError):
        return explain_json(script, result, output) if args.json else explain(script, result, output)
    events = [json.loads(event.json) for event in result]
    return compare(events, Path(args.expect), output) if args.expect else show(events, output)


def sandbox_settings(args: argparse.Namespace) -> Config:
    """Only [sandbox] is read: secrets and keys that are not set here must not stop anybody from trying a script."""
    path = config_path(args)
    table: dict[str, Any] = {"destinations": {"default": {"url": DEV_SERVER_URL, "event_key": "dev"}}}
    if path is not None:
        found = read_toml(path)
        table |= {"sandbox": found["sandbox"]} if "sandbox" in found else {}
    return parse_config(table, process_environ(), path)


def read_script(path: Path) -> Script:
    try:
        raw = path.read_bytes()
        if len(raw) > SCRIPT_BYTES_MAX:
            raise ConfigError(f"is over {SCRIPT_BYTES_MAX:,} bytes", file=path)
        return Script(file=str(path), text=raw.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 (byte {error.start})", file=path) from error


async def transformed(config: Config, script: Script, delivery: Delivery) -> list[Event] | TransformError:
    settings = config.sandbox.model_copy(update={"processes": 1})
    limits = TransformLimits(settings.events_per_delivery_max, config.destinations["default"].event_bytes_max)
    pool = SandboxPool(settings, Telemetry())
    try:
        await pool.start()
        return await transform(
            pool, script, delivery, destination="default", environment=delivery.environment, limits=limits
        )
    finally:
        await pool.close()


def explain(script: Script, error: TransformError, output: Output) -> int:
    """file:line:column: code: message, as editors read it."""
    where = [script.file, error.line, error.column if error.line is not None else None]
    place = ":".join(str(part) for part in where if part is not None)
    message = error.message.removeprefix(f"{place}: ")
    output.note(f"{place}: {error.code}: {message}")
    for line in error.stack.splitlines():
        output.note(f"    {line.strip()}")
    return EXIT_UNSUCCESSFUL


def explain_json(script: Script, error: TransformError, output: Output) -> int:
    fields = {"code": error.code, "message": error.message, "line": error.line, "column": error.column}
    output.document({"error": {**fields, "file": script.file, "stack": error.stack}})
    return EXIT_UNSUCCESSFUL


def show(events: list[Any], output: Output) -> int:
    output.document(events)
    if not events:
        output.note("filtered: transform returned no event")
    return EXIT_DONE


def compare(events: list[Any], path: Path, output: Output) -> int:
    """Silent but for a sentence when they are equal; else a diff, - expected and + got."""
    expected = read_expected(path)
    if expected == events:
        output.note(f"as expected: {len(events)} event{'' if len(events) == 1 else 's'}")
        return EXIT_DONE
    before, after = (json.dumps(side, indent=2, sort_keys=True).splitlines() for side in (expected, events))
    for line in difflib.unified_diff(before, after, str(path), "transform", lineterm=""):
        output.line(line)
    return EXIT_UNSUCCESSFUL


def read_expected(path: Path) -> list[Any]:
    try:
        expected = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from error
    except ValueError as error:
        raise ConfigError(f"is not JSON: {error}", file=path) from error
    return expected if isinstance(expected, list) else [expected]
