//! The rate limit of a grant.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// The burst: permits for this much time are issued at once.
const BURST: Duration = Duration::from_secs(1);

/// Issues a number of permits per second, first come, first served.
///
/// This is the generic cell rate algorithm: each permit is due one interval after
/// the previous one, and is issued up to [`BURST`] earlier.
#[derive(Debug)]
pub(super) struct RateLimiter {
    interval: Duration,
    /// When the last issued permit was due. The first caller in the queue holds the
    /// lock while it waits; a caller that gives up has used no permit.
    due: Mutex<Instant>,
}

impl RateLimiter {
    /// A limiter that issues `count` permits per second, at least one.
    pub(super) fn per_second(count: u32) -> Self {
        Self { interval: BURST / count.max(1), due: Mutex::new(Instant::now()) }
    }

    /// Waits for a permit, and returns whether that took time.
    pub(super) async fn acquire(&self) -> bool {
        let start = Instant::now();
        let mut due = self.due.lock().await;
        // Permits that were not used within the burst are lost.
        let next = (*due).max(Instant::now().checked_sub(BURST).unwrap_or(*due)) + self.interval;
        sleep_until(next).await;
        *due = next;
        next > start
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_second_of_permits_is_issued_at_once() {
        let limiter = RateLimiter::per_second(10);
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..10 {
            assert!(!limiter.acquire().await);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..5 {
            assert!(limiter.acquire().await);
        }
        assert_eq!(start.elapsed(), Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_callers_use_no_permit() {
        let limiter = RateLimiter::per_second(10);
        limiter.acquire().await;
        let start = Instant::now();
        for _ in 0..10 {
            assert!(timeout(Duration::from_millis(5), limiter.acquire()).await.is_err());
        }
        limiter.acquire().await;
        assert_eq!(start.elapsed(), Duration::from_millis(100));
    }
}
