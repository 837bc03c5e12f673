"""The providers' own libraries as a second opinion: what we sign they must believe, and what they refuse so must we."""

from __future__ import annotations

import importlib
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from relay.models import Request
from relay.presets import load_preset
from relay.verify import Scheme, sign
from tests.support.requests import URL, code, judge, request_to

#: What both say of one request.
BELIEVED, REFUSED = "both believe it", "both refuse it"
ONLY_WE, ONLY_THEY = "only we believe it", "only the library believes it"
#: JSON, since most libraries parse what they have verified: plain, beyond ASCII, and with the white space of a sender.
BODIES = [
    '{"type":"hello","id":"evt_1","events":[]}',
    '{"name":"Zoë ☃ 🚀","esc":"caf\\u00e9 \\/","events":[]}',
    '{ "a" : 1.0,\r\n\t"events": [ ] }\r\n',
]
#: So much beyond the tolerance, or within it, that the seconds a test takes do not matter.
MARGIN_S = 30.0


def oracle(name: str) -> Any:
    """The library's module. The extra `oracles` brings them all; one that is missing skips on a laptop, fails in CI."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # braintree uses what it has deprecated itself
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        reason = f'{name} is not installed (pip install -e ".[dev,oracles]"): {error}'
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def accepts(call: Callable[[], Any], *refusals: type[Exception]) -> bool:
    """Did a library that answers False, or raises one of these, accept? Any other is a mistake of the test."""
    try:
        return call() is not False
    except refusals:
        return False


@dataclass(frozen=True)
class Sent:
    """A request as the libraries want it: text, and headers by their names in lower case."""

    request: Request
    secret: str
    url: str = URL

    @property
    def body(self) -> bytes:
        return self.request.body

    @property
    def text(self) -> str:
        return self.request.body.decode()

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.request.headers}

    def header(self, name: str) -> str:
        return self.headers[name.lower()]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A preset and the library that judges what we sign. `past` and `future` are the seconds that both tolerate.

    `secret` is what a source is configured with, `other` another that is not the sender's; `sign_with` the private key
    where `secret` is a public one. `expect` is what differs from the rule, with the reason beside it.
    """

    preset: str
    secret: str
    other: str
    says: Callable[[Sent], bool]
    sign_with: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    past: float | None = None
    future: float | None = None
    expect: Mapping[str, str] = field(default_factory=dict)

    def expected(self) -> dict[str, str]:
        rule = {"as signed": BELIEVED, "another body": REFUSED, "another secret": REFUSED}
        rule |= {} if self.past is None else {"too old": REFUSED}
        rule |= {} if self.future is None else {"too early": REFUSED}
        return rule | dict(self.expect)

    def found(self, body: str | bytes) -> dict[str, str]:
        """What both say of the body as we sign it, and of what may not pass for that."""
        now = time.time()
        sent = self.signed(body, now)
        changed = replace(sent, request=sent.request.but(body=sent.body + b" "))
        found = {"as signed": sent, "another body": changed, "another secret": replace(sent, secret=self.other)}
        if self.past is not None:
            found["too old"] = self.signed(body, now - self.past - MARGIN_S)
        if self.future is not None:
            found["too early"] = self.signed(body, now + self.future + MARGIN_S)
        return {name: self.both(what, now) for name, what in found.items()}

    @property
    def scheme(self) -> Scheme:
        return replace(load_preset(self.preset).scheme, options=self.options)

    def signed(self, body: str | bytes, now_s: float) -> Sent:
        raw = body.encode() if isinstance(body, str) else body
        bare = request_to(URL, {"Content-Type": self.content_type}, raw)
        key = self.sign_with or self.secret
        return Sent(sign(self.scheme, key, bare, url=URL, now_s=now_s, delivery_id="id_1"), self.secret)

    def both(self, sent: Sent, now_s: float) -> str:
        ours = self.we_say(sent, now_s) == "verified"
        theirs = self.says(sent)
        if ours == theirs:
            return BELIEVED if ours else REFUSED
        return ONLY_WE if ours else ONLY_THEY

    def we_say(self, sent: Sent, now_s: float) -> str:
        return code(judge(self.scheme, [sent.secret], sent.request, sent.url, now_s))
