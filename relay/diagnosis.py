"""Why did a signature not match? Tried backwards: which small change would make it match. Pure and total.

People paste the right secret in the wrong form, and proxies rewrite bodies and URLs; each leaves the same
`signature_mismatch`. A variant that matches was made with the provider's key, so saying so tells a forger nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Scheme, refuse
from relay.schemes.encodings import Key
from relay.schemes.kinds import BySecret
from relay.schemes.mac import Mac
from relay.schemes.places import NO_DOCUMENTS, Reader

#: Longer bodies are not judged again and again.
BODY_BYTES_MAX: Final = 64 * 1024
SECRETS_MAX: Final = 3
#: What stands before the key in secrets of several providers.
PREFIXES: Final = ("v1,whsec_", "whsec_", "whpk_", "sha256=", "Bearer ")

#: A sentence that completes "it would match …", and what it would match with.
SchemeVariant = tuple[str, Scheme, Sequence[str]]


def diagnose(
    refused: Rejected,
    scheme: Scheme,
    secrets: Sequence[str],
    request: Request,
    *,
    url: str,
    body: bytes,
    now_s: float,
    documents: Mapping[str, bytes] = NO_DOCUMENTS,
) -> Rejected:
    """The refusal itself, or a better one: wrong_secret_form, body_altered, or a mismatch that names the right URL.

    `request`, `url`, `body`, `now_s` and `documents` are those that verify refused.
    """
    if refused.code != "signature_mismatch" or len(request.body) > BODY_BYTES_MAX:
        return refused

    def matches(scheme: Scheme, secrets: Sequence[str], request: Request, url: str, body: bytes) -> bool:
        reader = Reader.of(scheme.headers, request, url, body, scheme.options, documents)
        answer = scheme.judge(reader, secrets, now_s)
        return answer is None or answer.code == "timestamp_stale"

    for words, variant, theirs in secret_variants(scheme, secrets[:SECRETS_MAX]):
        if matches(variant, theirs, request, url, body):
            return refuse("wrong_secret_form", f"it would match {words}: correct the secret's form")
    for words, altered in body_variants(request.body, body):
        if matches(scheme, secrets, request.but(body=altered), url, altered):
            return refuse("body_altered", f"it would match {words}: something before the relay changes bodies")
    for other in url_variants(url) if signs_url(scheme) else ():
        if matches(scheme, secrets, request, other, body):
            remedy = "set receiver.public_url, or the source's url"
            return replace(refused, detail=f"it would match the URL {without_values(other)}: {remedy}")
    return refused


def secret_variants(scheme: Scheme, secrets: Sequence[str]) -> Iterator[SchemeVariant]:
    """The secrets in other forms, and other readings of them as keys."""
    changed = [secret.strip() for secret in secrets]
    if changed != list(secrets):
        yield "without the white space around the secret", scheme, changed
    for prefix in PREFIXES:
        bare = [secret.removeprefix(prefix) for secret in secrets if secret.startswith(prefix)]
        if bare:
            yield f"without {prefix.strip()!r} before the secret", scheme, bare
            yield from key_variants(scheme, bare, f" without {prefix.strip()!r}")
    for prefix in ("whsec_", "Bearer ", "Basic "):
        yield f"with {prefix.strip()!r} before the secret", scheme, [prefix + secret for secret in secrets]
    yield from key_variants(scheme, secrets, "")


def key_variants(scheme: Scheme, secrets: Sequence[str], how: str) -> Iterator[SchemeVariant]:
    """A MAC's key read as text, hex or base64, whatever the preset says."""
    for inner in (
        dict.fromkeys(scheme.scheme_of(secret) for secret in secrets) if isinstance(scheme, BySecret) else [scheme]
    ):
        if not isinstance(inner, Mac):
            continue
        for encoding, words in (("utf8", "as it is"), ("hex", "read as hex"), ("base64", "read as base64")):
            key = Key(encoding)  # type: ignore[arg-type]  # the three of KeyEncoding
            if key != inner.key:
                yield f"the secret{how} {words}", replace(inner, key=key), secrets


def body_variants(wire: bytes, body: bytes) -> Iterator[tuple[str, bytes]]:
    """What the body may have been before something changed it."""
    if body != wire:
        yield "the body without its Content-Encoding", body
    yield "the body without white space at its end", body.rstrip()
    for end in (b"\n", b"\r\n"):
        yield "the body with a line break at its end", body + end
    yield "the body with CRLF line breaks", re.sub(rb"\r?\n", b"\r\n", body)
    yield "the body with LF line breaks", body.replace(b"\r\n", b"\n")
    yield from json_variants(body)


def json_variants(body: bytes) -> Iterator[tuple[str, bytes]]:
    """The same JSON, written in the ways that libraries do."""
    try:
        value = json.loads(body)
        for separators in ((",", ":"), (", ", ": ")):
            for plain in (False, True):
                text = json.dumps(value, separators=separators, ensure_ascii=plain)
                yield "the same JSON written otherwise (parsed and serialised again on the way)", text.encode()
                yield "the same JSON written otherwise (slashes escaped)", text.replace("/", "\\/").encode()
    except (ValueError, RecursionError):
        return


def signs_url(scheme: Scheme) -> bool:
    """Could the URL be what is wrong? Only of templates is it known."""
    return not isinstance(scheme, Mac) or re.search(r"\{(url|path|query)", scheme.content.text) is not None


def url_variants(url: str) -> Iterator[str]:
    """The URL as something before the relay may have been given it."""
    _, colon, rest = url.partition("://")
    if not colon:
        return
    host, slash, path = rest.partition("/")
    bare = host.partition(":")[0] if not host.startswith("[") else host
    path, question, query = path.partition("?")
    for other_scheme in ("https", "http"):
        for other_host in dict.fromkeys((host, bare)):
            for other_path in dict.fromkeys((path, path.rstrip("/"), f"{path}/")):
                for other_query in dict.fromkeys((question + query, "")):
                    variant = f"{other_scheme}://{other_host}{slash}{other_path}{other_query}"
                    if variant != url:
                        yield variant


def without_values(url: str) -> str:
    """For a log line: the query's values are a stranger's, and may be secrets."""
    base, question, query = url.partition("?")
    names = "&".join(f"{pair.partition('=')[0]}=…" for pair in query.split("&")) if question else ""
    return base + question + names
