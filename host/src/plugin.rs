//! The import `checkpointer`, for a host that runs other people's components:
//! each reaches what it was granted, and for it nothing else exists.
//!
//! A [`Grant`] is a store, a prefix of all its keys that the plugin never sees,
//! and whether it may write; the name of the bucket is what the plugin opens.
//! [`add_to_linker`] gives the import to plugins of a host that has its own way
//! to run them; [`Plugins`] runs those of the world `plugin`.
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

mod bounded;
mod cache;
mod composition;
mod grant;
mod grants_file;
mod inspection;
mod runner;
mod sandbox;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use self::bindings::flow::checkpoint::checkpointer::{self as interface, Host, HostCheckpointer};
use self::bounded::Bounded;
pub use self::composition::{CompositionError, compose};
pub use self::grant::{Grant, Grants};
pub use self::grants_file::{BucketGrant, GrantsError, GrantsFile, OpenError};
pub use self::inspection::Inspection;
pub use self::runner::{Limits, Plugin, PluginError, Plugins};
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

/// The grants of a plugin's instance, and how many checkpointers it has open.
pub struct PluginCtx {
    grants: Grants,
    limits: Limits,
    open: usize,
}

/// A checkpointer that a plugin has open.
#[derive(Clone)]
pub struct GrantedCheckpointer {
    pool: Arc<Pool>,
    store: Arc<Bounded>,
    max_results: u32,
    /// The effect of a read that fails: a read may write a new TTL.
    read_effect: Effect,
}

impl fmt::Debug for PluginCtx {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PluginCtx").field("open", &self.open).finish_non_exhaustive()
    }
}

impl fmt::Debug for GrantedCheckpointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("GrantedCheckpointer").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl PluginCtx {
    /// The context of one instance of a plugin, with these grants and the default
    /// [`Limits`].
    pub fn new(grants: Grants) -> Self {
        Self { grants, limits: Limits::default(), open: 0 }
    }

    /// Sets the limits. Only those of calls and checkpointers are enforced here;
    /// the code that runs the instance enforces the others.
    #[must_use]
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.limits = limits.clone();
        self
    }
}

/// A [`PluginCtx`] and the table of the instance's handles.
pub struct PluginCtxView<'a> {
    /// The context.
    pub ctx: &'a mut PluginCtx,
    /// The handles.
    pub table: &'a mut ResourceTable,
}

impl fmt::Debug for PluginCtxView<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PluginCtxView").field("ctx", &self.ctx).finish_non_exhaustive()
    }
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

    /// The result of a call, if it ends within the time limit. `effect` is the
    /// effect of a call that does not.
    async fn within_call_time<T>(
        &mut self,
        granted: &GrantedCheckpointer,
        effect: Effect,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Answer<T> {
        let limit = self.ctx.limits.call_time;
        let call = async {
            granted.store.wait().await;
            call.await
        };
        Ok(match timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| match error {
                // A call that only reads has no effect, even if its instance was lost.
                Error::Storage(error) if effect == Effect::None => error.with_effect(effect).into(),
                error => error,
            }),
            Err(_) => Err(call_timeout(limit, effect)),
        }
        .map_err(wit::Error::from))
    }
}

fn call_timeout(limit: Duration, effect: Effect) -> Error {
    let message = format!("the call took longer than its limit of {limit:?}");
    StorageError::new(StorageReason::Timeout, effect, message).into()
}

fn refuse<T>(reason: StorageReason, message: String) -> Answer<T> {
    Ok(Err(Error::from(StorageError::new(reason, Effect::None, message)).into()))
}

impl GrantedCheckpointer {
    /// The query with a limit that the grant allows.
    fn limited(&self, query: wit::HistoryQuery) -> Result<wit::HistoryQuery, Error> {
        let max = self.max_results;
        match query.limit {
            Some(limit) if limit > max => {
                let message = format!("the limit {limit} is above the {max} results that a call may return");
                Err(Error::InvalidArgument(message))
            }
            limit => Ok(wit::HistoryQuery { limit: Some(limit.unwrap_or(DEFAULT_LIMIT.min(max))), ..query }),
        }
    }
}

/// Implements methods of the interface by calls of the component on an instance of
/// the granted checkpointer. `reads` and `writes` say what a call that runs into
/// the time limit may have done.
macro_rules! forward {
    ($($kind:ident $method:ident = $export:ident($($argument:ident: $type:ty => $pass:expr),*) -> $result:ty;)*) => {
        $(async fn $method(&mut self, handle: Handle, $($argument: $type),*) -> Answer<$result> {
            let granted = self.granted(&handle)?;
            let effect = forward!(@effect $kind granted);
            let call = async { call!(granted.pool, $export($($pass),*)) };
            self.within_call_time(&granted, effect, call).await
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
        let max = limits.checkpointers;
        if self.ctx.open >= max {
            return refuse(StorageReason::Unsupported, format!("at most {max} checkpointers may be open"));
        }
        let store = grant.store();
        let ctx = KeyvalueCtx::builder()
            .bucket(&options.bucket, Arc::clone(&store) as Arc<dyn Store>, grant.prefix())
            .answer_bytes(limits.max_bytes_per_call)
            .build();
        let pool_limits = PoolLimits {
            trust: Trust::Untrusted,
            memory: limits.memory,
            copied_bytes: limits.max_bytes_per_call.saturating_mul(COPIES),
        };
        let max_results = grant.most_results();
        let refreshes = options.ttl.is_some_and(|ttl| ttl.refresh_on_read);
        let read_effect = if refreshes { Effect::Unknown } else { Effect::None };
        match timeout(limits.call_time, Pool::new(ctx, options, pool_limits)).await {
            Ok(Ok(pool)) => {
                let handle = self.table.push(GrantedCheckpointer { pool, store, max_results, read_effect })?;
                self.ctx.open += 1;
                Ok(Ok(handle))
            }
            Ok(Err(error)) => Ok(Err(error.into())),
            Err(_) => Ok(Err(call_timeout(self.ctx.limits.call_time, Effect::None).into())),
        }
    }

    async fn list(&mut self, handle: Handle, query: wit::HistoryQuery) -> Answer<wit::History> {
        let granted = self.granted(&handle)?;
        let call = async {
            let query = granted.limited(query)?;
            call!(granted.pool, call_list(&query))
        };
        self.within_call_time(&granted, granted.read_effect, call).await
    }

    async fn list_documents(
        &mut self,
        handle: Handle,
        query: wit::HistoryQuery,
    ) -> Answer<wit::RawHistory> {
        let granted = self.granted(&handle)?;
        let call = async {
            let query = granted.limited(query)?;
            call!(granted.pool, call_list_documents(&query))
        };
        self.within_call_time(&granted, granted.read_effect, call).await
    }

    forward! {
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
        self.ctx.open -= 1;
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
            | Error::State { .. } => {
                storage(StorageReason::Other, "the checkpointer failed")
            }
        }
    }
}
