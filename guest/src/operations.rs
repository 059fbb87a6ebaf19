//! The operations of a [`Checkpointer`]. Start with `save.rs`.
//!
//! - `checkpointer`: opens one.
//! - `call`: the access of one call to the bucket, and the effect of its failure.
//! - `save`, `restore`: write a checkpoint. Each feature adds its part to the
//!   commit in its own file: `compare_and_save`, `retention`, `ttl`, `pin`.
//! - `latest`, `load`, `list`, `scan`: find checkpoints.
//! - `delete`, `clear`: delete them.
//! - `stored`: the kinds of values at the key of a document.
//! - `dangling`: removes index entries without a document.

mod call;
mod checkpointer;
mod clear;
mod compare_and_save;
mod dangling;
mod delete;
mod latest;
mod list;
mod load;
mod pin;
mod restore;
mod retention;
mod save;
mod scan;
mod stored;
mod ttl;

pub use checkpointer::Checkpointer;

/// The number of bytes of a document to read if only its owner is needed. With
/// ids of usual length the owner is in the first 200 bytes.
const HEAD: u32 = 1024;

/// The number of checkpoints to change in one commit. With two round trips per
/// page, 300 keeps the sum below 1 + n/100 for n checkpoints from 100 on, and a
/// commit does not block the store for long.
const PAGE: u32 = 300;

/// The number of attempts of an operation. An attempt fails because of a concurrent
/// change.
const ATTEMPTS: usize = 16;
