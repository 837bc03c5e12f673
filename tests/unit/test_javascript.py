"""The static checks: each finds its mistake, keeps quiet about sound scripts, and none ever raises."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.engine_names import HINTS
from relay.javascript import FINDINGS, TEXT_CHARS_MAX, Finding, lint


def codes(text: str) -> list[str]:
    return [finding.code for finding in lint(text)]


def only(text: str) -> Finding:
    """The one finding there is."""
    [finding] = lint(text)
    assert finding.code in FINDINGS
    return finding


def body(statements: str) -> str:
    return f"function transform(evt, headers, queryParams, raw) {{\n{statements}\n}}"


def ts(expression: str) -> str:
    return body(f"return {{ name: 'a/b', data: evt, ts: {expression} }};")


SOUND = """
// transform in a comment, and a fetch("...") too
const prefix = `acme`;
var counter = 0, table = { "constructor": 1, ts: 5 };
function name(type) { return prefix + "/" + type; }
function transform(evt, headers = {}, queryParams = {}, raw = "") {
  counter += 1;
  let event = headers["X-Github-Event"] || headers.Host;
  outer: for (var key in evt) { if (key === event) break outer; }
  try { JSON.parse(raw); } catch (error) { return { name: `x/${error.message}`, data: { ts: evt.created } }; }
  if (typeof console !== "undefined") console.log(event);
  return { name: name(evt.type), data: Object.assign({}, evt, { [key]: arguments.length }), ts: evt.created * 1000 };
}
"""


def test_a_sound_script_has_no_findings() -> None:
    assert lint(SOUND) == []


@pytest.mark.parametrize(
    "text",
    [
        "var transform = function (evt) { return null; };",
        "let transform;\ntransform = function (evt) { return null; };",
        "globalThis.transform = function (evt) { return null; };",
        "function make() { return function (evt) { return null; }; }\nconst transform = make();",
    ],
)
def test_transform_may_be_made_in_any_way(text: str) -> None:
    assert lint(text) == []


class TestTransformMissing:
    @pytest.mark.parametrize(
        "text", ["", "var transform = 5;", "function outer() { function transform() {} return 1; }"]
    )
    def test_when_there_is_none_at_the_top_level(self, text: str) -> None:
        assert only(text).code == "transform_missing"

    def test_names_the_only_function_there_is(self) -> None:
        assert "`handler`" in only("function handler(evt) { return null; }").message

    @pytest.mark.parametrize("name", ["transfrom", "Transform", "tranform", "TRANSFORM", "transforms"])
    def test_a_near_miss_is_named_with_its_line(self, name: str) -> None:
        found = only(f"\nfunction {name}(evt) {{ return null; }}")
        assert (found.code, found.line) == ("transform_misspelt", 2)
        assert f"`{name}`" in found.message

    def test_also_in_newer_syntax(self) -> None:
        assert codes("const transfrom = async ({ type }) => ({ name: type });") == [
            "transform_misspelt",
            "lint_skipped",
        ]
        assert codes("export default (evt) => null") == ["transform_missing", "lint_skipped"]


class TestParameters:
    def test_more_than_four(self) -> None:
        found = only("function transform(evt, headers, queryParams, raw, env) { return null; }")
        assert (found.code, found.line) == ("too_many_parameters", 1)
        assert "5" in found.message

    def test_fewer_are_fine(self) -> None:
        assert lint("function transform() { return null; }") == []


class TestReturns:
    @pytest.mark.parametrize(
        "statements",
        [
            "",
            "evt.x = 1;",
            "if (evt) { return null; }",
            "if (evt) return null; else evt = 1;",
            "try { return null; } catch (e) { evt = e; }",
            "switch (evt) { case 1: return null; }",
            "switch (evt) { case 1: break; default: return null; }",
            "while (evt) { return null; }",
            "for (;;) { break; }",
            "[1].map(function (x) { return x; });",
        ],
    )
    def test_a_path_without_one(self, statements: str) -> None:
        found = only(body(statements))
        assert (found.code, found.line) == ("path_without_return", 1)

    @pytest.mark.parametrize(
        "statements",
        [
            "return;",
            "throw new Error('no');",
            "if (evt) return null; else { throw evt; }",
            "{ return null; }",
            "try { return null; } catch (e) { return e; }",
            "try { evt(); } finally { return null; }",
            "switch (evt) { case 1: evt = 2; case 3: return null; default: throw evt; }",
            "for (;;) { evt(); }",
            "while (true) { if (evt()) return null; }",
            "do { return null; } while (evt);",
        ],
    )
    def test_every_path_has_one(self, statements: str) -> None:
        assert lint(body(statements)) == []


class TestHeaders:
    @pytest.mark.parametrize(
        ("read", "remedy"),
        [
            ('headers["x-github-event"]', 'headers["X-Github-Event"]'),
            ('headers["X-GitHub-Event"]', 'headers["X-Github-Event"]'),
            ("headers['X-Shopify-Hmac-SHA256']", 'headers["X-Shopify-Hmac-Sha256"]'),
            ("headers.host", 'headers["Host"]'),
            ('headers.get("Host")', "plain object"),
        ],
    )
    def test_a_name_in_the_wrong_case(self, read: str, remedy: str) -> None:
        found = only(body(f"var a =\n  {read};\nreturn a;"))
        assert (found.code, found.line) == ("header_name_case", 3)
        assert remedy in found.message

    def test_under_any_parameter_name(self) -> None:
        assert codes('function transform(e, h) { return h["user-agent"]; }') == ["header_name_case"]

    @pytest.mark.parametrize(
        "read",
        [
            'headers["X-Github-Event"]',
            "headers.Authorization",
            "headers[evt.name]",
            'headers.hasOwnProperty("Host")',
            'evt["x-github-event"]',
            'headers["x-a"] || headers["X-A"]',
        ],
    )
    def test_what_matches_is_left_alone(self, read: str) -> None:
        assert lint(body(f"return {read};")) == []


class TestNames:
    @pytest.mark.parametrize("name", sorted(HINTS))
    def test_what_other_engines_have_comes_with_advice(self, name: str) -> None:
        found = only(body(f"var a = 1;\nreturn {name}(a);"))
        assert (found.code, found.line) == ("unknown_name", 3)
        assert found.message == f"there is no {name} here: {HINTS[name]}"

    def test_a_typing_mistake_comes_with_a_guess(self) -> None:
        assert "did you mean headers?" in only(body("return headres.Host;")).message

    def test_each_name_once_and_never_hundreds(self) -> None:
        assert codes(body("fetch(1); fetch(2); return fetch;")) == ["unknown_name"]
        assert len(lint(body("".join(f"unknown{i}();" for i in range(500)) + "return 1;"))) == 50

    @pytest.mark.parametrize(
        "statements",
        [
            "made = 1; return made;",
            "for (each in evt) { evt(each); } return null;",
            "return evt.fetch + evt['console'];",
            "return { fetch: 1, require: 2 };",
            "return typeof process;",
        ],
    )
    def test_what_is_no_use_of_a_missing_name(self, statements: str) -> None:
        assert lint(body(statements)) == []


class TestSeconds:
    @pytest.mark.parametrize(
        "expression",
        [
            "evt.created",
            "evt.created_at",
            "evt.data.timestamp",
            "evt['event_ts']",
            "evt.event_time || undefined",
            "evt.created ? evt.created : 0",
            "+evt.ts",
            "parseInt(headers['X-Slack-Request-Timestamp'], 10)",
            "Math.floor(Date.now() / 1000)",
            "Date.now() / 1000",
            "Date.now() / 1000 | 0",
            "new Date(evt.x).getTime() / 1000",
            "1700000000",
        ],
    )
    def test_seconds_or_perhaps_seconds(self, expression: str) -> None:
        found = only(ts(expression))
        assert (found.code, found.line) == ("seconds_as_ts", 2)
        assert "milliseconds" in found.message

    @pytest.mark.parametrize(
        "statements",
        [
            "var at = evt.created;\nreturn { name: 'a', ts: at };",
            "var ts = Math.floor(Date.now() / 1000);\nreturn { name: 'a', ts };",
            "var event = { name: 'a' };\nevent.ts = evt.created;\nreturn event;",
        ],
    )
    def test_by_way_of_a_variable(self, statements: str) -> None:
        assert codes(body(statements)) == ["seconds_as_ts"]

    @pytest.mark.parametrize(
        "expression",
        [
            "evt.created * 1000",
            "1000 * evt.created",
            "Math.round(evt.event_time * 1000)",
            "Date.parse(evt.created_at)",
            "new Date(evt.timestamp).getTime()",
            "+new Date(evt.created_at)",
            "Date.now()",
            "evt.webhookTimestamp",
            "evt.ts_us / 1000",
            "evt.created ? evt.created * 1000 : undefined",
            "1700000000000",
            "undefined",
        ],
    )
    def test_milliseconds(self, expression: str) -> None:
        assert lint(ts(expression)) == []

    @pytest.mark.parametrize(
        "statements",
        [
            "return { name: 'a', data: { name: 'b', ts: evt.created } };",
            "var data = {}; data.ts = evt.created; return { name: 'a', data: data };",
            "return { name: 'a', data: evt, created: evt.created };",
            "var parts = { ts: evt.created }; return { name: 'a', data: parts };",
            "var at = evt.created; at = at * 1000; return { name: 'a', ts: at };",
        ],
    )
    def test_what_is_no_events_ts(self, statements: str) -> None:
        assert lint(body(statements)) == []


class TestSkipped:
    @pytest.mark.parametrize(
        "text",
        [
            "const transform = (evt) => ({ name: evt.type, data: evt });",
            "async function transform(evt) { return null; }",
            "function transform({ type, ...data }) { return { name: type, data }; }",
            "function transform(evt) { return evt?.x ?? null; }",
            "function transform(evt) { for (const x of evt) { } return [...evt]; }",
            "function transform(evt) { return evt",
            "function transform(evt) { return " + "(" * 500 + "1" + ")" * 500 + " }",
            "function transform(evt) { return 1" + " + 1" * 5000 + " }",
            "}",
        ],
    )
    def test_says_what_was_not_checked_and_who_judges(self, text: str) -> None:
        found = lint(text)[-1]
        assert found.code == "lint_skipped"
        assert "The engine judges" in found.message
        skipped = set(FINDINGS) - {"lint_skipped", "transform_missing", "transform_misspelt"}
        assert all(code in found.message for code in skipped)

    def test_newer_syntax_is_not_accused_of_anything(self) -> None:
        assert codes("const transform = (evt) => fetch(evt);") == ["lint_skipped"]

    def test_transform_may_be_spelt_with_an_escape(self) -> None:
        assert codes("var tr\\u0061nsform = (evt) => null;") == ["lint_skipped"]

    def test_names_the_line_where_the_parser_stopped(self) -> None:
        assert lint("function transform(evt) {\n  return null;\n}\nconst f = () => 1;")[-1].line == 4

    def test_long_scripts_are_not_parsed(self) -> None:
        started = time.monotonic()
        assert codes("x;" * TEXT_CHARS_MAX) == ["lint_skipped"]
        assert time.monotonic() - started < 1


def test_findings_come_in_the_order_of_their_lines() -> None:
    found = lint("var x = fetch;\nfunction transform(evt, headers, a, b, c) {\n  return headers.host + console;\n}")
    assert [(f.line, f.code) for f in found] == [
        (1, "unknown_name"),
        (2, "too_many_parameters"),
        (3, "header_name_case"),
        (3, "unknown_name"),
    ]


PIECES = (
    "function transform ( ) { } [ ] ; , . : ? = + / * ` ${ } ' \" \\ \\u0061 \n return if else switch case default "
    "break for while do try catch finally typeof throw new var let const evt headers headers. ts: name: data: "
    "evt.created 1e400 1700000000 0x 'x' /a/ /[/ => ... async await class get set in of \x00 \ud800 \u2028"
)
ANY_TEXT = st.one_of(
    st.text(),
    st.binary().map(lambda raw: raw.decode("latin-1")),
    st.lists(st.sampled_from(PIECES.split(" ")), max_size=60).map(" ".join),
)
EXPRESSIONS = st.recursive(
    st.sampled_from(["evt", "headers.host", "1700000000", "'x'", "/a/g", "fetch", "evt.ts", "this", "null", "true"]),
    lambda inner: st.builds(
        str.format,
        st.sampled_from(
            [
                "({0}, {1})",
                "({{ ts: {0}, name: {1} }})",
                "{0} / {1}",
                "typeof {0}",
                "headers[{0}]",
                "{0}({1})",
                "new Date({0}).getTime() / 1000",
                "`a${{ {0} }}b`",
                "({0} ? {1} : {0})",
                "(function (x) {{ return {0}; }})",
                "[{0}, {1}]",
                "{0} || {1}",
                "(event.ts = {0})",
                "({{ data: {{ ts: {0} }}, get a() {{ return {1} }} }})",
            ]
        ),
        inner,
        inner,
    ),
    max_leaves=6,
)
STATEMENTS = st.recursive(
    st.builds("{};".format, EXPRESSIONS)
    | st.sampled_from(["return;", "break;", "var ts = evt.created;", ";", "throw evt;", "debugger;"]),
    lambda inner: st.builds(
        str.format,
        st.sampled_from(
            [
                "{{ {0} {1} }}",
                "if (evt) {0} else {1}",
                "while (true) {{ {0} }}",
                "for (;;) {0}",
                "for (var k in evt) {0}",
                "do {0} while (evt);",
                "try {{ {0} }} catch (e) {{ {1} }}",
                "try {{ {0} }} finally {{ {1} }}",
                "switch (evt) {{ case 1: {0} default: {1} }}",
                "switch (evt) {{ }}",
                "label: for (;;) {{ {0} break label; }}",
                "with (evt) {{ {0} }}",
                "function inner(a, b) {{ {0} }}",
            ]
        ),
        inner,
        inner,
    ),
    max_leaves=6,
)


def check_total(script: str) -> None:
    lines = script.count("\n") + script.count("\r") + script.count("\u2028") + script.count("\u2029") + 1
    for finding in lint(script):
        assert finding.code in FINDINGS
        assert finding.line is None or 1 <= finding.line <= lines + 1


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_never_raises(text: str) -> None:
    check_total(text)
    check_total(body(text))


@settings(max_examples=200, deadline=None)
@given(STATEMENTS, STATEMENTS)
def test_never_raises_on_what_parses(first: str, last: str) -> None:
    check_total(body(f"{first}\n{last}"))
    check_total(f"{first}\n{body(last)}")


@pytest.mark.parametrize(
    "text",
    [
        "function " + " " * 200_000 + "(",
        "transfrom" * 25_000 + "=>",
        "var " + ",".join(f"a{i}" for i in range(20_000)) + ";" + ";".join(f"b{i}" for i in range(10_000)),
        "if (a) {} else " * 10_000,
        "`${" * 10_000,
        "'" + "x" * 250_000 + "'",
        "/" + "(a*)*" * 40_000 + "/",
    ],
    ids=["spaces", "long name", "many names", "else if", "templates", "long text", "regular expression"],
)
def test_takes_bounded_time(text: str) -> None:
    started = time.monotonic()
    lint(text)
    assert time.monotonic() - started < 10
