//! A store with small pages, so that paging is tested with few checkpoints.

use std::sync::Arc;

use async_trait::async_trait;
use checkpointer::store::{Batch, Expiry, IndexPage, KeyPage, Query, Quota, StorageError, Store, Value};

/// Wraps a store.
pub struct Paged {
    inner: Arc<dyn Store>,
    size: usize,
}

impl Paged {
    /// Wraps `inner` with pages of at most `size` entries.
    pub fn new(inner: Arc<dyn Store>, size: usize) -> Arc<Self> {
        Arc::new(Self { inner, size })
    }
}

#[async_trait]
impl Store for Paged {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.inner.get(keys, max_value_bytes).await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.inner.ttl(keys).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        // Without `with_next` the caller can't continue, so it receives all entries.
        let limit = if query.with_next { query.limit.min(self.size as u32) } else { query.limit };
        self.inner.range(Query { limit, ..query }).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.inner.commit(batches).await
    }

    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.inner.commit_with_quota(quota, batches).await
    }

    async fn reconcile_quota(
        &self,
        quota: &Quota,
        after: Option<String>,
    ) -> Result<Option<String>, StorageError> {
        self.inner.reconcile_quota(quota, after).await
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        let (mut keys, mut inner_after) = (Vec::new(), None);
        loop {
            let page = self.inner.scan(prefix.clone(), inner_after).await?;
            keys.extend(page.keys);
            inner_after = page.next_cursor;
            if inner_after.is_none() {
                break;
            }
        }
        keys.sort();
        keys.dedup();
        keys.retain(|key| after.as_ref().is_none_or(|after| key > after));
        keys.truncate(self.size);
        let next = keys.last().filter(|_| keys.len() == self.size).cloned();
        Ok(KeyPage { keys, next_cursor: next })
    }

    fn supports(&self, capability: &str) -> bool {
        self.inner.supports(capability)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.inner.is_colocated(prefix)
    }
}
