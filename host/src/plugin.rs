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
//! use checkpointer::store::Address;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let plugins = Plugins::new()?;
//! let plugin = plugins.load(&std::fs::read("agent.wasm")?)?;
//! let store = "sqlite:checkpoints.db".parse::<Address>()?.open().await?;
//! let grants = Grants::new().bucket("default", Grant::new(store, "tenant-1/"));
//! let answer = plugin.run(&grants, "session-1").await?;
//! # Ok(())
//! # }
//! ```

mod bounded;
mod cache;
mod composition;
mod exchange;
mod grant;
mod grants_file;
mod inspection;
mod runner;
mod sandbox;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use self::bindings::flow::checkpoint::checkpointer::{
    self as interface, Checkpoint, Documents, Error, History, Host, HostCheckpointer, Listing, Metadata,
    Options, Outcome,
};
use self::bounded::Bounded;
pub use self::composition::{CompositionError, compose};
pub use self::grant::{Grant, Grants};
pub use self::grants_file::{BucketGrant, GrantsError, GrantsFile, OpenError};
pub use self::inspection::Inspection;
pub use self::runner::{Limits, Plugin, PluginError, Plugins};
use crate::Checkpointer;
use crate::component::{Caller, Service};
use crate::keyvalue::KeyvalueCtx;
use crate::store::{Effect, StorageError, StorageReason, Store};

#[allow(missing_docs, unused_qualifications)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "flow:checkpoint/types": crate::bindings::flow::checkpoint::types,
            "flow:checkpoint/checkpointer.checkpointer": crate::plugin::GrantedCheckpointer,
        },
    });
}

/// What a plugin reaches: [`Grants`], and the checkpointers that it has open.
pub struct PluginCtx {
    grants: Grants,
    limits: Limits,
    open: usize,
}

/// A checkpointer that a plugin has open.
#[derive(Clone)]
pub struct GrantedCheckpointer {
    checkpointer: Checkpointer,
    store: Arc<Bounded>,
    most_results: u32,
    /// What a call may have had that was to read and failed.
    effect_of_reading: Effect,
}

impl PluginCtx {
    /// The context of one instance of a plugin with these grants and the usual
    /// [`Limits`].
    pub fn new(grants: Grants) -> Self {
        Self { grants, limits: Limits::default(), open: 0 }
    }

    /// The same with other limits. Those of a call and of checkpointers are kept
    /// here; the others are the business of whoever runs the instance.
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.limits = limits.clone();
        self
    }
}

/// A [`PluginCtx`] and the table for the handles that a plugin holds.
pub struct PluginCtxView<'a> {
    /// What it reaches.
    pub ctx: &'a mut PluginCtx,
    /// The handles.
    pub table: &'a mut ResourceTable,
}

/// What the data of a wasmtime store has to give for [`add_to_linker`].
pub trait PluginView: Send {
    /// The context and the handles of this store.
    fn plugin(&mut self) -> PluginCtxView<'_>;
}

/// Adds the interface `checkpointer` to a linker for plugins.
///
/// # Errors
/// The linker has it already.
pub fn add_to_linker<T: PluginView + 'static>(linker: &mut Linker<T>) -> Result<()> {
    interface::add_to_linker::<T, HasPlugin>(linker, T::plugin)?;
    crate::bindings::flow::checkpoint::types::add_to_linker::<T, HasPlugin>(linker, T::plugin)
}

struct HasPlugin;

impl HasData for HasPlugin {
    type Data<'a> = PluginCtxView<'a>;
}

impl crate::bindings::flow::checkpoint::types::Host for PluginCtxView<'_> {}

impl Host for PluginCtxView<'_> {}

type Handle = Resource<GrantedCheckpointer>;
type Answer<T> = Result<Result<T, Error>>;

/// How many times over what a plugin passes in one call its checkpointer may copy:
/// in the older generation of documents a state is a string within a string, where
/// one byte can become six.
const COPIES: usize = 8;

impl PluginCtxView<'_> {
    fn granted(&self, handle: &Handle) -> Result<GrantedCheckpointer> {
        Ok(self.table.get(handle)?.clone())
    }

    /// What the library answers within the time of a call, as a plugin has it; `effect`
    /// is what a call may have had that failed.
    async fn answer<T: Into<U>, U>(
        &mut self,
        granted: &GrantedCheckpointer,
        effect: Effect,
        call: impl Future<Output = Result<T, crate::Error>> + Send,
    ) -> Answer<U> {
        let limit = self.ctx.limits.call_time;
        let in_turn = async {
            granted.store.wait().await;
            call.await
        };
        match timeout(limit, in_turn).await {
            Ok(answer) => Ok(answer.map(Into::into).map_err(|error| match error.into() {
                // A call that only reads has none, whatever became of its instance.
                Error::Storage(error) if effect == Effect::None => {
                    Error::Storage(StorageError { effect, ..error })
                }
                error => error,
            })),
            Err(_) => Ok(Err(too_slow(limit, effect))),
        }
    }
}

impl GrantedCheckpointer {
    /// How many results a list gives: as many as were asked for, unless these are
    /// more than were granted.
    fn results(&self, asked: Option<u32>, usual: u32) -> Result<u32, crate::Error> {
        let most = self.most_results;
        match asked {
            None => Ok(usual.min(most)),
            Some(asked) if asked <= most => Ok(asked),
            Some(asked) => Err(crate::Error::InvalidArgument(format!(
                "the limit is {asked}, and a call gives {most} results at the most"
            ))),
        }
    }
}

/// How many checkpoints a list gives if nothing is said, and one of a run, as
/// `wit/checkpointer.wit` has it.
const LISTED: u32 = 10;
const LISTED_OF_RUN: u32 = 100;

fn too_slow(limit: Duration, effect: Effect) -> Error {
    let message = format!("the call took longer than the {limit:?} it may");
    Error::Storage(StorageError { reason: StorageReason::Timeout, effect, message })
}

fn refused<T>(reason: StorageReason, message: String) -> Answer<T> {
    Ok(Err(Error::Storage(StorageError { reason, effect: Effect::None, message })))
}

impl HostCheckpointer for PluginCtxView<'_> {
    async fn open(&mut self, options: Options) -> Answer<Handle> {
        let Some(grant) = self.ctx.grants.get(&options.bucket) else {
            return refused(StorageReason::NoSuchBucket, format!("there is no bucket {:?}", options.bucket));
        };
        let limits = &self.ctx.limits;
        let most = limits.checkpointers;
        if self.ctx.open >= most {
            return refused(
                StorageReason::Unsupported,
                format!("no more than {most} checkpointers may be open"),
            );
        }
        let store = grant.store();
        let ctx = KeyvalueCtx::builder()
            .bucket(&options.bucket, Arc::clone(&store) as Arc<dyn Store>, grant.prefix())
            .answer_bytes(limits.bytes_a_call)
            .build();
        let service = Service {
            caller: Caller::Plugin,
            memory: limits.memory,
            copied_bytes: limits.bytes_a_call.saturating_mul(COPIES),
        };
        let most_results = grant.most_results();
        let refreshes = options.ttl.is_some_and(|ttl| ttl.refresh_on_read);
        let effect_of_reading = if refreshes { Effect::Unknown } else { Effect::None };
        match timeout(limits.call_time, Checkpointer::over(ctx, options.into(), service)).await {
            Ok(Ok(checkpointer)) => {
                let handle = self.table.push(GrantedCheckpointer {
                    checkpointer,
                    store,
                    most_results,
                    effect_of_reading,
                })?;
                self.ctx.open += 1;
                Ok(Ok(handle))
            }
            Ok(Err(error)) => Ok(Err(error.into())),
            Err(_) => Ok(Err(too_slow(self.ctx.limits.call_time, Effect::None))),
        }
    }

    async fn save(&mut self, handle: Handle, checkpoint: Checkpoint) -> Answer<Outcome> {
        let granted = self.granted(&handle)?;
        self.answer(&granted, Effect::Unknown, granted.checkpointer.save(&checkpoint.into())).await
    }

    async fn save_after(
        &mut self,
        handle: Handle,
        checkpoint: Checkpoint,
        latest: Option<String>,
    ) -> Answer<Outcome> {
        let granted = self.granted(&handle)?;
        self.answer(
            &granted,
            Effect::Unknown,
            granted.checkpointer.save_after(&checkpoint.into(), latest.as_deref()),
        )
        .await
    }

    async fn save_document(&mut self, handle: Handle, document: String) -> Answer<(Metadata, Outcome)> {
        let granted = self.granted(&handle)?;
        let saved = async {
            let (metadata, outcome) = granted.checkpointer.save_document(&document).await?;
            Ok((Metadata::from(metadata), Outcome::from(outcome)))
        };
        self.answer(&granted, Effect::Unknown, saved).await
    }

    async fn restore(
        &mut self,
        handle: Handle,
        document: String,
        milliseconds: Option<u64>,
    ) -> Answer<(Metadata, Outcome)> {
        let granted = self.granted(&handle)?;
        let restored = async {
            let left = milliseconds.map(Duration::from_millis);
            let (metadata, outcome) = granted.checkpointer.restore(&document, left).await?;
            Ok((Metadata::from(metadata), Outcome::from(outcome)))
        };
        self.answer(&granted, Effect::Unknown, restored).await
    }

    async fn load(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<Option<Checkpoint>> {
        let granted = self.granted(&handle)?;
        let loaded = async {
            Ok(granted.checkpointer.load(&session_id, checkpoint_id.as_deref()).await?.map(Checkpoint::from))
        };
        self.answer(&granted, granted.effect_of_reading, loaded).await
    }

    async fn load_document(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<Option<String>> {
        let granted = self.granted(&handle)?;
        self.answer(
            &granted,
            granted.effect_of_reading,
            granted.checkpointer.load_document(&session_id, checkpoint_id.as_deref()),
        )
        .await
    }

    async fn list(&mut self, handle: Handle, session_id: String, limit: Option<u32>) -> Answer<History> {
        let granted = self.granted(&handle)?;
        let limit = granted.results(limit, LISTED);
        self.answer(&granted, granted.effect_of_reading, async {
            granted.checkpointer.list(&session_id, Some(limit?)).await
        })
        .await
    }

    async fn list_by_run(
        &mut self,
        handle: Handle,
        session_id: String,
        run_id: String,
        limit: Option<u32>,
    ) -> Answer<History> {
        let granted = self.granted(&handle)?;
        let limit = granted.results(limit, LISTED_OF_RUN);
        self.answer(&granted, granted.effect_of_reading, async {
            granted.checkpointer.list_by_run(&session_id, &run_id, Some(limit?)).await
        })
        .await
    }

    async fn list_documents(
        &mut self,
        handle: Handle,
        session_id: String,
        run_id: Option<String>,
        limit: Option<u32>,
    ) -> Answer<Documents> {
        let usual = if run_id.is_some() { LISTED_OF_RUN } else { LISTED };
        let granted = self.granted(&handle)?;
        let limit = granted.results(limit, usual);
        self.answer(&granted, granted.effect_of_reading, async {
            granted.checkpointer.list_documents(&session_id, run_id.as_deref(), Some(limit?)).await
        })
        .await
    }

    async fn scan(&mut self, handle: Handle, after: Option<String>) -> Answer<Listing> {
        let granted = self.granted(&handle)?;
        self.answer(&granted, Effect::None, granted.checkpointer.scan(after.as_deref())).await
    }

    async fn pin(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<u64> {
        let granted = self.granted(&handle)?;
        self.answer(
            &granted,
            Effect::Unknown,
            granted.checkpointer.pin(&session_id, checkpoint_id.as_deref()),
        )
        .await
    }

    async fn unpin(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<u64> {
        let granted = self.granted(&handle)?;
        self.answer(
            &granted,
            Effect::Unknown,
            granted.checkpointer.unpin(&session_id, checkpoint_id.as_deref()),
        )
        .await
    }

    async fn delete(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<u64> {
        let granted = self.granted(&handle)?;
        self.answer(
            &granted,
            Effect::Unknown,
            granted.checkpointer.delete(&session_id, checkpoint_id.as_deref()),
        )
        .await
    }

    async fn clear_all(&mut self, handle: Handle) -> Answer<u64> {
        let granted = self.granted(&handle)?;
        self.answer(&granted, Effect::Unknown, granted.checkpointer.clear_all()).await
    }

    async fn drop(&mut self, handle: Handle) -> Result<()> {
        self.table.delete(handle)?;
        self.ctx.open -= 1;
        Ok(())
    }
}
