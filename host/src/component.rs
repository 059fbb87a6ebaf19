//! The component itself, compiled when this library was built, and instances of
//! it that are ready for a call.
//!
//! An instance keeps nothing between calls but the options it was opened with,
//! so any instance of a pool serves any call. One that trapped is thrown away,
//! and so is one whose caller went away in the middle of a call, or that grew
//! large over a large state.

mod configuration;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::{debug, warn};
use wasmtime::component::{Component, Linker, ResourceAny, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store};

use crate::Error;
use crate::bindings::exports::flow::checkpoint::checkpointer::{self, Options};
use crate::bindings::{self, ComponentPre};
use crate::keyvalue::{KeyvalueCtx, KeyvalueCtxView, KeyvalueView, add_to_linker};

/// The component, for hosts of other kinds: it imports `keyvalue` and exports
/// `checkpointer`, see `wit/`.
pub const COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/checkpointer.wasm"));

/// The component as machine code of the target this library was built for, for
/// an engine with the same settings.
pub const COMPILED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/checkpointer.cwasm"));

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

/// What all pools of the process share.
struct Shared {
    engine: Engine,
    component: ComponentPre<Ctx>,
    /// One permit for each instance there can be.
    slots: Arc<Semaphore>,
    /// How many calls wait for a slot while idle instances may hold some.
    waiting: AtomicUsize,
    pools: Mutex<Vec<Weak<Pool>>>,
}

static SHARED: LazyLock<Result<Shared, String>> =
    LazyLock::new(|| Shared::new().map_err(|error| format!("the component can't be loaded: {error:#}")));

impl Shared {
    fn new() -> wasmtime::Result<Self> {
        let engine = Engine::new(&configuration::configuration())?;
        // SAFETY: the bytes are what wasmtime made of the component when this
        // library was built; they are part of the binary like its other code.
        let component = match unsafe { Component::deserialize(&engine, COMPILED) } {
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

    fn get() -> Result<&'static Self, Error> {
        SHARED.as_ref().map_err(|message| Error::Component(message.clone()))
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

/// Instances for one set of buckets and options.
pub struct Pool {
    ctx: KeyvalueCtx,
    options: Options,
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
    pub async fn new(ctx: KeyvalueCtx, options: Options) -> Result<Arc<Self>, Error> {
        let pool = Arc::new(Self {
            ctx,
            options,
            turns: Semaphore::new(CALLS_AT_ONCE),
            idle: Mutex::new(Vec::new()),
        });
        let first = pool.instance().await?;
        lock(&pool.idle).push(first);
        let mut pools = lock(&Shared::get()?.pools);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        drop(pools);
        Ok(pool)
    }

    /// An instance for one call, when it is this caller's turn.
    pub async fn turn(&self) -> Result<Turn<'_>, Error> {
        let turn = match timeout(PATIENCE, self.turns.acquire()).await {
            Ok(Ok(turn)) => turn,
            _ => return Err(Error::Busy),
        };
        let idle = lock(&self.idle).pop();
        let instance = match idle {
            Some(instance) => instance,
            None => self.instance().await?,
        };
        Ok(Turn { pool: self, instance, _turn: turn })
    }

    async fn instance(&self) -> Result<Instance, Error> {
        let shared = Shared::get()?;
        let slot = shared.slot().await?;
        let ctx = Ctx { keyvalue: self.ctx.clone(), table: ResourceTable::new(), memory: Memory::default() };
        let mut store = Store::new(&shared.engine, ctx);
        store.limiter(|ctx| &mut ctx.memory);
        store.set_hostcall_fuel(COPIED_BYTES);
        let component = shared.component.instantiate_async(&mut store).await.map_err(trapped)?;
        let exports = component.flow_checkpoint_checkpointer().checkpointer();
        let opened = exports.call_open(&mut store, &self.options).await.map_err(trapped)?;
        debug!("made an instance of the component");
        Ok(Instance { checkpointer: opened?, store, component, _slot: slot })
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
    pub fn end<T>(self, answer: wasmtime::Result<Result<T, checkpointer::Error>>) -> Result<T, Error> {
        let answer = answer.map_err(trapped)?;
        let others_wait = Shared::get()?.waiting.load(Ordering::SeqCst) > 0;
        if self.instance.store.data().memory.size <= KEPT_MEMORY && !others_wait {
            lock(&self.pool.idle).push(self.instance);
        }
        answer.map_err(Error::from)
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

/// Remembers how large an instance has grown.
#[derive(Default)]
struct Memory {
    size: usize,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.size = self.size.max(desired);
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}
