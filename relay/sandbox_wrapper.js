// Runs first in every fresh context and keeps the built-ins it needs where no script can reach or change them.
// Its value is the one function that the child calls: relayStep(what, factory, lengthMax, raw, evt, headers, query).
//   what 5: 4 and 0 in one, in a context that is used again; answered like 0, or 7 for a result that is in doubt. After
//           a 2, doubts are still to be asked for
//   what 6: `factory` is what tells, then and now, whether there were doubts since it was last asked
//   what 4: read the request (none of the script's code runs; a query of null is none): null, 1 or 6
//   what 0: run the transform on it. Answers the result's JSON text; null for "nothing"; or a number:
//           1 it threw (ask 2 for why), 2 it returned a promise (run the jobs, then ask 1),
//           3 there is no function named transform, 4 the text is longer than lengthMax,
//           5 the result has no JSON form, 6 null was thrown, as the engine does with no memory left for an error
//   what 1: how the promise settled, answered like 0
//   what 2: the last error as the JSON text {"name","message","stack"}
//   what 3: only find the transform: null, 1 or 3
// Every function here is named relay…, so that its frames can be told from the script's in a stack.
// Results leave as the very string JSON.stringify made: the binding cannot return a concatenated one.
(function relaySetup() {
  "use strict";
  const parse = JSON.parse, stringify = JSON.stringify;
  const RealPromise = Promise, then = Promise.prototype.then;
  const EngineFault = InternalError;
  const apply = Reflect.apply, slice = String.prototype.slice;
  for (const name of ["Atomics", "SharedArrayBuffer", "WeakRef", "FinalizationRegistry"]) delete globalThis[name];

  const PENDING = 2;
  let settled = PENDING, failure = null, given = null, named = null, asked = null, text = null, doubts = null;

  function relayText(value, lengthMax) {
    return apply(slice, typeof value === "string" ? value : `${value}`, [0, lengthMax]);
  }

  // All of this runs the script's own getters and toString: inside the time limit, and it may throw anything.
  function relayFail(thrown) {
    if (thrown === null) return 6;
    const report = { __proto__: null, name: "", message: "", stack: "" }; // no prototype: no toJSON from the script
    try {
      if (typeof thrown === "object") {
        const { name, message, stack } = thrown;
        report.name = name === undefined ? "Thrown" : relayText(name, 100);
        report.message = relayText(message === undefined ? stringify(thrown) : message, 2000);
        report.stack = stack === undefined ? "" : relayText(stack, 4000);
      } else {
        report.name = "Thrown";
        report.message = typeof thrown === "symbol" ? "a symbol" : relayText(thrown, 2000);
      }
    } catch {
      report.message = "an error that cannot be printed";
    }
    failure = stringify(report);
    return 1;
  }

  function relayDone(value, lengthMax) {
    if (value === undefined || value === null) return null;
    const text = stringify(value);
    if (text === undefined) return 5;
    return text.length > lengthMax ? 4 : text;
  }

  function relayBody(raw) {
    try {
      return parse(raw.charCodeAt(0) === 0xfeff ? apply(slice, raw, [1]) : raw);
    } catch (error) {
      if (error === null || error instanceof EngineFault) throw error; // out of memory
      if (doubts !== null) doubts(); // this error is the relay's own
      return null;
    }
  }

  function relayAwait(promise, lengthMax) {
    settled = PENDING;
    const real = new RealPromise(function relayResolve(resolve) { resolve(promise); });
    apply(then, real, [
      function relayFulfilled(value) {
        try { settled = relayDone(value, lengthMax); } catch (error) { settled = relayFail(error); }
      },
      function relayRejected(reason) { settled = relayFail(reason); },
    ]);
    return PENDING;
  }

  function relayRead(raw, evt, headers, query) {
    given = evt === null ? relayBody(raw) : parse(evt);
    named = parse(headers);
    asked = query === null ? {} : parse(query);
    text = raw;
    return null;
  }

  function relayRun(factory, lengthMax) {
    const body = given, headers = named, query = asked, raw = text;
    given = named = asked = text = null;
    const transform = factory();
    if (typeof transform !== "function") return 3;
    const value = transform(body, headers, query, raw);
    const kind = typeof value;
    if (value !== null && (kind === "object" || kind === "function") && typeof value.then === "function") {
      return relayAwait(value, lengthMax);
    }
    return relayDone(value, lengthMax);
  }

  function relaySure(answer) {
    return typeof answer !== "number" && doubts() ? 7 : answer;
  }

  // `more` is never given: so a script finds the same room on the stack whether it is called with a 0 or with a 5.
  return function relayStep(what, factory, lengthMax, raw, evt, headers, query, more) {
    if (what === 1) return settled;
    if (what === 2) return failure;
    try {
      if (what === 3) return typeof factory() === "function" ? null : 3;
      if (what === 4) return relayRead(raw, evt, headers, query);
      if (what === 6) return void (doubts = factory);
      if (what === 5) {
        relayRead(raw, evt, headers, query);
        return relaySure(relayRun(factory, lengthMax));
      }
      return relayRun(factory, lengthMax);
    } catch (error) {
      return relayFail(error);
    }
  };
})()
