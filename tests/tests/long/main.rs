//! The tests that take minutes: load, a million checkpoints, ten thousand runs of
//! plugins. They run if `CHECKPOINTER_LONG_TESTS` is 1, as `.ci/run` sets it.
//!
//! They measure, so each one runs alone.

mod load;
mod plugin_runs;

use std::{env, fs};

use checkpointer_tests::long_tests;
use tokio::sync::{Mutex, MutexGuard};

/// Waits until no other long test runs. None if the long tests are not requested.
async fn turn() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    let what = "tests/tests/long (load, a million checkpoints, ten thousand runs of plugins)";
    if long_tests::are_requested(what) { Some(ALONE.lock().await) } else { None }
}

/// A number from an environment variable.
fn from_environment(name: &str, default: u32) -> u32 {
    env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// The resident memory of this process.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1024
}
