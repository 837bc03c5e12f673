"""`relay deliveries` and `relay events`: what came in, and what became of it."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any, Final

from relay.commands.access import open_records
from relay.commands.arguments import Commands, Run, add_command, add_json, count, now_ms
from relay.commands.output import EXIT_DONE, EXIT_UNSUCCESSFUL, Column, Output, age, size
from relay.commands.settings import settings
from relay.commands.show import show_delivery, show_event
from relay.models import DeliveryState, EventState
from relay.records import RECORDS_MAX, Json

LIST_LENGTH: Final = 50
FILTERS: Final = ("state", "source", "delivery_id")


def register(commands: Commands) -> None:
    deliveries = add_command(commands, "deliveries", list_deliveries, "list or show the deliveries that were accepted")
    show = add_actions(deliveries, list_deliveries, deliveries_show, list(DeliveryState), "ID")
    show.add_argument("--body", action="store_true", help="write the body to stdout, byte for byte, and nothing else")
    events = add_command(commands, "events", list_events, "list or show the events that the transforms made")
    add_actions(events, list_events, events_show, list(EventState), "REF")


def add_actions(
    parser: argparse.ArgumentParser, listing: Run, showing: Run, states: list[Any], name: str
) -> argparse.ArgumentParser:
    """`list` (which is what happens without a word, too) and `show`; gives the parser of `show`."""
    actions = parser.add_subparsers(metavar="[list | show]", title="actions")
    for lister in (parser, add_command(actions, "list", listing, "newest first; what happens without a word, too")):
        add_filters(lister, [str(state) for state in states], events=name == "REF")
    show = add_command(actions, "show", showing, "one of them, with everything that is known")
    show.add_argument("id", metavar=name)
    add_json(show)
    return show


def add_filters(parser: argparse.ArgumentParser, states: list[str], *, events: bool) -> None:
    """Nothing has a default here: what `list` was not given must not undo what its parent was."""
    add = parser.add_argument
    add("--state", choices=states, default=argparse.SUPPRESS, help="in this state only")
    add("--source", metavar="NAME", default=argparse.SUPPRESS, help="of this source only")
    if events:
        add("--delivery", metavar="ID", dest="delivery_id", default=argparse.SUPPRESS, help="of this delivery only")
    add("--before", metavar="REF" if events else "ID", default=argparse.SUPPRESS, help="older than this one")
    add("--limit", metavar="N", type=count, default=argparse.SUPPRESS, help=f"at most so many ({LIST_LENGTH})")
    add_json(parser)


async def list_deliveries(args: argparse.Namespace, output: Output) -> int:
    async with open_records(settings(args), output) as records:
        found = await pages(records.deliveries, args, "id")
    if args.json:
        output.document(found)
    elif found:
        output.table(delivery_columns(), found)
    else:
        output.note("no deliveries" + of_filters(args))
    return EXIT_DONE


async def list_events(args: argparse.Namespace, output: Output) -> int:
    async with open_records(settings(args), output) as records:
        found = await pages(records.events, args, "ref")
    if args.json:
        output.document(found)
    elif found:
        output.table(event_columns(), found)
    else:
        output.note("no events" + of_filters(args))
    return EXIT_DONE


async def pages(listing: Callable[..., Awaitable[list[Json]]], args: argparse.Namespace, key: str) -> list[Json]:
    """As many records as were asked for, a page at a time."""
    filters = {name: getattr(args, name) for name in FILTERS if hasattr(args, name)}
    left, before, found = getattr(args, "limit", LIST_LENGTH), getattr(args, "before", None), list[Json]()
    while left > 0:
        limit = min(left, RECORDS_MAX)
        page = await listing(**filters, before=before, limit=limit)
        found += page
        if len(page) < limit:
            break
        left, before = left - len(page), page[-1][key]
    return found


def of_filters(args: argparse.Namespace) -> str:
    given = [f"{name.removesuffix('_id')} {getattr(args, name)}" for name in FILTERS if hasattr(args, name)]
    older = f" before {args.before}" if hasattr(args, "before") else ""
    return (f" of {', '.join(given)}" if given else "") + (older or ("" if given else " yet"))


async def deliveries_show(args: argparse.Namespace, output: Output) -> int:
    async with open_records(settings(args), output) as records:
        found = await records.delivery(args.id)
        body = await records.body(args.id) if args.body else None
    if found is None:
        return not_found(output, f"there is no delivery {args.id}", "events are shown by `relay events show`", args.id)
    if body is not None:
        output.raw(body)
    elif args.json:
        output.document(found)
    else:
        show_delivery(found, output, now_ms(), event_columns(of_delivery=True))
    return EXIT_DONE


async def events_show(args: argparse.Namespace, output: Output) -> int:
    async with open_records(settings(args), output) as records:
        found = await records.event(args.id)
    if found is None:
        return not_found(output, f"there is no event {args.id}", "an event's ref is in `relay events`", args.id + ".")
    if args.json:
        output.document(found)
    else:
        show_event(found, output, now_ms())
    return EXIT_DONE


def not_found(output: Output, sentence: str, hint: str, name: str) -> int:
    output.note(f"{sentence}; {hint}" if "." in name else sentence)
    return EXIT_UNSUCCESSFUL


def delivery_columns() -> list[Column]:
    now = now_ms()
    return [
        Column("ID", "id", whole=True),
        Column("AGE", "received_ms", lambda at_ms: age(at_ms, now), right=True),
        Column("SOURCE", "source"),
        Column("STATE", "state", whole=True),
        Column("EVENTS", "event_count", right=True),
        Column("SIZE", "body_bytes", size, right=True),
        Column("ENV", "environment"),
        Column("CODE", "code"),
        Column("MESSAGE", "message"),
    ]


def event_columns(*, of_delivery: bool = False) -> list[Column]:
    now = now_ms()
    columns = [
        Column("REF", "ref", whole=True),
        Column("AGE", "created_ms", lambda at_ms: age(at_ms, now), right=True),
        Column("SOURCE", "source"),
        Column("STATE", "state", whole=True),
        Column("TRIES", "attempt", right=True),
        Column("NAME", "name"),
        Column("DESTINATION", "destination"),
        Column("ENV", "environment"),
        Column("INNGEST ID", "inngest_id"),
        Column("CODE", "code"),
        Column("MESSAGE", "message"),
    ]
    return [column for column in columns if not (of_delivery and column.key in ("source", "created_ms"))]
