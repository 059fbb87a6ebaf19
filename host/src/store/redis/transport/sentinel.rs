//! The search for the master that Sentinels name. They watch its servers, and promote a
//! replica when the master fails. They are asked before each connection to a master.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{AsyncConnectionConfig, Client, RedisError, cmd};
use tracing::info;

use super::connection::{Connector, NodeConnection};
use super::majority::majority;
use super::{connect_with_deadline, with_deadline};
use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::retry::RetryPolicy;
use crate::store::redis::url::{Node, RedisUrl};

/// Whether another server may be the master, or this one needs a new connection.
pub(crate) fn requires_rediscovery(error: &TransportError) -> bool {
    *error != TransportError::QueueTimeout && (error.invalidates_connection() || error.is_transient())
}

/// How the master is found.
pub(crate) struct MasterDiscovery {
    sentinels: Vec<(Node, Client)>,
    /// The name that the Sentinels know.
    master: String,
    connector: Connector,
    /// The time for each half of the discovery.
    connect_timeout: Duration,
    response_timeout: Duration,
}

impl MasterDiscovery {
    /// The master with this name. `sentinels` connects to the Sentinels, `connector` to the
    /// master.
    pub(crate) fn new(
        nodes: &[Node],
        master: &str,
        sentinels: &Connector,
        connector: Connector,
        url: &RedisUrl,
        policy: RetryPolicy,
    ) -> Result<Arc<Self>, RedisError> {
        let sentinels = nodes.iter().map(|node| Ok((node.clone(), sentinels.client(node)?)));
        Ok(Arc::new(Self {
            sentinels: sentinels.collect::<Result<_, RedisError>>()?,
            master: master.to_owned(),
            connector,
            connect_timeout: policy.discovery_timeout(url.connect_timeout),
            response_timeout: url.response_timeout,
        }))
    }

    /// Connects to the server that the Sentinels name, if it is a master by its own
    /// account too.
    pub(crate) async fn discover(self: Arc<Self>) -> Result<NodeConnection, TransportFailure> {
        let node = self.ask_sentinels().await?;
        let deadline = Instant::now() + self.connect_timeout;
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

    /// Asks all Sentinels for the master. The majority counts: a Sentinel that was down
    /// may not know of the last failover.
    async fn ask_sentinels(&self) -> Result<Node, TransportFailure> {
        let deadline = Instant::now() + self.connect_timeout;
        let answers = self.sentinels.iter().map(|(node, client)| {
            let (node, client, master) = (node.clone(), client.clone(), self.master.clone());
            async move {
                with_deadline(deadline, ask_sentinel(client, master))
                    .await
                    .map_err(|failure| failure.at(&node))
            }
        });
        majority(answers, self.response_timeout, TransportError::NoSentinel).await
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
