"""What is judged in a verified token: that its claims are this source's, and its times now's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.errors import Rejected
from relay.schemes.base import refuse
from relay.schemes.places import Reader, Template, shown, utf8

#: A provider's clock may be this much ahead of ours.
AHEAD_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """A claim that must be one of these: texts with places (`{option:audience}`), or true or false.

    Optional: not judged while the option that it names is not set.
    """

    name: str
    expected: tuple[Template | bool, ...]
    optional: bool = False

    @property
    def headers(self) -> frozenset[bytes]:
        return frozenset[bytes]().union(*(one.headers for one in self.expected if isinstance(one, Template)))

    def judge(self, reader: Reader, claims: Mapping[str, Any]) -> Rejected | None:
        wanted = self._wanted(reader)
        if not wanted:
            no_option = f"what the claim {self.name} must be is not configured"
            return None if self.optional else refuse("key_unavailable", no_option)
        value = claims.get(self.name)
        given = value if self.name == "aud" and isinstance(value, list) else [value]
        if any(comparable(one) in wanted for one in given):
            return None
        reader.note(f"claim {self.name} should be", " or ".join(shown(one) for one in wanted))
        return refuse("signature_mismatch", f"the token's claim {self.name} is not what this source expects")

    def sample(self, reader: Reader) -> dict[str, Any]:
        """The claim as a genuine token has it; nothing for one that is not judged. Raises ValueError."""
        wanted = self._wanted(reader)
        if not wanted and not self.optional:
            raise ValueError(f"what the claim {self.name} must be is not configured")
        first = wanted[0] if wanted else None
        return {} if first is None else {self.name: first.decode() if isinstance(first, bytes) else first}

    def _wanted(self, reader: Reader) -> list[bytes | bool]:
        found = [one if isinstance(one, bool) else one.render(reader) for one in self.expected]
        return [one for one in found if one is not None]


@dataclass(frozen=True, slots=True)
class Times:
    """exp and nbf where they are, and iat: not in the future, nor older than `max_age_seconds`."""

    max_age_seconds: float | None = None
    leeway_seconds: float = 0.0

    def judge(self, reader: Reader, claims: Mapping[str, Any], now_s: float) -> Rejected | None:
        now = math.floor(now_s)  # times in whole seconds cannot be judged by a finer clock than their own
        for name in ("exp", "nbf", "iat"):
            if name not in claims or (name == "iat" and claims[name] is None):
                continue
            moment = seconds(claims[name])
            if moment is None:
                return refuse("timestamp_stale", f"the token's claim {name} is not a time")
            reader.note(f"{name}, seconds from now", f"{moment - now:+.0f}")
            if late := self._problem(name, moment - now):
                why = f"the token {late}: an old request sent again, or a wrong clock"
                return replace(refuse("timestamp_stale", why), skew_seconds=now - moment)
        return None

    def _problem(self, name: str, ahead: float) -> str | None:
        if name == "exp":
            return f"expired {-ahead:.0f} s ago" if ahead <= -self.leeway_seconds else None
        limit = self.leeway_seconds if name == "nbf" else max(self.leeway_seconds, AHEAD_SECONDS)
        if ahead > limit:
            return f"is from {ahead:.0f} s in the future ({name})"
        if name == "iat" and self.max_age_seconds is not None and -ahead > self.max_age_seconds:
            return f"is {-ahead:.0f} s old, at most {self.max_age_seconds:g} s are accepted"
        return None


def comparable(value: Any) -> bytes | bool | None:
    """A claim's value as the rules have it."""
    return utf8(value) if isinstance(value, str) else value if isinstance(value, bool) else None


def seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -1e15 < value < 1e15 else None
