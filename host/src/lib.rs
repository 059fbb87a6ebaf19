//! Checkpoints of agents and workflows: save the state after every step, resume
//! from the latest, look back through the history, let it expire. Over SQLite
//! or Redis, with the same logic as everywhere else: it runs as a sandboxed
//! WebAssembly component that is part of this library.
//!
//! ```
//! use checkpointer::{Checkpoint, Checkpointer, Metadata};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let checkpointer = Checkpointer::open("memory:").await?;
//! let metadata = Metadata::new("session-1", "checkpoint-1", "2026-01-02T03:04:05Z");
//! checkpointer.save(&Checkpoint { metadata, state: r#"{"turn": 1}"#.into() }).await?;
//! let latest = checkpointer.load("session-1", None).await?;
//! assert_eq!(latest.map(|checkpoint| checkpoint.state).as_deref(), Some(r#"{"turn": 1}"#));
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! - [`Checkpointer`]: what a Rust application uses. Its methods are those of
//!   `wit/checkpointer.wit`.
//! - [`keyvalue`]: the component's one import, for hosts that run components of
//!   their own.
//! - `plugin`: the import `checkpointer`, for hosts that run other people's
//!   components (feature `plugins`).
//! - [`store`]: where things are kept; a file for each kind.
//! - `component`: the compiled component, and instances of it ready for a call.

#![deny(missing_docs)]

#[allow(missing_docs, unused_qualifications)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "component",
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
pub mod store;

pub use bindings::exports::flow::checkpoint::checkpointer::{
    Checkpoint, Conflict, Documents, Excess, History, Layout, Listed, Listing, Metadata, Outcome, Run, Taken,
    Unreadable,
};
pub use checkpointer::{Builder, Checkpointer, DEFAULT_PREFIX};
pub use component::{COMPILED, COMPONENT};
pub use error::Error;
