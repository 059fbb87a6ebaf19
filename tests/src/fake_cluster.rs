//! A store with the restrictions of a Redis Cluster: only keys with the same hash
//! tag are colocated. It panics if a call uses keys that are not, since no code
//! handles a panic as a failure.

use std::sync::Arc;

use async_trait::async_trait;
use checkpointer::store::{
    Batch, Condition, Expiry, IndexPage, KeyPage, Operation, Query, StorageError, Store, Value,
};

use crate::names::hash_tag;

/// Wraps a store.
pub struct FakeCluster {
    inner: Arc<dyn Store>,
}

impl FakeCluster {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner })
    }
}

#[async_trait]
impl Store for FakeCluster {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        assert_together("get", keys.iter().map(String::as_str));
        self.inner.get(keys, max_value_bytes).await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        assert_together("ttl", keys.iter().map(String::as_str));
        self.inner.ttl(keys).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        assert_together("range", [query.index.as_str(), &query.value_key_prefix]);
        self.inner.range(query).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        assert_together("commit", batches.iter().flat_map(touched));
        self.inner.commit(batches).await
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        self.inner.scan(prefix, after).await
    }

    fn supports(&self, capability: &str) -> bool {
        self.inner.supports(capability)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        hash_tag(prefix) != prefix
    }
}

fn assert_together<'a>(call: &str, keys: impl IntoIterator<Item = &'a str>) {
    let mut keys = keys.into_iter();
    if let Some(first) = keys.next() {
        for other in keys {
            assert_eq!(hash_tag(other), hash_tag(first), "a {call} of {first:?} and {other:?}");
        }
    }
}

fn touched(batch: &Batch) -> Vec<&str> {
    let mut keys = Vec::new();
    for condition in batch.conditions.iter().flatten() {
        match condition {
            Condition::Absent(key) => keys.push(key.as_str()),
            Condition::StartsWith(wanted) => keys.push(&wanted.key),
            Condition::IndexHas(wanted) => keys.push(&wanted.index),
            Condition::IndexSizeAtMost(most) => keys.push(&most.index),
            Condition::IndexMax(wanted) => keys.extend([wanted.index.as_str(), &wanted.value_key_prefix]),
        }
    }
    keys.extend(batch.operations.iter().map(|operation| match operation {
        Operation::Put(put) => put.key.as_str(),
        Operation::Delete(key) => key,
        Operation::IndexPut(put) => &put.index,
        Operation::IndexDelete(gone) => &gone.index,
        Operation::Expire(expire) => &expire.key,
    }));
    keys
}
