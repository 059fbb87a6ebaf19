//! A single server: a fixed one, or the master that Sentinels name.

use std::pin::Pin;

use ::redis::Value as Reply;
use async_trait::async_trait;

use super::connection::NodeConnection;
use super::reconnecting::Reconnecting;
use super::scan_cursor::ScanCursor;
use super::{Access, Request, ScanPage, Transport};
use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::retry::{Answer, Attempt, RetryPolicy};

/// A single server, connected to on first use.
pub(crate) struct SingleServer {
    connect: Box<dyn Fn() -> ConnectFuture + Send + Sync>,
    connection: Reconnecting<NodeConnection>,
    policy: RetryPolicy,
}

type ConnectFuture = Pin<Box<dyn Future<Output = Result<NodeConnection, TransportFailure>> + Send>>;

impl SingleServer {
    /// The server that `connect` finds and connects to, again after each error for which
    /// `invalidates` holds. Nothing is sent yet.
    pub(crate) fn new<F: Future<Output = Result<NodeConnection, TransportFailure>> + Send + 'static>(
        connect: impl Fn() -> F + Send + Sync + 'static,
        invalidates: fn(&TransportError) -> bool,
        policy: RetryPolicy,
    ) -> Self {
        let connect = Box::new(move || Box::pin(connect()) as ConnectFuture);
        Self { connect, connection: Reconnecting::new(invalidates), policy }
    }
}

#[async_trait]
impl Transport for SingleServer {
    async fn send(&self, request: Request<'_>) -> Result<Answer<Reply>, TransportFailure> {
        let request = &request;
        let run = |attempt: Attempt| {
            self.connection.with(attempt.connect_deadline(), &self.connect, async move |connection| {
                connection.run(request, false, attempt.response_deadline()).await
            })
        };
        self.policy.run(request.access, run).await
    }

    async fn scan(&self, pattern: &str, cursor: Option<&str>) -> Result<ScanPage, TransportFailure> {
        let cursor = ScanCursor::parse(cursor)?;
        let scan = |attempt: Attempt| {
            self.connection.with(attempt.connect_deadline(), &self.connect, async move |connection| {
                cursor.page(connection, pattern, attempt.response_deadline()).await
            })
        };
        Ok(self.policy.run(Access::Read, scan).await?.reply)
    }
}
