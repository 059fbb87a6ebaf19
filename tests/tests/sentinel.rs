//! A master with two replicas that three sentinels watch over: the contract, and
//! masters that die, hang, are replaced and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Checkpoint, Checkpointer, Conflict, Error, StorageError};
use checkpointer_tests::acl::{CONTRACT, USER, rules, set_user};
use checkpointer_tests::contract::{self, Backend, TestStore, keys_after, redis_store};
use checkpointer_tests::errors::storage_fields;
use checkpointer_tests::eventually::eventually;
use checkpointer_tests::redis_server::free_port;
use checkpointer_tests::samples::checkpoint;
use checkpointer_tests::sentinels::{NAME, Sentinels};
use checkpointer_tests::checkpointer_under_test::Mode;
use redis::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

macro_rules! contract_over_sentinels {
    ($($part:ident: { $($promise:ident,)* })*) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let place = TestStore::new(Backend::RedisSentinel).await;
                contract_over_sentinels!(@ $part $promise place);
            }
        )*)*
    };
    (@ store $promise:ident $place:ident) => { contract::store::$promise(&$place).await };
    (@ quota $promise:ident $place:ident) => { contract::quota::$promise(&$place).await };
    (@ $part:ident $promise:ident $place:ident) => {
        contract::$part::$promise(&$place, Mode::Component).await
    };
}

contract_over_sentinels! {
    store: {
        gives_values_in_order_and_heads_at_characters,
        goes_on_behind_any_place_in_an_index,
        applies_a_batch_only_if_its_conditions_hold,
        values_expire_and_setting_them_again_sets_the_expiry,
        a_value_is_no_index_and_an_index_no_value,
        a_scan_takes_its_prefix_literally,
        of_many_at_once_one_wins,
    }
    quota: {
        a_full_bucket_refuses_and_writes_nothing,
        many_writers_never_exceed_a_limit,
    }
    checkpointer: {
        a_saved_checkpoint_is_loaded_as_it_was,
        none_is_loaded_only_where_there_is_none,
        sessions_keep_apart,
        clear_all_clears_one_prefix_and_no_other,
        deleting_counts_and_leaves_nothing_behind,
        a_session_keeps_no_more_than_its_limit,
    }
    lifetime: {
        a_ttl_is_kept_for_values_and_indexes_alike,
        what_is_pinned_stays,
    }
    concurrency: {
        a_save_that_races_a_delete_leaves_nothing_unnamed,
        a_save_after_another_latest_is_told_which_it_is,
        of_many_that_extend_a_session_each_comes_after_another,
    }
}

/// With time enough for a failover on a busy machine.
const PATIENT: &str = "response_timeout=60";

async fn open(sentinels: &Sentinels, options: &str) -> Checkpointer {
    Checkpointer::open(&format!("{}&{options}", sentinels.url())).await.expect("a checkpointer")
}

/// Tasks that save one checkpoint after another until they are told to stop.
struct Writers {
    tasks: Vec<(watch::Receiver<u32>, JoinHandle<Vec<Checkpoint>>)>,
    stop: Arc<AtomicBool>,
}

/// How many writers have a session of their own, and how many share one.
const ALONE: usize = 8;
const SHARING: usize = 3;

impl Writers {
    /// `may_pass` says which errors are no end of a writer.
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
            // It ends with an error only if its writer has panicked.
            progress.wait_for(|saved| *saved >= before + 20).await.expect("a writer goes on");
        }
    }

    /// How much each writer has saved.
    fn progress(&self) -> Vec<usize> {
        self.tasks.iter().map(|(progress, _)| *progress.borrow() as usize).collect()
    }

    /// What was acknowledged to each writer, in this order.
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
            // Each comes later than the one it is saved after.
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
                // What is not acknowledged is saved again.
                Err(error) => assert!((self.may_pass)(&error), "{session}: {error:?}"),
            }
        }
        acknowledged
    }
}

/// Errors are none.
fn none(_: &Error) -> bool {
    false
}

/// What is lost of what was acknowledged from so many on.
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
async fn no_writer_meets_an_error_when_the_master_is_killed_and_comes_back() {
    let mut sentinels = Sentinels::start().await;
    let mut writers = Writers::start(&open(&sentinels, PATIENT).await, none);
    writers.go_on().await;
    let former = sentinels.kill_master().await;
    let master = sentinels.successor_of(former).await;
    writers.go_on().await;
    let since = writers.progress();
    // It is empty, and takes itself for the master until a sentinel sees it.
    sentinels.servers_mut()[former].restart().await;
    sentinels.wait_until_replica(former).await;
    writers.go_on().await;
    let acknowledged = writers.end().await;
    assert_eq!(lost(&sentinels, &acknowledged, &since).await, []);
    assert_eq!(sentinels.master().await.port(), sentinels.servers()[master].port());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replicas_nothing_that_was_acknowledged_is_lost_when_the_master_is_killed() {
    let mut sentinels = Sentinels::start().await;
    let checkpointer = open(&sentinels, "response_timeout=60&replicas=1").await;
    let mut writers = Writers::start(&checkpointer, |error| {
        matches!(error, Error::Storage(StorageError { reason: StorageReason::Unavailable, effect: Effect::Unknown, message, .. })
            if message == "only 0 of 1 replicas have the write; it may be lost if the server fails")
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
async fn a_master_that_hangs_is_replaced_within_the_time_for_an_answer() {
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
async fn no_writer_meets_an_error_when_another_master_is_chosen_by_hand() {
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
async fn whoever_was_idle_never_takes_a_master_that_comes_back_for_the_master() {
    let mut sentinels = Sentinels::start().await;
    let checkpointer = open(&sentinels, "response_timeout=60&replicas=2&replica_timeout=30").await;
    let a = checkpoint("s", "a", "r", 1);
    checkpointer.save(&a).await.expect("saved");
    let former = sentinels.kill_master().await;
    sentinels.successor_of(former).await;
    sentinels.servers_mut()[former].restart().await;
    // It has nothing, and would say so.
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(a));
    sentinels.wait_until_replica(former).await;
    checkpointer.save(&checkpoint("s", "b", "r", 2)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_goes_on_at_another_master_misses_no_key() {
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
async fn without_sentinels_a_store_goes_on_until_it_needs_them() {
    let mut sentinels = Sentinels::start().await;
    let checkpointer = open(&sentinels, "response_timeout=1").await;
    let a = checkpoint("s", "a", "r", 1);
    checkpointer.save(&a).await.expect("saved");
    sentinels.kill_sentinels().await;
    checkpointer.save(&checkpoint("s", "b", "r", 2)).await.expect("saved");
    assert_eq!(checkpointer.load("s", "a").await.expect("loaded"), Some(a.clone()));
    let message = "none of the store's sentinels can be reached";
    let expected = (StorageReason::Unavailable, Effect::None, message.to_owned());
    let new = open(&sentinels, "response_timeout=1").await;
    assert_eq!(failure(new.save(&a).await), expected);
    assert_eq!(failure(new.latest("s").await), expected);
    // Nobody says any more who the master is.
    sentinels.servers()[0].command::<Value>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    assert_eq!(failure(checkpointer.latest("s").await), expected);
}

/// What somebody is told.
fn failure<T: std::fmt::Debug>(answer: Result<T, Error>) -> (StorageReason, Effect, String) {
    storage_fields(answer.expect_err("a failure"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_address_is_told() {
    let (sentinels, _guard) = Sentinels::shared().await;
    let (url, port) = (sentinels.url(), sentinels.servers()[0].port());
    let of = |options: &str| format!("{}?{options}", url.split('?').next().expect("an address"));
    for (url, reason, message) in [
        (
            url.replace(NAME, "another"),
            StorageReason::InvalidArgument,
            "the sentinels of the store know no master of this name",
        ),
        (
            of("sentinel_password=wrong"),
            StorageReason::AccessDenied,
            "a sentinel of the store refused the user or the password",
        ),
        (of(""), StorageReason::AccessDenied, "a sentinel of the store refused the user or the password"),
        (
            url.replace("redis+sentinel://", "redis+sentinel://stranger:wrong@"),
            StorageReason::AccessDenied,
            "the store refused the user or the password",
        ),
        (
            format!("redis+sentinel://127.0.0.1:{port}/{NAME}"),
            StorageReason::InvalidArgument,
            "a server is no sentinel of the store",
        ),
        (
            format!("redis+sentinel://127.0.0.1:{}/{NAME}", free_port()),
            StorageReason::Unavailable,
            "none of the store's sentinels can be reached",
        ),
        (
            url.replace(NAME, "mymaster/77"),
            StorageReason::InvalidArgument,
            "the store has no database of this number",
        ),
    ] {
        let patience = if url.contains('?') { "&response_timeout=5" } else { "?response_timeout=1" };
        let checkpointer = Checkpointer::open(&format!("{url}{patience}")).await.expect("a checkpointer");
        let expected = (reason, Effect::None, message.to_owned());
        assert_eq!(failure(checkpointer.save(&checkpoint("s", "a", "r", 1)).await), expected);
    }
    // One that lets in is enough.
    let url = url.replace(
        "redis+sentinel://",
        &format!("redis+sentinel://127.0.0.1:{port},127.0.0.1:{},", free_port()),
    );
    let checkpointer = Checkpointer::open(&format!("{url}&{PATIENT}")).await.expect("a checkpointer");
    checkpointer.save(&checkpoint("s", "a", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_no_other_permissions_than_over_one_server() {
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
