//! Random durations.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

/// A random number of milliseconds within the range.
pub fn milliseconds(range: Range<u64>) -> Duration {
    // The standard library seeds its hash maps randomly.
    let random = RandomState::new().hash_one(());
    Duration::from_millis(range.start + random % (range.end - range.start))
}
