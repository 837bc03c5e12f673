"""`relay serve` and `relay dev`: the relay itself."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from relay.app import run_relay
from relay.commands.arguments import Commands, add_command
from relay.commands.output import Output
from relay.commands.settings import DEV_SECRETS_FILE, DevConfig, config_path, dev_config
from relay.config import Config, load_config, without_cloud
from relay.operator_client import base_url
from relay.telemetry import stderr_telemetry


def register(commands: Commands) -> None:
    add_command(commands, "serve", serve, "run the relay, as relay.toml says")
    add_command(
        commands,
        "dev",
        dev,
        "run the relay for trying things out",
        "Run the relay with ./relay.toml, or without one for sources github and stripe, with everything in ./data.\n"
        "Events go to an Inngest Dev Server when one answers, else they are printed.",
    )


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
            output.line(f"  {name:<12} {base}/in/{name}{shown_secret(name, built_in)}")
    if built_in is not None:
        output.line(f"Try it without a provider, in another terminal: {shown_program()} send github")
    output.line(f"Operator API: {base_url(config.operator.host, config.operator.port)}")
    output.stdout.flush()


def shown_program() -> str:
    """What to type to run a command of ours: `relay` where that is found, else the path it was started by."""
    return "relay" if shutil.which("relay") else sys.argv[0]


def shown_secret(name: str, built_in: DevConfig | None) -> str:
    if built_in is None:
        return ""
    if name in built_in.variables:
        return f"   secret from {built_in.variables[name]}"
    return f"   secret {built_in.secrets[name]}   (kept in {DEV_SECRETS_FILE})"
