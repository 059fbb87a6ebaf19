//! The import `keyvalue`, for a host that runs components: buckets by name, each
//! a store and a key prefix that the component never sees.
//!
//! ```
//! use checkpointer::keyvalue::{self, KeyvalueCtx, KeyvalueCtxView, KeyvalueView};
//! use checkpointer::store::StoreUrl;
//! use wasmtime::component::{Linker, ResourceTable};
//! use wasmtime::{Engine, Store};
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
//! // ... instantiate a component that imports `keyvalue` within `store` ...
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use tracing::debug;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use crate::bindings::flow::checkpoint::keyvalue::{self, Host, HostBucket};
use crate::bindings::flow::checkpoint::types::{self, StorageError as WitError};
use crate::store::{
    Batch, Expiry, IndexPage, KeyPage, PrefixedStore, Query, Store, Value, size, too_large,
};
use crate::{Effect, StorageError, StorageReason};

/// The most bytes of values that one call gives to a component, unless said.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The most entries of an index that one call gives to a component.
const MAX_ENTRIES: u32 = 1000;

/// Which buckets a component may open.
#[derive(Clone, Default)]
pub struct KeyvalueCtx {
    buckets: HashMap<String, Bucket>,
    answer_bytes: Option<usize>,
    /// The last failure of a store, with the address and cause that the component
    /// does not learn.
    last_error: Option<StorageError>,
}

/// Builds a [`KeyvalueCtx`].
#[derive(Default)]
pub struct KeyvalueCtxBuilder {
    ctx: KeyvalueCtx,
}

/// A bucket: the part of a store that is reached through it.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn Store>,
}

/// A [`KeyvalueCtx`] and the table for the handles that a component holds.
pub struct KeyvalueCtxView<'a> {
    /// The buckets.
    pub ctx: &'a mut KeyvalueCtx,
    /// The handles.
    pub table: &'a mut ResourceTable,
}

/// What the data of a wasmtime store has to give for [`add_to_linker`].
pub trait KeyvalueView: Send {
    /// The buckets and the handles of this store.
    fn keyvalue(&mut self) -> KeyvalueCtxView<'_>;
}

impl KeyvalueCtx {
    /// A builder that knows no bucket yet.
    pub fn builder() -> KeyvalueCtxBuilder {
        KeyvalueCtxBuilder::default()
    }

    /// The last failure of a store since the previous call.
    pub(crate) fn take_last_error(&mut self) -> Option<StorageError> {
        self.last_error.take()
    }
}

impl KeyvalueCtxBuilder {
    /// Lets a component open `name`, to reach the keys of `store` that begin
    /// with `prefix`, and no others.
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

    /// The most bytes of values that one call gives to the component. Of a list, the
    /// stores of this library measure them before they are read. Unless said, it is
    /// 256 MiB, and what is read stands in the memory of the host first.
    pub fn answer_bytes(mut self, bytes: usize) -> Self {
        self.ctx.answer_bytes = Some(bytes);
        self
    }

    /// The context with the buckets named so far.
    pub fn build(self) -> KeyvalueCtx {
        self.ctx
    }
}

/// Adds the interface `keyvalue` to a linker.
///
/// # Errors
/// The linker has it already.
pub fn add_to_linker<T: KeyvalueView + 'static>(linker: &mut Linker<T>) -> Result<()> {
    keyvalue::add_to_linker::<T, HasKeyvalue>(linker, T::keyvalue)?;
    types::add_to_linker::<T, HasKeyvalue>(linker, T::keyvalue)
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

    /// Keeps the error with its address and cause, and returns the part of it that
    /// the component learns.
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

    async fn range(
        &mut self,
        bucket: Resource<Bucket>,
        query: Query,
    ) -> Result<Result<IndexPage, WitError>> {
        if query.limit > MAX_ENTRIES {
            let message = format!("a page has at most {MAX_ENTRIES} entries, not {}", query.limit);
            return self.answer(Err(StorageError::new(StorageReason::InvalidArgument, Effect::None, message)));
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

/// Refuses an answer that is larger than the limit.
fn check_size<'a>(values: impl IntoIterator<Item = &'a Value>, limit: usize) -> Result<(), StorageError> {
    if values.into_iter().map(size).sum::<usize>() <= limit { Ok(()) } else { Err(too_large(limit)) }
}
