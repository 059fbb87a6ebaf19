//! The clock that decides what has expired.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// A clock for tests. It starts at the system's time and moves only when it is
/// advanced. Clones share their time.
///
/// ```
/// use std::time::Duration;
/// use checkpointer::store::{ManualClock, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = ManualClock::new();
/// let store = SqliteStore::in_memory_with_clock(clock.clone()).await?;
/// clock.advance(Duration::from_hours(1));
/// # let _ = store;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: Arc<Mutex<SystemTime>>,
}

impl ManualClock {
    /// A clock that starts at the system's time.
    pub fn new() -> Self {
        Self { now: Arc::new(Mutex::new(SystemTime::now())) }
    }

    /// The time of the clock.
    pub fn now(&self) -> SystemTime {
        *self.now.lock()
    }

    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        *self.now.lock() += duration;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

/// The clock of a store.
#[derive(Clone, Debug)]
pub(super) enum Clock {
    System,
    Manual(ManualClock),
}

impl Clock {
    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> i64 {
        let now = match self {
            Self::System => SystemTime::now(),
            Self::Manual(clock) => clock.now(),
        };
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }
}
