//! The masters of the slots, as the nodes report them.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::redis::cluster_routing::Slot;
use ::redis::{Value as Reply, from_redis_value};
use parking_lot::Mutex;
use tracing::debug;

use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::transport::reconnecting::Invalidate;
use crate::store::redis::url::Node;

/// How long a slot map is used. Afterwards the nodes are asked again, so that new nodes
/// become known.
const TOPOLOGY_REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// The master of each slot.
pub(crate) struct SlotMap {
    masters: Mutex<HashMap<Slot, Arc<Node>>>,
    created: Instant,
    is_stale: AtomicBool,
}

impl SlotMap {
    pub(crate) fn new(ranges: &SlotRanges) -> Self {
        let mut masters = HashMap::new();
        for (first, last, node) in &ranges.ranges {
            let node = Arc::new(node.clone());
            masters.extend((*first..=*last).filter_map(Slot::new).map(|slot| (slot, Arc::clone(&node))));
        }
        Self { masters: Mutex::new(masters), created: Instant::now(), is_stale: AtomicBool::new(false) }
    }

    /// The master of a slot; any master without a slot.
    pub(crate) fn master_of(&self, slot: Option<Slot>) -> Result<Arc<Node>, TransportFailure> {
        let masters = self.masters.lock();
        let master = match slot {
            Some(slot) => masters.get(&slot),
            None => masters.values().next(),
        };
        master.map(Arc::clone).ok_or_else(|| TransportError::NoSlotMaster.into())
    }

    pub(crate) fn masters(&self) -> BTreeSet<Arc<Node>> {
        self.masters.lock().values().map(Arc::clone).collect()
    }

    /// Changes the master of a slot after a MOVED redirect.
    pub(crate) fn apply_moved(&self, slot: Slot, master: Node) {
        debug!(?slot, %master, "a slot has moved");
        self.masters.lock().insert(slot, Arc::new(master));
    }
}

impl Invalidate for SlotMap {
    fn is_invalid(&self) -> bool {
        self.is_stale.load(Ordering::Acquire) || self.created.elapsed() >= TOPOLOGY_REFRESH_INTERVAL
    }

    fn invalidate(&self, reason: &dyn Display) {
        debug!(%reason, "invalidating the slot map");
        self.is_stale.store(true, Ordering::Release);
    }
}

/// The slots as one node reports them.
#[derive(Debug)]
pub(crate) struct SlotRanges {
    /// The first slot, the last slot and the master of each range.
    ranges: Vec<(u16, u16, Node)>,
    /// All nodes, including replicas.
    pub(crate) nodes: BTreeSet<Node>,
}

impl SlotRanges {
    /// Parses the reply of `asked` to `CLUSTER SLOTS`: for each range the first slot, the
    /// last slot, the master and the replicas, each beginning with host and port.
    /// <https://redis.io/docs/latest/commands/cluster-slots/>
    pub(crate) fn parse(reply: Reply, asked: &Node) -> Result<Self, TransportFailure> {
        let (mut ranges, mut nodes) = (Vec::new(), BTreeSet::new());
        for range in from_redis_value::<Vec<Vec<Reply>>>(reply)? {
            let mut parts = range.into_iter();
            let (Some(first), Some(last)) = (parts.next(), parts.next()) else { continue };
            let (first, last) = (from_redis_value(first)?, from_redis_value(last)?);
            for (number, node) in parts.enumerate() {
                let Some(node) = parse_node(node, asked)? else { continue };
                if number == 0 {
                    ranges.push((first, last, node.clone()));
                }
                nodes.insert(node);
            }
        }
        ranges.sort_unstable();
        Ok(Self { ranges, nodes })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// Replicas do not count, since not all nodes learn of them at the same time.
impl PartialEq for SlotRanges {
    fn eq(&self, other: &Self) -> bool {
        self.ranges == other.ranges
    }
}

/// Parses a node; none if its host is unknown.
fn parse_node(parts: Reply, asked: &Node) -> Result<Option<Node>, TransportFailure> {
    let parts: Vec<Reply> = from_redis_value(parts)?;
    let mut parts = parts.into_iter();
    let (Some(host), Some(port)) = (parts.next(), parts.next()) else { return Ok(None) };
    let host = from_redis_value::<Option<String>>(host)?.unwrap_or_default();
    let node = Node { host, port: from_redis_value(port)? }.or_host_of(asked);
    Ok((node.host != "?").then_some(node))
}

/// The masters of a cluster and a hash of their slots.
#[derive(Default)]
pub(crate) struct ClusterNodesSnapshot {
    /// The masters in the order of their node ids.
    pub(crate) masters: Vec<Node>,
    /// Differs if the slots of any master have changed, even if they have changed back.
    pub(crate) topology_hash: u32,
    /// Whether any slot is migrating.
    pub(crate) is_migrating: bool,
}

impl ClusterNodesSnapshot {
    /// Parses the replies of the masters to `CLUSTER NODES`. None if a master of some slots
    /// did not reply.
    ///
    /// Each line of a reply describes a node. It ends with the epoch, the state of the link
    /// and the slots (`0-5460 5462`); the line of the node itself also has the migrating
    /// slots (`[93->-node]`). The epoch changes with each slot that a node receives.
    /// <https://redis.io/docs/latest/commands/cluster-nodes/>
    pub(crate) fn parse(replies: &[(Node, String)]) -> Option<Self> {
        let mut own: Vec<(&str, &str, Vec<&str>, &Node)> = Vec::new();
        let mut known_slots = 0;
        for (node, lines) in replies {
            let lines = lines.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let mut total = 0;
            for words in lines.filter(|words| words.len() > 8) {
                total += words[8..].iter().map(|range| count_slots(range)).sum::<usize>();
                if words[2].split(',').any(|flag| flag == "myself") {
                    own.push((words[0], words[6], words[8..].to_vec(), node));
                }
            }
            known_slots = known_slots.max(total);
        }
        let own_slots: usize =
            own.iter().flat_map(|(_, _, slots, _)| slots).map(|range| count_slots(range)).sum();
        own.sort_unstable();
        let text: String =
            own.iter().map(|(id, epoch, slots, _)| format!("{id} {epoch} {}\n", slots.join(" "))).collect();
        (own_slots == known_slots && known_slots > 0).then(|| Self {
            topology_hash: hash(&text),
            is_migrating: text.contains('['),
            masters: own.into_iter().map(|(.., node)| node.clone()).collect(),
        })
    }
}

/// The number of slots in `0-5460` or `5462`. A migrating slot counts for its source.
fn count_slots(range: &str) -> usize {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (last + 1).saturating_sub(first),
        _ => 0,
    }
}

/// A short hash. It may differ between versions of Rust; a scan starts again then.
fn hash(text: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.to_owned(), port }
    }

    #[test]
    fn slot_ranges_are_parsed_from_cluster_slots() {
        let text = |text: &str| Reply::BulkString(text.into());
        let server = |host: Reply, port| Reply::Array(vec![host, Reply::Int(port), text("id")]);
        let answer = Reply::Array(vec![
            Reply::Array(vec![
                Reply::Int(2),
                Reply::Int(9),
                server(Reply::Nil, 7002),
                server(text("h3"), 7003),
            ]),
            Reply::Array(vec![Reply::Int(0), Reply::Int(1), server(text("h1"), 7001)]),
            Reply::Array(vec![Reply::Int(10), Reply::Int(10), server(text("?"), 7004)]),
        ]);
        let ranges = SlotRanges::parse(answer, &node("asked", 1)).expect("slot ranges");
        let slots = SlotMap::new(&ranges);
        let master = |slot| {
            slots.master_of(Slot::new(slot)).map(|node| (*node).clone()).map_err(|failure| failure.error)
        };
        assert_eq!(master(0), Ok(node("h1", 7001)));
        assert_eq!(master(9), Ok(node("asked", 7002)));
        assert_eq!(master(10), Err(TransportError::NoSlotMaster), "its host is unknown");
        assert_eq!(ranges.nodes, [node("asked", 7002), node("h1", 7001), node("h3", 7003)].into());
        assert!(SlotRanges::parse(Reply::Okay, &node("asked", 1)).is_err());
    }

    #[test]
    fn snapshot_changes_with_the_slots_of_the_masters() {
        let first = "a1 h1:7001@17001 myself,master - 0 0 1 connected 0-5460 5462 [93->-b2]\n\
            b2 h2:7002@17002 master - 0 1 2 connected 5461 5463-16383\n\
            c3 h3:7003@17003 slave b2 0 1 2 connected\n";
        let second = "a1 h1:7001@17001 master - 0 0 1 connected 0-5460 5462\n\
            b2 h2:7002@17002 myself,master - 0 1 2 connected 5461 5463-16383\n";
        let answers = [(node("h2", 7002), second.to_owned()), (node("h1", 7001), first.to_owned())];
        let snapshot = ClusterNodesSnapshot::parse(&answers).expect("all slots");
        assert_eq!(snapshot.masters, [node("h1", 7001), node("h2", 7002)]);
        assert!(snapshot.is_migrating);
        let [second_answer, first_answer] = answers;
        let again =
            ClusterNodesSnapshot::parse(&[first_answer.clone(), second_answer.clone()]).expect("all slots");
        assert_eq!(snapshot.topology_hash, again.topology_hash);
        let settled = (node("h1", 7001), first.replace(" [93->-b2]", ""));
        let second_again = second_answer.clone();
        let later = ClusterNodesSnapshot::parse(&[settled, second_answer]).expect("all slots");
        assert!(!later.is_migrating && later.topology_hash != snapshot.topology_hash);
        let back_again = (node("h1", 7001), first.replace(" 0 0 1 ", " 0 0 3 "));
        let later = ClusterNodesSnapshot::parse(&[back_again, second_again]).expect("all slots");
        assert_ne!(later.topology_hash, snapshot.topology_hash, "a slot migrated and came back");
        assert!(ClusterNodesSnapshot::parse(&[first_answer]).is_none(), "a master did not answer");
        assert!(ClusterNodesSnapshot::parse(&[]).is_none());
    }
}
