//! Saves the state of agents and workflows after every step, loads the latest
//! one, lists the history, and lets checkpoints expire; over SQLite or Redis. The
//! logic runs in a sandboxed WebAssembly component that is part of this library.
//!
//! A *session* is one conversation or workflow, a *run* is one call that advances
//! it, and a *checkpoint* is the state after one step.
//!
//! ```
//! use checkpointer::{Checkpoint, Checkpointer, Metadata, Run};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let checkpointer = Checkpointer::open("memory:").await?;
//! let metadata = Metadata::new("session-1", "checkpoint-1").run(Run::new("run-1"));
//! checkpointer.save(Checkpoint::new(metadata, r#"{"turn": 1}"#)).await?;
//! let latest = checkpointer.latest("session-1").await?.expect("a checkpoint");
//! assert_eq!(latest.state, r#"{"turn": 1}"#);
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! - [`Checkpointer`]: the operations of `checkpointer.wit` for Rust applications.
//! - [`keyvalue`]: the component's import, for hosts that run components of their
//!   own.
//! - `plugin`: the import `checkpointer`, for hosts that run plugins (feature
//!   `plugins`).
//! - [`store`]: the stores behind the import: SQLite and Redis.
//! - `component`: the compiled component and its pool of instances.

#![deny(missing_docs)]

#[allow(missing_docs, unused_qualifications)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "flow:checkpoint/component",
        imports: { default: async | trappable },
        exports: { default: async },
        with: { "flow:checkpoint/keyvalue.bucket": crate::keyvalue::Bucket },
        additional_derives: [PartialEq],
    });
}

mod checkpointer;
mod component;
mod error;
pub mod keyvalue;
#[cfg(feature = "plugins")]
pub mod plugin;
mod retry;
pub mod store;
mod types;

pub use wasmtime;

pub use checkpointer::{Checkpointer, CheckpointerBuilder, DEFAULT_PREFIX};
pub use checkpointer_timestamp::{ParseTimestampError, Timestamp};
pub use component::COMPONENT;
pub use error::{Error, StorageError};
pub use retry::Retry;
pub use types::{
    Checkpoint, Conflict, DocumentDump, Effect, ExtraMember, History, HistoryQuery, Layout, Metadata, RawHistory,
    Run, SaveOutcome, ScanEntry, ScanPage, StorageReason, Unreadable,
};
