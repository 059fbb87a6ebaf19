//! Saves the state of agents and workflows after every step, loads the latest
//! state, lists the history, and lets checkpoints expire. The store is SQLite or
//! Redis. The logic is a sandboxed WebAssembly component, which is a part of this
//! library.
//!
//! A *session* is one conversation or workflow, a *run* is one call that advances
//! it, and a *checkpoint* is the state after one step.
//!
//! A [`Session`] has states of a Rust type, and makes ids and timestamps:
//!
//! ```
//! # #[cfg(feature = "serde")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use checkpointer::Checkpointer;
//!
//! let checkpointer = Checkpointer::open("memory:").await?;
//! let session = checkpointer.session::<Vec<String>>("session-1");
//! session.step("plan", |messages| messages.push("book a flight".to_owned())).await?;
//! let latest = session.latest().await?.expect("a step");
//! assert_eq!(latest.state, ["book a flight"]);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "serde"))]
//! # fn main() {}
//! ```
//!
//! [`Checkpointer`] has all operations, with states as JSON text:
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
//! # Features
//!
//! All are enabled by default.
//!
//! - `serde`: [`Session`], and serde's traits on the types of checkpoints.
//! - `plugins`: the module `plugin`.
//! - `cli`: the command line; not needed by a library.
//!
//! # Layout
//!
//! - [`Checkpointer`]: the operations of `checkpointer.wit` for Rust applications.
//! - [`Session`]: typed states over these operations.
//! - [`keyvalue`]: the component's import, for hosts that run components themselves.
//! - `plugin`: the import `checkpointer`, for hosts that run plugins.
//! - [`store`]: the stores behind the import: SQLite and Redis.
//! - `component`: the compiled component and its pool of instances.

#![deny(missing_docs)]
#![warn(missing_debug_implementations, unreachable_pub)]

#[allow(missing_docs, unreachable_pub, unused_qualifications)]
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
#[cfg(feature = "serde")]
mod session;
pub mod store;
mod types;

/// The version of wasmtime that this library uses.
pub use wasmtime;

pub use checkpointer::{Checkpointer, CheckpointerBuilder, DEFAULT_PREFIX};
pub use checkpointer_timestamp::{ParseTimestampError, Timestamp};
pub use component::COMPONENT;
pub use error::{Error, StorageError};
pub use retry::Retry;
#[cfg(feature = "serde")]
pub use session::{Session, Step};
pub use types::{
    Checkpoint, Conflict, DocumentDump, Effect, ExtraMember, History, HistoryQuery, Layout, Metadata,
    RawHistory, Run, SaveOutcome, ScanEntry, ScanPage, StorageReason, Unreadable,
};

/// Compiles the Rust of README.md.
#[cfg(all(doctest, feature = "plugins", feature = "serde"))]
#[doc = include_str!("../../README.md")]
struct Readme;
