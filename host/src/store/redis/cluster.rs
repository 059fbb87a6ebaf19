//! A Redis Cluster: each key is in one of 16,384 slots, each slot with one of the
//! masters, and both slots and masters may change at any time.
//!
//! - `slots`: what servers say of that.
//! - `links`: how to get to each of them.
//! - `scan`: how the keys of all masters are gone through.
//!
//! This is not redis-rs's own client of a cluster, of which only the slots of keys are
//! used here. That sends writes again without saying so; if told not to, it still gives
//! a write that it has sent the error of something else, that of asking for slots, and
//! stops what goes on with all servers meanwhile. Here a link to each server tells what
//! became of a command, and one that hangs keeps nobody else waiting.

mod links;
mod scan;
mod slots;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::redis::cluster_routing::Slot;
use ::redis::{
    ErrorKind, RedisError, ServerErrorKind, TlsCertificates, Value as Reply, cmd, make_extension_error,
};
use async_trait::async_trait;
use tracing::debug;

use self::links::Links;
use self::slots::{Survey, Topology};
use super::address::{Node, RedisAddress};
use super::client;
use super::connection::{Answer, Connection, KeysPage, Persistence, Request, TRIES};
use super::failure::is_lost;
use super::latest::{Latest, Passing};
use super::link::Link;
use super::vote::most_say;
use crate::store::{Effect, StorageError, StorageReason};

/// The code of the error if no server can be reached that knows of the slots.
pub(super) const NO_NODE: &str = "NONODE";

/// The code of the error that says that a slot has no master now.
pub(super) const NO_OWNER: &str = "NOOWNER";

/// How long to wait for what more servers say of the slots, after the first answer.
/// Whoever is asked for a slot that it does not have says so.
const GRACE: Duration = Duration::from_millis(200);

/// How long to go on without asking for the slots, and so for who has joined.
const A_WHILE: Duration = Duration::from_secs(60);

/// The masters of a cluster, and who has which slots.
pub struct Cluster {
    directory: Arc<Directory>,
    links: Arc<Links>,
    view: Latest<View>,
    /// What a scan knows of the masters.
    survey: Mutex<Arc<Survey>>,
    /// How long a command is tried.
    patience: Duration,
}

impl Cluster {
    /// Gets ready; nothing is sent yet.
    pub fn new(
        nodes: &[Node],
        tls: Option<TlsCertificates>,
        address: &RedisAddress,
    ) -> Result<Self, RedisError> {
        for node in nodes {
            client(address, node, tls.clone())?;
        }
        let patience = address.response_timeout;
        let links = Arc::new(Links::new(address.clone(), tls));
        let directory = Directory {
            seeds: nodes.to_vec(),
            known: Mutex::default(),
            links: Arc::clone(&links),
            limit: patience / TRIES / 2,
        };
        Ok(Self {
            directory: Arc::new(directory),
            links,
            view: Latest::new(may_have_changed),
            survey: Mutex::default(),
            patience,
        })
    }

    /// How long a step of a try may take.
    fn step(&self) -> Duration {
        self.patience / TRIES
    }

    /// Does something with what is seen of the slots, once.
    async fn with_view<T>(
        &self,
        persistence: &Persistence,
        action: impl AsyncFnOnce(&View) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let ask = || Arc::clone(&self.directory).ask();
        self.view.with(persistence.deadline(self.step()), ask, action).await
    }

    /// Sends a command once, to whoever has its slot.
    async fn try_to_run(
        &self,
        request: &Request<'_>,
        view: &View,
        persistence: &Persistence,
    ) -> Result<Reply, RedisError> {
        let slot = request.key.map(Slot::for_key);
        let node = view.master_of(slot)?;
        let run = async |node: &Node, is_asking: bool| {
            let send =
                async |link: &Link| link.run(request, is_asking, persistence.deadline(self.step())).await;
            self.links.with(node, persistence.deadline(self.step()), send).await
        };
        let mut answer = run(&node, false).await;
        // Whoever a slot is moved to has some of its keys, and would say of the others
        // that there is nothing.
        if let Err(error) = &answer
            && is(error, ServerErrorKind::Ask)
            && !request.reads_unnamed
            && let Some(other) = redirection(error, &node)
        {
            answer = run(&other, true).await;
        }
        if let Err(error) = &answer
            && is(error, ServerErrorKind::Moved)
            && let (Some(slot), Some(other)) = (slot, redirection(error, &node))
        {
            // A new one knows of others that are new.
            if self.directory.add(&other) {
                view.give_up(error);
            }
            view.learn(slot, other);
        }
        answer
    }
}

/// Who can be asked for the slots.
struct Directory {
    /// Those who are asked first, in the order in which people wrote them.
    seeds: Vec<Node>,
    /// All who were named by others since they were last asked.
    known: Mutex<BTreeSet<Node>>,
    links: Arc<Links>,
    /// How long an answer may take.
    limit: Duration,
}

impl Directory {
    /// Asks all servers at once who has which slots. What most of them say counts: one
    /// that was away may not know yet that it has been replaced.
    async fn ask(self: Arc<Self>) -> Result<View, RedisError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.retain(|node| !self.seeds.contains(node));
        let deadline = Instant::now() + self.limit;
        let asked = self.seeds.iter().chain(&known).map(|node| {
            let (node, links) = (node.clone(), Arc::clone(&self.links));
            async move {
                let question = cmd("CLUSTER").arg("SLOTS").clone();
                let answer = links.with(&node, deadline, async |link| link.ask(&question, deadline).await);
                let topology = Topology::read(answer.await?, &node)?;
                // One that is alone, and knows of nobody yet or any more, says nothing.
                if topology.is_empty() { Err(no_owner()) } else { Ok(topology) }
            }
        });
        let topology = most_say(asked, GRACE, NO_NODE).await?;
        debug!(servers = topology.nodes.len(), "found who has which slots");
        self.links.keep_only(|node| topology.nodes.contains(node) || self.seeds.contains(node));
        let masters = Mutex::new(topology.masters());
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = topology.nodes;
        Ok(View { masters, asked: Instant::now(), is_outdated: AtomicBool::new(false) })
    }

    /// Takes down that there is a server; says whether nobody knew of it.
    fn add(&self, node: &Node) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(node.clone())
    }
}

#[async_trait]
impl Connection for Cluster {
    async fn send(&self, request: Request<'_>) -> Result<Answer, RedisError> {
        let mut persistence = Persistence::new(request.access, self.patience);
        loop {
            let run = async |view: &View| self.try_to_run(&request, view, &persistence).await;
            match self.with_view(&persistence, run).await {
                Ok(reply) => return Ok(Answer { reply, is_repeat: persistence.is_repeat() }),
                Err(error) => persistence.pause_after(error).await?,
            }
        }
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
        let message = "the store keeps these keys on different machines; \
            the layout `partitioned` keeps those of a session together, and so does a prefix with a {hash tag}";
        Err(StorageError::new(StorageReason::Unsupported, Effect::None, message))
    }

    async fn scan(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError> {
        self.page(pattern, after).await
    }
}

/// Who has which slots.
struct View {
    masters: Mutex<HashMap<Slot, Arc<Node>>>,
    asked: Instant,
    is_outdated: AtomicBool,
}

impl View {
    /// The master of a slot, or any master.
    fn master_of(&self, slot: Option<Slot>) -> Result<Arc<Node>, RedisError> {
        let masters = self.masters.lock().unwrap_or_else(PoisonError::into_inner);
        let master = match slot {
            Some(slot) => masters.get(&slot),
            None => masters.values().next(),
        };
        master.map(Arc::clone).ok_or_else(no_owner)
    }

    /// All masters.
    fn masters(&self) -> BTreeSet<Arc<Node>> {
        self.masters.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// Takes down where a slot has gone.
    fn learn(&self, slot: Slot, master: Node) {
        debug!(?slot, %master, "a slot has moved");
        self.masters.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, Arc::new(master));
    }
}

impl Passing for View {
    fn is_over(&self) -> bool {
        self.is_outdated.load(Ordering::Acquire) || self.asked.elapsed() >= A_WHILE
    }

    fn give_up(&self, why: &dyn Display) {
        debug!(%why, "asking again who has which slots");
        self.is_outdated.store(true, Ordering::Release);
    }
}

fn no_owner() -> RedisError {
    make_extension_error(NO_OWNER.to_owned(), None)
}

fn is(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

/// Whether another server may have the slots by now: where one is out of reach, or says
/// that it does not serve them, or nobody has them.
fn may_have_changed(error: &RedisError) -> bool {
    let codes = ["CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", NO_OWNER];
    is_lost(error) || error.code().is_some_and(|code| codes.contains(&code))
}

/// The server that one names which has not, or not all of, what it was asked for. No
/// host is its own.
fn redirection(error: &RedisError, asked: &Node) -> Option<Node> {
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let host = if host.is_empty() { &asked.host } else { host };
    Some(Node { host: host.to_owned(), port: port.parse().ok()? })
}

/// The part of a key that says its slot, if not all of it does: what stands in the
/// first braces, if there is anything.
/// <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>
fn hash_tag(key: &str) -> Option<&str> {
    let (_, behind) = key.split_once('{')?;
    let (tag, _) = behind.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
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
}
