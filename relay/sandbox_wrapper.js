// Runs first in every fresh context and keeps the built-ins it needs where no script can reach or change them.
// Its value is the one function that the child calls, relayStep(what, …):
//   what 0, factory, lengthMax: whose transform it is, and how long its results may be. Answers relayCall, below
//   what 1: how the promise settled, answered like relayCall
//   what 2: the last error as the JSON text {"name","message","stack"}
//   what 3, factory: only find the transform: null, 1 or 3
//   what 4, null, 0, raw, evt, headers, query: read the request (none of the script's code runs; a query of null is
//           none): null, 1 or 6
//   what 5: whether there were doubts since this was last asked
//   what 6: the function to be called when there are doubts, for sandbox_lockdown.js
// relayCall(raw, evt, headers, query) runs the transform on that request, or for a raw of null on the one read last.
// Answers the result's JSON text; null for "nothing"; or a number:
//           1 it threw (ask 2 for why), 2 it returned a promise (run the jobs, then ask 1; doubts are still to be asked
//           for), 3 there is no function named transform, 4 the text is longer than lengthMax, 5 the result has no
//           JSON form, 6 null was thrown, as the engine does with no memory left for an error, 7 there are doubts
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
  let settled = PENDING, failure = null, given = null, named = null, asked = null, text = null;
  let factory = null, lengthMax = 0, doubtful = false;

  function relayDoubt() {
    doubtful = true;
    return "";
  }

  function relayText(value, charsMax) {
    return apply(slice, typeof value === "string" ? value : `${value}`, [0, charsMax]);
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

  function relayDone(value) {
    if (value === undefined || value === null) return null;
    const text = stringify(value);
    if (text === undefined) return 5;
    return text.length > lengthMax ? 4 : text;
  }

  function relayBody(raw) {
    try {
      return parse(raw[0] === "\ufeff" ? apply(slice, raw, [1]) : raw);
    } catch (error) {
      if (error === null || error instanceof EngineFault) throw error; // out of memory
      doubtful = false; // this error is the relay's own
      return null;
    }
  }

  function relayAwait(promise) {
    settled = PENDING;
    const real = new RealPromise(function relayResolve(resolve) { resolve(promise); });
    apply(then, real, [
      function relayFulfilled(value) {
        try { settled = relayDone(value); } catch (error) { settled = relayFail(error); }
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

  // `more` is never given: so a script finds the same room on the stack whether its request was read before or not.
  function relayCall(raw, evt, headers, query, more) {
    try {
      if (raw !== null) relayRead(raw, evt, headers, query);
      const body = given, names = named, params = asked, whole = text;
      given = named = asked = text = null;
      const transform = factory();
      if (typeof transform !== "function") return 3;
      const value = transform(body, names, params, whole);
      const kind = typeof value;
      if (value !== null && (kind === "object" || kind === "function") && typeof value.then === "function") {
        return relayAwait(value);
      }
      const answer = relayDone(value);
      if (!doubtful || typeof answer === "number") return answer;
      doubtful = false;
      return 7;
    } catch (error) {
      return relayFail(error);
    }
  }

  return function relayStep(what, script, charsMax, raw, evt, headers, query) {
    if (what === 1) return settled;
    if (what === 2) return failure;
    if (what === 5) {
      const had = doubtful;
      doubtful = false;
      return had;
    }
    if (what === 6) return relayDoubt;
    try {
      if (what === 3) return typeof script() === "function" ? null : 3;
      if (what === 4) return relayRead(raw, evt, headers, query);
      factory = script;
      lengthMax = charsMax;
      return relayCall;
    } catch (error) {
      return relayFail(error);
    }
  };
})()
