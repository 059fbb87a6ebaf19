//! All tests of the checkpointer and its stores but the long ones, which are in
//! `long`. One binary, so that wasmtime is linked once.

mod acl;
mod cluster;
mod component;
mod contract;
mod failures;
mod faults;
mod golden;
mod hostile;
mod interface;
mod killed_server;
mod languages;
mod llmfy;
mod model;
mod plugins;
mod promises;
mod replicas;
mod round_trips;
mod sentinel;
mod tls;
