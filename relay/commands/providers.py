"""`relay providers`: what the relay knows about each provider, and what to paste where."""

from __future__ import annotations

import argparse

from relay.commands.arguments import Commands, add_command, add_json
from relay.commands.output import EXIT_DONE, Column, Output
from relay.presets import Preset, load_preset, load_presets
from relay.provider_pages import provider_pages
from relay.records import Json


def register(commands: Commands) -> None:
    parser = add_command(commands, "providers", list_providers, "list the providers, or show one and what to paste")
    add_json(parser)
    parser.add_argument("--markdown", action="store_true", help="print the generated part of docs/providers.md")
    actions = parser.add_subparsers(metavar="[list | show]", title="actions")
    add_json(add_command(actions, "list", list_providers, "all of them; what happens without a word, too"))
    show = add_command(actions, "show", show_provider, "one of them: its secret, what to paste where, its traps")
    show.add_argument("name", metavar="NAME")
    add_json(show)


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
    preset = load_preset(args.name)
    if args.json:
        output.document(provider_json(preset))
        return EXIT_DONE
    output.fields(
        [
            ("name", preset.name),
            ("title", preset.title),
            ("secret", preset.secret_form),
            ("paste", preset.paste),
            ("handshake", "answered" if preset.handshake else None),
            ("samples", ", ".join(sample.event for sample in preset.samples) or None),
            ("documentation", preset.docs_url),
        ]
    )
    for trap in preset.traps:
        output.line(f"- {trap}")
    output.line()
    for line in snippet(preset):
        output.line(line)
    return EXIT_DONE


def snippet(preset: Preset) -> list[str]:
    """What to write into relay.toml."""
    variable = f"{preset.name.upper()}_WEBHOOK_SECRET"
    secrets = [] if preset.scheme.open else [f'secrets = ["${{{variable}}}"]']
    return [f"[sources.{preset.name}]", f'provider = "{preset.name}"', *secrets]


def provider_json(preset: Preset) -> Json:
    return {
        "name": preset.name,
        "title": preset.title,
        "docs_url": preset.docs_url,
        "secret_form": preset.secret_form,
        "paste": preset.paste,
        "traps": list(preset.traps),
        "handshake": preset.handshake is not None,
        "verified": not preset.scheme.open,
        "samples": [sample.event for sample in preset.samples],
    }
