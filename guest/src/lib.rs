//! The logic of the checkpointer: keys, indexes, expiry, retention and the format
//! of documents. It has no clock, and no I/O besides the [`keyvalue`] it is given.
//!
//! Built for `wasm32-unknown-unknown` it is the component of the world `component`
//! in `wit/`. Built natively it runs over any [`Keyvalue`]; tests and benchmarks use
//! it so.
//!
//! # Layout
//!
//! - [`operations`]: one file per operation. Start with `save.rs`.
//! - [`keys`]: the keys of documents and indexes.
//! - [`document`]: the stored text of a checkpoint, in format A and B.
//! - [`json`], [`Timestamp`], [`id`], [`compression`]: the parts of a document.
//! - [`keyvalue`]: the trait between this logic and a store.
//! - `component`: the exports of the component, in the wasm build only.

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

#[cfg(target_family = "wasm")]
mod component;

pub use bindings::flow::checkpoint::types::{
    Checkpoint, Conflict, DocumentDump, Error, History, HistoryQuery, IdConflict, Layout, Metadata,
    NamedValue, NewerCheckpoint, Options, RawHistory, Run, SaveOutcome, ScanEntry, ScanPage, SizeExcess, Ttl,
    TtlScope, Unreadable,
};
pub use checkpointer_timestamp::Timestamp;
pub use keyvalue::Keyvalue;
pub use operations::Checkpointer;
