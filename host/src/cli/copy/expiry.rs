//! The expiry of a checkpoint, comparable between stores.

use std::time::{Duration, Instant};

/// How far apart the expiries of equal checkpoints may be. A TTL starts when the
/// store receives the write, up to `response_timeout` (10 seconds by default)
/// after it was computed. The clocks of two machines drift less than this per day.
const TOLERANCE: Duration = Duration::from_secs(10);

/// The shortest TTL that a store accepts.
const MIN_TTL: Duration = Duration::from_millis(1);

/// A remaining TTL, and when it was measured.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    /// None if the checkpoint does not expire.
    expires_in: Option<Duration>,
    measured_at: Instant,
}

impl Expiry {
    pub fn now(expires_in: Option<Duration>) -> Self {
        Self { expires_in, measured_at: Instant::now() }
    }

    pub fn is_never(self) -> bool {
        self.expires_in.is_none()
    }

    /// The remaining TTL, at least [`MIN_TTL`]; none if the checkpoint does not
    /// expire.
    pub fn ttl(self) -> Option<Duration> {
        Some(self.expires_in?.saturating_sub(self.measured_at.elapsed()).max(MIN_TTL))
    }

    /// Whether both expire at about the same time, or never.
    pub fn approx_eq(self, other: Self) -> bool {
        match (self.ttl(), other.ttl()) {
            (Some(ttl), Some(other)) => ttl.abs_diff(other) <= TOLERANCE,
            (ttl, other) => ttl == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiry(expires_in: Option<u64>, seconds_ago: u64) -> Expiry {
        let measured_at = Instant::now().checked_sub(Duration::from_secs(seconds_ago)).expect("an instant");
        Expiry { expires_in: expires_in.map(Duration::from_secs), measured_at }
    }

    #[test]
    fn expiries_are_equal_within_the_tolerance_at_any_time_of_measurement() {
        for (one, other, expected) in [
            (expiry(None, 0), expiry(None, 100), true),
            (expiry(None, 0), expiry(Some(u64::MAX), 0), false),
            (expiry(Some(100), 0), expiry(Some(109), 0), true),
            (expiry(Some(100), 0), expiry(Some(111), 0), false),
            (expiry(Some(100), 0), expiry(Some(200), 100), true),
            (expiry(Some(100), 0), expiry(Some(100), 11), false),
            (expiry(Some(5), 100), expiry(Some(9), 0), true),
        ] {
            assert_eq!(one.approx_eq(other), expected, "{one:?} {other:?}");
            assert_eq!(other.approx_eq(one), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn ttl_decreases_and_is_never_zero() {
        assert_eq!(expiry(None, 5).ttl(), None);
        let ttl = expiry(Some(100), 40).ttl().expect("a TTL");
        assert!(ttl <= Duration::from_secs(60) && ttl > Duration::from_secs(50), "{ttl:?}");
        assert_eq!(expiry(Some(100), 200).ttl(), Some(MIN_TTL));
    }
}
