//! A store in which any call can fail, in every way.

use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use checkpointer::store::{
    Batch, Effect, Expiry, IndexPage, KeyPage, Query, Quota, StorageError, StorageReason, Store, Value,
};
use tokio::sync::Notify;

/// A call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Store::get`] and [`Store::ttl`].
    Get,
    /// [`Store::range`].
    Range,
    /// The calls that write: [`Store::commit`], [`Store::commit_with_quota`] and
    /// [`Store::reconcile_quota`].
    Commit,
    /// [`Store::scan`].
    Scan,
}

/// How a call fails: each way once before the call took effect, and once after
/// it, so that only the answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store fails and reports that nothing was written.
    RefusedBefore,
    /// The connection breaks after the call took effect.
    BrokenAfter,
    /// The call times out and has no effect.
    TimedOutBefore,
    /// The call times out after it took effect.
    TimedOutAfter,
    /// The store panics before the call took effect, and the instance is lost.
    PanicBefore,
    /// The store panics after the call took effect.
    PanicAfter,
    /// The call hangs before it took effect, until its caller is dropped.
    CutBefore,
    /// The call hangs after it took effect, until its caller is dropped.
    CutAfter,
}

impl Fault {
    /// All faults.
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

    /// The faults for callers that can't be dropped while they wait: native logic
    /// blocks its thread.
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

    /// The error that the caller receives; none if the caller does not continue.
    /// A store reports the effect `none` if it knows that nothing was written,
    /// and for every read.
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

/// Wraps a store. Counts its calls, and lets the planned one fail.
pub struct Faulty {
    inner: Arc<dyn Store>,
    /// The calls since the last plan.
    calls: Mutex<Vec<Call>>,
    /// The number of the call that fails, counted from 0, and its fault.
    plan: Mutex<Option<(usize, Fault)>>,
    hanging: Notify,
}

impl Faulty {
    /// Wraps `inner` without a plan.
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        let (calls, plan) = (Mutex::new(Vec::new()), Mutex::new(None));
        Arc::new(Self { inner, calls, plan, hanging: Notify::new() })
    }

    /// Restarts the count, and lets one call fail, or none.
    pub fn plan(&self, plan: Option<(usize, Fault)>) {
        lock(&self.calls).clear();
        *lock(&self.plan) = plan;
    }

    /// The calls since the last [`Faulty::plan`].
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// Returns when a call hangs, so that its caller can be dropped.
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
            // The answer is lost.
            let _ = effect.await;
        }
        match fault {
            // Without a panic message.
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
#[deny(clippy::missing_trait_methods)]
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

    async fn reconcile_quota(
        &self,
        quota: &Quota,
        after: Option<String>,
    ) -> Result<Option<String>, StorageError> {
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
