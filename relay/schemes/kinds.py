"""The kinds that are none by themselves: by the secret's form, none at all. base.py has the list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import NEARNESS, Scheme, Vouches, refuse
from relay.schemes.places import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class BySecret(Scheme):
    """The first choice with a prefix of the secret (an empty one fits all) is that secret's only scheme."""

    choices: tuple[tuple[tuple[str, ...], Scheme], ...]

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        refusals: list[Rejected] = []
        for _, scheme in self.choices:
            theirs = [secret for secret in secrets if self.scheme_of(secret) is scheme]
            refusal = scheme.judge(reader, theirs, now_s) if theirs else None
            if theirs and refusal is None:
                return None
            refusals += [refusal] if refusal else []
        none = refuse("key_unavailable", "no secret is configured")
        return max(refusals, key=lambda refusal: NEARNESS.index(refusal.code), default=none)

    def voucher(self, secrets: Sequence[str]) -> Vouches:
        theirs = [(scheme, [each for each in secrets if self.scheme_of(each) is scheme]) for _, scheme in self.choices]
        vouchers = [scheme.voucher(found) for scheme, found in theirs if found]
        return lambda reader, now_s: any(vouches(reader, now_s) for vouches in vouchers)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        return self.scheme_of(secret).sign(secret, request, url, now_s, delivery_id)

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset[bytes]().union(*(scheme.headers for _, scheme in self.choices))

    def key_problem(self, secret: str) -> str | None:
        return self.scheme_of(secret).key_problem(secret)

    def with_tolerance(self, seconds: float) -> Scheme | None:
        choices = tuple((prefixes, scheme.with_tolerance(seconds) or scheme) for prefixes, scheme in self.choices)
        return replace(self, choices=choices)

    def scheme_of(self, secret: str) -> Scheme:
        return next(scheme for prefixes, scheme in self.choices if secret.startswith(prefixes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Scheme):
    """Anybody may send: chosen by name only, and said aloud at start."""

    open = True

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        return None

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        return request

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset()

    def key_problem(self, secret: str) -> str | None:
        return None
