//! What an operation that failed says of its effect. It may go in steps, and it
//! has written nothing only if none of them did.

use std::cell::Cell;

use super::Checkpointer;
use crate::Error;
use crate::keyvalue::{Batch, Effect, Expiry, IndexPage, KeyPage, Keyvalue, Query, StorageError, Value};

/// A bucket in the course of one operation: remembers whether anything may have
/// been written.
pub(super) struct Steps<'a, K> {
    bucket: &'a K,
    written: Cell<bool>,
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Does all of an operation that writes. If it fails after something was
    /// written, it can't say that nothing was, whatever failed in the end.
    pub(super) fn in_steps<T>(
        &self,
        operation: impl FnOnce(&Checkpointer<Steps<'_, K>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let steps = Checkpointer {
            bucket: Steps { bucket: &self.bucket, written: Cell::new(false) },
            keys: self.keys.clone(),
            ttl: self.ttl,
            max_state_bytes: self.max_state_bytes,
            compress: self.compress,
            max_checkpoints: self.max_checkpoints,
        };
        operation(&steps).map_err(|error| match error {
            Error::Storage(error) if steps.bucket.written.get() => {
                Error::Storage(StorageError { effect: Effect::Unknown, ..error })
            }
            error => error,
        })
    }
}

impl<K: Keyvalue> Keyvalue for Steps<'_, K> {
    fn get(&self, keys: &[String], max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.bucket.get(keys, max_value_bytes)
    }

    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.bucket.ttl(keys)
    }

    fn range(&self, query: &Query) -> Result<IndexPage, StorageError> {
        self.bucket.range(query)
    }

    fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, StorageError> {
        let applied = self.bucket.commit(batches);
        let writes = match &applied {
            Ok(applied) => {
                applied.iter().zip(batches).any(|(applied, batch)| *applied && !batch.operations.is_empty())
            }
            Err(error) => error.effect == Effect::Unknown,
        };
        self.written.set(self.written.get() || writes);
        applied
    }

    fn scan(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, StorageError> {
        self.bucket.scan(prefix, after)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.bucket.is_colocated(prefix)
    }

    fn supports(&self, capability: &str) -> bool {
        self.bucket.supports(capability)
    }
}
