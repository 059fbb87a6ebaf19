//! Who is measured.
//!
//! - [`component`]: the library as it is shipped.
//! - [`native`]: the same logic without the sandbox.
//! - [`bare`]: the same commands without any logic.
//! - [`python`]: what there is for Python.
//! - [`plugin`]: a component of somebody else that calls the library.

pub mod bare;
pub mod component;
pub mod native;
pub mod plugin;
pub mod python;
