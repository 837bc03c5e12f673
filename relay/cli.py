"""The command `relay`: arguments in, an exit code out. The commands themselves are in relay/commands/."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Final

from relay import __version__
from relay.commands import check, providers, rejected, replay, secrets, send, serve, transform, verify, work
from relay.commands.output import EXIT_CONFIG, EXIT_DONE, EXIT_INTERRUPTED, EXIT_UNREACHABLE, EXIT_UNSUCCESSFUL, Output
from relay.config import process_environ
from relay.errors import ConfigError, RelayError, SandboxUnavailable, StoreUnavailable
from relay.operator_client import Refused, Unreachable

DESCRIPTION: Final = "A webhook relay for Inngest: verifies, stores, transforms, deduplicates and forwards."
EPILOG: Final = """\
--config FILE may stand before or after the command; without it ./relay.toml is read, and without that most commands
take what `relay dev` uses.

exit codes:
  0    done
  1    what was asked for did not succeed: problems found, not found, some ids refused, the request not accepted
  2    the configuration or the command line is wrong
  3    the relay or its store cannot be reached, is in use or does not work now
  130  interrupted

environment: NO_COLOR turns colours off; RELAY_DEBUG=1 shows where a surprise came from."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    environ = process_environ()
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by whoever started us; the exit code still tells
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    args = parser().parse_args(argv)
    output = Output(environ)
    try:
        with asyncio.Runner(loop_factory=args.new_loop) as runner:
            code: int = runner.run(args.run(args, output))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return reader_went_away()
    except Exception as error:
        if environ.get("RELAY_DEBUG") == "1":
            raise
        return explain(error, output)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="relay", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--version", action="version", version=f"relay {__version__}")
    made.add_argument("--config", metavar="FILE", help="the configuration (./relay.toml)")
    made.set_defaults(json=False, new_loop=None)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for group in (serve, check, send, transform, work, replay, rejected, verify, secrets, providers):
        group.register(commands)
    return made


def explain(error: Exception, output: Output) -> int:
    """One sentence with a remedy on stderr, and the exit code."""
    output.note(str(error) if isinstance(error, RelayError) else surprise(error))
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    if isinstance(error, StoreUnavailable | SandboxUnavailable | Unreachable):
        return EXIT_UNREACHABLE
    if isinstance(error, Refused):
        return (
            EXIT_UNREACHABLE
            if error.code in ("unauthorized", "store_unavailable", "not_a_relay")
            else EXIT_UNSUCCESSFUL
        )
    return EXIT_UNSUCCESSFUL


def surprise(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"something unexpected happened ({type(error).__name__}: {error}); RELAY_DEBUG=1 shows where"


def reader_went_away() -> int:
    """`relay deliveries | head` has what it wanted: no complaint, not from the interpreter's last flush either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_DONE
