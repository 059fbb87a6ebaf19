//! What a plugin is granted.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::store::{Batch, Effect, IndexPage, KeyPage, Query, StorageError, StorageReason, Store, Value};

/// What one bucket of a plugin is.
#[derive(Clone)]
pub struct Grant {
    store: Arc<dyn Store>,
    prefix: Arc<str>,
    read_only: bool,
}

impl Grant {
    /// All keys of `store` that begin with `prefix`, to read and to write. The
    /// plugin does not see the prefix.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<Arc<str>>) -> Self {
        Self { store, prefix: prefix.into(), read_only: false }
    }

    /// The same, only to read.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The store as far as it is granted.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        if self.read_only { Arc::new(ReadOnly(Arc::clone(&self.store))) } else { Arc::clone(&self.store) }
    }

    /// What every key begins with.
    pub(crate) fn prefix(&self) -> Arc<str> {
        Arc::clone(&self.prefix)
    }
}

/// The buckets that a plugin may open, by the names that it knows them by.
#[derive(Clone, Default)]
pub struct Grants {
    buckets: BTreeMap<String, Grant>,
}

impl Grants {
    /// None at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those so far, and this one.
    pub fn bucket(mut self, name: impl Into<String>, grant: Grant) -> Self {
        self.buckets.insert(name.into(), grant);
        self
    }

    /// The bucket of this name, if it is granted.
    pub(crate) fn get(&self, name: &str) -> Option<&Grant> {
        self.buckets.get(name)
    }
}

/// A store that takes no writes.
struct ReadOnly(Arc<dyn Store>);

#[async_trait]
impl Store for ReadOnly {
    async fn get(&self, keys: Vec<String>, head: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.0.get(keys, head).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.0.range(query).await
    }

    async fn commit(&self, _: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        Err(StorageError {
            reason: StorageReason::ReadOnly,
            effect: Effect::None,
            message: "the bucket takes no writes".to_owned(),
        })
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        self.0.scan(prefix, after).await
    }
}
