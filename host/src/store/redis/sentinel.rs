//! Sentinels, which know who is the master of some servers now, and choose another
//! one when it fails.
//!
//! A master is asked for before each connection, and none comes back by itself: who
//! was the master may have been replaced meanwhile, and does not know it yet.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, PushInfo, PushKind, RedisError, TlsCertificates,
    Value as Reply, cmd, from_redis_value, make_extension_error,
};
use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tracing::{debug, info};

use super::address::{Node, RedisAddress};
use super::client;
use super::connection::{
    Access, Answer, Connection, KeysPage, Persistence, RESTARTS, Request, in_time, no_place, numbers,
    scan_command,
};
use super::failure::{classify, failure, is_without_script, stays};
use super::replicas::{FEW_REPLICAS, ReplicatedWrites};
use crate::store::{Effect, StorageError, StorageReason, storage_error};

/// How many tries fit into the time for an answer: a server that hangs uses up one.
const TRIES: u32 = 3;

/// The codes of the errors of a search.
pub(super) const NO_SENTINEL: &str = "NOSENTINEL";
pub(super) const NOT_LET_IN: &str = "NOTLETIN";
pub(super) const NOT_A_SENTINEL: &str = "NOTASENTINEL";
pub(super) const NO_SUCH_MASTER: &str = "NOSUCHMASTER";
pub(super) const NO_MASTER: &str = "NOMASTER";

/// The server that sentinels name, whoever that is.
pub struct Sentinels {
    search: Search,
    /// The latest search, which all who need a master await, and what came of it.
    found: Mutex<Arc<OnceCell<Result<Master, RedisError>>>>,
    /// How long a command is tried.
    patience: Duration,
    /// How long a write may wait for replicas.
    waiting: Duration,
}

impl Sentinels {
    /// Gets ready; nothing is sent yet. The user and the password are for the
    /// sentinels, those of `address` for the server.
    pub fn new(
        nodes: &[Node],
        name: &str,
        user: Option<&String>,
        password: Option<&String>,
        tls: Option<TlsCertificates>,
        address: &RedisAddress,
    ) -> Result<Self, RedisError> {
        let address_of_sentinels =
            RedisAddress { user: user.cloned(), password: password.cloned(), database: 0, ..address.clone() };
        let sentinels: Result<Vec<_>, _> =
            nodes.iter().map(|node| client(&address_of_sentinels, node, tls.clone())).collect();
        let patience = address.response_timeout;
        // After the writes before it, which wait together, it waits itself.
        let waiting = address.durability.map_or(Duration::ZERO, |durability| durability.timeout * 2);
        let search = Search { sentinels: sentinels?, name: name.to_owned(), tls, address: address.clone() };
        Ok(Self { search, found: Mutex::default(), patience, waiting })
    }

    /// The latest search, or a new one if what that found is of no use any more.
    fn latest_search(&self) -> Arc<OnceCell<Result<Master, RedisError>>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match found.get() {
            None => {}
            Some(Ok(master)) if !master.is_over() => {}
            Some(_) => *found = Arc::default(),
        }
        Arc::clone(&found)
    }

    /// Waits for the time of another try, after one over what a search found.
    async fn pause_after(
        &self,
        error: RedisError,
        found: &OnceCell<Result<Master, RedisError>>,
        persistence: &mut Persistence,
    ) -> Result<(), RedisError> {
        if let Some(Ok(master)) = found.get()
            && calls_for_a_search(&error)
        {
            debug!(%error, "giving up a master");
            master.is_over.store(true, Ordering::Release);
        }
        persistence.pause_after(error).await
    }

    /// Sends a command to the master once, or twice if it does not have the script
    /// yet.
    async fn try_to_run(
        &self,
        found: &OnceCell<Result<Master, RedisError>>,
        request: &Request<'_>,
    ) -> Result<Reply, RedisError> {
        let master = self.search.master(found).await?;
        let waiting = if request.access == Access::Write { self.waiting } else { Duration::ZERO };
        let limit = self.patience / TRIES + waiting;
        match in_time(limit, master.send(request.command, request.access)).await {
            Err(error)
                if is_without_script(&error)
                    && let Some(with_text) = request.with_text =>
            {
                in_time(limit, master.send(&with_text(), request.access)).await
            }
            answer => answer,
        }
    }
}

#[async_trait]
impl Connection for Sentinels {
    async fn send(&self, request: Request<'_>) -> Result<Answer, RedisError> {
        let mut persistence = Persistence::new(request.access, self.patience);
        loop {
            let found = self.latest_search();
            match self.try_to_run(&found, &request).await {
                Ok(reply) => return Ok(Answer { reply, is_repeat: persistence.is_repeat() }),
                Err(error) => self.pause_after(error, &found, &mut persistence).await?,
            }
        }
    }

    async fn scan(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError> {
        let place = after.map(Place::read).transpose()?.unwrap_or_default();
        let mut persistence = Persistence::new(Access::Read, self.patience);
        loop {
            let found = self.latest_search();
            let page = async {
                let master = self.search.master(&found).await?;
                let place = place.at(master.number);
                let command = scan_command(place.cursor, pattern);
                let reply = in_time(self.patience / TRIES, master.send(&command, Access::Read)).await?;
                Ok::<(_, (u64, Vec<Vec<u8>>)), RedisError>((place, from_redis_value(reply)?))
            };
            match page.await {
                Ok((place, _)) if place.restarts > RESTARTS => {
                    let message = "the store keeps changing its master; try again when that is done";
                    return Err(storage_error(StorageReason::Unavailable, Effect::None, message));
                }
                Ok((place, (cursor, keys))) => {
                    let next = (cursor != 0).then(|| Place { cursor, ..place }.to_string());
                    return Ok(KeysPage { keys, next });
                }
                Err(error) => {
                    let paused = self.pause_after(error, &found, &mut persistence).await;
                    paused.map_err(|error| failure(error, Access::Read))?;
                }
            }
        }
    }
}

/// Whether another server may be the master, or this one can only be used over
/// another connection.
fn calls_for_a_search(error: &RedisError) -> bool {
    match error.code() {
        Some(FEW_REPLICAS) => false,
        Some("READONLY") => true,
        _ => {
            let reason = classify(error, Access::Read).reason;
            stays(error) || matches!(reason, StorageReason::Unavailable | StorageReason::Timeout)
        }
    }
}

/// How a master is searched for.
struct Search {
    sentinels: Vec<Client>,
    /// What the sentinels call the master.
    name: String,
    tls: Option<TlsCertificates>,
    /// For the master, but for where that is.
    address: RedisAddress,
}

impl Search {
    /// The master, by a search that many wait for and one does.
    async fn master<'a>(
        &self,
        found: &'a OnceCell<Result<Master, RedisError>>,
    ) -> Result<&'a Master, RedisError> {
        found.get_or_init(|| self.find()).await.as_ref().map_err(RedisError::clone)
    }

    /// Asks the sentinels, and connects to the server that they name, if that
    /// takes itself for a master too.
    async fn find(&self) -> Result<Master, RedisError> {
        let node = self.ask().await?;
        let connecting = in_time(self.limit(), Master::connect(&self.address, &node, self.tls.clone()));
        match connecting.await {
            Ok(master) => {
                info!(name = self.name, %node, "found the master");
                Ok(master)
            }
            // Nothing was asked of the server yet, so nothing is unknown.
            Err(error) if classify(&error, Access::Write).effect == Effect::Unknown => {
                debug!(%error, %node, "can't connect to the master");
                Err(io::Error::from(io::ErrorKind::ConnectionRefused).into())
            }
            Err(error) => Err(error),
        }
    }

    /// How long either half of a search may take, so that both leave the time for
    /// other tries.
    fn limit(&self) -> Duration {
        self.address.connect_timeout.min(self.address.response_timeout / TRIES / 2)
    }

    /// Asks all sentinels at once where the master is. What most of them say
    /// counts: one that was away may not know yet that it is another server.
    async fn ask(&self) -> Result<Node, RedisError> {
        let mut answers = JoinSet::new();
        for sentinel in &self.sentinels {
            answers.spawn(in_time(self.limit(), ask(sentinel.clone(), self.name.clone())));
        }
        let mut named: Vec<(Node, usize)> = Vec::new();
        let mut fault = make_extension_error(NO_SENTINEL.to_owned(), None);
        while let Some(answer) = answers.join_next().await {
            match answer {
                Ok(Ok(node)) => {
                    let place = named.iter().position(|(other, _)| *other == node).unwrap_or(named.len());
                    if place == named.len() {
                        named.push((node, 0));
                    }
                    named[place].1 += 1;
                    if named[place].1 * 2 > self.sentinels.len() {
                        break;
                    }
                }
                Ok(Err(error)) => {
                    debug!(name = self.name, %error, "a sentinel does not say where the master is");
                    let is_out_of_reach = error.is_connection_refusal()
                        || classify(&error, Access::Write).effect == Effect::Unknown;
                    // Whoever answers knows more than those who don't.
                    if !is_out_of_reach {
                        fault = error;
                    } else if fault.code() == Some(NO_SENTINEL) {
                        fault = make_extension_error(NO_SENTINEL.to_owned(), Some(error.to_string()));
                    }
                }
                Err(_) => {}
            }
        }
        named.into_iter().max_by_key(|(_, count)| *count).map(|(node, _)| node).ok_or(fault)
    }
}

/// Asks a sentinel where the master of this name is.
/// <https://redis.io/docs/latest/develop/reference/sentinel-clients/>
async fn ask(sentinel: Client, name: String) -> Result<Node, RedisError> {
    let fault = |code: &str| make_extension_error(code.to_owned(), None);
    let refused = |error: RedisError| match error.code() {
        Some("NOAUTH" | "WRONGPASS") => fault(NOT_LET_IN),
        None if error.kind() == ErrorKind::AuthenticationFailed => fault(NOT_LET_IN),
        Some("ERR") => fault(NOT_A_SENTINEL),
        _ => error,
    };
    // Whoever asks sees to the time.
    let patient = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let mut connection =
        sentinel.get_multiplexed_async_connection_with_config(&patient).await.map_err(refused)?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let named: Option<(String, u16)> = question.query_async(&mut connection).await.map_err(refused)?;
    let (host, port) = named.ok_or_else(|| fault(NO_SUCH_MASTER))?;
    Ok(Node { host, port })
}

/// A master, over connections that do not come back.
struct Master {
    connection: MultiplexedConnection,
    /// Another connection for writes, where replicas are to have them.
    replicated: Option<ReplicatedWrites>,
    /// Tells these connections from those to others, or to the same server when it
    /// comes back with other places of its keys.
    number: u64,
    /// Whether a connection was lost, or shows that another search is needed.
    is_over: Arc<AtomicBool>,
}

impl Master {
    async fn connect(
        address: &RedisAddress,
        node: &Node,
        tls: Option<TlsCertificates>,
    ) -> Result<Self, RedisError> {
        let client = client(address, node, tls)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&is_over);
        // Whoever sends something sees to the time.
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    lost.store(true, Ordering::Release);
                }
                Ok::<(), RedisError>(())
            });
        let connect = async || {
            let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await?;
            // It says its role to every user, which ROLE and INFO don't.
            let about: HashMap<String, Reply> = cmd("HELLO").query_async(&mut connection).await?;
            let role: Option<String> = about.get("role").cloned().map(from_redis_value).transpose()?;
            if role.as_deref() == Some("master") {
                return Ok(connection);
            }
            Err(make_extension_error(NO_MASTER.to_owned(), None))
        };
        let connection = connect().await?;
        let replicated = match address.durability {
            Some(durability) => Some(ReplicatedWrites::new(connect().await?, || None, durability)),
            None => None,
        };
        // What the standard library seeds its maps with is random.
        let number = RandomState::new().hash_one(());
        Ok(Self { connection, replicated, number, is_over })
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    async fn send(&self, command: &Cmd, access: Access) -> Result<Reply, RedisError> {
        match (&self.replicated, access) {
            (Some(replicated), Access::Write) => replicated.send(command).await,
            _ => command.query_async(&mut self.connection.clone()).await,
        }
    }
}

/// How far a scan has come.
#[derive(Clone, Copy, Default)]
struct Place {
    cursor: u64,
    /// The number of the master that said so.
    master: u64,
    restarts: u32,
}

impl Place {
    fn read(text: &str) -> Result<Self, StorageError> {
        let [cursor, master, restarts] = numbers(text)?;
        Ok(Self { cursor, master, restarts: u32::try_from(restarts).map_err(|_| no_place())? })
    }

    /// The same over a master: where another one went on means nothing to it.
    fn at(self, master: u64) -> Self {
        if self.cursor == 0 || self.master == master {
            return Self { master, ..self };
        }
        debug!("the master is another one, so the scan begins again");
        Self { cursor: 0, master, restarts: self.restarts.saturating_add(1) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cursor, master, restarts } = self;
        write!(formatter, "{cursor}.{master}.{restarts}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_goes_on_at_the_same_master_and_begins_again_at_another() {
        let place = Place::default().at(7);
        assert_eq!(place.to_string(), "0.7.0");
        let place = Place { cursor: u64::MAX, ..place };
        let again = Place::read(&place.to_string()).expect("a place");
        assert_eq!(again.at(7).to_string(), "18446744073709551615.7.0");
        assert_eq!(again.at(8).to_string(), "0.8.1");
        for text in ["", "17", "1.2", "1.2.x", "1.2.4294967296"] {
            assert!(Place::read(text).is_err(), "{text}");
        }
    }
}
