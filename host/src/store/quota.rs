//! The quota of a part of a store, and how its usage is counted.

use std::ops::{Add, Sub};

use super::{Batch, Effect, Operation, StorageError, StorageReason, invalid};

/// The cost of a member of an index, whatever its length: an id of a few dozen
/// bytes, a score, and what a store needs to find both. `ledger.lua` has the same
/// number.
pub(super) const MEMBER_BYTES: i64 = 128;

/// The number of ledger entries in a page of a reconciliation.
pub(super) const RECONCILE_PAGE: u32 = 500;

/// A limit on the number of values and bytes under a prefix. A commit that would exceed
/// it fails with [`StorageReason::Full`](crate::StorageReason::Full), and writes nothing.
///
/// The usage is counted in a ledger in the store, in the same atomic step as each
/// write. All processes that write with the same ledger share it. A value costs the bytes of its key and of its
/// text. An index costs the bytes of its key and 128 bytes for each member; the bytes of an
/// index are therefore an estimate. The overhead of the store is not counted.
///
/// Only [`Store::commit_with_quota`] updates the ledger. A key that another commit has
/// written is counted from the next write with the quota on. Expired keys count until
/// [`Store::reconcile_quota`](super::Store::reconcile_quota) or a write removes them.
///
/// [`Store::commit_with_quota`]: super::Store::commit_with_quota
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// The name of the usage ledger, which is its key in Redis. No component may
    /// reach it: use the prefix of the component's keys, followed by a NUL.
    pub ledger: String,
    /// The maximum number of values; none if unlimited. Indexes are not values.
    pub values: Option<u64>,
    /// The maximum number of bytes of all values and indexes; none if unlimited.
    pub bytes: Option<u64>,
}

/// A limit of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Values,
    Bytes,
}

/// The usage of one key or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) values: i64,
    pub(super) bytes: i64,
}

impl Quota {
    /// A quota of at most `values` values and `bytes` bytes, each unlimited if none.
    pub fn new(ledger: impl Into<String>, values: Option<u64>, bytes: Option<u64>) -> Self {
        Self { ledger: ledger.into(), values, bytes }
    }

    /// Rejects batches that write to the ledger itself.
    pub(super) fn validate(&self, batches: &[Batch]) -> Result<(), StorageError> {
        let mut operations = batches.iter().flat_map(|batch| &batch.operations);
        if operations.any(|operation| key_of(operation) == self.ledger) {
            return Err(invalid("the usage ledger of a quota can't be written; use another key"));
        }
        Ok(())
    }

    /// The limit that is exceeded after a growth of `growth` to `total`. A commit
    /// that does not increase the usage exceeds none.
    pub(super) fn exceeded(&self, growth: Usage, total: Usage) -> Option<Limit> {
        let exceeds = |growth: i64, total: i64, limit: Option<u64>| {
            growth > 0 && limit.is_some_and(|limit| u64::try_from(total).is_ok_and(|total| total > limit))
        };
        if exceeds(growth.values, total.values, self.values) {
            Some(Limit::Values)
        } else if exceeds(growth.bytes, total.bytes, self.bytes) {
            Some(Limit::Bytes)
        } else {
            None
        }
    }

    /// The error for a limit that would be exceeded. Plugins read it, so it speaks
    /// of buckets and checkpoints.
    pub(super) fn full(&self, limit: Limit) -> StorageError {
        let (limit, unit) = match limit {
            Limit::Values => (self.values, "checkpoints"),
            Limit::Bytes => (self.bytes, "bytes"),
        };
        let limit = limit.unwrap_or_default();
        let message = format!("the bucket is full: its limit is {limit} {unit}; delete checkpoints");
        StorageError::new(StorageReason::Full, Effect::None, message)
    }
}

/// The key that an operation changes.
fn key_of(operation: &Operation) -> &str {
    match operation {
        Operation::Put(put) => &put.key,
        Operation::Delete(key) => key,
        Operation::IndexPut(put) => &put.index,
        Operation::IndexDelete(entry) => &entry.index,
        Operation::Expire(expire) => &expire.key,
    }
}

/// The key whose size an operation may change. A new expiry changes no size.
pub(super) fn resized_key(operation: &Operation) -> Option<&str> {
    (!matches!(operation, Operation::Expire(_))).then(|| key_of(operation))
}

impl Usage {
    pub(super) fn of_value(key: &str, bytes: i64) -> Self {
        Self { values: 1, bytes: length(key) + bytes }
    }

    pub(super) fn of_index(key: &str, members: u64) -> Self {
        let members = i64::try_from(members).unwrap_or(i64::MAX);
        Self { values: 0, bytes: length(key).saturating_add(members.saturating_mul(MEMBER_BYTES)) }
    }
}

fn length(key: &str) -> i64 {
    i64::try_from(key.len()).unwrap_or(i64::MAX)
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { values: self.values + other.values, bytes: self.bytes + other.bytes }
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { values: self.values - other.values, bytes: self.bytes - other.bytes }
    }
}
