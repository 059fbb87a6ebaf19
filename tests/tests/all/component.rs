//! The shipped component: its imports and exports, its size, and the pool of its
//! instances.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::store::{
    Batch, Effect, Expiry, IndexPage, KeyPage, Query, SqliteStore, StorageError, Store, Value,
};
use checkpointer::{COMPONENT, Checkpointer, Error, HistoryQuery};
use checkpointer_tests::samples::checkpoint;
use tokio::time::Instant;
use wasmtime::Engine;
use wasmtime::component::Component;

#[test]
fn the_component_imports_only_keyvalue_and_types() {
    let engine = Engine::default();
    let component = Component::new(&engine, COMPONENT).expect("a component");
    let kind = component.component_type();
    let imports: Vec<_> = kind.imports(&engine).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(imports, ["flow:checkpoint/types@0.1.0", "flow:checkpoint/keyvalue@0.1.0"]);
    let exports: Vec<_> = kind.exports(&engine).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(exports, ["flow:checkpoint/checkpointer@0.1.0"]);
}

/// The component is optimized for speed. Optimized for size it would be 20 KB
/// smaller and its scanner slower.
#[test]
fn the_component_is_smaller_than_350_kb() {
    assert!(COMPONENT.len() < 350_000, "{} bytes", COMPONENT.len());
}

/// A store that panics or stalls on request.
struct MisbehavingStore {
    inner: SqliteStore,
    panics: AtomicBool,
    stalls: AtomicBool,
    /// The number of running calls, and its maximum.
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl MisbehavingStore {
    async fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: SqliteStore::in_memory().await.expect("a database in memory"),
            panics: AtomicBool::new(false),
            stalls: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    async fn misbehave(&self) {
        assert!(!self.panics.load(Ordering::SeqCst), "in a mood");
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        if self.stalls.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Store for MisbehavingStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.misbehave().await;
        self.inner.get(keys, max_value_bytes).await
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.misbehave().await;
        self.inner.ttl(keys).await
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        self.misbehave().await;
        self.inner.range(query).await
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        self.misbehave().await;
        self.inner.commit(batches).await
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        self.misbehave().await;
        self.inner.scan(prefix, after).await
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.inner.is_colocated(prefix)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_calls_overlap() {
    let store = MisbehavingStore::new().await;
    let checkpointer =
        Checkpointer::builder().open_store(Arc::clone(&store) as _).await.expect("a checkpointer");
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let checkpointer = checkpointer.clone();
            tokio::spawn(async move {
                let session = format!("s{number}");
                checkpointer.save(&checkpoint(&session, &session, "r", 1)).await.expect("saved");
                checkpointer.latest(&session).await.expect("loaded").expect("there").metadata.checkpoint_id
            })
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.expect("a task"), format!("s{number}"));
    }
    let most = store.most.load(Ordering::SeqCst);
    assert!(most > 32, "no more than {most} calls were under way at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_lost_during_a_call_is_replaced() {
    let store = MisbehavingStore::new().await;
    let checkpointer =
        Checkpointer::builder().open_store(Arc::clone(&store) as _).await.expect("a checkpointer");
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    for _ in 0..300 {
        // The store panics during the call.
        store.panics.store(true, Ordering::SeqCst);
        let lost = checkpointer.clone();
        assert!(tokio::spawn(async move { lost.latest("s").await.is_ok() }).await.is_err());
        store.panics.store(false, Ordering::SeqCst);
        // The caller is dropped during the call.
        store.stalls.store(true, Ordering::SeqCst);
        assert!(tokio::time::timeout(Duration::from_millis(1), checkpointer.latest("s")).await.is_err());
        store.stalls.store(false, Ordering::SeqCst);
    }
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 1)));
}

/// The paused clock advances only while every task waits.
#[tokio::test(start_paused = true)]
async fn the_65th_concurrent_call_fails_after_30_seconds_without_effect() {
    let store = MisbehavingStore::new().await;
    let checkpointer =
        Checkpointer::builder().open_store(Arc::clone(&store) as _).await.expect("a checkpointer");
    store.stalls.store(true, Ordering::SeqCst);
    let save = |number: u32| {
        let checkpointer = checkpointer.clone();
        async move { checkpointer.save(&checkpoint("s", &format!("c{number}"), "r", number)).await }
    };
    let hanging: Vec<_> = (0..64).map(|number| tokio::spawn(save(number))).collect();
    while store.inside.load(Ordering::SeqCst) < 64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let start = Instant::now();
    let error = save(64).await.expect_err("no instance is free");
    assert!(matches!(error, Error::Busy), "{error}");
    assert_eq!(error.effect(), Effect::None);
    assert_eq!(start.elapsed().as_secs(), 30);

    store.stalls.store(false, Ordering::SeqCst);
    for call in hanging {
        call.await.expect("a task").expect("saved in the end");
    }
    assert_eq!(checkpointer.load("s", "c64").await.expect("loaded"), None);
    save(64).await.expect("saved");
    let history = checkpointer.list(HistoryQuery::new("s").limit(100)).await.expect("a history");
    assert_eq!(history.checkpoints.len(), 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_checkpointers_share_the_pool_of_instances() {
    let mut open = Vec::new();
    for number in 0..600 {
        let checkpointer = Checkpointer::builder()
            .prefix(format!("tenant-{number}:"))
            .open_store(Arc::new(SqliteStore::in_memory().await.expect("a database in memory")))
            .await
            .expect("a checkpointer");
        checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
        open.push(checkpointer);
    }
    for checkpointer in &open {
        assert!(checkpointer.latest("s").await.expect("loaded").is_some());
    }
}
