"""What is hidden of a request, and what is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.masking import masked_headers, masked_query, masked_url
from relay.presets import load_preset, preset_for
from relay.schemes.base import Scheme


def hidden(name: str, value: str = "s3cr3t-value", scheme: Scheme | None = None) -> bool:
    shown = masked_headers(((name.encode(), value.encode()),), scheme)
    return value.encode() not in shown[0][1]


def token_scheme(place: dict[str, str]) -> Scheme:
    return preset_for("token", place, file=None, key="sources.x").scheme


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "proxy-authorization",
        "Cookie",
        "X-Gitlab-Token",
        "X-Telegram-Bot-Api-Secret-Token",
        "X-Api-Key",
        "apikey",
        "X-Webhook-Secret",
        "x-password",
    ],
)
def test_headers_that_carry_a_secret_are_hidden(name: str) -> None:
    assert hidden(name)


@pytest.mark.parametrize(
    "name", ["X-Hub-Signature-256", "Stripe-Signature", "Content-Type", "X-GitHub-Delivery", "Webhook-Id", "User-Agent"]
)
def test_signatures_and_the_rest_are_shown(name: str) -> None:
    assert not hidden(name)


def test_the_place_of_the_sources_own_token_is_hidden() -> None:
    assert hidden("X-Proof", scheme=token_scheme({"header": "X-Proof"}))
    assert not hidden("X-Proof", scheme=load_preset("github").scheme)


def test_the_length_and_the_kind_stay() -> None:
    shown = masked_headers(((b"Authorization", b"Bearer abc"), (b"authorization", b"abc def"), (b"Cookie", b"")), None)
    assert [value for _, value in shown] == [b"Bearer (hidden, 3 bytes)", b"(hidden, 7 bytes)", b"(hidden, 0 bytes)"]


def test_queries_and_urls() -> None:
    assert masked_query("", None) == ""
    assert masked_query("a=1&TOKEN=x&b=&secret&client_secret=%00y&signature=zz", None) == (
        "a=1&TOKEN=(hidden,1)&b=&secret&client_secret=(hidden,4)&signature=zz"
    )
    assert masked_query("%74oken=x", None) == "%74oken=(hidden,1)"
    assert masked_query("proof=x&a=1", token_scheme({"query": "proof"})) == "proof=(hidden,1)&a=1"
    assert masked_url("https://u:p@h/in/x?token=1", None) == "https://(hidden)@h/in/x?token=(hidden,1)"
    assert masked_url("https://h/in/x@y", None) == "https://h/in/x@y"


@given(st.lists(st.tuples(st.binary(), st.binary())), st.text())
def test_nothing_makes_it_raise(headers: list[tuple[bytes, bytes]], query: str) -> None:
    shown = masked_headers(tuple(headers), None)
    assert [name for name, _ in shown] == [name for name, _ in headers]
    assert masked_query(query, None).count("&") == query.count("&")
