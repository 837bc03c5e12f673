"""What people see: tables on a terminal (what is cut and what never is), and what `relay dev` says first."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from relay.commands.output import Column, Output, columns_of
from relay.commands.serve import show_urls
from relay.commands.settings import DevConfig
from relay.config import Config, dev_table, parse_config

COLUMNS = [
    Column("ID", "id", whole=True),
    Column("NAME", "name"),
    Column("ENV", "environment"),
    Column("MESSAGE", "message"),
]
ID = "01M80ZAFG8343YK0S3JVFVQRQY.0"
RECORD = {"id": ID, "name": "github/pull_request.opened", "environment": None, "message": "t.js:1:37: 日本語 " * 30}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    Output({"NO_COLOR": "1"}, stdout=stream).table(COLUMNS, [RECORD])
    return stream.getvalue().splitlines()


def test_long_texts_go_on_in_their_column_and_other_programs_get_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "words and more words " * 10 + "https://docs.example.com/" + "x" * 60
    monkeypatch.setenv("COLUMNS", "80")
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        output = Output({"NO_COLOR": "1"}, stdout=stream)
        output.fields([("name", text)])
        output.item(text)
    lines = terminal.getvalue().splitlines()
    assert all(line.startswith(("name  ", "      ", "- ", "  ")) for line in lines)
    assert [line for line in lines if columns_of(line) > 80] == [line for line in lines if "https" in line]
    assert pipe.getvalue() == f"name  {text}\n- {text}\n"


def test_nothing_to_show_is_no_mistake() -> None:
    stream = io.StringIO()
    Output({}, stdout=stream).fields([("name", None)])
    assert stream.getvalue() == ""


@pytest.mark.parametrize("width", [50, 60, 80, 100, 200])
def test_a_table_is_as_wide_as_the_terminal_and_the_id_stays_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = shown(Terminal(), monkeypatch, width)
    assert max(map(columns_of, lines)) <= width
    assert lines[1].startswith(f"{ID}  github/")
    assert lines[1].endswith("…")


def test_a_terminal_too_narrow_even_for_the_cut_row_still_has_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(Terminal(), monkeypatch, 20)[1].startswith(ID)


def test_columns_without_a_value_are_left_out_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ENV" not in shown(Terminal(), monkeypatch, 80)[0]
    assert shown(io.StringIO(), monkeypatch, 80)[0].split() == ["ID", "NAME", "ENV", "MESSAGE"]


def test_nothing_is_cut_for_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(RECORD["message"]).strip() in shown(io.StringIO(), monkeypatch, 20)[1]


def told(config: Config, built_in: DevConfig | None) -> str:
    stream = io.StringIO()
    show_urls(config, Output({}, stdout=stream), built_in)
    return stream.getvalue()


def test_dev_says_what_to_paste_and_where_each_secret_is(tmp_path: Path) -> None:
    secrets = {"github": "made-up", "stripe": "whsec_of_stripe"}
    config = parse_config(dev_table({}, tmp_path, secrets), {}, None)
    text = told(config, DevConfig(config, secrets, {"stripe": "STRIPE_WEBHOOK_SECRET"}))
    assert "URL     http://127.0.0.1:8080/in/github\n    secret  made-up\n" in text
    assert "URL     http://127.0.0.1:8080/in/stripe\n    secret  the one in STRIPE_WEBHOOK_SECRET\n" in text
    assert "whsec_of_stripe" not in text
    assert "data/dev-secrets.json" in text
    assert "send github" in text


def test_dev_never_shows_a_secret_of_the_configuration() -> None:
    sources = {
        "a": {"provider": "github", "secrets": ["shy"]},
        "b": {"provider": "none"},
        "c": {"provider": "github", "secrets": ["shy"], "enabled": False},
    }
    destinations = {"default": {"url": "http://127.0.0.1:9"}}
    text = told(parse_config({"sources": sources, "destinations": destinations}, {}, None), None)
    assert "shy" not in text
    assert "/in/a\n    secret  the one in your configuration\n" in text
    assert "/in/b\n    secret  none: anybody" in text
    assert "/in/c" not in text
