//! The contract, as functions that every store passes, and for the checkpointer
//! every store both natively and through the component. A new store is done
//! when it passes.

pub mod checkpointer;
pub mod concurrency;
pub mod lifetime;
pub mod moving;
pub mod partitioned;
pub mod quota;
pub mod store;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ::checkpointer::store::{
    StoreUrl, Batch, Expiry, Operation, PrefixedStore, Put, RedisStore, SqliteStore, Store, Value,
};
use ::checkpointer::{DEFAULT_PREFIX, Error, Layout};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;

use crate::acl;
use crate::names::Names;
use crate::redis_cluster::RedisCluster;
use crate::redis_server::RedisServer;
use crate::sentinels::Sentinels;
use crate::fake_cluster::FakeCluster;
use crate::checkpointer_under_test::{Mode, Options, CheckpointerUnderTest};

/// The stores that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// SQLite in memory.
    Memory,
    /// The same, for checkpointers like a store that is spread over many machines.
    FakeCluster,
    /// SQLite in a file.
    File,
    /// A real redis-server.
    Redis,
    /// The same for a user who may do what README.md says, and nothing else.
    RedisUser,
    /// A real redis-server with two replicas, which have every write that was
    /// acknowledged.
    RedisReplicas,
    /// A real valkey-server.
    Valkey,
    /// A real Redis Cluster, of which no two keys need be in one slot.
    RedisCluster,
    /// A part of one whose keys all carry a hash tag.
    RedisSlot,
    /// A real master with two replicas, found through sentinels.
    RedisSentinel,
}

/// A new and empty store of some kind.
pub struct TestStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The server, if there is one.
    pub server: Option<RedisServer>,
    /// Its replicas.
    pub replicas: Vec<RedisServer>,
    /// The cluster, if it is one.
    pub cluster: Option<SharedCluster>,
    /// The sentinels with their servers, if they are the way to the store.
    pub sentinels: Option<SharedSentinels>,
    /// What all its keys begin with, unseen.
    tag: &'static str,
    /// The layout that checkpointers are opened with.
    pub layout: Layout,
    is_spread: bool,
    file: Option<File>,
}

/// A cluster that nobody else uses meanwhile.
pub struct SharedCluster {
    // Given back before the cluster may end.
    _guard: OwnedMutexGuard<()>,
    /// The cluster.
    pub cluster: Arc<RedisCluster>,
}

/// Sentinels that nobody else uses meanwhile.
pub struct SharedSentinels {
    // Given back before the sentinels may end.
    _guard: OwnedMutexGuard<()>,
    /// The sentinels.
    pub sentinels: Arc<Sentinels>,
}

/// What the keys of [`Backend::RedisSlot`] begin with.
const TAG: &str = "{slot}";

/// A database, and a way into it past the store.
struct File {
    connection: Mutex<Connection>,
    _folder: TempDir,
}

impl TestStore {
    /// Makes one.
    pub async fn new(kind: Backend) -> Self {
        match kind {
            Backend::Memory => {
                let store = SqliteStore::in_memory().await.expect("a database in memory");
                Self::of(Arc::new(store))
            }
            Backend::FakeCluster => Self { is_spread: true, ..Box::pin(Self::new(Backend::Memory)).await },
            Backend::File => Self::in_folder(TempDir::new().expect("a temporary folder")).await,
            Backend::Redis => {
                let server = RedisServer::start().await;
                Self::on(redis_store(&server.url()), server, Vec::new())
            }
            Backend::Valkey => {
                let server = RedisServer::start_valkey_with(&[]).await;
                Self::on(redis_store(&server.url()), server, Vec::new())
            }
            Backend::RedisUser => {
                let server = RedisServer::start().await;
                // What the contract's keys all begin with is nothing.
                let rules = acl::rules(&acl::CONTRACT).into_iter();
                let rules: Vec<_> =
                    rules.map(|rule| if rule.starts_with('~') { "~*".to_owned() } else { rule }).collect();
                let url = acl::set_user(&server, &rules).await;
                Self::on(redis_store(&url), server, Vec::new())
            }
            Backend::RedisReplicas => {
                let server = RedisServer::start().await;
                let replicas = vec![server.start_replica().await, server.start_replica().await];
                // Enough time for a busy machine.
                let url = format!("{}?replicas=2&replica_timeout=30", server.url());
                Self::on(redis_store(&url), server, replicas)
            }
            Backend::RedisCluster => {
                let (cluster, guard) = RedisCluster::shared().await;
                let store = redis_store(&cluster.url());
                let cluster = Some(SharedCluster { cluster, _guard: guard });
                Self { cluster, ..Self::of(store) }
            }
            Backend::RedisSlot => {
                let place = Box::pin(Self::new(Backend::RedisCluster)).await;
                Self { store: Arc::new(PrefixedStore::new(Arc::clone(&place.store), TAG)), tag: TAG, ..place }
            }
            Backend::RedisSentinel => {
                let (sentinels, guard) = Sentinels::shared().await;
                let store = redis_store(&sentinels.url());
                let sentinels = Some(SharedSentinels { sentinels, _guard: guard });
                Self { sentinels, ..Self::of(store) }
            }
        }
    }

    fn on(store: Arc<dyn Store>, server: RedisServer, replicas: Vec<RedisServer>) -> Self {
        Self { server: Some(server), replicas, ..Self::of(store) }
    }

    fn of(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            server: None,
            replicas: Vec::new(),
            cluster: None,
            sentinels: None,
            tag: "",
            layout: Layout::Llmfy,
            is_spread: false,
            file: None,
        }
    }

    /// The same for checkpointers of another layout.
    pub fn in_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// The names of keys under the usual prefix.
    pub fn names(&self) -> Names<'static> {
        Names { prefix: DEFAULT_PREFIX, layout: self.layout }
    }

    /// Makes one of the kind [`Backend::File`], but in memory where the system has
    /// files there: it can be looked into, and costs no time.
    pub async fn in_memory_file() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Self::in_folder(folder.expect("a temporary folder")).await
    }

    async fn in_folder(folder: TempDir) -> Self {
        let path = folder.path().join("checkpoints.db");
        let store = SqliteStore::open(&path).await.expect("a database");
        let connection = Mutex::new(Connection::open(&path).expect("the same database"));
        Self { file: Some(File { connection, _folder: folder }), ..Self::of(Arc::new(store)) }
    }

    /// Opens a checkpointer over it, in its layout.
    pub async fn open(&self, mode: Mode, opening: &Options) -> CheckpointerUnderTest {
        self.try_open(mode, opening).await.expect("a checkpointer")
    }

    /// The same, which may be refused.
    pub async fn try_open(&self, mode: Mode, opening: &Options) -> Result<CheckpointerUnderTest, Error> {
        CheckpointerUnderTest::open(mode, self.reached(), &Options { layout: self.layout, ..opening.clone() }).await
    }

    /// The store as checkpointers reach it.
    fn reached(&self) -> Arc<dyn Store> {
        let store = Arc::clone(&self.store);
        if self.is_spread { FakeCluster::new(store) } else { store }
    }

    /// Lets time pass for all that expires, as its store has noted it, without
    /// waiting. A database in memory can't be reached for that.
    pub async fn pass(&self, time: Duration) {
        let milliseconds = time.as_millis().to_string();
        let servers = self.servers().await;
        if !servers.is_empty() {
            let earlier = "for _, key in ipairs(redis.call('KEYS', '*')) do
                 local left = redis.call('PTTL', key)
                 if left >= 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
             end";
            for server in servers {
                server.command::<redis::Value>(&["EVAL", earlier, "0", &milliseconds]).await;
            }
            return;
        }
        for table in ["checkpointer_value", "checkpointer_index"] {
            let earlier = format!("UPDATE {table} SET expires_at = expires_at - {milliseconds}");
            self.connection().execute_batch(&earlier).expect("earlier");
        }
    }

    /// Puts a text at a key, as anybody else might.
    pub async fn put(&self, key: &str, value: &str) {
        let put = Put { key: key.to_owned(), value: value.to_owned(), expiry: Expiry::Never };
        self.write(vec![Operation::Put(put)]).await;
    }

    /// Applies operations, as anybody else might.
    pub async fn write(&self, operations: Vec<Operation>) {
        let applied = self.store.commit(vec![Batch { conditions: Vec::new(), operations }]).await;
        assert_eq!(applied, Ok(vec![true]));
    }

    /// The text at a key.
    pub async fn text(&self, key: &str) -> Option<String> {
        match self.store.get(vec![key.to_owned()], None).await.expect("a value").remove(0) {
            Value::Text(text) => Some(text),
            Value::Absent => None,
            other => panic!("{other:?}"),
        }
    }

    /// The keys that go away by themselves, which no call of a store tells.
    pub async fn expiring(&self) -> BTreeSet<String> {
        let servers = self.servers().await;
        if !servers.is_empty() {
            let script = "local expiring = {}
                for _, key in ipairs(redis.call('KEYS', '*')) do
                    if redis.call('PTTL', key) >= 0 then expiring[#expiring + 1] = key end
                end
                return expiring";
            let mut expiring = BTreeSet::new();
            for server in servers {
                expiring.extend(server.command::<Vec<String>>(&["EVAL", script, "0"]).await);
            }
            return self.of_this_place(expiring).collect();
        }
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(
                "SELECT key FROM checkpointer_value WHERE expires_at IS NOT NULL UNION
                 SELECT name FROM checkpointer_index WHERE expires_at IS NOT NULL AND name IS NOT NULL",
            )
            .expect("SQL");
        let keys = statement.query_map([], |row| row.get(0)).expect("an answer");
        keys.map(|key| key.expect("a key")).collect()
    }

    /// Removes all that there is.
    pub async fn clear(&self) {
        let servers = self.servers().await;
        for server in &servers {
            server.command::<redis::Value>(&["FLUSHALL"]).await;
        }
        if servers.is_empty() {
            let nothing = "DELETE FROM checkpointer_value; DELETE FROM checkpointer_index;
                DELETE FROM checkpointer_member; DELETE FROM checkpointer_ledger;
                DELETE FROM checkpointer_ledger_entry";
            self.connection().execute_batch(nothing).expect("an empty database");
        }
    }

    /// The servers that keep something, if there are any.
    async fn servers(&self) -> Vec<&RedisServer> {
        match (&self.cluster, &self.sentinels) {
            (Some(SharedCluster { cluster, .. }), _) => cluster.masters().await,
            (None, Some(SharedSentinels { sentinels, .. })) => vec![sentinels.master().await],
            (None, None) => self.server.iter().collect(),
        }
    }

    /// The keys as the store names them.
    fn of_this_place(&self, keys: BTreeSet<String>) -> impl Iterator<Item = String> {
        keys.into_iter().map(|key| key.strip_prefix(self.tag).map(str::to_owned).unwrap_or(key))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        let file = self.file.as_ref().expect("a database in a file");
        file.connection.lock().expect("nobody panics while holding it")
    }

    /// All keys that begin with `prefix`, in order.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        keys_after(&self.store, prefix, None).await
    }
}

/// All keys that begin with `prefix` and that a scan still gives from here, in order.
pub async fn keys_after(store: &Arc<dyn Store>, prefix: &str, mut after: Option<String>) -> Vec<String> {
    let mut keys = BTreeSet::new();
    loop {
        let page = store.scan(prefix.to_owned(), after).await.expect("a page of keys");
        keys.extend(page.keys);
        after = page.next_cursor;
        if after.is_none() {
            return keys.into_iter().collect();
        }
    }
}

/// The store of a Redis server.
pub fn redis_store(url: &str) -> Arc<dyn Store> {
    match url.parse() {
        Ok(StoreUrl::Redis(url)) => Arc::new(RedisStore::new(&url).expect("a Redis store")),
        other => panic!("{url}: {other:?}"),
    }
}
