-- Secrets that providers send in handshakes, and when a source takes further ones.
-- Text that is not valid Unicode is kept as a BLOB in the same column.

CREATE TABLE secrets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- people name them by it: never given twice
    source TEXT NOT NULL,
    secret TEXT NOT NULL,                   -- as it came: signatures are computed with it
    kept_ms INTEGER NOT NULL
);
CREATE UNIQUE INDEX secret_by_source ON secrets (source, secret);

CREATE TABLE pairings (
    source TEXT PRIMARY KEY,
    opened_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL
);
