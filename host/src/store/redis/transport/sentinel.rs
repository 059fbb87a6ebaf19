//! The master that Sentinels name. They watch its servers, and promote a replica when
//! the master fails. They are asked before each connection to a master.

use std::sync::Arc;
use std::time::Instant;

use ::redis::{AsyncConnectionConfig, Client, RedisError, Value as Reply, cmd};
use async_trait::async_trait;
use tracing::info;

use super::connection::{Connector, NodeConnection};
use super::majority::majority;
use super::reconnecting::Reconnecting;
use super::scan_cursor::ScanCursor;
use super::{Access, Request, ScanPage, Transport, connect_with_deadline, with_deadline};
use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::retry::{Answer, Attempt, RetryPolicy};
use crate::store::redis::url::{Node, RedisUrl};

/// The master that Sentinels name.
pub struct Sentinel {
    discovery: Arc<MasterDiscovery>,
    master: Reconnecting<NodeConnection>,
    policy: RetryPolicy,
}

impl Sentinel {
    /// The master with this name. `sentinels` connects to the Sentinels, `connector` to
    /// the master. Nothing is sent yet.
    pub fn new(
        nodes: &[Node],
        master: &str,
        sentinels: &Connector,
        connector: Connector,
        url: &RedisUrl,
        policy: RetryPolicy,
    ) -> Result<Self, RedisError> {
        let sentinels = nodes.iter().map(|node| Ok((node.clone(), sentinels.client(node)?)));
        let discovery = MasterDiscovery {
            sentinels: sentinels.collect::<Result<_, RedisError>>()?,
            master: master.to_owned(),
            connector,
            url: url.clone(),
            policy,
        };
        Ok(Self { discovery: Arc::new(discovery), master: Reconnecting::new(requires_rediscovery), policy })
    }

    async fn with_master<T>(
        &self,
        attempt: Attempt,
        action: impl AsyncFnOnce(&NodeConnection) -> Result<T, TransportFailure>,
    ) -> Result<T, TransportFailure> {
        let discover = || Arc::clone(&self.discovery).discover();
        self.master.with(attempt.connect_deadline(), discover, action).await
    }
}

#[async_trait]
impl Transport for Sentinel {
    async fn send(&self, request: Request<'_>) -> Result<Answer<Reply>, TransportFailure> {
        let request = &request;
        let run = |attempt: Attempt| {
            self.with_master(attempt, async move |master| {
                master.run(request, false, attempt.response_deadline()).await
            })
        };
        self.policy.run(request.access, run).await
    }

    async fn scan(&self, pattern: &str, cursor: Option<&str>) -> Result<ScanPage, TransportFailure> {
        let cursor = ScanCursor::parse(cursor)?;
        let scan = |attempt: Attempt| {
            self.with_master(attempt, async move |master| {
                cursor.page(master, pattern, attempt.response_deadline()).await
            })
        };
        Ok(self.policy.run(Access::Read, scan).await?.reply)
    }
}

/// Whether another server may be the master, or this one needs a new connection.
fn requires_rediscovery(error: &TransportError) -> bool {
    *error != TransportError::QueueTimeout && (error.invalidates_connection() || error.is_transient())
}

/// How the master is found.
struct MasterDiscovery {
    sentinels: Vec<(Node, Client)>,
    /// The name that the Sentinels know.
    master: String,
    connector: Connector,
    url: RedisUrl,
    policy: RetryPolicy,
}

impl MasterDiscovery {
    /// Connects to the server that the Sentinels name, if it is a master by its own
    /// account too.
    async fn discover(self: Arc<Self>) -> Result<NodeConnection, TransportFailure> {
        let node = self.ask_sentinels().await?;
        let deadline = self.deadline();
        let connecting = async {
            let connection = self
                .connector
                .connect(self.connector.client(&node)?, node.to_string().into(), deadline)
                .await?;
            match connection.role(deadline).await?.as_str() {
                "master" => Ok(connection),
                _ => Err(TransportFailure::from(TransportError::NoMaster)),
            }
        };
        let connection =
            connect_with_deadline(deadline, connecting).await.map_err(|failure| failure.at(&node))?;
        info!(master = self.master, %node, "found the master");
        Ok(connection)
    }

    /// When a half of the discovery that begins now must be done.
    fn deadline(&self) -> Instant {
        Instant::now() + self.policy.discovery_timeout(self.url.connect_timeout)
    }

    /// Asks all Sentinels for the master. The majority counts: a Sentinel that was down
    /// may not know of the last failover.
    async fn ask_sentinels(&self) -> Result<Node, TransportFailure> {
        let deadline = self.deadline();
        let answers = self.sentinels.iter().map(|(node, client)| {
            let (node, client, master) = (node.clone(), client.clone(), self.master.clone());
            async move {
                with_deadline(deadline, ask_sentinel(client, master))
                    .await
                    .map_err(|failure| failure.at(&node))
            }
        });
        majority(answers, self.url.response_timeout, TransportError::NoSentinel).await
    }
}

/// Asks a Sentinel for the master with this name.
/// <https://redis.io/docs/latest/develop/reference/sentinel-clients/>
async fn ask_sentinel(client: Client, master: String) -> Result<Node, TransportFailure> {
    let asking = async {
        let configuration =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&configuration).await?;
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        question.query_async::<Option<(String, u16)>>(&mut connection).await
    };
    match asking.await.map_err(TransportFailure::from) {
        Ok(Some((host, port))) => Ok(Node { host, port }),
        Ok(None) => Err(TransportError::UnknownMaster.into()),
        Err(failure) => Err(match &failure.error {
            TransportError::AuthenticationFailed => {
                failure.with_error(TransportError::SentinelAuthenticationFailed)
            }
            TransportError::Server(code) if code == "ERR" => failure.with_error(TransportError::NotASentinel),
            _ => failure,
        }),
    }
}
