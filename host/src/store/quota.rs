//! What a part of a store may hold, and how that is counted.

use std::ops::{Add, Sub};

use super::{Batch, Effect, Operation, StorageError, StorageReason, invalid, storage_error};

/// What a member of an index costs, whatever its length: most are ids of a few
/// dozen bytes, and beside them there is a score and what the store needs to
/// find both. Redis counts the same in `ledger.lua`.
pub(super) const MEMBER_BYTES: i64 = 128;

/// How many entries of a ledger are looked at again at once.
pub(super) const SETTLE_PAGE: u32 = 500;

/// What a part of a store may hold.
///
/// The store counts it in a ledger of its own, for all processes that use the
/// store, in the same atomic step as each write. A value costs the bytes of its
/// key and of its text; an index costs the bytes of its key and a flat 128 for
/// each member. Members of up to 512 bytes are possible, so the bytes of an
/// index are about right and no more; what the store itself adds to anything is
/// not counted.
///
/// The ledger has what was written with [`Store::commit_with_quota`], and no more:
/// a key that was only ever written past it, or before there was a quota, is
/// not counted until a write within the quota touches it.
///
/// [`Store::commit_with_quota`]: super::Store::commit_with_quota
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The name of the ledger, and its key in a store that has nothing but keys.
    /// It must be none that a component can name or reach by a scan: what the
    /// component's keys begin with, and a NUL behind it.
    pub ledger: String,
    /// The most values that there may be at once; none, if any number. Indexes
    /// are no values.
    pub values: Option<u64>,
    /// The most bytes that all values and indexes may have together; none, if
    /// any number.
    pub bytes: Option<u64>,
}

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Values,
    Bytes,
}

/// What stands at one key or at several, as a quota counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    pub(super) values: i64,
    pub(super) bytes: i64,
}

impl Quota {
    /// Refuses to write to the ledger itself.
    pub(super) fn check(&self, batches: &[Batch]) -> Result<(), StorageError> {
        let mut operations = batches.iter().flat_map(|batch| &batch.operations);
        if operations.any(|operation| key_of(operation) == self.ledger) {
            return Err(invalid("nothing can be written to the ledger of a quota"));
        }
        Ok(())
    }

    /// The limit that is exceeded, if one is, by what makes the holdings grow by
    /// `growth`, to `total`. What does not make them grow exceeds none.
    pub(super) fn exceeded(&self, growth: Holdings, total: Holdings) -> Option<Limit> {
        let exceeds = |growth: i64, total: i64, most: Option<u64>| {
            growth > 0 && most.is_some_and(|most| u64::try_from(total).is_ok_and(|total| total > most))
        };
        if exceeds(growth.values, total.values, self.values) {
            Some(Limit::Values)
        } else if exceeds(growth.bytes, total.bytes, self.bytes) {
            Some(Limit::Bytes)
        } else {
            None
        }
    }

    /// What is told where a limit would be exceeded, in the words of those who
    /// hear it: plugins, which know buckets and checkpoints.
    pub(super) fn full(&self, limit: Limit) -> StorageError {
        let (most, what) = match limit {
            Limit::Values => (self.values, "checkpoints"),
            Limit::Bytes => (self.bytes, "bytes"),
        };
        let most = most.unwrap_or_default();
        storage_error(
            StorageReason::Full,
            Effect::None,
            format!("the bucket is full: it may have {most} {what}"),
        )
    }
}

/// The key that an operation is about.
fn key_of(operation: &Operation) -> &str {
    match operation {
        Operation::Put(put) => &put.key,
        Operation::Delete(key) => key,
        Operation::IndexPut(put) => &put.index,
        Operation::IndexDelete(gone) => &gone.index,
        Operation::Expire(expire) => &expire.key,
    }
}

/// The key whose size an operation may change; to set an expiry changes none.
pub(super) fn resized(operation: &Operation) -> Option<&str> {
    (!matches!(operation, Operation::Expire(_))).then(|| key_of(operation))
}

impl Holdings {
    pub(super) fn value(key: &str, bytes: i64) -> Self {
        Self { values: 1, bytes: length(key) + bytes }
    }

    pub(super) fn index(key: &str, members: u64) -> Self {
        let members = i64::try_from(members).unwrap_or(i64::MAX);
        Self { values: 0, bytes: length(key).saturating_add(members.saturating_mul(MEMBER_BYTES)) }
    }
}

fn length(key: &str) -> i64 {
    i64::try_from(key.len()).unwrap_or(i64::MAX)
}

impl Add for Holdings {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { values: self.values + other.values, bytes: self.bytes + other.bytes }
    }
}

impl Sub for Holdings {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { values: self.values - other.values, bytes: self.bytes - other.bytes }
    }
}
