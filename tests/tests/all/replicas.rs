//! Saves that are acknowledged only when replicas have them, or have them on
//! disk.

use std::time::Duration;

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Checkpointer, Error, HistoryQuery};
use checkpointer_tests::acl::{CONTRACT, rules, set_user};
use checkpointer_tests::checkpointer_under_test::Mode;
use checkpointer_tests::contract::{self, Backend, TestStore, redis_store};
use checkpointer_tests::errors::{reason_and_effect, storage_error, storage_fields};
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::checkpoint;

macro_rules! contract_of_saves {
    ($($part:ident: { $($promise:ident,)* })*) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let store = TestStore::new(Backend::RedisReplicas).await;
                contract_of_saves!(@ $part $promise store);
                assert_replicated(&store).await;
            }
        )*)*
    };
    (@ store $promise:ident $store:ident) => { contract::store::$promise(&$store).await };
    (@ quota $promise:ident $store:ident) => { contract::quota::$promise(&$store).await };
    (@ $part:ident $promise:ident $store:ident) => {
        contract::$part::$promise(&$store, Mode::Component).await
    };
}

contract_of_saves! {
    store: {
        a_batch_is_applied_only_if_its_conditions_hold,
        batches_are_applied_in_order,
        concurrent_conditional_puts_have_exactly_one_winner,
    }
    quota: {
        a_full_bucket_rejects_a_commit_and_writes_nothing,
        concurrent_writers_never_exceed_a_quota,
    }
    checkpointer: {
        a_loaded_checkpoint_equals_the_saved_one,
        saving_an_id_again_moves_its_index_entries,
        sessions_are_isolated,
        deletion_returns_the_count_and_leaves_no_key,
        max_checkpoints_removes_the_oldest,
    }
    concurrency: {
        a_save_racing_a_delete_leaves_consistent_indexes,
        concurrent_saves_of_different_ids_succeed_at_the_first_attempt,
        save_after_reports_the_actual_latest,
        concurrent_save_after_has_exactly_one_winner,
        max_checkpoints_holds_under_concurrency,
    }
}

/// An acknowledged save is in the replicas without further waiting.
async fn assert_replicated(store: &TestStore) {
    let server = store.server.as_ref().expect("a server");
    for replica in &store.replicas {
        assert_eq!(replica.keyspace().await, server.keyspace().await);
    }
}

/// A server with two replicas, and a checkpoint that all have.
async fn servers() -> (RedisServer, [RedisServer; 2]) {
    let server = RedisServer::start().await;
    let replicas = [server.start_replica().await, server.start_replica().await];
    open(&server, PATIENT).await.save(&checkpoint("s", "a", "r", 1)).await.expect("saved");
    (server, replicas)
}

async fn open(server: &RedisServer, options: &str) -> Checkpointer {
    Checkpointer::open(&format!("{}?{options}", server.url())).await.expect("a checkpointer")
}

/// The message of a save that too few replicas acknowledged.
fn too_few(error: Error) -> String {
    let (reason, effect, message) = storage_fields(error);
    assert_eq!((reason, effect), (StorageReason::Unavailable, Effect::Unknown), "{message}");
    message
}

/// Long enough for a busy machine.
const PATIENT: &str = "replicas=2&replica_timeout=30";
const ONE: &str = "only 1 of 2 replicas has the write; it may be lost in a failover";
const NONE: &str = "only 0 of 2 replicas have the write; it may be lost in a failover";

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_save_is_in_the_replicas() {
    let (server, replicas) = servers().await;
    let checkpointer = open(&server, PATIENT).await;
    for number in 0..100 {
        let id = format!("c{number}");
        checkpointer.save(&checkpoint("s", &id, "r", number)).await.expect("saved");
        for replica in &replicas {
            let there: u32 = replica.command(&["EXISTS", &format!("llmfy_checkpoint:checkpoint:{id}")]).await;
            assert_eq!(there, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_without_replica_acknowledgement_fails_and_can_be_retried() {
    let (server, replicas) = servers().await;
    let checkpointer = open(&server, "replicas=2&replica_timeout=0.2").await;
    replicas[0].signal("-STOP").await;
    let (b, c) = (checkpoint("s", "b", "r", 2), checkpoint("s", "c", "r", 3));
    for _ in 0..2 {
        assert_eq!(too_few(checkpointer.save(&b).await.expect_err("not in both")), ONE);
        assert_eq!(checkpointer.latest("s").await.expect("loaded").as_ref(), Some(&b));
    }
    // The second attempt finds the checkpoint of the first one, which does not
    // prove that replicas have it.
    for _ in 0..2 {
        assert_eq!(too_few(checkpointer.save_after(&c, Some("b")).await.expect_err("not in both")), ONE);
    }
    replicas[1].signal("-STOP").await;
    assert_eq!(too_few(checkpointer.save(&b).await.expect_err("in none")), NONE);
    for replica in &replicas {
        replica.signal("-CONT").await;
    }
    let patient = open(&server, PATIENT).await;
    patient.save(&b).await.expect("saved");
    patient.save_after(&c, Some("b")).await.expect("saved");
    assert_eq!(patient.list("s").await.expect("listed").checkpoints.len(), 3);
    for replica in &replicas {
        assert_eq!(replica.keyspace().await, server.keyspace().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_saves_wait_for_replicas() {
    let (server, replicas) = servers().await;
    let checkpointer = open(&server, "replicas=2&replica_timeout=5").await;
    replicas[0].signal("-STOP").await;
    let saving = tokio::spawn({
        let checkpointer = checkpointer.clone();
        async move { checkpointer.save(&checkpoint("s", "b", "r", 2)).await }
    });
    while checkpointer.load("s", "b").await.expect("loaded").is_none() {}
    assert_eq!(checkpointer.list("s").await.expect("listed").checkpoints.len(), 2);
    assert!(!saving.is_finished());
    replicas[0].signal("-CONT").await;
    saving.await.expect("a task").expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_saves_share_one_wait() {
    let (server, replicas) = servers().await;
    // One after another the saves would wait for a minute.
    let checkpointer = open(&server, "replicas=2&replica_timeout=1&response_timeout=5").await;
    replicas[0].signal("-STOP").await;
    let saves: Vec<_> = (0..60)
        .map(|number| {
            let checkpointer = checkpointer.clone();
            tokio::spawn(
                async move { checkpointer.save(&checkpoint("s", &number.to_string(), "r", 2)).await },
            )
        })
        .collect();
    for save in saves {
        assert_eq!(too_few(save.await.expect("a task").expect_err("not in both")), ONE);
    }
    assert_eq!(
        checkpointer.list(HistoryQuery::new("s").limit(99)).await.expect("listed").checkpoints.len(),
        61
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_is_one_script_and_with_replicas_one_wait() {
    let (server, _replicas) = servers().await;
    for (options, expected) in [(PATIENT, &["EVALSHA", "WAIT"][..]), ("replicas=0", &["EVALSHA"])] {
        let checkpointer = open(&server, options).await;
        checkpointer.save(&checkpoint("s", "a", "r", 1)).await.expect("saved");
        let watch = server.watch().await;
        checkpointer.save(&checkpoint("s", "b", "r", 2)).await.expect("saved");
        let commands = watch.commands(&server).await;
        let sent: Vec<_> = commands.iter().filter(|command| *command != "REPLCONF").collect();
        assert_eq!(sent, expected, "{options}");
    }
    let alone = RedisServer::start().await;
    open(&alone, "replicas=0").await.save(&checkpoint("s", "a", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_wait_permission_writes_nothing() {
    let (server, _replicas) = servers().await;
    let before = server.keyspace().await;
    for (more, is_allowed) in [(&[][..], false), (&["replicas=N"], true)] {
        let url = set_user(&server, &rules(&[&CONTRACT[..], more].concat())).await;
        let checkpointer = Checkpointer::open(&format!("{url}?{PATIENT}")).await;
        let saved = checkpointer.expect("a checkpointer").save(&checkpoint("s", "b", "r", 2)).await;
        if is_allowed {
            saved.expect("saved");
        } else {
            let error = saved.expect_err("forbidden");
            let error = storage_error(error);
            assert_eq!(error.message, "the store's user lacks a permission: wait");
            assert_eq!(error.effect, Effect::None);
            assert_eq!(server.keyspace().await, before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_server_with_replicas_is_reported_and_used_again() {
    let (mut server, replicas) = servers().await;
    let store = redis_store(&format!("{}?replicas=2&replica_timeout=1&response_timeout=1", server.url()));
    let checkpointer = Checkpointer::builder().open_store(store).await.expect("a checkpointer");
    let saved = checkpoint("s", "a", "r", 1);
    let failure = async || reason_and_effect(checkpointer.save(&saved).await.expect_err("not saved"));
    let of_a_replica = open(&replicas[0], "replicas=1").await;
    let error = of_a_replica.save(&saved).await.expect_err("not saved");
    assert_eq!(storage_error(error).message, "the store is a read-only replica; use the URL of its master");
    checkpointer.save(&saved).await.expect("saved");
    server.signal("-STOP").await;
    assert_eq!(failure().await, (StorageReason::Timeout, Effect::Unknown));
    server.signal("-CONT").await;
    server.kill().await;
    assert_eq!(failure().await, (StorageReason::Unavailable, Effect::None));
    server.restart().await;
    // The replicas reconnect without an action of the test.
    let start = std::time::Instant::now();
    while let Err(error) = checkpointer.save(&saved).await {
        let message = too_few(error);
        assert!(message == ONE || message == NONE, "{message}");
        assert!(start.elapsed() < Duration::from_secs(30), "the replicas do not come back");
    }
    for replica in &replicas {
        assert_eq!(replica.keyspace().await, server.keyspace().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_valkey_a_save_waits_for_the_disks_of_server_and_replicas() {
    let mut server =
        RedisServer::start_valkey_with(&["--appendonly", "yes", "--appendfsync", "everysec"]).await;
    let mut replica = server.start_replica().await;
    for (number, options) in
        ["on_disk=true&replica_timeout=30", "on_disk=true&replicas=1&replica_timeout=30"].iter().enumerate()
    {
        let checkpointer = open(&server, options).await;
        let id = format!("c{number}");
        checkpointer.save(&checkpoint("s", &id, "r", 1)).await.expect("saved");
        let watch = server.watch().await;
        checkpointer.save(&checkpoint("s", &id, "r", 2)).await.expect("saved");
        let commands = watch.commands(&server).await;
        let sent: Vec<_> = commands.iter().filter(|command| *command != "REPLCONF").collect();
        assert_eq!(sent, ["EVALSHA", "WAITAOF"], "{options}");
    }
    replica.signal("-STOP").await;
    let hurried = open(&server, "on_disk=true&replicas=1&replica_timeout=0.2").await;
    let error = hurried.save(&checkpoint("s", "more", "r", 3)).await.expect_err("not on both disks");
    assert_eq!(too_few(error), "only 0 of 1 replicas have the write on disk; it may be lost in a failover");
    replica.signal("-CONT").await;
    server.kill().await;
    replica.kill().await;
    replica.restart().await;
    let keys = replica.keyspace().await;
    let has = |id: &str| keys.iter().any(|(key, ..)| key.ends_with(&format!(":checkpoint:{id}")));
    assert!(has("c1"), "{keys:?}");
    server.restart().await;
    let ids = open(&server, "").await.list("s").await.expect("listed").checkpoints.len();
    assert_eq!(ids, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_waitaof_is_reported_before_any_write() {
    let old = RedisServer::start().await;
    let error = open(&old, "on_disk=true").await.save(&checkpoint("s", "c", "r", 1)).await;
    let (reason, effect, message) = storage_fields(error.expect_err("not saved"));
    assert_eq!((reason, effect), (StorageReason::Unsupported, Effect::None), "{message}");
    assert!(message.starts_with("the store can't wait until a write is on disk: "), "{message}");
    assert_eq!(old.keyspace().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_valkey_a_server_without_appendonly_is_reported_before_any_write() {
    let server = RedisServer::start_valkey_with(&[]).await;
    let error = open(&server, "on_disk=true").await.save(&checkpoint("s", "c", "r", 1)).await;
    let (reason, effect, message) = storage_fields(error.expect_err("not saved"));
    assert_eq!((reason, effect), (StorageReason::Unsupported, Effect::None), "{message}");
    assert!(message.contains("appendonly"), "{message}");
    assert_eq!(server.keyspace().await, []);
}
