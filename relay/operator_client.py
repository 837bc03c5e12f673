"""The command line's side of HTTP: one exchange at a time, and a running relay's operator API as `RemoteRecords`.

A command makes a few exchanges and ends. Headers go out exactly as they were signed.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from relay.config import Operator
from relay.errors import RelayError
from relay.models import RawHeaders
from relay.records import Json

#: Listening on "every address" is reached by its loopback.
EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, never bound
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 60.0
AUTO_HEADERS: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class Unreachable(RelayError):
    """Nobody answers at the address."""

    code = "unreachable"


class Refused(RelayError):
    """The operator API said no. `status` and `code` are its answer's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


async def exchange(
    method: str, url: str, headers: RawHeaders = (), body: bytes = b"", *, seconds: float = ANSWER_SECONDS
) -> HttpAnswer:
    """One request and its answer: no header but these (and Host, Content-Length), no redirect followed, no proxy asked.

    Raises Unreachable when there is no answer.
    """
    named = [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in headers]
    timeout = aiohttp.ClientTimeout(total=seconds, connect=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False, skip_auto_headers=AUTO_HEADERS) as session,
            session.request(
                method, URL(url, encoded=True), headers=named, data=body or None, allow_redirects=False
            ) as answer,
        ):
            shown = [(str(name), value) for name, value in answer.headers.items()]
            return HttpAnswer(answer.status, answer.reason or "", shown, await answer.read())
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unreachable(f"{url.partition('?')[0]} does not answer: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "there is no such host"
    if isinstance(error, aiohttp.ClientOSError) and error.errno == errno.ECONNREFUSED:
        return "nothing listens there (is the relay running?)"
    if isinstance(error, aiohttp.ClientOSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def base_url(host: str, port: int) -> str:
    """Where a listener configured like this can be reached from the same machine."""
    name = EVERY_ADDRESS.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


class RemoteRecords:
    """The same calls as `Records`, answered by a running relay. Raises Unreachable and Refused."""

    def __init__(self, settings: Operator) -> None:
        self.base = base_url(settings.host, settings.port)
        self.headers: RawHeaders = ((b"accept", b"application/json"),)
        if settings.token:
            self.headers += ((b"authorization", f"Bearer {settings.token}".encode()),)

    async def answers(self) -> bool:
        """Is there a relay at the address? Raises Refused when something is there that does not let us in."""
        try:
            await self.ask("GET", "/api/stats")
        except Unreachable:
            return False
        return True

    async def stats(self) -> Json:
        return await self.ask("GET", "/api/stats")

    async def deliveries(self, **filters: Any) -> list[Json]:
        found: list[Json] = (await self.ask("GET", "/api/deliveries", query=filters))["deliveries"]
        return found

    async def delivery(self, delivery_id: str) -> Json | None:
        return await self.one(f"/api/deliveries/{quote(delivery_id, safe='')}")

    async def body(self, delivery_id: str) -> bytes | None:
        answer = await self.request("GET", f"/api/deliveries/{quote(delivery_id, safe='')}/body")
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status != HTTPStatus.OK:
            raise refused(answer, self.base)
        return answer.body

    async def events(self, **filters: Any) -> list[Json]:
        found: list[Json] = (await self.ask("GET", "/api/events", query=filters))["events"]
        return found

    async def event(self, ref: str) -> Json | None:
        return await self.one(f"/api/events/{quote(ref, safe='')}")

    async def replay(self, ids: Sequence[str], *, again: bool = False, environment: str | None = None) -> Json:
        asked = {"ids": list(ids), "again": again, "environment": environment}
        return await self.ask("POST", "/api/replay", body=asked)

    async def prune(self, before_ms: int) -> int:
        pruned: int = (await self.ask("POST", "/api/prune", body={"before_ms": before_ms}))["pruned"]
        return pruned

    async def secrets(self, *, now_ms: int, source: str | None = None) -> Json:
        """As the relay's own clock says."""
        return await self.ask("GET", "/api/secrets", query={"source": source})

    async def open_pairing(self, source: str, *, minutes: int, now_ms: int) -> Json:
        return await self.ask("POST", "/api/secrets/open", body={"source": source, "minutes": minutes})

    async def forget_secrets(self, source: str, secret_id: int | None = None) -> int:
        asked = {"source": source, "id": secret_id}
        forgotten: int = (await self.ask("POST", "/api/secrets/forget", body=asked))["forgotten"]
        return forgotten

    async def close(self) -> None:
        """Nothing is kept open between calls."""

    async def one(self, path: str) -> Json | None:
        try:
            return await self.ask("GET", path)
        except Refused as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def ask(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Json | None = None
    ) -> Json:
        """One JSON document for another. Raises Refused with the API's own code and message."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = path + (f"?{urlencode(given)}" if given else "")
        answer = await self.request(method, target, b"" if body is None else json.dumps(body).encode())
        if answer.status != HTTPStatus.OK:
            raise refused(answer, self.base)
        try:
            document = json.loads(answer.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Refused(answer.status, "not_a_relay", f"what answers at {self.base} is no relay: check operator.port")
        return document

    async def request(self, method: str, target: str, body: bytes = b"") -> HttpAnswer:
        headers = self.headers + (((b"content-type", b"application/json"),) if method == "POST" else ())
        return await exchange(method, self.base + target, headers, body)


class RemoteRejected:
    """The same calls as `RejectedRequests`, answered by a running relay. Raises Unreachable and Refused."""

    def __init__(self, remote: RemoteRecords) -> None:
        self.remote = remote

    async def rejected(self, **filters: Any) -> list[Json]:
        found: list[Json] = (await self.remote.ask("GET", "/api/rejected", query=filters))["rejected"]
        return found

    async def one(self, rejected_id: str) -> Json | None:
        return await self.remote.one(f"/api/rejected/{quote(rejected_id, safe='')}")

    async def body(self, rejected_id: str) -> bytes | None:
        answer = await self.remote.request("GET", f"/api/rejected/{quote(rejected_id, safe='')}/body")
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status != HTTPStatus.OK:
            raise refused(answer, self.remote.base)
        return answer.body

    async def verify(self, ids: Sequence[str], *, stale: bool = False) -> list[Json]:
        asked = {"ids": list(ids), "stale": stale}
        found: list[Json] = (await self.remote.ask("POST", "/api/rejected/verify", body=asked))["verified"]
        return found

    async def accept(self, ids: Sequence[str], *, stale: bool = False) -> Json:
        return await self.remote.ask("POST", "/api/rejected/accept", body={"ids": list(ids), "stale": stale})


def refused(answer: HttpAnswer, base: str) -> Refused:
    """The operator API's refusal; an answer in any other form comes from something else."""
    try:
        error = json.loads(answer.body)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        text = f"what answers at {base} is no relay (HTTP {answer.status}): check operator.host and operator.port"
        return Refused(answer.status, "not_a_relay", text)
    if code == "unauthorized":
        message = f"the relay at {base} does not take this configuration's operator.token"
    return Refused(answer.status, code, message)
