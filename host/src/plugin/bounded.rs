//! A store as far as it is granted: to read only perhaps, and no more at once, in
//! all or in a second than was said.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::store::{
    Batch, Effect, Expiry, IndexPage, KeyPage, Operation, Query, Quota, StorageError, StorageReason, Store,
    Value,
};

/// A store within the limits of a grant.
pub struct Bounded {
    /// All of it.
    pub inner: Arc<dyn Store>,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// How many bytes a value may have.
    pub value_bytes: Option<u64>,
    /// How much may be there in all.
    pub quota: Option<Quota>,
    /// How far all who share the grant have settled the quota.
    pub settling: Arc<Mutex<Settling>>,
    /// How often it may be asked.
    pub rate: Option<Arc<Rate>>,
    /// Whether somebody has waited for the next turn already.
    pub has_turn: AtomicBool,
}

/// How far a quota was settled. Whoever is at it holds this.
#[derive(Default)]
pub struct Settling {
    /// Where to go on, if someone gave up half-way.
    after: Option<String>,
    /// When it was begun or ended last, and how long to leave it alone from then on.
    rest: Option<(Instant, Duration)>,
}

/// How long to leave a quota alone at least that was just settled, and how many
/// times as long as it took the store: one who stays at the limit is not to keep
/// the store busy.
const REST: Duration = Duration::from_secs(1);
const RESTS: u32 = 4;

impl Bounded {
    /// The quota of all that is granted under `prefix`. What it counts stands at a
    /// key with a NUL, which a plugin can't name.
    pub fn quota(prefix: &str, values: Option<u64>, bytes: Option<u64>) -> Option<Quota> {
        if values.is_none() && bytes.is_none() {
            return None;
        }
        Some(Quota { ledger: format!("{prefix}\0quota"), values, bytes })
    }

    /// Waits for the turn of the first operation of a call, before the call takes an
    /// instance from those that others wait for.
    pub async fn wait(&self) {
        if self.rate.is_some() && !self.has_turn.load(Ordering::Relaxed) {
            self.turn().await;
            self.has_turn.store(true, Ordering::Relaxed);
        }
    }

    async fn turn(&self) {
        if let Some(rate) = &self.rate
            && !self.has_turn.swap(false, Ordering::Relaxed)
        {
            rate.turn().await;
        }
    }

    /// Makes room, if that was not just done: says whether it is worth another try.
    async fn reconcile_quota(&self, quota: &Quota) -> Result<bool, StorageError> {
        let Ok(mut settling) = self.settling.try_lock() else { return Ok(false) };
        if settling.rest.is_some_and(|(since, rest)| since.elapsed() < rest) {
            return Ok(false);
        }
        settling.rest = Some((Instant::now(), REST));
        let mut taken = Duration::ZERO;
        loop {
            self.turn().await;
            let start = Instant::now();
            settling.after = self.inner.reconcile_quota(quota, settling.after.clone()).await?;
            taken += start.elapsed();
            if settling.after.is_none() {
                settling.rest = Some((Instant::now(), taken.saturating_mul(RESTS).max(REST)));
                return Ok(true);
            }
        }
    }

    fn check(&self, batches: &[Batch]) -> Result<(), StorageError> {
        if self.read_only {
            return Err(refused(StorageReason::ReadOnly, "the bucket takes no writes".to_owned()));
        }
        let Some(limit) = self.value_bytes else { return Ok(()) };
        for operation in batches.iter().flat_map(|batch| &batch.operations) {
            if let Operation::Put(put) = operation
                && put.value.len() as u64 > limit
            {
                let size = put.value.len();
                let message = format!("a checkpoint of {size} bytes is larger than the {limit} it may have");
                return Err(refused(StorageReason::TooLarge, message));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Bounded {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.turn().await;
        self.inner.get(keys, max_value_bytes).await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.turn().await;
        self.inner.ttl(keys).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.turn().await;
        self.inner.range(query).await
    }

    async fn range_with_byte_limit(&self, query: Query, most: usize) -> Result<IndexPage, StorageError> {
        self.turn().await;
        self.inner.range_with_byte_limit(query, most).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.check(&batches)?;
        self.turn().await;
        let Some(quota) = &self.quota else { return self.inner.commit(batches).await };
        let full = match self.inner.commit_with_quota(quota, batches.clone()).await {
            Err(error) if error.reason == StorageReason::Full => error,
            answer => return answer,
        };
        // Expired ones may still be counted.
        let again = async {
            if !self.reconcile_quota(quota).await? {
                return Err(full.clone());
            }
            self.turn().await;
            self.inner.commit_with_quota(quota, batches).await
        };
        again.await.map_err(|error| match full.effect {
            Effect::None => error,
            Effect::Unknown => error.with_effect(Effect::Unknown),
        })
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        self.turn().await;
        self.inner.scan(prefix, after).await
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.inner.is_colocated(prefix)
    }
}

fn refused(reason: StorageReason, message: String) -> StorageError {
    StorageError::new(reason, Effect::None, message)
}

/// How often something may happen: whoever comes too early waits, in the order in
/// which they came.
///
/// It is the generic cell rate algorithm: each turn has a time that it is due at,
/// one interval after the one before; a turn may come up to a second early.
pub struct Rate {
    interval: Duration,
    /// When the last turn was due. Whoever is next holds it while waiting; one who
    /// gives up has taken no turn from those behind.
    due: Mutex<Instant>,
}

/// How much may come at once.
const BURST: Duration = Duration::from_secs(1);

impl Rate {
    /// So many times in a second, at least once.
    pub fn per_second(count: u32) -> Self {
        Self { interval: BURST / count.max(1), due: Mutex::new(Instant::now()) }
    }

    /// Returns when it is the caller's turn.
    async fn turn(&self) {
        let mut due = self.due.lock().await;
        // What was not used a second ago is lost.
        let at = (*due).max(Instant::now().checked_sub(BURST).unwrap_or(*due)) + self.interval;
        sleep_until(at).await;
        *due = at;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::store::{Put, SqliteStore};

    #[tokio::test(start_paused = true)]
    async fn a_seconds_worth_comes_at_once_and_the_rest_waits() {
        let rate = Rate::per_second(10);
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..10 {
            rate.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..5 {
            rate.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_give_up_cost_the_others_nothing() {
        let rate = Rate::per_second(10);
        rate.turn().await;
        let start = Instant::now();
        for _ in 0..10 {
            assert!(timeout(Duration::from_millis(5), rate.turn()).await.is_err());
        }
        rate.turn().await;
        assert_eq!(start.elapsed(), Duration::from_millis(100));
    }

    fn put(key: String, expiry: Expiry) -> Batch {
        let put = Operation::Put(Put { key, value: "1".to_owned(), expiry });
        Batch { conditions: Vec::new(), operations: vec![put] }
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_gives_up_while_room_is_made_leaves_it_to_the_next_to_go_on() {
        let quota = Bounded::quota("a/", Some(1100), None).expect("a quota");
        let store = SqliteStore::in_memory().await.expect("a database");
        // Those that expire are looked at last.
        let batches = (0..1100).map(|number| {
            let expiry = if number < 1000 { Expiry::Never } else { Expiry::AfterMs(1) };
            put(format!("a/{number:04}"), expiry)
        });
        store.commit_with_quota(&quota, batches.collect()).await.expect("room");
        std::thread::sleep(Duration::from_millis(10));
        let bounded = Bounded {
            inner: Arc::new(store),
            read_only: false,
            value_bytes: None,
            quota: Some(quota),
            settling: Arc::default(),
            has_turn: AtomicBool::new(false),
            rate: Some(Arc::new(Rate::per_second(1))),
        };
        tokio::time::advance(Duration::from_secs(60)).await;
        let commit = || {
            let commit = bounded.commit(vec![put("a/new".to_owned(), Expiry::Never)]);
            timeout(Duration::from_millis(2600), commit)
        };
        assert!(commit().await.is_err());
        assert_eq!(commit().await.expect("in time"), Ok(vec![true]));
    }
}
