"""`relay replay` and `relay prune`: a person puts work back, or lets go of what is done."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from relay.commands.access import AnyRecords, open_records
from relay.commands.arguments import Commands, add_command, add_environment, add_json, now_ms, seconds
from relay.commands.output import EXIT_CONFIG, EXIT_DONE, EXIT_UNSUCCESSFUL, Output
from relay.commands.settings import settings
from relay.operator_client import RemoteRecords
from relay.records import RECORDS_MAX, Json

DAY_SECONDS: Final = 86_400
STDIN_CHARACTERS_MAX: Final = 64 * 1024 * 1024


def register(commands: Commands) -> None:
    parser = add_command(commands, "replay", replay, "put deliveries or events back to work", REPLAY_TEXT)
    parser.add_argument(
        "ids", nargs="*", metavar="ID", help="a delivery's id or an event's ref; - reads them from stdin"
    )
    parser.add_argument("--dead", action="store_true", help="every dead delivery and every dead event")
    parser.add_argument("--source", metavar="NAME", help="everything dead of this source")
    parser.add_argument("--again", action="store_true", help="finished work too, openly under new event ids")
    add_environment(parser, "send the events to this Inngest environment instead")
    add_json(parser)
    parser = add_command(commands, "prune", prune, "delete settled deliveries and their events")
    parser.add_argument(
        "--older-than", metavar="30d", type=seconds, help="days, hours or minutes (store.retention_days)"
    )
    add_json(parser)


REPLAY_TEXT: Final = """\
Put deliveries or events back to work.

A dead or filtered delivery runs through its transform again; a dead event is sent again. What was processed or sent is
refused without --again, because Inngest and the relay would drop it as a duplicate of itself."""


async def replay(args: argparse.Namespace, output: Output) -> int:
    bulk = args.dead or args.source is not None
    if bulk == bool(args.ids):
        output.note("name the ids to replay, or --dead, or --source NAME, and not both: see relay replay --help")
        return EXIT_CONFIG
    done: Json = {"replayed": [], "refused": []}
    async with open_records(settings(args), output, write=True) as records:
        async for ids in dead_ids(records, args.source) if bulk else pages_of(read_ids(args.ids)):
            step = await records.replay(ids, again=args.again, environment=args.env)
            done = {key: done[key] + step[key] for key in done}
            if len(ids) == RECORDS_MAX:
                output.progress(f"{len(done['replayed']):,} replayed, {len(done['refused']):,} refused")
        running = isinstance(records, RemoteRecords)
    output.end_progress()
    report(done, output, args, bulk=bulk, running=running)
    return EXIT_UNSUCCESSFUL if done["refused"] else EXIT_DONE


def report(done: Json, output: Output, args: argparse.Namespace, *, bulk: bool, running: bool) -> None:
    for refused in done["refused"]:
        output.note(f"{refused['id']}: {refused['message']}")
    if args.json:
        output.document(done)
    elif bulk and not done["replayed"] and not done["refused"]:
        output.line("nothing is dead" + (f" of source {args.source}" if args.source else ""))
    else:
        refused = f", {len(done['refused']):,} refused" if done["refused"] else ""
        output.line(f"{len(done['replayed']):,} replayed{refused}")
    if done["replayed"] and not running:
        output.note("no relay is running: they are taken up when one starts")


def read_ids(given: Sequence[str]) -> list[str]:
    """The ids of the command line, - standing for those on stdin, each once and in order."""
    words: dict[str, None] = {}
    for name in given:
        found = sys.stdin.read(STDIN_CHARACTERS_MAX).split() if name == "-" else [name]
        words.update(dict.fromkeys(found))
    return list(words)


async def pages_of(ids: Sequence[str]) -> AsyncIterator[list[str]]:
    for start in range(0, len(ids), RECORDS_MAX):
        yield list(ids[start : start + RECORDS_MAX])


async def dead_ids(records: AnyRecords, source: str | None) -> AsyncIterator[list[str]]:
    """Every dead delivery and every dead event there is now, a page at a time.

    The cursor only goes towards older ones, so that what is replayed and dies again meanwhile is not met twice.
    """
    listings: tuple[tuple[Callable[..., Any], str], ...] = ((records.deliveries, "id"), (records.events, "ref"))
    for listing, key in listings:
        before: str | None = None
        while True:
            page = await listing(state="dead", source=source, before=before, limit=RECORDS_MAX)
            if page:
                before = page[-1][key]
                yield [record[key] for record in page]
            if len(page) < RECORDS_MAX:
                break


async def prune(args: argparse.Namespace, output: Output) -> int:
    config = settings(args)
    age_seconds = config.store.retention_days * DAY_SECONDS if args.older_than is None else args.older_than
    before_ms, pruned, steps = now_ms() - age_seconds * 1000, 0, 0
    async with open_records(config, output, write=True) as records:
        while step := await records.prune(max(0, before_ms)):
            pruned, steps = pruned + step, steps + 1
            if steps % 10 == 0:
                output.progress(f"{pruned:,} deliveries pruned")
    output.end_progress()
    if args.json:
        output.document({"pruned": pruned})
    else:
        output.line(f"{pruned:,} deliveries pruned")
    return EXIT_DONE
