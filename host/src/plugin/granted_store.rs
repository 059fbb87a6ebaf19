//! A store within the limits of a grant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::Grant;
use crate::store::{
    Batch, Effect, Expiry, IndexPage, KeyPage, Operation, Put, Query, Quota, StorageError, StorageReason,
    Store, Value,
};

/// The store of a grant, as one checkpointer of a plugin uses it.
#[derive(Debug)]
pub(super) struct GrantedStore {
    pub(super) grant: Grant,
    quota: Option<Quota>,
    /// Whether [`GrantedStore::acquire_ahead`] took a permit that no operation has
    /// used.
    has_permit: AtomicBool,
    /// Whether the last operation of the plugin waited for a permit.
    is_rate_limited: Arc<AtomicBool>,
}

/// The progress of the reconciliation of a quota, shared by the clones of a grant.
/// The task that reconciles holds its lock.
#[derive(Debug, Default)]
pub(super) struct QuotaReconciliation {
    /// The cursor of the next page, if a reconciliation was cancelled.
    cursor: Option<String>,
    /// The start or the end of the last reconciliation, and the pause before the
    /// next one.
    pause: Option<(Instant, Duration)>,
}

/// The minimum interval between reconciliations, and its factor over the time that
/// the last one took, so that a tenant at its limit can't keep the store busy.
const MIN_RECONCILE_INTERVAL: Duration = Duration::from_secs(1);
const RECONCILE_BACKOFF_FACTOR: u32 = 4;

impl GrantedStore {
    pub(super) fn new(grant: Grant, is_rate_limited: Arc<AtomicBool>) -> Self {
        Self { quota: grant.quota(), grant, has_permit: AtomicBool::new(false), is_rate_limited }
    }

    /// Waits for a permit of the rate limit, unless one was acquired ahead.
    async fn acquire(&self) {
        if self.has_permit.swap(false, Ordering::Relaxed) {
            return;
        }
        let waited = match &self.grant.rate_limiter {
            Some(limiter) => {
                self.is_rate_limited.store(true, Ordering::Relaxed);
                limiter.acquire().await
            }
            None => false,
        };
        self.is_rate_limited.store(waited, Ordering::Relaxed);
    }

    /// Acquires the permit of the first operation of a call, so that a call that
    /// waits for its permit does not occupy an instance of the component. The calls
    /// of a plugin's instance run one after another, so one permit is enough.
    pub(super) async fn acquire_ahead(&self) {
        self.acquire().await;
        self.has_permit.store(true, Ordering::Relaxed);
    }

    /// Reconciles the quota with the store, unless that was done recently. Returns
    /// whether it was done, so that a full commit is worth a retry.
    async fn reconcile(&self, quota: &Quota) -> Result<bool, StorageError> {
        let Ok(mut state) = self.grant.reconciliation.try_lock() else { return Ok(false) };
        if state.pause.is_some_and(|(since, pause)| since.elapsed() < pause) {
            return Ok(false);
        }
        state.pause = Some((Instant::now(), MIN_RECONCILE_INTERVAL));
        let mut spent = Duration::ZERO;
        loop {
            self.acquire().await;
            let start = Instant::now();
            state.cursor = self.grant.store.reconcile_quota(quota, state.cursor.clone()).await?;
            spent += start.elapsed();
            if state.cursor.is_none() {
                let pause = spent.saturating_mul(RECONCILE_BACKOFF_FACTOR).max(MIN_RECONCILE_INTERVAL);
                state.pause = Some((Instant::now(), pause));
                return Ok(true);
            }
        }
    }

    fn check(&self, batches: &[Batch]) -> Result<(), StorageError> {
        if self.grant.settings.read_only {
            return Err(refusal(StorageReason::ReadOnly, "the bucket is read-only"));
        }
        let limit = self.grant.settings.max_checkpoint_bytes.unwrap_or(u64::MAX);
        for operation in batches.iter().flat_map(|batch| &batch.operations) {
            if let Operation::Put(Put { value, .. }) = operation
                && value.len() as u64 > limit
            {
                let message =
                    format!("the checkpoint has {} bytes, more than the limit of {limit}", value.len());
                return Err(refusal(StorageReason::TooLarge, message));
            }
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for GrantedStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.acquire().await;
        self.grant.store.get(keys, max_value_bytes).await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.acquire().await;
        self.grant.store.ttl(keys).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.acquire().await;
        self.grant.store.range(query).await
    }

    async fn range_with_byte_limit(&self, query: Query, limit: usize) -> Result<IndexPage, StorageError> {
        self.acquire().await;
        self.grant.store.range_with_byte_limit(query, limit).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.check(&batches)?;
        self.acquire().await;
        let store = &self.grant.store;
        let Some(quota) = &self.quota else { return store.commit(batches).await };
        let full = match store.commit_with_quota(quota, batches.clone()).await {
            Err(error) if error.reason == StorageReason::Full => error,
            result => return result,
        };
        // The usage may include expired values.
        let retry = async {
            if !self.reconcile(quota).await? {
                return Err(full.clone());
            }
            self.acquire().await;
            store.commit_with_quota(quota, batches).await
        };
        retry.await.map_err(|error| match full.effect {
            Effect::None => error,
            Effect::Unknown => error.with_effect(Effect::Unknown),
        })
    }

    async fn scan(&self, prefix: String, cursor: Option<String>) -> Result<KeyPage, StorageError> {
        self.acquire().await;
        self.grant.store.scan(prefix, cursor).await
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.grant.store.is_colocated(prefix)
    }

    fn supports(&self, capability: &str) -> bool {
        self.grant.store.supports(capability)
    }

    async fn commit_with_quota(&self, _: &Quota, _: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        Err(second_quota())
    }

    async fn reconcile_quota(&self, _: &Quota, _: Option<String>) -> Result<Option<String>, StorageError> {
        Err(second_quota())
    }
}

fn second_quota() -> StorageError {
    refusal(StorageReason::Unsupported, "the store of a grant has its own quota and can't apply another one")
}

fn refusal(reason: StorageReason, message: impl Into<String>) -> StorageError {
    StorageError::new(reason, Effect::None, message)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::store::SqliteStore;

    fn put(key: String, expiry: Expiry) -> Batch {
        let put = Operation::Put(Put { key, value: "1".to_owned(), expiry });
        Batch { conditions: Vec::new(), operations: vec![put] }
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_reconciliation_is_continued_by_the_next_commit() {
        let store = Arc::new(SqliteStore::in_memory().await.expect("a database"));
        let grant = Grant::new(Arc::clone(&store) as Arc<dyn Store>, "a/");
        let grant = grant.max_total_checkpoints(1100).max_operations_per_second(1);
        let granted = GrantedStore::new(grant, Arc::default());
        // The second page of the reconciliation finds the expired values.
        let batches = (0..1100).map(|number| {
            let expiry = if number < 1000 { Expiry::Never } else { Expiry::AfterMs(1) };
            put(format!("a/{number:04}"), expiry)
        });
        let quota = granted.quota.clone().expect("a quota");
        store.commit_with_quota(&quota, batches.collect()).await.expect("below the quota");
        std::thread::sleep(Duration::from_millis(10));
        tokio::time::advance(Duration::from_secs(60)).await;
        let commit = || {
            let commit = granted.commit(vec![put("a/new".to_owned(), Expiry::Never)]);
            timeout(Duration::from_millis(2600), commit)
        };
        assert!(commit().await.is_err());
        assert_eq!(commit().await.expect("in time"), Ok(vec![true]));
    }
}
