//! The library, and the command line run as a process.
//!
//! - `checkpointer`: retries, close, clock.
//! - `session`: the typed session handle.
//! - `cli`: save, load, list, pin, delete, options, stores and exit status.
//! - `plugin`: the plugin commands.
//! - `copy`: the command `copy`.
//! - `crashes`: processes that are killed while they save.
//! - `program`: how the tests run the program.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]

mod checkpointer;
mod cli;
mod copy;
mod crashes;
mod plugin;
mod program;
mod session;
