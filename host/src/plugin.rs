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

mod exchange;
mod grant;
mod runner;

use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use self::bindings::flow::checkpoint::checkpointer::{
    self as interface, Checkpoint, Documents, Error, History, Host, HostCheckpointer, Metadata, Options,
    Outcome,
};
pub use self::grant::{Grant, Grants};
pub use self::runner::{Limits, Plugin, PluginError, Plugins};
use crate::Checkpointer;
use crate::store::{Effect, StorageError, StorageReason};

#[allow(missing_docs, unused_qualifications)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "flow:checkpoint/types": crate::bindings::flow::checkpoint::types,
            "flow:checkpoint/checkpointer.checkpointer": crate::Checkpointer,
        },
    });
}

/// How many checkpointers one instance of a plugin may have open.
const MOST_OPEN: usize = 64;

/// What a plugin reaches: [`Grants`], and the checkpointers that it has open.
pub struct PluginCtx {
    grants: Grants,
    open: usize,
}

impl PluginCtx {
    /// The context of one instance of a plugin with these grants.
    pub fn new(grants: Grants) -> Self {
        Self { grants, open: 0 }
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

type Handle = Resource<Checkpointer>;
type Answer<T> = Result<Result<T, Error>>;

impl PluginCtxView<'_> {
    fn checkpointer(&self, handle: &Handle) -> Result<Checkpointer> {
        Ok(self.table.get(handle)?.clone())
    }
}

/// What the library answers, as a plugin has it.
fn exchanged<T: Into<U>, U>(answer: Result<T, crate::Error>) -> Answer<U> {
    Ok(answer.map(Into::into).map_err(Into::into))
}

fn refused<T>(reason: StorageReason, message: String) -> Answer<T> {
    Ok(Err(Error::Storage(StorageError { reason, effect: Effect::None, message })))
}

impl HostCheckpointer for PluginCtxView<'_> {
    async fn open(&mut self, options: Options) -> Answer<Handle> {
        let Some(grant) = self.ctx.grants.get(&options.bucket) else {
            return refused(StorageReason::NoSuchBucket, format!("there is no bucket {:?}", options.bucket));
        };
        if self.ctx.open >= MOST_OPEN {
            return refused(
                StorageReason::Unsupported,
                format!("no more than {MOST_OPEN} may be open at once"),
            );
        }
        match Checkpointer::granted(grant, options.into()).await {
            Ok(checkpointer) => {
                self.ctx.open += 1;
                Ok(Ok(self.table.push(checkpointer)?))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn save(&mut self, handle: Handle, checkpoint: Checkpoint) -> Answer<Outcome> {
        exchanged(self.checkpointer(&handle)?.save(&checkpoint.into()).await)
    }

    async fn save_after(
        &mut self,
        handle: Handle,
        checkpoint: Checkpoint,
        latest: Option<String>,
    ) -> Answer<Outcome> {
        exchanged(self.checkpointer(&handle)?.save_after(&checkpoint.into(), latest.as_deref()).await)
    }

    async fn save_document(&mut self, handle: Handle, document: String) -> Answer<(Metadata, Outcome)> {
        let saved = self.checkpointer(&handle)?.save_document(&document).await;
        Ok(saved.map(|(metadata, outcome)| (metadata.into(), outcome.into())).map_err(Into::into))
    }

    async fn load(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<Option<Checkpoint>> {
        let loaded = self.checkpointer(&handle)?.load(&session_id, checkpoint_id.as_deref()).await;
        Ok(loaded.map(|found| found.map(Into::into)).map_err(Into::into))
    }

    async fn load_document(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<Option<String>> {
        exchanged(self.checkpointer(&handle)?.load_document(&session_id, checkpoint_id.as_deref()).await)
    }

    async fn list(&mut self, handle: Handle, session_id: String, limit: Option<u32>) -> Answer<History> {
        exchanged(self.checkpointer(&handle)?.list(&session_id, limit).await)
    }

    async fn list_by_run(
        &mut self,
        handle: Handle,
        session_id: String,
        run_id: String,
        limit: Option<u32>,
    ) -> Answer<History> {
        exchanged(self.checkpointer(&handle)?.list_by_run(&session_id, &run_id, limit).await)
    }

    async fn list_documents(
        &mut self,
        handle: Handle,
        session_id: String,
        run_id: Option<String>,
        limit: Option<u32>,
    ) -> Answer<Documents> {
        exchanged(self.checkpointer(&handle)?.list_documents(&session_id, run_id.as_deref(), limit).await)
    }

    async fn pin(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<u64> {
        exchanged(self.checkpointer(&handle)?.pin(&session_id, checkpoint_id.as_deref()).await)
    }

    async fn unpin(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<u64> {
        exchanged(self.checkpointer(&handle)?.unpin(&session_id, checkpoint_id.as_deref()).await)
    }

    async fn delete(
        &mut self,
        handle: Handle,
        session_id: String,
        checkpoint_id: Option<String>,
    ) -> Answer<u64> {
        exchanged(self.checkpointer(&handle)?.delete(&session_id, checkpoint_id.as_deref()).await)
    }

    async fn clear_all(&mut self, handle: Handle) -> Answer<u64> {
        exchanged(self.checkpointer(&handle)?.clear_all().await)
    }

    async fn drop(&mut self, handle: Handle) -> Result<()> {
        self.table.delete(handle)?;
        self.ctx.open -= 1;
        Ok(())
    }
}
