//! SQLite, in a file that several processes may use at the same time, or in memory.
//!
//! Each commit is one transaction, which is on disk when the commit returns.
//! Blocking calls run on tokio's blocking threads, one at a time.

mod commit;
mod ledger;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use tracing::warn;

use self::commit::commit;
use super::clock::Clock;
use super::{
    Batch, Effect, Entry, Expiry, IndexPage, KeyPage, ManualClock, Order, Position, Query, Quota,
    StorageError, StorageReason, Store, Value, size, text_value, too_large, validate, wrong_type,
};

/// How long to wait for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of keys in a page of a scan.
const SCAN_PAGE: u32 = 1000;

/// A SQLite database.
pub struct SqliteStore {
    connection: Arc<Mutex<Connection>>,
    clock: Clock,
    /// The file, for errors.
    address: String,
}

impl SqliteStore {
    /// Opens the database in a file, and creates the file if it does not exist.
    ///
    /// # Errors
    /// The file can't be opened or created, or is not a database.
    pub async fn open(path: &Path) -> Result<Self, StorageError> {
        let address = path.display().to_string();
        // SQLite treats `:memory:` and `file:…` specially, but not behind a folder.
        let path = if path.is_relative() { Path::new(".").join(path) } else { path.to_owned() };
        Self::connect(address, Clock::System, move || {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            if connection.is_readonly("main")? {
                return Ok(connection);
            }
            // If several processes create the file at the same time, all but one
            // fail at once with "locked", whatever the busy timeout.
            let start = Instant::now();
            loop {
                match prepare(&connection) {
                    Err(error) if is_busy(&error) && start.elapsed() < BUSY_TIMEOUT => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    result => return result.map(|()| connection),
                }
            }
        })
        .await
    }

    /// Opens a new database in memory, which is deleted with the store.
    ///
    /// # Errors
    /// Out of memory.
    pub async fn in_memory() -> Result<Self, StorageError> {
        Self::open_in_memory(Clock::System).await
    }

    /// Opens a new database in memory whose keys expire by `clock`, for tests.
    ///
    /// # Errors
    /// Out of memory.
    pub async fn in_memory_with_clock(clock: ManualClock) -> Result<Self, StorageError> {
        Self::open_in_memory(Clock::Manual(clock)).await
    }

    async fn open_in_memory(clock: Clock) -> Result<Self, StorageError> {
        Self::connect("memory:".to_owned(), clock, || {
            let connection = Connection::open_in_memory()?;
            connection.execute_batch(include_str!("sqlite/schema.sql"))?;
            Ok(connection)
        })
        .await
    }

    async fn connect(
        address: String,
        clock: Clock,
        open: impl FnOnce() -> rusqlite::Result<Connection> + Send + 'static,
    ) -> Result<Self, StorageError> {
        let connection = match tokio::task::spawn_blocking(open).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(storage_error(error, Effect::None, &address)),
            Err(_) => return Err(aborted(Effect::None)),
        };
        connection.set_prepared_statement_cache_capacity(48);
        Ok(Self { connection: Arc::new(Mutex::new(connection)), clock, address })
    }

    /// Runs `work` on a blocking thread. It runs to its end even if the caller is
    /// dropped.
    async fn with<T: Send + 'static>(
        &self,
        effect_if_aborted: Effect,
        work: impl FnOnce(&mut Connection, &Clock) -> Result<T, SqliteError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (connection, clock) = (Arc::clone(&self.connection), self.clock.clone());
        // A transaction rolls back if `work` panics within it.
        let result = tokio::task::spawn_blocking(move || work(&mut connection.lock(), &clock)).await;
        result.map_err(|_| aborted(effect_if_aborted))?.map_err(|error| match error {
            SqliteError::Store(error) => error,
            SqliteError::Statement(error) => storage_error(error, Effect::None, &self.address),
            SqliteError::Commit(error) => {
                let effect = effect_of_failed_commit(&error);
                storage_error(error, effect, &self.address)
            }
        })
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SqliteStore({})", self.address)
    }
}

/// Creates the tables that do not exist yet.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(include_str!("sqlite/schema.sql"))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Why a call failed.
enum SqliteError {
    /// With an error of the store itself.
    Store(StorageError),
    /// In a statement. Nothing was written.
    Statement(rusqlite::Error),
    /// In the commit of a transaction.
    Commit(rusqlite::Error),
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Statement(error)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.with(Effect::None, move |connection, clock| {
            let snapshot = connection.transaction()?;
            let now = clock.now_ms();
            keys.iter().map(|key| Ok(read(&snapshot, key, now, max_value_bytes)?)).collect()
        })
        .await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.with(Effect::None, move |connection, clock| {
            let snapshot = connection.transaction()?;
            let now = clock.now_ms();
            keys.iter().map(|key| Ok(ttl(&snapshot, key, now)?)).collect()
        })
        .await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.range_with_byte_limit(query, usize::MAX).await
    }

    async fn range_with_byte_limit(&self, query: Query, max_bytes: usize) -> Result<IndexPage, StorageError> {
        self.with(Effect::None, move |connection, clock| {
            let snapshot = connection.transaction()?;
            let now = clock.now_ms();
            let Some(index) = index_id(&snapshot, &query.index, now)? else {
                return match holds_value(&snapshot, &query.index, now)? {
                    true => Err(SqliteError::Store(wrong_type("a text value"))),
                    false => Ok(IndexPage {
                        entries: Vec::new(),
                        next: None,
                        count: query.with_count.then_some(0),
                    }),
                };
            };
            page(&snapshot, index, &query, max_bytes, now)
        })
        .await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        validate(&batches)?;
        self.with(Effect::Unknown, move |connection, clock| commit(connection, clock, &batches, None)).await
    }

    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        validate(&batches)?;
        quota.validate(&batches)?;
        let quota = quota.clone();
        self.with(Effect::Unknown, move |connection, clock| commit(connection, clock, &batches, Some(&quota)))
            .await
    }

    async fn reconcile_quota(
        &self,
        quota: &Quota,
        cursor: Option<String>,
    ) -> Result<Option<String>, StorageError> {
        let ledger = quota.ledger.clone();
        self.with(Effect::Unknown, move |connection, clock| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let next = ledger::reconcile(&transaction, &ledger, cursor.as_deref(), clock.now_ms())?;
            transaction.commit().map_err(SqliteError::Commit)?;
            Ok(next)
        })
        .await
    }

    async fn scan(&self, prefix: String, cursor: Option<String>) -> Result<KeyPage, StorageError> {
        self.with(Effect::None, move |connection, clock| {
            let mut statement = connection.prepare_cached(
                "SELECT key FROM checkpointer_value
                  WHERE key >= ?1 AND key > ?2 AND (?3 IS NULL OR key < ?3)
                    AND (expires_at IS NULL OR expires_at > ?4)
                 UNION
                 SELECT name FROM checkpointer_index
                  WHERE name >= ?1 AND name > ?2 AND (?3 IS NULL OR name < ?3)
                    AND (expires_at IS NULL OR expires_at > ?4)
                  ORDER BY 1 LIMIT ?5",
            )?;
            // The cursor is the last key without the prefix, since a wrapper may hide
            // a part of the prefix from the caller.
            let after = cursor.map(|cursor| prefix.clone() + &cursor).unwrap_or_default();
            let parameters = params![prefix, after, end_of(&prefix), clock.now_ms(), SCAN_PAGE];
            let rows = statement.query_map(parameters, |row| row.get(0))?;
            let keys = rows.collect::<rusqlite::Result<Vec<String>>>()?;
            let last = keys.last().filter(|_| keys.len() == SCAN_PAGE as usize);
            let next_cursor = last.and_then(|last| last.strip_prefix(&prefix)).map(str::to_owned);
            Ok(KeyPage { keys, next_cursor })
        })
        .await
    }
}

/// The first text that sorts after all texts with this prefix, if there is one.
fn end_of(prefix: &str) -> Option<String> {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        // Skip the surrogates, which are not characters.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            end.push(next);
            return Some(end.into_iter().collect());
        }
    }
    None
}

fn read(
    connection: &Connection,
    key: &str,
    now: i64,
    max_value_bytes: Option<u32>,
) -> rusqlite::Result<Value> {
    let value = connection
        .prepare_cached(
            "SELECT iif(?3 IS NULL, value, coalesce(substr(CAST(value AS BLOB), 1, ?3 + 1), x'')) FROM checkpointer_value
              WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
        )?
        .query_row(params![key, now, max_value_bytes], |row| Ok(value_of(row.get_ref(0)?, max_value_bytes)))
        .optional()?;
    match value {
        Some(value) => Ok(value),
        None if index_id(connection, key, now)?.is_some() => Ok(Value::Unreadable("an index".to_owned())),
        None => Ok(Value::Absent),
    }
}

fn value_of(value: ValueRef<'_>, max_value_bytes: Option<u32>) -> Value {
    match value {
        ValueRef::Text(bytes) => text_value(bytes.to_vec(), max_value_bytes),
        // The beginning of a text is read as bytes.
        ValueRef::Blob(bytes) if max_value_bytes.is_some() => text_value(bytes.to_vec(), max_value_bytes),
        ValueRef::Null => Value::Absent,
        other => Value::Unreadable(format!("a value of the SQLite type {}", other.data_type())),
    }
}

fn ttl(connection: &Connection, key: &str, now: i64) -> rusqlite::Result<Option<Expiry>> {
    let expires_at: Option<Option<i64>> = connection
        .prepare_cached(
            "SELECT expires_at FROM checkpointer_value
              WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)
             UNION ALL
             SELECT expires_at FROM checkpointer_index
              WHERE name = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
        )?
        .query_row(params![key, now], |row| row.get(0))
        .optional()?;
    let expiry = |at: i64| Expiry::AfterMs(at.saturating_sub(now).unsigned_abs());
    Ok(expires_at.map(|at| at.map_or(Expiry::Never, expiry)))
}

fn holds_value(connection: &Connection, key: &str, now: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM checkpointer_value WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
        )?
        .exists(params![key, now])
}

fn index_id(connection: &Connection, name: &str, now: i64) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT id FROM checkpointer_index WHERE name = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
        )?
        .query_row(params![name, now], |row| row.get(0))
        .optional()
}

fn page(
    connection: &Connection,
    index: i64,
    query: &Query,
    max_bytes: usize,
    now: i64,
) -> Result<IndexPage, SqliteError> {
    let (direction, beyond) = match query.order {
        Order::Ascending => ("ASC", ">"),
        Order::Descending => ("DESC", "<"),
    };
    let bound = match query.after {
        Some(_) => format!("AND (score, member) {beyond} (?5, ?6)"),
        None => "AND ?5 IS NULL AND ?6 IS NULL".to_owned(),
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT member, score, iif(?4 IS NULL OR value IS NULL, value, coalesce(substr(CAST(value AS BLOB), 1, ?4 + 1), x''))
           FROM checkpointer_member
           LEFT JOIN checkpointer_value ON key = ?2 || member AND (expires_at IS NULL OR expires_at > ?3)
          WHERE index_id = ?1 {bound}
          ORDER BY score {direction}, member {direction} LIMIT ?7"
    ))?;
    let after = query.after.as_ref();
    let parameters = params![
        index,
        query.value_key_prefix,
        now,
        query.max_value_bytes,
        after.map(|after| after.score),
        after.map(|after| &after.member),
        query.limit
    ];
    let rows = statement.query_map(parameters, |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, f64>(1)?,
            value_of(row.get_ref(2)?, query.max_value_bytes),
        ))
    })?;
    let (mut entries, mut last_score, mut bytes) = (Vec::new(), None, 0);
    for row in rows {
        let (member, score, mut value) = row?;
        if value == Value::Absent {
            value =
                read(connection, &format!("{}{member}", query.value_key_prefix), now, query.max_value_bytes)?;
        }
        bytes += size(&value);
        if bytes > max_bytes {
            return Err(SqliteError::Store(too_large(max_bytes)));
        }
        entries.push(Entry { member, score: query.with_next.then_some(score), value });
        last_score = Some(score);
    }
    let full = query.with_next && query.limit > 0 && entries.len() == query.limit as usize;
    let last = full.then(|| entries.last()).flatten();
    let next = last.zip(last_score).map(|(last, score)| Position { score, member: last.member.clone() });
    let size = if query.with_count { Some(size_of(connection, index)?) } else { None };
    Ok(IndexPage { entries, next, count: size })
}

fn size_of(connection: &Connection, index: i64) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM checkpointer_member WHERE index_id = ?1")?
        .query_row([index], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

fn aborted(effect: Effect) -> StorageError {
    StorageError::new(
        StorageReason::Other,
        effect,
        "the database call was aborted; see the log for its panic",
    )
}

/// SQLite does not write a commit for which it lacks space or permission, or which
/// another writer blocks. After other failures, such as a disk error, the commit
/// may be on disk.
fn effect_of_failed_commit(error: &rusqlite::Error) -> Effect {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::DatabaseBusy) => Effect::None,
        _ => Effect::Unknown,
    }
}

/// Converts an error of SQLite. The message is for everyone; the file and the error
/// are for the application.
fn storage_error(error: rusqlite::Error, effect: Effect, address: &str) -> StorageError {
    warn!(%error, address, "SQLite failed");
    let (reason, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (StorageReason::Full, "the disk of the store is full"),
        Some(ErrorCode::ReadOnly) => {
            (StorageReason::ReadOnly, "the file of the store is read-only; check its permissions")
        }
        Some(ErrorCode::PermissionDenied) => {
            (StorageReason::AccessDenied, "access to the file of the store is denied; check its permissions")
        }
        Some(ErrorCode::CannotOpen) => (
            StorageReason::Unavailable,
            "the file of the store, or one that SQLite needs beside it, can't be opened; check that its folder \
             exists and is writable",
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (StorageReason::Unavailable, "the store is locked by another process; retry")
        }
        Some(ErrorCode::NotADatabase) => {
            (StorageReason::Other, "the file of the store is not a SQLite database")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            (StorageReason::Other, "the file of the store is corrupt; restore it from a backup")
        }
        Some(ErrorCode::TooBig) => (StorageReason::TooLarge, "a value is too large for SQLite"),
        Some(ErrorCode::SystemIoFailure) => (StorageReason::Other, "the disk of the store failed"),
        _ => (StorageReason::Other, "the store failed"),
    };
    StorageError::new(reason, effect, message).with_context(Some(address.to_owned()), Some(Box::new(error)))
}
