//! The checkpointer: which keys exist, how they are named, indexed, aged and
//! removed, and what a stored document looks like. All of it is here and only
//! here; it has no clock and no I/O but the [`keyvalue`] it is given.
//!
//! Built for `wasm32-unknown-unknown` it is the component of the world
//! `component` in `wit/`. Built natively it is the same logic over any
//! [`Keyvalue`], which is how tests and benches reach it without a sandbox.
//!
//! # Layout
//!
//! - [`operations`]: one file for each thing that a caller can ask for. Start
//!   with `save.rs`.
//! - [`keys`]: the names of values and indexes.
//! - [`document`]: the stored text of a checkpoint, in both of llmfy's
//!   generations.
//! - [`json`], [`timestamp`], [`id`], [`compression`]: the rules of what stands
//!   in a document.
//! - [`keyvalue`]: the one trait between this logic and a store.
//! - `component`: what a WebAssembly host sees, in the wasm build only.

#![deny(missing_docs)]

#[allow(missing_docs, clippy::panic, unused_qualifications)]
mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "flow:checkpoint/component",
        additional_derives: [PartialEq],
        pub_export_macro: false,
    });
}

pub mod compression;
pub mod document;
pub mod id;
pub mod json;
pub mod keys;
pub mod keyvalue;
pub mod operations;
pub mod timestamp;

#[cfg(target_family = "wasm")]
mod component;

pub use bindings::flow::checkpoint::types::{
    Checkpoint, Conflict, DocumentDump, Error, History, HistoryQuery, IdConflict, Layout, Metadata, NamedValue,
    NewerCheckpoint, Options, RawHistory, Run, SaveOutcome, ScanEntry, ScanPage, SizeExcess, Ttl, TtlScope, Unreadable,
};
pub use keyvalue::Keyvalue;
pub use operations::Checkpointer;
