//! What the tests share.
//!
//! - [`contract`]: what every store and every way to run the checkpointer has
//!   to keep to, written once.
//! - [`subject`]: the two ways to run it: as the component, and natively.
//! - [`native`]: the guest's logic over a host's store, without a sandbox.
//! - [`redis_server`]: a real server on a free port.
//! - [`proxy`]: a way to it that can fail.
//! - [`samples`]: checkpoints to save.
//! - [`chance`]: moments that nobody chose.
//! - [`llmfy`]: the real one, to run beside.

pub mod chance;
pub mod contract;
pub mod llmfy;
pub mod native;
pub mod proxy;
pub mod redis_server;
pub mod samples;
pub mod subject;
