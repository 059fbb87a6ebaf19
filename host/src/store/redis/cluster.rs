//! A Redis Cluster: each key is in one of 16,384 slots, each slot with one of the
//! masters, and both slots and masters may change at any time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::{
    MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr,
};
use ::redis::{
    Cmd, ErrorKind, Pipeline, ProtocolVersion, RedisError, ServerErrorKind, TlsCertificates, Value as Reply,
    cmd, from_redis_value, make_extension_error,
};
use async_trait::async_trait;
use tokio::sync::Mutex;
use tracing::debug;

use super::address::{Durability, Node, RedisAddress};
use super::connection::{
    Access, Answer, Connection, KeysPage, Persistence, RESTARTS, Request, in_time, no_place, numbers,
    scan_command,
};
use super::connection_info;
use super::failure::{failure, is_without_script};
use super::replicas::FEW_REPLICAS;
use crate::store::{Effect, StorageError, StorageReason, storage_error};

/// How many tries fit into the time for an answer. A server that hangs takes up
/// three: one to see it, and two until the client knows of another master.
const TRIES: u32 = 5;

/// How long a scan that begins again waits at the most for slots to have moved.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// The masters of a cluster, and who has which slots.
pub struct Cluster {
    connection: Renewable,
    /// Another one for writes that wait for replicas, since nothing else goes on
    /// meanwhile over such a connection.
    durable: Option<(Renewable, Durability)>,
    /// Whether the masters let this user wait, which an ACL may forbid: then nothing is
    /// to be written.
    may_wait: AtomicBool,
    /// How long a command is tried.
    patience: Duration,
    /// Who has which slots, as last asked for.
    slots: std::sync::Mutex<Arc<Slots>>,
}

/// Connections to all servers of a cluster.
struct Renewable {
    client: ClusterClient,
    /// None until they are needed.
    current: Mutex<Option<Arc<ClusterConnection>>>,
}

impl Renewable {
    fn new(client: ClusterClient) -> Self {
        Self { client, current: Mutex::default() }
    }

    /// The connections that there are, or new ones. Whoever else needs them waits for
    /// the same.
    async fn current(&self) -> Result<Arc<ClusterConnection>, RedisError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &*current {
            return Ok(Arc::clone(connection));
        }
        let new = Arc::new(self.client.get_async_connection().await?);
        *current = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Gives them up, so that new ones find out who is there now: of a server that
    /// does not answer, the client does not ask whether another one has taken over.
    async fn renew(&self, used: &Arc<ClusterConnection>) {
        let mut current = self.current.lock().await;
        // Somebody else may have been quicker.
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, used)) {
            debug!("giving up the connections to a cluster");
            *current = None;
        }
    }

    /// Does something over the current connections, no longer than `limit`.
    async fn with<T>(
        &self,
        limit: Duration,
        action: impl AsyncFnOnce(ClusterConnection) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let used = in_time(limit, self.current()).await?;
        let answer = in_time(limit, action(ClusterConnection::clone(&used))).await;
        if answer.as_ref().is_err_and(RedisError::is_timeout) {
            self.renew(&used).await;
        }
        answer
    }
}

impl Cluster {
    /// Gets ready within a tokio runtime; nothing is sent yet.
    pub fn new(
        nodes: &[Node],
        tls: Option<TlsCertificates>,
        address: &RedisAddress,
    ) -> Result<Self, RedisError> {
        let nodes: Result<Vec<_>, _> = nodes.iter().map(|node| connection_info(address, node)).collect();
        let patience = address.response_timeout;
        let connections = |response_timeout: Duration| {
            let mut builder = ClusterClient::builder(nodes.clone()?)
                // A command that is sent again has to be known of here.
                .retries(0)
                .use_protocol(ProtocolVersion::RESP3)
                .connection_timeout(address.connect_timeout.min(patience / TRIES))
                .response_timeout(response_timeout);
            if let Some(tls) = tls.clone() {
                builder = builder.certs(tls);
            }
            Ok::<_, RedisError>(Renewable::new(builder.build()?))
        };
        let durable = address.durability.map(|durability| {
            Ok::<_, RedisError>((connections(patience / TRIES + durability.timeout)?, durability))
        });
        Ok(Self {
            connection: connections(patience / TRIES)?,
            durable: durable.transpose()?,
            may_wait: AtomicBool::new(false),
            patience,
            slots: std::sync::Mutex::default(),
        })
    }

    /// Sends a command once, to whoever has its slot.
    async fn try_to_send(&self, command: &Cmd, request: &Request<'_>) -> Result<Reply, RedisError> {
        let slot = request.key.map(Slot::for_key);
        let route = slot.map_or(SingleNodeRoutingInfo::RandomPrimary, to_master_of);
        let durable = self.durable.as_ref().filter(|_| request.access == Access::Write);
        let (connection, durability) = match durable {
            Some((connection, durability)) => (connection, Some(*durability)),
            None => (&self.connection, None),
        };
        let limit = self.patience + durability.map_or(Duration::ZERO, |it| it.timeout);
        if let Some(durability) = durability
            && !self.may_wait.load(Ordering::Relaxed)
        {
            let tried =
                connection.with(limit, async |it| send(it, None, &durability.trial(), route.clone()).await);
            self.may_wait.store(Durability::tried(tried.await)?, Ordering::Relaxed);
        }
        let answer = connection.with(limit, async |it| send(it, durability, command, route).await).await;
        // A permission may have been taken away, or another master may not have it.
        if answer.as_ref().is_err_and(|error| error.code() == Some(FEW_REPLICAS)) {
            self.may_wait.store(false, Ordering::Relaxed);
        }
        match answer {
            // Whoever a slot is moved to has some of its keys, and would say of the
            // others that there is nothing.
            Err(error) if is_asking(&error) && !request.reads_unnamed => {
                connection.with(limit, async |it| ask(it, durability, command, error).await).await
            }
            answer => answer,
        }
    }

    /// The same, but for the script that a server may not have yet.
    async fn try_to_run(&self, request: &Request<'_>) -> Result<Reply, RedisError> {
        match self.try_to_send(request.command, request).await {
            Err(error)
                if is_without_script(&error)
                    && let Some(with_text) = request.with_text =>
            {
                self.try_to_send(&with_text(), request).await
            }
            answer => answer,
        }
    }

    /// Asks all masters which slots they have.
    async fn ask_for_slots(&self) -> Result<Arc<Slots>, StorageError> {
        let mut persistence = Persistence::new(Access::Read, self.patience);
        loop {
            let error = match self.try_to_ask_for_slots().await {
                Ok(slots) => {
                    let slots = Arc::new(slots);
                    *self.slots.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&slots);
                    return Ok(slots);
                }
                Err(error) => error,
            };
            persistence.pause_after(error).await.map_err(|error| failure(error, Access::Read))?;
        }
    }

    async fn try_to_ask_for_slots(&self) -> Result<Slots, RedisError> {
        let used = self.connection.current().await?;
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let command = cmd("CLUSTER").arg("NODES").clone();
        let answer = self.connection.with(self.patience, async |mut it| it.route_command(command, all).await);
        let answers: Vec<(String, String)> = from_redis_value(answer.await?.extract_error()?)?;
        if let Some(slots) = Slots::read(&answers) {
            return Ok(slots);
        }
        // The client leaves out whom it is not connected to, and may not know of a
        // new master yet.
        self.connection.renew(&used).await;
        Err(make_extension_error("CLUSTERDOWN".to_owned(), Some("not all masters are known".to_owned())))
    }

    /// A step of the scan of one master.
    async fn scan_master(
        &self,
        (host, port): &(String, u16),
        command: &Cmd,
    ) -> Result<(u64, Vec<Vec<u8>>), StorageError> {
        let mut persistence = Persistence::new(Access::Read, self.patience);
        loop {
            let to_master = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
            let (command, route) = (command.clone(), RoutingInfo::SingleNode(to_master));
            let answer =
                self.connection.with(self.patience, async |mut it| it.route_command(command, route).await);
            let read = answer.await.and_then(Reply::extract_error).map(from_redis_value);
            match read {
                Ok(Ok(page)) => return Ok(page),
                Ok(Err(error)) => return Err(failure(error.into(), Access::Read)),
                Err(error) => {
                    persistence.pause_after(error).await.map_err(|error| failure(error, Access::Read))?;
                }
            }
        }
    }
}

#[async_trait]
impl Connection for Cluster {
    async fn send(&self, request: Request<'_>) -> Result<Answer, RedisError> {
        let mut persistence = Persistence::new(request.access, self.patience);
        loop {
            match self.try_to_run(&request).await {
                Ok(reply) => return Ok(Answer { reply, is_repeat: persistence.is_repeat() }),
                Err(error) => persistence.pause_after(error).await?,
            }
        }
    }

    fn keeps_together(&self, prefix: &str) -> bool {
        hash_tag(prefix).is_some()
    }

    fn check_slot(&self, keys: &[&str]) -> Result<(), StorageError> {
        let mut slots = keys.iter().map(Slot::for_key);
        let first = slots.next();
        if slots.all(|slot| Some(slot) == first) {
            return Ok(());
        }
        let message = "the store keeps these keys on different machines; \
            the layout `partitioned` keeps those of a session together, and so does a prefix with a {hash tag}";
        Err(storage_error(StorageReason::Unsupported, Effect::None, message))
    }

    async fn scan(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError> {
        let mut place = match after {
            Some(after) => Place::read(after)?,
            None => Place::beginning_of(&*self.ask_for_slots().await?),
        };
        let mut slots = Arc::clone(&self.slots.lock().unwrap_or_else(PoisonError::into_inner));
        if slots.fingerprint != place.fingerprint {
            slots = self.ask_for_slots().await?;
        }
        let master = slots.masters.get(place.master).filter(|_| slots.fingerprint == place.fingerprint);
        let Some(master) = master else {
            return Ok(KeysPage { keys: Vec::new(), next: Some(place.restart(&slots).await?) });
        };
        let (cursor, keys) = self.scan_master(master, &scan_command(place.cursor, pattern)).await?;
        place.cursor = cursor;
        if cursor == 0 {
            place.master += 1;
        }
        if place.master < slots.masters.len() {
            return Ok(KeysPage { keys, next: Some(place.to_string()) });
        }
        let now = self.ask_for_slots().await?;
        if now.fingerprint == place.fingerprint && !now.is_moving {
            return Ok(KeysPage { keys, next: None });
        }
        // A key may have gone from a master that was still to come to one that was
        // done.
        Ok(KeysPage { keys, next: Some(place.restart(&now).await?) })
    }
}

fn to_master_of(slot: Slot) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::with_slot(slot, SlotAddr::Master))
}

/// Sends a command, and waits in the same pipeline until it is as durable as wanted.
async fn send(
    mut connection: ClusterConnection,
    durability: Option<Durability>,
    command: &Cmd,
    route: SingleNodeRoutingInfo,
) -> Result<Reply, RedisError> {
    let Some(durability) = durability else {
        return connection
            .route_command(command.clone(), RoutingInfo::SingleNode(route))
            .await?
            .extract_error();
    };
    let mut pipeline = Pipeline::new();
    pipeline.add_command(command.clone()).add_command(durability.wait());
    answered(connection.route_pipeline(pipeline, 0, 2, route).await?, Some(durability))
}

/// Sends a command to the master that its slot is being moved to.
async fn ask(
    mut connection: ClusterConnection,
    durability: Option<Durability>,
    command: &Cmd,
    error: RedisError,
) -> Result<Reply, RedisError> {
    let address = error.redirect_node().and_then(|(address, _)| address_of(address));
    let Some((host, port)) = address else { return Err(error) };
    let mut pipeline = Pipeline::new();
    pipeline.add_command(cmd("ASKING")).add_command(command.clone());
    if let Some(durability) = durability {
        pipeline.add_command(durability.wait());
    }
    let count = 2 + usize::from(durability.is_some());
    let route = SingleNodeRoutingInfo::ByAddress { host, port };
    answered(connection.route_pipeline(pipeline, 0, count, route).await?, durability)
}

/// What a command was answered: the last answer of a pipeline, but for that of
/// what waits.
fn answered(mut replies: Vec<Reply>, durability: Option<Durability>) -> Result<Reply, RedisError> {
    let shortfall = durability.and_then(|durability| durability.shortfall(replies.pop()));
    let reply = replies.pop().unwrap_or(Reply::Nil).extract_error()?;
    shortfall.map_or(Ok(reply), Err)
}

fn address_of(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

fn is_asking(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::Ask)
}

/// The part of a key that says its slot, if not all of it does: what stands in the
/// first braces, if there is anything.
/// <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>
fn hash_tag(key: &str) -> Option<&str> {
    let (_, behind) = key.split_once('{')?;
    let (tag, _) = behind.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// What the masters say of their slots.
#[derive(Default)]
struct Slots {
    /// Where each master is, in an order that lasts.
    masters: Vec<(String, u16)>,
    /// Differs if any master has other slots.
    fingerprint: u32,
    /// Whether any slot is being moved.
    is_moving: bool,
}

impl Slots {
    /// From the answers to `CLUSTER NODES`, each with the address of who gave it.
    /// None if some slots have a master that did not answer.
    ///
    /// In each answer a line for a node ends with its slots, `0-5460 5462`, and the
    /// line of the node itself with those that are on their way, `[93->-node]`.
    /// <https://redis.io/docs/latest/commands/cluster-nodes/>
    fn read(answers: &[(String, String)]) -> Option<Self> {
        let mut own: Vec<(&str, Vec<&str>, (String, u16))> = Vec::new();
        let mut known = 0;
        for (address, nodes) in answers {
            let masters = nodes.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let mut of_all = 0;
            for words in masters.filter(|words| words.len() > 8) {
                of_all += words[8..].iter().map(|slots| count(slots)).sum::<usize>();
                if words[2].split(',').any(|flag| flag == "myself") {
                    own.push((words[0], words[8..].to_vec(), address_of(address)?));
                }
            }
            known = known.max(of_all);
        }
        let answered: usize = own.iter().flat_map(|(_, slots, _)| slots).map(|slots| count(slots)).sum();
        own.sort_unstable();
        let text: String = own.iter().map(|(id, slots, _)| format!("{id} {}\n", slots.join(" "))).collect();
        (answered == known && known > 0).then(|| Self {
            fingerprint: checksum(&text),
            is_moving: text.contains('['),
            masters: own.into_iter().map(|(_, _, address)| address).collect(),
        })
    }
}

/// How many slots `0-5460` or `5462` is; one on its way counts where it still is.
fn count(slots: &str) -> usize {
    let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (last + 1).saturating_sub(first),
        _ => 0,
    }
}

/// Whether a text is as it was, in a few characters. Another version of Rust may
/// give another one, and a scan begins again then.
fn checksum(text: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as u32
}

/// How far a scan has come.
#[derive(Default)]
struct Place {
    /// Which master in the order of their names.
    master: usize,
    /// Where that master said to go on.
    cursor: u64,
    /// What the slots were in the beginning.
    fingerprint: u32,
    restarts: u32,
}

impl Place {
    fn beginning_of(slots: &Slots) -> Self {
        Self { fingerprint: slots.fingerprint, ..Self::default() }
    }

    fn read(text: &str) -> Result<Self, StorageError> {
        let [master, cursor, fingerprint, restarts] = numbers(text)?;
        Ok(Self {
            master: usize::try_from(master).map_err(|_| no_place())?,
            cursor,
            fingerprint: u32::try_from(fingerprint).map_err(|_| no_place())?,
            restarts: u32::try_from(restarts).map_err(|_| no_place())?,
        })
    }

    /// The place to begin again, if slots do not move all the time.
    async fn restart(self, slots: &Slots) -> Result<String, StorageError> {
        let restarts = self.restarts.saturating_add(1);
        if restarts > RESTARTS {
            let message = "the store keeps moving keys to other machines; try again when that is done";
            return Err(storage_error(StorageReason::Unavailable, Effect::None, message));
        }
        debug!(restarts, "slots have moved, so the scan begins again");
        tokio::time::sleep((restarts * LONGEST_WAIT / 10).min(LONGEST_WAIT)).await;
        Ok(Self { restarts, ..Self::beginning_of(slots) }.to_string())
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { master, cursor, fingerprint, restarts } = self;
        write!(formatter, "{master}.{cursor}.{fingerprint}.{restarts}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_hash_tag_keeps_keys_together() {
        for (prefix, tag) in [
            ("{app}:", Some("app")),
            ("a{b}{c}", Some("b")),
            ("a{{b}", Some("{b")),
            ("app:", None),
            ("{}:{app}", None),
            ("{app", None),
            ("}app{", None),
        ] {
            assert_eq!(hash_tag(prefix), tag, "{prefix}");
        }
    }

    #[test]
    fn the_masters_say_which_slots_they_have() {
        let first = "a1 h1:7001@17001 myself,master - 0 0 1 connected 0-5460 5462 [93->-b2]\n\
            b2 h2:7002@17002 master - 0 1 2 connected 5461 5463-16383\n\
            c3 h3:7003@17003 slave b2 0 1 2 connected\n";
        let second = "a1 h1:7001@17001 master - 0 0 1 connected 0-5460 5462\n\
            b2 h2:7002@17002 myself,master - 0 1 2 connected 5461 5463-16383\n";
        let answer = |address: &str, nodes: &str| (address.to_owned(), nodes.to_owned());
        let answers = [answer("h2:7002", second), answer("h1:7001", first)];
        let slots = Slots::read(&answers).expect("all slots");
        assert_eq!(slots.masters, [("h1".to_owned(), 7001), ("h2".to_owned(), 7002)]);
        assert!(slots.is_moving);
        let [second_answer, first_answer] = answers;
        let again = Slots::read(&[first_answer.clone(), second_answer.clone()]).expect("all slots");
        assert_eq!(slots.fingerprint, again.fingerprint);
        let settled = answer("h1:7001", &first.replace(" [93->-b2]", ""));
        let later = Slots::read(&[settled, second_answer]).expect("all slots");
        assert!(!later.is_moving && later.fingerprint != slots.fingerprint);
        assert!(Slots::read(&[first_answer]).is_none(), "a master did not answer");
        assert!(Slots::read(&[]).is_none());
    }

    #[test]
    fn a_scan_goes_on_where_it_said() {
        let place = Place { master: 2, cursor: u64::MAX, fingerprint: u32::MAX, restarts: 3 };
        let again = Place::read(&place.to_string()).expect("a place");
        assert_eq!(again.to_string(), "2.18446744073709551615.4294967295.3");
        for text in ["", "17", "1.2.3", "1.2.3.x", "1.2.4294967296.0"] {
            assert!(Place::read(text).is_err(), "{text}");
        }
    }
}
