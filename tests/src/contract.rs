//! The contract of the stores and of the checkpointer, as functions. Every store
//! passes it, and the checkpointer passes it over every store in both modes. A
//! new store is complete when it passes.

pub mod checkpointer;
pub mod concurrency;
pub mod expiry;
pub mod partitioned;
pub mod quota;
pub mod scan_and_restore;
pub mod store;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ::checkpointer::store::{
    Batch, Expiry, Operation, PrefixedStore, Put, RedisStore, SqliteStore, Store, StoreUrl, Value,
};
use ::checkpointer::{DEFAULT_PREFIX, Error, Layout};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;

use crate::acl;
use crate::checkpointer_under_test::{CheckpointerUnderTest, Mode, Options};
use crate::fake_cluster::FakeCluster;
use crate::long_tests;
use crate::names::Names;
use crate::redis_cluster::RedisCluster;
use crate::redis_server::RedisServer;
use crate::sentinels::Sentinels;

/// The stores under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// SQLite in memory.
    Memory,
    /// SQLite in memory with the restrictions of a cluster.
    FakeCluster,
    /// SQLite in a file.
    File,
    /// A real redis-server.
    Redis,
    /// A real redis-server and a user with exactly the permissions of README.md.
    RedisUser,
    /// A real redis-server with two replicas that must acknowledge every write.
    RedisReplicas,
    /// A real valkey-server.
    Valkey,
    /// A real Redis Cluster. Keys may be in different slots.
    RedisCluster,
    /// One slot of a real Redis Cluster: all keys have the same hash tag.
    RedisSlot,
    /// A real master with two replicas, discovered through Sentinels.
    RedisSentinel,
}

impl Backend {
    /// Whether the contract runs on this store: on Valkey, and as the user with the
    /// permissions of README.md, it is a long test.
    pub fn is_requested(self) -> bool {
        match self {
            Self::Valkey => long_tests::are_requested("the contract on Valkey"),
            Self::RedisUser => long_tests::are_requested("the contract with the permissions of README.md"),
            _ => true,
        }
    }
}

/// A new and empty store.
pub struct TestStore {
    /// The store.
    pub inner: Arc<dyn Store>,
    /// The server, if there is exactly one master.
    pub server: Option<RedisServer>,
    /// The replicas of the server.
    pub replicas: Vec<RedisServer>,
    /// The cluster, if the store is one.
    pub cluster: Option<SharedCluster>,
    /// The Sentinels with their servers, if the store is discovered through them.
    pub sentinels: Option<SharedSentinels>,
    /// The prefix of all keys, which tests do not see.
    tag: &'static str,
    /// The layout of the checkpointers that [`TestStore::open`] opens.
    pub layout: Layout,
    is_fake_cluster: bool,
    file: Option<File>,
}

/// A cluster with exclusive access.
pub struct SharedCluster {
    // Dropped before the cluster.
    _guard: OwnedMutexGuard<()>,
    /// The cluster.
    pub cluster: Arc<RedisCluster>,
}

/// Sentinels with exclusive access.
pub struct SharedSentinels {
    // Dropped before the Sentinels.
    _guard: OwnedMutexGuard<()>,
    /// The Sentinels.
    pub sentinels: Arc<Sentinels>,
}

/// The prefix of the keys of [`Backend::RedisSlot`].
const TAG: &str = "{slot}";

/// A database file, with a second connection to it.
struct File {
    connection: Mutex<Connection>,
    _folder: TempDir,
}

impl TestStore {
    /// Creates a store.
    pub async fn new(backend: Backend) -> Self {
        match backend {
            Backend::Memory => {
                let store = SqliteStore::in_memory().await.expect("a database in memory");
                Self::of(Arc::new(store))
            }
            Backend::FakeCluster => {
                Self { is_fake_cluster: true, ..Box::pin(Self::new(Backend::Memory)).await }
            }
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
                // The keys of the contract have no common prefix.
                let rules = acl::rules(&acl::CONTRACT).into_iter();
                let rules: Vec<_> =
                    rules.map(|rule| if rule.starts_with('~') { "~*".to_owned() } else { rule }).collect();
                let url = acl::set_user(&server, &rules).await;
                Self::on(redis_store(&url), server, Vec::new())
            }
            Backend::RedisReplicas => {
                let server = RedisServer::start().await;
                let replicas = vec![server.start_replica().await, server.start_replica().await];
                // Long enough for a busy machine.
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
                let store = Box::pin(Self::new(Backend::RedisCluster)).await;
                Self { inner: Arc::new(PrefixedStore::new(Arc::clone(&store.inner), TAG)), tag: TAG, ..store }
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
            inner: store,
            server: None,
            replicas: Vec::new(),
            cluster: None,
            sentinels: None,
            tag: "",
            layout: Layout::Llmfy,
            is_fake_cluster: false,
            file: None,
        }
    }

    /// This store with another layout of checkpointers.
    pub fn in_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// The names of keys under the default prefix.
    pub fn names(&self) -> Names<'static> {
        Names { prefix: DEFAULT_PREFIX, layout: self.layout }
    }

    /// Creates a store like [`Backend::File`], in a memory file system if there
    /// is one: with a second connection to the database, and without waiting for
    /// a disk.
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

    /// Opens a checkpointer over the store, in its layout.
    pub async fn open(&self, mode: Mode, options: &Options) -> CheckpointerUnderTest {
        self.try_open(mode, options).await.expect("a checkpointer")
    }

    /// Opens a checkpointer over the store, which may fail.
    pub async fn try_open(&self, mode: Mode, options: &Options) -> Result<CheckpointerUnderTest, Error> {
        CheckpointerUnderTest::open(
            mode,
            self.accessed(),
            &Options { layout: self.layout, ..options.clone() },
        )
        .await
    }

    /// The store as checkpointers access it.
    fn accessed(&self) -> Arc<dyn Store> {
        let store = Arc::clone(&self.inner);
        if self.is_fake_cluster { FakeCluster::new(store) } else { store }
    }

    /// Shortens the remaining TTL of every key, as if this time had passed. Not
    /// for a database in memory, which has no second connection.
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

    /// Puts a text at a key without the checkpointer.
    pub async fn put(&self, key: &str, value: &str) {
        let put = Put { key: key.to_owned(), value: value.to_owned(), expiry: Expiry::Never };
        self.write(vec![Operation::Put(put)]).await;
    }

    /// Applies operations without the checkpointer.
    pub async fn write(&self, operations: Vec<Operation>) {
        let applied = self.inner.commit(vec![Batch { conditions: Vec::new(), operations }]).await;
        assert_eq!(applied, Ok(vec![true]));
    }

    /// The text at a key.
    pub async fn text(&self, key: &str) -> Option<String> {
        match self.inner.get(vec![key.to_owned()], None).await.expect("a value").remove(0) {
            Value::Text(text) => Some(text),
            Value::Absent => None,
            other => panic!("{other:?}"),
        }
    }

    /// The keys that expire. No call of a store returns them.
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
            return self.without_tag(expiring).collect();
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

    /// Deletes all keys.
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

    /// The masters, if the store has servers.
    async fn servers(&self) -> Vec<&RedisServer> {
        match (&self.cluster, &self.sentinels) {
            (Some(SharedCluster { cluster, .. }), _) => cluster.masters().await,
            (None, Some(SharedSentinels { sentinels, .. })) => vec![sentinels.master().await],
            (None, None) => self.server.iter().collect(),
        }
    }

    /// The names of keys without the hidden prefix.
    fn without_tag(&self, keys: BTreeSet<String>) -> impl Iterator<Item = String> {
        keys.into_iter().map(|key| key.strip_prefix(self.tag).map(str::to_owned).unwrap_or(key))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        let file = self.file.as_ref().expect("a database in a file");
        file.connection.lock().expect("nobody panics while holding it")
    }

    /// All keys with this prefix, in order.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        keys_after(&self.inner, prefix, None).await
    }
}

/// All keys with this prefix that a scan returns from a cursor on, in order.
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
