"""From a request as it came to what it is: a delivery, a handshake with its answer, or rejected. No HTTP in here.

`Judge.judge` is the main path: decode, handshake, keys, verify, handshake, environment.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from relay.bodies import decode_body
from relay.budget import Budget
from relay.config import Receiver as ReceiverSettings
from relay.config import environment_is_valid
from relay.diagnosis import diagnose
from relay.errors import Rejected
from relay.handshakes import HandshakeAnswer, answer_signed, answer_unsigned, pairing_closed
from relay.ids import new_id
from relay.keys import KeyResolver
from relay.models import Delivery, Request
from relay.plain import Plain
from relay.schemes.base import Scheme
from relay.schemes.places import NO_DOCUMENTS, NONE_SEVERAL, Reader, collect, first_id
from relay.sources import RunningSource, plain_url
from relay.stores.base import Store
from relay.stores.pen import Pen, RejectedRequest
from relay.verify import Verified, Vouches, verify, voucher, wanted

ENVIRONMENT_NAME: Final = "x-inngest-env"
ENVIRONMENT_BYTES: Final = ENVIRONMENT_NAME.encode()
ENCODING_NAME: Final = b"content-encoding"
#: A flood of forgeries is refused without asking why each of them is wrong.
DIAGNOSES_PER_SECOND: Final = 20.0
#: … and a flood at one source leaves some for the others.
DIAGNOSES_PER_SECOND_OF_SOURCE: Final = 5.0
#: One that takes longer than this costs the more of them: nobody can keep the relay busy with them, whatever they send.
DIAGNOSIS_SECONDS: Final = 0.01

Judgement: TypeAlias = Delivery | HandshakeAnswer | Rejected


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to one source, read and decoded: all that judging needs."""

    source: RunningSource
    secrets: tuple[str, ...]
    request: Request
    url: str
    body: bytes
    now_ms: int


@dataclass(frozen=True, slots=True)
class Usual:
    """What is the same for every request to a source: who vouches, which headers are read, what URL it has (for the few
    who ask), whether a POST may be a handshake.
    """

    source: RunningSource
    scheme: Scheme
    headers: frozenset[bytes]
    url_of: Callable[[Request], str]
    vouches: Vouches
    shakes_hands: bool


class Judge:
    """Holds what judging a request needs beside the request."""

    def __init__(
        self, store: Store, keys: KeyResolver, pen: Pen, settings: ReceiverSettings, clock_ms: Callable[[], int]
    ) -> None:
        self.store, self.keys, self.pen = store, keys, pen
        self.settings, self.clock_ms = settings, clock_ms
        self.diagnoses = Budget(2 * DIAGNOSES_PER_SECOND, DIAGNOSES_PER_SECOND)
        self.diagnoses_of: dict[str, Budget] = {}
        self.usual: dict[str, Usual] = {}

    def judge_usual(self, source: RunningSource, plain: Plain, delivery_id: str, now_ms: int) -> Delivery | None:
        """`judge` for a POST that nothing is unusual about, at once; None: it is for `judge` to say."""
        usual = self.usual.get(source.name)
        if usual is None or usual.source is not source:
            usual = self.usual[source.name] = self.find_usual(source)
        scheme, request, named, several = usual.scheme, plain.request, plain.named, NONE_SEVERAL
        if named is None:
            named, several = collect(usual.headers, request.headers)
        if several or ENCODING_NAME in named:
            return None
        reader = Reader(request, usual.url_of, request.body, scheme.options, NO_DOCUMENTS, named)
        if usual.shakes_hands and self.is_handshake(source, request, reader.url):
            return None
        if not usual.vouches(reader, self.now_s(now_ms)):
            return None
        asks = request.query or ENVIRONMENT_BYTES in named
        environment = environment_asked(request, source) if asks else None
        if isinstance(environment, Rejected):
            return None
        return Delivery(delivery_id, source.name, first_id(scheme.delivery_id, reader), now_ms, request, environment)

    def find_usual(self, source: RunningSource) -> Usual:
        preset, settings = source.preset, source.settings
        no_usual = preset.keeps_secrets or not settings.enabled
        vouches = nobody if no_usual else voucher(preset.scheme, settings.secrets)
        shakes_hands = any(handshake.method == "POST" for handshake in preset.handshakes)
        headers = preset.scheme.headers | {ENCODING_NAME, ENVIRONMENT_BYTES}
        url_of = partial(plain_url, self.settings.public_url, source)
        return Usual(source, preset.scheme, headers, url_of, vouches, shakes_hands)

    def is_handshake(self, source: RunningSource, request: Request, url: str) -> bool:
        preset, secrets, body = source.preset, source.settings.secrets, request.body
        answers = (answer_unsigned, answer_signed)
        return any(answer(preset, request, url=url, body=body, secrets=secrets) is not None for answer in answers)

    async def judge(self, source: RunningSource, request: Request, url: str) -> Judgement:
        """The stage's main path after reading. A handshake's answer is given only when all it asks for is done."""
        body = decode_body(request.headers, request.body, self.settings.body_bytes_max)
        if isinstance(body, Rejected):
            return body
        asked = Asked(source, await self.secrets_of(source), request, url, body, self.clock_ms())
        handshake = answer_unsigned(source.preset, request, url=url, body=body, secrets=asked.secrets)
        if handshake is not None:
            return await self.shake_hands(asked, handshake)
        if request.method not in ("POST", *source.preset.methods):
            return Rejected("method_not_allowed", f"{request.method} is not a webhook: POST it")
        verified = await self.verify(asked)
        if isinstance(verified, Rejected):
            return verified
        handshake = answer_signed(source.preset, request, url=url, body=body, secrets=asked.secrets)
        if handshake is not None:
            return await self.shake_hands(asked, handshake)
        environment = environment_asked(request, source)
        if isinstance(environment, Rejected):
            return environment
        return Delivery(new_id(), source.name, verified.key, asked.now_ms, request, environment)

    async def verify(self, asked: Asked) -> Verified | Rejected:
        """Genuine, or why not: the cause is looked for, and the request kept for a person to look at."""
        verified, documents = await self.verify_with_keys(asked.source.preset.scheme, asked)
        if isinstance(verified, Verified) or verified.status == 503:
            return verified
        refused = self.diagnosed(asked, verified, documents)
        rejected = RejectedRequest(
            id=new_id(),
            source=asked.source.name,
            received_ms=asked.now_ms,
            url=asked.url,
            code=refused.code,
            detail=refused.detail,
            request=asked.request,
            skew_seconds=refused.skew_seconds,
        )
        return replace(refused, kept_as=rejected.id) if self.pen.keep(rejected) else refused

    async def verify_with_keys(self, scheme: Scheme, asked: Asked) -> tuple[Verified | Rejected, dict[str, bytes]]:
        """The verdict, and the documents it needed: fetched only for a request that nothing else is wrong with."""
        secrets, request, url, body = asked.secrets, asked.request, asked.url, asked.body
        now_s = self.now_s(asked.now_ms)
        verified = verify(scheme, secrets, request, url=url, body=body, now_s=now_s)
        if isinstance(verified, Verified) or verified.code != "key_unreachable":
            return verified, {}
        documents = await self.keys.documents(wanted(scheme, request, url=url, body=body, secrets=secrets))
        return verify(scheme, secrets, request, url=url, body=body, now_s=now_s, documents=documents), documents

    def diagnosed(self, asked: Asked, refused: Rejected, documents: Mapping[str, bytes]) -> Rejected:
        """The refusal with its cause, unless many were looked for lately. What it costs is taken off the budgets."""
        own = self.diagnoses_of.setdefault(
            asked.source.name, Budget(DIAGNOSES_PER_SECOND, DIAGNOSES_PER_SECOND_OF_SOURCE)
        )
        if not (own.take() and self.diagnoses.take()):
            return refused
        started = time.thread_time()
        found = diagnose(
            refused,
            asked.source.preset.scheme,
            asked.secrets,
            asked.request,
            url=asked.url,
            body=asked.body,
            now_s=self.now_s(asked.now_ms),
            documents=documents,
        )
        for budget in (own, self.diagnoses):
            budget.charge((time.thread_time() - started) / DIAGNOSIS_SECONDS)
        return found

    def now_s(self, now_ms: int) -> float:
        """The time that signatures are judged at: the clock's, or the one that tests configure."""
        return now_ms / 1000 if self.settings.clock_s is None else self.settings.clock_s

    async def secrets_of(self, source: RunningSource) -> tuple[str, ...]:
        """Those of the configuration, and those that came in a handshake."""
        configured = source.settings.secrets
        return (*configured, *await self.store.kept_secrets(source.name)) if source.preset.keeps_secrets else configured

    async def shake_hands(self, asked: Asked, handshake: HandshakeAnswer | Rejected) -> HandshakeAnswer | Rejected:
        """Do what the handshake needs before it is answered: keep its secret, visit its URL."""
        if isinstance(handshake, Rejected):
            return handshake
        if handshake.keeps is not None:
            refused = await self.keep_secret(asked, handshake.keeps)
            if refused is not None:
                return refused
        if handshake.confirms is not None and not await self.keys.confirm(handshake.confirms):
            return Rejected("key_unreachable", "the subscription could not be confirmed now, send it again")
        return handshake

    async def keep_secret(self, asked: Asked, secret: str) -> Rejected | None:
        """Durable when it returns None. The first one is believed; more, only while an operator lets them in."""
        source = asked.source
        configured = bool(source.settings.secrets)
        kept = await self.store.keep_secret(source.name, secret, asked.now_ms, configured=configured)
        return None if kept else pairing_closed(source.name)


def nobody(reader: Reader, now_s: float) -> bool:
    """Vouches for nothing: for sources that are disabled, or whose secrets have to be asked for."""
    return False


def environment_asked(request: Request, source: RunningSource) -> str | Rejected | None:
    """The branch environment that the request asks for: the header, else the query parameter; None for neither."""
    asked = request.header(ENVIRONMENT_NAME) or query_value(request.query, ENVIRONMENT_NAME)
    if not asked:
        return None
    if not environment_is_valid(asked):
        return Rejected("environment_invalid", "x-inngest-env must be 1 to 128 printable ASCII characters")
    if not any(fnmatch.fnmatchcase(asked, pattern) for pattern in source.settings.environments_allowed):
        return Rejected("environment_not_allowed", f"the source {source.name} takes no deliveries for this environment")
    return asked


def query_value(query: str, name: str) -> str | None:
    """The first value of a query parameter whose name is `name` in any case."""
    if not query:
        return None
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=1000)
    except ValueError:  # more fields than any provider sends: there is nothing to route by
        return None
    return next((value for key, value in pairs if key.lower() == name), None)
