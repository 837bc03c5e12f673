"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from relay.commands.output import Output
from relay.config import environment_is_valid

Run: TypeAlias = Callable[[argparse.Namespace, Output], Awaitable[int]]
#: What add_subparsers() returns; argparse keeps its type private.
Commands: TypeAlias = Any

SECONDS_IN: Final = {"d": 86_400, "h": 3600, "m": 60}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def add_command(
    commands: Commands, name: str, run: Run, summary: str, description: str = ""
) -> argparse.ArgumentParser:
    """A command that takes --config behind its name too."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="the configuration (./relay.toml)")
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document on stdout")


def add_environment(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--env", metavar="NAME", type=environment_name, default=None, help=text)


def environment_name(value: str) -> str:
    if not environment_is_valid(value):
        raise argparse.ArgumentTypeError(f"{value!r} must be 1 to 128 printable characters")
    return value


def count(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:12]) <= 1_000_000 and len(value) <= 7):
        raise argparse.ArgumentTypeError(f"{value!r} must be a number from 1 to 1,000,000")
    return int(value)


def seconds(value: str) -> int:
    """30d, 12h, 45m; a number alone is days."""
    found = re.fullmatch(r"([0-9]{1,6})([dhm]?)", value)
    if not found:
        raise argparse.ArgumentTypeError(f"{value!r} must be a number of days, hours or minutes: 30d, 12h, 45m")
    return int(found[1]) * SECONDS_IN[found[2] or "d"]
