"""`relay send`: a provider's sample, signed as the provider would sign it, to a relay."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from relay.commands.access import secrets_of
from relay.commands.arguments import Commands, add_command, add_environment, add_json
from relay.commands.output import EXIT_DONE, EXIT_UNSUCCESSFUL, Output
from relay.commands.settings import settings
from relay.config import Config, Source
from relay.config_values import check_url
from relay.errors import ConfigError, nearest
from relay.models import Request
from relay.operator_client import HttpAnswer, base_url, exchange
from relay.presets import Preset, Sample, preset_for, secret_problems
from relay.records import Json
from relay.schemes.throwaway import make_pair, signing_text
from relay.verify import sign

ANSWER_CHARACTERS_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class Signing:
    """What to sign with, and where it is configured: the first of the secrets, or the private key of --key."""

    preset: Preset
    secrets: tuple[str, ...]
    private: str | None
    source: str
    file: Path | None


def register(commands: Commands) -> None:
    parser = add_command(commands, "send", send, "send a sample to a source, signed with its first secret")
    parser.add_argument("source", metavar="SOURCE", help="a source of the configuration")
    parser.add_argument("--event", metavar="NAME", help="which of the provider's samples (the first)")
    parser.add_argument("--list", action="store_true", help="list the samples there are, and send nothing")
    parser.add_argument("--body", metavar="FILE", help="send this body instead of the sample's; - reads stdin")
    parser.add_argument("--content-type", metavar="TYPE", help="the body's type (the sample's)")
    parser.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", type=header, default=[], help="one more header"
    )
    parser.add_argument(
        "--to",
        metavar="URL",
        help="where to: a webhook's URL, or a relay's address (the receiver of the configuration)",
    )
    parser.add_argument("--signed-url", metavar="URL", help="the URL that is signed, where a provider signs it")
    parser.add_argument(
        "--key", metavar="FILE", help="sign with this private key (PEM); for providers that sign with one of their own"
    )
    parser.add_argument("--id", metavar="ID", dest="delivery_id", help="the provider's delivery id (a new one)")
    add_environment(parser, "ask for this Inngest environment (x-inngest-env)")
    add_json(parser)


def header(value: str) -> tuple[bytes, bytes]:
    name, colon, text = value.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name.strip()) or not text.strip().isprintable():
        raise argparse.ArgumentTypeError(f"{value!r} must be NAME: VALUE")
    return name.strip().encode(), text.strip().encode()


async def send(args: argparse.Namespace, output: Output) -> int:
    config = settings(args, secrets_needed=not args.list)
    source = find_source(config, args.source)
    preset = preset_for(source.provider, source.scheme, file=config.file, key=f"sources.{args.source}")
    if args.list:
        return list_samples(preset, args, output)
    to, signed_url = addresses(config, args)
    delivery_id = args.delivery_id or str(uuid.uuid4())
    unsigned = build_request(preset, args, to, delivery_id)
    secrets = await secrets_of(config, args.source, preset)
    with_what = Signing(preset, secrets, private_key(args, preset, secrets), args.source, config.file)
    request = signed(with_what, unsigned, signed_url, delivery_id)
    to = urlsplit(to)._replace(query=request.query).geturl()  # signing may have put a token there
    answer = await exchange("POST", to, request.headers, request.body)
    report(answer, to, delivery_id, args, output)
    return EXIT_DONE if 200 <= answer.status < 300 else EXIT_UNSUCCESSFUL


def find_source(config: Config, name: str) -> Source:
    if name not in config.sources:
        known = list(config.sources)
        raise ConfigError(
            f"there is no source {name!r}{nearest(name, known)}; the sources are {', '.join(known) or 'none at all'}",
            file=config.file,
        )
    return config.sources[name]


def list_samples(preset: Preset, args: argparse.Namespace, output: Output) -> int:
    events = [sample.event for sample in preset.samples]
    if args.json:
        output.document(events)
    else:
        for event in events:
            output.line(event)
    return EXIT_DONE


def addresses(config: Config, args: argparse.Namespace) -> tuple[str, str]:
    """Where to send, and the URL as the receiver will take it to be."""
    path = f"/in/{args.source}"
    to = full_to(args.to, path) if args.to else base_url(config.receiver.host, config.receiver.port) + path
    public = config.receiver.public_url
    known = config.sources[args.source].url or (f"{public}{path}" if public else to)
    return to, args.signed_url or (to if args.to else known)


def full_to(url: str, path: str) -> str:
    """The whole URL of the webhook; a relay's address alone is given the source's path."""
    try:
        check_url(url.partition("?")[0])
    except ValueError as error:
        raise ConfigError(f"{error} (it is {url!r})", key="--to") from error
    parts = urlsplit(url)
    return url if parts.path.strip("/") else parts._replace(path=path).geturl()


def build_request(preset: Preset, args: argparse.Namespace, to: str, delivery_id: str) -> Request:
    """The sample (or the body that was given, under the sample's headers), not yet signed."""
    parts = urlsplit(to)
    if args.body and not preset.samples and args.event is None:
        sample = Sample(event="", content_type="application/json", headers={}, body="")
    elif not preset.samples:
        raise ConfigError(f"{preset.name} comes without samples: name a file with --body")
    else:
        sample = preset.sample(args.event)
    if args.content_type:
        sample = replace(sample, content_type=args.content_type)
    request = sample.request(parts.path or "/", now_s=time.time(), delivery_id=delivery_id)
    environment = ((b"x-inngest-env", args.env.encode()),) if args.env else ()
    return request.but(
        query=parts.query,
        headers=(*request.headers, *environment, *args.header),
        body=read_body(args.body) if args.body else request.body,
    )


def read_body(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=name, key="--body") from error


def signed(signing: Signing, request: Request, url: str, delivery_id: str) -> Request:
    if signing.preset.scheme.open:
        return request
    file, key = signing.file, f"sources.{signing.source}.secrets"
    for problem in secret_problems(signing.preset, signing.secrets[:1]):
        raise ConfigError(problem, file=file, key=key)
    if not signing.secrets and signing.private is None:
        raise ConfigError(f"the source has no secret to sign with{remedy(signing)}", file=file, key=key)
    secret, now_s = signing.private or signing.secrets[0], time.time()
    try:
        return sign(signing.preset.scheme, secret, request, url=url, now_s=now_s, delivery_id=delivery_id)
    except ValueError as error:
        if signing.private:
            raise ConfigError(f"cannot sign: {error}", key="--key") from error
        raise ConfigError(f"secrets[0] cannot sign: {error}{remedy(signing)}", file=file, key=key) from error


def remedy(signing: Signing) -> str:
    """What to do where the source alone does not say what to sign with."""
    name = signing.preset.name
    if make_pair(signing.preset.scheme) is not None:
        return f": --key FILE names one, and `relay providers key {name}` makes a pair for trying it"
    if any(option.name == "certs" for option in signing.preset.options):
        return f": --key FILE names one, and `relay providers key {name}` says how to make it"
    if signing.preset.keeps_secrets:
        return f": {signing.preset.title} sends it when the webhook is made; to try the source, set secrets = [...]"
    return ""


def private_key(args: argparse.Namespace, preset: Preset, secrets: Sequence[str]) -> str | None:
    """What to sign with in the secret's place."""
    if args.key is None:
        return None
    try:
        pem = Path(args.key).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=args.key, key="--key") from error
    return signing_text(preset.scheme, secrets, pem)


def report(answer: HttpAnswer, to: str, delivery_id: str, args: argparse.Namespace, output: Output) -> None:
    document = parsed(answer.body)
    if args.json:
        body = {"answer": document} if document is not None else {"answer_text": text_of(answer)}
        output.document({"url": to, "delivery_id": delivery_id, "http_status": answer.status, **body})
        return
    output.line(f"HTTP {answer.status} {answer.reason}".rstrip())
    output.line(json.dumps(document) if document is not None else text_of(answer))
    if document and document.get("status") == "accepted":
        output.line(f"what becomes of it: relay deliveries show {document.get('id')}")


def parsed(body: bytes) -> Json | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def text_of(answer: HttpAnswer) -> str:
    return answer.body.decode("utf-8", "replace")[:ANSWER_CHARACTERS_MAX]
