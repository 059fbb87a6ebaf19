//! The checkpointer of a Rust application: retries, close, and the clock.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer_tests::eventually::eventually;
use checkpointer_tests::redis_server::RedisServer;
use tokio::time::sleep;

use checkpointer::store::{Batch, Expiry, IndexPage, KeyPage, ManualClock, Query, SqliteStore, Store, Value};
use checkpointer::{Checkpoint, Checkpointer, Error, Metadata, Retry, SaveOutcome};
use checkpointer::{Conflict, Effect, Run, StorageError, StorageReason};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A store with slow commits. The next ones can be made to time out after they took
/// effect.
pub(crate) struct FaultyStore {
    inner: SqliteStore,
    failures: AtomicUsize,
    commits: AtomicUsize,
}

impl FaultyStore {
    pub(crate) async fn new() -> Arc<Self> {
        let inner = SqliteStore::in_memory().await.expect("a store");
        Arc::new(Self { inner, failures: AtomicUsize::new(0), commits: AtomicUsize::new(0) })
    }

    pub(crate) fn fail(&self, commits: usize) {
        self.failures.store(commits, Ordering::SeqCst);
    }

    pub(crate) fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.inner.get(keys, max_value_bytes).await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.inner.ttl(keys).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.inner.range(query).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        sleep(Duration::from_millis(20)).await;
        let applied = self.inner.commit(batches).await?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        let fails = self.failures.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match fails {
            Ok(_) => Err(StorageError::new(StorageReason::Timeout, Effect::Unknown, "no reply")),
            Err(_) => Ok(applied),
        }
    }

    async fn scan(&self, prefix: String, cursor: Option<String>) -> Result<KeyPage, StorageError> {
        self.inner.scan(prefix, cursor).await
    }
}

fn retry() -> Retry {
    Retry::new(5).initial_backoff(Duration::from_millis(1))
}

fn checkpoint(id: &str) -> Checkpoint {
    Checkpoint::new(Metadata::new("session-1", id).run(Run::new("run-1")), "{}")
}

#[tokio::test]
async fn retry_of_a_save_whose_reply_was_lost_succeeds() {
    let store = FaultyStore::new().await;
    let checkpointer =
        Checkpointer::builder().retry(retry()).open_store(store.clone()).await.expect("opened");
    store.fail(2);
    let outcome = checkpointer.save_after(checkpoint("1"), None).await;
    assert_eq!(outcome.map_err(|error| error.to_string()), Ok(SaveOutcome::Latest));
    assert_eq!(checkpointer.list("session-1").await.expect("a history").checkpoints.len(), 1);
}

#[tokio::test]
async fn attempts_are_limited_and_conflicts_are_not_retried() {
    let store = FaultyStore::new().await;
    let checkpointer =
        Checkpointer::builder().retry(retry()).open_store(store.clone()).await.expect("opened");
    store.fail(100);
    let error = checkpointer.save(checkpoint("1")).await.expect_err("no reply");
    assert_eq!((error.effect(), store.commits()), (Effect::Unknown, 5));
    store.fail(0);
    let conflict = checkpointer.save_after(checkpoint("2"), None).await;
    assert!(matches!(conflict, Err(Error::Conflict(Conflict::NotLatest { .. }))), "{conflict:?}");
}

#[tokio::test]
async fn close_waits_for_running_calls_and_refuses_later_ones() {
    let store = FaultyStore::new().await;
    let checkpointer = Checkpointer::builder().open_store(store.clone()).await.expect("opened");
    let clone = checkpointer.clone();
    let save = tokio::spawn(async move { clone.save(checkpoint("1")).await });
    // The runtime of this test has one thread: the save runs until its commit sleeps.
    tokio::task::yield_now().await;
    checkpointer.close().await;
    assert_eq!(store.commits(), 1);
    assert!(save.await.expect("no panic").is_ok());
    assert!(matches!(checkpointer.latest("session-1").await, Err(Error::Closed)));
    assert_eq!(Arc::strong_count(&store), 1);
    checkpointer.close().await;
}

#[tokio::test]
async fn close_closes_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("checkpoints.db");
    let checkpointer = Checkpointer::open(&format!("sqlite:{}", file.display())).await.expect("opened");
    checkpointer.save(checkpoint("1")).await.expect("saved");
    // SQLite deletes the write-ahead log with the last connection.
    let log = folder.path().join("checkpoints.db-wal");
    assert!(log.exists());
    let _clone = checkpointer.clone();
    checkpointer.close().await;
    assert!(!log.exists());
}

#[tokio::test]
async fn close_ends_the_connections_to_redis() {
    let server = RedisServer::start().await;
    let checkpointer = Checkpointer::open(&server.url()).await.expect("opened");
    let connections = async || {
        let clients: String = server.command(&["CLIENT", "LIST"]).await;
        clients.lines().count()
    };
    let before = connections().await;
    checkpointer.save(checkpoint("1")).await.expect("saved");
    assert!(connections().await > before);
    let _clone = checkpointer.clone();
    checkpointer.close().await;
    eventually("the connections end", async || connections().await == before).await;
}

#[tokio::test]
async fn manual_clock_drives_expiry_and_is_for_the_memory_store_only() {
    let clock = ManualClock::new();
    let builder = Checkpointer::builder().ttl(DAY).clock(clock.clone());
    let checkpointer = builder.clone().open("memory:").await.expect("opened");
    checkpointer.save(checkpoint("1")).await.expect("saved");
    clock.advance(DAY - Duration::from_millis(1));
    assert!(checkpointer.latest("session-1").await.expect("loaded").is_some());
    clock.advance(Duration::from_millis(1));
    assert_eq!(checkpointer.latest("session-1").await.expect("loaded"), None);

    let other = builder.open("redis://localhost").await;
    assert!(matches!(other, Err(Error::InvalidArgument(_))), "{other:?}");
}

#[test]
fn call_outside_of_a_runtime_is_an_error() {
    let open = pin!(Checkpointer::open("memory:"));
    let result = open.poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(result, Poll::Ready(Err(Error::NoRuntime))), "{result:?}");
}
