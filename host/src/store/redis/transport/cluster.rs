//! A Redis Cluster: each key belongs to one of 16,384 slots, and each slot to a master.
//! Both slots and masters may change at any time.
//!
//! - `slot_map`: the masters of the slots.
//! - `connections`: a connection to each node.
//! - `scan`: the scan of the keys of all masters.
//!
//! Of redis-rs only the hash slots are used, not its cluster client. That client retries
//! writes silently; with retries disabled, an in-flight write may fail with the error of an
//! unrelated slot refresh, and a refresh stops the requests to all nodes. Here each
//! connection reports the result of its own requests, and a node that hangs delays no
//! requests to other nodes.

mod connections;
mod scan;
mod slot_map;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::cluster_routing::Slot;
use ::redis::{RedisError, Value as Reply, cmd};
use async_trait::async_trait;
use parking_lot::Mutex;
use tracing::debug;

use self::connections::ConnectionPool;
use self::slot_map::{ClusterNodesSnapshot, SlotMap, SlotRanges};
use super::connection::{Connector, NodeConnection};
use super::majority::majority;
use super::reconnecting::{Invalidate, Reconnecting};
use super::{Request, ScanPage, Transport};
use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::retry::{Answer, Attempt, RetryPolicy};
use crate::store::redis::url::{Node, RedisUrl};
use crate::store::{Effect, StorageError, StorageReason};

/// How long to wait for more opinions on the slots after an answer. A redirect corrects a
/// wrong one.
const MAJORITY_GRACE_PERIOD: Duration = Duration::from_millis(200);

/// The masters of a cluster.
pub(crate) struct Cluster {
    discovery: Arc<NodeDiscovery>,
    connections: Arc<ConnectionPool>,
    slots: Reconnecting<SlotMap>,
    /// The masters as the scans know them.
    snapshot: Mutex<Arc<ClusterNodesSnapshot>>,
    policy: RetryPolicy,
}

impl Cluster {
    /// The cluster of these nodes. Nothing is sent yet.
    pub(crate) fn new(
        nodes: &[Node],
        connector: Connector,
        url: &RedisUrl,
        policy: RetryPolicy,
    ) -> Result<Self, RedisError> {
        for node in nodes {
            connector.client(node)?;
        }
        let connect_timeout = policy.discovery_timeout(url.connect_timeout);
        let connections = Arc::new(ConnectionPool::new(connector, connect_timeout));
        let discovery = NodeDiscovery {
            seeds: nodes.to_vec(),
            known: Mutex::default(),
            connections: Arc::clone(&connections),
            timeout: policy.response_timeout() / 2,
        };
        Ok(Self {
            discovery: Arc::new(discovery),
            connections,
            slots: Reconnecting::new(invalidates_slot_map),
            snapshot: Mutex::default(),
            policy,
        })
    }

    /// Runs `action` with the slot map.
    async fn with_slots<T>(
        &self,
        attempt: Attempt,
        action: impl AsyncFnOnce(&SlotMap) -> Result<T, TransportFailure>,
    ) -> Result<T, TransportFailure> {
        let discover = || Arc::clone(&self.discovery).discover();
        self.slots.with(attempt.connect_deadline(), discover, action).await
    }

    /// Sends a request to the master of its slot.
    async fn attempt(
        &self,
        request: &Request<'_>,
        slots: &SlotMap,
        attempt: Attempt,
    ) -> Result<Reply, TransportFailure> {
        let slot = request.key.map(Slot::for_key);
        let node = slots.master_of(slot)?;
        let run = async |node: &Node, asking: bool| {
            let send = async |connection: &NodeConnection| {
                connection.run(request, asking, attempt.response_deadline()).await
            };
            // Boxed, or the compiler reaches its limit for nested futures.
            Box::pin(self.connections.with(node, attempt.connect_deadline(), send)).await
        };
        let mut reply = run(&node, false).await;
        // The target of a migration has only some of the keys, and would report undeclared
        // ones as absent.
        if let Err(TransportFailure { error: TransportError::Ask(Some(target)), .. }) = &reply
            && !request.reads_undeclared_keys
        {
            reply = run(&target.or_host_of(&node), true).await;
        }
        if let Err(failure) = &reply
            && let (TransportError::Moved(Some(target)), Some(slot)) = (&failure.error, slot)
        {
            let target = target.or_host_of(&node);
            // A new node may know of more new nodes.
            if self.discovery.add(&target) {
                slots.invalidate(failure);
            }
            slots.apply_moved(slot, target);
        }
        reply
    }
}

/// The nodes that can be asked for the slots.
struct NodeDiscovery {
    /// The nodes of the URL, which are asked first.
    seeds: Vec<Node>,
    /// The nodes that other nodes have named.
    known: Mutex<BTreeSet<Node>>,
    connections: Arc<ConnectionPool>,
    /// How long an answer may take.
    timeout: Duration,
}

impl NodeDiscovery {
    /// Asks all nodes for the slots. The majority counts: a node that was down may not know
    /// that it has been replaced.
    async fn discover(self: Arc<Self>) -> Result<SlotMap, TransportFailure> {
        let mut known = self.known.lock().clone();
        known.retain(|node| !self.seeds.contains(node));
        let deadline = Instant::now() + self.timeout;
        let answers = self.seeds.iter().chain(&known).map(|node| {
            let (node, connections) = (node.clone(), Arc::clone(&self.connections));
            async move {
                let question = cmd("CLUSTER").arg("SLOTS").clone();
                let ask = async |connection: &NodeConnection| connection.ask(&question, deadline).await;
                let ranges = SlotRanges::parse(connections.with(&node, deadline, ask).await?, &node)?;
                // A node that knows no other node yet, or no longer, has no opinion.
                if ranges.is_empty() { Err(TransportError::NoSlotMaster.into()) } else { Ok(ranges) }
            }
        });
        let ranges = majority(answers, MAJORITY_GRACE_PERIOD, TransportError::NoClusterNode).await?;
        debug!(nodes = ranges.nodes.len(), "found the masters of the slots");
        self.connections.retain(|node| ranges.nodes.contains(node) || self.seeds.contains(node));
        let slots = SlotMap::new(&ranges);
        *self.known.lock() = ranges.nodes;
        Ok(slots)
    }

    /// Adds a node. Returns whether it was unknown.
    fn add(&self, node: &Node) -> bool {
        self.known.lock().insert(node.clone())
    }
}

#[async_trait]
impl Transport for Cluster {
    async fn send(&self, request: Request<'_>) -> Result<Answer<Reply>, TransportFailure> {
        let request = &request;
        let run = |attempt: Attempt| {
            self.with_slots(attempt, async move |slots| self.attempt(request, slots, attempt).await)
        };
        self.policy.run(request.access, run).await
    }

    async fn scan(&self, pattern: &str, cursor: Option<&str>) -> Result<ScanPage, TransportFailure> {
        self.scan_page(pattern, cursor).await
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        hash_tag(prefix).is_some()
    }

    fn check_slot(&self, keys: &[&str]) -> Result<(), StorageError> {
        let mut slots = keys.iter().map(Slot::for_key);
        let first = slots.next();
        if slots.all(|slot| Some(slot) == first) {
            return Ok(());
        }
        let message = "the keys are in different slots of the cluster; use the layout `partitioned`, or a prefix \
            with a {hash tag}";
        Err(StorageError::new(StorageReason::Unsupported, Effect::None, message))
    }
}

/// Whether the slots may have another master after this error.
fn invalidates_slot_map(error: &TransportError) -> bool {
    error.invalidates_connection()
        || matches!(
            error,
            TransportError::NotReady("CLUSTERDOWN" | "LOADING" | "MASTERDOWN")
                | TransportError::ReadOnly
                | TransportError::NoSlotMaster
        )
}

/// The hash tag of a key: the text in its first braces, if it is not empty.
/// <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>
fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_hash_tag_colocates_keys() {
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
}
