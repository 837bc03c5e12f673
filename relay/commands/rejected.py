"""`relay rejected`: requests that were refused, judged again after a secret was corrected, and accepted."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

from relay.app import open_pen, open_store
from relay.commands.access import relay_answers
from relay.commands.arguments import Commands, add_command, add_json, count, now_ms
from relay.commands.output import EXIT_CONFIG, EXIT_DONE, EXIT_UNSUCCESSFUL, Column, Output, age, size
from relay.commands.replay import read_ids
from relay.commands.settings import settings
from relay.commands.show import moment
from relay.config import Config
from relay.errors import REJECTIONS, ConfigError, StoreUnavailable
from relay.judge import Judge
from relay.keys import KeyResolver
from relay.operator_client import RemoteRecords, RemoteRejected
from relay.records import RECORDS_MAX, Json, body_text
from relay.rejected import IDS_MAX, RejectedRequests
from relay.sources import load_sources
from relay.telemetry import Telemetry

AnyRejected: TypeAlias = RejectedRequests | RemoteRejected

LIST_LENGTH: Final = 50
FILTERS: Final = ("source", "code")
#: What a request is kept with.
CODES: Final = sorted(code for code, (status, _) in REJECTIONS.items() if status == 401)
TEXT: Final = """\
Requests that were refused: a wrong signature, a stale time, no usable key. They are kept for a while ([rejected]).

After a secret was corrected, `relay rejected verify --all` says which of them are genuine, and `relay rejected accept
--all` takes those in: they run through the transform like any delivery."""
STALE: Final = "whatever their signed time; the signature itself must be genuine all the same"


def register(commands: Commands) -> None:
    parser = add_command(commands, "rejected", list_rejected, "look at refused requests, and accept genuine ones", TEXT)
    actions = parser.add_subparsers(metavar="[list | show | verify | accept]", title="actions")
    for lister in (parser, add_command(actions, "list", list_rejected, "newest first; without a word, too")):
        add_filters(lister)
    show = add_command(actions, "show", show_rejected, "one of them: why it was refused, and its headers")
    show.add_argument("id", metavar="ID")
    about = "write the body to a file, or to stdout (-), and nothing else"
    show.add_argument("--body", metavar="FILE", nargs="?", const="-", help=about)
    add_json(show)
    verify = add_command(actions, "verify", verify_rejected, "say which are genuine by the configuration of now")
    accept = add_command(actions, "accept", accept_rejected, "make deliveries of those that are genuine")
    for action in (verify, accept):
        action.add_argument("ids", nargs="*", metavar="ID", help="a rejected request's id; - reads them from stdin")
        action.add_argument("--all", action="store_true", help="every one; exits with 1 when none was genuine")
        action.add_argument("--source", metavar="NAME", default=argparse.SUPPRESS, help="with --all: of this source")
        action.add_argument("--stale", action="store_true", help=STALE)
        add_json(action)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Nothing has a default here: what `list` was not given must not undo what its parent was."""
    add = parser.add_argument
    add("--source", metavar="NAME", default=argparse.SUPPRESS, help="of this source only")
    add("--code", choices=CODES, metavar="CODE", default=argparse.SUPPRESS, help=f"one of {', '.join(CODES)}")
    add("--before", metavar="ID", default=argparse.SUPPRESS, help="older than this one")
    add("--limit", metavar="N", type=count, default=argparse.SUPPRESS, help=f"at most so many ({LIST_LENGTH})")
    add_json(parser)


@asynccontextmanager
async def open_rejected(config: Config, output: Output, *, write: bool = False) -> AsyncIterator[AnyRejected]:
    """The running relay's, else the files themselves. Raises StoreUnavailable when there is no way to them."""
    remote = RemoteRecords(config.operator)
    if await relay_answers(remote, config, output):
        yield RemoteRejected(remote)
        return
    if not config.store_path.exists():
        raise StoreUnavailable(f"no relay answers at {remote.base}, and there is no store at {config.store_path} yet")
    sources, telemetry = load_sources(config), Telemetry()
    async with AsyncExitStack() as stack:
        try:
            store = await open_store(config, read_only=not write)
        except ConfigError as error:  # somebody else owns the file, or it is no store of this version's
            raise StoreUnavailable(str(error)) from error
        stack.push_async_callback(store.close)
        pen = open_pen(config, telemetry, read_only=not write)
        stack.push_async_callback(pen.close)
        keys = KeyResolver(config.keys, config.folder, telemetry)
        stack.push_async_callback(keys.close)
        judge = Judge(store, keys, pen, config.receiver, now_ms)
        yield RejectedRequests(pen, store, judge, sources, telemetry)


async def list_rejected(args: argparse.Namespace, output: Output) -> int:
    async with open_rejected(settings(args), output) as requests:
        found = await listed(requests, args, getattr(args, "limit", LIST_LENGTH))
    now = now_ms()
    if args.json:
        output.document(found)
    elif found:
        output.table(
            [
                Column("ID", "id", whole=True),
                Column("AGE", "received_ms", lambda at_ms: age(at_ms, now), right=True),
                Column("SOURCE", "source"),
                Column("SIZE", "body_bytes", size, right=True),
                Column("BODY", "body_kept", lambda kept: "" if kept else "not kept"),
                Column("CODE", "code", whole=True),
                Column("DETAIL", "detail"),
            ],
            found,
        )
    else:
        given = [f"{name} {getattr(args, name)}" for name in FILTERS if hasattr(args, name)]
        output.note("no rejected requests" + (f" of {', '.join(given)}" if given else ""))
    return EXIT_DONE


async def listed(requests: AnyRejected, args: argparse.Namespace, limit: int) -> list[Json]:
    """As many as were asked for, a page at a time."""
    filters = {name: getattr(args, name) for name in FILTERS if hasattr(args, name)}
    before, found = getattr(args, "before", None), list[Json]()
    while len(found) < limit:
        wanted = min(limit - len(found), RECORDS_MAX)
        page = await requests.rejected(**filters, before=before, limit=wanted)
        found += page
        if len(page) < wanted:
            break
        before = page[-1]["id"]
    return found


async def show_rejected(args: argparse.Namespace, output: Output) -> int:
    async with open_rejected(settings(args), output) as requests:
        found = await requests.one(args.id)
        body = await requests.body(args.id) if found and (args.body or args.json) else None
    if found is None:
        output.note(f"there is no rejected request {args.id}, or not any more")
        return EXIT_UNSUCCESSFUL
    if args.body:
        return write_body(found, body, args.body, output)
    if args.json:
        output.document(with_body(found, body))
    else:
        show(found, output)
    return EXIT_DONE


def with_body(found: Json, body: bytes | None) -> Json:
    """The record in a form that `relay verify` and `relay transform` read from a file."""
    if body is None or found["request"] is None:
        return found
    text, encoding = body_text(body, body)
    return {**found, "request": {**found["request"], "body": text, "body_encoding": encoding}}


def write_body(found: Json, body: bytes | None, file: str, output: Output) -> int:
    if body is None:
        output.note(f"the body of {size(found['body_bytes'])} was too large to be kept (rejected.bytes_max)")
        return EXIT_UNSUCCESSFUL
    if file == "-":
        output.raw(body)
    else:
        Path(file).write_bytes(body)
        output.note(f"{size(len(body))} written to {file}")
    return EXIT_DONE


def show(found: Json, output: Output) -> None:
    kept = "" if found["body_kept"] else ", too large to be kept: it can be looked at, and not accepted"
    output.fields(
        [
            ("id", found["id"]),
            ("source", found["source"]),
            ("code", found["code"]),
            ("why", found["detail"] or REJECTIONS[found["code"]][1]),
            ("skew", None if found["skew_seconds"] is None else f"{found['skew_seconds']:g} s"),
            ("received", moment(found["received_ms"], now_ms())),
            ("url", found["url"]),
            ("body", size(found["body_bytes"]) + kept),
        ]
    )
    request = found["request"]
    query = f"?{request['query']}" if request["query"] else ""
    output.line()
    output.line(f"{request['method']} {request['path']}{query}")
    for name, value in request["headers"]:
        output.line(f"{name}: {value}")


async def verify_rejected(args: argparse.Namespace, output: Output) -> int:
    if not named(args, output):
        return EXIT_CONFIG
    found: list[Json] = []
    async with open_rejected(settings(args), output) as requests:
        for ids in await pages(requests, args):
            found += await requests.verify(ids, stale=args.stale)
    genuine = sum(one["genuine"] for one in found)
    if args.json:
        output.document(found)
    elif found:
        shown = [
            {"code": "genuine", "message": f"delivery {one.get('key') or 'without an id'}", **one} for one in found
        ]
        columns = [Column("ID", "id", whole=True), Column("SOURCE", "source"), Column("RESULT", "code", whole=True)]
        output.table([*columns, Column("WHY", "message")], shown)
    output.note(
        f"{genuine:,} of {len(found):,} are genuine" + (": relay rejected accept takes them" if genuine else "")
    )
    return exit_code(args, genuine, len(found))


async def accept_rejected(args: argparse.Namespace, output: Output) -> int:
    if not named(args, output):
        return EXIT_CONFIG
    done: Json = {"accepted": [], "refused": []}
    async with open_rejected(settings(args), output, write=True) as requests:
        running = isinstance(requests, RemoteRejected)
        for ids in await pages(requests, args):
            step = await requests.accept(ids, stale=args.stale)
            done = {key: done[key] + step[key] for key in done}
    report(done, args, output)
    if done["accepted"] and not running:
        output.note("no relay is running: they are taken up when one starts")
    return exit_code(args, len(done["accepted"]), len(done["accepted"]) + len(done["refused"]))


def report(done: Json, args: argparse.Namespace, output: Output) -> None:
    for refused in done["refused"] if not args.all else ():
        output.note(f"{refused['id']}: {refused['code']}: {refused['message']}")
    duplicates = [one for one in done["accepted"] if one["duplicate"]]
    for one in duplicates:
        output.note(f"{one['id']}: a duplicate of {one['delivery_id']}, which was accepted before")
    if args.json:
        output.document(done)
    else:
        also = f" ({len(duplicates):,} of them duplicates)" if duplicates else ""
        left = f", {len(done['refused']):,} not genuine" if args.all and done["refused"] else ""
        left = f", {len(done['refused']):,} refused" if done["refused"] and not args.all else left
        output.line(f"{len(done['accepted']):,} accepted{also}{left}")


def named(args: argparse.Namespace, output: Output) -> bool:
    if args.all != bool(args.ids) and (args.all or not hasattr(args, "source")):
        return True
    output.note("name ids, or --all (with --source for one source): see relay rejected --help")
    return False


async def pages(requests: AnyRejected, args: argparse.Namespace) -> Sequence[list[str]]:
    """The ids to judge, so many at a time. Of all of them the oldest first: so they came."""
    if args.all:
        every = argparse.Namespace(**{name: getattr(args, name) for name in ("source",) if hasattr(args, name)})
        ids = [one["id"] for one in reversed(await listed(requests, every, 1_000_000))]
    else:
        ids = read_ids(args.ids)
    return [ids[start : start + IDS_MAX] for start in range(0, len(ids), IDS_MAX)]


def exit_code(args: argparse.Namespace, genuine: int, total: int) -> int:
    """Some of those that were named refused, or of all of them every one."""
    unsuccessful = total > 0 and genuine == 0 if args.all else genuine < total
    return EXIT_UNSUCCESSFUL if unsuccessful else EXIT_DONE
