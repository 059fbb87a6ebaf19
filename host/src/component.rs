//! The component, compiled when this library was built, and a pool of its
//! instances.
//!
//! An instance keeps no state between calls except the options it was opened with,
//! so any idle instance of a pool serves any call. An instance is dropped instead of
//! reused if it trapped, if the caller was cancelled during a call, or if a large
//! state made its memory grow beyond [`MAX_RETAINED_MEMORY`].

#[cfg(feature = "plugins")]
pub(crate) mod clock;
mod engine_config;
#[cfg(feature = "plugins")]
pub(crate) mod memory_limiter;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::timeout;
use tracing::{debug, warn};
use wasmtime::component::{Component, Linker, ResourceAny, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store};

pub(crate) use self::engine_config::Trust;
use self::engine_config::{MAX_INSTANCES, engine_config};
use crate::Error;
use crate::bindings::flow::checkpoint::types as wit;
use crate::bindings::{self, ComponentPre};
use crate::keyvalue::{KeyvalueCtx, KeyvalueCtxView, KeyvalueView, add_to_linker};
use crate::{Effect, StorageError, StorageReason};

/// The component, for other hosts: it imports `keyvalue` and exports `checkpointer`
/// of package `flow:checkpoint`.
///
/// ```
/// use checkpointer::COMPONENT;
/// use checkpointer::wasmtime::{Engine, component::Component};
///
/// # fn main() -> checkpointer::wasmtime::Result<()> {
/// let component = Component::new(&Engine::default(), COMPONENT)?;
/// # Ok(())
/// # }
/// ```
pub const COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/checkpointer.wasm"));

/// The component as machine code for [`Trust::Trusted`].
const COMPILED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/checkpointer.cwasm"));

/// The component as machine code for [`Trust::Untrusted`].
#[cfg(feature = "plugins")]
const COMPILED_INTERRUPTIBLE: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/checkpointer-interruptible.cwasm"));

/// The maximum number of concurrent calls of one pool. Further calls wait.
const MAX_CONCURRENT_CALLS: u32 = 64;

/// How long a call waits for an instance.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// The default limit of bytes that one call may copy out of an instance: twice the
/// largest value that Redis accepts.
const HOSTCALL_FUEL: usize = 1024 * 1024 * 1024;

/// The maximum memory of an idle instance, in bytes. An instance with more memory is
/// dropped after its call, because a linear memory never shrinks.
const MAX_RETAINED_MEMORY: usize = 16 * 1024 * 1024;

/// The engine and the component for one [`Trust`], shared by all pools of the process.
struct Runtime {
    engine: Engine,
    component: ComponentPre<Ctx>,
    /// One permit for each instance that may exist.
    slots: Arc<Semaphore>,
    /// The number of calls that wait for a slot.
    waiting: AtomicUsize,
    pools: Mutex<Vec<Weak<Pool>>>,
}

static TRUSTED: LazyLock<Result<Runtime, String>> =
    LazyLock::new(|| Runtime::new(Trust::Trusted, COMPILED).map_err(load_failure));

#[cfg(feature = "plugins")]
static UNTRUSTED: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
    let runtime = Runtime::new(Trust::Untrusted, COMPILED_INTERRUPTIBLE).map_err(load_failure)?;
    clock::start(&runtime.engine).map_err(|error| format!("the epoch clock can't be started: {error}"))?;
    Ok(runtime)
});

fn load_failure(error: wasmtime::Error) -> String {
    format!("the component can't be loaded: {error:#}")
}

impl Runtime {
    fn new(trust: Trust, compiled: &[u8]) -> wasmtime::Result<Self> {
        let engine = Engine::new(&engine_config(trust))?;
        // SAFETY: wasmtime made these bytes from the component when this library was
        // built, and they are a part of the binary like its other code.
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
            slots: Arc::new(Semaphore::new(MAX_INSTANCES as usize)),
            waiting: AtomicUsize::new(0),
            pools: Mutex::new(Vec::new()),
        })
    }

    fn get(trust: Trust) -> Result<&'static Self, Error> {
        let runtime = match trust {
            Trust::Trusted => &TRUSTED,
            #[cfg(feature = "plugins")]
            Trust::Untrusted => &UNTRUSTED,
        };
        runtime.as_ref().map_err(|message| Error::Component(message.clone()))
    }

    /// Acquires a slot for a new instance. Evicts an idle instance of any pool if all
    /// slots are in use.
    async fn slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        // Count this call before looking for an idle instance. A call that ends later
        // sees the count after it returned its instance, and evicts one itself.
        let _waiting = WaitGuard::new(&self.waiting);
        self.evict_one();
        match timeout(ACQUIRE_TIMEOUT, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(Error::Busy),
        }
    }

    /// Drops an idle instance of any pool, if there is one.
    fn evict_one(&self) {
        let pools: Vec<_> = self.pools.lock().iter().filter_map(Weak::upgrade).collect();
        // The instance is dropped after the pool's lock is released.
        let _evicted = pools.iter().find_map(|pool| pool.idle.lock().pop());
    }
}

/// Counts a waiting call until it is dropped.
struct WaitGuard<'a>(&'a AtomicUsize);

impl<'a> WaitGuard<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The callers of a pool, and the limits of one instance. A call that exceeds a limit
/// fails.
#[derive(Clone, Copy)]
pub(crate) struct PoolLimits {
    /// Whether the callers are trusted.
    pub(crate) trust: Trust,
    /// The maximum memory of an instance in bytes.
    pub(crate) memory: usize,
    /// The maximum number of bytes that one call copies out of an instance.
    pub(crate) copied_bytes: usize,
}

impl Default for PoolLimits {
    /// The limits for the application. The memory is limited by its 32-bit addresses
    /// only.
    fn default() -> Self {
        Self { trust: Trust::Trusted, memory: usize::MAX, copied_bytes: HOSTCALL_FUEL }
    }
}

/// Instances with the same buckets and options.
pub(crate) struct Pool {
    /// None after the pool was closed.
    ctx: Mutex<Option<KeyvalueCtx>>,
    options: wit::Options,
    limits: PoolLimits,
    runtime: &'static Runtime,
    /// One permit for each concurrent call.
    calls: Semaphore,
    idle: Mutex<Vec<Instance>>,
}

/// An instance with an open checkpointer.
pub(crate) struct Instance {
    /// The wasmtime store of the instance.
    pub(crate) store: Store<Ctx>,
    /// The exports.
    pub(crate) component: bindings::Component,
    /// The open checkpointer.
    pub(crate) checkpointer: ResourceAny,
    /// Released after the store is dropped.
    _slot: OwnedSemaphorePermit,
}

impl Pool {
    /// Creates a pool with one instance, which validates the options.
    pub(crate) async fn new(
        ctx: KeyvalueCtx,
        options: wit::Options,
        limits: PoolLimits,
    ) -> Result<Arc<Self>, Error> {
        let pool = Arc::new(Self {
            ctx: Mutex::new(Some(ctx)),
            options,
            limits,
            runtime: Runtime::get(limits.trust)?,
            calls: Semaphore::new(MAX_CONCURRENT_CALLS as usize),
            idle: Mutex::new(Vec::new()),
        });
        let first = pool.instance().await?;
        pool.idle.lock().push(first);
        let mut pools = pool.runtime.pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        drop(pools);
        // A call that waited meanwhile has not seen this pool.
        if pool.runtime.waiting.load(Ordering::SeqCst) > 0 {
            pool.runtime.evict_one();
        }
        Ok(pool)
    }

    /// Acquires an instance for one call.
    pub(crate) async fn acquire(&self) -> Result<PooledInstance<'_>, Error> {
        require_runtime()?;
        // A timeout needs a timer, which the runtime may lack. A free permit does not.
        let permit = match self.calls.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return Err(Error::Closed),
            Err(TryAcquireError::NoPermits) => match timeout(ACQUIRE_TIMEOUT, self.calls.acquire()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) => return Err(Error::Closed),
                Err(_) => return Err(Error::Busy),
            },
        };
        let idle = self.idle.lock().pop();
        let instance = match idle {
            Some(instance) => instance,
            None => self.instance().await?,
        };
        Ok(PooledInstance { pool: self, instance, _permit: permit })
    }

    /// Waits for the running calls, then drops the instances and the stores.
    pub(crate) async fn close(&self) {
        let permits = self.calls.acquire_many(MAX_CONCURRENT_CALLS).await;
        self.calls.close();
        self.idle.lock().clear();
        self.ctx.lock().take();
        drop(permits);
    }

    async fn instance(&self) -> Result<Instance, Error> {
        let runtime = self.runtime;
        let slot = runtime.slot().await?;
        let ctx = Ctx {
            keyvalue: self.ctx.lock().clone().ok_or(Error::Closed)?,
            table: ResourceTable::new(),
            memory: MemoryLimiter { size: 0, limit: self.limits.memory, is_over: false },
        };
        let mut store = Store::new(&runtime.engine, ctx);
        store.limiter(|ctx| &mut ctx.memory);
        store.set_hostcall_fuel(self.limits.copied_bytes);
        #[cfg(feature = "plugins")]
        if self.limits.trust == Trust::Untrusted {
            clock::interrupt(&mut store);
        }
        let component = runtime.component.instantiate_async(&mut store).await.map_err(trapped)?;
        let exports = component.flow_checkpoint_checkpointer().checkpointer();
        let opened = exports.call_open(&mut store, &self.options).await.map_err(trapped)?;
        debug!("created an instance of the component");
        Ok(Instance { checkpointer: opened?, store, component, _slot: slot })
    }
}

/// Fails outside of a tokio runtime, where tokio's own functions would panic.
pub(crate) fn require_runtime() -> Result<(), Error> {
    Handle::try_current().map(drop).map_err(|_| Error::NoRuntime)
}

/// Calls an export of the component on an instance of a pool. The arguments follow
/// the store and the handle of the checkpointer.
macro_rules! call {
    ($pool:expr, $function:ident($($argument:expr),*)) => {
        match $pool.acquire().await {
            Ok(mut pooled) => {
                let $crate::component::Instance { store, component, checkpointer, .. } = &mut pooled.instance;
                let exports = component.flow_checkpoint_checkpointer().checkpointer();
                let answer = exports.$function(store, *checkpointer, $($argument),*).await;
                pooled.finish(answer)
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

/// An instance that serves one call. If it is dropped before
/// [`PooledInstance::finish`], the instance is not reused.
pub(crate) struct PooledInstance<'a> {
    pool: &'a Pool,
    /// The instance.
    pub(crate) instance: Instance,
    _permit: SemaphorePermit<'a>,
}

impl PooledInstance<'_> {
    /// Converts the result of the call, and returns the instance to the pool.
    pub(crate) fn finish<T>(mut self, answer: wasmtime::Result<Result<T, wit::Error>>) -> Result<T, Error> {
        let memory = &self.instance.store.data().memory;
        let answer =
            answer.map_err(|error| if memory.is_over { memory.exceeded() } else { trapped(error) })?;
        let cause = self.instance.store.data_mut().keyvalue.take_last_error();
        if self.instance.store.data().memory.size <= MAX_RETAINED_MEMORY {
            self.pool.idle.lock().push(self.instance);
            // In this order: a call that begins to wait after this check finds the
            // instance.
            if self.pool.runtime.waiting.load(Ordering::SeqCst) > 0 {
                self.pool.runtime.evict_one();
            }
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

/// The data of an instance's wasmtime store.
pub(crate) struct Ctx {
    keyvalue: KeyvalueCtx,
    table: ResourceTable,
    memory: MemoryLimiter,
}

impl KeyvalueView for Ctx {
    fn keyvalue(&mut self) -> KeyvalueCtxView<'_> {
        KeyvalueCtxView { ctx: &mut self.keyvalue, table: &mut self.table }
    }
}

/// Limits and records the memory of an instance.
struct MemoryLimiter {
    size: usize,
    limit: usize,
    /// Whether the instance requested more than the limit.
    is_over: bool,
}

impl MemoryLimiter {
    fn exceeded(&self) -> Error {
        let limit = self.limit;
        warn!(limit, "an instance of the component exceeded its memory limit and is replaced");
        let message = format!("the call needs more than its limit of {limit} bytes of memory");
        StorageError::new(StorageReason::TooLarge, Effect::Unknown, message).into()
    }
}

impl ResourceLimiter for MemoryLimiter {
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
