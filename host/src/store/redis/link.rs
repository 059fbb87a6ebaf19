//! Connections to one server that do not come back by themselves: who had the keys
//! may have been replaced meanwhile, and does not know it yet. Whoever meets a failure
//! looks again for a server.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, Value as Reply, cmd,
    from_redis_value,
};
use tokio::sync::OnceCell;
use tracing::debug;

use super::address::Durability;
use super::connection::{Access, Request, before_sending, in_time};
use super::failure::is_without_script;
use super::latest::Passing;
use super::replicas::ReplicatedWrites;

/// A server, over one multiplexed connection, and another one for writes where
/// replicas are to have them.
pub struct Link {
    client: Client,
    configuration: AsyncConnectionConfig,
    connection: MultiplexedConnection,
    durability: Option<Durability>,
    /// How long an answer to a write may take, beside what it waits for.
    patience: Duration,
    replicated: OnceCell<ReplicatedWrites>,
    process: OnceCell<u64>,
    is_over: Arc<AtomicBool>,
}

impl Link {
    /// Connects to a server, for however long that takes. A write is answered within
    /// `patience`, or given up.
    pub async fn connect(
        client: Client,
        durability: Option<Durability>,
        patience: Duration,
    ) -> Result<Self, RedisError> {
        let is_over = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&is_over);
        // Whoever sends something sees to the time.
        let configuration = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    lost.store(true, Ordering::Release);
                }
                Ok::<(), RedisError>(())
            });
        let connection = client.get_multiplexed_async_connection_with_config(&configuration).await?;
        let (replicated, process) = (OnceCell::new(), OnceCell::new());
        Ok(Self { client, configuration, connection, durability, patience, replicated, process, is_over })
    }

    /// A number of the server's process, of which a connection never sees another one.
    /// It is of this link only, if the user may not ask for it.
    pub async fn process(&self, deadline: Instant) -> Result<u64, RedisError> {
        let ask = async || {
            let about: String = match self.ask(cmd("INFO").arg("server"), deadline).await {
                Ok(about) => from_redis_value(about)?,
                Err(error) if error.code().is_some() => {
                    debug!(%error, "the server does not say which process it is");
                    String::new()
                }
                Err(error) => return Err(error),
            };
            // 40 hexadecimal digits, new with each start.
            let id = about.lines().find_map(|line| line.strip_prefix("run_id:")?.get(..16));
            let number = id.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            // What the standard library seeds its maps with is random.
            Ok(number.unwrap_or_else(|| RandomState::new().hash_one(())))
        };
        self.process.get_or_try_init(ask).await.copied()
    }

    /// What the server takes itself for. It says that to every user, which it does not
    /// by `ROLE` and `INFO`.
    pub async fn role(&self) -> Result<String, RedisError> {
        let mut about: HashMap<String, Reply> =
            cmd("HELLO").query_async(&mut self.connection.clone()).await?;
        Ok(from_redis_value(about.remove("role").unwrap_or(Reply::Nil))?)
    }

    /// Asks what changes nothing.
    pub async fn ask(&self, question: &Cmd, deadline: Instant) -> Result<Reply, RedisError> {
        in_time(deadline, question.query_async(&mut self.connection.clone())).await
    }

    /// Sends a command once, or twice if the server does not have the script yet; in
    /// a cluster with the word `ASKING` if its slot is still being moved to this server.
    pub async fn run(
        &self,
        request: &Request<'_>,
        is_asking: bool,
        deadline: Instant,
    ) -> Result<Reply, RedisError> {
        match self.send(request.command, request.access, is_asking, deadline).await {
            Err(error)
                if is_without_script(&error)
                    && let Some(with_text) = request.with_text =>
            {
                self.send(&with_text(), request.access, is_asking, deadline).await
            }
            answer => answer,
        }
    }

    async fn send(
        &self,
        command: &Cmd,
        access: Access,
        is_asking: bool,
        deadline: Instant,
    ) -> Result<Reply, RedisError> {
        match self.durability {
            Some(durability) if access == Access::Write => {
                let replicated = before_sending(deadline, self.replicated(durability)).await?;
                replicated.send(command, is_asking, deadline).await
            }
            _ if is_asking => {
                let mut pipeline = Pipeline::new();
                pipeline.add_command(cmd("ASKING")).add_command(command.clone());
                let mut connection = self.connection.clone();
                let answer = connection.req_packed_commands(&pipeline, 1, 1);
                in_time(deadline, answer).await?.pop().unwrap_or(Reply::Nil).extract_error()
            }
            _ => self.ask(command, deadline).await,
        }
    }

    /// What writes go through that wait for replicas.
    async fn replicated(&self, durability: Durability) -> Result<&ReplicatedWrites, RedisError> {
        let connect = async || {
            let connecting = self.client.get_multiplexed_async_connection_with_config(&self.configuration);
            Ok(ReplicatedWrites::new(connecting.await?, durability, self.patience))
        };
        self.replicated.get_or_try_init(connect).await
    }
}

impl Passing for Link {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn give_up(&self, why: &dyn Display) {
        debug!(%why, "giving up the connections to a server");
        self.is_over.store(true, Ordering::Release);
    }
}
