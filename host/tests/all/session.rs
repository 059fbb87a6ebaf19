//! The typed session handle.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use crate::checkpointer::FaultyStore;

use checkpointer::store::{Batch, Expiry, ManualClock, Operation, Put, StoreUrl};
use checkpointer::{Checkpoint, Checkpointer, Error, Metadata, Run, Timestamp};
use checkpointer::{Conflict, Retry};

type Message = Result<(), String>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Everything {
    text: String,
    floats: Vec<f64>,
    numbers: (u64, i64, Option<u8>),
    map: BTreeMap<String, Message>,
    unit: (),
}

async fn memory() -> Checkpointer {
    Checkpointer::open("memory:").await.expect("opened")
}

#[tokio::test]
async fn loaded_state_equals_the_saved_one() {
    let state = Everything {
        text: "\u{0}\u{7f}\"\\ é ☀ 𝄞".to_owned(),
        floats: vec![0.1 + 0.2, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 1.0 / 3.0, 123456789012345680.0],
        numbers: (u64::MAX, i64::MIN, Some(0)),
        map: BTreeMap::from([("ok".to_owned(), Ok(())), (String::new(), Err("\n".to_owned()))]),
        unit: (),
    };
    for compress in [false, true] {
        let builder = Checkpointer::builder().compress(compress);
        let checkpointer = builder.open("memory:").await.expect("opened");
        let session = checkpointer.session::<Everything>("session-1");
        assert_eq!(session.latest().await.expect("loaded"), None);
        let step = session.append(None, "plan", &state).await.expect("saved");
        assert_eq!(step.state, state);
        assert_eq!(session.latest().await.expect("loaded"), Some(step.clone()));
        assert_eq!(session.history().next().await.expect("a step").expect("loaded"), step);
    }
}

#[tokio::test]
async fn state_that_cannot_be_read_back_is_not_saved() {
    let checkpointer = memory().await;
    let session = checkpointer.session::<f64>("session-1");
    let error = session.append(None, "divide", &f64::NAN).await.expect_err("no JSON number");
    assert!(error.to_string().starts_with("the state of session \"session-1\" can't be saved: "), "{error}");
    let session = checkpointer.session::<HashMap<(i32, i32), i32>>("session-1");
    let error = session.append(None, "map", &HashMap::from([((1, 1), 1)])).await.expect_err("no text key");
    assert!(matches!(error, Error::State { .. }), "{error}");
    assert_eq!(checkpointer.latest("session-1").await.expect("loaded"), None);
}

#[tokio::test]
async fn state_of_another_type_is_an_error_that_names_the_checkpoint() {
    let checkpointer = memory().await;
    let step = checkpointer.session::<String>("session-1").append(None, "n", &"one".to_owned()).await;
    let id = step.expect("saved").id;
    let error = checkpointer.session::<u64>("session-1").latest().await.expect_err("no number");
    let beginning = format!("the state of checkpoint \"{id}\" of session \"session-1\" can't be read: ");
    assert!(error.to_string().starts_with(&beginning), "{error}");
}

#[tokio::test]
async fn steps_are_numbered_and_written_in_format_b_with_their_run() {
    let checkpointer = memory().await;
    let session = checkpointer.session::<u64>("session-1");
    let other = checkpointer.session::<u64>("session-1").run("run-2");
    assert_ne!(session.run_id(), other.run_id());
    session.step("first", |count| *count += 1).await.expect("saved");
    other.step("second", |count| *count += 1).await.expect("saved");
    let latest = checkpointer.latest("session-1").await.expect("loaded").expect("a checkpoint");
    let run = latest.metadata.run.expect("a run");
    assert_eq!((run.run_id.as_str(), run.prev_node.as_str(), run.attempt), ("run-2", "first", Some(1)));
    assert_eq!((latest.metadata.step, latest.state.as_str()), (2, "2"));
}

#[tokio::test]
async fn concurrent_steps_lose_no_change() {
    let checkpointer = memory().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let session = checkpointer.session::<u64>("session-1");
            tokio::spawn(async move {
                for _ in 0..10 {
                    session.step("add", |count| *count += 1).await.expect("saved");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let latest = checkpointer.session::<u64>("session-1").latest().await.expect("loaded").expect("a step");
    assert_eq!((latest.state, latest.number), (80, 80));
}

#[tokio::test]
async fn append_after_an_old_step_is_a_conflict_with_the_actual_latest() {
    let session = memory().await.session::<u64>("session-1");
    let first = session.append(None, "n", &1).await.expect("saved");
    let second = session.append(&first, "n", &2).await.expect("saved");
    for after in [None, Some(&first)] {
        let error = session.append(after, "n", &3).await.expect_err("a conflict");
        let Error::Conflict(Conflict::NotLatest { actual }) = error else { panic!("{error}") };
        assert_eq!(actual.as_ref(), Some(&second.id));
    }
}

#[tokio::test]
async fn error_of_a_change_ends_the_step_without_a_save() {
    #[derive(Debug)]
    enum Failure {
        Model,
        Checkpointer,
    }
    impl From<Error> for Failure {
        fn from(_: Error) -> Self {
            Self::Checkpointer
        }
    }
    let checkpointer = memory().await;
    let session = checkpointer.session::<u64>("session-1");
    let result = session.try_step("ask", async |_| Err(Failure::Model)).await;
    assert!(matches!(result, Err(Failure::Model)));
    assert_eq!(session.latest().await.expect("loaded"), None);
    checkpointer.close().await;
    assert!(matches!(session.try_step("ask", async |_| Ok(1)).await, Err(Failure::Checkpointer)));
}

#[tokio::test]
async fn step_follows_a_latest_checkpoint_that_is_ahead_of_the_clock() {
    let clock = ManualClock::new();
    let checkpointer = Checkpointer::builder().clock(clock.clone()).open("memory:").await.expect("opened");
    let ahead: Timestamp = "2100-01-01T00:00:00+02:00".parse().expect("a timestamp");
    let metadata = Metadata::new("session-1", "1").timestamp(ahead).run(Run::new("run-1"));
    checkpointer.save(Checkpoint::new(metadata, "0")).await.expect("saved");
    let session = checkpointer.session::<u64>("session-1");
    let mut ids = Vec::new();
    for number in 1..=100 {
        let step = session.step("add", |count| *count += 1).await.expect("saved");
        assert_eq!((step.state, step.number), (number as u64, number));
        assert_eq!(step.timestamp.unix_micros(), ahead.unix_micros() + number);
        assert_eq!(session.latest().await.expect("loaded"), Some(step.clone()));
        ids.push(step.id);
    }
    assert!(ids.is_sorted());

    let step = checkpointer.session::<u64>("session-2").step("add", |_| {}).await.expect("saved");
    assert_eq!(step.timestamp, Timestamp::from(clock.now()));
}

#[tokio::test]
async fn step_whose_reply_was_lost_is_done_once() {
    let store = FaultyStore::new().await;
    let retry = Retry::new(5).initial_backoff(Duration::from_millis(1));
    let checkpointer = Checkpointer::builder().retry(retry).open_store(store.clone()).await.expect("opened");
    let session = checkpointer.session::<u64>("session-1");
    for _ in 0..3 {
        store.fail(2);
        session.step("add", |count| *count += 1).await.expect("saved");
    }
    let steps: Vec<_> = session.history().map(|step| step.expect("a step").state).collect().await;
    assert_eq!(steps, [3, 2, 1]);
}

#[tokio::test]
async fn history_has_each_step_once_and_reports_unreadable_ones() {
    let store = "memory:".parse::<StoreUrl>().expect("a URL").open().await.expect("opened");
    let checkpointer = Checkpointer::builder().open_store(Arc::clone(&store)).await.expect("opened");
    let session = checkpointer.session::<u64>("session-1");
    let mut ids = Vec::new();
    // More than two pages, of 16 and 128 checkpoints.
    for _ in 0..16 * 8 + 20 {
        ids.push(session.step("add", |count| *count += 1).await.expect("saved").id);
    }
    let garbage = Put {
        key: format!("{}checkpoint:{}", checkpointer::DEFAULT_PREFIX, ids[3]),
        value: "garbage".to_owned(),
        expiry: Expiry::Never,
    };
    let batch = Batch { conditions: Vec::new(), operations: vec![Operation::Put(garbage)] };
    store.commit(vec![batch]).await.expect("written");
    let text = checkpointer.session::<String>("session-1").step("text", |_| {}).await;
    assert!(matches!(text, Err(Error::State { .. })), "{text:?}");

    let mut history = session.history();
    let newest = history.next().await.expect("a step").expect("readable");
    assert_eq!(Some(&newest.id), ids.last());
    // A step that is saved meanwhile is not in the stream.
    session.step("add", |count| *count += 1).await.expect("saved");
    let (mut found, mut corrupt) = (vec![newest.id], Vec::new());
    while let Some(step) = history.next().await {
        match step {
            Ok(step) => found.push(step.id),
            Err(Error::Corrupt { checkpoint_id, .. }) => corrupt.push(checkpoint_id),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(corrupt, [ids.remove(3)]);
    ids.reverse();
    assert_eq!(found, ids);
}

#[tokio::test]
async fn storage_error_ends_the_history() {
    let checkpointer = memory().await;
    let session = checkpointer.session::<u64>("session-1");
    checkpointer.close().await;
    let mut history = session.history();
    assert!(matches!(history.next().await, Some(Err(Error::Closed))));
    assert!(history.next().await.is_none());
}

#[tokio::test]
async fn session_is_deleted_and_pinned_as_a_whole() {
    let clock = ManualClock::new();
    let day = Duration::from_secs(24 * 60 * 60);
    let builder = Checkpointer::builder().ttl(day).clock(clock.clone());
    let session = builder.open("memory:").await.expect("opened").session::<u64>("session-1");
    session.step("add", |count| *count += 1).await.expect("saved");
    assert_eq!(session.pin().await.expect("pinned"), 1);
    clock.advance(day);
    assert_eq!(session.unpin().await.expect("unpinned"), 1);
    clock.advance(day);
    assert_eq!(session.latest().await.expect("loaded"), None);
    session.step("add", |count| *count += 1).await.expect("saved");
    assert_eq!(session.delete().await.expect("deleted"), 1);
}
