// The Node reference: what a careful team would write with fastify and better-sqlite3, for the benchmark only.
//
//   node --no-node-snapshot server.mjs PORT FOLDER [isolated-vm | quickjs-emscripten TRANSFORM]
//
// POST /in/stripe: checks Stripe's signature on the raw bytes, and answers 200 once the webhook is in SQLite, WAL with
// synchronous=FULL. Those that arrive together are committed together; an id that is already there answers 200 and is
// not stored again. With an engine named, the transform runs before the answer, and its event is stored in the same
// transaction. Nothing is delivered, retried, replayed, expired or shown. Prints `ready` when it listens.

import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import Fastify from "fastify";
import { transformer } from "./transformer.mjs";

const BODY_BYTES_MAX = 1024 * 1024;
const TOLERANCE_SECONDS = 300;
const SECRET = process.env.BENCH_SECRET;
const [port, folder, engine, script] = process.argv.slice(2);

const database = new Database(join(folder, "node.db"));
for (const pragma of ["page_size = 16384", "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 256"]) {
  database.pragma(pragma);
}
database.exec(`
  CREATE TABLE deliveries (seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, received_ms INTEGER NOT NULL,
                           headers TEXT NOT NULL, body BLOB NOT NULL);
  CREATE TABLE events (seq INTEGER PRIMARY KEY, delivery_seq INTEGER NOT NULL, json TEXT NOT NULL);
`);
const insertDelivery = database.prepare(
  "INSERT INTO deliveries (key, received_ms, headers, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
);
const insertEvent = database.prepare("INSERT INTO events (delivery_seq, json) VALUES (?, ?)");
const transform = engine ? await transformer(engine, readFileSync(script, "utf8")) : null;

/** Whether one of the header's v1 signatures is that of "<t>.<body>", and t is not long ago or far ahead. */
function genuine(header, body) {
  const parts = String(header ?? "").split(",").map((part) => part.split("=", 2));
  const stamp = parts.find(([name]) => name === "t")?.[1];
  if (!stamp || !(Math.abs(Date.now() / 1000 - Number(stamp)) <= TOLERANCE_SECONDS)) return false;
  const expected = createHmac("sha256", SECRET).update(`${stamp}.`).update(body).digest("hex");
  return parts.some(([name, given]) => name === "v1" && same(given, expected));
}

function same(given, expected) {
  return given?.length === expected.length && timingSafeEqual(Buffer.from(given), Buffer.from(expected));
}

// Group commit: whatever has arrived by the end of this turn of the loop is one transaction, one fsync.
let waiting = [];

function stored(delivery) {
  return new Promise((resolve, reject) => {
    if (waiting.length === 0) setImmediate(commit);
    waiting.push({ ...delivery, resolve, reject });
  });
}

const insertAll = database.transaction((group) =>
  group.map(({ key, headers, body, event }) => {
    const { changes, lastInsertRowid } = insertDelivery.run(key, Date.now(), headers, body);
    if (changes && event !== undefined) insertEvent.run(lastInsertRowid, event);
    return changes === 0;
  }),
);

function commit() {
  const group = waiting;
  waiting = [];
  try {
    const duplicates = insertAll.immediate(group);
    group.forEach(({ resolve }, number) => resolve(duplicates[number]));
  } catch (error) {
    group.forEach(({ reject }) => reject(error));
  }
}

const server = Fastify({ logger: false, bodyLimit: BODY_BYTES_MAX });
server.removeAllContentTypeParsers();
server.addContentTypeParser("*", { parseAs: "buffer" }, (request, body, done) => done(null, body));
server.post("/in/stripe", async (request, reply) => {
  const { headers, body } = request;
  if (!genuine(headers["stripe-signature"], body)) return reply.code(401).send({ error: "not genuine" });
  const raw = body.toString("utf8");
  const { id } = JSON.parse(raw);
  const kept = JSON.stringify(headers);
  const event = transform?.(raw, kept);
  const duplicate = await stored({ key: id, headers: kept, body, event });
  return { id, duplicate };
});

process.on("SIGTERM", () => process.exit(0));
await server.listen({ port: Number(port), host: "127.0.0.1", backlog: 1024 });
console.log("ready");
