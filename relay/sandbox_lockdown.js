// Runs after sandbox_wrapper.js in a context that is used again. Freezes everything that two calls could share, so that
// nothing a script does is there in the next call, and makes sure that a script which could notice is found out:
// `relayDoubt`, with which its value is to be called, is called for every error that is made, caught or not.
// The script is strict here, so a write to something frozen is such an error, and the call is then made again in a
// fresh context, where the write succeeds.
(function relayLockdown(relayDoubt) {
  "use strict";
  const global = globalThis;
  const { freeze, defineProperty, getOwnPropertyDescriptor, getPrototypeOf } = Object;
  const { ownKeys } = Reflect;

  // Called by the engine for every error made, in native code too. Then out of everybody's reach.
  Error.prepareStackTrace = relayDoubt;

  // Arrows and methods: they have no prototype object, which would be one more thing to write on.
  const relayRefuse = () => { throw new TypeError("not in a context that is used again"); };

  // What holds hidden state (a clock's origin, the queue) or makes sloppy code. These are reached by name alone, and
  // a script with such a name in its code has no context like this one.
  const NAMES = ["eval", "Function", "Reflect", "performance", "queueMicrotask", "DOMException", "__date_clock",
    "AsyncDisposableStack", "DisposableStack", "SuppressedError"];
  // What would tell frozen from not frozen, or holds hidden state, and can be reached by a computed name.
  const MEMBERS = [
    [Object, ["isFrozen", "isSealed", "isExtensible", "getOwnPropertyDescriptor", "getOwnPropertyDescriptors",
      "getOwnPropertyNames", "getOwnPropertySymbols"]],
    [Object.prototype, ["__lookupGetter__", "__lookupSetter__"]],
    [Math, ["random"]],
    [Error, ["prepareStackTrace", "stackTraceLimit", "captureStackTrace"]],
  ];
  const samples = [
    function* () {}, async function () {}, async function* () {}, function () {}, () => {},
    (function* () {})(), (async function* () {})(), [][Symbol.iterator](), new Map().entries(), new Set().values(),
    ""[Symbol.iterator](), "a".matchAll(/a/g), /a/, [].values().map((x) => x), Iterator.from({ next() {} }),
    (function () { return arguments; })(), (function () { "use strict"; return arguments; })(), Promise.resolve(),
    new Proxy({}, {}), new Uint8Array(0),
  ];
  for (const name of ["concat", "zip", "zipKeyed"]) {
    if (typeof Iterator[name] === "function") samples.push(Iterator[name](name === "zipKeyed" ? {} : []));
  }

  const seen = new Set(), found = [];
  function relayReach(value) {
    if (value === null || (typeof value !== "object" && typeof value !== "function") || seen.has(value)) return;
    seen.add(value);
    found.push(value);
  }
  relayReach(global);
  for (const sample of samples) {
    relayReach(getPrototypeOf(sample));
    const callee = getOwnPropertyDescriptor(sample, "callee");
    if (callee) relayReach(callee.get);
  }
  for (let next = 0; next < found.length; next++) {
    relayReach(getPrototypeOf(found[next]));
    for (const key of ownKeys(found[next])) {
      const { value, get, set } = getOwnPropertyDescriptor(found[next], key);
      relayReach(value);
      relayReach(get);
      relayReach(set);
    }
  }

  for (const makes of samples.slice(0, 4)) { // the four constructors that make code of text
    defineProperty(getPrototypeOf(makes), "constructor", { get: relayRefuse, set: relayRefuse, configurable: false });
  }
  for (const [owner, names] of MEMBERS) {
    for (const name of names) {
      const { enumerable } = getOwnPropertyDescriptor(owner, name);
      defineProperty(owner, name, { get: relayRefuse, set: relayRefuse, enumerable, configurable: false });
    }
  }
  for (const name of NAMES) delete global[name];

  // The override mistake: `out[key] = value` must work for a key like "constructor" though its namesake is frozen.
  function relayMend(key, descriptor) {
    const { value, enumerable } = descriptor;
    const accessors = {
      get() { return value; },
      set(given) {
        if (this === null || (typeof this !== "object" && typeof this !== "function")) relayRefuse();
        const own = { __proto__: null, value: given, writable: true, enumerable: true, configurable: true };
        defineProperty(this, key, own); // throws where this is frozen itself
      },
      enumerable,
      configurable: false,
    };
    defineProperty(Object.prototype, key, accessors);
    freeze(accessors.get);
    freeze(accessors.set);
  }
  for (const key of ownKeys(Object.prototype)) {
    const descriptor = getOwnPropertyDescriptor(Object.prototype, key);
    if (descriptor.writable) relayMend(key, descriptor);
  }

  freeze(relayRefuse);
  for (const shared of found) freeze(shared);
})
