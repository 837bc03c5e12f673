"""Requests that ask for an answer and are no deliveries: echoes, proofs of a secret, secrets that arrive. Pure, total.

A provider sends them when its URL is saved, or now and then. What each looks like stands in the presets
(`[[handshakes]]`, read by handshake_tables). They are kept nowhere and no transform sees them.

What a stranger may have echoed is short, holds no control character, and is answered as text/plain or as JSON that it
cannot break out of, with nosniff. What would have the relay sign a stranger's text is pinned by a pattern.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from relay.errors import Rejected
from relay.handshake_tables import Digest, Handshake
from relay.models import Request
from relay.presets import Preset
from relay.schemes.encodings import ENCODE
from relay.schemes.json_values import BOM, step_into, walk, walk_slow
from relay.schemes.places import Place, Reader, Template, utf8

#: The longest value that is echoed, computed with, kept or visited.
TEXT_BYTES_MAX: Final = 4096
#: A longer body is no handshake that anybody sends unsigned: it is not taken apart before anybody vouches for it.
BODY_BYTES_MAX: Final = 64 * 1024
#: The longest secret that is kept.
SECRET_BYTES_MAX: Final = 1024

#: What the sender learns: the same for every cause.
MESSAGES: Final = {
    "handshake_refused": "this handshake is not one that the source can answer",
    "verify_token_mismatch": "the verify token is not this source's",
    "pairing_closed": "this source has its secret already",
    "key_unavailable": "this source cannot answer handshakes now",
}


@dataclass(frozen=True, slots=True)
class HandshakeAnswer:
    """What to answer, when it is done: `keeps` is a secret to be kept durably before, `confirms` a URL to GET."""

    name: str
    status: int
    headers: dict[str, str]
    body: bytes
    keeps: str | None = None
    confirms: str | None = None


def methods_of(preset_handshakes: Iterable[Handshake]) -> frozenset[str]:
    """The methods that a source of this preset takes."""
    return frozenset({"POST", *(handshake.method for handshake in preset_handshakes)})


def answer_unsigned(
    preset: Preset, request: Request, *, url: str, body: bytes, secrets: Sequence[str]
) -> HandshakeAnswer | Rejected | None:
    """The answer to a handshake that is not signed, to be looked for before verification; None when it is none."""
    if len(body) > BODY_BYTES_MAX:
        return None
    return answer(preset, request, url, body, secrets, signed=False)


def answer_signed(
    preset: Preset, request: Request, *, url: str, body: bytes, secrets: Sequence[str]
) -> HandshakeAnswer | Rejected | None:
    """The answer to a verified request that is a handshake; None when it is a delivery."""
    return answer(preset, request, url, body, secrets, signed=True)


def pairing_closed(source: str) -> Rejected:
    """For a secret that the store did not take (Store.keep_secret gave None)."""
    remedy = f"`relay secrets open {source}` lets another one in for some minutes (at most 20 are kept)"
    return refuse("pairing_closed", f"a handshake brought another secret: if you are connecting one, {remedy}")


def answer(
    preset: Preset, request: Request, url: str, body: bytes, secrets: Sequence[str], *, signed: bool
) -> HandshakeAnswer | Rejected | None:
    for handshake in preset.handshakes:
        if handshake.signed is signed and handshake.method == request.method:
            reader = Reader.of(handshake.reads, request, url, body, preset.scheme.options)
            if is_asked(handshake, reader):
                return prepare(handshake, preset, reader, secrets)
    return None


def is_asked(handshake: Handshake, reader: Reader) -> bool:
    """Is this request that handshake? When in doubt it is a delivery."""
    return (
        all(place.read(reader) == expected for place, expected in handshake.when)
        and all(place.read(reader) for place in handshake.present)
        and all(found(place, reader) == [] for place in handshake.empty)
        and all(found(place, reader) is None for place in handshake.absent)
    )


def prepare(handshake: Handshake, preset: Preset, reader: Reader, secrets: Sequence[str]) -> HandshakeAnswer | Rejected:
    """Everything checked, then everything rendered."""
    refused = refused_token(handshake, reader, secrets) or refused_text(handshake, reader)
    if refused is not None:
        return refused
    if handshake.values:
        secret = answering_secret(handshake, preset, reader, secrets)
        if secret is None:
            return refuse("key_unavailable", f"{handshake.name} is answered with a secret, and none is configured")
        for name, digest in handshake.values:
            reader.values[name] = compute(digest, reader, secret)
    keeps, confirms = text_of(handshake.keeps, reader), text_of(handshake.confirms, reader)
    if keeps is not None:
        problem = secret_problem(preset, keeps)
        if problem:
            return refuse("handshake_refused", f"{handshake.name}: {handshake.keeps} {problem}")
        keeps = None if is_one_of(keeps, secrets) else keeps
    return HandshakeAnswer(
        handshake.name, handshake.status, render_headers(handshake, reader), render(handshake, reader), keeps, confirms
    )


def refused_token(handshake: Handshake, reader: Reader, secrets: Sequence[str]) -> Rejected | None:
    """The verify token must be the option's text; without the option any of the source's secrets is it."""
    token = handshake.token
    if token is None:
        return None
    configured = reader.options.get(token.option)
    known = [configured] if isinstance(configured, str) else list(secrets)
    sent = token.place.read(reader)
    if sent and is_one_of(sent.decode("utf-8", "replace"), known):
        return None
    which = f"scheme.{token.option}" if configured else f"one of the secrets (scheme.{token.option} is not set)"
    return refuse("verify_token_mismatch", f"{handshake.name}: {token.place} is not {which}")


def refused_text(handshake: Handshake, reader: Reader) -> Rejected | None:
    """What is echoed, computed with, kept or visited must be short and harmless, and match what `allow` says."""
    for place in (*handshake.echoed, *handshake.asked, *(place for place, _ in handshake.allow)):
        problem = text_problem(place.read(reader), ascii_only=place in handshake.asked)
        if problem:
            return refuse("handshake_refused", f"{handshake.name}: {place} {problem}")
    for place, pattern in handshake.allow:
        if not pattern.fullmatch(place.read(reader) or b""):
            return refuse("handshake_refused", f"{handshake.name}: {place} is not of the form that the preset allows")
    return None


def text_problem(value: bytes | None, *, ascii_only: bool) -> str | None:
    """Why this text must not be answered, or None. `ascii_only` is for headers, secrets and URLs."""
    if not value:
        return "is absent, empty, or sent twice with different values"
    if len(value) > TEXT_BYTES_MAX:
        return f"is longer than {TEXT_BYTES_MAX:,} bytes"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "is no UTF-8"
    if any(character < " " or "\x7f" <= character < "\xa0" for character in text):
        return "holds control characters"
    return "holds what is no ASCII" if ascii_only and not text.isascii() else None


def secret_problem(preset: Preset, secret: str) -> str | None:
    """Why this cannot be a secret of the provider, or None. The sentence does not hold it."""
    if len(secret) > SECRET_BYTES_MAX or " " in secret:
        return f"is no secret: it is longer than {SECRET_BYTES_MAX:,} bytes, or holds a space"
    return preset.scheme.key_problem(secret)


def answering_secret(handshake: Handshake, preset: Preset, reader: Reader, secrets: Sequence[str]) -> str | None:
    """The one that signed the request, so that the proof is right while secrets are changed; else the first."""
    if handshake.signed and len(secrets) > 1:
        scheme = preset.scheme
        for secret in secrets:
            again = Reader.of(scheme.headers, reader.request, reader.url, reader.body, scheme.options)
            refusal = scheme.judge(again, [secret], 0.0)
            if refusal is None or refusal.code == "timestamp_stale":  # the time is judged after the signature
                return secret
    return secrets[0] if secrets else None


def compute(digest: Digest, reader: Reader, secret: str) -> bytes:
    key = utf8(secret)
    if digest.key_hash != "none":
        key = hashlib.new(digest.key_hash, key).digest()
    return ENCODE[digest.encoding](hmac.digest(key, digest.content.render(reader) or b"", digest.algorithm))


def render_headers(handshake: Handshake, reader: Reader) -> dict[str, str]:
    headers = {name: (template.render(reader) or b"").decode() for name, template in handshake.headers}
    if handshake.body is not None or handshake.json is not None:
        headers["Content-Type"] = "text/plain" if handshake.json is None else "application/json"
        headers["X-Content-Type-Options"] = "nosniff"
    return headers


def render(handshake: Handshake, reader: Reader) -> bytes:
    """The body; nothing that is echoed can end a JSON string or, where it is escaped, begin a tag."""
    if handshake.body is not None:
        text = rendered(handshake.body, reader)
        return utf8(html.escape(text)) if handshake.escape_html else utf8(text)
    if handshake.json is None:
        return b""
    shown = {name: rendered(each, reader) if isinstance(each, Template) else each for name, each in handshake.json}
    return utf8(json.dumps(shown, ensure_ascii=False, separators=(",", ":")))


def rendered(template: Template, reader: Reader) -> str:
    return (template.render(reader) or b"").decode()


def text_of(place: Place | None, reader: Reader) -> str | None:
    return None if place is None else (place.read(reader) or b"").decode()


def is_one_of(sent: str, known: Sequence[str]) -> bool:
    """Compared in constant time, with every one."""
    return sum(hmac.compare_digest(utf8(sent), utf8(each)) for each in known) > 0


def found(place: Place, reader: Reader) -> Any:
    """What stands at a place, whatever it is: a place gives texts and numbers only, JSON holds more. None: nothing."""
    kind, _, path = place.text.partition(":")
    return json_at(reader.body, path.split(".")) if kind == "json" else place.read(reader)


def json_at(body: bytes, path: Sequence[str]) -> Any:
    """The JSON value at a path, its own members not taken apart; None when there is none, or null."""
    try:
        node = walk(step_into(body.removeprefix(BOM)), path)
        value = None if node is None else step_into(node)
    except msgspec.MsgspecError:  # not JSON, or with a lone surrogate
        return walk_slow(body, path)
    except RecursionError:
        return None
    return None if value == b"null" else value


def refuse(code: str, detail: str) -> Rejected:
    return Rejected(code, MESSAGES[code], detail)
