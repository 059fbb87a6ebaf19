//! The component itself, compiled when this library was built, and instances of
//! it that are ready for a call.
//!
//! An instance keeps nothing between calls but the options it was opened with,
//! so any instance of a pool serves any call. One that trapped is thrown away,
//! and so is one whose caller went away in the middle of a call, or that grew
//! large over a large state.

#[cfg(feature = "plugins")]
pub mod clock;
mod configuration;
#[cfg(feature = "plugins")]
pub mod memory_limiter;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::{debug, warn};
use wasmtime::component::{Component, Linker, ResourceAny, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store};

pub use self::configuration::Caller;
use crate::Error;
use crate::bindings::flow::checkpoint::types as wit;
use crate::bindings::{self, ComponentPre};
use crate::keyvalue::{KeyvalueCtx, KeyvalueCtxView, KeyvalueView, add_to_linker};
use crate::{Effect, StorageError, StorageReason};

/// The component, for hosts of other kinds: it imports `keyvalue` and exports
/// `checkpointer`, see `wit/`.
pub const COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/checkpointer.wasm"));

/// The component as machine code of the target this library was built for, for
/// an engine with the same settings.
const COMPILED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/checkpointer.cwasm"));

/// The same as [`COMPILED`], such that it can be interrupted.
#[cfg(feature = "plugins")]
const COMPILED_FOR_PLUGINS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/checkpointer-of-plugins.cwasm"));

/// How many calls of one pool run at the same time; more wait their turn.
const CALLS_AT_ONCE: usize = 64;

/// How long a call waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait for room before looking for idle instances again.
const MOMENT: Duration = Duration::from_millis(50);

/// The most bytes that one call may copy out of an instance: a document of the
/// largest size that Redis takes, and again as much.
const COPIED_BYTES: usize = 1024 * 1024 * 1024;

/// An instance that needed more memory than this for a call is not kept: linear
/// memory never shrinks.
const KEPT_MEMORY: usize = 16 * 1024 * 1024;

/// What all pools of the process share that serve the same kind of caller.
struct Shared {
    engine: Engine,
    component: ComponentPre<Ctx>,
    /// One permit for each instance there can be.
    slots: Arc<Semaphore>,
    /// How many calls wait for a slot while idle instances may hold some.
    waiting: AtomicUsize,
    pools: Mutex<Vec<Weak<Pool>>>,
}

static OF_APPLICATION: LazyLock<Result<Shared, String>> =
    LazyLock::new(|| Shared::new(Caller::Application, COMPILED).map_err(unusable));

#[cfg(feature = "plugins")]
static OF_PLUGINS: LazyLock<Result<Shared, String>> = LazyLock::new(|| {
    let shared = Shared::new(Caller::Plugin, COMPILED_FOR_PLUGINS).map_err(unusable)?;
    clock::start(&shared.engine).map_err(|error| format!("no clock can be started: {error}"))?;
    Ok(shared)
});

fn unusable(error: wasmtime::Error) -> String {
    format!("the component can't be loaded: {error:#}")
}

impl Shared {
    fn new(caller: Caller, compiled: &[u8]) -> wasmtime::Result<Self> {
        let engine = Engine::new(&configuration::configuration(caller))?;
        // SAFETY: the bytes are what wasmtime made of the component when this
        // library was built; they are part of the binary like its other code.
        let component = match unsafe { Component::deserialize(&engine, compiled) } {
            Ok(component) => component,
            Err(error) => {
                warn!(%error, "the compiled component does not fit this machine; compiling it again");
                Component::new(&engine, COMPONENT)?
            }
        };
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker)?;
        Ok(Self {
            component: ComponentPre::new(linker.instantiate_pre(&component)?)?,
            engine,
            slots: Arc::new(Semaphore::new(configuration::INSTANCES as usize)),
            waiting: AtomicUsize::new(0),
            pools: Mutex::new(Vec::new()),
        })
    }

    fn of(caller: Caller) -> Result<&'static Self, Error> {
        let shared = match caller {
            Caller::Application => &OF_APPLICATION,
            #[cfg(feature = "plugins")]
            Caller::Plugin => &OF_PLUGINS,
        };
        shared.as_ref().map_err(|message| Error::Component(message.clone()))
    }

    /// Room for one more instance, if need be that of an idle one of any pool.
    async fn slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        let _waiting = Waiting::new(&self.waiting);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            self.evict_one();
            // Somebody quicker may take what was freed, so this asks again.
            let slot = timeout(MOMENT, Arc::clone(&self.slots).acquire_owned()).await;
            if let Ok(Ok(slot)) = slot {
                return Ok(slot);
            }
        }
        Err(Error::Busy)
    }

    /// Drops an idle instance of any pool, if there is one.
    fn evict_one(&self) {
        let pools: Vec<_> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        for pool in pools {
            let idle = lock(&pool.idle).pop();
            if idle.is_some() {
                return;
            }
        }
    }
}

/// Counts one who waits, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whom a pool serves, and what one instance may take for that. A call that wants
/// more fails.
#[derive(Clone, Copy)]
pub struct Service {
    /// Whose calls they are.
    pub caller: Caller,
    /// The most bytes of the memory of an instance.
    pub memory: usize,
    /// The most bytes that one call may copy out of it.
    pub copied_bytes: usize,
}

impl Default for Service {
    /// That of the application. Memory ends where 32-bit addresses do.
    fn default() -> Self {
        Self { caller: Caller::Application, memory: usize::MAX, copied_bytes: COPIED_BYTES }
    }
}

/// Instances for one set of buckets and options.
pub struct Pool {
    /// None after the pool was closed.
    ctx: Mutex<Option<KeyvalueCtx>>,
    options: wit::Options,
    service: Service,
    shared: &'static Shared,
    turns: Semaphore,
    idle: Mutex<Vec<Instance>>,
}

/// An instance with its checkpointer open.
pub struct Instance {
    /// The store that the instance lives in.
    pub store: Store<Ctx>,
    /// Its exports.
    pub component: bindings::Component,
    /// The open checkpointer.
    pub checkpointer: ResourceAny,
    _slot: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool with one instance, so that options which are at fault show now.
    pub async fn new(ctx: KeyvalueCtx, options: wit::Options, service: Service) -> Result<Arc<Self>, Error> {
        let pool = Arc::new(Self {
            ctx: Mutex::new(Some(ctx)),
            options,
            service,
            shared: Shared::of(service.caller)?,
            turns: Semaphore::new(CALLS_AT_ONCE),
            idle: Mutex::new(Vec::new()),
        });
        let first = pool.instance().await?;
        lock(&pool.idle).push(first);
        let mut pools = lock(&pool.shared.pools);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        drop(pools);
        Ok(pool)
    }

    /// An instance for one call, when it is this caller's turn.
    pub async fn turn(&self) -> Result<Turn<'_>, Error> {
        let turn = match timeout(PATIENCE, self.turns.acquire()).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) => return Err(Error::Closed),
            Err(_) => return Err(Error::Busy),
        };
        let idle = lock(&self.idle).pop();
        let instance = match idle {
            Some(instance) => instance,
            None => self.instance().await?,
        };
        Ok(Turn { pool: self, instance, _turn: turn })
    }

    /// Waits for the running calls, then drops the instances and the stores.
    pub async fn close(&self) {
        let turns = self.turns.acquire_many(CALLS_AT_ONCE as u32).await;
        self.turns.close();
        drop(turns);
        lock(&self.idle).clear();
        lock(&self.ctx).take();
    }

    async fn instance(&self) -> Result<Instance, Error> {
        let shared = self.shared;
        let slot = shared.slot().await?;
        let ctx = Ctx {
            keyvalue: lock(&self.ctx).clone().ok_or(Error::Closed)?,
            table: ResourceTable::new(),
            memory: Memory { size: 0, limit: self.service.memory, is_over: false },
        };
        let mut store = Store::new(&shared.engine, ctx);
        store.limiter(|ctx| &mut ctx.memory);
        store.set_hostcall_fuel(self.service.copied_bytes);
        #[cfg(feature = "plugins")]
        if self.service.caller == Caller::Plugin {
            clock::interrupt(&mut store);
        }
        let component = shared.component.instantiate_async(&mut store).await.map_err(trapped)?;
        let exports = component.flow_checkpoint_checkpointer().checkpointer();
        let opened = exports.call_open(&mut store, &self.options).await.map_err(trapped)?;
        debug!("made an instance of the component");
        Ok(Instance { checkpointer: opened?, store, component, _slot: slot })
    }
}

/// Calls an export of the component on an instance of a pool; the arguments follow
/// the store and the handle of the checkpointer.
macro_rules! call {
    ($pool:expr, $function:ident($($argument:expr),*)) => {
        match $pool.turn().await {
            Ok(mut turn) => {
                let $crate::component::Instance { store, component, checkpointer, .. } = &mut turn.instance;
                let exports = component.flow_checkpoint_checkpointer().checkpointer();
                let answer = exports.$function(store, *checkpointer, $($argument),*).await;
                turn.end(answer)
            }
            Err(error) => Err(error),
        }
    };
}

pub(crate) use call;

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The use of an instance for one call. Dropped before its end, the instance is
/// thrown away.
pub struct Turn<'a> {
    pool: &'a Pool,
    /// The instance, which nobody else uses.
    pub instance: Instance,
    _turn: SemaphorePermit<'a>,
}

impl Turn<'_> {
    /// Ends the call with what it gave, and leaves the instance to the next.
    pub fn end<T>(mut self, answer: wasmtime::Result<Result<T, wit::Error>>) -> Result<T, Error> {
        let memory = &self.instance.store.data().memory;
        let answer =
            answer.map_err(|error| if memory.is_over { memory.exceeded() } else { trapped(error) })?;
        let cause = self.instance.store.data_mut().keyvalue.take_last_error();
        let others_wait = self.pool.shared.waiting.load(Ordering::SeqCst) > 0;
        if self.instance.store.data().memory.size <= KEPT_MEMORY && !others_wait {
            lock(&self.pool.idle).push(self.instance);
        }
        answer.map_err(|error| match Error::from(error) {
            Error::Storage(error) => Error::Storage(error.with_context_of(cause)),
            error => error,
        })
    }
}

fn trapped(error: wasmtime::Error) -> Error {
    warn!(error = format!("{error:#}"), "an instance of the component trapped and is replaced");
    Error::Component(error.root_cause().to_string())
}

/// Nothing that runs under these locks can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an instance reaches of the host.
pub struct Ctx {
    keyvalue: KeyvalueCtx,
    table: ResourceTable,
    memory: Memory,
}

impl KeyvalueView for Ctx {
    fn keyvalue(&mut self) -> KeyvalueCtxView<'_> {
        KeyvalueCtxView { ctx: &mut self.keyvalue, table: &mut self.table }
    }
}

/// Remembers how large an instance has grown, and how large it may.
struct Memory {
    size: usize,
    limit: usize,
    /// Whether it ever wanted more.
    is_over: bool,
}

impl Memory {
    fn exceeded(&self) -> Error {
        let limit = self.limit;
        warn!(limit, "an instance of the component wanted more memory than it may have, and is replaced");
        let message = format!("the call needs more than its limit of {limit} bytes of memory");
        StorageError::new(StorageReason::TooLarge, Effect::Unknown, message).into()
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.limit;
        if fits {
            self.size = self.size.max(desired);
        }
        self.is_over |= !fits;
        Ok(fits)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}
