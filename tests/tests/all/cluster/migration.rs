//! Slots that migrate from one master to another while sessions are used.

use std::time::Duration;

use checkpointer::Checkpointer;
use checkpointer::store::{
    Condition, Effect, Expire, ExpireMode, Expiry, IndexMax, IndexMember, IndexPut, IndexSize, Operation,
    Position, Quota, StorageReason, Value as Held, ValuePrefix,
};
use checkpointer_tests::contract::redis_store;
use checkpointer_tests::errors::storage_fields;
use checkpointer_tests::eventually::eventually;
use checkpointer_tests::long_tests;
use checkpointer_tests::redis_cluster::RedisCluster;
use checkpointer_tests::samples::checkpoint;
use checkpointer_tests::writers::{Saving, Writers};
use redis::Value;

use super::{PARTITIONED, absent, batch, delete, open, open_patiently, put};

#[tokio::test(flavor = "multi_thread")]
async fn writers_continue_during_slot_migration() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let writers = Writers::start(&checkpointer, 16, Saving::AfterPrevious);
    writers.make_progress(10).await;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        cluster.move_slots(from, to, 1000).await;
        writers.make_progress(5).await;
    }
    let (saved, lost) = writers.stop().await;
    assert!(saved >= 16 * 25 && lost == 0, "{lost} of {saved} are lost");
    // No key is skipped during a migration.
    let clearing = tokio::spawn(async move { checkpointer.clear_all().await });
    cluster.move_slots(0, 2, 1000).await;
    assert_eq!(clearing.await.expect("a task").expect("cleared"), saved as u64);
}

/// A session of which only some keys have migrated.
struct HalfMoved {
    cluster: RedisCluster,
    slot: String,
    from: usize,
    to: usize,
}

impl HalfMoved {
    /// Saves two checkpoints, starts the migration of their slot, and migrates
    /// these keys.
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

    /// Migrates the remaining keys, and informs all masters.
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
async fn a_half_migrated_session_returns_only_correct_results() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    for (moved, what) in [
        (vec![PARTITIONED.index("s")], "the index"),
        (vec![PARTITIONED.document("s", "new")], "the latest checkpoint"),
        (vec![PARTITIONED.index("s"), PARTITIONED.document("s", "old")], "all but the latest checkpoint"),
    ] {
        let cluster = RedisCluster::start().await;
        let checkpointer = open_patiently(&cluster, "").await;
        let half_moved = HalfMoved::new(&checkpointer, cluster, &moved).await;
        // A checkpoint loaded by id is found on either master.
        for (id, second) in [("old", 1), ("new", 2)] {
            let found = checkpointer.load("s", id).await.expect("loaded");
            assert_eq!(found, Some(checkpoint("s", id, "r", second)), "{what} has moved");
        }
        // Operations on several keys wait.
        let loading = tokio::spawn({
            let checkpointer = checkpointer.clone();
            async move { checkpointer.latest("s").await }
        });
        let listing = tokio::spawn({
            let checkpointer = checkpointer.clone();
            async move { checkpointer.list("s").await }
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
        assert_eq!(checkpointer.list("s").await.expect("listed").checkpoints.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_stays_half_migrated_is_unavailable() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open(&format!("{}?response_timeout=2", cluster.url())).await;
    let half_moved = HalfMoved::new(&checkpointer, cluster, &[PARTITIONED.index("s")]).await;
    let moving = || "the slot of these keys is migrating to another server; retry".to_owned();
    let error = checkpointer.latest("s").await.expect_err("not loaded");
    assert_eq!(storage_fields(error), (StorageReason::Unavailable, Effect::None, moving()));
    let error = checkpointer.save(&checkpoint("s", "next", "r", 3)).await.expect_err("not saved");
    assert_eq!(storage_fields(error), (StorageReason::Unavailable, Effect::None, moving()));
    let error = checkpointer.clear_all().await.expect_err("not cleared");
    assert_eq!(storage_fields(error).1, Effect::None);
    let _cluster = half_moved.end().await;
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 2);
}

fn index_put(index: &str, member: &str) -> Operation {
    let (index, member) = (index.to_owned(), member.to_owned());
    Operation::IndexPut(IndexPut { index, member, score: 1.0, expiry: Expiry::Never })
}

fn member(index: &str, member: &str) -> IndexMember {
    IndexMember { index: index.to_owned(), member: member.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_deleted_completely_during_slot_migration() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    // With the pin marker, all keys of the first step are still on the first
    // master.
    checkpointer.pin_session("s").await.expect("pinned");
    // The index of its run no longer exists when the last batch uses it.
    checkpointer.save(&checkpoint("s", "oldest", "another", 0)).await.expect("saved");
    let half_moved = HalfMoved::new(&checkpointer, cluster, &[]).await;
    let deleting = tokio::spawn({
        let checkpointer = checkpointer.clone();
        async move { checkpointer.delete_session("s").await }
    });
    let master = &half_moved.cluster.servers()[half_moved.from];
    eventually("the first step is done", async || master.command::<u32>(&["DBSIZE"]).await == 0).await;
    let _cluster = half_moved.end().await;
    assert_eq!(deleting.await.expect("a task").expect("deleted"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_sees_its_own_deletions_during_slot_migration() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let store = redis_store(&format!("{}?response_timeout=1", cluster.url()));
    let [value, index, other] = ["{s}value", "{s}index", "{s}other"];
    let operations = vec![put(value, "v"), index_put(index, "value"), index_put(other, "value")];
    assert_eq!(store.commit(vec![batch(vec![], operations)]).await, Ok(vec![true]));
    let half_moved = HalfMoved::new(&checkpointer, cluster, &[]).await;
    let starts_with =
        |text: &str| Condition::StartsWith(ValuePrefix { key: value.to_owned(), text: text.to_owned() });
    let highest = |index: &str, member: Option<&str>| {
        Condition::IndexMax(IndexMax {
            index: index.to_owned(),
            value_key_prefix: "{s}".to_owned(),
            excluding: Vec::new(),
            member: member.map(str::to_owned),
            upper_bound: Position { score: 2.0, member: String::new() },
        })
    };
    let at_most = Condition::IndexSizeAtMost(IndexSize { index: index.to_owned(), size: 0 });
    let expire = |key: &str| {
        Operation::Expire(Expire { key: key.to_owned(), expiry: Expiry::Never, mode: ExpireMode::Set })
    };
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
async fn a_ledger_stays_exact_for_deletions_during_slot_migration() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let cluster = RedisCluster::start().await;
    let checkpointer = open_patiently(&cluster, "").await;
    let store = redis_store(&format!("{}?response_timeout=1", cluster.url()));
    let [a, b, c, index, ledger] = ["{s}a", "{s}b", "{s}c", "{s}index", "{s}\0quota"];
    let quota = Quota::new(ledger, Some(9), Some(999));
    let operations = vec![put(a, "1"), put(b, "22"), put(c, "333"), index_put(index, "a")];
    assert_eq!(store.commit_with_quota(&quota, vec![batch(vec![], operations)]).await, Ok(vec![true]));
    let half_moved = HalfMoved::new(&checkpointer, cluster, &[]).await;
    let master = &half_moved.cluster.servers()[half_moved.from];
    let noted = async |field: &str| master.command::<Option<String>>(&["HGET", ledger, field]).await;
    let of_c = Some("1 7".to_owned());

    let removal = vec![delete(a), Operation::IndexDelete(member(index, "a"))];
    let batches = vec![batch(vec![], removal), batch(vec![absent(a), absent(index)], vec![delete(a)])];
    assert_eq!(store.commit_with_quota(&quota, batches).await, Ok(vec![true, true]));
    assert_eq!(noted("values").await, Some("2".to_owned()));
    assert_eq!(noted("bytes").await, Some("13".to_owned()));
    assert_eq!((noted("key:{s}a").await, noted("key:{s}index").await), (None, None));

    // Writes that bypassed the ledger can't be reconciled during the migration.
    assert_eq!(store.commit(vec![batch(vec![], vec![delete(b)])]).await, Ok(vec![true]));
    let error = store.reconcile_quota(&quota, None).await.expect_err("not settled");
    assert_eq!(error.reason, StorageReason::Unavailable);
    assert_eq!(noted("values").await, Some("2".to_owned()));
    assert_eq!(noted("bytes").await, Some("13".to_owned()));
    assert_eq!((noted("key:{s}b").await, noted("key:{s}c").await), (Some("1 6".to_owned()), of_c.clone()));

    let to = half_moved.to;
    let cluster = half_moved.end().await;
    assert_eq!(store.reconcile_quota(&quota, None).await, Ok(None));
    let left: Vec<String> = cluster.servers()[to].command(&["HGETALL", ledger]).await;
    let mut left: Vec<[String; 2]> = left.as_chunks().0.to_vec();
    left.sort();
    assert_eq!(left, [["bytes", "7"], ["key:{s}c", "1 7"], ["values", "1"]]);
}
