//! SQLite, in a file that several processes may use at once, or in memory.
//!
//! Each commit is one transaction, on disk when it returns. Blocking work runs
//! on tokio's threads for that, one piece at a time.

mod commit;
mod ledger;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use tracing::warn;

use self::commit::commit;
use super::{
    Batch, Effect, Entry, Expiry, IndexPage, KeyPage, Order, Position, Query, Quota, StorageError,
    StorageReason, Store, Value, check, size, storage_error, text_value, too_large, wrong_type,
};

/// How long to wait for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How many keys a page of a scan has.
const SCAN_PAGE: u32 = 1000;

/// A database.
pub struct SqliteStore {
    connection: Arc<Mutex<Connection>>,
}

impl SqliteStore {
    /// Opens the database in a file, which is made if it is not there.
    ///
    /// # Errors
    /// The file can't be opened or made, or is no database.
    pub async fn open(path: &Path) -> Result<Self, StorageError> {
        // SQLite takes `:memory:` and `file:…` for something else; behind a folder
        // a path is a path.
        let path = if path.is_relative() { Path::new(".").join(path) } else { path.to_owned() };
        Self::connect(move || {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            if connection.is_readonly("main")? {
                return Ok(connection);
            }
            // Of processes that make the file at the same time, all but one
            // hear at once that it is locked, whatever the time-out.
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

    /// Opens a database in memory, which is gone with the store.
    ///
    /// # Errors
    /// There is no memory.
    pub async fn in_memory() -> Result<Self, StorageError> {
        Self::connect(|| {
            let connection = Connection::open_in_memory()?;
            connection.execute_batch(include_str!("schema.sql"))?;
            Ok(connection)
        })
        .await
    }

    async fn connect(
        open: impl FnOnce() -> rusqlite::Result<Connection> + Send + 'static,
    ) -> Result<Self, StorageError> {
        let connection = tokio::task::spawn_blocking(open).await.map_err(|_| stopped(Effect::None))?;
        let connection = connection.map_err(|error| failure(&error, Effect::None))?;
        connection.set_prepared_statement_cache_capacity(48);
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Does `work` where it may block. If the caller goes away the work is done
    /// all the same, as a whole.
    async fn with<T: Send + 'static>(
        &self,
        on_failure: Effect,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StorageError> {
        let connection = Arc::clone(&self.connection);
        let done = tokio::task::spawn_blocking(move || {
            // A panic within a transaction has rolled it back.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection)
        });
        match done.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(Failure::Told(error))) => Err(error),
            Ok(Err(Failure::Sqlite(error))) => Err(failure(&error, Effect::None)),
            Ok(Err(Failure::Commit(error))) => Err(failure(&error, effect_of_failed_commit(&error))),
            Err(_) => Err(stopped(on_failure)),
        }
    }
}

/// Makes a database of a file, if it is not one yet.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(include_str!("schema.sql"))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Why a piece of work failed.
enum Failure {
    /// As it is to be told.
    Told(StorageError),
    /// Before anything was written.
    Sqlite(rusqlite::Error),
    /// In the step that makes a transaction stand.
    Commit(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.with(Effect::None, move |connection| {
            let moment = connection.transaction()?;
            let now = now();
            keys.iter().map(|key| Ok(read(&moment, key, now, max_value_bytes)?)).collect()
        })
        .await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.with(Effect::None, move |connection| {
            let moment = connection.transaction()?;
            let now = now();
            keys.iter().map(|key| Ok(life(&moment, key, now)?)).collect()
        })
        .await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.range_with_byte_limit(query, usize::MAX).await
    }

    async fn range_with_byte_limit(&self, query: Query, most: usize) -> Result<IndexPage, StorageError> {
        self.with(Effect::None, move |connection| {
            let moment = connection.transaction()?;
            let now = now();
            let Some(index) = index_id(&moment, &query.index, now)? else {
                return match holds_value(&moment, &query.index, now)? {
                    true => Err(Failure::Told(wrong_type("a text"))),
                    false => {
                        Ok(IndexPage { entries: Vec::new(), next: None, count: query.with_count.then_some(0) })
                    }
                };
            };
            page(&moment, index, &query, most, now)
        })
        .await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        check(&batches)?;
        self.with(Effect::Unknown, move |connection| commit(connection, &batches, None)).await
    }

    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        check(&batches)?;
        quota.check(&batches)?;
        let quota = quota.clone();
        self.with(Effect::Unknown, move |connection| commit(connection, &batches, Some(&quota))).await
    }

    async fn reconcile_quota(&self, quota: &Quota, after: Option<String>) -> Result<Option<String>, StorageError> {
        let ledger = quota.ledger.clone();
        self.with(Effect::Unknown, move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let next = ledger::settle(&transaction, &ledger, after.as_deref(), now())?;
            transaction.commit().map_err(Failure::Commit)?;
            Ok(next)
        })
        .await
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        self.with(Effect::None, move |connection| {
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
            // The place to go on is told without the prefix, which may have a
            // part that is not for the caller to know.
            let after = after.map(|after| prefix.clone() + &after).unwrap_or_default();
            let rows = statement
                .query_map(params![prefix, after, end_of(&prefix), now(), SCAN_PAGE], |row| row.get(0))?;
            let keys = rows.collect::<rusqlite::Result<Vec<String>>>()?;
            let last = keys.last().filter(|_| keys.len() == SCAN_PAGE as usize);
            let next = last.and_then(|last| last.strip_prefix(&prefix)).map(str::to_owned);
            Ok(KeyPage { keys, next_cursor: next })
        })
        .await
    }
}

/// The first text behind all that begin with `prefix`, if there is one.
fn end_of(prefix: &str) -> Option<String> {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        // Surrogates are no characters.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            end.push(next);
            return Some(end.into_iter().collect());
        }
    }
    None
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn read(connection: &Connection, key: &str, now: i64, max_value_bytes: Option<u32>) -> rusqlite::Result<Value> {
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
        // The head of a text is cut as bytes.
        ValueRef::Blob(bytes) if max_value_bytes.is_some() => text_value(bytes.to_vec(), max_value_bytes),
        ValueRef::Null => Value::Absent,
        other => Value::Unreadable(format!("a value of the SQLite type {}", other.data_type())),
    }
}

fn life(connection: &Connection, key: &str, now: i64) -> rusqlite::Result<Option<Expiry>> {
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
    most: usize,
    now: i64,
) -> Result<IndexPage, Failure> {
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
        Ok((row.get::<_, String>(0)?, row.get::<_, f64>(1)?, value_of(row.get_ref(2)?, query.max_value_bytes)))
    })?;
    let (mut entries, mut last_score, mut bytes) = (Vec::new(), None, 0);
    for row in rows {
        let (member, score, mut value) = row?;
        if value == Value::Absent {
            value = read(connection, &format!("{}{member}", query.value_key_prefix), now, query.max_value_bytes)?;
        }
        bytes += size(&value);
        if bytes > most {
            return Err(Failure::Told(too_large(most)));
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

fn stopped(effect: Effect) -> StorageError {
    storage_error(StorageReason::Other, effect, "the work on the database was stopped")
}

/// With no room or no leave to write, or another writer in the way, SQLite has
/// not written the end of the transaction. With a disk that fails, who knows.
fn effect_of_failed_commit(error: &rusqlite::Error) -> Effect {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::DatabaseBusy) => Effect::None,
        _ => Effect::Unknown,
    }
}

/// What went wrong, in words for everyone; what SQLite said goes to the log.
fn failure(error: &rusqlite::Error, effect: Effect) -> StorageError {
    warn!(%error, "SQLite failed");
    let (reason, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (StorageReason::Full, "the disk of the store is full"),
        Some(ErrorCode::ReadOnly) => (StorageReason::ReadOnly, "the store's file can't be written to"),
        Some(ErrorCode::PermissionDenied) => {
            (StorageReason::AccessDenied, "the store's file may not be used")
        }
        Some(ErrorCode::CannotOpen) => (
            StorageReason::Unavailable,
            "the store's file, or one that SQLite needs beside it, can't be opened",
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (StorageReason::Unavailable, "another process keeps the store busy")
        }
        Some(ErrorCode::NotADatabase) => (StorageReason::Other, "the store's file is not a SQLite database"),
        Some(ErrorCode::DatabaseCorrupt) => (StorageReason::Other, "the store's file is damaged"),
        Some(ErrorCode::TooBig) => (StorageReason::TooLarge, "a value is too large for the store"),
        Some(ErrorCode::SystemIoFailure) => (StorageReason::Other, "the store's disk failed"),
        _ => (StorageReason::Other, "the store failed"),
    };
    storage_error(reason, effect, message)
}
