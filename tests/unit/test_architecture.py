"""The cut of the program, checked: who may import whom, who owns what, and how long things may get."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELAY = ROOT / "relay"

#: From the bottom up; a module imports only what stands on a line above its own, or what IN_LINE allows.
LAYERS = """
__init__ schemes
errors
models
bodies budget plain ids memory retry telemetry confine config_errors config_values engine_names sandbox_faults
config_sections forms compiled
schemes.json_values lints fast_lane
schemes.places
schemes.encodings schemes.writing schemes.public_keys schemes.tables javascript
schemes.base schemes.key_sets
schemes.signed schemes.token_claims
schemes.mac_forms
schemes.mac schemes.token schemes.kinds schemes.asymmetric schemes.jwt schemes.shared
schemes.adyen schemes.box schemes.braintree schemes.contentful schemes.dropbox_sign
schemes.hook0 schemes.sns schemes.twilio schemes.unisender_go
schemes.functions schemes.parts schemes.throwaway
schemes.reading_keys
schemes.reading verify diagnosis
schemes.generic handshake_tables
presets
provider_pages config cases handshakes
saved masking
vectors
stores.base stores.pen sandbox_child sandbox_worker
stores.sqlite inngest sandbox
dev_sink transform records
sources operator_client console_guard connection keys
judge receiver_http reloading settling forwarder_reports
forwarder_lane
rejected
receiver pipeline forwarder console supervisor
console_rejected
app
commands
cli
__main__
"""
#: Files of one thing: they may import each other, as long as there is no circle.
FAMILIES = ("stores.sqlite", "commands", "sandbox", "config", "transform", "compiled")

#: Outside library, or part of the standard library → the only modules that may import it.
OWNERS: dict[str, set[str]] = {
    "sqlite3": {"stores.sqlite"},
    "_quickjs": {"sandbox_child"},  # the engine itself; the package quickjs around it is not used
    "quickjs": set(),
    "pyjsparser": {"javascript"},
    "aiohttp": {
        "receiver",
        "console",
        "console_guard",
        "console_rejected",
        "inngest",
        "keys",
        "dev_sink",
        "operator_client",
        "connection",
        "receiver_http",
        "supervisor",
        "app",
    },
    "prometheus_client": {"telemetry"},
    "uvloop": {"commands"},
    "pydantic": {"config", "config_errors", "config_sections"},
    "tomllib": {"config", "presets"},
    "cryptography": {"schemes.public_keys", "schemes.throwaway"},
    "jwt": {"schemes.jwt", "schemes.key_sets"},
    "brotli": {"bodies"},
    "zstandard": {"bodies", "stores.sqlite_squeeze"},
    "argparse": {"cli", "commands"},
}
FILE_LINES_MAX = 400
TEST_FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70


def name_of(file: Path) -> str:
    parts = file.relative_to(RELAY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__" or len(parts) == 1)


COMPILED = sorted(RELAY.rglob("*.pyx"))
MODULES = {name_of(file): file for file in [*sorted(RELAY.rglob("*.py")), *COMPILED]}
PYTHON_FILES = sorted(file for folder in (RELAY, ROOT / "tests") for file in folder.rglob("*.py"))
#: What is Python at the top of a Cython file: its docstring, and each import.
OF_CYTHON = re.compile(r'''^(?:""".*?"""|from [\w.]+ import (?:\([^)]*\)|[^(\n]+)|import [^\n]+)$''', re.M | re.S)
CYTHON_FUNCTION = re.compile(r"^ *(?:cpdef|cdef|def) .*\(.*(?:\n(?! *(?:cpdef|cdef|def) .*\().*)*", re.M)


@cache
def tree_of(file: Path) -> ast.Module:
    text = file.read_text("utf-8")
    return ast.parse("\n".join(OF_CYTHON.findall(text)) if file.suffix == ".pyx" else text, str(file))


def imports_of(file: Path) -> Iterator[str]:
    """Every module imported, wherever in the file: `a.b` for `import a.b` and for `from a import b` where b is one."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide who imports whom"
            yield from (imported(node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def imported(module: str, name: str) -> str:
    below = f"{module}.{name}".removeprefix("relay.")
    if module == "relay":
        return f"relay.{name}" if name in MODULES else "relay.__init__"
    return f"relay.{below}" if module.startswith("relay.") and below in MODULES else module


def relay_imports(name: str) -> set[str]:
    found = (target for target in imports_of(MODULES[name]) if target.split(".")[0] == "relay")
    return {target.removeprefix("relay.") for target in found if target != "relay"}


def family(name: str) -> str:
    """The line of LAYERS that a module belongs to by its name or its family's."""
    places = [word for line in LAYERS.split("\n") for word in line.split()]
    if name in places:
        return name
    owner = [word for word in places if name.startswith((f"{word}.", f"{word}_"))]
    assert owner, f"relay/{name}.py has no place in LAYERS: give it one"
    return max(owner, key=len)


def layer(name: str) -> int:
    place = family(name)
    return next(number for number, line in enumerate(LAYERS.split("\n")) if place in line.split())


def belongs_together(one: str, other: str) -> bool:
    return any(all(n == f or n.startswith((f"{f}.", f"{f}_")) for n in (one, other)) for f in FAMILIES)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "stores"])
def test_a_module_imports_only_lower_layers(name: str) -> None:
    wrong = {
        target for target in relay_imports(name) if layer(target) >= layer(name) and not belongs_together(name, target)
    }
    assert not wrong, f"{name} must not import {', '.join(sorted(wrong))}"


def test_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"imports go in a circle: {' → '.join((*path, name))}"
        if name not in done:
            for target in sorted(relay_imports(name)):
                visit(target, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("library", OWNERS)
def test_every_outside_library_has_its_owner(library: str) -> None:
    users = {name for name, file in MODULES.items() if library in {i.split(".")[0] for i in imports_of(file)}}
    wrong = {name for name in users if family(name) not in OWNERS[library] and name not in OWNERS[library]}
    assert not wrong, f"{library} is not for {', '.join(sorted(wrong))}"
    assert users or not OWNERS[library], f"nobody imports {library} any more: take it out of OWNERS"


def test_only_config_reads_the_environment_and_what_chooses_the_code_that_runs() -> None:
    readers = set()
    for name, file in MODULES.items():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
                readers.add(name)
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                readers |= {name for alias in node.names if alias.name in ("environ", "environb", "getenv")}
    assert readers == {"config", "compiled"}


def test_only_the_composition_root_names_concrete_stores() -> None:
    users = {name for name in MODULES if any(t.startswith("stores.sqlite") for t in relay_imports(name))}
    assert {name for name in users if not name.startswith("stores.")} == {"app"}


def test_tests_stand_on_the_ground_too() -> None:
    """Nothing of the program imports tests."""
    assert not {name for name, file in MODULES.items() if any(i.split(".")[0] == "tests" for i in imports_of(file))}


@pytest.mark.parametrize("file", PYTHON_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file: Path) -> None:
    lines = len(file.read_text("utf-8").splitlines())
    limit = FILE_LINES_MAX if file.is_relative_to(RELAY) else TEST_FILE_LINES_MAX
    assert lines <= limit, f"{lines} lines: cut it in two"
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines"


@pytest.mark.parametrize("file", COMPILED, ids=lambda file: str(file.relative_to(ROOT)))
def test_compiled_files_and_functions_are_short(file: Path) -> None:
    text = file.read_text("utf-8")
    functions = CYTHON_FUNCTION.findall(text)
    assert len(functions) > 2
    assert len(text.splitlines()) <= FILE_LINES_MAX
    assert [each.splitlines()[0] for each in functions if len(each.splitlines()) > FUNCTION_LINES_MAX] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name for name, file in MODULES.items() if ast.get_docstring(tree_of(file)) is None and file.stat().st_size
    ]
    assert not silent


def test_the_layers_name_no_strangers() -> None:
    named = set(chain.from_iterable(line.split() for line in LAYERS.split("\n")))
    assert named <= set(MODULES), f"there is no {', '.join(sorted(named - set(MODULES)))}"
