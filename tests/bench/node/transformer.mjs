// The two engines a Node service would run its users' scripts in: isolated-vm (V8, an isolate of its own) and
// quickjs-emscripten (QuickJS as WebAssembly). Both in the server's own process, one context for all calls, a deadline
// and a memory limit.

const DEADLINE_MS = 1000;
const MEMORY_MIB = 64;
const CALL = `
function call(raw, headers) {
  return JSON.stringify(transform(JSON.parse(raw), JSON.parse(headers), {}, raw));
}`;

/** The function that takes a body and headers (JSON text) and returns the transform's event as JSON text. */
export async function transformer(engine, script) {
  const engines = { "isolated-vm": isolate, "quickjs-emscripten": quickjs };
  return engines[engine](script + CALL);
}

async function isolate(script) {
  const { default: ivm } = await import("isolated-vm");
  const context = new ivm.Isolate({ memoryLimit: MEMORY_MIB }).createContextSync();
  context.evalSync(script, { timeout: DEADLINE_MS });
  const call = context.global.getSync("call", { reference: true });
  return (raw, headers) => call.applySync(undefined, [raw, headers], { timeout: DEADLINE_MS });
}

async function quickjs(script) {
  const { getQuickJS, shouldInterruptAfterDeadline } = await import("quickjs-emscripten");
  const runtime = (await getQuickJS()).newRuntime();
  runtime.setMemoryLimit(MEMORY_MIB * 1024 * 1024);
  const context = runtime.newContext();
  context.unwrapResult(context.evalCode(script)).dispose();
  const call = context.getProp(context.global, "call");
  return (raw, headers) => {
    runtime.setInterruptHandler(shouldInterruptAfterDeadline(Date.now() + DEADLINE_MS));
    const given = [context.newString(raw), context.newString(headers)];
    const event = context.unwrapResult(context.callFunction(call, context.undefined, ...given));
    try {
      return context.getString(event);
    } finally {
      [event, ...given].forEach((handle) => handle.dispose());
    }
  };
}
