//! Places to keep values and indexes: one trait, and a file for each kind.
//!
//! A store knows nothing of checkpoints and nothing of buckets. What each
//! operation promises is written in `wit/keyvalue.wit`, and tested for every
//! store by the same contract in `tests/`.

mod prefixed;
mod quota;
mod redis;
mod sqlite;
mod url;

use std::collections::HashSet;

use async_trait::async_trait;

pub use self::url::{StoreUrl, StoreUrlError};
pub use self::prefixed::PrefixedStore;
pub use self::quota::Quota;
pub use self::redis::RedisStore;
pub use self::sqlite::SqliteStore;
pub use crate::bindings::flow::checkpoint::keyvalue::{
    Batch, Condition, Entry, Expire, ExpireMode, Expiry, IndexMax, IndexMember, IndexPage, IndexPut, IndexSize,
    KeyPage, ValuePrefix, Operation, Order, Position, Put, Query, Value,
};
pub use crate::{Effect, StorageError, StorageReason};

/// A key-value store with sorted indexes, expiry and atomic batches.
///
/// Errors name no address and no credentials, since they reach sandboxed code;
/// what the store itself said goes to the log.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What stands at each of `keys`, in their order; of each value no more
    /// than `head` bytes, if given.
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError>;

    /// When each of `keys` goes away by itself, in their order; none where nothing
    /// stands.
    ///
    /// # Errors
    /// [`StorageReason::Unsupported`] by a store that can't say.
    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        let _ = keys;
        Err(unsupported("the store can't say when a key goes away"))
    }

    /// Entries of an index with the values that they name, as of one moment.
    async fn range(&self, query: Query) -> Result<IndexPage, StorageError>;

    /// The same for those who are not trusted to ask for what fits: if the values
    /// have more than `most` bytes together it is `too-large`, and a store that can
    /// measure them before it reads them does so.
    async fn range_with_byte_limit(&self, query: Query, most: usize) -> Result<IndexPage, StorageError> {
        let page = self.range(query).await?;
        let bytes = page.entries.iter().map(|entry| size(&entry.value)).sum::<usize>();
        if bytes > most { Err(too_large(most)) } else { Ok(page) }
    }

    /// Applies each batch whose conditions hold, all in one atomic step, and
    /// says for each whether it was applied.
    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError>;

    /// A page of the keys that begin with `prefix`, which is no pattern.
    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError>;

    /// Whether all keys that begin with `prefix` can be in one commit, in one get
    /// and in one range, as they can where a store is on one machine. No I/O.
    fn is_colocated(&self, prefix: &str) -> bool {
        let _ = prefix;
        true
    }

    /// Whether the store has a capability of the WIT's `bucket.supports`; a store
    /// has all of them unless it says otherwise. No I/O.
    fn supports(&self, capability: &str) -> bool {
        matches!(capability, "conditions" | "atomic-commit" | "expiry")
    }

    /// As [`Store::commit`], but refused with [`StorageReason::Full`], and
    /// nothing written, if more would be there than `quota` allows.
    ///
    /// What adds nothing to what stands there is never refused by a quota: it
    /// may remove, replace by what is no larger, or remove as much as it puts,
    /// even where there is too much already. Nor is a batch whose conditions do
    /// not hold. Of several batches, a store may count those that have
    /// conditions and stand behind the first one applied for what they would
    /// add, and not for what they would remove.
    ///
    /// What has expired counts until [`Store::reconcile_quota`] comes by it, or a write.
    ///
    /// # Errors
    /// As those of a commit; [`StorageReason::Unsupported`] by a store that
    /// can't count.
    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        let _ = (quota, batches);
        Err(unsupported("the store can't keep to a quota"))
    }

    /// Looks again at a page of what `quota` counts, since it is not noticed
    /// there if something expires, or is written or removed past it. Says where
    /// to go on, if there may be more; `after` is what the page before said.
    ///
    /// # Errors
    /// [`StorageReason::Unsupported`] by a store that can't count.
    async fn reconcile_quota(&self, quota: &Quota, after: Option<String>) -> Result<Option<String>, StorageError> {
        let _ = (quota, after);
        Err(unsupported("the store can't keep to a quota"))
    }
}

/// The most milliseconds that an expiry may be away: stores count in signed
/// milliseconds since 1970, and this leaves room for "now".
const MAX_EXPIRY_MS: u64 = 9_000_000_000_000_000_000;

/// What no store can take: an expiry of 0 or too far away, a score that has no
/// place in an order, a key that changes its type half-way.
fn check(batches: &[Batch]) -> Result<(), StorageError> {
    for condition in batches.iter().flat_map(|batch| &batch.conditions).flatten() {
        if matches!(condition, Condition::IndexMax(highest) if !highest.upper_bound.score.is_finite()) {
            return Err(invalid("a score must be a finite number"));
        }
    }
    let (mut values, mut indexes) = (HashSet::new(), HashSet::new());
    for operation in batches.iter().flat_map(|batch| &batch.operations) {
        match operation {
            Operation::Put(put) => values.insert(&put.key),
            Operation::Delete(key) => values.insert(key),
            Operation::IndexPut(put) => indexes.insert(&put.index),
            Operation::IndexDelete(gone) => indexes.insert(&gone.index),
            Operation::Expire(_) => true,
        };
        let (expiry, score) = match operation {
            Operation::Put(put) => (put.expiry, 0.0),
            Operation::IndexPut(put) => (put.expiry, put.score),
            Operation::Expire(expire) => (expire.expiry, 0.0),
            Operation::Delete(_) | Operation::IndexDelete(_) => continue,
        };
        if matches!(expiry, Expiry::AfterMs(milliseconds) if !(1..=MAX_EXPIRY_MS).contains(&milliseconds)) {
            return Err(invalid("an expiry must be between 1 and 9·10¹⁸ milliseconds"));
        }
        if !score.is_finite() {
            return Err(invalid("a score must be a finite number"));
        }
    }
    if !values.is_disjoint(&indexes) {
        return Err(invalid("one commit can't use a key both for a value and for an index"));
    }
    Ok(())
}

/// What a store can't do is never passed over in silence.
fn unsupported(what: &str) -> StorageError {
    storage_error(StorageReason::Unsupported, Effect::None, what)
}

/// How many bytes a value has as it was read.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) | Value::Truncated(text) => text.len(),
        Value::Absent | Value::Unreadable(_) => 0,
    }
}

/// The answer has more bytes than whoever asked can take.
pub(crate) fn too_large(most: usize) -> StorageError {
    let message = format!("the answer has more than {most} bytes; ask for fewer at once");
    storage_error(StorageReason::TooLarge, Effect::None, message)
}

fn invalid(message: &str) -> StorageError {
    storage_error(StorageReason::InvalidArgument, Effect::None, message)
}

fn wrong_type(holds: &str) -> StorageError {
    storage_error(StorageReason::WrongType, Effect::None, format!("a key holds {holds}"))
}

fn storage_error(reason: StorageReason, effect: Effect, message: impl Into<String>) -> StorageError {
    StorageError::new(reason, effect, message)
}

/// A whole value, or what is left of it when no more than `head` bytes are
/// wanted; cut at the end of a character.
fn text_value(bytes: Vec<u8>, max_value_bytes: Option<u32>) -> Value {
    let limit = max_value_bytes.map_or(usize::MAX, |limit| limit as usize);
    if bytes.len() <= limit {
        return match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text),
            Err(_) => Value::Unreadable(NOT_UTF8.to_owned()),
        };
    }
    // A cut through a character leaves up to three of its bytes behind.
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
    fn a_head_ends_with_a_whole_character() {
        for (head, expected) in [
            (None, Value::Text("aé☀".into())),
            (Some(6), Value::Text("aé☀".into())),
            (Some(5), Value::Truncated("aé".into())),
            (Some(3), Value::Truncated("aé".into())),
            (Some(2), Value::Truncated("a".into())),
            (Some(0), Value::Truncated(String::new())),
        ] {
            assert_eq!(text_value("aé☀".into(), head), expected);
        }
        assert_eq!(text_value(vec![b'a', 0xff, b'b'], Some(2)), Value::Unreadable(NOT_UTF8.into()));
    }
}
