//! The key-value store below the checkpointer. The types are those of the WIT
//! interface `keyvalue`, which describes them.

pub use crate::bindings::flow::checkpoint::keyvalue::{
    Batch, Condition, Entry, Expire, ExpireMode, Expiry, IndexMax, IndexMember, IndexPage, IndexPut,
    IndexSize, KeyPage, Operation, Order, Position, Put, Query, Value, ValuePrefix,
};
pub use crate::bindings::flow::checkpoint::types::{Effect, StorageError, StorageReason};

/// A bucket of the WIT interface `keyvalue`. The component uses the one that the
/// host provides; natively, any implementation can be used. After an error nothing is
/// known about the keys; the effect of the error of a commit tells whether it may have
/// written.
pub trait Keyvalue {
    /// Returns the values of the keys, in the order of the keys; of each value at
    /// most `max_value_bytes` bytes.
    fn get(&self, keys: &[String], max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError>;

    /// Returns the remaining TTLs of the keys, in the order of the keys; none for a
    /// key that does not exist.
    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<Expiry>>, StorageError>;

    /// Returns entries of an index, joined with their values, as a consistent
    /// snapshot.
    fn range(&self, query: &Query) -> Result<IndexPage, StorageError>;

    /// Applies the batches in order, each if its conditions hold, in one atomic step.
    /// Returns for each whether it was applied.
    fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, StorageError>;

    /// Returns a page of the keys with this prefix. `cursor` is the next cursor of the
    /// previous page; none for the first page.
    fn scan(&self, prefix: &str, cursor: Option<&str>) -> Result<KeyPage, StorageError>;

    /// Returns whether all keys with this prefix can be used in one commit, one get
    /// and one range. No I/O.
    fn is_colocated(&self, prefix: &str) -> bool;

    /// Returns whether the store has a capability: `conditions`, `atomic-commit` or
    /// `expiry`; false for another name. No I/O.
    fn supports(&self, capability: &str) -> bool;
}
