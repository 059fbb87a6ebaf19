//! Saves that are only acknowledged when replicas have them, or a disk.

use std::time::Duration;

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Checkpointer, Error, HistoryQuery};
use checkpointer_tests::acl::{CONTRACT, rules, set_user};
use checkpointer_tests::contract::{self, Backend, TestStore, redis_store};
use checkpointer_tests::errors::{reason_and_effect, storage_error, storage_fields};
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::checkpoint;
use checkpointer_tests::checkpointer_under_test::Mode;

macro_rules! contract_of_saves {
    ($($part:ident: { $($promise:ident,)* })*) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let place = TestStore::new(Backend::RedisReplicas).await;
                contract_of_saves!(@ $part $promise place);
                assert_replicated(&place).await;
            }
        )*)*
    };
    (@ store $promise:ident $place:ident) => { contract::store::$promise(&$place).await };
    (@ quota $promise:ident $place:ident) => { contract::quota::$promise(&$place).await };
    (@ $part:ident $promise:ident $place:ident) => {
        contract::$part::$promise(&$place, Mode::Component).await
    };
}

contract_of_saves! {
    store: {
        applies_a_batch_only_if_its_conditions_hold,
        applies_the_batches_of_a_call_in_order,
        of_many_at_once_one_wins,
    }
    quota: {
        a_full_bucket_refuses_and_writes_nothing,
        many_writers_never_exceed_a_limit,
    }
    checkpointer: {
        a_saved_checkpoint_is_loaded_as_it_was,
        saving_an_id_again_moves_it,
        sessions_keep_apart,
        deleting_counts_and_leaves_nothing_behind,
        a_session_keeps_no_more_than_its_limit,
    }
    concurrency: {
        a_save_that_races_a_delete_leaves_nothing_unnamed,
        saves_of_different_ids_never_disturb_each_other,
        a_save_after_another_latest_is_told_which_it_is,
        of_many_that_extend_a_session_each_comes_after_another,
        a_limit_holds_for_many_at_once,
    }
}

/// What was acknowledged is there without waiting for it.
async fn assert_replicated(place: &TestStore) {
    let server = place.server.as_ref().expect("a server");
    for replica in &place.replicas {
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

/// What a save is told that too few replicas have.
fn too_few(error: Error) -> String {
    let (reason, effect, message) = storage_fields(error);
    assert_eq!((reason, effect), (StorageReason::Unavailable, Effect::Unknown), "{message}");
    message
}

/// With time enough on a busy machine.
const PATIENT: &str = "replicas=2&replica_timeout=30";
const ONE: &str = "only 1 of 2 replicas has the write; it may be lost if the server fails";
const NONE: &str = "only 0 of 2 replicas have the write; it may be lost if the server fails";

#[tokio::test(flavor = "multi_thread")]
async fn a_save_is_there_in_the_replicas_when_it_is_acknowledged() {
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
async fn a_save_that_a_replica_has_not_in_time_is_told_and_can_be_repeated() {
    let (server, replicas) = servers().await;
    let checkpointer = open(&server, "replicas=2&replica_timeout=0.2").await;
    replicas[0].signal("-STOP").await;
    let (b, c) = (checkpoint("s", "b", "r", 2), checkpoint("s", "c", "r", 3));
    for _ in 0..2 {
        assert_eq!(too_few(checkpointer.save(&b).await.expect_err("not in both")), ONE);
        assert_eq!(checkpointer.latest("s").await.expect("loaded").as_ref(), Some(&b));
    }
    // It finds itself there the second time, which is no reason to be sure.
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
async fn nothing_but_saves_waits_for_a_replica() {
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
async fn many_saves_wait_together() {
    let (server, replicas) = servers().await;
    // One after another they would wait for a minute.
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
    assert_eq!(checkpointer.list(HistoryQuery::new("s").limit(99)).await.expect("listed").checkpoints.len(), 61);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_is_a_script_and_a_wait_and_without_replicas_only_the_script() {
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
async fn a_user_who_may_not_wait_writes_nothing() {
    let (server, _replicas) = servers().await;
    let before = server.keyspace().await;
    for (more, is_allowed) in [(&[][..], false), (&["for replicas=N"], true)] {
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
async fn a_server_that_fails_is_told_as_it_is_and_used_again() {
    let (mut server, replicas) = servers().await;
    let place = redis_store(&format!("{}?replicas=2&replica_timeout=1&response_timeout=1", server.url()));
    let checkpointer = Checkpointer::builder().open_store(place).await.expect("a checkpointer");
    let saved = checkpoint("s", "a", "r", 1);
    let failure = async || reason_and_effect(checkpointer.save(&saved).await.expect_err("not saved"));
    let of_a_replica = open(&replicas[0], "replicas=1").await;
    let error = of_a_replica.save(&saved).await.expect_err("not saved");
    assert_eq!(storage_error(error).message, "the store takes no writes");
    checkpointer.save(&saved).await.expect("saved");
    server.signal("-STOP").await;
    assert_eq!(failure().await, (StorageReason::Timeout, Effect::Unknown));
    server.signal("-CONT").await;
    server.kill().await;
    assert_eq!(failure().await, (StorageReason::Unavailable, Effect::None));
    server.restart().await;
    // The replicas come back by themselves.
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
async fn on_valkey_a_save_can_wait_for_the_disks_of_the_server_and_of_replicas() {
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
    assert_eq!(
        too_few(error),
        "only 0 of 1 replicas have the write on disk; it may be lost if the server fails"
    );
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
async fn a_server_that_cannot_say_what_is_on_disk_is_told_before_anything_is_written() {
    let old = RedisServer::start().await;
    let error = open(&old, "on_disk=true").await.save(&checkpoint("s", "c", "r", 1)).await;
    let (reason, effect, message) = storage_fields(error.expect_err("not saved"));
    assert_eq!((reason, effect), (StorageReason::Unsupported, Effect::None), "{message}");
    assert!(message.starts_with("the store can't wait until a write is on disk: "), "{message}");
    assert_eq!(old.keyspace().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_valkey_a_server_without_a_log_on_disk_is_told_before_anything_is_written() {
    let server = RedisServer::start_valkey_with(&[]).await;
    let error = open(&server, "on_disk=true").await.save(&checkpoint("s", "c", "r", 1)).await;
    let (reason, effect, message) = storage_fields(error.expect_err("not saved"));
    assert_eq!((reason, effect), (StorageReason::Unsupported, Effect::None), "{message}");
    assert!(message.contains("appendonly"), "{message}");
    assert_eq!(server.keyspace().await, []);
}
