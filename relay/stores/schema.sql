-- Version 1 of the store's file. What arrived never changes (deliveries, events); what happens to it is narrow
-- (delivery_state, event_state), so that a change of state never rewrites a body.
-- Text that is not valid Unicode is kept as a BLOB in the same column, so that every byte comes back.
-- The ids of the dedupe window are in tables seen_<end in ms>, made and dropped as time goes by.

CREATE TABLE meta (
    opens INTEGER NOT NULL,   -- how often an owner has opened the file: makes claims unique
    probes INTEGER NOT NULL
);
INSERT INTO meta (opens, probes) VALUES (0, 0);

CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    key TEXT,                 -- the provider's own delivery id
    received_ms INTEGER NOT NULL,
    environment TEXT,         -- what the request asked for
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    query TEXT NOT NULL,
    headers BLOB NOT NULL,    -- JSON [[name, value], ...], each byte one latin-1 character
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX delivery_by_id ON deliveries (id);
-- A provider that sends one event to the URLs of several environments gives all of them the same id.
CREATE UNIQUE INDEX delivery_by_key ON deliveries (source, key, ifnull(environment, '')) WHERE key IS NOT NULL;

CREATE TABLE delivery_state (
    seq INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,   -- 0 received, 1 processed, 2 filtered, 3 dead
    source TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL,
    environment TEXT,         -- what a replay set, else what the request asked for
    generation INTEGER NOT NULL DEFAULT 0,
    event_count INTEGER NOT NULL DEFAULT 0,
    settled_ms INTEGER,
    duplicates TEXT,          -- JSON list of event ids, at most 100
    code TEXT,
    message TEXT
);
CREATE INDEX delivery_open ON delivery_state (source) WHERE state = 0;
CREATE INDEX delivery_ended ON delivery_state (state) WHERE state >= 2;

CREATE TABLE lanes (
    lane INTEGER PRIMARY KEY,
    destination TEXT NOT NULL,
    environment TEXT
);
CREATE INDEX lane_by_name ON lanes (destination, environment);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    delivery_seq INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    ts INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    json BLOB NOT NULL
);
CREATE UNIQUE INDEX event_by_ref ON events (delivery_seq, generation, position);

CREATE TABLE event_state (
    seq INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,   -- 0 pending, 1 sent, 2 dead
    lane INTEGER NOT NULL,
    source TEXT NOT NULL,
    at_ms INTEGER NOT NULL DEFAULT 0,   -- 0: never put off, so at once
    attempt INTEGER NOT NULL DEFAULT 0,
    settled_ms INTEGER,
    inngest_id TEXT,
    code TEXT,
    message TEXT
);
CREATE INDEX event_open ON event_state (lane, at_ms) WHERE state = 0;
CREATE INDEX event_dead ON event_state (state) WHERE state = 2;
