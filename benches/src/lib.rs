//! How fast the checkpointer is, beside what else there is.
//!
//! - [`works`]: what is measured, a file for each group of rows, with the
//!   targets.
//! - [`contenders`]: who is measured, a file for each.
//! - [`statistics`]: how times become figures.
//! - [`mod@bench`]: what all works share: the server, the runtime, the progress.
//! - [`states`]: what is saved.
//! - [`recording`]: what the library sends to Redis.
//! - [`report`], [`plot`]: the figures, for people and for programs.
//! - [`scaling`]: what an operation costs as what is stored grows, for SCALING.md.

#![deny(missing_docs)]

pub mod bench;
pub mod contenders;
pub mod plot;
pub mod recording;
pub mod report;
pub mod scaling;
pub mod states;
pub mod statistics;
pub mod works;
