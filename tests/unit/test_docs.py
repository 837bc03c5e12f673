"""What the documentation must say: an undocumented setting, metric, code or preset fails here."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from relay import errors
from relay.cli import parser
from relay.config import Destination, Operator, Receiver, Sandbox, Section, Source, StoreSettings, parse_config
from relay.presets import load_presets, preset_for
from relay.provider_pages import MARK, provider_pages
from relay.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
OPERATING = (ROOT / "docs" / "operating.md").read_text()


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("receiver", Receiver),
        ("operator", Operator),
        ("store", StoreSettings),
        ("sandbox", Sandbox),
        ("destinations.X", Destination),
        ("sources.X", Source),
    ],
)
def test_every_setting_is_documented(table: str, model: type[Section]) -> None:
    missing = [key for key in model.model_fields if f"`{table}.{key}`" not in OPERATING]
    assert missing == []


def test_every_metric_is_documented() -> None:
    names = [m.name + ("_total" if m.type == "counter" else "") for m in Telemetry().registry.collect()]
    assert [name for name in names if f"`{name}`" not in OPERATING] == []


def test_every_code_is_documented_with_its_meaning() -> None:
    meanings = {code: text for code, (_, text) in errors.REJECTIONS.items()}
    meanings |= errors.TRANSFORM_FAILURES | errors.ATTEMPT_FAILURES
    rows = {line.split("|")[1].strip(): line for line in OPERATING.splitlines() if line.startswith("| `")}
    assert [code for code, text in meanings.items() if text not in rows.get(f"`{code}`", "")] == []


def test_every_log_line_is_documented() -> None:
    named: set[str] = set()
    for path in (ROOT / "relay").rglob("*.py"):
        named |= set(re.findall(r'\.log\(\s*f?"([a-z]+\.[a-z]+)"', path.read_text()))
    assert named, "the pattern finds no log line at all"
    assert sorted(name for name in named if f"`{name}`" not in OPERATING) == []


def test_the_page_of_providers_says_what_the_presets_say() -> None:
    page = (ROOT / "docs" / "providers.md").read_text()
    generated = provider_pages(load_presets().values())
    assert page.partition(MARK)[2].strip() == generated.partition(MARK)[2].strip(), (
        "make it again: relay providers --markdown (below the mark in docs/providers.md)"
    )


def test_the_examples_of_schemes_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text((ROOT / "relay" / "providers" / "discord.toml").read_text())  # as it says there
    page = (ROOT / "docs" / "providers.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", page, re.S)
    assert len(examples) >= 3
    for text in examples:
        config = parse_config(
            {"destinations": {"default": {"url": "http://127.0.0.1:1"}}, **tomllib.loads(text)}, {}, None
        )
        for name, source in config.sources.items():
            preset_for(source.provider, source.scheme, file=tmp_path / "relay.toml", key=f"sources.{name}")


def test_every_dependency_has_its_line_of_why() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    block = project.split("dependencies = [")[1].split("]")[0]
    names = re.findall(r'"([a-z0-9-]+)', block)
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    assert [name for name in names if name not in architecture] == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http") and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def commands_in(page: Path) -> list[str]:
    """Every `relay …` that stands in code: whole lines of sh blocks, and what is in backticks."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line.removeprefix(".venv/bin/") for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`(relay [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [line for line in (*lines, *inline) if line.startswith("relay ")]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_command_in_the_documentation_is_understood(page: str) -> None:
    for line in commands_in(ROOT / page):
        words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
        words += ["NAME"] if words[-1] in ("send", "show") else []  # prose that names the command alone
        parser().parse_args(words)  # SystemExit, with what is wrong on stderr, is what fails here


def test_the_documentation_is_searched_for_commands() -> None:
    assert "relay prune --older-than 7d" in commands_in(ROOT / "docs" / "operating.md")
    assert len(commands_in(ROOT / "README.md")) >= 4
