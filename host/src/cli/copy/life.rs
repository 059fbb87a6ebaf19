//! How long a checkpoint has to live, learned by the way: no answer of a
//! checkpointer says so, but its store can be asked when it reads or writes one.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use checkpointer::Error;
use checkpointer::store::{
    Batch, Expiry, IndexPage, KeyPage, Operation, Put, Query, StorageError, Store, Value,
};

/// How far apart two lives may end that are taken for the same. What is written
/// lives from when the store gets it, which is no later than it may answer, 10
/// seconds unless said otherwise. Two clocks are not as far apart in a day.
const TOLERANCE: Duration = Duration::from_secs(10);

/// What a life that is over comes to: none can be shorter.
const SHORTEST: Duration = Duration::from_millis(1);

tokio::task_local! {
    /// The life of what was read or written last.
    static LAST: Cell<Option<Life>>;
}

/// How long something had to live at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// No end, if none.
    left: Option<Duration>,
    at: Instant,
}

impl Life {
    fn now(expiry: Expiry) -> Self {
        let left = match expiry {
            Expiry::Never => None,
            Expiry::AfterMs(milliseconds) => Some(Duration::from_millis(milliseconds)),
        };
        Self { left, at: Instant::now() }
    }

    pub fn has_end(self) -> bool {
        self.left.is_some()
    }

    /// How long it has to live now, at least a millisecond; no end, if none.
    pub fn left(self) -> Option<Duration> {
        Some(self.left?.saturating_sub(self.at.elapsed()).max(SHORTEST))
    }

    /// Whether both end at about the same time, or never.
    pub fn is_about(self, other: Self) -> bool {
        match (self.left(), other.left()) {
            (Some(left), Some(of_other)) => left.abs_diff(of_other) <= TOLERANCE,
            (left, of_other) => left == of_other,
        }
    }
}

/// What a call of a checkpointer gives, with the life of the checkpoint that it
/// read or wrote. The checkpointer has to be one over a [`Watched`] store.
pub async fn with_life<T>(call: impl Future<Output = Result<T, Error>>) -> Result<(T, Option<Life>), Error> {
    LAST.scope(Cell::new(None), async { Ok((call.await?, LAST.with(Cell::get))) }).await
}

/// A store that tells [`with_life`] how long things live.
pub struct Watched(pub Arc<dyn Store>);

#[async_trait]
impl Store for Watched {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        if LAST.try_with(|_| ()).is_err() {
            return self.0.get(keys, max_value_bytes).await;
        }
        let lives = async {
            let lives = self.0.ttl(keys.clone()).await?;
            // Now, and not when it was asked: the store may have tried for a while. It
            // is asked first, so that the answer does not come behind a large value.
            Ok(lives.first().copied().flatten().map(Life::now))
        };
        let (life, values) = tokio::try_join!(biased; lives, self.0.get(keys.clone(), max_value_bytes))?;
        LAST.with(|last| last.set(life));
        Ok(values)
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        let put = match batches.first().and_then(|batch| batch.operations.first()) {
            Some(Operation::Put(Put { expiry, .. })) => Some(*expiry),
            _ => None,
        };
        let applied = self.0.commit(batches).await?;
        if applied.first() == Some(&true) {
            // Nobody asks, where it fails.
            let _ = LAST.try_with(|last| last.set(put.map(Life::now)));
        }
        Ok(applied)
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.0.ttl(keys).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.0.range(query).await
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        self.0.scan(prefix, after).await
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.0.is_colocated(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(seconds: Option<u64>, seconds_ago: u64) -> Life {
        let at = Instant::now().checked_sub(Duration::from_secs(seconds_ago)).expect("a moment");
        Life { left: seconds.map(Duration::from_secs), at }
    }

    #[test]
    fn lives_are_the_same_that_end_at_about_the_same_time_whenever_they_were_seen() {
        for (one, other, expected) in [
            (life(None, 0), life(None, 100), true),
            (life(None, 0), life(Some(u64::MAX), 0), false),
            (life(Some(100), 0), life(Some(109), 0), true),
            (life(Some(100), 0), life(Some(111), 0), false),
            (life(Some(100), 0), life(Some(200), 100), true),
            (life(Some(100), 0), life(Some(100), 11), false),
            (life(Some(5), 100), life(Some(9), 0), true),
        ] {
            assert_eq!(one.is_about(other), expected, "{one:?} {other:?}");
            assert_eq!(other.is_about(one), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn what_is_left_gets_less_and_is_never_nothing() {
        assert_eq!(life(None, 5).left(), None);
        let left = life(Some(100), 40).left().expect("an end");
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
        assert_eq!(life(Some(100), 200).left(), Some(SHORTEST));
    }
}
