"""Who may ask the operator listener, and how its answers and refusals look.

With a token every request but the health checks must carry it. Without one the listener is on loopback, and a web
page must not reach it through the operator's browser: the Host header has to be a loopback name (DNS rebinding), and
a POST has to be application/json (which a foreign page cannot send unasked).
"""

from __future__ import annotations

import hmac
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from relay.config import is_loopback
from relay.errors import StoreUnavailable
from relay.records import Json
from relay.telemetry import Telemetry

#: code → (HTTP status, what it means), for everything the operator API refuses.
API_ERRORS: Final[dict[str, tuple[int, str]]] = {
    "unauthorized": (401, "operator.token is set, and the request does not carry it"),
    "host_not_allowed": (403, "without operator.token only loopback names are served"),
    "not_found": (404, "there is no such path, delivery or event"),
    "method_not_allowed": (405, "the path exists, with another method"),
    "invalid_parameter": (400, "a query parameter or a field of the body is unknown or wrong"),
    "unsupported_content_type": (415, "a POST must be application/json"),
    "request_too_large": (413, "the body of a POST is over 512 KiB"),
    "store_unavailable": (503, "the store cannot be read or written now"),
    "internal": (500, "the relay met a surprise, which it logged"),
}
OPEN_PATHS: Final = ("/healthz", "/readyz")
REQUEST_BYTES_MAX: Final = 512 * 1024

#: What this listener shows is nobody's page and nobody's cache entry.
SAFE_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class ApiError(Exception):
    """A request that the operator API refuses; `code` is a key of API_ERRORS."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Guard:
    """Who may ask, and how a refusal looks."""

    def __init__(self, token: str | None, host: str, telemetry: Telemetry) -> None:
        self.token, self.host, self.telemetry = token or None, host, telemetry

    @web.middleware
    async def answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every refusal and every surprise becomes `{"error": {"code", "message"}}`."""
        try:
            return await handler(request)
        except ApiError as error:
            return refusal(error.code, error.message)
        except StoreUnavailable as error:
            answer = refusal("store_unavailable", str(error))
            answer.headers["Retry-After"] = str(error.retry_after_seconds)
            return answer
        except web.HTTPException as error:
            return refusal_of(error)
        except Exception as error:  # noqa: BLE001 - the operator gets an answer, the log gets the surprise
            self.telemetry.surprised("console", error)
            return refusal("internal", "the relay met a surprise; its log says more")

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_PATHS:
            self.check_caller(request)
        if request.method == hdrs.METH_POST and request.content_type != "application/json":
            raise ApiError("unsupported_content_type", "send the body as content-type: application/json")
        return await handler(request)

    def check_caller(self, http: web.Request) -> None:
        if self.token is not None:
            scheme, _, given = http.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.token.encode())
            if scheme.lower() != "bearer" or not right:
                raise ApiError("unauthorized", "send Authorization: Bearer with operator.token")
        elif not host_is_local(http.headers.get(hdrs.HOST, ""), self.host):
            raise ApiError(
                "host_not_allowed", "the Host header names no loopback address: set operator.token to allow it"
            )


def host_is_local(host_header: str, listening_on: str) -> bool:
    """Does a Host header name this machine's loopback (or the configured host itself)?"""
    host = host_header.strip().lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return bool(name) and (is_loopback(name) or name == listening_on.lower())


def answer_json(document: Json, status: int = 200) -> web.Response:
    return web.json_response(document, status=status, headers=SAFE_HEADERS)


def refusal(code: str, message: str) -> web.Response:
    answer = answer_json({"error": {"code": code, "message": message}}, API_ERRORS[code][0])
    if code == "unauthorized":
        answer.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="relay operator"'
    return answer


def refusal_of(error: web.HTTPException) -> web.Response:
    """aiohttp's own refusals in our form; a status we have no code for keeps aiohttp's answer."""
    codes = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
    if error.status not in codes:
        raise error
    answer = refusal(codes[error.status], API_ERRORS[codes[error.status]][1])
    if hdrs.ALLOW in error.headers:
        answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return answer
