//! A store in which any call can be made to fail, in every way that there is.

use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use checkpointer::store::{
    Batch, Effect, Expiry, IndexPage, KeyPage, Query, Quota, StorageError, StorageReason, Store, Value,
};
use tokio::sync::Notify;

/// What a caller asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Store::get`] and [`Store::ttl`].
    Get,
    /// [`Store::range`].
    Range,
    /// [`Store::commit`], [`Store::commit_with_quota`] and [`Store::settle`], the only
    /// ones that write.
    Commit,
    /// [`Store::scan`].
    Scan,
}

/// How a call fails: each way once before the call took effect, and once after
/// that, so that only the answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store refuses, and says that nothing happened.
    RefusedBefore,
    /// The connection breaks once the call took effect.
    BrokenAfter,
    /// No answer comes in time, and nothing happened.
    TimedOutBefore,
    /// No answer comes in time, and it happened all the same.
    TimedOutAfter,
    /// The store panics, which takes the instance with it.
    PanicBefore,
    /// The same once the call took effect.
    PanicAfter,
    /// The call hangs until its caller is killed.
    CutBefore,
    /// The same once the call took effect.
    CutAfter,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RefusedBefore,
        Self::BrokenAfter,
        Self::TimedOutBefore,
        Self::TimedOutAfter,
        Self::PanicBefore,
        Self::PanicAfter,
        Self::CutBefore,
        Self::CutAfter,
    ];

    /// Those that do not need a caller who can be killed while he waits: native
    /// logic blocks its thread.
    pub const OF_BLOCKING_CALLERS: [Self; 6] = [
        Self::RefusedBefore,
        Self::BrokenAfter,
        Self::TimedOutBefore,
        Self::TimedOutAfter,
        Self::PanicBefore,
        Self::PanicAfter,
    ];

    /// Whether the call takes effect before it fails.
    fn takes_effect(self) -> bool {
        matches!(self, Self::BrokenAfter | Self::TimedOutAfter | Self::PanicAfter | Self::CutAfter)
    }

    /// What the caller is told, if he lives to hear it. A store says that
    /// nothing was written where it knows that, and of each call that reads.
    pub fn error(self, call: Call) -> Option<StorageError> {
        let (reason, effect) = match self {
            Self::RefusedBefore => (StorageReason::Unavailable, Effect::None),
            Self::BrokenAfter => (StorageReason::Unavailable, Effect::Unknown),
            Self::TimedOutBefore | Self::TimedOutAfter => (StorageReason::Timeout, Effect::Unknown),
            Self::PanicBefore | Self::PanicAfter | Self::CutBefore | Self::CutAfter => return None,
        };
        let effect = if call == Call::Commit { effect } else { Effect::None };
        Some(StorageError::new(reason, effect, format!("a fault was injected: {self:?}")))
    }
}

/// Wraps a store: counts the calls made to it, and has the one fail that it was
/// told to.
pub struct Faulty {
    inner: Arc<dyn Store>,
    /// The calls since it was last told what to do.
    calls: Mutex<Vec<Call>>,
    /// Which call is to fail, counted from 0, and how.
    plan: Mutex<Option<(usize, Fault)>>,
    hanging: Notify,
}

impl Faulty {
    /// Wraps `inner`; nothing fails yet.
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        let (calls, plan) = (Mutex::new(Vec::new()), Mutex::new(None));
        Arc::new(Self { inner, calls, plan, hanging: Notify::new() })
    }

    /// Begins to count anew, and has that call fail, or none.
    pub fn plan(&self, plan: Option<(usize, Fault)>) {
        lock(&self.calls).clear();
        *lock(&self.plan) = plan;
    }

    /// The calls since the last [`Faulty::plan`].
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// Returns once a call hangs: it is time to kill its caller.
    pub async fn hangs(&self) {
        self.hanging.notified().await;
    }

    async fn call<T>(
        &self,
        call: Call,
        effect: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let number = {
            let mut calls = lock(&self.calls);
            calls.push(call);
            calls.len() - 1
        };
        let planned = lock(&self.plan).filter(|(planned, _)| *planned == number);
        let Some((_, fault)) = planned else { return effect.await };
        if fault.takes_effect() {
            // Whatever the answer, it is lost.
            let _ = effect.await;
        }
        match fault {
            // A panic without the message, which is none of anybody's interest.
            Fault::PanicBefore | Fault::PanicAfter => resume_unwind(Box::new(fault)),
            Fault::CutBefore | Fault::CutAfter => {
                self.hanging.notify_one();
                pending().await
            }
            _ => fault.error(call).map_or_else(|| unreachable!("{fault:?} has an error"), Err),
        }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.call(Call::Get, self.inner.get(keys, max_value_bytes)).await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.call(Call::Get, self.inner.ttl(keys)).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.call(Call::Range, self.inner.range(query)).await
    }

    async fn range_with_byte_limit(&self, query: Query, most: usize) -> Result<IndexPage, StorageError> {
        self.call(Call::Range, self.inner.range_with_byte_limit(query, most)).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.call(Call::Commit, self.inner.commit(batches)).await
    }

    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.call(Call::Commit, self.inner.commit_with_quota(quota, batches)).await
    }

    async fn reconcile_quota(&self, quota: &Quota, after: Option<String>) -> Result<Option<String>, StorageError> {
        self.call(Call::Commit, self.inner.reconcile_quota(quota, after)).await
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        self.call(Call::Scan, self.inner.scan(prefix, after)).await
    }

    fn supports(&self, capability: &str) -> bool {
        self.inner.supports(capability)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.inner.is_colocated(prefix)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}
