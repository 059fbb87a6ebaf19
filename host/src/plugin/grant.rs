//! What a plugin is granted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Mutex;

use super::bounded::{Bounded, Rate, Settling};
use crate::store::Store;

/// The most results of one call, where a grant says nothing else.
const RESULTS_PER_CALL: u32 = 1000;

/// What one bucket of a plugin is: a part of a store, and how much of it.
#[derive(Clone)]
pub struct Grant {
    store: Arc<dyn Store>,
    prefix: Arc<str>,
    read_only: bool,
    value_bytes: Option<u64>,
    checkpoints: Option<u64>,
    bytes: Option<u64>,
    settling: Arc<Mutex<Settling>>,
    rate: Option<Arc<Rate>>,
    results_per_call: u32,
}

impl Grant {
    /// All keys of `store` that begin with `prefix`, to read and to write. The
    /// plugin does not see the prefix.
    ///
    /// End prefixes with a character that no name before it has: whoever is granted
    /// `tenant-1` reaches what stands under `tenant-10`, and `tenant-1/` does not.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<Arc<str>>) -> Self {
        Self {
            store,
            prefix: prefix.into(),
            read_only: false,
            value_bytes: None,
            checkpoints: None,
            bytes: None,
            settling: Arc::default(),
            rate: None,
            results_per_call: RESULTS_PER_CALL,
        }
    }

    /// Only to read.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// A stored checkpoint has so many bytes at the most; a larger one is
    /// `too-large`. It is the whole document that counts, with its metadata, and
    /// compressed if it is stored so.
    pub fn value_bytes(mut self, bytes: u64) -> Self {
        self.value_bytes = Some(bytes);
        self
    }

    /// So many checkpoints may be there at once; one more is `full`. A session that
    /// is pinned counts as one more.
    ///
    /// The store counts, in the same atomic step as each write, so the limit holds
    /// for many at once and over all hosts that grant the same prefix of the same
    /// store with it. Checkpoints that were saved without a limit count once they
    /// are saved again; expired ones, until room is needed.
    pub fn checkpoints(mut self, count: u64) -> Self {
        self.checkpoints = Some(count);
        self
    }

    /// So many bytes may be there at once, keys included; more is `full`. An entry
    /// of an index counts as 128 bytes, whatever the length of its id. It is counted
    /// as [`Grant::checkpoints`] are.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// So many operations of the store in a second, over all plugins of this process
    /// that hold this grant or a clone of it. A call over that waits its turn, which
    /// counts as time of the plugin; a second's worth may come at once. Most calls
    /// are one operation; those that go in steps are one for each step.
    pub fn operations_per_second(mut self, count: u32) -> Self {
        self.rate = Some(Arc::new(Rate::per_second(count)));
        self
    }

    /// A call gives so many checkpoints at the most, 1,000 unless said; one that asks
    /// for more is an `invalid-argument`. A page of a scan, which has none of their
    /// states, is as long as the store makes it: about 1,000.
    pub fn results_per_call(mut self, count: u32) -> Self {
        self.results_per_call = count;
        self
    }

    /// The store as far as it is granted.
    pub(super) fn store(&self) -> Arc<Bounded> {
        Arc::new(Bounded {
            inner: Arc::clone(&self.store),
            read_only: self.read_only,
            value_bytes: self.value_bytes,
            quota: Bounded::quota(&self.prefix, self.checkpoints, self.bytes),
            settling: Arc::clone(&self.settling),
            rate: self.rate.clone(),
            has_turn: AtomicBool::new(false),
        })
    }

    /// What every key begins with.
    pub(crate) fn prefix(&self) -> Arc<str> {
        Arc::clone(&self.prefix)
    }

    /// How many results a call may ask for.
    pub(crate) fn most_results(&self) -> u32 {
        self.results_per_call
    }
}

/// The buckets that a plugin may open, by the names that it knows them by.
#[derive(Clone, Default)]
pub struct Grants {
    buckets: BTreeMap<String, Grant>,
}

impl Grants {
    /// None at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those so far, and this one.
    pub fn bucket(mut self, name: impl Into<String>, grant: Grant) -> Self {
        self.buckets.insert(name.into(), grant);
        self
    }

    /// The bucket of this name, if it is granted.
    pub(crate) fn get(&self, name: &str) -> Option<&Grant> {
        self.buckets.get(name)
    }
}
