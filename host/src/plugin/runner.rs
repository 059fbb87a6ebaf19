//! Runs plugins of the world `plugin`. Each run has a new instance and its own
//! limits.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;
use tracing::debug;
use wasmtime::component::{Component, Linker, ResourceTableError};
use wasmtime::{Config, Engine, Store, Trap};

#[cfg(doc)]
use super::Grant;
use super::bindings::PluginPre;
use super::cache::Cache;
use super::inspection::{Inspection, check_is_component};
use super::sandbox::{LogLimitExceeded, LogSink, RunCtx, add_all_to_linker};
use super::{Grants, Limits};
use crate::component::clock;

/// Why a plugin can't be loaded, or why a run ended early. Checkpoints that the run
/// saved before are kept. The next run has a new instance.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PluginError {
    /// The bytes are not a component, or the component does not fit the world
    /// `plugin`.
    #[error("not a plugin: {0}")]
    NotAPlugin(String),
    /// The plugin has imports that plugins may not have. It was not run.
    #[error("the plugin imports {}, which plugins may not import", .0.join(", "))]
    DisallowedImports(Vec<String>),
    /// The run took longer than [`Limits::run_timeout`].
    #[error("the plugin exceeded its run timeout of {0:?}")]
    Timeout(Duration),
    /// The run took longer than [`Limits::run_timeout`], and its last operation of a
    /// store waited for [`Grant::max_operations_per_second`].
    #[error(
        "the plugin exceeded its run timeout of {0:?}; its last operation waited for the rate limit \
         max-operations-per-second"
    )]
    RateLimitTimeout(Duration),
    /// The plugin needed more than [`Limits::max_memory_bytes`].
    #[error("the plugin exceeded its memory limit of {0} bytes")]
    MemoryLimit(usize),
    /// The plugin passed more than [`Limits::max_bytes_per_call`] in one call.
    #[error("the plugin passed more than its limit of {0} bytes in one call")]
    CallSizeLimit(usize),
    /// The plugin opened more than [`Limits::max_handles`].
    #[error(
        "the plugin had more handles open at once than its limit of {0}; raise `max-handles` or close some"
    )]
    HandleLimit(usize),
    /// The plugin wrote more than [`Limits::max_log_bytes`].
    #[error("the plugin wrote more to its log than its limit of {0} bytes")]
    LogLimit(usize),
    /// The calls within the plugin are nested too deeply.
    #[error("the plugin exhausted its call stack")]
    StackOverflow,
    /// The plugin has more than [`Limits::max_instances`].
    #[error("the plugin has more core module instances than its limit of {0}")]
    TooManyInstances(usize),
    /// The plugin has more than [`Limits::max_tables`].
    #[error("the plugin has more tables than its limit of {0}")]
    TooManyTables(usize),
    /// The plugin has more than [`Limits::max_memories`].
    #[error("the plugin has more memories than its limit of {0}")]
    TooManyMemories(usize),
    /// The plugin trapped.
    #[error("the plugin trapped: {0}")]
    Trap(String),
    /// The host failed.
    #[error("the plugin can't be run: {0}")]
    Host(String),
}

/// An engine that compiles and runs plugins.
pub struct Plugins {
    engine: Engine,
    linker: Linker<RunCtx>,
    cache: Option<Cache>,
}

/// A compiled plugin. It can run any number of times, also concurrently.
#[derive(Clone)]
#[must_use]
pub struct Plugin {
    component: PluginPre<RunCtx>,
    limits: Limits,
    log: Option<LogSink>,
}

impl Plugins {
    /// An engine without a cache.
    ///
    /// # Errors
    /// [`PluginError::Host`]: this machine can't run WebAssembly.
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

    /// Caches compiled plugins in a folder, which is created if it does not exist
    /// and may be deleted at any time. Only this user may have write access to it:
    /// the code in it is executed. A file that is damaged, or of another plugin,
    /// engine or version, is replaced.
    ///
    /// # Errors
    /// [`PluginError::Host`]: the folder can't be created, or other users may write
    /// to it.
    pub fn cache(mut self, folder: &Path) -> Result<Self, PluginError> {
        let cache = Cache::open(folder);
        self.cache = Some(cache.map_err(|error| PluginError::Host(format!("the cache: {error}")))?);
        Ok(self)
    }

    /// Compiles a plugin and checks its imports. A large plugin that is not in the
    /// cache takes some seconds. The time and memory of the compilation are not
    /// limited: compile untrusted plugins in a process with limits of its own.
    ///
    /// # Errors
    /// [`PluginError::NotAPlugin`], [`PluginError::DisallowedImports`].
    pub fn load(&self, wasm: &[u8]) -> Result<Plugin, PluginError> {
        let component = self.compile(wasm)?;
        let disallowed = Inspection::new(&component, &self.engine).disallowed_imports;
        if !disallowed.is_empty() {
            return Err(PluginError::DisallowedImports(disallowed));
        }
        let component = self.link(&component).map_err(not_a_plugin)?;
        Ok(Plugin { component, limits: Limits::default(), log: None })
    }

    /// The imports and exports of a component, and whether it is a plugin. The
    /// component is compiled and not run.
    ///
    /// # Errors
    /// [`PluginError::NotAPlugin`]: the bytes are not a component.
    pub fn inspect(&self, wasm: &[u8]) -> Result<Inspection, PluginError> {
        let component = self.compile(wasm)?;
        let mut inspection = Inspection::new(&component, &self.engine);
        if inspection.disallowed_imports.is_empty() {
            inspection.incompatibility = self.link(&component).err().map(|error| format!("{error:#}"));
        }
        Ok(inspection)
    }

    fn compile(&self, wasm: &[u8]) -> Result<Component, PluginError> {
        check_is_component(wasm).map_err(PluginError::NotAPlugin)?;
        match &self.cache {
            Some(cache) => cache.compile(&self.engine, wasm),
            None => Component::new(&self.engine, wasm),
        }
        .map_err(not_a_plugin)
    }

    fn link(&self, component: &Component) -> wasmtime::Result<PluginPre<RunCtx>> {
        PluginPre::new(self.linker.instantiate_pre(component)?)
    }
}

fn not_a_plugin(error: wasmtime::Error) -> PluginError {
    PluginError::NotAPlugin(format!("{error:#}"))
}

impl Plugin {
    /// Sets the limits of each run.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Passes the plugin's standard output and standard error to `sink` in chunks.
    /// Without a sink, the output is discarded. The output is untrusted: escape
    /// control characters before it is shown on a terminal.
    pub fn log(mut self, sink: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.log = Some(Arc::new(sink));
        self
    }

    /// Runs the plugin on `input` in a new instance. The inner result is that of
    /// the plugin: its output, or its error message.
    ///
    /// # Errors
    /// The run ended early; see [`PluginError`].
    pub async fn run(&self, grants: &Grants, input: &str) -> Result<Result<String, String>, PluginError> {
        let ctx = RunCtx::new(grants.clone(), &self.limits, self.log.clone());
        let mut store = Store::new(self.component.engine(), ctx);
        store.limiter(|ctx| &mut ctx.memory);
        store.set_hostcall_fuel(self.limits.max_bytes_per_call);
        clock::interrupt(&mut store);
        let run = async {
            let plugin = self.component.instantiate_async(&mut store).await?;
            plugin.call_run(&mut store, input).await
        };
        let result = timeout(self.limits.run_timeout, run).await;
        debug!(bytes = input.len(), timeout = result.is_err(), "ran a plugin");
        match result {
            Err(_) if store.data().plugin.is_rate_limited.load(Ordering::Relaxed) => {
                Err(PluginError::RateLimitTimeout(self.limits.run_timeout))
            }
            Err(_) => Err(PluginError::Timeout(self.limits.run_timeout)),
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(self.classify(&error, store.data().memory.is_exceeded)),
        }
    }

    /// The limit that ended a run, or the trap.
    fn classify(&self, error: &wasmtime::Error, is_memory_exceeded: bool) -> PluginError {
        let Limits { max_instances, max_tables, max_memories, .. } = self.limits;
        let cause = error.root_cause().to_string();
        if is_memory_exceeded {
            PluginError::MemoryLimit(self.limits.max_memory_bytes)
        } else if let Some(LogLimitExceeded(limit)) = error.downcast_ref() {
            PluginError::LogLimit(*limit)
        } else if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) {
            PluginError::HandleLimit(self.limits.max_handles)
        } else if matches!(error.downcast_ref(), Some(Trap::StackOverflow)) {
            PluginError::StackOverflow
        // wasmtime 48 has no types for the errors below.
        } else if cause.contains("fuel allocated for hostcalls has been exhausted") {
            PluginError::CallSizeLimit(self.limits.max_bytes_per_call)
        } else if cause.starts_with("resource limit exceeded: instance count") {
            PluginError::TooManyInstances(max_instances)
        } else if cause.starts_with("resource limit exceeded: table count") {
            PluginError::TooManyTables(max_tables)
        } else if cause.starts_with("resource limit exceeded: memory count") {
            PluginError::TooManyMemories(max_memories)
        } else {
            PluginError::Trap(cause)
        }
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Plugins").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Plugin").field("limits", &self.limits).finish_non_exhaustive()
    }
}
