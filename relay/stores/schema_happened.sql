-- Version 3: rows for what has happened, none for what waits.
-- A delivery without a row in delivery_state is received. An event without a row in event_state is pending and was never
-- tried. What waits is found by its source or lane, after a mark below which nothing of it has no row.
-- What the relay knows (keys of deliveries, ids of events) is in the tables known_…, see sqlite_known.py.

CREATE TABLE sources (
    source TEXT PRIMARY KEY,
    done_to INTEGER NOT NULL  -- every delivery of the source up to this seq has its row in delivery_state
);

DROP INDEX delivery_by_key;
CREATE INDEX delivery_by_source ON deliveries (source);

CREATE TABLE delivery_state_3 (
    seq INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,   -- 0 received again, by a replay; 1 processed, 2 filtered, 3 dead
    received_ms INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL,
    settled_ms INTEGER,
    event_count INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    environment TEXT,         -- what a replay set, instead of the one that the request asked for
    duplicates TEXT,          -- JSON list of event ids, at most 100
    code TEXT,
    message TEXT
);
INSERT INTO delivery_state_3
    SELECT s.seq, s.state, s.received_ms, s.body_bytes, s.settled_ms, s.event_count, s.generation,
    CASE WHEN s.environment IS NOT d.environment THEN s.environment END, s.duplicates, s.code, s.message
    FROM delivery_state s JOIN deliveries d ON d.seq = s.seq
    WHERE s.state > 0 OR s.generation > 0 OR s.event_count > 0 OR s.environment IS NOT d.environment;
DROP TABLE delivery_state;
ALTER TABLE delivery_state_3 RENAME TO delivery_state;
CREATE INDEX delivery_replayed ON delivery_state (state) WHERE state = 0;
CREATE INDEX delivery_ended ON delivery_state (state) WHERE state >= 2;

ALTER TABLE lanes ADD COLUMN done_to INTEGER NOT NULL DEFAULT 0;  -- as in sources: its events, and event_state

CREATE TABLE events_3 (
    seq INTEGER PRIMARY KEY,
    delivery_seq INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    position INTEGER NOT NULL,
    lane INTEGER NOT NULL,    -- where it was made for; a replay may have put it into another, see event_state
    ts INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    json BLOB NOT NULL
);
INSERT INTO events_3
    SELECT e.seq, e.delivery_seq, e.generation, e.position, s.lane, e.ts, e.created_ms, e.id, e.name, e.json
    FROM events e JOIN event_state s ON s.seq = e.seq;
DROP TABLE events;
ALTER TABLE events_3 RENAME TO events;
CREATE UNIQUE INDEX event_by_ref ON events (delivery_seq, generation, position);
CREATE INDEX event_by_lane ON events (lane);

CREATE TABLE event_state_3 (
    seq INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,   -- 0 pending (put off, or replayed), 1 sent, 2 dead
    lane INTEGER NOT NULL,
    source TEXT NOT NULL,
    at_ms INTEGER NOT NULL DEFAULT 0,   -- 0: never put off, so at once
    attempt INTEGER NOT NULL DEFAULT 0,
    settled_ms INTEGER,
    inngest_id TEXT,
    code TEXT,
    message TEXT
);
INSERT INTO event_state_3
    SELECT seq, state, lane, source, at_ms, attempt, settled_ms, inngest_id, code, message FROM event_state
    WHERE state > 0 OR at_ms > 0 OR attempt > 0;
DROP TABLE event_state;
ALTER TABLE event_state_3 RENAME TO event_state;
CREATE INDEX event_retried ON event_state (lane, at_ms) WHERE state = 0;
CREATE INDEX event_dead ON event_state (state) WHERE state = 2;
