"""Which names a transform finds in the engine, and what to use instead of those that it does not find."""

from __future__ import annotations

from typing import Final

#: The globals of the engine (quickjs-ng), without those that the sandbox takes away.
ENGINE_NAMES: Final = frozenset(
    """AggregateError Array ArrayBuffer AsyncDisposableStack BigInt BigInt64Array BigUint64Array Boolean
    DOMException DataView Date DisposableStack Error EvalError Float16Array Float32Array Float64Array Function
    Infinity Int16Array Int32Array Int8Array InternalError Iterator JSON Map Math NaN Number Object Promise
    Proxy RangeError ReferenceError Reflect RegExp Set String SuppressedError Symbol SyntaxError TypeError
    URIError Uint16Array Uint32Array Uint8Array Uint8ClampedArray WeakMap WeakSet arguments atob btoa decodeURI
    decodeURIComponent encodeURI encodeURIComponent escape eval globalThis isFinite isNaN parseFloat parseInt
    performance queueMicrotask undefined unescape""".split()  # noqa: SIM905 - a list would take seventy lines
)

NO_NETWORK: Final = "a transform has no network; do it in the Inngest function that the event starts"
NO_MODULES: Final = "a transform is one file and imports nothing"
NO_EXPORTS: Final = "a transform exports nothing; a function named transform at the top level is enough"
NO_TIMERS: Final = "a transform does not wait; use step.sleep in the Inngest function"
#: A name that other engines have → what to do here instead.
HINTS: Final[dict[str, str]] = {
    "fetch": NO_NETWORK,
    "XMLHttpRequest": NO_NETWORK,
    "WebSocket": NO_NETWORK,
    "axios": NO_NETWORK,
    "console": "nothing is printed; put what you want to see into data, or try the script with `relay transform`",
    "Buffer": "use atob and btoa for base64",
    "require": NO_MODULES,
    "module": NO_EXPORTS,
    "exports": NO_EXPORTS,
    "process": "there are no environment variables; keep settings in the Inngest function",
    "Deno": NO_MODULES,
    "setTimeout": NO_TIMERS,
    "setInterval": NO_TIMERS,
    "setImmediate": NO_TIMERS,
    "clearTimeout": NO_TIMERS,
    "crypto": "the relay has verified the signature already; for an id use one that the provider sends",
    "URL": "the query of the request is in queryParams; take other URLs apart with split or a regular expression",
    "URLSearchParams": "form bodies arrive parsed in evt, the query in queryParams",
    "TextEncoder": "raw is text already; for base64 use atob and btoa",
    "TextDecoder": "raw is text already; for base64 use atob and btoa",
    "structuredClone": "write JSON.parse(JSON.stringify(value))",
    "Intl": "toLocaleString works, in a fixed English form; format in the Inngest function",
    "window": "the global object is globalThis",
    "self": "the global object is globalThis",
    "global": "the global object is globalThis",
    "document": "there is no page; take XML or HTML apart with regular expressions, or in the Inngest function",
    "DOMParser": "there is no page; take XML or HTML apart with regular expressions, or in the Inngest function",
    "localStorage": "nothing is kept from one call to the next",
    "Atomics": "a transform runs alone; plain objects will do",
    "SharedArrayBuffer": "a transform runs alone; plain objects will do",
}
