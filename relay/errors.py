"""Every failure has a stable code. Expected ones are values, surprises are exceptions.

RelayError                  an exception with a code
├── ConfigError             the configuration is wrong: file, key, remedy (exit 2)
├── StoreUnavailable        the store cannot write or read now: 503 + Retry-After, try again
├── SandboxUnavailable      no child could run the script: ours, try again
└── LeaseLost               somebody else holds the work now: count it, drop the result

Rejected                    a value: the request is not genuine or not acceptable
TransformError              a value: the script or what it returned is wrong; the delivery dies of it
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: code → (HTTP status, what it means). The sender sees the code and the message, never the reason behind it.
REJECTIONS: Final[dict[str, tuple[int, str]]] = {
    "unknown_source": (404, "no source of this name is configured"),
    "source_disabled": (404, "the source is configured with enabled = false"),
    "method_not_allowed": (405, "webhooks are POSTed"),
    "body_too_large": (413, "the body, as sent or decoded, is over receiver.body_bytes_max"),
    "headers_too_large": (
        431,
        "more than receiver.headers_max headers, or a longer one than receiver.header_bytes_max",
    ),
    "request_malformed": (400, "the bytes are not a well-formed HTTP/1.1 request"),
    "body_timed_out": (408, "the body did not arrive within receiver.body_seconds"),
    "body_undecodable": (400, "Content-Encoding names a coding that the body is not in"),
    "unsupported_encoding": (415, "Content-Encoding is none of gzip, deflate, br, zstd, identity"),
    "environment_invalid": (400, "x-inngest-env is longer than 128 characters or holds control characters"),
    "environment_not_allowed": (403, "x-inngest-env matches none of the source's environments_allowed"),
    "signature_missing": (401, "a header or field that the provider signs with is absent or empty"),
    "signature_mismatch": (401, "no configured secret gives any signature sent"),
    "timestamp_stale": (401, "the signed time is outside the provider's tolerance"),
    "body_altered": (401, "the signature is genuine, the body is not the one it was made for: something changed it"),
    "wrong_secret_form": (401, "the configured secret would match in another form (base64, hex, without its prefix)"),
    "key_unreachable": (503, "the provider's public key could not be fetched; nothing was kept"),
    "key_unavailable": (401, "no usable key is configured for this signature"),
    "handshake_refused": (400, "what a handshake asks to be answered is too long, or not of the form it has to have"),
    "verify_token_mismatch": (403, "a handshake's verify token is not the one that is configured"),
    "pairing_closed": (403, "a handshake brought a secret, and the source has one already"),
    "overloaded": (
        503,
        "receiver.requests_max requests, 256 MiB of bodies, or all connections that open files allow, are held already",
    ),
    "store_unavailable": (503, "the store cannot take the delivery now; nothing was kept"),
    "internal": (500, "the relay met a surprise, which it logged; nothing was kept"),
}

#: code → what it means, for deliveries that died in the transform stage.
TRANSFORM_FAILURES: Final[dict[str, str]] = {
    "script_invalid": "the script does not compile, or has no function named transform",
    "script_raised": "the script threw",
    "script_timed_out": "the script used more time than sandbox.deadline_ms, or never settled its promise",
    "script_out_of_memory": "the script used more memory than sandbox.memory_bytes_max",
    "script_crashed": "the script ended its sandbox child, twice",
    "body_unreadable": "the body is not in the coding its headers name, or its form holds too many fields",
    "output_too_large": "the script returned more than sandbox.output_bytes_max",
    "too_many_events": "the script returned more than sandbox.events_per_delivery_max events",
    "internal": "the relay met a surprise with this delivery five times, which it logged",
    "invalid_event": "an event breaks one of Inngest's rules",
}

#: code → what it means, for events whose batch was not accepted (retried, kept or dead).
ATTEMPT_FAILURES: Final[dict[str, str]] = {
    "event_refused": "Inngest answered 400 for exactly this event: dead, with Inngest's message",
    "event_too_large": "Inngest answered 413 for this event alone: dead",
    "retries_exhausted": "the destination kept failing for longer than retry_hours: dead",
    "destination_stopped": "Inngest refused the key or the address (401, 403, 404, redirect): kept, tried again slowly",
    "destination_busy": "Inngest answered 429: kept, tried again after Retry-After",
    "destination_failing": "Inngest answered 5xx: kept, tried again",
    "destination_unreachable": "no connection, a reset or no answer in time: kept, tried again",
    "answer_unreadable": "the answer was not Inngest's (not JSON, or not one id per event): kept, tried again",
}


def nearest(word: str, known: Collection[str]) -> str:
    """`, did you mean …?` when one of the known words is near: for the end of a message."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""


class RelayError(Exception):
    """An exception with a stable `code`."""

    code = "internal"


class ConfigError(RelayError):
    """The configuration is wrong. Its text names the file, the key and the remedy."""

    code = "config_invalid"

    def __init__(self, message: str, *, file: Path | str | None = None, key: str | None = None) -> None:
        self.message, self.file, self.key = message, None if file is None else str(file), key
        where = ": ".join(part for part in (self.file, key) if part)
        super().__init__(f"{where}: {message}" if where else message)


class StoreUnavailable(RelayError):
    """The store could not do this now and has changed nothing; the same call may work later."""

    code = "store_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SandboxUnavailable(RelayError):
    """The script was not judged: no child, or one that was killed or starved. Try again."""

    code = "sandbox_unavailable"


class LeaseLost(RelayError):
    """The claim has run out or was taken over; the store has changed nothing."""

    code = "lease_lost"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a request was not taken: `code` is a key of REJECTIONS, `message` is fit for the sender.

    `detail` is for the operator only (it may say more than a stranger should learn), and so is `skew_seconds`: how old
    the signed time was, negative when it lies ahead. `kept_as` is its id among the rejected requests, if it is there.
    """

    code: str
    message: str
    detail: str = ""
    skew_seconds: float | None = None
    kept_as: str | None = None

    @property
    def status(self) -> int:
        return REJECTIONS[self.code][0]


@dataclass(frozen=True, slots=True)
class TransformError:
    """Why a script gave no events: `code` is a key of TRANSFORM_FAILURES; line and column count from 1."""

    code: str
    message: str
    line: int | None = None
    column: int | None = None
    stack: str = ""
