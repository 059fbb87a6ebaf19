//! The connections to the nodes of a cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::transport::connection::{Connector, NodeConnection};
use crate::store::redis::transport::reconnecting::Reconnecting;
use crate::store::redis::url::Node;

/// A connection to each node, established on first use.
pub(crate) struct ConnectionPool {
    connector: Arc<Connector>,
    connect_timeout: Duration,
    connections: Mutex<HashMap<Node, Arc<Reconnecting<NodeConnection>>>>,
}

impl ConnectionPool {
    pub(crate) fn new(connector: Connector, connect_timeout: Duration) -> Self {
        Self { connector: Arc::new(connector), connect_timeout, connections: Mutex::default() }
    }

    /// Runs `action` with the connection to a node, which must be established until
    /// `deadline`.
    pub(crate) async fn with<T>(
        &self,
        node: &Node,
        deadline: Instant,
        action: impl AsyncFnOnce(&NodeConnection) -> Result<T, TransportFailure>,
    ) -> Result<T, TransportFailure> {
        let connection = {
            let mut connections = self.connections.lock();
            match connections.get(node) {
                Some(connection) => Arc::clone(connection),
                None => {
                    let connection = Arc::new(Reconnecting::new(TransportError::invalidates_connection));
                    connections.insert(node.clone(), Arc::clone(&connection));
                    connection
                }
            }
        };
        let connect = || {
            let (connector, node) = (Arc::clone(&self.connector), node.clone());
            let deadline = Instant::now() + self.connect_timeout;
            async move { connector.connect(connector.client(&node)?, node.to_string().into(), deadline).await }
        };
        connection.with(deadline, connect, action).await.map_err(|failure| failure.at(node))
    }

    /// Removes the connections to other nodes.
    pub(crate) fn retain(&self, is_kept: impl Fn(&Node) -> bool) {
        self.connections.lock().retain(|node, _| is_kept(node));
    }
}
