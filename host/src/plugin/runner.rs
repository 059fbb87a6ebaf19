//! Runs plugins of the world `plugin`, each run in an instance of its own and
//! within limits: what one does wrong concerns no other.

use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;
use tracing::debug;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, ResourceLimiter, Store};

use super::bindings::PluginPre;
use super::{Grants, PluginCtx, PluginCtxView, PluginView, add_to_linker};

/// How often a plugin is interrupted to look at the clock.
const TICK: Duration = Duration::from_millis(10);

/// What a run of a plugin may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long it may take by the clock, waiting for the store included; 30
    /// seconds unless said.
    pub time: Duration,
    /// How many bytes of memory it may have; 256 MiB unless said.
    pub memory: usize,
    /// How many bytes may go to the host in one call; 32 MiB unless said.
    pub bytes_a_call: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), memory: 256 << 20, bytes_a_call: 32 << 20 }
    }
}

/// Why a plugin could not be loaded, or why its run ended. What it wrote before
/// that stays.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PluginError {
    /// It is no component, or does not fit the world `plugin`.
    #[error("not a plugin: {0}")]
    NotAPlugin(String),
    /// It wants more than a plugin is given. It was not run.
    #[error("the plugin imports what it is not given: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// It took longer than [`Limits::time`].
    #[error("the plugin took longer than the {0:?} it may")]
    Time(Duration),
    /// It wanted more memory than [`Limits::memory`].
    #[error("the plugin wanted more than the {0} bytes of memory it may have")]
    Memory(usize),
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
}

/// A plugin, compiled and ready to run, any number of times and at once.
#[derive(Clone)]
pub struct Plugin {
    component: PluginPre<Ctx>,
    limits: Limits,
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
        add_to_linker(&mut linker).map_err(host)?;
        // The clock of all plugins; it ends with the engine.
        let clock = engine.weak();
        std::thread::Builder::new()
            .name("plugin clock".to_owned())
            .spawn(move || {
                while let Some(engine) = clock.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .map_err(|error| PluginError::Host(error.to_string()))?;
        Ok(Self { engine, linker })
    }

    /// Compiles a plugin, after a look at what it imports. It takes some seconds
    /// for a large one.
    ///
    /// # Errors
    /// [`PluginError::NotAPlugin`], [`PluginError::Imports`].
    pub fn load(&self, wasm: &[u8]) -> Result<Plugin, PluginError> {
        let unfit = |error: wasmtime::Error| PluginError::NotAPlugin(format!("{error:#}"));
        let component = Component::new(&self.engine, wasm).map_err(unfit)?;
        let kind = component.component_type();
        let foreign: Vec<String> = kind
            .imports(&self.engine)
            .map(|(name, _)| name)
            .filter(|name| !GIVEN.contains(name))
            .map(str::to_owned)
            .collect();
        if !foreign.is_empty() {
            return Err(PluginError::Imports(foreign));
        }
        let component = self.linker.instantiate_pre(&component).and_then(PluginPre::new).map_err(unfit)?;
        Ok(Plugin { component, limits: Limits::default() })
    }
}

/// What a plugin is given.
const GIVEN: [&str; 2] = ["flow:checkpoint/checkpointer@0.1.0", "flow:checkpoint/types@0.1.0"];

impl Plugin {
    /// The same plugin with other limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs it on a text, in a new instance; what it gives back is text as well,
    /// or its error in words.
    ///
    /// # Errors
    /// It did not end as it should; see [`PluginError`]. What it gave back as an
    /// error is none of these.
    pub async fn run(&self, grants: &Grants, input: &str) -> Result<Result<String, String>, PluginError> {
        let ctx = Ctx {
            plugin: PluginCtx::new(grants.clone()),
            table: ResourceTable::new(),
            memory: Memory { limit: self.limits.memory, used: 0, is_over: false },
        };
        let mut store = Store::new(self.component.engine(), ctx);
        store.limiter(|ctx| &mut ctx.memory);
        store.set_hostcall_fuel(self.limits.bytes_a_call);
        // At each tick it lets others run, and the time-out be seen.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let run = async {
            let plugin = self.component.instantiate_async(&mut store).await?;
            plugin.call_run(&mut store, input).await
        };
        let ended = timeout(self.limits.time, run).await;
        let is_over_memory = store.data().memory.is_over;
        debug!(bytes = input.len(), ended = ended.is_ok(), "a plugin ran");
        match ended {
            Err(_) => Err(PluginError::Time(self.limits.time)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) if is_over_memory => Err(PluginError::Memory(self.limits.memory)),
            Ok(Err(error)) => Err(PluginError::Trap(error.root_cause().to_string())),
        }
    }
}

/// What an instance of a plugin has.
struct Ctx {
    plugin: PluginCtx,
    table: ResourceTable,
    memory: Memory,
}

impl PluginView for Ctx {
    fn plugin(&mut self) -> PluginCtxView<'_> {
        PluginCtxView { ctx: &mut self.plugin, table: &mut self.table }
    }
}

/// Keeps to the limit of memory, over all memories and tables of an instance.
struct Memory {
    limit: usize,
    used: usize,
    is_over: bool,
}

impl Memory {
    fn grow(&mut self, bytes: usize) -> bool {
        let fits = self.used.checked_add(bytes).is_some_and(|used| used <= self.limit);
        if fits {
            self.used += bytes;
        } else {
            self.is_over = true;
        }
        fits
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, now: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(now)))
    }

    fn table_growing(&mut self, now: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(now).saturating_mul(size_of::<usize>())))
    }
}
