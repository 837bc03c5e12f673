-- Version 5: ids are looked up by how they begin, so that those which arrive together share a row. See sqlite_blocks.py.

CREATE TABLE block_ids (
    start TEXT NOT NULL,        -- the first 9 characters of an id, which for a ULID are its time to 32 ms
    block INTEGER NOT NULL,     -- one that has a delivery whose id begins so
    PRIMARY KEY (start, block)
) WITHOUT ROWID;

INSERT INTO block_ids (start, block)
SELECT DISTINCT substr(id, 1, 9), (SELECT min(block) FROM blocks WHERE block >= seq) FROM delivery_ids;

DROP TABLE delivery_ids;
