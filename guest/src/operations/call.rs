//! One call of an operation: its access to the bucket, and the effect of its
//! failure.

use std::cell::Cell;

use super::checkpointer::Settings;
use super::{Checkpointer, HEAD};
use crate::Error;
use crate::keys::Keys;
use crate::keyvalue::{
    Batch, Condition, Effect, Expiry, IndexMember, IndexSize, Keyvalue, Order, Position, Query, StorageError,
    StorageReason, Value, ValuePrefix,
};

/// One call of an operation. A checkpointer may be called from several threads
/// at once, so this state is not part of it.
pub(super) struct Call<'a, K> {
    pub bucket: &'a K,
    pub keys: &'a Keys,
    pub settings: &'a Settings,
    /// Whether a commit of this call may have written.
    has_written: Cell<bool>,
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Runs an operation. If it fails after a commit that may have written, the
    /// error has the effect `unknown`.
    pub(super) fn call<T>(
        &self,
        operation: impl FnOnce(&Call<'_, K>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (bucket, keys, settings) = (&self.bucket, &self.keys, &self.settings);
        let call = Call { bucket, keys, settings, has_written: Cell::new(false) };
        operation(&call).map_err(|error| match error {
            Error::Storage(error) if call.has_written.get() => {
                Error::Storage(StorageError { effect: Effect::Unknown, ..error })
            }
            error => error,
        })
    }
}

impl<K: Keyvalue> Call<'_, K> {
    /// Returns the value of one key, at most `max_value_bytes` of it.
    pub fn get(&self, key: &str, max_value_bytes: Option<u32>) -> Result<Value, Error> {
        let values = self.bucket.get(&[key.to_owned()], max_value_bytes)?;
        values.into_iter().next().ok_or_else(|| protocol_error("no value for a key"))
    }

    /// Applies batches in one atomic step. Returns for each whether it was applied.
    pub fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, Error> {
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let applied = self.bucket.commit(batches);
        let writes = match &applied {
            Ok(applied) => {
                applied.iter().zip(batches).any(|(applied, batch)| *applied && !batch.operations.is_empty())
            }
            Err(error) => error.effect == Effect::Unknown,
        };
        self.has_written.set(self.has_written.get() || writes);
        let applied = applied?;
        if applied.len() == batches.len() {
            Ok(applied)
        } else {
            Err(protocol_error("no result for a batch"))
        }
    }

    /// Returns a query of the first `limit` entries of an index with their whole
    /// documents, without a next position.
    pub fn query(&self, index: &str, order: Order, limit: u32) -> Query {
        Query {
            index: index.to_owned(),
            order,
            after: None,
            limit,
            value_key_prefix: self.keys.documents_of(index),
            max_value_bytes: None,
            with_next: false,
            with_count: false,
        }
    }

    /// Returns a query of entries with the heads of their documents.
    pub fn query_heads(&self, index: &str, order: Order, limit: u32, after: Option<Position>) -> Query {
        Query { after, max_value_bytes: Some(HEAD), with_next: true, ..self.query(index, order, limit) }
    }

    /// The expiry of a checkpoint saved now in a session that is not pinned.
    pub fn expiry(&self) -> Expiry {
        self.settings.ttl.map_or(Expiry::Never, |ttl| Expiry::AfterMs(ttl.milliseconds))
    }
}

/// Returns conditions of which each must hold.
pub(super) fn all(conditions: impl IntoIterator<Item = Condition>) -> Vec<Vec<Condition>> {
    conditions.into_iter().map(|condition| vec![condition]).collect()
}

pub(super) fn starts_with(key: String, text: String) -> Condition {
    Condition::StartsWith(ValuePrefix { key, text })
}

pub(super) fn index_size_at_most(index: &str, size: u64) -> Condition {
    Condition::IndexSizeAtMost(IndexSize { index: index.to_owned(), size })
}

pub(super) fn index_member(index: &str, member: &str) -> IndexMember {
    IndexMember { index: index.to_owned(), member: member.to_owned() }
}

/// The error of a store that violates the interface.
pub(super) fn protocol_error(missing: &str) -> Error {
    let message = format!("the store returned {missing}");
    storage_error(StorageReason::Other, Effect::Unknown, message)
}

/// The error of an operation of which all [`ATTEMPTS`](super::ATTEMPTS) failed.
pub(super) fn contention() -> Error {
    let message = "concurrent changes of the same checkpoints made every attempt fail; retry".to_owned();
    storage_error(StorageReason::Unavailable, Effect::None, message)
}

pub(super) fn storage_error(reason: StorageReason, effect: Effect, message: String) -> Error {
    Error::Storage(StorageError { reason, effect, message })
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}
