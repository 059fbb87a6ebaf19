//! The import `keyvalue`, for a host that runs components. A bucket is a store and a
//! key prefix under a name; the component sees neither store nor prefix.
//!
//! ```
//! use checkpointer::keyvalue::{self, KeyvalueCtx, KeyvalueCtxView, KeyvalueView};
//! use checkpointer::store::StoreUrl;
//! use checkpointer::wasmtime::component::{Linker, ResourceTable};
//! use checkpointer::wasmtime::{Engine, Store};
//!
//! struct Ctx {
//!     keyvalue: KeyvalueCtx,
//!     table: ResourceTable,
//! }
//!
//! impl KeyvalueView for Ctx {
//!     fn keyvalue(&mut self) -> KeyvalueCtxView<'_> {
//!         KeyvalueCtxView { ctx: &mut self.keyvalue, table: &mut self.table }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::default();
//! let store = "memory:".parse::<StoreUrl>()?.open().await?;
//! let keyvalue = KeyvalueCtx::builder().bucket("default", store, "tenant-1/").build();
//! let mut store = Store::new(&engine, Ctx { keyvalue, table: ResourceTable::new() });
//! let mut linker = Linker::<Ctx>::new(&engine);
//! keyvalue::add_to_linker(&mut linker)?;
//! // ... instantiate a component that imports `keyvalue` in `store` ...
//! # Ok(())
//! # }
//! ```
//!
//! `examples/own_linker.rs` is a complete host.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tracing::debug;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use crate::bindings::flow::checkpoint::keyvalue::{self, Host, HostBucket};
use crate::bindings::flow::checkpoint::types::{self, StorageError as WitError};
use crate::store::{Batch, Expiry, IndexPage, KeyPage, PrefixedStore, Query, Store, Value, size, too_large};
use crate::{Effect, StorageError, StorageReason};

/// The default of [`KeyvalueCtxBuilder::answer_bytes`].
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The maximum number of index entries that one call returns to a component.
const MAX_ENTRIES: u32 = 1000;

/// The buckets that a component may open.
#[derive(Clone, Default)]
pub struct KeyvalueCtx {
    buckets: HashMap<String, Bucket>,
    answer_bytes: Option<usize>,
    /// The last failure of a store, with its address and cause. The component
    /// receives neither.
    last_error: Option<StorageError>,
}

/// Builds a [`KeyvalueCtx`].
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it builds a context"]
pub struct KeyvalueCtxBuilder {
    ctx: KeyvalueCtx,
}

/// The part of a store that a component accesses through a bucket.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn Store>,
}

/// A [`KeyvalueCtx`] and the table of a component's handles.
pub struct KeyvalueCtxView<'a> {
    /// The buckets.
    pub ctx: &'a mut KeyvalueCtx,
    /// The handles.
    pub table: &'a mut ResourceTable,
}

/// The data of a wasmtime store, as [`add_to_linker`] needs it.
pub trait KeyvalueView: Send {
    /// The buckets and the handles of this wasmtime store.
    fn keyvalue(&mut self) -> KeyvalueCtxView<'_>;
}

impl KeyvalueCtx {
    /// Starts a builder without buckets.
    pub fn builder() -> KeyvalueCtxBuilder {
        KeyvalueCtxBuilder::default()
    }

    /// Takes the last failure of a store since the previous call.
    pub(crate) fn take_last_error(&mut self) -> Option<StorageError> {
        self.last_error.take()
    }
}

impl KeyvalueCtxBuilder {
    /// Adds a bucket: the keys of `store` that begin with `prefix`. The component
    /// accesses no other keys.
    ///
    /// ```
    /// # use checkpointer::{keyvalue::KeyvalueCtx, store::StoreUrl};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = "memory:".parse::<StoreUrl>()?.open().await?;
    /// let ctx = KeyvalueCtx::builder().bucket("default", store, "tenant-1/").answer_bytes(1 << 20).build();
    /// # Ok(())
    /// # }
    /// ```
    pub fn bucket(
        mut self,
        name: impl Into<String>,
        store: Arc<dyn Store>,
        prefix: impl Into<Arc<str>>,
    ) -> Self {
        let bucket = Bucket { store: PrefixedStore::wrap(store, prefix) };
        self.ctx.buckets.insert(name.into(), bucket);
        self
    }

    /// The maximum size in bytes of the values that one call returns to the
    /// component. A call above it fails. With this option, the stores of this library
    /// measure the values of an index page before they read them. The default is
    /// 256 MiB, which is checked after the values were read.
    pub fn answer_bytes(mut self, bytes: usize) -> Self {
        self.ctx.answer_bytes = Some(bytes);
        self
    }

    /// Builds the context.
    pub fn build(self) -> KeyvalueCtx {
        self.ctx
    }
}

/// Adds the interface `keyvalue` to a linker.
///
/// # Errors
/// The linker has the interface already.
pub fn add_to_linker<T: KeyvalueView + 'static>(linker: &mut Linker<T>) -> Result<()> {
    keyvalue::add_to_linker::<T, HasKeyvalue>(linker, T::keyvalue)?;
    types::add_to_linker::<T, HasKeyvalue>(linker, T::keyvalue)
}

impl fmt::Debug for KeyvalueCtx {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyvalueCtx").field("buckets", &self.buckets.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Bucket").finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyvalueCtxView<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ctx.fmt(formatter)
    }
}

struct HasKeyvalue;

impl HasData for HasKeyvalue {
    type Data<'a> = KeyvalueCtxView<'a>;
}

impl types::Host for KeyvalueCtxView<'_> {}

impl Host for KeyvalueCtxView<'_> {
    async fn open(&mut self, name: String) -> Result<Result<Resource<Bucket>, WitError>> {
        match self.ctx.buckets.get(&name) {
            Some(bucket) => Ok(Ok(self.table.push(bucket.clone())?)),
            None => {
                let message = format!("there is no bucket {name:?}");
                Ok(Err(StorageError::new(StorageReason::NoSuchBucket, Effect::None, message).into()))
            }
        }
    }
}

impl KeyvalueCtxView<'_> {
    fn store(&self, bucket: &Resource<Bucket>) -> Result<Arc<dyn Store>> {
        Ok(Arc::clone(&self.table.get(bucket)?.store))
    }

    /// Keeps the error with its address and cause, and returns the error for the
    /// component, which contains neither.
    fn answer<T>(&mut self, answer: Result<T, StorageError>) -> Result<Result<T, WitError>> {
        Ok(answer.map_err(|error| {
            self.ctx.last_error = Some(error.clone());
            error.into()
        }))
    }
}

impl HostBucket for KeyvalueCtxView<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
        max_value_bytes: Option<u32>,
    ) -> Result<Result<Vec<Value>, WitError>> {
        let limit = self.ctx.answer_bytes.unwrap_or(MAX_ANSWER_BYTES);
        let values = self.store(&bucket)?.get(keys, max_value_bytes).await;
        self.answer(values.and_then(|values| check_size(&values, limit).map(|()| values)))
    }

    async fn ttl(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<Vec<Option<Expiry>>, WitError>> {
        let ttls = self.store(&bucket)?.ttl(keys).await;
        self.answer(ttls)
    }

    async fn range(&mut self, bucket: Resource<Bucket>, query: Query) -> Result<Result<IndexPage, WitError>> {
        if query.limit > MAX_ENTRIES {
            let message = format!("a page has at most {MAX_ENTRIES} entries, not {}", query.limit);
            return self.answer(Err(StorageError::new(
                StorageReason::InvalidArgument,
                Effect::None,
                message,
            )));
        }
        let store = self.store(&bucket)?;
        let page = match self.ctx.answer_bytes {
            Some(limit) => store.range_with_byte_limit(query, limit).await,
            None => store.range(query).await.and_then(|page| {
                check_size(page.entries.iter().map(|entry| &entry.value), MAX_ANSWER_BYTES).map(|()| page)
            }),
        };
        self.answer(page)
    }

    async fn commit(
        &mut self,
        bucket: Resource<Bucket>,
        batches: Vec<Batch>,
    ) -> Result<Result<Vec<bool>, WitError>> {
        let count = batches.len();
        let applied = self.store(&bucket)?.commit(batches).await;
        debug!(batches = count, failed = applied.is_err(), "commit");
        self.answer(applied)
    }

    async fn scan(
        &mut self,
        bucket: Resource<Bucket>,
        prefix: String,
        cursor: Option<String>,
    ) -> Result<Result<KeyPage, WitError>> {
        let page = self.store(&bucket)?.scan(prefix, cursor).await;
        self.answer(page)
    }

    async fn is_colocated(&mut self, bucket: Resource<Bucket>, prefix: String) -> Result<bool> {
        Ok(self.store(&bucket)?.is_colocated(&prefix))
    }

    async fn supports(&mut self, bucket: Resource<Bucket>, capability: String) -> Result<bool> {
        Ok(self.store(&bucket)?.supports(&capability))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

/// Fails if the values are larger than the limit.
fn check_size<'a>(values: impl IntoIterator<Item = &'a Value>, limit: usize) -> Result<(), StorageError> {
    if values.into_iter().map(size).sum::<usize>() <= limit { Ok(()) } else { Err(too_large(limit)) }
}
