//! What servers of a cluster say of its slots.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use ::redis::cluster_routing::Slot;
use ::redis::{RedisError, Value as Reply, from_redis_value};

use crate::store::redis::address::Node;

/// Who has which slots, as one server sees it.
#[derive(Debug)]
pub struct Topology {
    /// The first and the last slot of a range, and their master.
    ranges: Vec<(u16, u16, Node)>,
    /// All servers that are named, replicas too.
    pub nodes: BTreeSet<Node>,
}

impl Topology {
    /// From the answer to `CLUSTER SLOTS`, which `asked` gave: for each range its first
    /// and its last slot, its master and its replicas, each as a host and a port first.
    /// <https://redis.io/docs/latest/commands/cluster-slots/>
    pub fn read(answer: Reply, asked: &Node) -> Result<Self, RedisError> {
        let (mut ranges, mut nodes) = (Vec::new(), BTreeSet::new());
        for range in from_redis_value::<Vec<Vec<Reply>>>(answer)? {
            let mut parts = range.into_iter();
            let (Some(first), Some(last)) = (parts.next(), parts.next()) else { continue };
            let (first, last) = (from_redis_value(first)?, from_redis_value(last)?);
            for (number, node) in parts.enumerate() {
                let Some(node) = node_of(node, asked)? else { continue };
                if number == 0 {
                    ranges.push((first, last, node.clone()));
                }
                nodes.insert(node);
            }
        }
        ranges.sort_unstable();
        Ok(Self { ranges, nodes })
    }

    /// Whether no slot has a master.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The master of each slot that has one.
    pub fn masters(&self) -> HashMap<Slot, Arc<Node>> {
        let mut masters = HashMap::new();
        for (first, last, node) in &self.ranges {
            let node = Arc::new(node.clone());
            masters.extend((*first..=*last).filter_map(Slot::new).map(|slot| (slot, Arc::clone(&node))));
        }
        masters
    }
}

/// Replicas do not count, of which not all servers know at once.
impl PartialEq for Topology {
    fn eq(&self, other: &Self) -> bool {
        self.ranges == other.ranges
    }
}

/// A server, if it is known where that is. One that says no host is where whoever
/// was asked is.
fn node_of(parts: Reply, asked: &Node) -> Result<Option<Node>, RedisError> {
    let parts: Vec<Reply> = from_redis_value(parts)?;
    let mut parts = parts.into_iter();
    let (Some(host), Some(port)) = (parts.next(), parts.next()) else { return Ok(None) };
    let host: Option<String> = from_redis_value(host)?;
    let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.host.clone());
    let port = from_redis_value(port)?;
    Ok((host != "?").then_some(Node { host, port }))
}

/// What the masters say of their own slots.
#[derive(Default)]
pub struct Survey {
    /// Where each master is, in an order that lasts.
    pub masters: Vec<Node>,
    /// Differs if any master has, or had meanwhile, other slots.
    pub fingerprint: u32,
    /// Whether any slot is being moved.
    pub is_moving: bool,
}

impl Survey {
    /// From the answers of the masters to `CLUSTER NODES`. None if some slots have a
    /// master that did not answer.
    ///
    /// In each answer a line for a node ends with its epoch, a word on its connection,
    /// and its slots, `0-5460 5462`; the line of the node itself with those that are on
    /// their way, `[93->-node]`. With each slot that comes, the epoch is another one.
    /// <https://redis.io/docs/latest/commands/cluster-nodes/>
    pub fn read(answers: &[(Node, String)]) -> Option<Self> {
        let mut own: Vec<(&str, &str, Vec<&str>, &Node)> = Vec::new();
        let mut known = 0;
        for (node, lines) in answers {
            let lines = lines.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let mut of_all = 0;
            for words in lines.filter(|words| words.len() > 8) {
                of_all += words[8..].iter().map(|slots| count(slots)).sum::<usize>();
                if words[2].split(',').any(|flag| flag == "myself") {
                    own.push((words[0], words[6], words[8..].to_vec(), node));
                }
            }
            known = known.max(of_all);
        }
        let answered: usize = own.iter().flat_map(|(_, _, slots, _)| slots).map(|slots| count(slots)).sum();
        own.sort_unstable();
        let text: String =
            own.iter().map(|(id, epoch, slots, _)| format!("{id} {epoch} {}\n", slots.join(" "))).collect();
        (answered == known && known > 0).then(|| Self {
            fingerprint: checksum(&text),
            is_moving: text.contains('['),
            masters: own.into_iter().map(|(.., node)| node.clone()).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.to_owned(), port }
    }

    #[test]
    fn a_server_says_who_has_which_slots() {
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
        let topology = Topology::read(answer, &node("asked", 1)).expect("a topology");
        let owner =
            |slot| topology.masters().get(&Slot::new(slot).expect("a slot")).map(|node| (**node).clone());
        assert_eq!(owner(0), Some(node("h1", 7001)));
        assert_eq!(owner(9), Some(node("asked", 7002)));
        assert_eq!(owner(10), None, "nobody knows where it is");
        assert_eq!(topology.nodes, [node("asked", 7002), node("h1", 7001), node("h3", 7003)].into());
        assert!(Topology::read(Reply::Okay, &node("asked", 1)).is_err());
    }

    #[test]
    fn the_masters_say_which_slots_they_have() {
        let first = "a1 h1:7001@17001 myself,master - 0 0 1 connected 0-5460 5462 [93->-b2]\n\
            b2 h2:7002@17002 master - 0 1 2 connected 5461 5463-16383\n\
            c3 h3:7003@17003 slave b2 0 1 2 connected\n";
        let second = "a1 h1:7001@17001 master - 0 0 1 connected 0-5460 5462\n\
            b2 h2:7002@17002 myself,master - 0 1 2 connected 5461 5463-16383\n";
        let answers = [(node("h2", 7002), second.to_owned()), (node("h1", 7001), first.to_owned())];
        let survey = Survey::read(&answers).expect("all slots");
        assert_eq!(survey.masters, [node("h1", 7001), node("h2", 7002)]);
        assert!(survey.is_moving);
        let [second_answer, first_answer] = answers;
        let again = Survey::read(&[first_answer.clone(), second_answer.clone()]).expect("all slots");
        assert_eq!(survey.fingerprint, again.fingerprint);
        let settled = (node("h1", 7001), first.replace(" [93->-b2]", ""));
        let second_again = second_answer.clone();
        let later = Survey::read(&[settled, second_answer]).expect("all slots");
        assert!(!later.is_moving && later.fingerprint != survey.fingerprint);
        let back_again = (node("h1", 7001), first.replace(" 0 0 1 ", " 0 0 3 "));
        let later = Survey::read(&[back_again, second_again]).expect("all slots");
        assert_ne!(later.fingerprint, survey.fingerprint, "a slot went away and came back");
        assert!(Survey::read(&[first_answer]).is_none(), "a master did not answer");
        assert!(Survey::read(&[]).is_none());
    }
}
