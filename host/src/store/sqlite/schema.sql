-- The tables of `sqlite.rs`. Times are milliseconds since 1970 by the clock of the
-- store; NULL means never. Every read ignores expired rows; later commits delete
-- them.

CREATE TABLE IF NOT EXISTS checkpointer_value (
    key        TEXT PRIMARY KEY NOT NULL,
    value      TEXT NOT NULL,
    expires_at INTEGER
);

CREATE INDEX IF NOT EXISTS checkpointer_value_expiry
    ON checkpointer_value (expires_at) WHERE expires_at IS NOT NULL;

-- If an index is created at the name of an expired one, the expired one loses its
-- name. Its members are deleted in steps.
CREATE TABLE IF NOT EXISTS checkpointer_index (
    id         INTEGER PRIMARY KEY,
    name       TEXT UNIQUE,
    expires_at INTEGER
);

CREATE INDEX IF NOT EXISTS checkpointer_index_expiry
    ON checkpointer_index (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS checkpointer_member (
    index_id INTEGER NOT NULL,
    member   TEXT NOT NULL,
    score    REAL NOT NULL,
    PRIMARY KEY (index_id, member)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS checkpointer_member_order
    ON checkpointer_member (index_id, score, member);

-- The usage of each key when it was last written within a quota or reconciled, and
-- the totals, which are changed in the same transaction. Rows do not expire.
CREATE TABLE IF NOT EXISTS checkpointer_ledger_entry (
    ledger      TEXT NOT NULL,
    key         TEXT NOT NULL,
    value_count INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    PRIMARY KEY (ledger, key)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS checkpointer_ledger (
    ledger      TEXT PRIMARY KEY NOT NULL,
    value_count INTEGER NOT NULL,
    bytes       INTEGER NOT NULL
) WITHOUT ROWID;
