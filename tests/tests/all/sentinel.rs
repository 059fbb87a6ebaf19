//! A master with two replicas, monitored by three Sentinels: a part of the
//! contract, and masters that are killed, stall, are replaced and return.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Checkpoint, Checkpointer, Conflict, Error, StorageError};
use checkpointer_tests::acl::{CONTRACT, USER, rules, set_user};
use checkpointer_tests::checkpointer_under_test::Mode;
use checkpointer_tests::contract::{self, Backend, TestStore, keys_after, redis_store};
use checkpointer_tests::errors::storage_fields;
use checkpointer_tests::eventually::eventually;
use checkpointer_tests::long_tests;
use checkpointer_tests::redis_server::free_port;
use checkpointer_tests::samples::checkpoint;
use checkpointer_tests::sentinels::{NAME, Sentinels};
use redis::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

macro_rules! contract_over_sentinels {
    ($($part:ident: { $($promise:ident,)* })*) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let store = TestStore::new(Backend::RedisSentinel).await;
                contract_over_sentinels!(@ $part $promise store);
            }
        )*)*
    };
    (@ store $promise:ident $store:ident) => { contract::store::$promise(&$store).await };
    (@ quota $promise:ident $store:ident) => { contract::quota::$promise(&$store).await };
    (@ $part:ident $promise:ident $store:ident) => {
        contract::$part::$promise(&$store, Mode::Component).await
    };
}

contract_over_sentinels! {
    store: {
        get_returns_values_in_key_order_and_truncates_at_characters,
        range_continues_after_any_position,
        a_batch_is_applied_only_if_its_conditions_hold,
        a_put_replaces_the_expiry,
        values_and_indexes_are_distinct_types,
        a_scan_takes_its_prefix_literally,
        concurrent_conditional_puts_have_exactly_one_winner,
    }
    quota: {
        a_full_bucket_rejects_a_commit_and_writes_nothing,
        concurrent_writers_never_exceed_a_quota,
    }
    checkpointer: {
        a_loaded_checkpoint_equals_the_saved_one,
        missing_checkpoints_are_none,
        sessions_are_isolated,
        clear_all_clears_exactly_one_prefix,
        deletion_returns_the_count_and_leaves_no_key,
        max_checkpoints_removes_the_oldest,
    }
    expiry: {
        a_ttl_applies_to_values_and_indexes,
        pinned_checkpoints_do_not_expire,
    }
    concurrency: {
        a_save_racing_a_delete_leaves_consistent_indexes,
        save_after_reports_the_actual_latest,
        concurrent_save_after_has_exactly_one_winner,
    }
}

/// Long enough for a failover on a busy machine.
const PATIENT: &str = "response_timeout=60";

async fn open(sentinels: &Sentinels, options: &str) -> Checkpointer {
    Checkpointer::open(&format!("{}&{options}", sentinels.url())).await.expect("a checkpointer")
}

/// Tasks that save one checkpoint after another until they are stopped.
struct Writers {
    tasks: Vec<(watch::Receiver<u32>, JoinHandle<Vec<Checkpoint>>)>,
    stop: Arc<AtomicBool>,
}

/// The number of writers with a session of their own, and of those that share
/// one.
const ALONE: usize = 8;
const SHARING: usize = 3;

impl Writers {
    /// `may_pass` returns whether a writer ignores an error.
    fn start(checkpointer: &Checkpointer, may_pass: fn(&Error) -> bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..ALONE + SHARING).map(|number| {
            let (saved, progress) = watch::channel(0);
            let writer = Writer { number, checkpointer: checkpointer.clone(), may_pass, saved };
            (progress, tokio::spawn(writer.save_until(Arc::clone(&stop))))
        });
        Self { tasks: tasks.collect(), stop }
    }

    /// Waits until each writer has saved more.
    async fn go_on(&mut self) {
        for (progress, _) in &mut self.tasks {
            let before = *progress.borrow();
            // Fails only if the writer has panicked.
            progress.wait_for(|saved| *saved >= before + 20).await.expect("a writer goes on");
        }
    }

    /// The number of saves of each writer.
    fn progress(&self) -> Vec<usize> {
        self.tasks.iter().map(|(progress, _)| *progress.borrow() as usize).collect()
    }

    /// The acknowledged checkpoints of each writer, in order.
    async fn end(self) -> Vec<Vec<Checkpoint>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for (_, task) in self.tasks {
            acknowledged.push(task.await.expect("a writer met no error"));
        }
        acknowledged
    }
}

struct Writer {
    number: usize,
    checkpointer: Checkpointer,
    may_pass: fn(&Error) -> bool,
    saved: watch::Sender<u32>,
}

impl Writer {
    async fn save_until(self, stop: Arc<AtomicBool>) -> Vec<Checkpoint> {
        let is_alone = self.number < ALONE;
        let session = if is_alone { format!("s{}", self.number) } else { "shared".to_owned() };
        let (mut acknowledged, mut latest) = (Vec::new(), None::<String>);
        while !stop.load(Ordering::Relaxed) {
            // Each checkpoint is newer than the one it is saved after.
            let before = latest.as_deref().and_then(|latest| latest.split_once('-'));
            let second = before.map_or(0, |(_, second)| second.parse::<u32>().expect("a number") + 1);
            let id = format!("w{}-{second}", self.number);
            let to_save = checkpoint(&session, &id, "r", second);
            let saved = if is_alone {
                self.checkpointer.save(&to_save).await
            } else {
                self.checkpointer.save_after(&to_save, latest.as_deref()).await
            };
            match saved {
                Ok(_) => {
                    latest = Some(id);
                    acknowledged.push(to_save);
                    self.saved.send_modify(|saved| *saved += 1);
                }
                Err(Error::Conflict(Conflict::NotLatest { actual: other })) => latest = other,
                // A save that was not acknowledged is retried.
                Err(error) => assert!((self.may_pass)(&error), "{session}: {error:?}"),
            }
        }
        acknowledged
    }
}

/// No error is ignored.
fn none(_: &Error) -> bool {
    false
}

/// The acknowledged checkpoints after these numbers that are missing.
async fn lost(sentinels: &Sentinels, acknowledged: &[Vec<Checkpoint>], from: &[usize]) -> Vec<Checkpoint> {
    let checkpointer = open(sentinels, PATIENT).await;
    let mut lost = Vec::new();
    for (acknowledged, from) in acknowledged.iter().zip(from) {
        for saved in &acknowledged[*from..] {
            let metadata = &saved.metadata;
            let loaded = checkpointer.load(&metadata.session_id, &metadata.checkpoint_id).await;
            if loaded.expect("loaded").as_ref() != Some(saved) {
                lost.push(saved.clone());
            }
        }
    }
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_continue_without_errors_after_the_master_is_killed_and_restarted() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let mut sentinels = Sentinels::start().await;
    let mut writers = Writers::start(&open(&sentinels, PATIENT).await, none);
    writers.go_on().await;
    let former = sentinels.kill_master().await;
    let master = sentinels.successor_of(former).await;
    writers.go_on().await;
    let since = writers.progress();
    // The former master is empty and a master until a Sentinel reconfigures it.
    sentinels.servers_mut()[former].restart().await;
    sentinels.wait_until_replica(former).await;
    writers.go_on().await;
    let acknowledged = writers.end().await;
    assert_eq!(lost(&sentinels, &acknowledged, &since).await, []);
    assert_eq!(sentinels.master().await.port(), sentinels.servers()[master].port());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replicas_no_acknowledged_save_is_lost_after_a_failover() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let mut sentinels = Sentinels::start().await;
    let checkpointer = open(&sentinels, "response_timeout=60&replicas=1").await;
    let mut writers = Writers::start(&checkpointer, |error| {
        matches!(error, Error::Storage(StorageError { reason: StorageReason::Unavailable, effect: Effect::Unknown, message, .. })
            if message == "only 0 of 1 replicas have the write; it may be lost in a failover")
    });
    writers.go_on().await;
    let former = sentinels.kill_master().await;
    sentinels.successor_of(former).await;
    writers.go_on().await;
    sentinels.servers_mut()[former].restart().await;
    sentinels.wait_until_replica(former).await;
    writers.go_on().await;
    let acknowledged = writers.end().await;
    assert_eq!(lost(&sentinels, &acknowledged, &[0; ALONE + SHARING]).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_master_is_replaced_within_the_response_timeout() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    for options in ["response_timeout=30", "response_timeout=30&replicas=1"] {
        let sentinels = Sentinels::start().await;
        let checkpointer = open(&sentinels, options).await;
        checkpointer.save(&checkpoint("s", "a", "r", 1)).await.expect("saved");
        sentinels.servers()[0].signal("-STOP").await;
        let (b, c) = (checkpoint("s", "b", "r", 2), checkpoint("t", "c", "r", 3));
        let (saved, saved_after, loaded) = tokio::join!(
            checkpointer.save(&b),
            checkpointer.save_after(&c, None),
            checkpointer.load("s", "a"),
        );
        saved.expect("saved");
        saved_after.expect("saved");
        loaded.expect("loaded").expect("a checkpoint");
        sentinels.servers()[0].signal("-CONT").await;
        sentinels.wait_until_replica(0).await;
        assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(b), "{options}");
        assert_eq!(checkpointer.latest("t").await.expect("loaded"), Some(c), "{options}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_continue_without_errors_during_a_manual_failover() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let sentinels = Sentinels::start().await;
    let mut writers = Writers::start(&open(&sentinels, PATIENT).await, none);
    writers.go_on().await;
    sentinels.fail_over().await;
    sentinels.successor_of(0).await;
    sentinels.wait_until_replica(0).await;
    writers.go_on().await;
    let since = writers.progress();
    writers.go_on().await;
    let acknowledged = writers.end().await;
    assert_eq!(lost(&sentinels, &acknowledged, &since).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_checkpointer_never_uses_a_returned_former_master() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let mut sentinels = Sentinels::start().await;
    let checkpointer = open(&sentinels, "response_timeout=60&replicas=2&replica_timeout=30").await;
    let a = checkpoint("s", "a", "r", 1);
    checkpointer.save(&a).await.expect("saved");
    let former = sentinels.kill_master().await;
    sentinels.successor_of(former).await;
    sentinels.servers_mut()[former].restart().await;
    // The former master would return none.
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(a));
    sentinels.wait_until_replica(former).await;
    checkpointer.save(&checkpoint("s", "b", "r", 2)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_across_a_failover_returns_every_key() {
    if !long_tests::are_requested(long_tests::FAILOVERS) {
        return;
    }
    let mut sentinels = Sentinels::start().await;
    let store = redis_store(&format!("{}&{PATIENT}", sentinels.url()));
    let keys: Vec<String> = (0..5000).map(|number| format!("key {number:04}")).collect();
    let mut mset = vec!["MSET"];
    mset.extend(keys.iter().flat_map(|key| [key.as_str(), "value"]));
    sentinels.servers()[0].command::<Value>(&mset).await;
    eventually("the replicas have the keys", async || {
        let mut have = true;
        for replica in &sentinels.servers()[1..] {
            have &= replica.command::<usize>(&["DBSIZE"]).await == keys.len();
        }
        have
    })
    .await;
    let page = store.scan("key ".to_owned(), None).await.expect("a page");
    assert!(page.next_cursor.is_some());
    let former = sentinels.kill_master().await;
    sentinels.successor_of(former).await;
    let found = keys_after(&store, "key ", page.next_cursor).await;
    assert!(found == keys, "{} of {}", found.len(), keys.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sentinels_a_store_works_until_it_needs_a_discovery() {
    let mut sentinels = Sentinels::start().await;
    let checkpointer = open(&sentinels, "response_timeout=1").await;
    let a = checkpoint("s", "a", "r", 1);
    checkpointer.save(&a).await.expect("saved");
    sentinels.kill_sentinels().await;
    checkpointer.save(&checkpoint("s", "b", "r", 2)).await.expect("saved");
    assert_eq!(checkpointer.load("s", "a").await.expect("loaded"), Some(a.clone()));
    let message = "no Sentinel of the store can be reached; check the addresses and that they are running";
    let expected = (StorageReason::Unavailable, Effect::None, message.to_owned());
    let new = open(&sentinels, "response_timeout=1").await;
    assert_eq!(failure(new.save(&a).await), expected);
    assert_eq!(failure(new.latest("s").await), expected);
    // No Sentinel can be asked for the master.
    sentinels.servers()[0].command::<Value>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    assert_eq!(failure(checkpointer.latest("s").await), expected);
}

/// The fields of a failure.
fn failure<T: std::fmt::Debug>(answer: Result<T, Error>) -> (StorageReason, Effect, String) {
    storage_fields(answer.expect_err("a failure"))
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_sentinel_urls_are_reported() {
    let (sentinels, _guard) = Sentinels::shared().await;
    let (url, port) = (sentinels.url(), sentinels.servers()[0].port());
    let of = |options: &str| format!("{}?{options}", url.split('?').next().expect("an address"));
    for (url, reason, message) in [
        (
            url.replace(NAME, "another"),
            StorageReason::InvalidArgument,
            "the Sentinels know no master with this name; check the path of the URL",
        ),
        (
            of("sentinel_password=wrong"),
            StorageReason::AccessDenied,
            "a Sentinel rejected the user or the password; see `sentinel_user` and `sentinel_password`",
        ),
        (
            of(""),
            StorageReason::AccessDenied,
            "a Sentinel rejected the user or the password; see `sentinel_user` and `sentinel_password`",
        ),
        (
            url.replace("redis+sentinel://", "redis+sentinel://stranger:wrong@"),
            StorageReason::AccessDenied,
            "the store rejected the user or the password",
        ),
        (
            format!("redis+sentinel://127.0.0.1:{port}/{NAME}"),
            StorageReason::InvalidArgument,
            "the server is not a Sentinel; check its port, usually 26379",
        ),
        (
            format!("redis+sentinel://127.0.0.1:{}/{NAME}", free_port()),
            StorageReason::Unavailable,
            "no Sentinel of the store can be reached; check the addresses and that they are running",
        ),
        (
            url.replace(NAME, "mymaster/77"),
            StorageReason::InvalidArgument,
            "the store has no database with this number; check the URL and `databases` in redis.conf",
        ),
    ] {
        let patience = if url.contains('?') { "&response_timeout=5" } else { "?response_timeout=1" };
        let checkpointer = Checkpointer::open(&format!("{url}{patience}")).await.expect("a checkpointer");
        let expected = (reason, Effect::None, message.to_owned());
        assert_eq!(failure(checkpointer.save(&checkpoint("s", "a", "r", 1)).await), expected);
    }
    // One Sentinel that accepts the password is enough.
    let url = url.replace(
        "redis+sentinel://",
        &format!("redis+sentinel://127.0.0.1:{port},127.0.0.1:{},", free_port()),
    );
    let checkpointer = Checkpointer::open(&format!("{url}&{PATIENT}")).await.expect("a checkpointer");
    checkpointer.save(&checkpoint("s", "a", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_the_same_permissions_as_on_one_server() {
    let (sentinels, _guard) = Sentinels::shared().await;
    let rules = rules(&CONTRACT);
    let url = set_user(sentinels.master().await, &rules).await;
    let (who, _) = url.strip_prefix("redis://").and_then(|url| url.split_once('@')).expect("a user");
    let url = sentinels.url().replace("redis+sentinel://", &format!("redis+sentinel://{who}@"));
    let checkpointer = Checkpointer::open(&format!("{url}&{PATIENT}")).await.expect("a checkpointer");
    let a = checkpoint("s", "a", "r", 1);
    checkpointer.save(&a).await.expect("saved");
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(a));
    sentinels.master().await.command::<Value>(&["ACL", "DELUSER", USER]).await;
}
