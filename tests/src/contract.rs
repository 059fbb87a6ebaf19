//! The contract, as functions that every store passes, and for the checkpointer
//! every store both natively and through the component. A new store is done
//! when it passes.

pub mod checkpointer;
pub mod concurrency;
pub mod lifetime;
pub mod store;

use std::sync::Arc;
use std::time::Duration;

use ::checkpointer::store::{Address, Batch, Expiry, Operation, Put, RedisStore, SqliteStore, Store, Value};
use tempfile::TempDir;

use crate::redis_server::RedisServer;
use crate::subject::{Mode, Opening, Subject};

const DATABASE: &str = "checkpoints.db";

/// The stores that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SQLite in memory.
    Memory,
    /// SQLite in a file.
    File,
    /// A real redis-server.
    Redis,
}

/// A new and empty store of some kind.
pub struct Place {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The server, if there is one.
    pub server: Option<RedisServer>,
    folder: Option<TempDir>,
}

impl Place {
    /// Makes one.
    pub async fn new(kind: Kind) -> Self {
        match kind {
            Kind::Memory => {
                let store = SqliteStore::in_memory().await.expect("a database in memory");
                Self { store: Arc::new(store), server: None, folder: None }
            }
            Kind::File => {
                let folder = TempDir::new().expect("a temporary folder");
                let store = SqliteStore::open(&folder.path().join(DATABASE)).await.expect("a database");
                Self { store: Arc::new(store), server: None, folder: Some(folder) }
            }
            Kind::Redis => {
                let server = RedisServer::start().await;
                Self { store: redis_store(&server.url()), server: Some(server), folder: None }
            }
        }
    }

    /// Opens a checkpointer over it.
    pub async fn open(&self, mode: Mode, opening: &Opening) -> Subject {
        Subject::open(mode, Arc::clone(&self.store), opening).await.expect("a checkpointer")
    }

    /// Lets time pass for all that expires, as its store has noted it, without
    /// waiting. A database in memory can't be reached for that.
    pub async fn pass(&self, time: Duration) {
        let milliseconds = time.as_millis().to_string();
        match (&self.server, &self.folder) {
            (Some(server), _) => {
                let earlier = "for _, key in ipairs(redis.call('KEYS', '*')) do
                     local left = redis.call('PTTL', key)
                     if left >= 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
                 end";
                server.command::<()>(&["EVAL", earlier, "0", &milliseconds]).await;
            }
            (None, Some(folder)) => {
                let database = rusqlite::Connection::open(folder.path().join(DATABASE)).expect("a database");
                for table in ["checkpointer_value", "checkpointer_index"] {
                    let earlier = format!("UPDATE {table} SET expires_at = expires_at - {milliseconds}");
                    database.execute_batch(&earlier).expect("earlier");
                }
            }
            (None, None) => panic!("time does not pass for a database in memory"),
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

    /// All keys that begin with `prefix`, in order.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.scan(prefix.to_owned(), after).await.expect("a page of keys");
            keys.extend(page.keys);
            after = page.next;
            if after.is_none() {
                keys.sort();
                keys.dedup();
                return keys;
            }
        }
    }
}

/// The store of a Redis server.
pub fn redis_store(url: &str) -> Arc<dyn Store> {
    match url.parse() {
        Ok(Address::Redis(address)) => Arc::new(RedisStore::new(&address).expect("a Redis store")),
        other => panic!("{url}: {other:?}"),
    }
}
