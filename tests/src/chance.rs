//! Chance, for moments that nobody chose.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

/// A time of so many milliseconds, another one each time.
pub fn milliseconds(range: Range<u64>) -> Duration {
    // What the standard library seeds its maps with is random.
    let random = RandomState::new().hash_one(());
    Duration::from_millis(range.start + random % (range.end - range.start))
}
