//! A Redis Cluster of three masters with a replica each: slots that move, and
//! masters that die. It passes the whole contract in `contract.rs`.

use std::time::Duration;

use checkpointer::store::{
    Batch, Condition, Effect, Expire, Expiry, IndexHighest, IndexMember, IndexPut, IndexSize, KeyText,
    Operation, Position, Put, Quota, StorageReason, Value as Held,
};
use checkpointer::{Checkpointer, Error, Layout};
use checkpointer_tests::contract::{Kind, Place, keys_after, redis_store};
use checkpointer_tests::eventually::eventually;
use checkpointer_tests::names::Names;
use checkpointer_tests::redis_cluster::RedisCluster;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::checkpoint;
use checkpointer_tests::writers::{Saving, Writers};
use redis::Value;

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

#[tokio::test(flavor = "multi_thread")]
async fn llmfys_layout_is_refused_unless_the_prefix_has_a_hash_tag() {
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
async fn sessions_are_spread_over_all_masters_and_cleared_from_all() {
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
async fn what_is_on_different_machines_cannot_be_in_one_commit() {
    let place = Place::new(Kind::RedisCluster).await;
    let put = |key: &str| {
        let put = Put { key: key.to_owned(), value: String::new(), expiry: Expiry::Never };
        Operation::Put(put)
    };
    let batch = |keys: [&str; 2]| vec![Batch { conditions: Vec::new(), operations: keys.map(put).to_vec() }];
    let error = place.store.commit(batch(["a", "b"])).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::Unsupported, Effect::None));
    assert!(error.message.contains("partitioned"), "{}", error.message);
    assert_eq!(place.keys("").await, [""; 0]);
    assert_eq!(place.store.commit(batch(["{a}", "a"])).await, Ok(vec![true]));
    // What is only read need not be together.
    let values =
        place.store.get(["a", "b", "{a}"].map(String::from).to_vec(), Some(9)).await.expect("values");
    assert_eq!(values.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_kept_to_where_its_ledger_is_in_the_same_slot() {
    let place = Place::new(Kind::RedisCluster).await;
    let put = |key: &str| {
        let put = Put { key: key.to_owned(), value: String::new(), expiry: Expiry::Never };
        vec![Batch { conditions: Vec::new(), operations: vec![Operation::Put(put)] }]
    };
    let two = |ledger: &str| Quota { ledger: ledger.to_owned(), values: Some(2), bytes: None };
    let apart = place.store.commit_within(&two("tenant:\0quota"), put("tenant:{s}")).await;
    assert_eq!(apart.expect_err("refused").reason, StorageReason::Unsupported);
    assert_eq!(place.keys("").await, [""; 0]);
    let together = two("{tenant}:\0quota");
    for (key, expected) in [("{tenant}:a", true), ("{tenant}:b", true), ("{tenant}:c", false)] {
        let applied = place.store.commit_within(&together, put(key)).await;
        assert_eq!(
            applied.map_err(|error| error.reason),
            expected.then(|| vec![true]).ok_or(StorageReason::Full)
        );
    }
    assert_eq!(place.store.settle(&together, None).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_go_on_while_slots_move() {
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let writers = Writers::start(&checkpointer, 16, Saving::OneAfterAnother);
    writers.make_progress(10).await;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        cluster.move_slots(from, to, 1000).await;
        writers.make_progress(5).await;
    }
    let (saved, lost) = writers.stop().await;
    assert!(saved >= 16 * 25 && lost == 0, "{lost} of {saved} are lost");
    // Nothing is passed over while keys go from one master to another.
    let clearing = tokio::spawn(async move { checkpointer.clear_all().await });
    cluster.move_slots(0, 2, 1000).await;
    assert_eq!(clearing.await.expect("a task").expect("cleared"), saved as u64);
}

/// A session of which only some keys have come to the next master yet.
struct HalfMoved {
    cluster: RedisCluster,
    slot: String,
    from: usize,
    to: usize,
}

impl HalfMoved {
    /// Saves two checkpoints, begins to move their slot, and moves these keys.
    async fn new(checkpointer: &Checkpointer, cluster: RedisCluster, keys: &[String]) -> Self {
        for (id, second) in [("old", 1), ("new", 2)] {
            checkpointer.save(&checkpoint("s", id, "r", second)).await.expect("saved");
        }
        let index = PARTITIONED.index("s");
        let from = cluster.master_of(&index).await;
        let to = (from + 1) % 3;
        let servers = cluster.servers();
        let slot: u32 = servers[0].command(&["CLUSTER", "KEYSLOT", &index]).await;
        let id = async |server: usize| servers[server].command::<String>(&["CLUSTER", "MYID"]).await;
        let slot = slot.to_string();
        let (from_id, to_id) = (id(from).await, id(to).await);
        servers[to].command::<Value>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        servers[from].command::<Value>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
        let half_moved = Self { slot, from, to, cluster };
        half_moved.move_keys(keys).await;
        half_moved
    }

    async fn move_keys(&self, keys: &[String]) {
        let servers = self.cluster.servers();
        let port = servers[self.to].port().to_string();
        for key in keys {
            let command = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
            servers[self.from].command::<Value>(&command).await;
        }
    }

    /// Moves the rest, and tells all masters.
    async fn end(self) -> RedisCluster {
        let servers = self.cluster.servers();
        let rest: Vec<String> =
            servers[self.from].command(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"]).await;
        self.move_keys(&rest).await;
        let to: String = servers[self.to].command(&["CLUSTER", "MYID"]).await;
        for master in [self.to, self.from] {
            servers[master].command::<Value>(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &to]).await;
        }
        self.cluster
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_session_that_is_half_moved_nothing_is_told_that_is_not_so() {
    for (moved, what) in [
        (vec![PARTITIONED.index("s")], "the index"),
        (vec![PARTITIONED.document("s", "new")], "the latest checkpoint"),
        (vec![PARTITIONED.index("s"), PARTITIONED.document("s", "old")], "all but the latest checkpoint"),
    ] {
        let cluster = RedisCluster::start().await;
        let checkpointer = open_patiently(&cluster, "").await;
        let half_moved = HalfMoved::new(&checkpointer, cluster, &moved).await;
        // A checkpoint that is asked for by its id is found wherever it is.
        for (id, second) in [("old", 1), ("new", 2)] {
            let found = checkpointer.load("s", Some(id)).await.expect("loaded");
            assert_eq!(found, Some(checkpoint("s", id, "r", second)), "{what} has moved");
        }
        // What takes more than that waits.
        let loading = tokio::spawn({
            let checkpointer = checkpointer.clone();
            async move { checkpointer.load("s", None).await }
        });
        let listing = tokio::spawn({
            let checkpointer = checkpointer.clone();
            async move { checkpointer.list("s", None).await }
        });
        let saving = tokio::spawn({
            let checkpointer = checkpointer.clone();
            async move { checkpointer.save_after(&checkpoint("s", "next", "r", 3), Some("new")).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!saving.is_finished(), "{what} has moved");
        let _cluster = half_moved.end().await;
        saving.await.expect("a task").expect("saved");
        let loaded = loading.await.expect("a task").expect("loaded").expect("a checkpoint");
        assert!(["new", "next"].contains(&&*loaded.metadata.checkpoint_id), "{what} has moved: {loaded:?}");
        let listed = listing.await.expect("a task").expect("listed").checkpoints.len();
        assert!((2..=3).contains(&listed), "{what} has moved: {listed}");
        assert_eq!(checkpointer.list("s", None).await.expect("listed").checkpoints.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_stays_half_moved_is_said_to_be() {
    let cluster = RedisCluster::start().await;
    let checkpointer = open(&format!("{}?response_timeout=2", cluster.url())).await;
    let half_moved = HalfMoved::new(&checkpointer, cluster, &[PARTITIONED.index("s")]).await;
    let failure = |error: Error| match error {
        Error::Storage { reason, effect, message } => (reason, effect, message),
        other => panic!("{other:?}"),
    };
    let moving = || "the store is moving these keys to another machine".to_owned();
    let error = checkpointer.load("s", None).await.expect_err("not loaded");
    assert_eq!(failure(error), (StorageReason::Unavailable, Effect::None, moving()));
    let error = checkpointer.save(&checkpoint("s", "next", "r", 3)).await.expect_err("not saved");
    assert_eq!(failure(error), (StorageReason::Unavailable, Effect::None, moving()));
    let error = checkpointer.clear_all().await.expect_err("not cleared");
    assert_eq!(failure(error).1, Effect::None);
    let _cluster = half_moved.end().await;
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 2);
}

/// The master of what the first writer saves.
async fn first_master(cluster: &RedisCluster) -> usize {
    cluster.master_of(&PARTITIONED.index("session-0")).await
}

/// Waits for the replica of a dead master to take over. A master that comes back
/// before that, without what it had, would take its replica along.
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
async fn no_caller_hears_of_a_master_that_dies() {
    let mut cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let writers = Writers::start(&checkpointer, 16, Saving::EachByItself);
    writers.make_progress(20).await;
    let master = first_master(&cluster).await;
    cluster.servers_mut()[master].kill().await;
    wait_for_successor_of(&cluster, master).await;
    writers.make_progress(20).await;
    cluster.servers_mut()[master].restart().await;
    cluster.wait_until_whole().await;
    writers.make_progress(20).await;
    // Redis does not promise that none is lost, without replicas=1.
    writers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_caller_hears_of_a_master_that_is_replaced_by_hand() {
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let writers = Writers::start(&checkpointer, 16, Saving::OneAfterAnother);
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
async fn everything_is_cleared_though_a_master_dies() {
    let mut cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "&replicas=1").await;
    for number in 0..60 {
        checkpointer.save(&checkpoint(&format!("session-{number}"), "c", "r", number)).await.expect("saved");
    }
    let master = first_master(&cluster).await;
    cluster.servers_mut()[master].kill().await;
    // Without replicas=1: the successor has no replica.
    let checkpointer = open_patiently(&cluster, "").await;
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_misses_no_key_though_a_master_is_replaced_or_restarted() {
    let mut cluster = RedisCluster::start().await;
    let store = redis_store(&format!("{}?{PATIENT}", cluster.url()));
    let keys: Vec<String> = (0..9000).map(|number| format!("key {number:04}")).collect();
    for key in &keys {
        let put = Put { key: key.clone(), value: String::new(), expiry: Expiry::Never };
        let batch = Batch { conditions: Vec::new(), operations: vec![Operation::Put(put)] };
        assert_eq!(store.commit(vec![batch]).await, Ok(vec![true]));
    }
    // A scan goes over the masters in the order of their ids.
    let mut masters = Vec::new();
    for master in 0..3 {
        masters.push((cluster.servers()[master].command::<String>(&["CLUSTER", "MYID"]).await, master));
    }
    masters.sort();
    let [first, .., last] = masters.as_slice() else { panic!("three masters") };
    // The first one is restarted before anybody takes it for dead.
    let page = store.scan("key ".to_owned(), None).await.expect("a page");
    assert!(page.next.is_some());
    let restarted = &mut cluster.servers_mut()[first.1];
    restarted.command::<Value>(&["SAVE"]).await;
    restarted.kill().await;
    restarted.restart().await;
    let found = keys_after(&store, "key ", page.next).await;
    assert!(found == keys, "{} of {}", found.len(), keys.len());
    cluster.wait_until_whole().await;
    let page = store.scan("key ".to_owned(), None).await.expect("a page");
    cluster.servers_mut()[last.1].kill().await;
    let found = keys_after(&store, "key ", page.next).await;
    assert!(found == keys, "{} of {}", found.len(), keys.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_give_up_early_come_to_the_successor_of_a_master_that_hangs() {
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    checkpointer.save(&checkpoint("session-0", "c", "r", 1)).await.expect("saved");
    cluster.servers()[first_master(&cluster).await].signal("-STOP").await;
    eventually("the successor answers", async || {
        let load = checkpointer.load("session-0", None);
        tokio::time::timeout(Duration::from_secs(1), load).await.is_ok_and(|loaded| loaded.is_ok())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_hangs_keeps_only_its_own_sessions_waiting() {
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
            tokio::spawn(async move { checkpointer.load("session-0", None).await })
        })
        .collect();
    for number in 0..5 {
        for session in &healthy {
            checkpointer.save(&checkpoint(session, "c", "r", number)).await.expect("saved");
        }
    }
    // A third of the time for an answer is not over yet.
    assert!(!waiting.iter().any(tokio::task::JoinHandle::is_finished));
    for load in waiting {
        assert!(load.await.expect("a task").expect("loaded").is_some(), "by the replica");
    }
    cluster.servers()[hanging].signal("-CONT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_caller_hears_of_a_master_that_hangs() {
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let writers = Writers::start(&checkpointer, 16, Saving::EachByItself);
    writers.make_progress(20).await;
    let master = cluster.master_of(&PARTITIONED.index("session-0")).await;
    cluster.servers()[master].signal("-STOP").await;
    writers.make_progress(20).await;
    cluster.servers()[master].signal("-CONT").await;
    writers.make_progress(20).await;
    writers.stop().await;
}

/// Keeps what is written from now on from the replica of a master, and gives the
/// replica, which stands still.
async fn cut_off_replica_of(cluster: &RedisCluster, master: usize) -> usize {
    let replica = cluster.replica_of(master).await;
    cluster.servers()[replica].signal("-STOP").await;
    cluster.servers()[master].command::<Value>(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    replica
}

/// What a save is told that no replica has.
const ALONE: &str = "only 0 of 1 replicas have the write; it may be lost if the server fails; whether the write took \
    effect is unknown";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_replica_has_acknowledged_is_lost_with_its_master() {
    let mut cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "&replicas=1").await;
    // As long as the shard has no replica, its saves are not acknowledged.
    let writers = Writers::start(&checkpointer, 16, Saving::UnlessRefused(|message| message == ALONE));
    writers.make_progress(20).await;
    let master = first_master(&cluster).await;
    let replica = cut_off_replica_of(&cluster, master).await;
    // This one is lost, and so are those of the writers meanwhile.
    let unheard = checkpoint("session-0", "unheard", "r", 0);
    let error = checkpointer.save(&unheard).await.expect_err("not acknowledged");
    assert_eq!(error.to_string(), ALONE);
    assert_eq!(checkpointer.load("session-0", Some("unheard")).await.expect("loaded"), Some(unheard));
    cluster.servers_mut()[master].kill().await;
    cluster.servers()[replica].signal("-CONT").await;
    wait_for_successor_of(&cluster, master).await;
    cluster.servers_mut()[master].restart().await;
    cluster.wait_until_whole().await;
    writers.make_progress(20).await;
    assert_eq!(checkpointer.load("session-0", Some("unheard")).await.expect("loaded"), None);
    let (saved, lost) = writers.stop().await;
    assert_eq!(lost, 0, "of {saved} acknowledged saves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_is_sent_again_is_only_acknowledged_when_a_replica_has_it() {
    // Of a command that writes nothing, Valkey waits for nothing.
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
        // Nobody hears of it, so it is sent again, and finds itself there.
        master.command::<Value>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert_eq!(saving.await.expect("a task").expect_err("not acknowledged").to_string(), ALONE);
        cluster.servers()[replica].signal("-CONT").await;
        checkpointer.save_after(&checkpoint("session-0", "b", "r", 2), Some("a")).await.expect("saved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_that_no_replica_has_in_time_are_told_so_however_many_they_are() {
    let cluster = RedisCluster::start().await;
    // With the usual times: one after another they would take half a minute.
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
        assert_eq!(save.await.expect("a task").expect_err("not acknowledged").to_string(), ALONE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_is_told_as_it_is() {
    let (cluster, _guard) = RedisCluster::shared().await;
    let failure = async |url: &str| {
        let checkpointer = open(url).await;
        match checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect_err("not saved") {
            Error::Storage { reason, effect, message } => (reason, effect, message),
            other => panic!("{other:?}"),
        }
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
    // One server that can be reached is enough to find the others.
    let url = cluster.url().replace("redis-cluster://", "redis-cluster://127.0.0.1:1,");
    let store = redis_store(&url);
    assert_eq!(store.get(vec!["k".to_owned()], None).await.expect("an answer").len(), 1);
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(Put { key: key.to_owned(), value: value.to_owned(), expiry: Expiry::Never })
}

fn index_put(index: &str, member: &str) -> Operation {
    let (index, member) = (index.to_owned(), member.to_owned());
    Operation::IndexPut(IndexPut { index, member, score: 1.0, expiry: Expiry::Never })
}

fn member(index: &str, member: &str) -> IndexMember {
    IndexMember { index: index.to_owned(), member: member.to_owned() }
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
async fn a_session_that_is_deleted_while_its_slot_moves_goes_as_a_whole() {
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    // With the mark, all that the first step names is still with the first master.
    checkpointer.pin("s", None).await.expect("pinned");
    // The index of its run is gone when the last one of all asks for it.
    checkpointer.save(&checkpoint("s", "oldest", "another", 0)).await.expect("saved");
    let half_moved = HalfMoved::new(&checkpointer, cluster, &[]).await;
    let deleting = tokio::spawn({
        let checkpointer = checkpointer.clone();
        async move { checkpointer.delete("s", None).await }
    });
    let master = &half_moved.cluster.servers()[half_moved.from];
    eventually("the first step is done", async || master.command::<u32>(&["DBSIZE"]).await == 0).await;
    let _cluster = half_moved.end().await;
    assert_eq!(deleting.await.expect("a task").expect("deleted"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_looks_again_at_what_it_removed_while_the_slot_moves() {
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let store = redis_store(&format!("{}?response_timeout=1", cluster.url()));
    let [value, index, other] = ["{s}value", "{s}index", "{s}other"];
    let operations = vec![put(value, "v"), index_put(index, "value"), index_put(other, "value")];
    assert_eq!(store.commit(vec![batch(vec![], operations)]).await, Ok(vec![true]));
    let half_moved = HalfMoved::new(&checkpointer, cluster, &[]).await;
    let starts_with =
        |text: &str| Condition::StartsWith(KeyText { key: value.to_owned(), text: text.to_owned() });
    let highest = |index: &str, member: Option<&str>| {
        Condition::IndexHighest(IndexHighest {
            index: index.to_owned(),
            values_at: "{s}".to_owned(),
            besides: Vec::new(),
            member: member.map(str::to_owned),
            at_most: Position { score: 2.0, member: String::new() },
        })
    };
    let at_most = Condition::IndexAtMost(IndexSize { index: index.to_owned(), size: 0 });
    let expire =
        |key: &str| Operation::Expire(Expire { key: key.to_owned(), expiry: Expiry::Never, shorten: true });
    let batches = vec![
        batch(vec![highest(index, Some("value"))], vec![delete(value)]),
        batch(vec![highest(index, None)], vec![Operation::IndexDelete(member(index, "value"))]),
        batch(
            vec![absent(value), absent(index), at_most, highest(index, None)],
            vec![delete(value), expire(value)],
        ),
        batch(vec![], vec![Operation::IndexDelete(member(index, "value")), expire(index)]),
        batch(vec![starts_with("v")], vec![]),
        batch(vec![starts_with("")], vec![]),
        batch(vec![Condition::IndexHas(member(index, "value"))], vec![]),
        batch(vec![highest(index, Some("value"))], vec![]),
        batch(vec![highest(other, None)], vec![delete(other)]),
    ];
    let applied = store.commit(batches).await.expect("an outcome");
    assert_eq!(applied, [true, true, true, true, false, false, false, false, true]);
    let _cluster = half_moved.end().await;
    let held = store.get([value, index, other].map(str::to_owned).to_vec(), None).await;
    assert_eq!(held, Ok(vec![Held::Absent, Held::Absent, Held::Absent]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_true_of_what_was_removed_while_its_slot_moved() {
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let store = redis_store(&format!("{}?response_timeout=1", cluster.url()));
    let [a, b, c, index, ledger] = ["{s}a", "{s}b", "{s}c", "{s}index", "{s}\0quota"];
    let quota = Quota { ledger: ledger.to_owned(), values: Some(9), bytes: Some(999) };
    let operations = vec![put(a, "1"), put(b, "22"), put(c, "333"), index_put(index, "a")];
    assert_eq!(store.commit_within(&quota, vec![batch(vec![], operations)]).await, Ok(vec![true]));
    let half_moved = HalfMoved::new(&checkpointer, cluster, &[]).await;
    let master = &half_moved.cluster.servers()[half_moved.from];
    let noted = async |field: &str| master.command::<Option<String>>(&["HGET", ledger, field]).await;
    let of_c = Some("1 7".to_owned());

    let removal = vec![delete(a), Operation::IndexDelete(member(index, "a"))];
    let batches = vec![batch(vec![], removal), batch(vec![absent(a), absent(index)], vec![delete(a)])];
    assert_eq!(store.commit_within(&quota, batches).await, Ok(vec![true, true]));
    assert_eq!(noted("values").await, Some("2".to_owned()));
    assert_eq!(noted("bytes").await, Some("13".to_owned()));
    assert_eq!((noted("key:{s}a").await, noted("key:{s}index").await), (None, None));

    // What went past the ledger can't be looked at again yet.
    assert_eq!(store.commit(vec![batch(vec![], vec![delete(b)])]).await, Ok(vec![true]));
    let error = store.settle(&quota, None).await.expect_err("not settled");
    assert_eq!(error.reason, StorageReason::Unavailable);
    assert_eq!(noted("values").await, Some("2".to_owned()));
    assert_eq!(noted("bytes").await, Some("13".to_owned()));
    assert_eq!((noted("key:{s}b").await, noted("key:{s}c").await), (Some("1 6".to_owned()), of_c.clone()));

    let to = half_moved.to;
    let cluster = half_moved.end().await;
    assert_eq!(store.settle(&quota, None).await, Ok(None));
    let left: Vec<String> = cluster.servers()[to].command(&["HGETALL", ledger]).await;
    let mut left: Vec<[String; 2]> = left.as_chunks().0.to_vec();
    left.sort();
    assert_eq!(left, [["bytes", "7"], ["key:{s}c", "1 7"], ["values", "1"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_try_may_have_done_is_never_said_not_to_be() {
    let cluster = RedisCluster::start().await;
    let store = redis_store(&format!("{}?response_timeout=4", cluster.url()));
    let quota = Quota { ledger: "{s}\0quota".to_owned(), values: Some(1), bytes: None };
    let starts_with =
        |key: &str, text: &str| Condition::StartsWith(KeyText { key: key.to_owned(), text: text.to_owned() });
    let putting = || vec![batch(vec![absent("{s}new")], vec![put("{s}new", "n")])];
    let taken = || vec![batch(vec![absent("{s}there")], vec![put("{s}there", "n")])];
    let removing = || vec![batch(vec![starts_with("{s}goes", "g")], vec![delete("{s}goes")])];
    let prolonging = || {
        let life = Expire { key: "{s}there".to_owned(), expiry: Expiry::Never, shorten: false };
        vec![batch(vec![starts_with("{s}there", "n")], vec![Operation::Expire(life)])]
    };
    let filling = || vec![batch(vec![], vec![put("{s}more", "m")])];
    // With the scripts there, a try takes effect whenever it is read.
    store.commit_within(&quota, vec![batch(vec![], vec![put("{s}there", "t")])]).await.expect("written");
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
                store.commit_within(&quota, filling),
            )
        }
    });
    // Longer than a try takes, and not so long that the master is replaced.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    master.signal("-CONT").await;
    let (put, taken, removed, prolonged, full) = ends.await.expect("a task");
    assert_eq!(put, Ok(vec![true]));
    assert_eq!(taken, Ok(vec![false]));
    assert_eq!(prolonged, Ok(vec![false]));
    let full = full.expect_err("full");
    assert_eq!((full.reason, full.effect), (StorageReason::Full, Effect::Unknown));
    match removed {
        // As it is if the master was replaced before it had read any of it.
        Ok(removed) => assert_eq!(removed, [true]),
        Err(error) => {
            assert_eq!((error.reason, error.effect), (StorageReason::Unavailable, Effect::Unknown));
        }
    }
    let values = store.get(["{s}new", "{s}goes"].map(str::to_owned).to_vec(), None).await;
    assert_eq!(values, Ok(vec![Held::Text("n".to_owned()), Held::Absent]));
}
