"""The operator API over rejected requests: /api/rejected… What is answered is made by RejectedRequests."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from relay.console import ID_CHARACTERS_MAX, body_of, cursor, existing, list_filters, parameters
from relay.console_guard import SAFE_HEADERS, ApiError, answer_json
from relay.errors import REJECTIONS, nearest
from relay.rejected import IDS_MAX, RejectedRequests

WHAT: Final = "rejected request"


class IdsBody(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[str]
    stale: bool = False


def add_rejected(app: web.Application, rejected: RejectedRequests) -> None:
    """The paths, on the operator listener's application."""
    console = RejectedConsole(rejected)
    app.router.add_get("/api/rejected", console.rejected)
    app.router.add_get("/api/rejected/{id}", console.one)
    app.router.add_get("/api/rejected/{id}/body", console.body)
    app.router.add_post("/api/rejected/verify", console.verify)
    app.router.add_post("/api/rejected/accept", console.accept)


class RejectedConsole:
    """The handlers."""

    def __init__(self, rejected: RejectedRequests) -> None:
        self.requests = rejected

    async def rejected(self, http: web.Request) -> web.Response:
        asked = parameters(http, ("source", "code", "before", "limit"))
        if asked.get("code") not in (None, *REJECTIONS):
            raise ApiError("invalid_parameter", f"there is no such code{nearest(asked['code'], list(REJECTIONS))}")
        filters = list_filters(asked, [""])
        page = await self.requests.rejected(**filters)
        return answer_json({"rejected": page, "next": cursor(page, "id", filters["limit"])})

    async def one(self, http: web.Request) -> web.Response:
        parameters(http, ())
        name = http.match_info["id"]
        return answer_json(existing(await self.requests.one(name), WHAT, name))

    async def body(self, http: web.Request) -> web.Response:
        """The bytes a stranger sent: a browser must neither guess their type nor show them as a page of ours."""
        parameters(http, ())
        name = http.match_info["id"]
        body = existing(await self.requests.body(name), f"body of a {WHAT}", name)
        headers = {**SAFE_HEADERS, "Content-Disposition": "attachment", "Content-Type": "application/octet-stream"}
        return web.Response(body=body, headers=headers)

    async def verify(self, http: web.Request) -> web.Response:
        asked = check_ids(await body_of(http, IdsBody))
        return answer_json({"verified": await self.requests.verify(asked.ids, stale=asked.stale)})

    async def accept(self, http: web.Request) -> web.Response:
        asked = check_ids(await body_of(http, IdsBody))
        return answer_json(await self.requests.accept(asked.ids, stale=asked.stale))


def check_ids(asked: IdsBody) -> IdsBody:
    if not 1 <= len(asked.ids) <= IDS_MAX:
        raise ApiError("invalid_parameter", f"ids must be a list of 1 to {IDS_MAX}")
    if any(not name or len(name) > ID_CHARACTERS_MAX for name in asked.ids):
        raise ApiError("invalid_parameter", f"an id has 1 to {ID_CHARACTERS_MAX} characters")
    return asked
