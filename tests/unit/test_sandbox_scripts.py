"""What a script sees, what comes back, and what is said about its mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.errors import TransformError
from relay.sandbox import SandboxPool
from tests.support.sandboxes import call, failure, outcome, sandbox, script


async def value(pool: SandboxPool, text: str, raw: str = '{"x":1}') -> Any:
    result = await pool.run(script(text), call(raw))
    assert isinstance(result, bytes), result
    return json.loads(result)


async def test_every_way_of_defining_transform_works() -> None:
    async with sandbox() as pool:
        for text in (
            "function transform(evt, headers, queryParams, raw) { return { n: evt.x } }",
            "const transform = (evt) => ({ n: evt.x })",
            "let transform = function (evt) { return { n: evt.x } }",
            "var transform = async ({ x: n }) => ({ n })",
            "async function transform(evt) { await null; return { n: evt?.x ?? 0 } }",
            "class Maker { #n = 0; make(e) { return { n: e.x + this.#n } } } var transform = e => new Maker().make(e)",
            '"use strict"; function transform(evt) { return { ...evt, n: evt.x, x: undefined } }',
            "\ufefffunction transform(evt) { return { n: evt.x } }",
            "function transform(evt) { return { n: evt.x } } // the end",
            "function transform(evt) { return { then(resolve) { resolve({ n: evt.x }) } } }",
        ):
            assert await value(pool, text) == {"n": 1}, text


async def test_sloppy_mode_is_kept() -> None:
    async with sandbox() as pool:
        text = "function transform() { c = 010; with ({ seen: 2 }) return { n: c + seen, me: this === globalThis } }"
        assert await value(pool, text) == {"n": 10, "me": True}


async def test_arguments_arrive_as_fresh_plain_values() -> None:
    text = """function transform(evt, headers, queryParams, raw) {
      const own = Object.keys(headers), clean = {}.polluted === undefined;
      return { evt, headers, queryParams, raw, own, clean, plain: Object.getPrototypeOf(evt) === Object.prototype };
    }"""
    given = call(
        "a=1",
        evt='{"a":["1"],"__proto__":{"polluted":1}}',
        headers='{"__proto__":"h","X-A":"1, 2"}',
        query='{"q":["1","2"]}',
    )
    async with sandbox() as pool:
        result = await pool.run(script(text), given)
    assert isinstance(result, bytes)
    seen = json.loads(result)
    assert seen["evt"] == {"a": ["1"], "__proto__": {"polluted": 1}}
    assert seen["headers"] == {"__proto__": "h", "X-A": "1, 2"}
    assert (seen["queryParams"], seen["raw"], seen["own"]) == ({"q": ["1", "2"]}, "a=1", ["__proto__", "X-A"])
    assert seen["clean"]
    assert seen["plain"]


@pytest.mark.parametrize(
    ("raw", "evt"),
    [
        ("", None),
        ("<xml/>", None),
        ("{", None),
        ("null", None),
        ("[1]", [1]),
        ('"text"', "text"),
        ('\ufeff{"a":1}', {"a": 1}),
        ("[" * 200_000, None),
        ('{"a":1,"a":2}', {"a": 2}),
        ('{"s":"a\\u0000b\u00e9\U0001f600"}', {"s": "a\0b\u00e9\U0001f600"}),
    ],
)
async def test_evt_is_the_parsed_body_or_null(raw: str, evt: Any) -> None:
    async with sandbox() as pool:
        text = "function transform(evt, h, q, raw) { return { evt, length: raw.length } }"
        assert await value(pool, text, raw) == {"evt": evt, "length": len(raw.encode("utf-16-le")) // 2}


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ("[-0, NaN, Infinity, 1e400]", "[0,null,null,null]"),
        ("{ a: undefined, b: () => 1, c: [undefined, () => 1] }", '{"c":[null,null]}'),
        ("{ d: new Date(0), m: new Map([[1, 2]]), r: /x/ }", '{"d":"1970-01-01T00:00:00.000Z","m":{},"r":{}}'),
        (r'{ s: "\ud800", n: "a\u0000b" }', r'{"s":"\ud800","n":"a\u0000b"}'),
        ("JSON.parse('{\"__proto__\":1}')", '{"__proto__":1}'),
        (
            "[12345678901234567890, 1700000000000, 123456789012345680000]",
            "[12345678901234567000,1700000000000,123456789012345680000]",
        ),
        ("{ raw: JSON.rawJSON('12345678901234567890') }", '{"raw":12345678901234567890}'),
        (
            '"R" + JSON.stringify({ big: "x".repeat(300) })',
            json.dumps("R" + json.dumps({"big": "x" * 300}, separators=(",", ":"))),
        ),
        (
            "['console', 'fetch', 'setTimeout', 'Atomics', 'SharedArrayBuffer'].map((n) => n in globalThis)",
            "[false,false,false,false,false]",
        ),
        ("[new Date(2024, 0, 1).toISOString()]", '["2024-01-01T00:00:00.000Z"]'),
    ],
)
async def test_results_come_back_as_json_text(returned: str, text: str) -> None:
    async with sandbox() as pool:
        assert await outcome(pool, f"function transform() {{ return {returned} }}") == text


async def test_nothing_is_null_undefined_and_a_promise_of_them() -> None:
    async with sandbox() as pool:
        for returned in ("null", "undefined", "Promise.resolve(null)", "(async () => {})()"):
            assert await outcome(pool, f"function transform() {{ return {returned} }}") == "nothing"


@pytest.mark.parametrize(
    ("text", "code", "message", "line", "column"),
    [
        (
            "function transform(e) {\n  return e.data.object }",
            "script_raised",
            "test.js:2:10: TypeError: cannot read property 'object' of undefined",
            2,
            10,
        ),
        ("function transform(e) { return e.b.c }", "script_raised", "TypeError", 1, 32),
        (
            "const a = 1;\n\nnope();\nfunction transform() {}",
            "script_raised",
            "3:1: ReferenceError: nope is not defined",
            3,
            1,
        ),
        (
            "async function transform() {\n await null;\n throw new RangeError('late') }",
            "script_raised",
            "RangeError: late",
            3,
            None,
        ),
        ("function transform() { return fetch('x') }", "script_raised", "fetch is not defined", 1, None),
        ("function transform() { throw 'text' }", "script_raised", "Thrown: text", None, None),
        ("function transform() { throw null }", "script_raised", "Thrown: null", None, None),
        ("async function transform() { return Promise.reject(null) }", "script_raised", "Thrown: null", None, None),
        ("function transform() { throw { code: 7 } }", "script_raised", '{"code":7}', None, None),
        ("function transform() { throw new Error('\\ud83d a') }", "script_raised", "Error: ? a", 1, None),
        ("function transform() {\n JSON.parse('{a') }", "script_raised", "2:7: SyntaxError: Expected prop", 2, 7),
        ("function transform() {\n return eval('\\n\\n}') }", "script_raised", "2:9: SyntaxError", 2, 9),
        ("function transform() { return { a: 1n } }", "script_raised", "BigInt", None, None),
        ("function transform() { const a = {}; a.a = a; return a }", "script_raised", "circular", None, None),
        ("function transform() { return { toJSON() {\n throw new Error('j') } } }", "script_raised", "2:", 2, None),
        ("let a = 1\n\n  foo bar", "script_invalid", "transforms/test.js:3:7: SyntaxError", 3, 7),
        ("  foo bar", "script_invalid", "transforms/test.js:1:7: SyntaxError", 1, 7),
        ("}); globalThis.pwn=1; (function(){", "script_invalid", "SyntaxError", 1, 1),
        ("function transform() {} }), (function () {", "script_invalid", "SyntaxError", 1, None),
        ("export default function transform() {}", "script_invalid", "not an ES module", 1, 1),
        ("// a\nimport x from 'y'\nfunction transform() {}", "script_invalid", "not an ES module", 2, None),
        ("function transform() {} /*", "script_invalid", "SyntaxError", None, None),
        ("const transform = {}", "script_invalid", "no function named transform", None, None),
        ("", "script_invalid", "no function named transform", None, None),
        ("function transform() {} // \0", "script_invalid", "not valid", None, None),
        ("function transform() {\n for (;;) {} }", "script_timed_out", "more than 2000 ms", 1, None),
        ("throw { toString() { for (;;) {} } }", "script_raised", "Thrown", None, None),
        ("function transform() { throw { get message() { for (;;) {} } } }", "script_timed_out", "", None, None),
        ("function transform() { return { toJSON() { for (;;) {} } } }", "script_timed_out", "", None, None),
        ("async function transform() { await new Promise(() => {}) }", "script_timed_out", "never settled", None, None),
        ("async function transform() { for (;;) await null }", "script_timed_out", "", None, None),
        (
            "function transform() { const a = []; for (;;) a.push(new Array(1e5).fill({})) }",
            "script_out_of_memory",
            "bytes of memory",
            1,
            None,
        ),
        (  # with no memory left the engine throws null
            "function transform() { let a = []; for (;;) a = [a] }",
            "script_out_of_memory",
            "bytes of memory",
            None,
            None,
        ),
        ("function transform() { return 'x'.repeat(9e6) }", "output_too_large", "8388608", None, None),
        ("function transform() { return () => 1 }", "invalid_event", "a function or a symbol", None, None),
        ("function f() { f() } function transform() { f() }", "script_raised", "call stack", 1, None),
    ],
)
async def test_errors_say_what_and_where(
    text: str, code: str, message: str, line: int | None, column: int | None
) -> None:
    async with sandbox(deadline_ms=2000) as pool:  # on a busy machine it takes a while to fill the memory
        error = await failure(pool, text)
    assert error.code == code
    assert message in error.message
    assert error.message.startswith("transforms/test.js:")
    assert line is None or error.line == line
    assert column is None or error.column == column
    assert "relay" not in error.stack


async def test_the_stack_holds_the_scripts_frames_and_is_bounded() -> None:
    text = "function inner() { throw new Error('x'.repeat(1e6)) }\nfunction transform() {\n  [1].map(inner)\n}"
    async with sandbox() as pool:
        error = await failure(pool, text)
    frames = [line.split(" (")[0].strip() for line in error.stack.splitlines()]
    assert frames == ["at inner", "at map", "at transform"]
    assert "transforms/test.js:3:" in error.stack
    assert len(error.message) < 3000


async def test_compile_finds_mistakes_without_a_delivery() -> None:
    async with sandbox() as pool:
        assert await pool.compile(script("function transform() { nowhere() }")) is None
        for text, code in (
            ("const x =", "script_invalid"),
            ("let a", "script_invalid"),
            ("nowhere()", "script_raised"),
        ):
            found = await pool.compile(script(text))
            assert isinstance(found, TransformError)
            assert found.code == code


async def test_a_large_body_fits_the_defaults() -> None:
    body = json.dumps({"rows": ["x" * 1000] * 2000})
    async with sandbox(deadline_ms=2000) as pool:
        assert await value(pool, "function transform(evt) { return { n: evt.rows.length, evt } }", body)


async def test_a_body_that_does_not_fit_the_memory_is_no_null() -> None:
    body = "[" + ",".join(["{}"] * 200_000) + "]"
    async with sandbox(memory_bytes_max=8 * 1024 * 1024) as pool:
        error = await failure(pool, "function transform(evt) { return { seen: evt } }", body)
    assert error.code == "script_out_of_memory"
    assert error.message.startswith("transforms/test.js: the parsed body alone")
    assert error.stack == ""


async def test_a_request_beyond_the_childs_own_memory_does_not_crash_it() -> None:
    body = "ж" * 40_000_000
    async with sandbox(memory_bytes_max=4 * 1024 * 1024) as pool:
        children = {child.pid for child in pool._children}
        assert (await failure(pool, "const transform = () => ({})", body)).code == "script_out_of_memory"
        assert {child.pid for child in pool._children} == children


async def test_the_time_to_read_the_body_is_not_the_scripts() -> None:
    """Reading takes about twice the deadline, the script a tenth of it; the engine looks at the clock in between."""
    body = "{" + ",".join(f'"k{number}":{number}' for number in range(300_000)) + "}"
    text = "function transform(evt) { let n = 0; for (let i = 0; i < 50000; i++) n++; return { n, last: evt.k299999 } }"
    async with sandbox(deadline_ms=50) as pool:
        assert await value(pool, text, body) == {"n": 50000, "last": 299999}
