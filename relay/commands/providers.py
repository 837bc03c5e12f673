"""`relay providers`: what the relay knows about each provider, and what to paste where."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Final

from relay.commands.arguments import Commands, add_command, add_json
from relay.commands.output import EXIT_DONE, Column, Output
from relay.config import shipped_transforms
from relay.errors import ConfigError
from relay.presets import FOLDER, Preset, load_own_preset, load_preset, load_presets
from relay.provider_pages import answer_shown, provider_pages, signature_headers
from relay.records import Json
from relay.schemes.throwaway import make_pair

#: What has to be said of a scheme that the preset does not know.
GENERIC_LINES: Final = {
    "hmac": ['header = "X-Signature"   # where the signature is; docs/providers.md has every key'],
    "token": ['header = "X-Token"   # where the token is; or query = "token", or basic = true'],
}


def register(commands: Commands) -> None:
    parser = add_command(commands, "providers", list_providers, "list the providers, or show one and what to paste")
    add_json(parser)
    parser.add_argument("--markdown", action="store_true", help="print the generated part of docs/providers.md")
    actions = parser.add_subparsers(metavar="[list | show | key]", title="actions")
    add_json(add_command(actions, "list", list_providers, "all of them; what happens without a word, too"))
    show = add_command(actions, "show", show_provider, "one of them: its secret, what to paste where, its traps")
    show.add_argument("name", metavar="NAME", help="a provider, or the file of a preset of your own")
    show.add_argument("--toml", action="store_true", help="print the preset itself, to begin one of your own with")
    add_json(show)
    key = add_command(actions, "key", make_key, "make a throwaway key pair, to try a provider that signs with its own")
    key.add_argument("name", metavar="NAME")
    key.add_argument("--out", metavar="FILE", help="where the private key goes (NAME.key.pem)")


async def list_providers(args: argparse.Namespace, output: Output) -> int:
    if getattr(args, "markdown", False):
        for line in provider_pages(load_presets().values()).splitlines():
            output.line(line)
        return EXIT_DONE
    found = [provider_json(preset) for preset in load_presets().values()]
    if args.json:
        output.document(found)
    else:
        output.table(
            [Column("NAME", "name", whole=True), Column("TITLE", "title"), Column("SECRET", "secret_form")], found
        )
    return EXIT_DONE


async def show_provider(args: argparse.Namespace, output: Output) -> int:
    preset = load_own_preset(args.name, None) if args.name.endswith(".toml") else load_preset(args.name)
    if args.toml:
        output.raw(preset_file(args.name).read_bytes())
        return EXIT_DONE
    if args.json:
        output.document(provider_json(preset))
        return EXIT_DONE
    output.fields(
        [
            ("name", preset.name),
            ("title", preset.title),
            ("secret", preset.secret_form),
            ("paste", preset.paste),
            *((f"scheme.{option.name}", option.about) for option in preset.options),
            ("comes by", ", ".join(("POST", *preset.methods)) if preset.methods else None),
            ("expects", preset.expects or None),
            ("answered", answer_shown(preset.answer) or None),
            ("headers", ", ".join(signature_headers(preset)) or None),
            ("delivery id", ", ".join(place.text for place in preset.scheme.delivery_id) or None),
            ("event type", ", ".join(place.text for place in preset.scheme.event_type) or None),
            ("handshakes", ", ".join(f"{each.name} ({each.method})" for each in preset.handshakes) or None),
            ("samples", ", ".join(sample.event for sample in preset.samples) or None),
            ("documentation", preset.docs_url),
        ]
    )
    for trap in preset.traps:
        output.item(trap)
    output.line()
    for line in snippet(preset, args.name):
        output.line(line)
    return EXIT_DONE


def preset_file(name: str) -> Path:
    return Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"


async def make_key(args: argparse.Namespace, output: Output) -> int:
    """The private half into a file that only its owner can read, the public half onto stdout."""
    preset = load_preset(args.name)
    pair = make_pair(preset.scheme)
    if pair is None:
        raise ConfigError(no_pair(preset), key="NAME")
    file = Path(args.out or f"{preset.name}.key.pem")
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(pair.private)
    except FileExistsError as error:
        raise ConfigError("is there already: name another one, or delete it", file=file, key="--out") from error
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}", file=file, key="--out") from error
    output.line(f"private key in {file}: relay send SOURCE --key {file}")
    output.line("public key, to stand in the source's secrets while you try it:")
    output.line()
    output.line(f"secrets = [{json.dumps(pair.public)}]")
    return EXIT_DONE


def no_pair(preset: Preset) -> str:
    """Why there is no pair to make, and what to do."""
    if any(option.name == "certs" for option in preset.options):
        return (
            f"{preset.name} signs with the key of a certificate: make both (openssl req -x509 -newkey rsa:2048 -nodes),"
            " put the certificate into [sources.NAME.scheme.certs] by the URL that the sample names, and use"
            " relay send --key"
        )
    return f"{preset.name} signs with the secret itself: `relay send` needs no key pair"


def snippet(preset: Preset, provider: str) -> list[str]:
    """What to write into relay.toml."""
    variable = f"{preset.name.upper()}_WEBHOOK_SECRET"
    secrets = [] if preset.scheme.open or preset.secret_optional else [f'secrets = ["${{{variable}}}"]']
    return [
        f"[sources.{preset.name}]",
        f'provider = "{provider}"',
        *secrets,
        *transform_line(preset),
        *scheme_lines(preset),
    ]


def scheme_lines(preset: Preset) -> list[str]:
    """[sources.NAME.scheme]: what has to stand there, and as comments what may."""
    lines = GENERIC_LINES.get(preset.name, [])
    for option in preset.options:
        value = '{ "…" = "…" }' if option.is_table else json.dumps(option.choices[0]) if option.choices else '"…"'
        others = f" (or {', '.join(option.choices[1:])})" if option.choices else ""
        lines = [*lines, f"{'' if option.required else '# '}{option.name} = {value}   # {option.about}{others}"]
    if not lines:
        return []
    mark = "# " if all(line.startswith("# ") for line in lines) else ""
    return ["", f"{mark}[sources.{preset.name}.scheme]", *lines]


def transform_line(preset: Preset) -> list[str]:
    """The transform that comes with the relay for this preset, if there is one."""
    script = f"{preset.transform}.js"
    return [f'transform = "transforms/{script}"'] if (shipped_transforms() / script).exists() else []


def provider_json(preset: Preset) -> Json:
    return {
        "name": preset.name,
        "title": preset.title,
        "docs_url": preset.docs_url,
        "secret_form": preset.secret_form,
        "paste": preset.paste,
        "methods": ["POST", *preset.methods],
        "expects": preset.expects,
        "traps": list(preset.traps),
        "options": [
            {"name": option.name, "about": option.about, "required": option.required, "choices": list(option.choices)}
            for option in preset.options
        ],
        "headers": signature_headers(preset),
        "delivery_id": [place.text for place in preset.scheme.delivery_id],
        "event_type": [place.text for place in preset.scheme.event_type],
        "handshakes": [each.name for each in preset.handshakes],
        "verified": not preset.scheme.open,
        "samples": [sample.event for sample in preset.samples],
    }
