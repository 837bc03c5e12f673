"""Public keys that live on providers' servers: fetched, kept for a while, and never guessed.

What may be fetched was pinned before it gets here: a scheme names a document only when its URL is the provider's. Every
fetch has limits of time, size and number; a failure is an absent document, which makes the webhook a 503, so that the
provider sends it again. `KeyResolver.documents` is the main path.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from relay.budget import Budget
from relay.config import Keys
from relay.errors import ConfigError, RelayError
from relay.telemetry import Telemetry
from relay.verify import Wanted

DOCUMENT_BYTES_MAX: Final = 256 * 1024
DOCUMENTS_MAX: Final = 256
#: A document is used at least so long, whatever its server says.
FRESH_SECONDS_MIN: Final = 60.0
#: How long a fetch that failed, or a document without the key asked for, is not tried again.
PAUSE_SECONDS: Final = 5.0
#: Fetches from one host: so many at once, and one more each second. Strangers may name certificates that are not there.
BURST: Final = 20
HOSTS_MAX: Final = 256
FETCHES_AT_ONCE: Final = 8
#: Webhooks that wait for a document, together; a server that hangs must leave room in the receiver for other sources.
WAITING_MAX: Final = 400


class KeyUnreachable(RelayError):
    """The document could not be had."""

    code = "key_unreachable"


@dataclass(frozen=True, slots=True)
class Document:
    """What was fetched; times are of the monotonic clock."""

    text: bytes
    fetched: float
    fresh_until: float


class KeyResolver:
    """Documents by their names, from the cache or the network."""

    def __init__(
        self, settings: Keys, folder: Path, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings, self.telemetry, self.clock = settings, telemetry, clock
        self.tls = tls_context(settings, folder)
        self.cache: OrderedDict[str, Document] = OrderedDict()
        self.refused_until: dict[str, float] = {}
        self.running: dict[str, asyncio.Task[Document | None]] = {}
        self.budgets: dict[str, Budget] = {}
        self.slots = asyncio.Semaphore(FETCHES_AT_ONCE)
        self.waiting = 0
        self.session: aiohttp.ClientSession | None = None

    async def documents(self, wanted: Sequence[Wanted]) -> dict[str, bytes]:
        """Those of the documents that could be had, by their names. Never raises."""
        found = await asyncio.gather(*(self.document(one) for one in wanted))
        return {one.name: document.text for one, document in zip(wanted, found, strict=True) if document}

    async def document(self, wanted: Wanted) -> Document | None:
        """From the cache while it is fresh and holds what is asked for; else fetched, else what the cache has."""
        kept, now = self.kept(wanted.name), self.clock()
        if kept and (wanted.holds in kept.text or now < kept.fetched + PAUSE_SECONDS) and now < kept.fresh_until:
            return kept
        if kept and wanted.holds not in kept.text:
            kept = None  # it cannot say that there is no such key; only one that was fetched just now can
        if now < self.refused_until.get(wanted.name, 0.0) or self.waiting >= WAITING_MAX:
            return kept
        self.waiting += 1
        try:
            return await self.refreshed(wanted) or kept
        finally:
            self.waiting -= 1

    async def refreshed(self, wanted: Wanted) -> Document | None:
        """Fetched once for all who wait for it; one of them may go away."""
        task = self.running.get(wanted.name)
        if task is None:
            task = self.running[wanted.name] = asyncio.create_task(self.refresh(wanted), name="key")
            task.add_done_callback(lambda _: self.running.pop(wanted.name, None))
        return await asyncio.shield(task)

    def kept(self, name: str) -> Document | None:
        """The cached document, unless it is older than keys.cache_hours."""
        document = self.cache.get(name)
        if document is None or self.clock() > document.fetched + self.settings.cache_hours * 3600:
            return None
        self.cache.move_to_end(name)
        return document

    async def refresh(self, wanted: Wanted) -> Document | None:
        """Fetch, keep and count. A failure is said aloud, and not repeated for a while."""
        host = urlsplit(wanted.url).hostname or ""
        try:
            document = await self.fetch(wanted, host)
        except KeyUnreachable as error:
            self.refused_until = {name: until for name, until in self.refused_until.items() if until > self.clock()}
            self.refused_until[wanted.name] = self.clock() + PAUSE_SECONDS
            self.telemetry.key_fetches.labels("unreachable").inc()
            self.telemetry.log("key.unreachable", level="warning", host=host, reason=str(error))
            return None
        self.cache[wanted.name] = document
        while len(self.cache) > DOCUMENTS_MAX:
            self.cache.popitem(last=False)
        self.telemetry.key_fetches.labels("fetched").inc()
        self.telemetry.log("key.fetched", host=host, bytes=len(document.text))
        return document

    async def fetch(self, wanted: Wanted, host: str) -> Document:
        # What was there once is no stranger's invention, and its turn does not wait for theirs.
        known = wanted.name in self.cache
        ask = self.ask(wanted.url, wanted.body) if known else self.ask_within_budget(host, wanted.url, wanted.body)
        status, max_age, text = await ask
        if status != 200:
            raise KeyUnreachable(f"the answer was HTTP {status}")
        now = self.clock()
        fresh = max(FRESH_SECONDS_MIN, min(max_age, self.settings.cache_hours * 3600))
        return Document(text, now, now + fresh)

    async def confirm(self, url: str) -> bool:
        """GET a URL that the provider asked to be visited (pinned like the others); True when it answered 2xx."""
        host = urlsplit(url).hostname or ""
        try:
            status, _, _ = await self.ask_within_budget(host, url, None)
        except KeyUnreachable as error:
            self.telemetry.log("key.unreachable", level="warning", host=host, reason=str(error))
            return False
        return 200 <= status < 300

    async def ask_within_budget(self, host: str, url: str, body: bytes | None) -> tuple[int, float, bytes]:
        if not self.budget_of(host).take():
            raise KeyUnreachable("too much of this host was asked for at once")
        return await self.ask(url, body)

    def budget_of(self, host: str) -> Budget:
        """One for each host. Strangers may name many: those not asked for lately are full, and forgotten."""
        if host not in self.budgets and len(self.budgets) >= HOSTS_MAX:
            self.budgets = {name: budget for name, budget in self.budgets.items() if not budget.is_full()}
        if host not in self.budgets and len(self.budgets) >= HOSTS_MAX:
            raise KeyUnreachable("too many hosts were asked for keys at once")
        return self.budgets.setdefault(host, Budget(BURST, 1.0))

    async def ask(self, url: str, body: bytes | None) -> tuple[int, float, bytes]:
        async with self.slots:
            return await self.exchange(url, body)

    async def probe(self, host: str) -> str | None:
        """Why a host of keys cannot be reached, or None: any answer over trusted TLS is one."""
        try:
            await self.exchange(f"https://{host}/", None)
        except KeyUnreachable as error:
            return str(error)
        return None

    async def exchange(self, url: str, body: bytes | None) -> tuple[int, float, bytes]:
        """One request: status, max-age in seconds, body. No redirect, no cookies, TLS always. Raises KeyUnreachable."""
        if not url.startswith("https://"):
            raise KeyUnreachable("only https:// is asked for keys")
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self.settings.request_seconds),
                self.client().request(
                    "GET" if body is None else "POST",
                    URL(url, encoded=True),
                    data=body,
                    headers=headers,
                    ssl=self.tls,
                    proxy=self.settings.proxy,
                    allow_redirects=False,
                ) as answer,
            ):
                return answer.status, max_age(answer.headers.get("Cache-Control", "")), await read_limited(answer)
        except TimeoutError as error:
            raise KeyUnreachable(f"no answer within {self.settings.request_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise KeyUnreachable(reason_of(error)) from error

    def client(self) -> aiohttp.ClientSession:
        if self.session is None:
            self.session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self.session

    async def close(self) -> None:
        for task in list(self.running.values()):
            task.cancel()
        if self.session is not None:
            await self.session.close()


async def read_limited(answer: aiohttp.ClientResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > DOCUMENT_BYTES_MAX:
            raise KeyUnreachable(f"the answer is over {DOCUMENT_BYTES_MAX:,} bytes")
    return b"".join(chunks)


def max_age(cache_control: str) -> float:
    """Seconds; 0 without one (the least time counts then)."""
    found = re.search(r"(?:^|[,\s])max-age=(\d{1,9})", cache_control)
    return float(found[1]) if found else 0.0


def tls_context(settings: Keys, folder: Path) -> ssl.SSLContext:
    """The system's certificate authorities, or those of keys.ca_file. Raises ConfigError."""
    if settings.ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(folder / settings.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{settings.ca_file} holds no certificates: {error}", key="keys.ca_file") from error


def reason_of(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "its TLS certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved (is there a network?)"
    if isinstance(error, aiohttp.ClientOSError) and error.strerror:
        return error.strerror
    return type(error).__name__
