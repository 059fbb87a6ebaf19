//! Code that the tests and benchmarks share.
//!
//! - [`contract`]: the promises of every store and of the checkpointer, as
//!   functions.
//! - [`checkpointer_under_test`]: the checkpointer in both modes, as the
//!   component and native.
//! - [`native`]: the logic of the guest over a store of the host, without a
//!   sandbox, and the conversions between the types of both.
//! - [`errors`]: errors of the store, in the form in which tests compare them.
//! - [`faulty`]: a store in which any call can fail; [`paged`]: a store with
//!   small pages; [`fake_cluster`]: a store with the restrictions of a cluster.
//! - [`names`]: the names of keys in both layouts.
//! - [`contents`]: all keys of a store with their values.
//! - [`redis_server`]: a real server on a free port; [`acl`]: its user with the
//!   permissions of README.md.
//! - [`redis_cluster`]: a real cluster; [`sentinels`]: real servers with
//!   Sentinels.
//! - [`proxy`]: a proxy before a server, with faults.
//! - [`writers`]: tasks that save concurrently.
//! - [`samples`]: checkpoints; [`plugins`]: plugins.
//! - [`random`]: random durations; [`eventually`](eventually::eventually): waits
//!   for a condition.
//! - [`long_tests`]: whether the tests that take minutes run.
//! - [`llmfy`]: the real llmfy.

pub mod acl;
pub mod checkpointer_under_test;
pub mod contents;
pub mod contract;
pub mod errors;
pub mod eventually;
pub mod fake_cluster;
pub mod faulty;
pub mod llmfy;
pub mod long_tests;
pub mod names;
pub mod native;
pub mod paged;
pub mod plugins;
pub mod proxy;
pub mod random;
pub mod redis_cluster;
pub mod redis_server;
pub mod samples;
pub mod sentinels;
pub mod writers;
