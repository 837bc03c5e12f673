-- Version 6: heads and bodies of new blocks are squeezed. See sqlite_squeeze.py.

ALTER TABLE blocks ADD COLUMN squeezed INTEGER NOT NULL DEFAULT 0;  -- 1: each of the two is one frame of Zstandard
