"""`relay serve` and `relay dev`: the relay itself."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

from relay.app import run_relay
from relay.commands.arguments import Commands, add_command
from relay.commands.output import Output
from relay.commands.settings import DEV_SECRETS_FILE, DevConfig, config_path, dev_config
from relay.config import Config, Source, load_config, without_cloud
from relay.operator_client import base_url
from relay.telemetry import stderr_telemetry


def register(commands: Commands) -> None:
    served = add_command(commands, "serve", serve, "run the relay, as relay.toml says")
    tried = add_command(
        commands,
        "dev",
        dev,
        "run the relay for trying things out",
        "Run the relay with ./relay.toml, or without one for sources github and stripe, with everything in ./data.\n"
        "Events go to an Inngest Dev Server when one answers, else they are printed.",
    )
    for command in (served, tried):
        command.set_defaults(new_loop=fast_loop)


def fast_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed; the standard library's does the same, a tenth slower."""
    try:
        import uvloop  # here: the other commands start sooner without it
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def serve(args: argparse.Namespace, output: Output) -> int:
    config = load_config(Path(args.config) if args.config else None)
    return await run_relay(config, telemetry=stderr_telemetry())


async def dev(args: argparse.Namespace, output: Output) -> int:
    path = config_path(args)
    if path is not None:
        config = without_cloud(load_config(path))
        show_urls(config, output)
    else:
        built_in = dev_config()
        config = built_in.config
        show_urls(config, output, built_in)
    return await run_relay(config, telemetry=stderr_telemetry(), dev=True)


def show_urls(config: Config, output: Output, built_in: DevConfig | None = None) -> None:
    """What to paste where. A secret is shown only when it was made here and nobody else can know it."""
    base = config.receiver.public_url or base_url(config.receiver.host, config.receiver.port)
    output.line("Paste into the provider's webhook settings:")
    for name, source in config.sources.items():
        if source.enabled:
            output.line()
            output.line(f"  {name}")
            output.line(f"    URL     {base}/in/{name}")
            output.line(f"    secret  {shown_secret(name, source, built_in)}")
    output.line()
    if built_in is not None and len(built_in.variables) < len(built_in.secrets):
        output.line(f"These secrets were made up for you and are kept in {DEV_SECRETS_FILE}.")
    if any(source.enabled for source in config.sources.values()):
        output.line(f"In another terminal: {shown_program()} send {first_source(config)}")
    output.line(f"Operator listener: {base_url(config.operator.host, config.operator.port)} (Ctrl-C stops the relay)")
    output.line()
    output.stdout.flush()


def first_source(config: Config) -> str:
    return next(name for name, source in config.sources.items() if source.enabled)


def shown_program() -> str:
    """What to type to run a command of ours: `relay` where that is found, else the path it was started by."""
    return "relay" if shutil.which("relay") else sys.argv[0]


def shown_secret(name: str, source: Source, built_in: DevConfig | None) -> str:
    if not source.secrets:
        return "none: anybody who knows the URL is believed"
    if built_in is None:
        return "the one in your configuration"
    if name in built_in.variables:
        return f"the one in {built_in.variables[name]}"
    return built_in.secrets[name]
