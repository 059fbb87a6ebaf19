//! A Redis Cluster of three masters with a replica each. It also passes the
//! contract in `contract.rs`.
//!
//! - `migration`: slots that migrate from one master to another.
//! - `failover`: masters that are killed, stall or are replaced, and replica
//!   acknowledgements.

mod failover;
mod migration;

use checkpointer::store::{Batch, Condition, Effect, Expiry, Operation, Put, Quota, StorageReason};
use checkpointer::{Checkpointer, Error, Layout};
use checkpointer_tests::contract::{Backend, TestStore, redis_store};
use checkpointer_tests::errors::storage_fields;
use checkpointer_tests::names::Names;
use checkpointer_tests::redis_cluster::RedisCluster;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::checkpoint;

/// Longer than a failover takes on a busy machine.
const PATIENT: &str = "response_timeout=30";

const PARTITIONED: Names<'static> =
    Names { prefix: checkpointer::DEFAULT_PREFIX, layout: Layout::Partitioned };

async fn open(url: &str) -> Checkpointer {
    Checkpointer::builder().layout(Layout::Partitioned).open(url).await.expect("a checkpointer")
}

async fn open_patiently(cluster: &RedisCluster, options: &str) -> Checkpointer {
    open(&format!("{}?{PATIENT}{options}", cluster.url())).await
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(Put { key: key.to_owned(), value: value.to_owned(), expiry: Expiry::Never })
}

fn delete(key: &str) -> Operation {
    Operation::Delete(key.to_owned())
}

fn absent(key: &str) -> Condition {
    Condition::Absent(key.to_owned())
}

fn batch(conditions: Vec<Condition>, operations: Vec<Operation>) -> Batch {
    Batch { conditions: conditions.into_iter().map(|condition| vec![condition]).collect(), operations }
}

#[tokio::test(flavor = "multi_thread")]
async fn layout_llmfy_is_rejected_without_a_hash_tag() {
    let (cluster, _guard) = RedisCluster::shared().await;
    let open = async |prefix: &str| Checkpointer::builder().prefix(prefix).open(&cluster.url()).await;
    let Err(Error::InvalidArgument(message)) = open("app:").await else { panic!("it is not refused") };
    assert!(message.contains("{app}:") && message.contains("partitioned"), "{message}");
    let tagged = open("{app}:").await.expect("a checkpointer");
    for session in ["a", "b"] {
        tagged.save(&checkpoint(session, &format!("{session}1"), "r", 1)).await.expect("saved");
    }
    assert_eq!(tagged.clear_all().await.expect("cleared"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_distributed_over_all_masters_and_cleared_on_all() {
    let (cluster, _guard) = RedisCluster::shared().await;
    let checkpointer = open(&cluster.url()).await;
    for number in 0..60 {
        checkpointer.save(&checkpoint(&format!("s{number}"), "c", "r", number)).await.expect("saved");
    }
    for master in cluster.masters().await {
        let size: u32 = master.command(&["DBSIZE"]).await;
        assert!(size >= 3 * 5, "a master has {size} keys only");
    }
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 60);
    for master in cluster.masters().await {
        assert_eq!(master.command::<u32>(&["DBSIZE"]).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_different_slots_are_rejected_in_one_commit() {
    let store = TestStore::new(Backend::RedisCluster).await;
    let put = |key: &str| {
        let put = Put { key: key.to_owned(), value: String::new(), expiry: Expiry::Never };
        Operation::Put(put)
    };
    let batch = |keys: [&str; 2]| vec![Batch { conditions: Vec::new(), operations: keys.map(put).to_vec() }];
    let error = store.inner.commit(batch(["a", "b"])).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::Unsupported, Effect::None));
    assert!(error.message.contains("partitioned"), "{}", error.message);
    assert_eq!(store.keys("").await, [""; 0]);
    assert_eq!(store.inner.commit(batch(["{a}", "a"])).await, Ok(vec![true]));
    // Keys of a read may be in different slots.
    let values =
        store.inner.get(["a", "b", "{a}"].map(String::from).to_vec(), Some(9)).await.expect("values");
    assert_eq!(values.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_enforced_if_its_ledger_is_in_the_same_slot() {
    let store = TestStore::new(Backend::RedisCluster).await;
    let put = |key: &str| {
        let put = Put { key: key.to_owned(), value: String::new(), expiry: Expiry::Never };
        vec![Batch { conditions: Vec::new(), operations: vec![Operation::Put(put)] }]
    };
    let two = |ledger: &str| Quota::new(ledger, Some(2), None);
    let apart = store.inner.commit_with_quota(&two("tenant:\0quota"), put("tenant:{s}")).await;
    assert_eq!(apart.expect_err("refused").reason, StorageReason::Unsupported);
    assert_eq!(store.keys("").await, [""; 0]);
    let together = two("{tenant}:\0quota");
    for (key, expected) in [("{tenant}:a", true), ("{tenant}:b", true), ("{tenant}:c", false)] {
        let applied = store.inner.commit_with_quota(&together, put(key)).await;
        assert_eq!(
            applied.map_err(|error| error.reason),
            expected.then(|| vec![true]).ok_or(StorageReason::Full)
        );
    }
    assert_eq!(store.inner.reconcile_quota(&together, None).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_or_missing_cluster_is_reported() {
    let (cluster, _guard) = RedisCluster::shared().await;
    let failure = async |url: &str| {
        let checkpointer = open(url).await;
        storage_fields(checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect_err("not saved"))
    };
    let (reason, effect, message) =
        failure("redis-cluster://127.0.0.1:1,127.0.0.1:2?response_timeout=1").await;
    assert_eq!((reason, effect), (StorageReason::Unavailable, Effect::None), "{message}");
    let (reason, effect, message) = failure(&cluster.url().replace("//", "//nobody:secret@")).await;
    assert_eq!((reason, effect), (StorageReason::AccessDenied, Effect::None), "{message}");
    let alone = RedisServer::start().await;
    let expected =
        (StorageReason::Unsupported, Effect::None, "the store is one server and no cluster".to_owned());
    assert_eq!(failure(&format!("redis-cluster://127.0.0.1:{}", alone.port())).await, expected);
    // One reachable server is enough to discover the others.
    let url = cluster.url().replace("redis-cluster://", "redis-cluster://127.0.0.1:1,");
    let store = redis_store(&url);
    assert_eq!(store.get(vec!["k".to_owned()], None).await.expect("an answer").len(), 1);
}
