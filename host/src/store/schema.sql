-- What `sqlite.rs` keeps. Times are milliseconds since 1970 by the clock of the
-- machine; none means never. What has expired is passed over by every read and
-- removed some time later.

CREATE TABLE IF NOT EXISTS checkpointer_value (
    key        TEXT PRIMARY KEY NOT NULL,
    value      TEXT NOT NULL,
    expires_at INTEGER
);

CREATE INDEX IF NOT EXISTS checkpointer_value_expiry
    ON checkpointer_value (expires_at) WHERE expires_at IS NOT NULL;

-- An index that has expired loses its name at once, in favour of a new one, and
-- its members bit by bit.
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

-- What stood at each key when it was last written within a quota, or looked at
-- again; and the totals, in the same transaction. Nothing here expires.
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
