"""Requests saved as JSON: what each key means, and that every mistake names the file, the key and the remedy."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from relay.cases import Case, load_case, read_case
from relay.errors import ConfigError
from relay.models import Request


def written(folder: Path, value: Any) -> Path:
    path = folder / "a.request.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def test_every_key_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "method": "PUT",
            "path": "/in/acme",
            "query": "?a=1&a=2",
            "headers": [["X-A", "1"], ["x-a", "é"]],
            "body": "naïve",
            "received_ms": 1795323600000,
        },
    )
    headers = ((b"X-A", b"1"), (b"x-a", "é".encode()))
    request = Request("PUT", "/in/acme", "a=1&a=2", headers, "naïve".encode())
    assert load_case(path) == Case(request, 1795323600000)
    assert read_case(path) == request


def test_everything_may_be_left_out(tmp_path: Path) -> None:
    assert load_case(written(tmp_path, {})) == Case(Request("POST", "/", "", (), b""), None)


@pytest.mark.parametrize("value", [{"a": "é", "b": [1, 2.5, None]}, [], "text", None, 0, False])
def test_json_becomes_the_body_with_its_content_type(tmp_path: Path, value: Any) -> None:
    request = read_case(written(tmp_path, {"json": value, "headers": {"X-A": "1"}}))
    assert json.loads(request.body) == value
    assert request.headers == ((b"Content-Type", b"application/json"), (b"X-A", b"1"))


def test_a_content_type_that_is_given_stays(tmp_path: Path) -> None:
    request = read_case(written(tmp_path, {"json": {}, "headers": {"content-TYPE": "application/x+json"}}))
    assert request.headers == ((b"content-TYPE", b"application/x+json"),)


def test_base64_holds_any_bytes(tmp_path: Path) -> None:
    body = bytes(range(256))
    assert read_case(written(tmp_path, {"body_base64": base64.b64encode(body).decode()})).body == body


@pytest.mark.parametrize(
    ("value", "key", "remedy"),
    [
        ("{", None, "is not JSON"),
        ("[" * 100_000, None, "is not JSON"),
        ("[1]", None, "one JSON object"),
        ({"header": {}}, "header", "did you mean 'headers'"),
        ({"type": "charge.succeeded", "data": {}}, "type", 'the body belongs under "json"'),
        ({"json": 1, "body": ""}, "body", "leave out all but one"),
        ({"body": {"a": 1}}, "body", 'write "json"'),
        ({"body_base64": "ä"}, "body_base64", "is not base64"),
        ({"body_base64": "YQ"}, "body_base64", "is not base64"),
        ({"headers": {"X": 1}}, "headers", "names and values are text"),
        ({"headers": [["X"]]}, "headers", '["Name", "value"]'),
        ({"headers": None}, "headers", "must be"),
        ({"method": 1}, "method", "must be a text"),
        ({"path": "in"}, "path", "start with /"),
        ({"path": "/in?a=1"}, "path", '"query"'),
        ({"received_ms": 1.5}, "received_ms", "milliseconds"),
        ({"received_ms": True}, "received_ms", "milliseconds"),
        ({"received_ms": -1}, "received_ms", "milliseconds"),
    ],
)
def test_a_mistake_names_file_key_and_remedy(tmp_path: Path, value: Any, key: str | None, remedy: str) -> None:
    path = written(tmp_path, value)
    with pytest.raises(ConfigError) as caught:
        load_case(path)
    assert (caught.value.file, caught.value.key) == (str(path), key)
    assert remedy in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_case(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_case(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.request.json"
    path.write_bytes(b'{"body": "\xff"}')
    with pytest.raises(ConfigError, match="is not JSON"):
        load_case(path)
