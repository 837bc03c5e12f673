"""`relay secrets`: the secrets that providers sent in handshakes (Asana, Notion), and when a source takes another one.

Lists and changes go through the running relay, as everywhere. `show` alone reads the store's file, whose mode says who
may: the text of a secret never crosses a socket.
"""

from __future__ import annotations

import argparse
from typing import Final

from relay.commands.access import open_file, open_records
from relay.commands.arguments import Commands, add_command, add_json, count, now_ms
from relay.commands.output import EXIT_DONE, EXIT_UNSUCCESSFUL, Column, Output, age
from relay.commands.settings import settings
from relay.config import Config
from relay.errors import ConfigError, nearest
from relay.presets import preset_for
from relay.records import PAIRING_MINUTES_MAX, Json

PAIRING_MINUTES: Final = 10
TEXT: Final = """\
The secrets that providers sent in handshakes (Asana, Notion).

The first one that comes to a source without any secret is kept; another one is refused until `relay secrets open` lets
it in. They are in the store, and used beside those of relay.toml."""


def register(commands: Commands) -> None:
    parser = add_command(commands, "secrets", list_secrets, "list or show secrets that came in handshakes", TEXT)
    actions = parser.add_subparsers(metavar="[list | show | open | forget]", title="actions")
    listing = add_command(actions, "list", list_secrets, "what is kept, without its text; without a word, too")
    listing.add_argument("source", metavar="SOURCE", nargs="?", default=argparse.SUPPRESS)
    show = add_command(actions, "show", show_secrets, "print a source's secrets, one to a line, the newest first")
    opening = add_command(actions, "open", open_pairing, "let a source take further secrets for some minutes")
    about = f"for so long ({PAIRING_MINUTES})"
    opening.add_argument("--minutes", metavar="N", type=minutes, default=PAIRING_MINUTES, help=about)
    forget = add_command(actions, "forget", forget_secrets, "delete one secret of a source, or all of them")
    for action in (show, opening, forget):
        action.add_argument("source", metavar="SOURCE")
    forget.add_argument("id", metavar="ID", type=count, nargs="?", help="as `relay secrets list` shows it")
    for action in (parser, listing, show, opening, forget):
        add_json(action)


def minutes(value: str) -> int:
    number = count(value)
    if number > PAIRING_MINUTES_MAX:
        raise argparse.ArgumentTypeError(f"{value!r} must be a number from 1 to {PAIRING_MINUTES_MAX:,}")
    return number


async def list_secrets(args: argparse.Namespace, output: Output) -> int:
    async with open_records(settings(args), output) as records:
        found = await records.secrets(now_ms=now_ms(), source=getattr(args, "source", None))
    if args.json:
        output.document(found)
        return EXIT_DONE
    now = now_ms()
    if found["secrets"]:
        kept = Column("KEPT", "kept_ms", lambda at_ms: age(at_ms, now), right=True)
        output.table([Column("ID", "id", right=True), Column("SOURCE", "source", whole=True), kept], found["secrets"])
    else:
        output.note("no secret has come in a handshake" + of_source(args))
    for pairing in found["open"]:
        output.note(f"{pairing['source']} takes further ones; that ends {age(pairing['until_ms'], now)}")
    return EXIT_DONE


async def show_secrets(args: argparse.Namespace, output: Output) -> int:
    async with open_file(settings(args)) as records:
        found = await records.store.list_secrets(args.source)
    if args.json:
        output.document([{"id": kept.id, "kept_ms": kept.kept_ms, "secret": kept.secret} for kept in found])
    for kept in found if not args.json else ():
        output.line(kept.secret)
    if not found:
        output.note("no secret has come in a handshake" + of_source(args))
    return EXIT_DONE if found else EXIT_UNSUCCESSFUL


async def open_pairing(args: argparse.Namespace, output: Output) -> int:
    config = settings(args)
    check_source(config, args.source)
    async with open_records(config, output, write=True) as records:
        opened: Json = await records.open_pairing(args.source, minutes=args.minutes, now_ms=now_ms())
    if args.json:
        output.document(opened)
    else:
        plural = "" if args.minutes == 1 else "s"
        output.line(f"{args.source} takes further secrets for {args.minutes} minute{plural}: connect the webhook now")
    return EXIT_DONE


async def forget_secrets(args: argparse.Namespace, output: Output) -> int:
    async with open_records(settings(args), output, write=True) as records:
        forgotten = await records.forget_secrets(args.source, args.id)
        left = (await records.secrets(now_ms=now_ms(), source=args.source))["secrets"]
    if args.json:
        output.document({"forgotten": forgotten, "left": len(left)})
    elif forgotten:
        output.line(f"{forgotten} forgotten, {len(left)} left")
    else:
        output.note(f"{args.source} has no such secret")
    if forgotten and not left:
        output.note("unless relay.toml has secrets for it, the next one that comes in a handshake is kept")
    return EXIT_DONE if forgotten else EXIT_UNSUCCESSFUL


def check_source(config: Config, name: str) -> None:
    """Raises ConfigError for a source that nothing would ever come to."""
    if name not in config.sources:
        raise ConfigError(f"there is no source {name!r}{nearest(name, list(config.sources))}", file=config.file)
    source = config.sources[name]
    preset = preset_for(source.provider, source.scheme, file=config.file, key=f"sources.{name}")
    if not preset.keeps_secrets:
        reason = f"{preset.title} sends no secret in a handshake: set secrets = [...]"
        raise ConfigError(reason, file=config.file, key=f"sources.{name}.secrets")


def of_source(args: argparse.Namespace) -> str:
    return f" to {args.source}" if getattr(args, "source", None) else " yet"
