//! A server that is killed repeatedly while tasks save.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use checkpointer::store::StorageReason;
use checkpointer::{Checkpoint, Checkpointer, Error, StorageError};
use checkpointer_tests::random::milliseconds;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::checkpoint;

const WRITERS: usize = 4;
const KILLS: usize = 10;

/// Maximum time without an acknowledged save after the server has restarted.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_saves_survive_kills_of_the_server() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let checkpointer =
        Checkpointer::builder().ttl(Duration::from_secs(600)).open(&server.url()).await.expect("opened");
    let writers: Vec<_> =
        (0..WRITERS).map(|number| Arc::new(Writer::new(checkpointer.clone(), number))).collect();
    let tasks: Vec<_> =
        writers.iter().map(|writer| tokio::spawn(Arc::clone(writer).write_until_told())).collect();

    for kill in 0..KILLS {
        // The server is killed only after every writer has reconnected.
        for writer in &writers {
            writer.wait_for_another().await;
        }
        tokio::time::sleep(milliseconds(0..300)).await;
        server.kill().await;
        tokio::time::sleep(milliseconds(0..50)).await;
        let acknowledged: Vec<_> = writers.iter().map(|writer| writer.acknowledged()).collect();
        server.restart().await;
        let snapshot = Snapshot::of(&server).await;
        snapshot.check();
        for checkpoint in acknowledged.iter().flatten() {
            let id = &checkpoint.metadata.checkpoint_id;
            assert!(snapshot.documents.contains(id), "{id} was acknowledged and is gone after kill {kill}");
        }
    }
    for writer in &writers {
        writer.wait_for_another().await;
        writer.stops.store(true, Ordering::SeqCst);
    }
    for task in tasks {
        task.await.expect("a writer met nothing but a server that is away");
    }

    let snapshot = Snapshot::of(&server).await;
    snapshot.check();
    let mut acknowledged = 0;
    for saved in writers.iter().flat_map(|writer| writer.acknowledged()) {
        let Checkpoint { metadata, .. } = &saved;
        let loaded = checkpointer.load(&metadata.session_id, &metadata.checkpoint_id).await;
        assert_eq!(loaded.expect("loaded").as_ref(), Some(&saved));
        acknowledged += 1;
    }
    // Each writer retried every save until it was acknowledged.
    assert_eq!(snapshot.documents.len(), acknowledged);
    let failures: usize = writers.iter().map(|writer| writer.failures.load(Ordering::SeqCst)).sum();
    println!("{acknowledged} saves were acknowledged over {KILLS} kills; {failures} attempts failed");
}

/// Saves checkpoints one after another in a session of its own.
struct Writer {
    checkpointer: Checkpointer,
    session: String,
    stops: AtomicBool,
    acknowledged: Mutex<Vec<Checkpoint>>,
    failures: AtomicUsize,
}

impl Writer {
    fn new(checkpointer: Checkpointer, number: usize) -> Self {
        Self {
            checkpointer,
            session: format!("session-{number}"),
            stops: AtomicBool::new(false),
            acknowledged: Mutex::new(Vec::new()),
            failures: AtomicUsize::new(0),
        }
    }

    /// Retries failed saves until they are acknowledged.
    async fn write_until_told(self: Arc<Self>) {
        for number in 0.. {
            if self.stops.load(Ordering::SeqCst) {
                return;
            }
            let next = checkpoint(&self.session, &format!("{}-{number}", self.session), "r", number);
            while let Err(error) = self.checkpointer.save(&next).await {
                let expected = matches!(
                    error,
                    Error::Storage(StorageError {
                        reason: StorageReason::Unavailable | StorageReason::Timeout,
                        ..
                    })
                );
                assert!(expected, "{error:?}");
                self.failures.fetch_add(1, Ordering::SeqCst);
            }
            self.acknowledged.lock().expect("a list").push(next);
        }
    }

    fn acknowledged(&self) -> Vec<Checkpoint> {
        self.acknowledged.lock().expect("a list").clone()
    }

    async fn wait_for_another(&self) {
        let (before, start) = (self.acknowledged().len(), Instant::now());
        while self.acknowledged().len() == before {
            assert!(start.elapsed() < PATIENCE, "{} does not go on", self.session);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A consistent snapshot of a server.
struct Snapshot {
    /// The ids of the documents.
    documents: BTreeSet<String>,
    /// The members of each index.
    indexes: BTreeMap<String, BTreeSet<String>>,
    /// The remaining TTL of each key in milliseconds.
    left: BTreeMap<String, i64>,
}

impl Snapshot {
    /// A script sees no concurrent writes.
    const SCRIPT: &str = "
        local keys = {}
        for i, key in ipairs(redis.call('KEYS', 'llmfy_checkpoint:*')) do
          local is_index = redis.call('TYPE', key).ok == 'zset'
          local members = is_index and redis.call('ZRANGE', key, 0, -1) or {}
          keys[i] = { key, redis.call('PTTL', key), members }
        end
        return keys";

    async fn of(server: &RedisServer) -> Self {
        let keys: Vec<(String, i64, Vec<String>)> = server.command(&["EVAL", Self::SCRIPT, "0"]).await;
        let mut snapshot =
            Self { documents: BTreeSet::new(), indexes: BTreeMap::new(), left: BTreeMap::new() };
        for (key, left, members) in keys {
            match key.strip_prefix("llmfy_checkpoint:checkpoint:") {
                Some(id) => drop(snapshot.documents.insert(id.to_owned())),
                None => drop(snapshot.indexes.insert(key.clone(), members.into_iter().collect())),
            }
            snapshot.left.insert(key, left);
        }
        snapshot
    }

    /// The indexes of the sessions and of the runs contain exactly the existing
    /// documents, and all keys expire.
    fn check(&self) {
        let named = |of_runs: bool| {
            let indexes = self.indexes.iter().filter(|(key, _)| key.ends_with(":run:r") == of_runs);
            indexes.flat_map(|(_, members)| members.clone()).collect::<BTreeSet<_>>()
        };
        assert_eq!(self.indexes.len(), 2 * WRITERS);
        assert_eq!(named(false), self.documents);
        assert_eq!(named(true), self.documents);
        for (key, left) in &self.left {
            assert!(*left > 0, "{key} has no expiry");
        }
    }
}
