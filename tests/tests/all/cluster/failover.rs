//! Masters that are killed, stall or are replaced, and replica acknowledgements.

use std::time::Duration;

use checkpointer::store::{
    Batch, Condition, Effect, Expire, ExpireMode, Expiry, Operation, Put, Quota, StorageReason,
    Value as Held, ValuePrefix,
};
use checkpointer_tests::contract::{keys_after, redis_store};
use checkpointer_tests::errors::storage_error;
use checkpointer_tests::eventually::eventually;
use checkpointer_tests::long_tests;
use checkpointer_tests::redis_cluster::RedisCluster;
use checkpointer_tests::samples::checkpoint;
use checkpointer_tests::writers::{Saving, Writers};
use redis::Value;

use super::{PARTITIONED, PATIENT, absent, batch, delete, open, open_patiently, put};

/// The master of the first writer's session.
async fn first_master(cluster: &RedisCluster) -> usize {
    cluster.master_of(&PARTITIONED.index("session-0")).await
}

/// Waits for the promotion of a dead master's replica. A master that returns
/// empty before that would make its replica empty too.
async fn wait_for_successor_of(cluster: &RedisCluster, master: usize) {
    let dead = format!("127.0.0.1:{}@", cluster.servers()[master].port());
    eventually("a replica takes over", async || {
        let nodes: String = cluster.servers()[(master + 1) % 3].command(&["CLUSTER", "NODES"]).await;
        let masters = nodes.lines().filter(|line| line.contains("master") && !line.contains("noaddr"));
        masters.filter(|line| !line.contains(&dead)).count() == 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_after_a_master_is_killed() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let writers = Writers::start(&checkpointer, 16, Saving::Independent);
    writers.make_progress(20).await;
    let master = first_master(&cluster).await;
    cluster.servers_mut()[master].kill().await;
    wait_for_successor_of(&cluster, master).await;
    writers.make_progress(20).await;
    cluster.servers_mut()[master].restart().await;
    cluster.wait_until_whole().await;
    writers.make_progress(20).await;
    // Without replicas=1 Redis may lose acknowledged writes.
    writers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_during_a_manual_failover() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let writers = Writers::start(&checkpointer, 16, Saving::AfterPrevious);
    for _ in 0..2 {
        writers.make_progress(20).await;
        let master = first_master(&cluster).await;
        let replica = cluster.replica_of(master).await;
        cluster.servers()[replica].command::<Value>(&["CLUSTER", "FAILOVER"]).await;
        eventually("the replica takes over", async || first_master(&cluster).await == replica).await;
        cluster.wait_until_whole().await;
    }
    writers.make_progress(20).await;
    let (saved, lost) = writers.stop().await;
    assert_eq!(lost, 0, "of {saved} acknowledged saves");
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_all_completes_after_a_master_is_killed() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "&replicas=1").await;
    for number in 0..60 {
        checkpointer.save(&checkpoint(&format!("session-{number}"), "c", "r", number)).await.expect("saved");
    }
    let master = first_master(&cluster).await;
    cluster.servers_mut()[master].kill().await;
    // Without replicas=1: the new master has no replica.
    let checkpointer = open_patiently(&cluster, "").await;
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_across_a_failover_or_restart_returns_every_key() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let store = redis_store(&format!("{}?{PATIENT}", cluster.url()));
    let keys: Vec<String> = (0..9000).map(|number| format!("key {number:04}")).collect();
    for key in &keys {
        let put = Put { key: key.clone(), value: String::new(), expiry: Expiry::Never };
        let batch = Batch { conditions: Vec::new(), operations: vec![Operation::Put(put)] };
        assert_eq!(store.commit(vec![batch]).await, Ok(vec![true]));
    }
    // A scan visits the masters in the order of their ids.
    let mut masters = Vec::new();
    for master in 0..3 {
        masters.push((cluster.servers()[master].command::<String>(&["CLUSTER", "MYID"]).await, master));
    }
    masters.sort();
    let [first, .., last] = masters.as_slice() else { panic!("three masters") };
    // The first one restarts before it counts as failed.
    let page = store.scan("key ".to_owned(), None).await.expect("a page");
    assert!(page.next_cursor.is_some());
    let restarted = &mut cluster.servers_mut()[first.1];
    restarted.command::<Value>(&["SAVE"]).await;
    restarted.kill().await;
    restarted.restart().await;
    let found = keys_after(&store, "key ", page.next_cursor).await;
    assert!(found == keys, "{} of {}", found.len(), keys.len());
    cluster.wait_until_whole().await;
    let page = store.scan("key ".to_owned(), None).await.expect("a page");
    cluster.servers_mut()[last.1].kill().await;
    let found = keys_after(&store, "key ", page.next_cursor).await;
    assert!(found == keys, "{} of {}", found.len(), keys.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_are_dropped_early_reach_the_successor_of_a_stalled_master() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    checkpointer.save(&checkpoint("session-0", "c", "r", 1)).await.expect("saved");
    cluster.servers()[first_master(&cluster).await].signal("-STOP").await;
    eventually("the successor answers", async || {
        let load = checkpointer.latest("session-0");
        tokio::time::timeout(Duration::from_secs(1), load).await.is_ok_and(|loaded| loaded.is_ok())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_master_delays_only_its_own_sessions() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let hanging = first_master(&cluster).await;
    let others: Vec<String> = (0..60).map(|number| format!("session-{number}")).collect();
    for session in &others {
        checkpointer.save(&checkpoint(session, "c", "r", 1)).await.expect("saved");
    }
    let mut healthy = Vec::new();
    for session in others {
        if cluster.master_of(&PARTITIONED.index(&session)).await != hanging {
            healthy.push(session);
        }
    }
    cluster.servers()[hanging].signal("-STOP").await;
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let checkpointer = checkpointer.clone();
            tokio::spawn(async move { checkpointer.latest("session-0").await })
        })
        .collect();
    for number in 0..5 {
        for session in &healthy {
            checkpointer.save(&checkpoint(session, "c", "r", number)).await.expect("saved");
        }
    }
    // A third of the response timeout has not elapsed yet.
    assert!(!waiting.iter().any(tokio::task::JoinHandle::is_finished));
    for load in waiting {
        assert!(load.await.expect("a task").expect("loaded").is_some(), "by the replica");
    }
    cluster.servers()[hanging].signal("-CONT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_after_a_master_stalls() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let writers = Writers::start(&checkpointer, 16, Saving::Independent);
    writers.make_progress(20).await;
    let master = cluster.master_of(&PARTITIONED.index("session-0")).await;
    cluster.servers()[master].signal("-STOP").await;
    writers.make_progress(20).await;
    cluster.servers()[master].signal("-CONT").await;
    writers.make_progress(20).await;
    writers.stop().await;
}

/// Isolates the replica of a master from new writes and stops it. Returns the
/// replica.
async fn cut_off_replica_of(cluster: &RedisCluster, master: usize) -> usize {
    let replica = cluster.replica_of(master).await;
    cluster.servers()[replica].signal("-STOP").await;
    cluster.servers()[master].command::<Value>(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    replica
}

/// The message of a save that no replica acknowledged.
const ALONE: &str = "only 0 of 1 replicas have the write; it may be lost in a failover";

#[tokio::test(flavor = "multi_thread")]
async fn no_save_acknowledged_by_a_replica_is_lost_with_its_master() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let mut cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "&replicas=1").await;
    // As long as the shard has no replica, its saves are not acknowledged.
    let writers = Writers::start(&checkpointer, 16, Saving::Tolerating(|message| message == ALONE));
    writers.make_progress(20).await;
    let master = first_master(&cluster).await;
    let replica = cut_off_replica_of(&cluster, master).await;
    // This save is lost, and so are those of the writers meanwhile.
    let unheard = checkpoint("session-0", "unheard", "r", 0);
    let error = checkpointer.save(&unheard).await.expect_err("not acknowledged");
    assert_eq!(storage_error(error).message, ALONE);
    assert_eq!(checkpointer.load("session-0", "unheard").await.expect("loaded"), Some(unheard));
    cluster.servers_mut()[master].kill().await;
    cluster.servers()[replica].signal("-CONT").await;
    wait_for_successor_of(&cluster, master).await;
    cluster.servers_mut()[master].restart().await;
    cluster.wait_until_whole().await;
    writers.make_progress(20).await;
    assert_eq!(checkpointer.load("session-0", "unheard").await.expect("loaded"), None);
    let (saved, lost) = writers.stop().await;
    assert_eq!(lost, 0, "of {saved} acknowledged saves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_save_is_acknowledged_only_by_a_replica_on_redis_and_valkey() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    // Valkey does not wait for a command that writes nothing.
    for cluster in [RedisCluster::start().await, RedisCluster::start_valkey().await] {
        let checkpointer = open_patiently(&cluster, "&replicas=1&replica_timeout=2").await;
        checkpointer.save(&checkpoint("session-0", "a", "r", 1)).await.expect("saved");
        let master = first_master(&cluster).await;
        let replica = cluster.replica_of(master).await;
        cluster.servers()[replica].signal("-STOP").await;
        let saving = tokio::spawn({
            let checkpointer = checkpointer.clone();
            async move { checkpointer.save_after(&checkpoint("session-0", "b", "r", 2), Some("a")).await }
        });
        let written = PARTITIONED.document("session-0", "b");
        let master = &cluster.servers()[master];
        eventually("it is written", async || master.command::<u32>(&["EXISTS", &written]).await == 1).await;
        // The reply is lost, so the save is retried and finds its checkpoint.
        master.command::<Value>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        let error = saving.await.expect("a task").expect_err("not acknowledged");
        assert_eq!(storage_error(error).message, ALONE);
        cluster.servers()[replica].signal("-CONT").await;
        checkpointer.save_after(&checkpoint("session-0", "b", "r", 2), Some("a")).await.expect("saved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_saves_without_replica_acknowledgement_all_fail_in_time() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    // With the default timeouts: one after another the saves would take half a
    // minute.
    let checkpointer = open(&format!("{}?replicas=1", cluster.url())).await;
    checkpointer.save(&checkpoint("session-0", "first", "r", 1)).await.expect("saved");
    cut_off_replica_of(&cluster, first_master(&cluster).await).await;
    let saves: Vec<_> = (0..32)
        .map(|number| {
            let (checkpointer, id) = (checkpointer.clone(), number.to_string());
            tokio::spawn(async move { checkpointer.save(&checkpoint("session-0", &id, "r", 2)).await })
        })
        .collect();
    for save in saves {
        let error = save.await.expect("a task").expect_err("not acknowledged");
        assert_eq!(storage_error(error).message, ALONE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_possibly_applied_attempt_is_never_reported_as_effect_none() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let store = redis_store(&format!("{}?response_timeout=4", cluster.url()));
    let quota = Quota::new("{s}\0quota", Some(1), None);
    let starts_with = |key: &str, text: &str| {
        Condition::StartsWith(ValuePrefix { key: key.to_owned(), text: text.to_owned() })
    };
    let putting = || vec![batch(vec![absent("{s}new")], vec![put("{s}new", "n")])];
    let taken = || vec![batch(vec![absent("{s}there")], vec![put("{s}there", "n")])];
    let removing = || vec![batch(vec![starts_with("{s}goes", "g")], vec![delete("{s}goes")])];
    let prolonging = || {
        let life = Expire { key: "{s}there".to_owned(), expiry: Expiry::Never, mode: ExpireMode::ExtendOnly };
        vec![batch(vec![starts_with("{s}there", "n")], vec![Operation::Expire(life)])]
    };
    let filling = || vec![batch(vec![], vec![put("{s}more", "m")])];
    // With cached scripts an attempt takes effect whenever the server reads it.
    store.commit_with_quota(&quota, vec![batch(vec![], vec![put("{s}there", "t")])]).await.expect("written");
    assert_eq!(store.commit(putting()).await, Ok(vec![true]));
    assert_eq!(
        store.commit(vec![batch(vec![], vec![delete("{s}new"), put("{s}goes", "g")])]).await,
        Ok(vec![true])
    );

    let master = &cluster.servers()[cluster.master_of("{s}").await];
    master.signal("-STOP").await;
    let ends = tokio::spawn({
        let store = std::sync::Arc::clone(&store);
        let (putting, taken, removing, prolonging, filling) =
            (putting(), taken(), removing(), prolonging(), filling());
        async move {
            tokio::join!(
                store.commit(putting),
                store.commit(taken),
                store.commit(removing),
                store.commit(prolonging),
                store.commit_with_quota(&quota, filling),
            )
        }
    });
    // Longer than an attempt takes, and shorter than the failover timeout.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    master.signal("-CONT").await;
    let (put, taken, removed, prolonged, full) = ends.await.expect("a task");
    assert_eq!(put, Ok(vec![true]));
    assert_eq!(taken, Ok(vec![false]));
    assert_eq!(prolonged, Ok(vec![false]));
    let full = full.expect_err("full");
    assert_eq!((full.reason, full.effect), (StorageReason::Full, Effect::Unknown));
    match removed {
        // This is correct if the master was replaced before it read any attempt.
        Ok(removed) => assert_eq!(removed, [true]),
        Err(error) => {
            assert_eq!((error.reason, error.effect), (StorageReason::Unavailable, Effect::Unknown));
        }
    }
    let values = store.get(["{s}new", "{s}goes"].map(str::to_owned).to_vec(), None).await;
    assert_eq!(values, Ok(vec![Held::Text("n".to_owned()), Held::Absent]));
}
