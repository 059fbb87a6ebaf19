//! The contract of the checkpointer under concurrency.

use std::collections::BTreeSet;

use checkpointer::store::{Effect, Expiry, IndexPut, Operation};
use checkpointer::{Conflict, Error, SaveOutcome, StorageError};

use super::TestStore;
use super::checkpointer::{save, sorted};
use crate::checkpointer_under_test::{Mode, Options};
use crate::samples::checkpoint;

/// A save that races a delete is stored completely or not at all (5).
pub async fn a_save_racing_a_delete_leaves_consistent_indexes(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    for round in 0..20 {
        for number in 0..5 {
            save(&checkpointer, &checkpoint("s", &format!("c{number}"), "r", number)).await;
        }
        let racing = checkpoint("s", &format!("c{}", round % 7), &format!("r{}", round % 3), 50);
        let (saved, deleted) = tokio::join!(checkpointer.save(&racing), checkpointer.delete_session("s"));
        saved.expect("saved");
        deleted.expect("deleted");
        let ids = checkpointer.ids("s", 100).await;
        let mut expected: Vec<String> = Vec::new();
        for id in &ids {
            let run =
                checkpointer.load("s", id).await.expect("an answer").and_then(|found| found.metadata.run);
            let run = run.expect("a checkpoint of a run").run_id;
            assert_eq!(checkpointer.ids_of_run("s", &run).await, std::slice::from_ref(id));
            expected.extend([store.names().document("s", id), store.names().index_of_run("s", &run)]);
        }
        expected.extend((!ids.is_empty()).then(|| store.names().index("s")));
        assert_eq!(store.keys("").await, sorted(expected));
        checkpointer.delete_session("s").await.expect("deleted");
    }
}

/// Concurrent saves into one session keep to its limit.
pub async fn max_checkpoints_holds_under_concurrency(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options { max_checkpoints: Some(3), ..Options::default() }).await;
    let tasks: Vec<_> = (0..4)
        .map(|writer| {
            let checkpointer = checkpointer.clone();
            tokio::spawn(async move {
                for number in 0..10 {
                    let saved = checkpoint("s", &format!("{writer}-{number}"), "r", number);
                    // A save fails without effect if it lost the race in every attempt.
                    while let Err(error) = checkpointer.save(&saved).await {
                        assert!(
                            matches!(error, Error::Storage(StorageError { effect: Effect::None, .. })),
                            "{error}"
                        );
                    }
                    assert!(checkpointer.ids("s", 100).await.len() <= 3);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    assert_eq!(checkpointer.ids("s", 100).await, ["3-9", "2-9", "1-9"]);
    assert_eq!(store.keys(&store.names().document("s", "")).await.len(), 3);
}

/// Concurrent saves of different ids need no second attempt.
pub async fn concurrent_saves_of_different_ids_succeed_at_the_first_attempt(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    let tasks: Vec<_> = (0..8)
        .map(|writer| {
            let checkpointer = checkpointer.clone();
            tokio::spawn(async move {
                for number in 0..25 {
                    let id = format!("{writer}-{number}");
                    let saved =
                        checkpointer.save(&checkpoint("s", &id, &format!("r{}", number % 3), number)).await;
                    assert_ne!(saved.expect("saved"), SaveOutcome::Pruned);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    assert_eq!(checkpointer.ids("s", 1000).await.len(), 200);
}

/// `save_after` with another expected latest checkpoint returns the actual one,
/// and writes nothing.
pub async fn save_after_reports_the_actual_latest(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    let of = |id: &str, second| checkpoint("s", id, "r", second);
    let latest = |answer: Result<SaveOutcome, Error>| match answer {
        Err(Error::Conflict(Conflict::NotLatest { actual: latest })) => latest,
        other => panic!("{other:?}"),
    };
    assert_eq!(latest(checkpointer.save_after(&of("a", 10), Some("z")).await), None);
    assert_eq!(store.keys("").await, [""; 0]);
    assert_eq!(checkpointer.save_after(&of("a", 10), None).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(latest(checkpointer.save_after(&of("b", 20), None).await).as_deref(), Some("a"));
    assert_eq!(checkpointer.save_after(&of("b", 20), Some("a")).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(latest(checkpointer.save_after(&of("c", 30), Some("a")).await).as_deref(), Some("b"));
    // The same save again, as after a lost reply.
    assert_eq!(checkpointer.save_after(&of("b", 20), Some("a")).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(checkpointer.save_after(&of("a", 10), None).await.expect("saved"), SaveOutcome::Latest);
    // The latest checkpoint may be replaced; no save may be older than the
    // latest.
    let mut again = of("b", 20);
    again.state = "[]".to_owned();
    assert_eq!(checkpointer.save_after(&again, Some("b")).await.expect("saved"), SaveOutcome::Latest);
    for (id, second) in [("c", 15), ("aa", 20), ("b", 19)] {
        let error = checkpointer.save_after(&of(id, second), Some("b")).await.expect_err("not the latest");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    }
    assert_eq!(checkpointer.ids("s", 9).await, ["b", "a"]);
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(again));
}

/// `save_after` can't take an id of another session.
pub async fn save_after_does_not_take_an_id_of_another_session(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    save(&checkpointer, &checkpoint("s", "a", "r", 1)).await;
    save(&checkpointer, &checkpoint("t", "t", "r", 1)).await;
    let error = checkpointer.save_after(&checkpoint("s", "t", "r", 50), Some("a")).await.expect_err("taken");
    assert!(matches!(error, Error::Conflict(Conflict::IdInUse { .. })), "{error}");
    assert_eq!(
        (checkpointer.ids("s", 9).await, checkpointer.ids("t", 9).await),
        (vec!["a".into()], vec!["t".into()])
    );
}

/// Dangling entries and entries of other sessions are not the latest checkpoint.
pub async fn save_after_ignores_dangling_and_foreign_entries(store: &TestStore, mode: Mode) {
    let (checkpointer, short) =
        (store.open(mode, &Options::default()).await, store.open(mode, &Options::ttl_ms(50)).await);
    let of = |id: &str, second| checkpoint("s", id, "r", second);
    save(&short, &of("gone", 90)).await;
    save(&checkpointer, &checkpoint("other", "stray", "r", 80)).await;
    let index = store.names().index("s");
    for member in ["stray", "never there"] {
        let stray =
            IndexPut { index: index.clone(), member: member.into(), score: 2e9, expiry: Expiry::Never };
        store.write(vec![Operation::IndexPut(stray)]).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    checkpointer.save_after(&of("a", 10), None).await.expect("saved");
    save(&short, &of("gone too", 50)).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    checkpointer.save_after(&of("b", 20), Some("a")).await.expect("saved");
    assert_eq!(checkpointer.ids("s", 9).await, ["b", "a"]);
    // More dangling entries than a store examines in one step.
    let expiring = (0..1500).map(|number| {
        let member = format!("old {number}");
        Operation::IndexPut(IndexPut { index: index.clone(), member, score: 3e9, expiry: Expiry::Never })
    });
    store.write(expiring.collect()).await;
    checkpointer.save_after(&of("c", 30), Some("b")).await.expect("saved");
    // An unreadable checkpoint is the latest, as it is for a load.
    store.put(&store.names().document("s", "c"), "{").await;
    let error = checkpointer.save_after(&of("d", 40), Some("b")).await.expect_err("another is the latest");
    assert!(
        matches!(&error, Error::Conflict(Conflict::NotLatest { actual: Some(latest) }) if latest == "c"),
        "{error}"
    );
    checkpointer.save_after(&of("d", 40), Some("c")).await.expect("saved");
}

/// Tasks that extend one session concurrently lose no update and create no fork.
pub async fn concurrent_save_after_has_exactly_one_winner(store: &TestStore, mode: Mode) {
    const TASKS: u32 = 8;
    const STEPS: u32 = 6;
    let options = Options { session_ttl: false, ..Options::ttl_ms(60_000) };
    let checkpointer = store.open(mode, &options).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let checkpointer = checkpointer.clone();
            tokio::spawn(async move {
                let mut latest: Option<String> = None;
                for step in 0..STEPS {
                    loop {
                        // The number of checkpoints before it is a part of the id.
                        let before = match &latest {
                            None => 0,
                            Some(id) => {
                                id.split('/').next().and_then(|at| at.parse().ok()).expect("a number")
                            }
                        };
                        let id = format!("{}/{task}.{step}", before + 1);
                        let mut next = checkpoint("s", &id, "r", before + 1);
                        next.state = format!("{{\"after\": {before}}}");
                        match checkpointer.save_after(&next, latest.as_deref()).await {
                            Ok(outcome) => {
                                assert_eq!(outcome, SaveOutcome::Latest);
                                latest = Some(id);
                                break;
                            }
                            Err(Error::Conflict(Conflict::NotLatest { actual })) => latest = actual,
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let ids = checkpointer.ids("s", 1000).await;
    let places: Vec<u32> =
        ids.iter().map(|id| id.split('/').next().and_then(|at| at.parse().ok()).expect("a number")).collect();
    assert_eq!(places, (1..=TASKS * STEPS).rev().collect::<Vec<_>>());
    let writers: BTreeSet<_> = ids.iter().map(|id| id.split('/').nth(1).expect("a writer")).collect();
    assert_eq!(writers.len(), (TASKS * STEPS) as usize);
}

/// The limit of the session and its latest checkpoint are checked in one step.
pub async fn save_after_applies_max_checkpoints(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options { max_checkpoints: Some(2), ..Options::default() }).await;
    let of = |second: u32| checkpoint("s", &format!("c{second}"), "r", second);
    let mut latest: Option<String> = None;
    for second in 1..6 {
        checkpointer.save_after(&of(second), latest.as_deref()).await.expect("saved");
        latest = Some(format!("c{second}"));
    }
    assert_eq!(checkpointer.ids("s", 9).await, ["c5", "c4"]);
    let error = checkpointer.save_after(&of(1), Some("c5")).await.expect_err("not the latest");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    let error = checkpointer.save_after(&of(1), Some("c4")).await.expect_err("not the latest");
    assert!(matches!(error, Error::Conflict(Conflict::NotLatest { .. })), "{error}");
    assert_eq!(checkpointer.ids("s", 9).await, ["c5", "c4"]);
}
