-- Version 4: the deliveries of one transaction are one row, a block. See sqlite_blocks.py.

CREATE TABLE blocks (
    block INTEGER PRIMARY KEY,  -- the seq of its last delivery
    first INTEGER NOT NULL,     -- of its first one; there are no gaps between
    heads BLOB NOT NULL,        -- MessagePack: [how long each body is, ...], [all but the body; nil when pruned, ...]
    bodies BLOB NOT NULL        -- one behind the other
);

CREATE TABLE delivery_ids (
    id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE block_sources (
    source TEXT NOT NULL,
    block INTEGER NOT NULL,
    first INTEGER NOT NULL,
    places INTEGER NOT NULL,    -- bit n: the block's delivery first + n is of this source
    count INTEGER NOT NULL,     -- so many bits, which SQLite cannot count
    PRIMARY KEY (source, block)
) WITHOUT ROWID;

-- The numbers of those bits, so that a statement can take `places` apart.
CREATE TABLE bits (bit INTEGER PRIMARY KEY);
INSERT INTO bits WITH RECURSIVE each (bit) AS (SELECT 0 UNION ALL SELECT bit + 1 FROM each WHERE bit < 62) SELECT bit FROM each;
