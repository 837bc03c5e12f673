"""The receiver's HTTP: from aiohttp's request to ours, and from an outcome to the answer."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, TypeAlias

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, HttpProcessingError
from aiohttp.http_exceptions import LineTooLong

from relay.connection import TooManyConnections
from relay.errors import Rejected, StoreUnavailable
from relay.handshakes import HandshakeAnswer
from relay.models import Accepted, Request
from relay.sources import RunningSource

ACCEPTED_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: "

Answer: TypeAlias = Accepted | HandshakeAnswer | Rejected


def to_request(http: web.Request, body: bytes) -> Request:
    path, _, query = target(http).partition("?")
    return Request(http.method, path, query, tuple(http.raw_headers), body)


def target(http: web.Request) -> str:
    """Path and query as they were sent. A request that names the whole URL, as to a proxy, means the same by it."""
    sent = http.raw_path
    return sent if sent.startswith("/") else re.sub(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?]*", "", sent)


def unstorable(error: StoreUnavailable) -> Rejected:
    return Rejected("store_unavailable", "the relay cannot store this now, send it again", str(error))


def unreadable(error: BaseException | None) -> Rejected:
    """What is wrong with bytes that the parser refused. Its text may quote them, except in a first line of several."""
    if isinstance(error, TooManyConnections):
        return Rejected("overloaded", "too many connections at once, send it again", str(error))
    if isinstance(error, LineTooLong) or "Too many headers" in str(error):
        return Rejected("headers_too_large", "there are too many headers, or one of them or the URL is too long")
    if isinstance(error, HttpProcessingError):
        line, several, _ = error.message.partition("\n")
        detail = line.rstrip(":") if several else type(error).__name__
        return Rejected("request_malformed", "this is not a well-formed HTTP/1.1 request", detail)
    return Rejected("internal", "the relay could not handle this request, send it again")


def outcome_code(answer: Answer) -> str:
    if isinstance(answer, Rejected):
        return answer.code
    if isinstance(answer, Accepted):
        return "duplicate" if answer.duplicate else "accepted"
    return "handshake"


def respond(answer: Answer, source: RunningSource | None = None) -> web.Response:
    """The HTTP form of an outcome; these bodies are part of the contract, but for providers that want their own."""
    if isinstance(answer, Accepted):
        wanted = source.preset.answer if source else None
        if wanted is None:
            return web.json_response({"id": answer.id, "status": outcome_code(answer)})
        return web.Response(status=wanted.status, headers=dict(wanted.headers), body=wanted.body)
    if isinstance(answer, HandshakeAnswer):
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    if answer.status == 401 and source and source.preset.answer and source.preset.answer.refusals_empty:
        return web.Response(status=401)
    response = web.json_response({"error": {"code": answer.code, "message": answer.message}}, status=answer.status)
    if answer.status == 405:
        response.headers["Allow"] = ", ".join(sorted(source.methods)) if source else "POST"
    if answer.status in (408, 413, 431) or answer.code == "request_malformed":
        response.force_close()  # the rest is not read
    if answer.status == 503:
        response.headers["Retry-After"] = "5"
    return response


def accepted_bytes(answer: Accepted, now_s: int, *, last: bool = False) -> bytes:
    """`respond` and `response_bytes` for the commonest answer; a test compares."""
    before, after = around_id(answer.duplicate, len(answer.id), last, now_s)
    return before + answer.id.encode() + after


@lru_cache(maxsize=8)
def around_id(duplicate: bool, id_bytes: int, last: bool, now_s: int) -> tuple[bytes, bytes]:
    """What stands before and after the id in such an answer, the same for a second."""
    begin, end = b'{"id": "', b'", "status": "%b"}' % (b"duplicate" if duplicate else b"accepted")
    length = len(begin) + id_bytes + len(end)
    lines = [f"Date: {rfc822_formatted_time()}", f"Server: {SERVER_SOFTWARE}", *(["Connection: close"] if last else [])]
    head = b"%b%d\r\n%b\r\n\r\n" % (ACCEPTED_HEAD, length, "\r\n".join(lines).encode())
    return head + begin, end


def response_bytes(response: web.Response, *, last: bool) -> bytes:
    """The response as aiohttp would write it on a connection that stays, or for the last time."""
    body = response.body if isinstance(response.body, bytes) else b""
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if response.status != 204:
        lines.append(f"Content-Length: {len(body)}")
    if "Content-Type" not in response.headers and body:
        lines.append("Content-Type: application/octet-stream")
    lines += [f"Date: {rfc822_formatted_time()}", f"Server: {SERVER_SOFTWARE}"]
    lines += ["Connection: close"] if last else []
    return "\r\n".join([*lines, "", ""]).encode() + body
