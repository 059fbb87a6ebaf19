//! The seam below the logic: what it needs of a key-value store.
//!
//! The types are those of the WIT interface `keyvalue`, where each is
//! described.

pub use crate::bindings::flow::checkpoint::keyvalue::{
    Batch, Condition, Entry, Expire, ExpireMode, Expiry, IndexMax, IndexMember, IndexPage, IndexPut, IndexSize,
    KeyPage, ValuePrefix, Operation, Order, Position, Put, Query, Value,
};
pub use crate::bindings::flow::checkpoint::types::{Effect, StorageError, StorageReason};

/// A bucket of the WIT interface `keyvalue`.
pub trait Keyvalue {
    /// What stands at each of `keys`, in their order; no more than `head` bytes
    /// of each.
    ///
    /// # Errors
    /// The store failed; nothing is known about the keys.
    fn get(&self, keys: &[String], max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError>;

    /// When each of `keys` goes away by itself; none where nothing stands.
    ///
    /// # Errors
    /// The store failed, or can't say; nothing is known about the keys.
    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<Expiry>>, StorageError>;

    /// Entries of an index, joined with the values that they name.
    ///
    /// # Errors
    /// The store failed; nothing is known about the index.
    fn range(&self, query: &Query) -> Result<IndexPage, StorageError>;

    /// Applies each batch whose conditions hold, all in one atomic step; says
    /// for each whether it was applied.
    ///
    /// # Errors
    /// The store failed; the error's `effect` says whether anything was
    /// written.
    fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, StorageError>;

    /// A page of the keys that begin with `prefix`.
    ///
    /// # Errors
    /// The store failed; nothing is known about the keys.
    fn scan(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, StorageError>;

    /// Whether all keys that begin with `prefix` can be in one commit, and in
    /// one range. No I/O.
    fn is_colocated(&self, prefix: &str) -> bool;

    /// Whether the store has a capability: `conditions`, `atomic-commit` or
    /// `expiry`. No I/O.
    fn supports(&self, capability: &str) -> bool;
}
