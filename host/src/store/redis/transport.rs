//! The transport of requests: to one server, to the master that Sentinels name, or to
//! a cluster.
//!
//! - `connection`: a connection to one node.
//! - `reconnecting`: a value that is re-established after it has been invalidated.
//! - `single_server`, `cluster`: the implementations of [`Transport`].
//! - `sentinel`: the search for the master.
//! - `scan_cursor`: the scan of the keys of one node.
//! - `majority`: one question to several nodes.
//! - `durability`: writes that wait for replicas or for disks.

mod cluster;
mod connection;
mod durability;
mod majority;
mod reconnecting;
mod scan_cursor;
mod sentinel;
mod single_server;

use std::time::Instant;

use ::redis::{Cmd, Value as Reply};
use async_trait::async_trait;

pub(crate) use self::cluster::Cluster;
pub(crate) use self::connection::Connector;
pub(crate) use self::scan_cursor::parse_numbers;
pub(crate) use self::sentinel::{MasterDiscovery, requires_rediscovery};
pub(crate) use self::single_server::SingleServer;
use super::error::{TransportError, TransportFailure};
use super::retry::Answer;
use crate::store::StorageError;

/// Whether a request may write, which decides the effect of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A command and its properties.
pub(crate) struct Request<'a> {
    pub(crate) command: &'a Cmd,
    /// One of its keys.
    pub(crate) key: Option<&'a str>,
    pub(crate) access: Access,
    /// Whether it reads keys that it does not declare.
    pub(crate) reads_undeclared_keys: bool,
    /// The same command with the text of its script, for a server that does not have
    /// the script.
    pub(crate) eval_fallback: Option<&'a (dyn Fn() -> Cmd + Send + Sync)>,
}

impl<'a> Request<'a> {
    /// A request that reads this key.
    pub(crate) fn read(command: &'a Cmd, key: &'a str) -> Self {
        let access = Access::Read;
        Self { command, key: Some(key), access, reads_undeclared_keys: false, eval_fallback: None }
    }
}

/// A page of a scan.
pub(crate) struct ScanPage {
    pub(crate) keys: Vec<Vec<u8>>,
    /// The cursor of the next page.
    pub(crate) next: Option<String>,
}

/// One or more servers that take requests.
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// Sends a request and returns the reply. An error reply is an error.
    async fn send(&self, request: Request<'_>) -> Result<Answer<Reply>, TransportFailure>;

    /// Returns a page of the keys that match a pattern.
    async fn scan(&self, pattern: &str, cursor: Option<&str>) -> Result<ScanPage, TransportFailure>;

    /// Whether all keys with this prefix can be in one request.
    fn is_colocated(&self, _prefix: &str) -> bool {
        true
    }

    /// Rejects keys that can't be in one request.
    fn check_slot(&self, _keys: &[&str]) -> Result<(), StorageError> {
        Ok(())
    }
}

/// Waits for a reply until the deadline.
async fn with_deadline<T, E: Into<TransportFailure>>(
    deadline: Instant,
    reply: impl Future<Output = Result<T, E>>,
) -> Result<T, TransportFailure> {
    match tokio::time::timeout_at(deadline.into(), reply).await {
        Ok(reply) => reply.map_err(Into::into),
        Err(_) => Err(TransportError::Timeout.into()),
    }
}

/// Waits until the deadline for a step before the request: no failure has an effect.
async fn connect_with_deadline<T, E: Into<TransportFailure>>(
    deadline: Instant,
    connection: impl Future<Output = Result<T, E>>,
) -> Result<T, TransportFailure> {
    with_deadline(deadline, connection).await.map_err(TransportFailure::before_request)
}
