-- Version 7: the JSON of events that were made in one transaction is one row. See sqlite_event_blocks.py.

CREATE TABLE event_blocks (
    block INTEGER PRIMARY KEY,  -- the seq of its last event
    first INTEGER NOT NULL,     -- of its first one; there are no gaps between
    jsons BLOB NOT NULL         -- Zstandard: MessagePack: [the JSON of each; nil when pruned, ...]
);
-- The column events.json of such an event is empty; that of an older one is not.
