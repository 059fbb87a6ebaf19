//! Connections to one node. They never reconnect on their own: after a failover the old
//! server may still accept writes, so callers must find the master again first.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, TlsCertificates, Value as Reply, cmd,
    from_redis_value,
};
use tokio::sync::OnceCell;
use tracing::debug;

use super::durability::DurableWriter;
use super::reconnecting::Invalidate;
use super::single_server::SingleServer;
use super::{Access, Request, connect_with_deadline, with_deadline};
use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::retry::RetryPolicy;
use crate::store::redis::url::{Durability, Node, RedisUrl};

/// How to connect to the nodes of a store.
#[derive(Clone)]
pub(crate) struct Connector {
    settings: RedisConnectionInfo,
    /// None without TLS.
    certificates: Option<TlsCertificates>,
    durability: Option<Durability>,
    connect_timeout: Duration,
    /// How long a server may take to answer a write.
    response_timeout: Duration,
}

impl Connector {
    pub(crate) fn new(url: &RedisUrl, certificates: Option<TlsCertificates>, policy: RetryPolicy) -> Self {
        // With RESP3 a connection notices that it is closed while it is idle. To name the
        // client library would need a permission.
        let mut settings = RedisConnectionInfo::default()
            .set_skip_set_lib_name()
            .set_db(i64::from(url.database))
            .set_protocol(ProtocolVersion::RESP3);
        if let Some(user) = &url.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &url.password {
            settings = settings.set_password(password);
        }
        Self {
            settings,
            certificates,
            durability: url.durability,
            connect_timeout: url.connect_timeout,
            response_timeout: policy.response_timeout(),
        }
    }

    /// A client for a server.
    pub(crate) fn client(&self, node: &Node) -> Result<Client, RedisError> {
        let (host, port) = (node.host.clone(), node.port);
        let Some(certificates) = &self.certificates else {
            return Client::open(self.information(ConnectionAddr::Tcp(host, port))?);
        };
        // Has no effect if the application has installed a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
        Client::build_with_tls(self.information(address)?, certificates.clone())
    }

    /// A client for a server with a Unix socket.
    pub(crate) fn unix_client(&self, socket: &Path) -> Result<Client, RedisError> {
        Client::open(self.information(ConnectionAddr::Unix(socket.to_owned()))?)
    }

    fn information(&self, address: ConnectionAddr) -> Result<ConnectionInfo, RedisError> {
        Ok(address.into_connection_info()?.set_redis_settings(self.settings.clone()))
    }

    /// The server that `client` connects to. `node` names it in errors.
    pub(crate) fn single_server(self, client: Client, node: Arc<str>, policy: RetryPolicy) -> SingleServer {
        let connector = Arc::new(self);
        let connect = move || {
            let (connector, client, node) = (Arc::clone(&connector), client.clone(), Arc::clone(&node));
            let deadline = Instant::now() + connector.connect_timeout;
            async move { connector.connect(client, node, deadline).await }
        };
        SingleServer::new(connect, TransportError::invalidates_connection, policy)
    }

    /// Connects to a server until `deadline`. `node` names it in errors.
    pub(crate) async fn connect(
        &self,
        client: Client,
        node: Arc<str>,
        deadline: Instant,
    ) -> Result<NodeConnection, TransportFailure> {
        let is_invalid = Arc::new(AtomicBool::new(false));
        let connection = connect_with_deadline(deadline, connect(&client, &is_invalid)).await;
        Ok(NodeConnection {
            connection: connection.map_err(|failure| failure.at(&node))?,
            node,
            client,
            durability: self.durability,
            response_timeout: self.response_timeout,
            writer: OnceCell::new(),
            run_id: OnceCell::new(),
            is_invalid,
        })
    }
}

/// One multiplexed connection to a server, and another one for writes that wait for
/// replicas or disks.
pub(crate) struct NodeConnection {
    node: Arc<str>,
    client: Client,
    connection: MultiplexedConnection,
    durability: Option<Durability>,
    response_timeout: Duration,
    writer: OnceCell<DurableWriter>,
    run_id: OnceCell<u64>,
    is_invalid: Arc<AtomicBool>,
}

impl NodeConnection {
    /// The server's `run_id`, constant for a connection; a random number if the user may
    /// not call INFO.
    pub(crate) async fn server_run_id(&self, deadline: Instant) -> Result<u64, TransportFailure> {
        let ask = async || {
            let information: String = match self.ask(cmd("INFO").arg("server"), deadline).await {
                Ok(reply) => from_redis_value(reply)?,
                Err(failure) if failure.error.invalidates_connection() => return Err(failure),
                Err(failure) => {
                    debug!(%failure, "the run_id of the server is unknown");
                    String::new()
                }
            };
            // 40 hexadecimal digits, new with each start.
            let run_id = information.lines().find_map(|line| line.strip_prefix("run_id:")?.get(..16));
            let number = run_id.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            Ok(number.unwrap_or_else(|| RandomState::new().hash_one(())))
        };
        self.run_id.get_or_try_init(ask).await.copied()
    }

    /// The role of the server. Unlike `ROLE` and `INFO`, `HELLO` needs no permission.
    pub(crate) async fn role(&self, deadline: Instant) -> Result<String, TransportFailure> {
        let mut properties: HashMap<String, Reply> =
            from_redis_value(self.ask(&cmd("HELLO"), deadline).await?)?;
        Ok(from_redis_value(properties.remove("role").unwrap_or(Reply::Nil))?)
    }

    /// Sends a command that changes nothing.
    pub(crate) async fn ask(&self, command: &Cmd, deadline: Instant) -> Result<Reply, TransportFailure> {
        let reply = with_deadline(deadline, command.query_async(&mut self.connection.clone())).await;
        reply.map_err(|failure| failure.at(&self.node))
    }

    /// Sends a request once, or twice if the server does not have the script. With
    /// `asking` it is preceded by `ASKING`, as the target of an ASK redirect requires.
    pub(crate) async fn run(
        &self,
        request: &Request<'_>,
        asking: bool,
        deadline: Instant,
    ) -> Result<Reply, TransportFailure> {
        let reply =
            match (self.send(request.command, request.access, asking, deadline).await, request.eval_fallback)
            {
                (Err(failure), Some(eval)) if failure.error == TransportError::NoScript => {
                    self.send(&eval(), request.access, asking, deadline).await
                }
                (reply, _) => reply,
            };
        reply.map_err(|failure| failure.at(&self.node))
    }

    async fn send(
        &self,
        command: &Cmd,
        access: Access,
        asking: bool,
        deadline: Instant,
    ) -> Result<Reply, TransportFailure> {
        match self.durability {
            Some(durability) if access == Access::Write => {
                let writer = connect_with_deadline(deadline, self.writer(durability)).await?;
                writer.send(command, asking, deadline).await
            }
            _ if asking => {
                let mut pipeline = Pipeline::new();
                pipeline.add_command(cmd("ASKING")).add_command(command.clone());
                let mut connection = self.connection.clone();
                let replies = with_deadline(deadline, connection.req_packed_commands(&pipeline, 1, 1)).await;
                Ok(replies?.pop().unwrap_or(Reply::Nil).extract_error()?)
            }
            _ => self.ask(command, deadline).await,
        }
    }

    async fn writer(&self, durability: Durability) -> Result<&DurableWriter, TransportFailure> {
        let connect = async || {
            let connection = connect(&self.client, &self.is_invalid).await?;
            Ok(DurableWriter::new(connection, durability, self.response_timeout))
        };
        self.writer.get_or_try_init(connect).await
    }
}

impl Invalidate for NodeConnection {
    fn is_invalid(&self) -> bool {
        self.is_invalid.load(Ordering::Acquire)
    }

    fn invalidate(&self, reason: &dyn Display) {
        debug!(node = %self.node, %reason, "invalidating the connections to a server");
        self.is_invalid.store(true, Ordering::Release);
    }
}

/// Connects without timeouts of its own: each caller has a deadline. `is_invalid` is set
/// when the connection ends.
async fn connect(client: &Client, is_invalid: &Arc<AtomicBool>) -> Result<MultiplexedConnection, RedisError> {
    let driver = DriverGuard(Arc::clone(is_invalid));
    let configuration = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(move |_: PushInfo| {
            let _ = &driver;
            Ok::<(), RedisError>(())
        });
    client.get_multiplexed_async_connection_with_config(&configuration).await
}

/// Owned by the task that drives a connection, which drops it when the server closes
/// the connection, and when the runtime of the task is shut down.
struct DriverGuard(Arc<AtomicBool>);

impl Drop for DriverGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
