//! Runs plugins of the world `plugin`, each run in an instance of its own and
//! within limits: what one does wrong concerns no other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;
use tracing::debug;
use wasmtime::component::{Component, Linker, ResourceTableError};
use wasmtime::{Config, Engine, Store, Trap};

use super::bindings::PluginPre;
use super::cache::Cache;
use super::inspection::Inspection;
use super::sandbox::{Ctx, LogIsFull, LogSink, add_all_to_linker};
use super::{Grants, PluginCtx};
use crate::component::clock;

/// What a run of a plugin may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a run may take by the clock, waiting for the store included; 30
    /// seconds unless said. [`PluginError::Time`] ends it.
    pub run_time: Duration,
    /// How long each call of the checkpointer may take; 10 seconds unless said. One
    /// that takes longer fails with the reason `timeout`, and the plugin goes on.
    pub call_time: Duration,
    /// How many bytes of memory it may have, all memories and tables together; 256
    /// MiB unless said. [`PluginError::Memory`] ends it if it does not end well. The
    /// checkpointer of the plugin may have as much.
    pub memory: usize,
    /// How many bytes may go to the host in one call, and come from the store for
    /// one; 32 MiB unless said. [`PluginError::Bytes`] ends a run that passes more;
    /// an answer that has more is `too-large`.
    pub max_bytes_per_call: usize,
    /// How many handles it may hold at once, those of WASI included; 1,000 unless
    /// said. [`PluginError::Handles`] ends it.
    pub handles: usize,
    /// How many checkpointers it may have open at once; 16 unless said. One more is
    /// refused with the reason `unsupported`, and the plugin goes on.
    pub checkpointers: usize,
    /// How many core modules it may consist of when it runs; 100 unless said.
    /// [`PluginError::Parts`] ends it, for tables and memories too.
    pub instances: usize,
    /// How many tables it may have; 100 unless said.
    pub tables: usize,
    /// How many memories it may have; 10 unless said.
    pub memories: usize,
    /// How many bytes it may write to its standard output and standard error
    /// together; 64 KiB unless said. [`PluginError::Log`] ends it.
    pub log_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            run_time: Duration::from_secs(30),
            call_time: Duration::from_secs(10),
            memory: 256 << 20,
            max_bytes_per_call: 32 << 20,
            handles: 1000,
            checkpointers: 16,
            instances: 100,
            tables: 100,
            memories: 10,
            log_bytes: 64 << 10,
        }
    }
}

/// Why a plugin could not be loaded, or why its run ended. What it wrote before
/// that stays; the next run begins anew.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PluginError {
    /// It is no component, or does not fit the world `plugin`.
    #[error("not a plugin: {0}")]
    NotAPlugin(String),
    /// It wants more than a plugin is given. It was not run.
    #[error("the plugin imports what it is not given: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// It took longer than [`Limits::run_time`].
    #[error("the plugin took longer than the {0:?} it may")]
    Time(Duration),
    /// It wanted more memory than [`Limits::memory`].
    #[error("the plugin wanted more than the {0} bytes of memory it may have")]
    Memory(usize),
    /// It passed more than [`Limits::max_bytes_per_call`] to the host in one call.
    #[error("the plugin passed more than the {0} bytes it may in one call")]
    Bytes(usize),
    /// It wanted more handles than [`Limits::handles`].
    #[error("the plugin wanted more than the {0} handles it may hold")]
    Handles(usize),
    /// It wrote more than [`Limits::log_bytes`].
    #[error("the plugin wrote more than the {0} bytes of log it may")]
    Log(usize),
    /// Its calls are nested too deep.
    #[error("the plugin used up its stack")]
    Stack,
    /// It has more modules, tables or memories than [`Limits::instances`],
    /// [`Limits::tables`] or [`Limits::memories`].
    #[error("the plugin is made of too many parts: {0}")]
    Parts(String),
    /// It trapped.
    #[error("the plugin trapped: {0}")]
    Trap(String),
    /// Something of the host failed.
    #[error("the plugin can't be run: {0}")]
    Host(String),
}

/// Loads plugins; the engine that they run in.
pub struct Plugins {
    engine: Engine,
    linker: Linker<Ctx>,
    cache: Option<Cache>,
}

/// A plugin, compiled and ready to run, any number of times and at once.
#[derive(Clone)]
pub struct Plugin {
    component: PluginPre<Ctx>,
    limits: Limits,
    log: Option<LogSink>,
}

impl Plugins {
    /// An engine for plugins.
    ///
    /// # Errors
    /// This machine can't run WebAssembly.
    pub fn new() -> Result<Self, PluginError> {
        let host = |error: wasmtime::Error| PluginError::Host(format!("{error:#}"));
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config).map_err(host)?;
        let mut linker = Linker::new(&engine);
        add_all_to_linker(&mut linker).map_err(host)?;
        clock::start(&engine).map_err(|error| PluginError::Host(error.to_string()))?;
        Ok(Self { engine, linker, cache: None })
    }

    /// Keeps what was compiled in a folder, which is made if it is not there, and
    /// may be removed at any time. It has to be one that only this user can write to:
    /// what is in it is run. A file that is damaged, or of another plugin, engine or
    /// version, is compiled again.
    ///
    /// # Errors
    /// [`PluginError::Host`]: the folder can't be made, is somebody else's, or others
    /// may write to it.
    pub fn cache(mut self, folder: &Path) -> Result<Self, PluginError> {
        let cache = Cache::open(folder);
        self.cache = Some(cache.map_err(|error| PluginError::Host(format!("the cache: {error}")))?);
        Ok(self)
    }

    /// Compiles a plugin, after a look at what it imports. It takes some seconds
    /// for a large one that is not in the cache, and is not limited: compile what you
    /// do not trust where it may take its time and its memory.
    ///
    /// # Errors
    /// [`PluginError::NotAPlugin`], [`PluginError::Imports`].
    pub fn load(&self, wasm: &[u8]) -> Result<Plugin, PluginError> {
        let component = self.compile(wasm)?;
        let inspection = Inspection::of(&component, &self.engine);
        if !inspection.refused.is_empty() {
            return Err(PluginError::Imports(inspection.refused));
        }
        let component = self.linker.instantiate_pre(&component).and_then(PluginPre::new).map_err(unfit)?;
        Ok(Plugin { component, limits: Limits::default(), log: None })
    }

    /// What a plugin imports and exports, and whether it fits; it is compiled for
    /// that, and not run.
    ///
    /// # Errors
    /// [`PluginError::NotAPlugin`]: it is no component at all.
    pub fn inspect(&self, wasm: &[u8]) -> Result<Inspection, PluginError> {
        let component = self.compile(wasm)?;
        let mut inspection = Inspection::of(&component, &self.engine);
        if inspection.refused.is_empty() {
            let fits = self.linker.instantiate_pre(&component).and_then(PluginPre::new);
            inspection.unfit = fits.err().map(|error| format!("{error:#}"));
        }
        Ok(inspection)
    }

    fn compile(&self, wasm: &[u8]) -> Result<Component, PluginError> {
        // Of these wasmtime would say what their first bytes are.
        if !wasm.starts_with(b"\0asm") {
            return Err(PluginError::NotAPlugin("it is no WebAssembly".to_owned()));
        }
        match &self.cache {
            Some(cache) => cache.compile(&self.engine, wasm),
            None => Component::new(&self.engine, wasm),
        }
        .map_err(unfit)
    }
}

fn unfit(error: wasmtime::Error) -> PluginError {
    PluginError::NotAPlugin(format!("{error:#}"))
}

impl Plugin {
    /// The same plugin with other limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Gives what the plugin writes to its standard output and its standard error to
    /// `sink`, bit by bit as it comes; unless said, nobody sees it. It comes from the
    /// plugin: show it to no terminal as it is.
    pub fn log(mut self, sink: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.log = Some(Arc::new(sink));
        self
    }

    /// Runs it on a text, in a new instance; what it gives back is text as well,
    /// or its error in words.
    ///
    /// # Errors
    /// It did not end as it should; see [`PluginError`]. What it gave back as an
    /// error is none of these.
    pub async fn run(&self, grants: &Grants, input: &str) -> Result<Result<String, String>, PluginError> {
        let ctx =
            Ctx::new(PluginCtx::new(grants.clone()).limits(&self.limits), &self.limits, self.log.clone());
        let mut store = Store::new(self.component.engine(), ctx);
        store.limiter(|ctx| &mut ctx.memory);
        store.set_hostcall_fuel(self.limits.max_bytes_per_call);
        clock::interrupt(&mut store);
        let run = async {
            let plugin = self.component.instantiate_async(&mut store).await?;
            plugin.call_run(&mut store, input).await
        };
        let ended = timeout(self.limits.run_time, run).await;
        debug!(bytes = input.len(), ended = ended.is_ok(), "a plugin ran");
        match ended {
            Err(_) => Err(PluginError::Time(self.limits.run_time)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.ended_by(&error, store.data().memory.is_over)),
        }
    }

    /// Which limit a run came to, if it was one.
    fn ended_by(&self, error: &wasmtime::Error, is_over_memory: bool) -> PluginError {
        let cause = error.root_cause().to_string();
        if is_over_memory {
            PluginError::Memory(self.limits.memory)
        } else if let Some(LogIsFull(limit)) = error.downcast_ref() {
            PluginError::Log(*limit)
        } else if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) {
            PluginError::Handles(self.limits.handles)
        } else if matches!(error.downcast_ref(), Some(Trap::StackOverflow)) {
            PluginError::Stack
        // These two have no types of their own in wasmtime 48.
        } else if cause.contains("fuel allocated for hostcalls has been exhausted") {
            PluginError::Bytes(self.limits.max_bytes_per_call)
        } else if let Some(which) = cause.strip_prefix("resource limit exceeded: ") {
            PluginError::Parts(which.to_owned())
        } else {
            PluginError::Trap(cause)
        }
    }
}
