//! What the tests share.
//!
//! - [`contract`]: what every store and every way to run the checkpointer has
//!   to keep to, written once.
//! - [`checkpointer_under_test`]: the two ways to run it: as the component, and natively.
//! - [`native`]: the guest's logic over a host's store, without a sandbox.
//! - [`errors`]: errors of the store, in the form in which tests compare them.
//! - [`faulty`]: a store in which any call can be made to fail; [`paged`]: one
//!   that gives little at once; [`fake_cluster`]: one that is like many machines.
//! - [`names`]: where things stand, in both layouts.
//! - [`contents`]: all that a store holds.
//! - [`redis_server`]: a real server on a free port; [`acl`]: a user of it.
//! - [`redis_cluster`]: many of them as a cluster; [`sentinels`]: many of them that
//!   sentinels watch over.
//! - [`writers`]: tasks that save while something happens.
//! - [`proxy`]: a way to it that can fail.
//! - [`samples`]: checkpoints to save; [`plugins`]: plugins to run.
//! - [`chance`]: moments that nobody chose; [`eventually`](eventually::eventually): those to
//!   wait for.
//! - [`llmfy`]: the real one, to run beside.

pub mod acl;
pub mod chance;
pub mod checkpointer_under_test;
pub mod contents;
pub mod contract;
pub mod errors;
pub mod eventually;
pub mod fake_cluster;
pub mod faulty;
pub mod llmfy;
pub mod names;
pub mod native;
pub mod paged;
pub mod plugins;
pub mod proxy;
pub mod redis_cluster;
pub mod redis_server;
pub mod samples;
pub mod sentinels;
pub mod writers;
