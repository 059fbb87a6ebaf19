//! Sentinels, which know who is the master of some servers now, and choose another
//! one when it fails. They are asked before each connection to a master.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisError, TlsCertificates, cmd, make_extension_error,
};
use async_trait::async_trait;
use tracing::info;

use super::address::{Node, RedisAddress};
use super::client;
use super::connection::{
    Access, Answer, Connection, KeysPage, Persistence, Request, TRIES, before_sending, in_time,
};
use super::failure::{failure, is_lost, may_pass};
use super::latest::Latest;
use super::link::Link;
use super::replicas::{FEW_REPLICAS, NOT_SENT};
use super::scan::Place;
use super::vote::most_say;
use crate::store::StorageError;

/// The codes of the errors of a search.
pub(super) const NO_SENTINEL: &str = "NOSENTINEL";
pub(super) const NOT_LET_IN: &str = "NOTLETIN";
pub(super) const NOT_A_SENTINEL: &str = "NOTASENTINEL";
pub(super) const NO_SUCH_MASTER: &str = "NOSUCHMASTER";
pub(super) const NO_MASTER: &str = "NOMASTER";

/// The server that sentinels name, whoever that is.
pub struct Sentinels {
    search: Arc<Search>,
    master: Latest<Link>,
    /// How long a command is tried.
    patience: Duration,
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
        let search = Search { sentinels: sentinels?, name: name.to_owned(), tls, address: address.clone() };
        Ok(Self { search: Arc::new(search), master: Latest::new(calls_for_a_search), patience })
    }

    /// Does something over the link to the master, once.
    async fn try_once<T>(
        &self,
        persistence: &Persistence,
        action: impl AsyncFnOnce(&Link, Instant) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let step = self.patience / TRIES;
        let act = async |master: &Link| action(master, persistence.deadline(step)).await;
        self.master.with(persistence.deadline(step), || Arc::clone(&self.search).find(), act).await
    }
}

#[async_trait]
impl Connection for Sentinels {
    async fn send(&self, request: Request<'_>) -> Result<Answer, RedisError> {
        let mut persistence = Persistence::new(request.access, self.patience);
        loop {
            let run = async |master: &Link, deadline| master.run(&request, false, deadline).await;
            match self.try_once(&persistence, run).await {
                Ok(reply) => return Ok(Answer { reply, is_repeat: persistence.is_repeat() }),
                Err(error) => persistence.pause_after(error).await?,
            }
        }
    }

    async fn scan(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError> {
        let place = Place::read(after)?;
        let mut persistence = Persistence::new(Access::Read, self.patience);
        loop {
            let page = async |master: &Link, deadline| place.page(master, pattern, deadline).await;
            match self.try_once(&persistence, page).await {
                Ok(page) => return page,
                Err(error) => {
                    persistence.pause_after(error).await.map_err(|error| failure(error, Access::Read))?;
                }
            }
        }
    }
}

/// Whether another server may be the master, or this one can only be used over
/// another connection.
fn calls_for_a_search(error: &RedisError) -> bool {
    !matches!(error.code(), Some(FEW_REPLICAS | NOT_SENT)) && (is_lost(error) || may_pass(error))
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
    /// Asks the sentinels, and connects to the server that they name, if that
    /// takes itself for a master too.
    async fn find(self: Arc<Self>) -> Result<Link, RedisError> {
        let node = self.ask().await?;
        let connecting = async {
            let client = client(&self.address, &node, self.tls.clone())?;
            let patience = self.address.response_timeout / TRIES;
            let link = Link::connect(client, self.address.durability, patience).await?;
            if link.role().await? == "master" {
                return Ok(link);
            }
            Err(make_extension_error(NO_MASTER.to_owned(), None))
        };
        let link = before_sending(self.deadline(), connecting).await?;
        info!(name = self.name, %node, "found the master");
        Ok(link)
    }

    /// When either half of a search has to be done, so that both leave the time for
    /// other tries.
    fn deadline(&self) -> Instant {
        Instant::now() + self.address.connect_timeout.min(self.address.response_timeout / TRIES / 2)
    }

    /// Asks all sentinels at once where the master is. What most of them say
    /// counts: one that was away may not know yet that it is another server.
    async fn ask(&self) -> Result<Node, RedisError> {
        let deadline = self.deadline();
        let ask = |sentinel: &Client| in_time(deadline, ask(sentinel.clone(), self.name.clone()));
        most_say(self.sentinels.iter().map(ask), self.address.response_timeout, NO_SENTINEL).await
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
