//! A store that adds a prefix to all keys.

use std::fmt;
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Batch, Condition, Expiry, IndexPage, KeyPage, Operation, Query, Quota, StorageError, Store, Value,
};

/// The keys of a store that begin with a prefix, without the prefix.
pub struct PrefixedStore {
    store: Arc<dyn Store>,
    prefix: Arc<str>,
}

impl PrefixedStore {
    /// The keys of `store` that begin with `prefix`.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<Arc<str>>) -> Self {
        Self { store, prefix: prefix.into() }
    }

    /// [`PrefixedStore::new`], or the store itself for an empty prefix.
    pub fn wrap(store: Arc<dyn Store>, prefix: impl Into<Arc<str>>) -> Arc<dyn Store> {
        let prefix = prefix.into();
        if prefix.is_empty() { store } else { Arc::new(Self::new(store, prefix)) }
    }

    fn key(&self, key: String) -> String {
        [&*self.prefix, &key].concat()
    }

    fn query(&self, query: Query) -> Query {
        Query { index: self.key(query.index), value_key_prefix: self.key(query.value_key_prefix), ..query }
    }

    /// The ledger has the prefix too.
    fn quota(&self, quota: &Quota) -> Quota {
        Quota { ledger: self.key(quota.ledger.clone()), ..quota.clone() }
    }

    fn batches(&self, mut batches: Vec<Batch>) -> Vec<Batch> {
        let prefix = |key: &mut String| *key = self.key(mem::take(key));
        for condition in batches.iter_mut().flat_map(|batch| &mut batch.conditions).flatten() {
            prefix(match condition {
                Condition::Absent(key) => key,
                Condition::StartsWith(text) => &mut text.key,
                Condition::IndexHas(member) => &mut member.index,
                Condition::IndexSizeAtMost(size) => &mut size.index,
                Condition::IndexMax(max) => {
                    prefix(&mut max.value_key_prefix);
                    &mut max.index
                }
            });
        }
        for operation in batches.iter_mut().flat_map(|batch| &mut batch.operations) {
            prefix(match operation {
                Operation::Put(put) => &mut put.key,
                Operation::Delete(key) => key,
                Operation::IndexPut(put) => &mut put.index,
                Operation::IndexDelete(member) => &mut member.index,
                Operation::Expire(expire) => &mut expire.key,
            });
        }
        batches
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for PrefixedStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        let keys = keys.into_iter().map(|key| self.key(key)).collect();
        self.store.get(keys, max_value_bytes).await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        let keys = keys.into_iter().map(|key| self.key(key)).collect();
        self.store.ttl(keys).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.store.range(self.query(query)).await
    }

    async fn range_with_byte_limit(&self, query: Query, max_bytes: usize) -> Result<IndexPage, StorageError> {
        self.store.range_with_byte_limit(self.query(query), max_bytes).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.store.commit(self.batches(batches)).await
    }

    async fn scan(&self, prefix: String, cursor: Option<String>) -> Result<KeyPage, StorageError> {
        let page = self.store.scan(self.key(prefix), cursor).await?;
        let keys = page.keys.into_iter().filter_map(|key| Some(key.strip_prefix(&*self.prefix)?.to_owned()));
        Ok(KeyPage { keys: keys.collect(), next_cursor: page.next_cursor })
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.store.is_colocated(&[&*self.prefix, prefix].concat())
    }

    fn supports(&self, capability: &str) -> bool {
        self.store.supports(capability)
    }

    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.store.commit_with_quota(&self.quota(quota), self.batches(batches)).await
    }

    async fn reconcile_quota(
        &self,
        quota: &Quota,
        cursor: Option<String>,
    ) -> Result<Option<String>, StorageError> {
        self.store.reconcile_quota(&self.quota(quota), cursor).await
    }
}

impl fmt::Debug for PrefixedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PrefixedStore({:?})", self.prefix)
    }
}
