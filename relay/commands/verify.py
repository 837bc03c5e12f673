"""`relay verify`: is a saved request genuine, and why not? And whole files of vectors."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from relay.bodies import decode_body
from relay.commands.access import secrets_of
from relay.commands.arguments import Commands, add_command, add_json
from relay.commands.output import EXIT_DONE, EXIT_UNSUCCESSFUL, Output
from relay.commands.send import find_source
from relay.commands.settings import settings
from relay.config import Keys
from relay.diagnosis import diagnose
from relay.errors import ConfigError, Rejected
from relay.keys import KeyResolver
from relay.masking import HIDDEN
from relay.presets import GENERIC, Preset, preset_for, secret_problems
from relay.saved import SignedRequest, read_saved
from relay.schemes.encodings import read_time
from relay.telemetry import Telemetry
from relay.vectors import judge_vectors, read_vectors
from relay.verify import Step, Verified, explain, wanted

TEXT: Final = """\
Say whether a saved request is genuine, and why, step by step: what was signed, with what, and what differed.

REQUEST is a file: a signed request as JSON ({"method", "url", "headers", "body", "now"}), what `relay deliveries show
ID --json` and `relay rejected show ID --json` print, a case for `relay transform`, or the HTTP request as text (POST
/in/x HTTP/1.1, headers, an empty line, body). The rules come from a source of the configuration (--source) or from
--provider and --secret.

--vectors FILE judges a whole file of signed requests, prints each disagreement, and at the end "N of M as expected"."""


def register(commands: Commands) -> None:
    parser = add_command(commands, "verify", run, "say whether a saved request is genuine, and why", TEXT)
    parser.add_argument("request", metavar="REQUEST", nargs="?", help="the saved request")
    parser.add_argument("--source", metavar="NAME", help="judge as this source of the configuration does")
    parser.add_argument("--provider", metavar="NAME", help="judge by this preset, with --secret")
    parser.add_argument("--secret", metavar="TEXT", action="append", default=[], help="a secret; several may be given")
    parser.add_argument("--secret-file", metavar="FILE", help="a secret as the whole text of a file")
    parser.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], type=pair, help="a key of the scheme"
    )
    parser.add_argument("--url", metavar="URL", help="the URL that the provider was given (the one in the request)")
    parser.add_argument("--at", metavar="TIME", type=moment, help="judge at this time: unix seconds, or ISO 8601")
    parser.add_argument("--fetch-keys", action="store_true", help="fetch public keys from the provider where needed")
    parser.add_argument("--vectors", metavar="FILE", help="judge a file of signed requests with expected verdicts")
    add_json(parser)


def pair(value: str) -> tuple[str, str | float | bool]:
    """A key of [sources.NAME.scheme] and its value: most are texts."""
    name, equals, text = value.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{value!r} must be NAME=VALUE")
    if name == "basic" and text in ("true", "false"):
        return name, text == "true"
    return (name, float(text)) if name == "tolerance_seconds" and text.isdigit() else (name, text)


def moment(value: str) -> float:
    """Unix seconds from seconds, or from ISO 8601."""
    found = read_time(value.encode(), "s" if value.isdigit() else "iso")
    if found is None:
        raise argparse.ArgumentTypeError(f"{value!r} must be unix seconds, or a time like 2026-01-31T12:00:00Z")
    return found


async def run(args: argparse.Namespace, output: Output) -> int:
    if args.vectors is not None:
        return verify_vectors(args, output)
    if args.request is None:
        raise ConfigError("name a saved request, or --vectors FILE", key="REQUEST")
    preset, secrets, public_url = await rules(args)
    signed = saved_request(Path(args.request), args, public_url)
    answer, steps = await judged(preset, secrets, signed, args)
    hints = [*secret_problems(preset, secrets), *hidden_parts(signed)]
    return report(preset, hints, answer, steps, args, output)


def verify_vectors(args: argparse.Namespace, output: Output) -> int:
    judged = judge_vectors(read_vectors(Path(args.vectors)))
    wrong = [one for one in judged if not one.agrees]
    agreed = len(judged) - len(wrong)
    if args.json:
        shown = [{"id": one.id, "expected": one.expected, "answer": one.answer} for one in wrong]
        output.document({"vectors": len(judged), "as_expected": agreed, "disagreements": shown})
    else:
        for one in wrong:
            output.line(f"{one.id}: expected {one.expected}, judged {one.answer}")
        output.line(f"{agreed} of {len(judged)} as expected")
    return EXIT_UNSUCCESSFUL if wrong else EXIT_DONE


async def rules(args: argparse.Namespace) -> tuple[Preset, tuple[str, ...], str | None]:
    """The preset, the secrets, and the URL that a source says it has."""
    extra = tuple(args.secret)
    if args.secret_file:
        extra += (read_secret(Path(args.secret_file)),)
    if (args.source is None) == (args.provider is None):
        raise ConfigError("say which rules: --source NAME, or --provider NAME with --secret", key="--source")
    if args.provider is not None:
        return preset_named(args), extra, None
    config = settings(args, secrets_needed=True)
    source = find_source(config, args.source)
    scheme = {**source.scheme, **dict(args.option)}
    preset = preset_for(source.provider, scheme, file=config.file, key=f"sources.{args.source}")
    base = config.receiver.public_url
    secrets = extra or await secrets_of(config, args.source, preset)
    return preset, secrets, source.url or (f"{base}/in/{args.source}" if base else None)


def preset_named(args: argparse.Namespace) -> Preset:
    """By --provider and --option. A ConfigError names those, not keys of a file that there is not."""
    try:
        return preset_for(args.provider, dict(args.option), file=None, key="")
    except ConfigError as error:
        option = (error.key or "").removeprefix(".scheme.")
        raise ConfigError(error.message, key="--provider" if option == ".provider" else f"--option {option}") from None


def read_secret(path: Path) -> str:
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=path, key="--secret-file") from error


def saved_request(path: Path, args: argparse.Namespace, public_url: str | None) -> SignedRequest:
    """The request in whichever form it was saved, with the URL and time that the arguments say."""
    signed = read_saved(path)
    url = args.url or public_url
    if url:
        query = signed.request.query
        signed = replace(signed, url=url if "?" in url or not query else f"{url}?{query}")
    return signed if args.at is None else replace(signed, now_s=args.at)


async def judged(
    preset: Preset, secrets: tuple[str, ...], signed: SignedRequest, args: argparse.Namespace
) -> tuple[Verified | Rejected, list[Step]]:
    """The verdict with its steps; a refusal's cause is looked for as the receiver does."""
    request, now_s = signed.request, time.time() if signed.now_s is None else signed.now_s
    body = decode_body(request.headers, request.body, len(request.body) * 1000 + 1_000_000)
    if isinstance(body, Rejected):
        return body, []
    documents = await fetched(preset, secrets, signed, body) if args.fetch_keys else {}
    answer, steps = explain(
        preset.scheme, secrets, request, url=signed.url, body=body, now_s=now_s, documents=documents
    )
    if isinstance(answer, Rejected):
        answer = diagnose(
            answer, preset.scheme, secrets, request, url=signed.url, body=body, now_s=now_s, documents=documents
        )
    return answer, steps


async def fetched(preset: Preset, secrets: tuple[str, ...], signed: SignedRequest, body: bytes) -> dict[str, bytes]:
    keys = KeyResolver(Keys(), Path(), Telemetry())
    try:
        return await keys.documents(wanted(preset.scheme, signed.request, url=signed.url, body=body, secrets=secrets))
    finally:
        await keys.close()


def hidden_parts(signed: SignedRequest) -> list[str]:
    """What `relay rejected show --json` did not show: with that, the verdict is not the receiver's."""
    names = [name.decode("utf-8", "replace") for name, value in signed.request.headers if HIDDEN.match(value)]
    names += ["the query"] if "=(hidden," in signed.request.query else []
    remedy = "`relay rejected verify` judges the request as it came"
    return [f"hidden in the saved request: {', '.join(names)}; {remedy}"] if names else []


def who_signed(preset: Preset) -> str:
    if preset.scheme.open:
        return "nothing is checked, and every request is taken"
    return "the signature is right" if preset.name in GENERIC else f"{preset.title} signed this request"


def report(
    preset: Preset,
    hints: list[str],
    answer: Verified | Rejected,
    steps: list[Step],
    args: argparse.Namespace,
    output: Output,
) -> int:
    """The verdict first, then how it came about."""
    genuine = isinstance(answer, Verified)
    if args.json:
        said = {"delivery_id": answer.key, "event_type": answer.event_type} if isinstance(answer, Verified) else {}
        why = {} if isinstance(answer, Verified) else {"code": answer.code, "detail": answer.detail}
        shown = [{"what": step.what, "found": step.found} for step in steps]
        output.document({"genuine": genuine, "provider": preset.name, **said, **why, "steps": shown, "hints": hints})
        return EXIT_DONE if genuine else EXIT_UNSUCCESSFUL
    print(output.paint("32" if genuine else "31", "genuine" if genuine else "not genuine"), end="", file=output.stdout)
    if isinstance(answer, Verified):
        output.line(f": {who_signed(preset)}")
        known = [("delivery id", answer.key), ("event type", answer.event_type)]
    else:
        output.line(f": {answer.code}: {answer.detail or answer.message}")
        known = []
    rows = [*((step.what, step.found) for step in steps), *known]
    if rows:
        output.line()
        output.fields(rows)
    for hint in hints:
        output.line(f"- {hint}")
    return EXIT_DONE if genuine else EXIT_UNSUCCESSFUL
