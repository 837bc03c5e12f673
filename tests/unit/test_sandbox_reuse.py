"""Contexts that are used again: who has one, that nothing passes through it, and when it is thrown away."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import _quickjs
import pytest

from relay import sandbox_reuse
from relay.sandbox_context import empty_context
from relay.sandbox_engine import Engine
from relay.sandbox_errors import ScriptError
from relay.sandbox_reuse import CONTEXTS_MAX, FAILURES_MAX, JOB_CALLS, LockedContext, means_the_same
from tests.support.engines import LIMITS, PROGRAMS, engine, fresh_result, inputs, locked, locked_result, run

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
PERSISTENT: dict[str, str] = json.loads((DATA / "persistent-transforms.json").read_text())
HOSTILE: dict[str, str] = json.loads((DATA / "hostile-transforms.json").read_text())
#: Cannot be interrupted: these need a process to be killed.
ENDLESS = {"promise_exec_swallow", "promise_exec_swallow2", "async_swallow", "asyncgen_swallow"}
#: What a script can notice after all, named in docs/security.md: see test_the_one_difference_that_is_left.
KNOWN = {"depth then frozen write"}
ODD_BODY = '{"x":1,"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":2}}}'
ECHO = "const transform = (evt) => evt"


@pytest.mark.parametrize("name", sorted((PERSISTENT.keys() | HOSTILE.keys()) - ENDLESS - KNOWN))
def test_each_call_in_a_used_context_gives_the_fresh_result_or_is_made_again(name: str) -> None:
    """Also for scripts that would never be given such a context: freezing alone must hold."""
    script = PERSISTENT.get(name) or HOSTILE[name]
    expected = fresh_result(script, ODD_BODY)
    try:
        context = locked(script)
    except _quickjs.JSException:
        return  # no strict script: it has no context
    for _ in range(4):
        assert locked_result(context, ODD_BODY) in (expected, "unsure")


def test_most_scripts_do_use_theirs() -> None:
    """The test above would pass if every call were doubted."""
    sure = [name for name in PERSISTENT if locked_result(locked(PERSISTENT[name]), ODD_BODY) != "unsure"]
    assert {"module variable", "generator state", "template object", "async generator left open"} <= set(sure)
    assert locked_result(locked(ECHO), ODD_BODY) == ODD_BODY


def test_the_one_difference_that_is_left() -> None:
    """An error within a frame of the engine's stack limit is not noticed; nothing gets to the next call by it."""
    script = PERSISTENT["depth then frozen write"]
    assert (fresh_result(script), locked_result(locked(script))) == ('{"r":1}', '{"r":null}')
    context = locked(script)
    assert [locked_result(context) for _ in range(3)] == ['{"r":null}'] * 3


AUDIT = """(function () {
  const { getPrototypeOf, getOwnPropertyDescriptor, isFrozen } = Object, { ownKeys, apply } = Reflect;
  const slots = [Date.prototype.getTime, ...[[Map.prototype, "size"], [Set.prototype, "size"],
    [ArrayBuffer.prototype, "byteLength"], [DataView.prototype, "byteLength"], [RegExp.prototype, "source"],
    [getPrototypeOf(Int8Array.prototype), "length"]].map(([owner, key]) => getOwnPropertyDescriptor(owner, key).get),
    WeakMap.prototype.has, WeakSet.prototype.has, Promise.prototype.then];
  const hasState = (object) => slots.filter((slot) => {
    try { return apply(slot, object, [{}]) !== undefined && object !== RegExp.prototype } catch { return false }
  }).length > 0;
  return function audit(roots, owned) {
    const seen = new Set(owned), todo = [...roots], found = [];
    for (let next = 0; next < todo.length; next++) {
      const object = todo[next];
      if (object === null || !["object", "function"].includes(typeof object) || seen.has(object)) continue;
      seen.add(object);
      if (!isFrozen(object) || hasState(object)) found.push(String(object.name ?? ownKeys(object).map(String)));
      todo.push(getPrototypeOf(object));
      for (const key of ownKeys(object)) {
        const { value, get, set } = getOwnPropertyDescriptor(object, key);
        todo.push(value, get, set);
      }
    }
    return JSON.stringify({ count: seen.size, found });
  };
})()"""
ROOTS = """(function () {
  const made = [function () {}, () => {}, class {}, class { static #x = 1 }, function* () {}, async function () {},
    async function* () {}, async () => {}, { m() {} }.m, [], {}, /a/, new Map(), new Set(), new WeakMap(),
    new WeakSet(), new Date(), new Error(), new AggregateError([]), new Int8Array(1), Promise.resolve(),
    new DataView(new ArrayBuffer(1)),
    Promise.withResolvers(), Object(1n), Object(Symbol()), Object(""), Object(1), Object(true), JSON.rawJSON("1"),
    (function () { return arguments })(), (function () { "use strict"; return arguments })(), new ArrayBuffer(1)];
  made.push(made[4](), made[6](), [].keys(), "".matchAll(/a/g), ""[Symbol.iterator](), new Map().keys(),
    new Set().keys(), [].values().map((x) => x), [].values().filter((x) => x), [].values().take(1), [].values().drop(1),
    [].values().flatMap((x) => x), Iterator.from({ next() {} }), Array.fromAsync([]), Object.groupBy([], (x) => x),
    Iterator.concat ? Iterator.concat([1]) : 0, Iterator.zip ? Iterator.zip([[1]]) : 0, (function () {}).bind());
  const own = [...made, made[4].prototype, made[6].prototype];
  return [[globalThis, ...own.map((one) => Object.getPrototypeOf(Object(one)))], own];
})()"""


def test_everything_that_calls_could_share_is_frozen_and_has_no_state() -> None:
    """Walked to with natives taken before the lockdown, from everything that syntax and built-ins make."""
    context = empty_context(_quickjs, LIMITS)
    audit = context.eval(AUDIT)
    context.eval(PROGRAMS.lockdown)(context.eval('() => ""'))
    report = json.loads(context.eval("(audit, made) => audit(made[0], made[1])")(audit, context.eval(ROOTS)))
    assert report["found"] == []
    assert report["count"] > 500


SAME = {
    ECHO,
    "// this function is for eval()\nfunction transform(e) { return 'this, arguments, globalThis' }",
    r"function transform(e) { return /\u00e9this/.test('\u00e9\x41') }",
    "function transform(e) { function inner() { return 1 } return inner() }",
    "function transform(e) { { async function a() {} function* g() {} } return 1 }",
    "function transform(e) { const f = function () {}, g = { m() {} }; return 1 }",
    "class A { static { function f() {} } #n = 1; constructor(x) { super_(x) } } function transform() { return 1 }",
    "async function transform(e) { for await (const x of []) {} return `${e.x}` }",
    "function transform(e) { async\nfunction f() {} }",
}
DIFFERENT = {
    "function transform(e) { return this }",
    "function transform(e) { return `${this}` }",
    r"function transform(e) { return th\u0069s }",
    "function transform(e) { return arguments[0] }",
    "function transform(e) { return globalThis.x }",
    "function transform(e) { return Math.random() }",
    "function transform(e) { return typeof performance }",
    "function transform(e) { return eval('1') }",
    "function transform(e) { return new Proxy({}, {}) }",
    "function transform(e) { return Object.isFrozen(Object.prototype) }",
    "function transform(e) { if (e) { function f() {} } return typeof f }",
    "function transform(e) { if (e) function f() {} }",
    "function transform(e) { label: function f() {} }",
    "function transform(e) { switch (1) { case 1: function f() {} } }",
    "function transform(e) { try { function f() {} } catch {} }",
    "function transform(e) { { function/**/f() {} } }",
    "function transform(e) { { function\u00a0f() {} } }",
    "function transform(e) { { function f\u00e9() {} } }",
    "function transform(e) { { function\nf() {} } }",
    "function transform(e) { { async\nfunction f() {} } }",
    "const g = (x) => { { function f() {} } }; function transform() {}",
    "function transform(e) { return 010 }",
    "function transform(e) { with (e) return x }",
    "function transform(a, a) { return a }",
    "var let_ = 1, let = 2; function transform() {}",
    "}); globalThis.out = 1; (function () {",
    "function transform() {} /*",
    "function transform() {} // \0",
}


@pytest.mark.parametrize("script", sorted(SAME))
def test_a_script_that_means_the_same_in_strict_mode_may_have_a_context(script: str) -> None:
    assert means_the_same(_quickjs, script, LIMITS)


@pytest.mark.parametrize("script", sorted(DIFFERENT))
def test_a_script_that_may_mean_something_else_has_none(script: str) -> None:
    assert not means_the_same(_quickjs, script, LIMITS)
    runs = engine()
    for _ in range(3):
        with suppress(ScriptError):
            run(runs, script, inputs())
    assert not runs.shelf.contexts


def test_every_transform_that_is_shipped_may_have_a_context() -> None:
    shipped = [*(ROOT / "transforms").glob("*.js"), ROOT / "relay" / "default_transform.js"]
    assert [path.name for path in shipped if not means_the_same(_quickjs, path.read_text(), LIMITS)] == []


def only_context(runs: Engine) -> LockedContext:
    (context,) = runs.shelf.contexts.values()
    return context


def test_a_context_is_used_again_and_is_its_scripts_alone() -> None:
    runs = engine()
    scripts = [f"let n = 0; const transform = (e) => [e.x, {number}, ++n]" for number in range(3)]
    for turn in range(5):
        for number, script in enumerate(scripts):
            assert run(runs, script, inputs(f'{{"x":{turn}}}')) == f"[{turn},{number},1]"
    assert list(runs.shelf.contexts) == [0, 1, 2]
    assert [context.calls for context in runs.shelf.contexts.values()] == [5, 5, 5]
    assert not runs.used  # no context was made ahead for these


def test_two_sources_with_the_same_script_have_two_contexts() -> None:
    runs = engine()
    for place in (0, 1):
        runs.put(place, ECHO)
        runs.run(place, inputs())
    one, other = runs.shelf.contexts.values()
    assert one.context is not other.context
    runs.put(0, "const transform = () => 0")
    assert list(runs.shelf.contexts) == [1]
    assert runs.run(0, inputs()) == "0"


def test_one_call_or_all_calls_can_do_without() -> None:
    for runs, once in ((engine(), True), (engine(reuse=False), False)):
        assert run(runs, ECHO, inputs(), once=once) == '{"x":1}'
        assert not runs.shelf.contexts


def test_a_body_that_is_no_json_is_no_doubt() -> None:
    runs = engine()
    for _ in range(4):
        assert run(runs, "const transform = (e, h, q, raw) => [e, raw]", inputs("<x/>")) == '[null,"<x/>"]'
    assert only_context(runs).calls == 4


def test_a_doubt_is_about_one_call() -> None:
    """The next one in that context is judged by its own errors; and by no mark before its body is none."""
    context = locked("function transform(e, h, q, raw) { try { e.x.y.z } catch {} return raw }")
    bodies = ['{"x":{"y":1}}', '{"x":1}', '{"x":{"y":2}}', "{", '{"x":{"y":3}}', '\ufeff{"x":{"y":4}}']
    assert [locked_result(context, body) == json.dumps(body, ensure_ascii=False) for body in bodies] == [
        *(True, False, True, False, True, True),
    ]


def test_a_large_request_has_a_fresh_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_reuse, "REQUEST_CHARS_MAX", 10)
    runs = engine()
    run(runs, ECHO, inputs('{"x":1}'))
    run(runs, ECHO, inputs('{"x":1234567}'))
    assert only_context(runs).calls == 1


def test_a_context_is_thrown_away_after_so_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_reuse, "JOB_CALLS", 5)
    monkeypatch.setattr(sandbox_reuse, "MEASURE_CALLS", 5)
    monkeypatch.setattr(sandbox_reuse, "CALLS_MAX", 10)
    runs = engine()
    seen = []
    for _ in range(25):
        run(runs, ECHO, inputs())
        seen.append(only_context(runs) if runs.shelf.contexts else None)
    assert [number for number, context in enumerate(seen, 1) if context is None] == [10, 20]
    assert len({id(context) for context in seen if context}) == 3


def test_a_context_is_thrown_away_when_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage that holds itself waits for the engine's collector."""
    monkeypatch.setattr(sandbox_reuse, "JOB_CALLS", 2)
    monkeypatch.setattr(sandbox_reuse, "MEASURE_CALLS", 2)
    monkeypatch.setattr(sandbox_reuse, "GROWTH_BYTES_MAX", 64 * 1024)
    runs = engine()
    cycles = "const transform = (e) => { const a = { text: 'x'.repeat(5e4) + e.x }; a.a = a; return 1 }"
    calls = []
    for number in range(40):
        run(runs, cycles, inputs(f'{{"x":{number}}}'))
        calls.append(only_context(runs).calls if runs.shelf.contexts else 0)
    assert 0 in calls
    assert max(calls) >= 1


def test_contexts_are_limited_in_number() -> None:
    runs = engine()
    for number in range(CONTEXTS_MAX + 3):
        run(runs, f"const transform = () => {number}", inputs())
    assert len(runs.shelf.contexts) == CONTEXTS_MAX
    assert min(runs.shelf.contexts) == 3  # the least recently used are gone


def test_what_is_left_to_do_is_never_done_in_the_next_call() -> None:
    runs = engine()
    script = "function transform(e) { Promise.resolve().then(() => { e.x = 0 }); return e }"
    for number in range(5):
        assert run(runs, script, inputs(f'{{"x":{number}}}')) == f'{{"x":{number}}}'
        assert not runs.shelf.contexts


HIDDEN_PROMISE = """function transform(e) {
  Array["from" + "As" + "ync"]([e]).constructor; return { x: e.x, n: e.n };
}"""
HIDDEN_THENABLE = """const transform = (e) => ({ ["th" + "en"](resolve) { resolve({ x: e.x }) } })"""


def test_a_promise_that_no_word_tells_of_is_found_out() -> None:
    """What its calls leave behind is looked for now and then; a call that needs it to be none has a fresh context."""
    assert not any(locked(script).makes_promises for script in (HIDDEN_PROMISE, HIDDEN_THENABLE))
    runs, lost = engine(), 0
    for number in range(2 * JOB_CALLS + 4):
        assert run(runs, HIDDEN_PROMISE, inputs(f'{{"x":{number}}}')) == f'{{"x":{number}}}'
        lost += not runs.shelf.contexts
    assert lost >= 2
    assert locked_result(locked(HIDDEN_THENABLE)) == "unsure"
    for number in range(8):
        assert run(runs, HIDDEN_THENABLE, inputs(f'{{"x":{number}}}')) == f'{{"x":{number}}}'


@pytest.mark.parametrize(
    "script",
    [
        "async function transform(e) { return e }",
        "const transform = (e) => Promise.resolve(e)",
        "const transform = (e) => ({ then(resolve) { resolve(e) } })",
        r"const transform = (e) => \u0050romise.resolve(e)",
    ],
)
def test_what_a_promise_leaves_is_looked_for_after_each_call(script: str) -> None:
    context = locked(script)
    assert context.makes_promises
    for number in range(5):
        assert locked_result(context, f'{{"x":{number}}}') == f'{{"x":{number}}}'
        assert not context.spent


def test_a_script_that_throws_says_what_it_says_in_a_fresh_context() -> None:
    script = "function transform(e) {\n  return e.x.y.z }"
    found = []
    for runs in (engine(), engine(reuse=False)):
        with pytest.raises(ScriptError) as error:
            run(runs, script, inputs())
        found.append((error.value.code, error.value.message, error.value.stack))
    assert found[0] == found[1]


def test_a_context_that_is_doubted_often_is_given_up_for_longer_each_time() -> None:
    """Else its script's calls would all be made twice."""
    runs = engine()
    script = "function transform(e) { try { null.x } catch {} return e }"
    made = []
    for _ in range(7000):
        had = bool(runs.shelf.contexts)
        assert run(runs, script, inputs()) == '{"x":1}'
        made += [1] if runs.shelf.contexts and not had else []
    assert 2 <= len(made) <= FAILURES_MAX


class ScarceEngine:
    """The engine in a process whose memory the contexts on the shelf have used up."""

    JSException = _quickjs.JSException
    runs: Engine

    def Context(self) -> object:  # noqa: N802 - the binding's own name
        if self.runs.shelf.contexts:
            raise MemoryError
        return _quickjs.Context()


def test_a_fresh_call_that_lacks_memory_gets_what_the_shelf_has() -> None:
    runs = engine()
    run(runs, ECHO, inputs())
    runs.binding = ScarceEngine()
    runs.binding.runs = runs
    assert run(runs, "const transform = () => 2", inputs(), once=True) == "2"
    assert not runs.shelf.contexts


def test_time_used_up_in_secret_is_a_doubt() -> None:
    """A promise's executor swallows the interrupt; in a fresh context there is four times as much time."""
    script = "function transform() { let n = 0; new Promise(() => { while (true) n++ }); return { n: n > 0 } }"
    assert locked_result(locked(script)) == "unsure"


def test_time_used_up_without_an_interrupt_is_a_doubt_too() -> None:
    """The engine looks at the clock now and then; what it did not notice here, it may notice in a longer call."""
    body = json.dumps({f"key{number}": [number] for number in range(500)})
    context = locked(ECHO)
    assert locked_result(context, body) != "unsure"
    context.limit(1e-5)
    assert locked_result(context, body) == "unsure"


ROOM = {
    "calls": "function f(n) { return n ? f(n - 1) + 1 : 0 } function transform(e) { return { depth: f(e.x) } }",
    "its result": "function transform(e) { let a = []; for (let n = 0; n < e.x; n++) a = [a]; return a }",
}


@pytest.mark.parametrize("name", sorted(ROOM))
def test_there_is_as_much_room_on_the_stack_as_in_a_fresh_context(name: str) -> None:
    """More, and a script would have a result where it has an error in a fresh one."""
    low, high = 1, 100_000
    while high - low > 1:
        middle = (low + high) // 2
        fits = not str(fresh_result(ROOM[name], f'{{"x":{middle}}}')).startswith("error")
        low, high = (middle, high) if fits else (low, middle)
    assert low > 100
    assert locked_result(locked(ROOM[name]), f'{{"x":{low}}}') != "unsure"
    assert locked_result(locked(ROOM[name]), f'{{"x":{high}}}') == "unsure"
