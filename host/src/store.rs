//! The stores behind the import `keyvalue`: SQLite and Redis.
//!
//! A store knows nothing about checkpoints. `wit/deps/checkpoint/keyvalue.wit`
//! specifies its operations, and the contract in `tests/` tests them for every store.

mod clock;
mod prefixed;
mod quota;
mod redis;
mod sqlite;
mod url;

use std::collections::HashSet;

use async_trait::async_trait;

pub use self::clock::ManualClock;
pub use self::prefixed::PrefixedStore;
pub use self::quota::Quota;
pub use self::redis::{RedisStore, RedisUrl};
pub use self::sqlite::SqliteStore;
pub use self::url::{StoreUrl, StoreUrlError};
pub use crate::bindings::flow::checkpoint::keyvalue::{
    Batch, Condition, Entry, Expire, ExpireMode, Expiry, IndexMax, IndexMember, IndexPage, IndexPut,
    IndexSize, KeyPage, Operation, Order, Position, Put, Query, Value, ValuePrefix,
};
pub use crate::{Effect, StorageError, StorageReason};

/// A key-value store with sorted indexes, expiry and atomic batches.
///
/// The message of an error must not contain addresses or credentials, because
/// plugins read it. [`StorageError::with_context`] takes the address and the cause.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns the values of the keys, in the order of the keys; of each value at most
    /// `max_value_bytes` bytes.
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError>;

    /// Returns the remaining TTLs of the keys, in the order of the keys; none for a
    /// key that does not exist.
    ///
    /// # Errors
    /// [`StorageReason::Unsupported`] if the store does not know TTLs.
    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        let _ = keys;
        Err(unsupported("the store can't return TTLs; use one that implements `ttl`"))
    }

    /// Returns entries of an index, joined with their values, as a consistent snapshot.
    async fn range(&self, query: Query) -> Result<IndexPage, StorageError>;

    /// [`Store::range`] with a limit for the bytes of all values together, for
    /// untrusted callers. A store that can measure values does so before it reads them.
    ///
    /// # Errors
    /// [`StorageReason::TooLarge`] if the values have more bytes.
    async fn range_with_byte_limit(&self, query: Query, max_bytes: usize) -> Result<IndexPage, StorageError> {
        let page = self.range(query).await?;
        let bytes = page.entries.iter().map(|entry| size(&entry.value)).sum::<usize>();
        if bytes > max_bytes { Err(too_large(max_bytes)) } else { Ok(page) }
    }

    /// Applies each batch whose conditions hold, all in one atomic step, and returns
    /// for each batch whether it was applied.
    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError>;

    /// Returns a page of the keys with this prefix, which is not a pattern. `cursor` is
    /// the `next_cursor` of the previous page; none for the first page.
    async fn scan(&self, prefix: String, cursor: Option<String>) -> Result<KeyPage, StorageError>;

    /// Whether all keys with this prefix can be used in one commit, one get and one
    /// range, as always in a store on one machine. No I/O.
    fn is_colocated(&self, prefix: &str) -> bool {
        let _ = prefix;
        true
    }

    /// Whether the store has a capability; false for a name that it does not know. No
    /// I/O. The names:
    ///
    /// - `conditions`: compare-and-swap. Batches may have conditions.
    /// - `atomic-commit`: a commit over several keys is one atomic step.
    /// - `expiry`: keys can expire.
    ///
    /// By default a store has all three. A store that lacks one must return false for
    /// it, and a [`crate::Checkpointer`] that needs it refuses the store when it is
    /// opened.
    fn supports(&self, capability: &str) -> bool {
        matches!(capability, "conditions" | "atomic-commit" | "expiry")
    }

    /// [`Store::commit`] within a quota. If the usage would exceed it, nothing is
    /// written and the error is [`StorageReason::Full`].
    ///
    /// A commit that does not increase the usage is never refused, and neither is a
    /// batch whose conditions do not hold. Conditional batches after the first applied
    /// one may be counted pessimistically: additions count, deletions do not. Expired
    /// keys count until a write or [`Store::reconcile_quota`] reaches them.
    ///
    /// # Errors
    /// The errors of a commit; [`StorageReason::Unsupported`] if the store does not
    /// count usage.
    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        let _ = (quota, batches);
        Err(unsupported("the store can't enforce a quota; use one that implements `commit_with_quota`"))
    }

    /// Recounts a page of the usage of `quota`, which does not notice that a key
    /// expires, or is written without the quota. Returns the cursor of the next page;
    /// none after the last page.
    ///
    /// # Errors
    /// [`StorageReason::Unsupported`] if the store does not count usage.
    async fn reconcile_quota(
        &self,
        quota: &Quota,
        cursor: Option<String>,
    ) -> Result<Option<String>, StorageError> {
        let _ = (quota, cursor);
        Err(unsupported("the store can't enforce a quota; use one that implements `reconcile_quota`"))
    }
}

/// The longest TTL in milliseconds. Stores count in signed milliseconds since 1970, so
/// this leaves room for the current time.
const MAX_TTL_MS: u64 = 9_000_000_000_000_000_000;

/// Rejects TTLs out of range, scores that are not finite, and keys that are used both
/// for a value and for an index.
fn validate(batches: &[Batch]) -> Result<(), StorageError> {
    for condition in batches.iter().flat_map(|batch| &batch.conditions).flatten() {
        if matches!(condition, Condition::IndexMax(max) if !max.upper_bound.score.is_finite()) {
            return Err(invalid("a score must be a finite number"));
        }
    }
    let (mut values, mut indexes) = (HashSet::new(), HashSet::new());
    for operation in batches.iter().flat_map(|batch| &batch.operations) {
        match operation {
            Operation::Put(put) => values.insert(&put.key),
            Operation::Delete(key) => values.insert(key),
            Operation::IndexPut(put) => indexes.insert(&put.index),
            Operation::IndexDelete(entry) => indexes.insert(&entry.index),
            Operation::Expire(_) => true,
        };
        let (expiry, score) = match operation {
            Operation::Put(put) => (put.expiry, 0.0),
            Operation::IndexPut(put) => (put.expiry, put.score),
            Operation::Expire(expire) => (expire.expiry, 0.0),
            Operation::Delete(_) | Operation::IndexDelete(_) => continue,
        };
        if let Expiry::AfterMs(ttl) = expiry
            && !(1..=MAX_TTL_MS).contains(&ttl)
        {
            return Err(invalid(&format!("a TTL must be between 1 and 9·10¹⁸ milliseconds, not {ttl}")));
        }
        if !score.is_finite() {
            return Err(invalid("a score must be a finite number"));
        }
    }
    if !values.is_disjoint(&indexes) {
        return Err(invalid("a commit must not use one key both for a value and for an index"));
    }
    Ok(())
}

fn unsupported(message: &str) -> StorageError {
    StorageError::new(StorageReason::Unsupported, Effect::None, message)
}

/// The number of bytes of a value that were read.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) | Value::Truncated(text) => text.len(),
        Value::Absent | Value::Unreadable(_) => 0,
    }
}

/// The error for an answer with more bytes than the caller accepts.
pub(crate) fn too_large(max_bytes: usize) -> StorageError {
    let message = format!("the values have more than {max_bytes} bytes together; request fewer entries");
    StorageError::new(StorageReason::TooLarge, Effect::None, message)
}

fn invalid(message: &str) -> StorageError {
    StorageError::new(StorageReason::InvalidArgument, Effect::None, message)
}

/// The error for a key with another type; `found` describes it with its article.
fn wrong_type(found: &str) -> StorageError {
    StorageError::new(StorageReason::WrongType, Effect::None, format!("a key holds {found}; delete it first"))
}

/// A value, truncated at a character boundary if it has more than `max_value_bytes`.
fn text_value(bytes: Vec<u8>, max_value_bytes: Option<u32>) -> Value {
    let limit = max_value_bytes.map_or(usize::MAX, |limit| limit as usize);
    if bytes.len() <= limit {
        return match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text),
            Err(_) => Value::Unreadable(NOT_UTF8.to_owned()),
        };
    }
    // The limit may be inside a character, after up to three of its bytes.
    let mut bytes = bytes;
    bytes.truncate(limit);
    match String::from_utf8(bytes) {
        Ok(text) => Value::Truncated(text),
        Err(error) if error.utf8_error().error_len().is_none() => {
            let valid = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            bytes.truncate(valid);
            Value::Truncated(String::from_utf8(bytes).unwrap_or_default())
        }
        Err(_) => Value::Unreadable(NOT_UTF8.to_owned()),
    }
}

const NOT_UTF8: &str = "bytes that are not UTF-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_value_ends_at_a_character_boundary() {
        for (max_value_bytes, expected) in [
            (None, Value::Text("aé☀".into())),
            (Some(6), Value::Text("aé☀".into())),
            (Some(5), Value::Truncated("aé".into())),
            (Some(3), Value::Truncated("aé".into())),
            (Some(2), Value::Truncated("a".into())),
            (Some(0), Value::Truncated(String::new())),
        ] {
            assert_eq!(text_value("aé☀".into(), max_value_bytes), expected);
        }
        assert_eq!(text_value(vec![b'a', 0xff, b'b'], Some(2)), Value::Unreadable(NOT_UTF8.into()));
    }
}
