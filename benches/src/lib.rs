//! Benchmarks of the checkpointer.
//!
//! - [`benchmarks`]: the benchmarks with their targets, one file per group of
//!   rows.
//! - [`subjects`]: the implementations that are measured, one file each.
//! - [`statistics`]: times, and the figures made of them.
//! - [`mod@bench`]: the server, the runtime and the progress bar that the
//!   benchmarks share.
//! - [`states`]: the checkpoints that are saved.
//! - [`recording`]: a recorder of the commands that the library sends to Redis.
//! - [`report`], [`plot`]: the results as a table, as JSON and as a plot.
//! - [`scaling`]: the cost of operations as the stored data grows, for SCALING.md.

#![deny(missing_docs)]

pub mod bench;
pub mod benchmarks;
pub mod plot;
pub mod recording;
pub mod report;
pub mod scaling;
pub mod states;
pub mod statistics;
pub mod subjects;
