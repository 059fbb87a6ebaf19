//! The import `checkpointer`, for hosts that run components of other authors. A
//! plugin reaches the buckets that it was granted, and nothing else.
//!
//! A [`Grant`] is a store, a key prefix that the plugin does not see, and limits.
//! [`Plugins`] runs plugins of the world `plugin`. [`add_to_linker`] adds the import
//! to the linker of a host that runs plugins in its own way.
//!
//! ```no_run
//! use checkpointer::plugin::{Grant, Grants, Plugins};
//! use checkpointer::store::StoreUrl;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let plugins = Plugins::new()?;
//! let plugin = plugins.load(&std::fs::read("agent.wasm")?)?;
//! let store = "sqlite:checkpoints.db".parse::<StoreUrl>()?.open().await?;
//! let grants = Grants::new().bucket("default", Grant::new(store, "tenant-1/"));
//! let answer = plugin.run(&grants, "session-1").await?;
//! # Ok(())
//! # }
//! ```

mod cache;
mod composition;
mod grant;
mod granted_store;
mod grants_file;
mod inspection;
mod limits;
mod rate_limiter;
mod runner;
mod sandbox;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::timeout;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use self::bindings::flow::checkpoint::checkpointer::{self as interface, Host, HostCheckpointer};
pub use self::composition::{CompositionError, compose};
pub use self::grant::{Grant, Grants};
use self::granted_store::GrantedStore;
pub use self::grants_file::{BucketGrant, GrantsError, GrantsFile, OpenError};
pub use self::inspection::Inspection;
pub use self::limits::Limits;
pub use self::runner::{Plugin, PluginError, Plugins};
use crate::bindings::flow::checkpoint::types as wit;
use crate::component::{Pool, PoolLimits, Trust, call};
use crate::keyvalue::KeyvalueCtx;
use crate::store::Store;
use crate::{Conflict, Effect, Error, StorageError, StorageReason};

#[allow(missing_docs, unused_qualifications)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "flow:checkpoint-plugin/plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "flow:checkpoint/types": crate::bindings::flow::checkpoint::types,
            "flow:checkpoint/checkpointer.checkpointer": crate::plugin::GrantedCheckpointer,
        },
    });
}

/// The grants and limits of an instance of a plugin.
#[derive(Debug)]
pub struct PluginCtx {
    grants: Grants,
    limits: Limits,
    open_checkpointers: usize,
    /// Whether the last operation of a store waited for the rate limit of its grant.
    is_rate_limited: Arc<AtomicBool>,
}

/// A checkpointer that a plugin has open.
#[derive(Clone, Debug)]
pub struct GrantedCheckpointer {
    pool: Arc<Pool>,
    store: Arc<GrantedStore>,
    /// The effect of a read that fails: a read may write a new TTL.
    read_effect: Effect,
}

impl PluginCtx {
    /// The context of one instance of a plugin, with these grants and the default
    /// [`Limits`].
    pub fn new(grants: Grants) -> Self {
        Self { grants, limits: Limits::default(), open_checkpointers: 0, is_rate_limited: Arc::default() }
    }

    /// Sets the limits. Only those of calls and checkpointers are enforced here;
    /// the code that runs the instance enforces the others.
    #[must_use]
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.limits = limits.clone();
        self
    }

    fn call_timeout_error(&self, effect: Effect) -> Error {
        let cause = match self.is_rate_limited.load(Ordering::Relaxed) {
            true => "; its last operation waited for the bucket's rate limit",
            false => "",
        };
        let message = format!("the call exceeded its timeout of {:?}{cause}", self.limits.call_timeout);
        StorageError::new(StorageReason::Timeout, effect, message).into()
    }
}

/// A [`PluginCtx`] and the table of the instance's handles.
#[derive(Debug)]
pub struct PluginCtxView<'a> {
    /// The context.
    pub ctx: &'a mut PluginCtx,
    /// The handles.
    pub table: &'a mut ResourceTable,
}

/// The data of a wasmtime store, as [`add_to_linker`] needs it.
pub trait PluginView: Send {
    /// The context and the handles of this store.
    fn plugin(&mut self) -> PluginCtxView<'_>;
}

/// Adds the interface `checkpointer` to a linker for plugins.
///
/// # Errors
/// The linker has the interface already.
pub fn add_to_linker<T: PluginView + 'static>(linker: &mut Linker<T>) -> Result<()> {
    interface::add_to_linker::<T, HasPlugin>(linker, T::plugin)?;
    wit::add_to_linker::<T, HasPlugin>(linker, T::plugin)
}

struct HasPlugin;

impl HasData for HasPlugin {
    type Data<'a> = PluginCtxView<'a>;
}

impl wit::Host for PluginCtxView<'_> {}

impl Host for PluginCtxView<'_> {}

type Handle = Resource<GrantedCheckpointer>;
type Answer<T> = Result<Result<T, wit::Error>>;

/// The factor between the bytes that a plugin may pass in one call and the bytes
/// that its checkpointer may copy. In format A a state is a string within a
/// string, in which one byte can become six.
const COPIES: usize = 8;

/// The number of checkpoints that `list` returns without a limit, as the WIT says.
const DEFAULT_LIMIT: u32 = 10;

impl PluginCtxView<'_> {
    fn granted(&self, handle: &Handle) -> Result<GrantedCheckpointer> {
        Ok(self.table.get(handle)?.clone())
    }

    /// The result of a call that ends within the call timeout. `effect` is the
    /// effect of a call that does not.
    async fn with_call_timeout<T>(
        &mut self,
        granted: &GrantedCheckpointer,
        effect: Effect,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Answer<T> {
        let call = async {
            granted.store.acquire_ahead().await;
            call.await
        };
        let result = match timeout(self.ctx.limits.call_timeout, call).await {
            Ok(result) => result.map_err(|error| match error {
                // A call that only reads has no effect, even if its instance was lost.
                Error::Storage(error) if effect == Effect::None => error.with_effect(effect).into(),
                error => error,
            }),
            Err(_) => Err(self.ctx.call_timeout_error(effect)),
        };
        Ok(result.map_err(wit::Error::from))
    }
}

fn refuse<T>(reason: StorageReason, message: String) -> Answer<T> {
    Ok(Err(Error::from(StorageError::new(reason, Effect::None, message)).into()))
}

impl GrantedCheckpointer {
    /// The query with a limit that the grant allows.
    fn limited(&self, query: wit::HistoryQuery) -> Result<wit::HistoryQuery, Error> {
        let max = self.store.grant.max_results();
        match query.limit {
            Some(limit) if limit > max => {
                let message = format!("the limit {limit} is above the {max} results that a call may return");
                Err(Error::InvalidArgument(message))
            }
            limit => Ok(wit::HistoryQuery { limit: Some(limit.unwrap_or(DEFAULT_LIMIT.min(max))), ..query }),
        }
    }
}

/// Implements methods of the interface by calls of the component. The arguments
/// are converted before the call takes an instance. The kind of a method is the
/// effect of a call that exceeds its timeout.
macro_rules! forward {
    ($granted:ident; $($kind:ident $method:ident = $export:ident($($argument:ident: $type:ty => $pass:expr),*) -> $result:ty;)*) => {
        $(async fn $method(&mut self, handle: Handle, $($argument: $type),*) -> Answer<$result> {
            let $granted = self.granted(&handle)?;
            let effect = forward!(@effect $kind $granted);
            let call = async {
                $(
                    #[allow(clippy::redundant_locals, reason = "an argument may pass as it is")]
                    let $argument = $pass;
                )*
                call!($granted.pool, $export($($argument),*))
            };
            self.with_call_timeout(&$granted, effect, call).await
        })*
    };
    (@effect reads $granted:ident) => { $granted.read_effect };
    (@effect scans $granted:ident) => { Effect::None };
    (@effect writes $granted:ident) => { Effect::Unknown };
}

impl HostCheckpointer for PluginCtxView<'_> {
    async fn open(&mut self, options: wit::Options) -> Answer<Handle> {
        let Some(grant) = self.ctx.grants.get(&options.bucket) else {
            return refuse(StorageReason::NoSuchBucket, format!("there is no bucket {:?}", options.bucket));
        };
        let limits = &self.ctx.limits;
        let max = limits.max_checkpointers;
        if self.ctx.open_checkpointers >= max {
            return refuse(StorageReason::Unsupported, format!("at most {max} checkpointers may be open"));
        }
        let store = Arc::new(GrantedStore::new(grant.clone(), Arc::clone(&self.ctx.is_rate_limited)));
        let ctx = KeyvalueCtx::builder()
            .bucket(&options.bucket, Arc::clone(&store) as Arc<dyn Store>, grant.settings.prefix.as_str())
            .answer_bytes(limits.max_bytes_per_call)
            .build();
        let pool_limits = PoolLimits {
            trust: Trust::Untrusted,
            memory: limits.max_memory_bytes,
            copied_bytes: limits.max_bytes_per_call.saturating_mul(COPIES),
        };
        let refreshes = options.ttl.is_some_and(|ttl| ttl.refresh_on_read);
        let read_effect = if refreshes { Effect::Unknown } else { Effect::None };
        match timeout(limits.call_timeout, Pool::new(ctx, options, pool_limits)).await {
            Ok(Ok(pool)) => {
                let handle = self.table.push(GrantedCheckpointer { pool, store, read_effect })?;
                self.ctx.open_checkpointers += 1;
                Ok(Ok(handle))
            }
            Ok(Err(error)) => Ok(Err(error.into())),
            Err(_) => Ok(Err(self.ctx.call_timeout_error(Effect::None).into())),
        }
    }

    forward! {
        granted;
        writes save = call_save(checkpoint: wit::Checkpoint => &checkpoint) -> wit::SaveOutcome;
        writes save_after = call_save_after(
            checkpoint: wit::Checkpoint => &checkpoint, latest: Option<String> => latest.as_deref()
        ) -> wit::SaveOutcome;
        writes save_document = call_save_document(document: String => &document)
            -> (wit::Metadata, wit::SaveOutcome);
        writes restore = call_restore(document: String => &document, ttl_ms: Option<u64> => ttl_ms)
            -> (wit::Metadata, wit::SaveOutcome);
        reads latest = call_latest(session_id: String => &session_id) -> Option<wit::Checkpoint>;
        reads load = call_load(session_id: String => &session_id, checkpoint_id: String => &checkpoint_id)
            -> Option<wit::Checkpoint>;
        reads latest_document = call_latest_document(session_id: String => &session_id) -> Option<String>;
        reads load_document = call_load_document(
            session_id: String => &session_id, checkpoint_id: String => &checkpoint_id
        ) -> Option<String>;
        reads list = call_list(query: wit::HistoryQuery => &granted.limited(query)?) -> wit::History;
        reads list_documents = call_list_documents(query: wit::HistoryQuery => &granted.limited(query)?)
            -> wit::RawHistory;
        scans dump = call_dump(session_id: String => &session_id, checkpoint_id: String => &checkpoint_id)
            -> Option<wit::DocumentDump>;
        scans scan = call_scan(cursor: Option<String> => cursor.as_deref()) -> wit::ScanPage;
        writes pin_checkpoint = call_pin_checkpoint(
            session_id: String => &session_id, checkpoint_id: String => &checkpoint_id
        ) -> bool;
        writes pin_session = call_pin_session(session_id: String => &session_id) -> u64;
        writes unpin_checkpoint = call_unpin_checkpoint(
            session_id: String => &session_id, checkpoint_id: String => &checkpoint_id
        ) -> bool;
        writes unpin_session = call_unpin_session(session_id: String => &session_id) -> u64;
        writes delete_checkpoint = call_delete_checkpoint(
            session_id: String => &session_id, checkpoint_id: String => &checkpoint_id
        ) -> bool;
        writes delete_session = call_delete_session(session_id: String => &session_id) -> u64;
        writes clear_all = call_clear_all() -> u64;
    }

    async fn drop(&mut self, handle: Handle) -> Result<()> {
        self.table.delete(handle)?;
        self.ctx.open_checkpointers -= 1;
        Ok(())
    }
}

/// The error as a plugin learns it: without addresses, causes and other details of
/// the host.
impl From<Error> for wit::Error {
    fn from(error: Error) -> Self {
        let effect = error.effect();
        let storage = |reason: StorageReason, message: &str| {
            Self::Storage(StorageError::new(reason, effect, message).into())
        };
        match error {
            Error::InvalidArgument(message) => Self::InvalidArgument(message),
            Error::Conflict(Conflict::IdInUse { checkpoint_id, reason }) => {
                Self::Conflict(wit::Conflict::IdInUse(wit::IdConflict { checkpoint_id, reason }))
            }
            Error::Conflict(Conflict::NotLatest { actual }) => {
                Self::Conflict(wit::Conflict::NotLatest(actual))
            }
            Error::Corrupt { checkpoint_id, reason } => {
                Self::Corrupt(wit::Unreadable { checkpoint_id, reason })
            }
            Error::TooLarge { size, limit } => Self::TooLarge(wit::SizeExcess { size, limit }),
            Error::Storage(error) => Self::Storage(error.into()),
            Error::Busy => storage(StorageReason::Unavailable, "too many concurrent calls; try again"),
            Error::StoreUrl(_)
            | Error::Component(_)
            | Error::Closed
            | Error::NoRuntime
            | Error::State { .. } => storage(StorageReason::Other, "the checkpointer failed"),
        }
    }
}
