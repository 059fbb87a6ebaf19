//! A Redis Cluster: each key is in one of 16,384 slots, each slot with one of the
//! masters, and both slots and masters may change at any time.

use std::io;
use std::time::Duration;

use ::redis::cluster::{ClusterClient, ClusterConfig};
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::{
    MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr,
};
use ::redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, ProtocolVersion, RedisError, ServerErrorKind, TlsCertificates,
    Value as Reply, cmd, from_redis_value,
};
use async_trait::async_trait;
use tracing::debug;

use super::address::{Durability, Node, RedisAddress};
use super::connection::{Access, Answer, Connection, KeysPage, Persistence, Request, scan_command};
use super::connection_info;
use super::failure::{failure, is_without_script};
use crate::store::{Effect, StorageError, StorageReason, invalid, storage_error};

/// How many tries fit into the time for an answer: a server that hangs uses up one.
const TRIES: u32 = 3;

/// How often a scan begins again because slots have moved.
const RESTARTS: u32 = 20;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The masters of a cluster, and who has which slots.
pub struct Cluster {
    connection: ClusterConnection,
    /// Others for writes that wait for replicas, since nothing else goes on
    /// meanwhile over such a connection.
    durable: Option<(ClusterConnection, Durability)>,
    /// How long a command is tried.
    patience: Duration,
}

impl Cluster {
    /// Gets ready within a tokio runtime; nothing is sent yet.
    pub fn new(
        nodes: &[Node],
        tls: Option<TlsCertificates>,
        address: &RedisAddress,
    ) -> Result<Self, RedisError> {
        let nodes: Result<Vec<_>, _> = nodes.iter().map(|node| connection_info(address, node)).collect();
        let client = |response_timeout: Duration| {
            let mut builder = ClusterClient::builder(nodes.clone()?)
                // A command that is sent again has to be known of here.
                .retries(0)
                .use_protocol(ProtocolVersion::RESP3)
                .connection_timeout(address.connect_timeout)
                .response_timeout(response_timeout);
            if let Some(tls) = tls.clone() {
                builder = builder.certs(tls);
            }
            let client = builder.build()?;
            Ok::<_, RedisError>(client.get_pending_async_connection_with_config(ClusterConfig::new()))
        };
        let patience = address.response_timeout;
        let durable = address.durability.map(|durability| {
            Ok::<_, RedisError>((client(patience / TRIES + durability.timeout)?, durability))
        });
        Ok(Self { connection: client(patience / TRIES)?, durable: durable.transpose()?, patience })
    }

    /// Sends a command once, to whoever has its slot.
    async fn try_to_send(&self, command: &Cmd, request: &Request<'_>) -> Result<Reply, RedisError> {
        let slot = request.key.map(Slot::for_key);
        let route = slot.map_or(SingleNodeRoutingInfo::RandomPrimary, to_master_of);
        let durable = self.durable.as_ref().filter(|_| request.access == Access::Write);
        let answer = match durable {
            Some((connection, durability)) => durably(connection, *durability, command, route).await,
            None => {
                let route = RoutingInfo::SingleNode(route);
                self.connection.clone().route_command(command.clone(), route).await?.extract_error()
            }
        };
        match answer {
            // Whoever a slot is moved to has some of its keys, and would say of the
            // others that there is nothing.
            Err(error) if is_asking(&error) && !request.reads_unnamed => {
                let connection = durable.map_or(&self.connection, |(connection, _)| connection);
                asking(connection, durable.map(|(_, durability)| *durability), command, error).await
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

    /// Reads from some servers, trying until it goes well or is of no use.
    async fn read<T: FromRedisValue>(&self, command: &Cmd, route: RoutingInfo) -> Result<T, StorageError> {
        let mut persistence = Persistence::new(Access::Read, self.patience);
        loop {
            let mut connection = self.connection.clone();
            let answer = in_time(self.patience, connection.route_command(command.clone(), route.clone()));
            let error = match answer.await.and_then(Reply::extract_error) {
                Ok(reply) => match from_redis_value(reply) {
                    Ok(read) => return Ok(read),
                    Err(error) => error.into(),
                },
                Err(error) => error,
            };
            persistence.pause_after(error).await.map_err(|error| failure(error, Access::Read))?;
        }
    }

    /// Who has which slots, and whether any are on the move, as the masters say
    /// it of themselves.
    async fn slots(&self) -> Result<Slots, StorageError> {
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let answers: Vec<(String, String)> = self.read(cmd("CLUSTER").arg("NODES"), all).await?;
        Ok(Slots::read(answers.iter().map(|(_, nodes)| nodes.as_str())))
    }
}

#[async_trait]
impl Connection for Cluster {
    async fn send(&self, request: Request<'_>) -> Result<Answer, RedisError> {
        let mut persistence = Persistence::new(request.access, self.patience);
        // More than a try takes, unless the client itself is stuck.
        let limit = self.patience + self.durable.as_ref().map_or(Duration::ZERO, |(_, it)| it.timeout);
        loop {
            match in_time(limit, self.try_to_run(&request)).await {
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
        let mut place = after.map(Place::read).transpose()?.unwrap_or_default();
        let slots = self.slots().await?;
        if after.is_some() && slots.fingerprint != place.fingerprint {
            place = place.restart().await?;
        }
        place.fingerprint = slots.fingerprint;
        let Some(slot) = slots.masters.get(place.master).and_then(|slot| Slot::new(*slot)) else {
            let message = "the cluster has no masters";
            return Err(storage_error(StorageReason::Unavailable, Effect::None, message));
        };
        let route = RoutingInfo::SingleNode(to_master_of(slot));
        let (cursor, keys) = self.read(&scan_command(place.cursor, pattern), route).await?;
        place.cursor = cursor;
        if cursor == 0 {
            place.master += 1;
            if place.master == slots.masters.len() {
                let now = self.slots().await?;
                if now.fingerprint == place.fingerprint && !now.is_moving {
                    return Ok(KeysPage { keys, next: None });
                }
                // A key may have gone from a master that was still to come to one
                // that was done.
                place = place.restart().await?;
            }
        }
        Ok(KeysPage { keys, next: Some(place.to_string()) })
    }
}

fn to_master_of(slot: Slot) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::with_slot(slot, SlotAddr::Master))
}

async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    let answer = tokio::time::timeout(limit, answer).await;
    answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// Sends a write, and waits for replicas in the same pipeline.
async fn durably(
    connection: &ClusterConnection,
    durability: Durability,
    command: &Cmd,
    route: SingleNodeRoutingInfo,
) -> Result<Reply, RedisError> {
    // What can't be waited for is not to be written. It is asked each time, since
    // another master may be another server.
    let mut trial = Pipeline::new();
    trial.add_command(durability.trial());
    let tried = connection.clone().route_pipeline(trial, 0, 1, route.clone()).await?.pop();
    Durability::tried(tried.unwrap_or(Reply::Nil).extract_error())?;
    let mut pipeline = Pipeline::new();
    pipeline.add_command(command.clone()).add_command(durability.wait());
    let mut replies = connection.clone().route_pipeline(pipeline, 0, 2, route).await?;
    let shortfall = durability.shortfall(replies.pop());
    let reply = replies.pop().unwrap_or(Reply::Nil).extract_error()?;
    shortfall.map_or(Ok(reply), Err)
}

/// Sends a command to the master that its slot is being moved to.
async fn asking(
    connection: &ClusterConnection,
    durability: Option<Durability>,
    command: &Cmd,
    error: RedisError,
) -> Result<Reply, RedisError> {
    let address = error.redirect_node().and_then(|(address, _)| address.rsplit_once(':'));
    let Some((host, Ok(port))) = address.map(|(host, port)| (host.to_owned(), port.parse())) else {
        return Err(error);
    };
    debug!(host, port, "asking the next master of a slot");
    let mut pipeline = Pipeline::new();
    pipeline.add_command(cmd("ASKING")).add_command(command.clone());
    let count = if let Some(durability) = durability {
        pipeline.add_command(durability.wait());
        3
    } else {
        2
    };
    let route = SingleNodeRoutingInfo::ByAddress { host, port };
    let mut replies = connection.clone().route_pipeline(pipeline, 0, count, route).await?;
    let shortfall = durability.and_then(|durability| durability.shortfall(replies.pop()));
    let reply = replies.pop().unwrap_or(Reply::Nil).extract_error()?;
    shortfall.map_or(Ok(reply), Err)
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
struct Slots {
    /// A slot of each master.
    masters: Vec<u16>,
    /// Differs if any master has other slots.
    fingerprint: u32,
    /// Whether any slot is being moved.
    is_moving: bool,
}

impl Slots {
    /// From the answers to `CLUSTER NODES`. In each, the line of the master itself
    /// ends with its slots: `0-5460 5462 [93->-node]`, the last one on its way.
    /// <https://redis.io/docs/latest/commands/cluster-nodes/>
    fn read<'a>(nodes: impl Iterator<Item = &'a str>) -> Self {
        let own = nodes.filter_map(|nodes| nodes.lines().find(|line| line.contains("myself")));
        let mut of_masters: Vec<(u16, String)> = own
            .filter_map(|line| {
                let mut words = line.split(' ');
                let id = words.next()?;
                let slots: Vec<&str> = words.skip(7).collect();
                let first = slots.first()?.split('-').next()?.parse().ok()?;
                Some((first, format!("{id} {}", slots.join(" "))))
            })
            .collect();
        of_masters.sort_unstable();
        let text: String = of_masters.iter().flat_map(|(_, slots)| [slots.as_str(), "\n"]).collect();
        Self {
            masters: of_masters.iter().map(|(first, _)| *first).collect(),
            fingerprint: checksum(&text),
            is_moving: text.contains('['),
        }
    }
}

/// FNV-1a: whether something is as it was, in a few characters.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum: u32, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// How far a scan has come.
#[derive(Default)]
struct Place {
    /// Which master in the order of their first slots.
    master: usize,
    /// Where that master said to go on.
    cursor: u64,
    /// What the slots were in the beginning.
    fingerprint: u32,
    restarts: u32,
}

impl Place {
    fn read(text: &str) -> Result<Self, StorageError> {
        let fault = || invalid("a page begins only where the one before said");
        let numbers: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
        let numbers = numbers.map_err(|_| fault())?;
        let [master, cursor, fingerprint, restarts] = numbers.as_slice() else { return Err(fault()) };
        Ok(Self {
            master: usize::try_from(*master).map_err(|_| fault())?,
            cursor: *cursor,
            fingerprint: u32::try_from(*fingerprint).map_err(|_| fault())?,
            restarts: u32::try_from(*restarts).map_err(|_| fault())?,
        })
    }

    /// Begins again, if slots do not move all the time.
    async fn restart(self) -> Result<Self, StorageError> {
        let restarts = self.restarts.saturating_add(1);
        if restarts > RESTARTS {
            let message = "the store keeps moving keys to other machines; try again when that is done";
            return Err(storage_error(StorageReason::Unavailable, Effect::None, message));
        }
        debug!(restarts, "slots have moved, so the scan begins again");
        tokio::time::sleep((restarts * LONGEST_PAUSE / 10).min(LONGEST_PAUSE)).await;
        Ok(Self { restarts, ..Self::default() })
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
        let first = "a1 127.0.0.1:7001@17001 myself,master - 0 0 1 connected 0-5460 5462 [93->-b2]\n\
            b2 127.0.0.1:7002@17002 master - 0 1 2 connected 5463-16383\n";
        let second = "a1 127.0.0.1:7001@17001 master - 0 0 1 connected 0-5460 5462\n\
            b2 127.0.0.1:7002@17002 myself,master - 0 1 2 connected 5463-16383\n";
        let slots = Slots::read([second, first].into_iter());
        assert_eq!((slots.masters, slots.is_moving), (vec![0, 5463], true));
        let again = Slots::read([first, second].into_iter());
        assert_eq!(slots.fingerprint, again.fingerprint);
        let moved = first.replace(" [93->-b2]", "");
        let later = Slots::read([moved.as_str(), second].into_iter());
        assert!(!later.is_moving && later.fingerprint != slots.fingerprint);
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
