"""The checks of a transform's syntax tree, one function each. A tree is what relay/javascript.py makes of the text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from relay.engine_names import ENGINE_NAMES, HINTS

#: code → what it means. docs/transforms.md explains each (a test compares).
FINDINGS: Final[dict[str, str]] = {
    "transform_missing": "the script has no function named transform",
    "transform_misspelt": "the script has a function whose name is nearly transform",
    "too_many_parameters": "transform takes more than the four values it is called with",
    "path_without_return": "one path through transform ends without a return",
    "header_name_case": "a header is read by a name that never matches",
    "unknown_name": "a name is used that is neither declared nor part of the engine",
    "seconds_as_ts": "ts looks like seconds; Inngest wants milliseconds",
    "lint_skipped": "the parser of these checks cannot read the script; the engine may well",
}

#: Members that every object has: reading them from `headers` is no header lookup.
OBJECT_MEMBERS: Final = frozenset({"constructor", "hasOwnProperty", "propertyIsEnumerable", "toString", "valueOf"})
#: Methods that `headers` has in other places.
MAP_METHODS: Final = frozenset({"get", "has", "keys", "values", "entries", "forEach"})
#: Property names that hold seconds with one provider or another.
TIME_NAMES: Final = re.compile(
    r"(created|updated|created_at|updated_at|timestamp|ts|event_ts|event_time|time)|.*-timestamp", re.I
)
MANY_MILLISECONDS: Final = 10**11  # 1973 in milliseconds, the year 5138 in seconds
NAMES_MAX: Final = 50  # so many unknown names are reported; comparing names is slow

Node: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at. `line` counts from 1, None where it is not known; `code` is a key of FINDINGS."""

    line: int | None
    code: str
    message: str


def check(tree: Node) -> list[Finding]:
    """Every finding about the tree, check by check."""
    script = _Script(tree)
    return [finding for look in CHECKS for finding in look(script)]


def _children(node: Any) -> Iterator[Any]:
    values = node if isinstance(node, list) else node.values()
    return (value for value in values if isinstance(value, dict | list))


def _walk(*roots: Any, into_functions: bool = True) -> Iterator[Node]:
    """Every node under the roots, themselves included, in the order of the text. Not recursive: trees are deep."""
    stack = [root for root in reversed(roots) if root]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if "type" in node:
                yield node
            if not into_functions and str(node.get("type")).startswith("Function"):
                continue
        stack.extend(reversed(list(_children(node))))


class _Script:
    """A parsed script and what the checks want to know about it."""

    def __init__(self, tree: Node) -> None:
        self.tree = tree
        self.functions: dict[str, Node] = {}  # name → function, at the top level
        self.assigned: set[str] = set()
        self.initial: dict[str, list[Node | None]] = {}  # variable → what its declarations give it
        for statement in tree["body"]:
            self._top_level(statement)
        for node in _walk(tree):
            self._note(node)

    @property
    def transform(self) -> Node | None:
        return self.functions.get("transform")

    def parameter(self, position: int) -> str | None:
        params = self.transform["params"] if self.transform else []
        return params[position].get("name") if position < len(params) else None

    def _top_level(self, statement: Node) -> None:
        if statement["type"] == "FunctionDeclaration":
            self.functions[statement["id"]["name"]] = statement
        for name, value in _bindings(statement):
            if value and value["type"] == "FunctionExpression":
                self.functions[name] = value

    def _note(self, node: Node) -> None:
        if node["type"] == "VariableDeclarator":
            self.initial.setdefault(str(node["id"].get("name")), []).append(node["init"])
        target = node.get("left") if node["type"] in ("AssignmentExpression", "ForInStatement") else None
        if target and target["type"] == "Identifier":
            self.assigned.add(target["name"])


def _bindings(statement: Node) -> Iterator[tuple[str, Node | None]]:
    """(name, value) of `const name = value` and of `name = value`."""
    if statement["type"] == "VariableDeclaration":
        for declarator in statement["declarations"]:
            yield str(declarator["id"].get("name")), declarator["init"]
    expression = statement.get("expression")
    if isinstance(expression, dict) and expression["type"] == "AssignmentExpression":
        target = expression["left"]
        yield str(target.get("name") or (target.get("property") or {}).get("name")), expression["right"]


def _nearest(name: str, names: Iterable[str], likeness: float) -> str | None:
    candidates = [other for other in names if abs(len(other) - len(name)) < 5 and len(other) < 64][:1000]
    return next(iter(difflib.get_close_matches(name, candidates, n=1, cutoff=likeness)), None)


def _line(*nodes: Node | None) -> int | None:
    return next((found["line"] for node in nodes for found in _walk(node) if "line" in found), None)


# ── the checks ───────────────────────────────────────────────────────────────────────────────────────────────────


def _check_transform(script: _Script) -> Iterator[Finding]:
    if script.transform:
        return
    names = {name: value for statement in script.tree["body"] for name, value in _bindings(statement)}
    made_elsewhere = names.get("transform")  # transform = somethingElse: the engine knows what that is
    if made_elsewhere and made_elsewhere["type"] not in ("Literal", "ObjectExpression", "ArrayExpression"):
        return
    finding = no_transform(None, list(script.functions))
    culprit = next((name for name in script.functions if f"`{name}`" in finding.message), None)
    yield Finding(_line(script.functions[culprit]) if culprit else None, finding.code, finding.message)


def no_transform(line: int | None, names: list[str]) -> Finding:
    """The finding for a script whose functions have these names, none of them transform."""
    near = next((name for name in names if name.lower() == "transform"), None) or _nearest("transform", names, 0.75)
    if near:
        return Finding(line, "transform_misspelt", f"the function must be named `transform`, and is named `{near}`")
    there = f"; there is `{names[0]}`" if len(names) == 1 else ""
    return Finding(line, "transform_missing", f"there must be a function named transform at the top level{there}")


def _check_parameters(script: _Script) -> Iterator[Finding]:
    count = len(script.transform["params"]) if script.transform else 0
    if count > 4:
        message = f"transform takes {count} parameters and is called with four: evt, headers, queryParams, raw"
        yield Finding(_line(script.transform), "too_many_parameters", message)


def _check_returns(script: _Script) -> Iterator[Finding]:
    if not script.transform or _leaves(script.transform["body"]):
        return
    returns = any(node["type"] == "ReturnStatement" for node in _walk(script.transform["body"], into_functions=False))
    way = "one path through transform" if returns else "transform"
    message = (
        f"{way} ends without a return, which drops the delivery as filtered; if you mean that, write `return null`"
    )
    yield Finding(_line(script.transform), "path_without_return", message)


def _leaves(statement: Node | None) -> bool:
    """Whether the statement never lets the next one run: it returns or throws on every way."""
    match statement:
        case {"type": "ReturnStatement" | "ThrowStatement"}:
            return True
        case {"type": "BlockStatement", "body": list(body)}:
            return any(_leaves(inner) for inner in body)
        case {"type": "IfStatement", "consequent": consequent, "alternate": alternate}:
            return _leaves(consequent) and _leaves(alternate)
        case {"type": "TryStatement", "block": block, "handler": handler, "finalizer": finalizer}:
            return _leaves(finalizer) or (_leaves(block) and (not handler or _leaves(handler["body"])))
        case {"type": "SwitchStatement", "cases": [*cases]} if cases:
            last = {"type": "BlockStatement", "body": cases[-1]["consequent"]}
            return any(case["test"] is None for case in cases) and not _breaks(cases) and _leaves(last)
        case {"type": "WhileStatement", "test": {"type": "Literal", "value": True}, "body": body}:
            return not _breaks(body)
        case {"type": "ForStatement", "test": None, "body": body}:
            return not _breaks(body)
        case {"type": "DoWhileStatement", "body": body}:
            return _leaves(body) and not _breaks(body)
    return False


def _breaks(node: Any) -> bool:
    """Whether there is a break inside. One that belongs to an inner loop counts too: rare, and only a warning."""
    return any(found["type"] == "BreakStatement" for found in _walk(node, into_functions=False))


def _check_headers(script: _Script) -> Iterator[Finding]:
    headers = script.parameter(1)
    read: dict[str, Node] = {}
    for node in _walk(script.transform["body"] if script.transform and headers else None):
        if node["type"] == "MemberExpression" and node["object"].get("name") == headers:
            name = _key(node["property"], node["computed"])
            if name is not None:
                read.setdefault(name, node)
    for name, node in read.items():
        right = canonical_header(name)
        if name == right or right in read or name in OBJECT_MEMBERS:
            continue
        written = f'{headers}["{name}"]' if node["computed"] else f"{headers}.{name}"
        remedy = f'write {headers}["{right}"]'
        if name in MAP_METHODS:
            remedy = f'{headers} is a plain object, write {headers}["Header-Name"]'
        yield Finding(_line(node["property"], node), "header_name_case", f"{written} never matches: {remedy}")


def canonical_header(name: str) -> str:
    """A header's name as transforms see it: each word between dashes with one capital (Go's canonical form)."""
    return "-".join(word[:1].upper() + word[1:].lower() for word in name.split("-"))


def _key(key: Node, computed: bool) -> str | None:
    """The property's name where the text gives it: `.name`, `["name"]`, `name:`, `"name":`."""
    if key["type"] == "Literal":
        return key["value"] if isinstance(key["value"], str) else None
    return None if computed else key.get("name")


def _check_names(script: _Script) -> Iterator[Finding]:
    declared = ENGINE_NAMES | script.assigned | set(script.initial) | _declared(script.tree)
    used: dict[str, Node] = {}
    for node in _references(script.tree):
        if node["type"] == "UnaryExpression":
            declared |= {str(node["argument"].get("name"))}  # `typeof name` asks whether there is one
        else:
            used.setdefault(node["name"], node)
    unknown = [name for name in used if name not in declared]
    for name in unknown[:NAMES_MAX]:
        near = _nearest(name, declared, 0.8)
        guess = f"did you mean {near}?" if near else "declare it, or take it out"
        yield Finding(_line(used[name]), "unknown_name", f"there is no {name} here: {HINTS.get(name, guess)}")


def _declared(tree: Node) -> set[str]:
    """Every function's name and parameters and every caught error, wherever they are."""
    names: set[str] = set()
    for node in _walk(tree):
        if node["type"] in ("FunctionDeclaration", "FunctionExpression"):
            names |= {str(part.get("name")) for part in [node["id"] or {}, *node["params"]]}
        elif node["type"] == "CatchClause":
            names.add(str(node["param"].get("name")))
    return names


def _references(tree: Node) -> Iterator[Node]:
    """Identifiers that stand for a variable, and every `typeof name`."""
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        kind = node.get("type") if isinstance(node, dict) else None
        if kind == "Identifier" or _asks_for_name(node):
            yield node
        elif kind == "MemberExpression" and not node["computed"]:
            stack.append(node["object"])
        elif kind == "Property" and not node["computed"]:
            stack.append(node["value"])
        elif kind == "LabeledStatement":
            stack.append(node["body"])
        elif kind not in ("BreakStatement", "ContinueStatement"):
            stack.extend(reversed(list(_children(node))))


def _asks_for_name(node: Any) -> bool:
    match node:
        case {"type": "UnaryExpression", "operator": "typeof", "argument": {"type": "Identifier"}}:
            return True
    return False


def _check_ts(script: _Script) -> Iterator[Finding]:
    for where, value in _ts_values(script.tree):
        complaint = _seconds(value, script)
        if complaint:
            yield Finding(_line(value, where), "seconds_as_ts", complaint)


def _ts_values(tree: Node) -> Iterator[tuple[Node, Node]]:
    """(where, what) is given as an event's ts: in an object with a name or data beside it, or by `event.ts = …`.

    What lies inside `data:` is the person's own, and no event.
    """
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        match node:
            case {"type": "ObjectExpression", "properties": members}:
                keys = {_key(member["key"], member["computed"]): member for member in members}
                if "ts" in keys and keys.keys() & {"name", "data"}:
                    yield keys["ts"], keys["ts"]["value"]
            case {"type": "AssignmentExpression", "left": {"object": {"name": owner}, "property": key}, "right": value}:
                if owner != "data" and _key(key, node["left"]["computed"]) == "ts":
                    yield node, value
            case {"type": "Property", "key": key, "computed": computed} if _key(key, computed) == "data":
                continue
        stack.extend(reversed(list(_children(node))))


NUMBER_CALLS: Final = frozenset({"Number", "parseInt", "parseFloat", "floor", "round", "trunc", "ceil"})


def _seconds(value: Node | None, script: _Script, depth: int = 0) -> str | None:
    """What is wrong when the expression gives seconds, or may; None when nothing speaks for it."""
    match value:
        case {"type": "Literal", "value": float(number)} if 10**9 <= number < MANY_MILLISECONDS:
            return f"{number:.0f} is seconds: ts is in milliseconds, write {number * 1000:.0f}"
        case {"type": "BinaryExpression", "operator": "/", "right": {"value": 1000}, "left": left} if _is_now(left):
            return "this is seconds: ts is in milliseconds, leave the division by 1000 out"
        case {"type": "MemberExpression", "property": key, "computed": computed}:
            name = _key(key, computed)
            return None if name is None or not TIME_NAMES.fullmatch(name) else _if_seconds(name)
        case {"type": "Identifier", "name": str(name)} if depth < 8 and name not in script.assigned:
            given = script.initial.get(name, [])
            return _seconds(given[0], script, depth + 1) if len(given) == 1 else None
    parts = _passed_through(value)
    return next((found for part in parts if depth < 8 and (found := _seconds(part, script, depth + 1))), None)


def _if_seconds(name: str) -> str:
    return (
        f"ts is in milliseconds: if {name} is seconds, multiply it by 1000; if it is a text, use Date.parse; "
        "if it is milliseconds, new Date(…).getTime() says so"
    )


def _is_now(node: Node) -> bool:
    """Date.now(), Date.parse(…), ….getTime(), …: milliseconds for certain."""
    callee = node.get("callee") or {}
    return (callee.get("property") or {}).get("name") in ("now", "parse", "getTime", "valueOf", "UTC")


def _passed_through(value: Node | None) -> list[Node | None]:
    """The expressions whose value, or nearly, this expression has."""
    match value:
        case {"type": "ConditionalExpression", "consequent": consequent, "alternate": alternate}:
            return [consequent, alternate]
        case {"type": "LogicalExpression", "left": left, "right": right}:
            return [left, right]
        case {"type": "UnaryExpression", "operator": "+", "argument": argument}:
            return [argument]
        case {"type": "BinaryExpression", "operator": "|" | ">>>", "left": left}:
            return [left]
        case {"type": "CallExpression", "callee": callee, "arguments": [first, *_]}:
            name = callee.get("name") or (callee.get("property") or {}).get("name")
            return [first] if name in NUMBER_CALLS else []
    return []


CHECKS: Final[tuple[Callable[[_Script], Iterator[Finding]], ...]] = (
    _check_transform,
    _check_parameters,
    _check_returns,
    _check_headers,
    _check_names,
    _check_ts,
)
