//! The import `keyvalue`, for a host that runs components: buckets by name, each
//! a store and a key prefix that the component never sees.
//!
//! ```
//! use checkpointer::keyvalue::{self, KeyvalueCtx, KeyvalueCtxView, KeyvalueView};
//! use checkpointer::store::Address;
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
//! let store = "memory:".parse::<Address>()?.open().await?;
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
use crate::bindings::flow::checkpoint::types;
use crate::store::{
    Batch, Effect, Expiry, IndexPage, KeyPage, Prefixed, Query, StorageError, StorageReason, Store, Value,
    size, too_large,
};

/// The most bytes of values that one call gives to a component, unless said.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The most entries of an index that one call gives to a component.
const MAX_ENTRIES: u32 = 1000;

/// Which buckets a component may open.
#[derive(Clone, Default)]
pub struct KeyvalueCtx {
    buckets: HashMap<String, Bucket>,
    answer_bytes: Option<usize>,
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
        let bucket = Bucket { store: Arc::new(Prefixed::new(store, prefix)) };
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
    async fn open(&mut self, name: String) -> Result<Result<Resource<Bucket>, StorageError>> {
        match self.ctx.buckets.get(&name) {
            Some(bucket) => Ok(Ok(self.table.push(bucket.clone())?)),
            None => Ok(Err(StorageError {
                reason: StorageReason::NoSuchBucket,
                effect: Effect::None,
                message: format!("there is no bucket {name:?}"),
            })),
        }
    }
}

impl HostBucket for KeyvalueCtxView<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
        max_value_bytes: Option<u32>,
    ) -> Result<Result<Vec<Value>, StorageError>> {
        let values = self.table.get(&bucket)?.store.get(keys, max_value_bytes).await;
        let most = self.ctx.answer_bytes.unwrap_or(MAX_ANSWER_BYTES);
        Ok(values.and_then(|values| bounded(&values, most).map(|()| values)))
    }

    async fn ttl(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<Vec<Option<Expiry>>, StorageError>> {
        Ok(self.table.get(&bucket)?.store.ttl(keys).await)
    }

    async fn range(
        &mut self,
        bucket: Resource<Bucket>,
        query: Query,
    ) -> Result<Result<IndexPage, StorageError>> {
        let bucket = self.table.get(&bucket)?;
        if query.limit > MAX_ENTRIES {
            let message = format!("a page has {MAX_ENTRIES} entries at the most");
            let reason = StorageReason::InvalidArgument;
            return Ok(Err(StorageError { reason, effect: Effect::None, message }));
        }
        if let Some(most) = self.ctx.answer_bytes {
            return Ok(bucket.store.range_of_at_most(query, most).await);
        }
        let (page, most) = (bucket.store.range(query).await, MAX_ANSWER_BYTES);
        Ok(page.and_then(|page| bounded(page.entries.iter().map(|entry| &entry.value), most).map(|()| page)))
    }

    async fn commit(
        &mut self,
        bucket: Resource<Bucket>,
        batches: Vec<Batch>,
    ) -> Result<Result<Vec<bool>, StorageError>> {
        let bucket = self.table.get(&bucket)?;
        let count = batches.len();
        let applied = bucket.store.commit(batches).await;
        debug!(batches = count, failed = applied.is_err(), "commit");
        Ok(applied)
    }

    async fn scan(
        &mut self,
        bucket: Resource<Bucket>,
        prefix: String,
        after: Option<String>,
    ) -> Result<Result<KeyPage, StorageError>> {
        Ok(self.table.get(&bucket)?.store.scan(prefix, after).await)
    }

    async fn is_colocated(&mut self, bucket: Resource<Bucket>, prefix: String) -> Result<bool> {
        let bucket = self.table.get(&bucket)?;
        Ok(bucket.store.is_colocated(&prefix))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

/// Refuses an answer that is too large for a component to take.
fn bounded<'a>(values: impl IntoIterator<Item = &'a Value>, most: usize) -> Result<(), StorageError> {
    if values.into_iter().map(size).sum::<usize>() <= most { Ok(()) } else { Err(too_large(most)) }
}
