"""Which configuration a command works with: --config, else ./relay.toml, else the built-in one of `relay dev`."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.config import Config, dev_table, load_config, parse_config, process_environ
from relay.errors import ConfigError

DEV_SECRETS_FILE: Final = Path("data", "dev-secrets.json")
DEV_VARIABLES: Final = {"github": "GITHUB_WEBHOOK_SECRET", "stripe": "STRIPE_WEBHOOK_SECRET"}


@dataclass(frozen=True, slots=True)
class DevConfig:
    """The built-in configuration and, for every source, its secret and where it came from."""

    config: Config
    secrets: dict[str, str]
    variables: dict[str, str]  # source → the environment variable, for those that came from one


def settings(args: argparse.Namespace, *, secrets_needed: bool = False) -> Config:
    """The configuration of a command that can do with the built-in one."""
    path = config_path(args)
    if path is not None:
        return load_config(path)
    if secrets_needed:
        return dev_config().config
    return built_in_config(dict.fromkeys(DEV_VARIABLES, "whsec_dW51c2Vk"))  # looking on makes no secrets


def config_path(args: argparse.Namespace) -> Path | None:
    """The file to read; None when there is neither --config nor ./relay.toml."""
    if args.config is not None:
        return Path(args.config)
    path = Path("relay.toml")
    return path if path.exists() else None


def dev_config() -> DevConfig:
    """Sources github and stripe, everything in ./data, secrets from the environment or made once and kept."""
    environ, folder = process_environ(), Path.cwd()
    known = dev_secrets(environ, folder / DEV_SECRETS_FILE)
    variables = {source: name for source, name in DEV_VARIABLES.items() if environ.get(name)}
    return DevConfig(built_in_config(known), known, variables)


def built_in_config(known: Mapping[str, str]) -> Config:
    environ = process_environ()
    return parse_config(dev_table(environ, Path.cwd(), known), environ, None)


def dev_secrets(environ: Mapping[str, str], file: Path) -> dict[str, str]:
    given = {source: environ[name] for source, name in DEV_VARIABLES.items() if environ.get(name)}
    if len(given) == len(DEV_VARIABLES):
        return given
    return {**kept_secrets(file), **given}


def kept_secrets(file: Path) -> dict[str, str]:
    """The secrets in `file`; it is made, readable by its owner only, when there is none."""
    try:
        return read_secrets(file)
    except FileNotFoundError:
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    made = {"github": secrets.token_hex(32), "stripe": f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"}
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.") as draft:  # made with mode 0600
        json.dump(made, draft, indent=2)
        draft.flush()
        with contextlib.suppress(FileExistsError):  # another command was quicker: its secrets are the ones
            os.link(draft.name, file)
    return read_secrets(file)


def read_secrets(file: Path) -> dict[str, str]:
    try:
        kept = json.loads(file.read_text("utf-8"))
        return {source: str(kept[source]) for source in DEV_VARIABLES}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("holds no secrets for github and stripe: delete it, new ones are made", file=file) from error
