//! A single server.

use std::sync::Arc;

use ::redis::{Client, Value as Reply};
use async_trait::async_trait;

use super::connection::{Connector, NodeConnection};
use super::reconnecting::Reconnecting;
use super::scan_cursor::ScanCursor;
use super::{Access, Request, ScanPage, Transport};
use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::retry::{Answer, Attempt, RetryPolicy};

/// A single server, connected to on first use.
pub struct Standalone {
    connector: Arc<Connector>,
    client: Client,
    address: Arc<str>,
    connection: Reconnecting<NodeConnection>,
    policy: RetryPolicy,
}

impl Standalone {
    /// The server that `client` connects to, named `address` in errors. Nothing is sent
    /// yet.
    pub fn new(connector: Connector, client: Client, address: String, policy: RetryPolicy) -> Self {
        let connection = Reconnecting::new(TransportError::invalidates_connection);
        Self { connector: Arc::new(connector), client, address: address.into(), connection, policy }
    }

    async fn with_connection<T>(
        &self,
        attempt: Attempt,
        action: impl AsyncFnOnce(&NodeConnection) -> Result<T, TransportFailure>,
    ) -> Result<T, TransportFailure> {
        let deadline = attempt.connect_deadline();
        let connect = || {
            let (connector, client, address) =
                (Arc::clone(&self.connector), self.client.clone(), Arc::clone(&self.address));
            async move { connector.connect(client, address, deadline).await }
        };
        self.connection.with(deadline, connect, action).await
    }
}

#[async_trait]
impl Transport for Standalone {
    async fn send(&self, request: Request<'_>) -> Result<Answer<Reply>, TransportFailure> {
        let request = &request;
        let run = |attempt: Attempt| {
            self.with_connection(attempt, async move |connection| {
                connection.run(request, false, attempt.response_deadline()).await
            })
        };
        self.policy.run(request.access, run).await
    }

    async fn scan(&self, pattern: &str, cursor: Option<&str>) -> Result<ScanPage, TransportFailure> {
        let cursor = ScanCursor::parse(cursor)?;
        let scan = |attempt: Attempt| {
            self.with_connection(attempt, async move |connection| {
                cursor.page(connection, pattern, attempt.response_deadline()).await
            })
        };
        Ok(self.policy.run(Access::Read, scan).await?.reply)
    }
}
