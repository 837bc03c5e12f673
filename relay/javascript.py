"""Static checks of a transform: mistakes that can be seen without running it. The only importer of pyjsparser.

`lint` warns and never judges: whether a script compiles is for the engine that runs it. pyjsparser knows ECMAScript
5.1 with let, const, default parameters, shorthand properties and (with the two methods added below) template
literals; for anything newer all but one of the checks are skipped, and a finding says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from pyjsparser import PyJsParser
from pyjsparser.pyjsparserdata import Token
from pyjsparser.std_nodes import BaseNode

from relay.lints import FINDINGS, Finding, Node, check, no_transform

__all__ = ["FINDINGS", "TEXT_CHARS_MAX", "Finding", "lint"]

#: Longer scripts are not parsed: 256 Ki characters take the parser about half a second.
TEXT_CHARS_MAX: Final = 256 * 1024


def lint(text: str) -> list[Finding]:
    """What can be seen without running `text`, in the order of its lines. Raises nothing, whatever `text` is."""
    if len(text) > TEXT_CHARS_MAX:
        return [_skipped(None, f"the script is longer than {TEXT_CHARS_MAX} characters")]
    tree = _parse(text)
    if isinstance(tree, Finding):
        return [*_transform_by_text(text), tree]
    return sorted(check(tree), key=lambda finding: finding.line or 0)


def _parse(text: str) -> Node | Finding:
    """The syntax tree, or why there is none."""
    try:
        tree: Node = _Parser().parse(text)
    except RecursionError:
        return _skipped(None, "the script is nested too deep for their parser")
    except Exception as error:  # noqa: BLE001 - besides JsSyntaxError it raises IndexError, AssertionError, … at will
        found = re.fullmatch(r"Line (\d+): (.*)", str(error), re.S)
        reason = f"their parser, which knows ECMAScript 5.1, stopped here ({found[2].rstrip('.')})" if found else ""
        return _skipped(int(found[1]) if found else None, reason or "their parser gave up")
    return tree


def _skipped(line: int | None, reason: str) -> Finding:
    skipped = ", ".join(c for c in FINDINGS if c not in ("lint_skipped", "transform_missing", "transform_misspelt"))
    return Finding(line, "lint_skipped", f"checks skipped ({skipped}): {reason}. The engine judges the syntax")


def _transform_by_text(text: str) -> list[Finding]:
    """For scripts that cannot be parsed: is there anything at all that is called transform?"""
    if "\\u" in text or re.search(r"(?<![\w$])transform(?![\w$])", text):
        return []
    return [no_transform(None, re.findall(r"\b(?:function|const|let|var)\s+([\w$]{1,64})", text))]


class _TemplateNode(BaseNode):  # type: ignore[misc] # pyjsparser publishes no types
    """The two nodes that pyjsparser reads but cannot make."""

    def finish_as(self, kind: str, **fields: object) -> _TemplateNode:
        self.__dict__.update(fields, type=kind)
        return self


class _Parser(PyJsParser):  # type: ignore[misc] # pyjsparser publishes no types
    """pyjsparser, with template literals, and with a `line` on the nodes that findings are about."""

    def parseTemplateElement(self, option: dict[str, bool]) -> _TemplateNode:  # noqa: N802 - the parser's own name
        if self.lookahead["type"] != Token.Template or (option["head"] and not self.lookahead["head"]):
            self.throwUnexpectedToken(self.lookahead)
        token = self.lex()
        return _TemplateNode().finish_as("TemplateElement", tail=token["tail"])

    def parseTemplateLiteral(self) -> _TemplateNode:  # noqa: N802 - the parser's own name
        quasis, expressions = [self.parseTemplateElement({"head": True})], []
        while not quasis[-1].tail:
            expressions.append(self.parseExpression())
            quasis.append(self.parseTemplateElement({"head": False}))
        return _TemplateNode().finish_as("TemplateLiteral", quasis=quasis, expressions=expressions)


def _located(method: Callable[..., Any]) -> Callable[..., Any]:
    """The parser's method, noting the line of its first token on the node it makes."""

    def parse(self: _Parser, *args: Any, **kwargs: Any) -> Any:
        line = self.startLineNumber
        node = method(self, *args, **kwargs)
        if isinstance(node, BaseNode):
            node.__dict__.setdefault("line", line)
        return node

    return parse


for _name in (
    "parsePrimaryExpression",
    "parseNonComputedProperty",
    "parseObjectProperty",
    "parseVariableIdentifier",
    "parseStatement",
    "parseFunctionDeclaration",
    "parseFunctionExpression",
):
    setattr(_Parser, _name, _located(getattr(PyJsParser, _name)))
