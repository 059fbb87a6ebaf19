//! The implementations that are measured.
//!
//! - [`library`]: the library as it is released.
//! - [`native`]: the same logic without the sandbox.
//! - [`bare`]: the same Redis commands without any logic.
//! - [`python`]: savers for Python.
//! - [`plugin`]: an untrusted component that calls the library.

pub mod bare;
pub mod library;
pub mod native;
pub mod plugin;
pub mod python;
