//! A part of a store: the keys that begin with a prefix, which whoever uses it
//! never sees.

use std::mem;
use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Batch, Condition, Expiry, IndexPage, KeyPage, Operation, Query, Quota, StorageError, Store, Value,
};

/// The keys of a store that begin with a prefix, without it.
pub struct PrefixedStore {
    store: Arc<dyn Store>,
    prefix: Arc<str>,
}

impl PrefixedStore {
    /// The part of `store` whose keys begin with `prefix`.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<Arc<str>>) -> Self {
        Self { store, prefix: prefix.into() }
    }

    /// The store's key for a `key` of this part.
    fn key(&self, key: String) -> String {
        if self.prefix.is_empty() { key } else { format!("{}{key}", self.prefix) }
    }

    fn query(&self, query: Query) -> Query {
        Query { index: self.key(query.index), value_key_prefix: self.key(query.value_key_prefix), ..query }
    }

    /// The ledger is in this part, too.
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
                Condition::IndexSizeAtMost(most) => &mut most.index,
                Condition::IndexMax(highest) => {
                    prefix(&mut highest.value_key_prefix);
                    &mut highest.index
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

    async fn range_with_byte_limit(&self, query: Query, most: usize) -> Result<IndexPage, StorageError> {
        self.store.range_with_byte_limit(self.query(query), most).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.store.commit(self.batches(batches)).await
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.store.is_colocated(&[&*self.prefix, prefix].concat())
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        let page = self.store.scan(self.key(prefix), after).await?;
        let keys = page.keys.into_iter().filter_map(|key| Some(key.strip_prefix(&*self.prefix)?.to_owned()));
        Ok(KeyPage { keys: keys.collect(), next_cursor: page.next_cursor })
    }

    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.store.commit_with_quota(&self.quota(quota), self.batches(batches)).await
    }

    async fn reconcile_quota(&self, quota: &Quota, after: Option<String>) -> Result<Option<String>, StorageError> {
        self.store.reconcile_quota(&self.quota(quota), after).await
    }
}
