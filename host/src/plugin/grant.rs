//! The buckets of a plugin.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::BucketGrant;
#[cfg(doc)]
use super::Limits;
use super::granted_store::QuotaReconciliation;
use super::rate_limiter::RateLimiter;
use crate::store::{Quota, Store};

/// The default of [`Grant::max_results_per_call`].
const DEFAULT_MAX_RESULTS: u32 = 1000;

/// Access to one bucket: a part of a store, with limits.
#[derive(Clone)]
#[must_use]
pub struct Grant {
    pub(super) store: Arc<dyn Store>,
    pub(super) settings: BucketGrant,
    pub(super) rate_limiter: Option<Arc<RateLimiter>>,
    pub(super) reconciliation: Arc<Mutex<QuotaReconciliation>>,
}

impl Grant {
    /// Read and write access to all keys of `store` that begin with `prefix`. The
    /// plugin does not see the prefix.
    ///
    /// End each prefix with a separator: `tenant-1` also grants the keys of
    /// `tenant-10`, and `tenant-1/` does not.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<String>) -> Self {
        Self::with_settings(store, BucketGrant::new(prefix))
    }

    pub(super) fn with_settings(store: Arc<dyn Store>, settings: BucketGrant) -> Self {
        let rate_limiter = settings.max_operations_per_second.map(RateLimiter::per_second).map(Arc::new);
        Self { store, settings, rate_limiter, reconciliation: Arc::default() }
    }

    /// Refuses writes.
    pub fn read_only(mut self) -> Self {
        self.settings.read_only = true;
        self
    }

    /// Limits the size of a stored checkpoint; a larger one fails with `too-large`.
    /// The size is that of the document with its metadata, after compression.
    pub fn max_checkpoint_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_checkpoint_bytes = Some(bytes);
        self
    }

    /// Limits the number of checkpoints in the bucket; a save beyond it fails with
    /// `full`. The pin marker of a session counts as a checkpoint.
    ///
    /// The store counts in the same atomic step as each write, so the limit holds
    /// for concurrent writes, and for all hosts that grant the same prefix of the
    /// same store with it. Checkpoints that were saved without a limit count after
    /// their next save. Expired ones may count until the limit is reached.
    pub fn max_total_checkpoints(mut self, count: u64) -> Self {
        self.settings.max_total_checkpoints = Some(count);
        self
    }

    /// Limits the bytes in the bucket, keys included; a save beyond it fails with
    /// `full`. An index entry counts as 128 bytes. The store counts as for
    /// [`Grant::max_total_checkpoints`].
    pub fn max_total_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_total_bytes = Some(bytes);
        self
    }

    /// Limits the rate of store operations, over all plugins in this process that
    /// use this grant or a clone of it. A burst of one second is allowed. Further
    /// operations wait, and the wait counts towards the timeouts of [`Limits`]. Most
    /// calls are one operation; a call in several steps is one per step.
    pub fn max_operations_per_second(mut self, count: u32) -> Self {
        self.settings.max_operations_per_second = Some(count);
        self.rate_limiter = Some(Arc::new(RateLimiter::per_second(count)));
        self
    }

    /// Limits the checkpoints that one call returns, 1,000 by default; a call that
    /// asks for more fails with `invalid-argument`. A page of a scan contains no
    /// states and is not limited: the store makes pages of about 1,000 entries.
    pub fn max_results_per_call(mut self, count: u32) -> Self {
        self.settings.max_results_per_call = Some(count);
        self
    }

    pub(super) fn max_results(&self) -> u32 {
        self.settings.max_results_per_call.unwrap_or(DEFAULT_MAX_RESULTS)
    }

    /// The quota of all keys with the prefix. The key of its usage ledger contains a
    /// NUL, so a plugin can't name it.
    pub(super) fn quota(&self) -> Option<Quota> {
        let BucketGrant { prefix, max_total_checkpoints: values, max_total_bytes: bytes, .. } =
            &self.settings;
        (values.is_some() || bytes.is_some()).then(|| Quota {
            ledger: format!("{prefix}\0quota"),
            values: *values,
            bytes: *bytes,
        })
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grant").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The buckets that a plugin may open, by the names that it uses for them.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Grants {
    buckets: BTreeMap<String, Grant>,
}

impl Grants {
    /// No buckets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a bucket, or replaces the one of this name.
    pub fn bucket(mut self, name: impl Into<String>, grant: Grant) -> Self {
        self.buckets.insert(name.into(), grant);
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&Grant> {
        self.buckets.get(name)
    }
}
