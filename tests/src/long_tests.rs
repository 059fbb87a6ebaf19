//! The tests that take minutes.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, Write};
use std::sync::Mutex;

/// The tests of failovers and migrations, for [`are_requested`].
pub const FAILOVERS: &str = "failovers of clusters and Sentinels, and slot migrations";

/// Whether the long tests run: `CHECKPOINTER_LONG_TESTS` is 1, as `.ci/run` sets
/// it. Otherwise prints once that `tests` are not run.
pub fn are_requested(tests: &'static str) -> bool {
    static REPORTED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let is_requested = env::var_os("CHECKPOINTER_LONG_TESTS").is_some_and(|value| value == "1");
    if !is_requested && REPORTED.lock().expect("no panic").insert(tests) {
        let line = format!("NOT RUN: {tests}; set CHECKPOINTER_LONG_TESTS=1\n");
        // Not with println!, which the test harness captures.
        io::stderr().write_all(line.as_bytes()).expect("printed");
    }
    is_requested
}
