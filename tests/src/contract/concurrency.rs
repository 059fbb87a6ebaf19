//! What the checkpointer keeps to where many write at once.

use std::collections::BTreeSet;

use checkpointer::store::{Effect, Expiry, IndexPut, Operation};
use checkpointer::{Conflict, Error, SaveOutcome, StorageError};

use super::TestStore;
use super::checkpointer::{save, sorted};
use crate::samples::checkpoint;
use crate::checkpointer_under_test::{Mode, Options};

/// A save that races a delete is there as a whole or not at all (5).
pub async fn a_save_that_races_a_delete_leaves_nothing_unnamed(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options::default()).await;
    for round in 0..20 {
        for number in 0..5 {
            save(&subject, &checkpoint("s", &format!("c{number}"), "r", number)).await;
        }
        let racing = checkpoint("s", &format!("c{}", round % 7), &format!("r{}", round % 3), 50);
        let (saved, deleted) = tokio::join!(subject.save(&racing), subject.delete_session("s"));
        saved.expect("saved");
        deleted.expect("deleted");
        let ids = subject.ids("s", 100).await;
        let mut expected: Vec<String> = Vec::new();
        for id in &ids {
            let run =
                subject.load("s", id).await.expect("an answer").and_then(|found| found.metadata.run);
            let run = run.expect("a checkpoint of a run").run_id;
            assert_eq!(subject.ids_of_run("s", &run).await, std::slice::from_ref(id));
            expected.extend([place.names().document("s", id), place.names().index_of_run("s", &run)]);
        }
        expected.extend((!ids.is_empty()).then(|| place.names().index("s")));
        assert_eq!(place.keys("").await, sorted(expected));
        subject.delete_session("s").await.expect("deleted");
    }
}

/// Many that save into one session at its limit keep to it.
pub async fn a_limit_holds_for_many_at_once(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options { max_checkpoints: Some(3), ..Options::default() }).await;
    let tasks: Vec<_> = (0..4)
        .map(|writer| {
            let subject = subject.clone();
            tokio::spawn(async move {
                for number in 0..10 {
                    let saved = checkpoint("s", &format!("{writer}-{number}"), "r", number);
                    // Overtaken again and again, a save may give up, and says so.
                    while let Err(error) = subject.save(&saved).await {
                        assert!(matches!(error, Error::Storage(StorageError { effect: Effect::None, .. })), "{error}");
                    }
                    assert!(subject.ids("s", 100).await.len() <= 3);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    assert_eq!(subject.ids("s", 100).await, ["3-9", "2-9", "1-9"]);
    assert_eq!(place.keys(&place.names().document("s", "")).await.len(), 3);
}

/// Saves of different ids never disturb each other, each at its first try.
pub async fn saves_of_different_ids_never_disturb_each_other(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options::default()).await;
    let tasks: Vec<_> = (0..8)
        .map(|writer| {
            let subject = subject.clone();
            tokio::spawn(async move {
                for number in 0..25 {
                    let id = format!("{writer}-{number}");
                    let saved =
                        subject.save(&checkpoint("s", &id, &format!("r{}", number % 3), number)).await;
                    assert_ne!(saved.expect("saved"), SaveOutcome::Pruned);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    assert_eq!(subject.ids("s", 1000).await.len(), 200);
}

/// A save that is wrong about the latest checkpoint is told which it is, and
/// writes nothing.
pub async fn a_save_after_another_latest_is_told_which_it_is(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options::default()).await;
    let of = |id: &str, second| checkpoint("s", id, "r", second);
    let latest = |answer: Result<SaveOutcome, Error>| match answer {
        Err(Error::Conflict(Conflict::NotLatest { actual: latest })) => latest,
        other => panic!("{other:?}"),
    };
    assert_eq!(latest(subject.save_after(&of("a", 10), Some("z")).await), None);
    assert_eq!(place.keys("").await, [""; 0]);
    assert_eq!(subject.save_after(&of("a", 10), None).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(latest(subject.save_after(&of("b", 20), None).await).as_deref(), Some("a"));
    assert_eq!(subject.save_after(&of("b", 20), Some("a")).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(latest(subject.save_after(&of("c", 30), Some("a")).await).as_deref(), Some("b"));
    // The answer to it was lost: the same again.
    assert_eq!(subject.save_after(&of("b", 20), Some("a")).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(subject.save_after(&of("a", 10), None).await.expect("saved"), SaveOutcome::Latest);
    // The latest itself, in place; and nothing that would not be the latest.
    let mut again = of("b", 20);
    again.state = "[]".to_owned();
    assert_eq!(subject.save_after(&again, Some("b")).await.expect("saved"), SaveOutcome::Latest);
    for (id, second) in [("c", 15), ("aa", 20), ("b", 19)] {
        let error = subject.save_after(&of(id, second), Some("b")).await.expect_err("not the latest");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    }
    assert_eq!(subject.ids("s", 9).await, ["b", "a"]);
    assert_eq!(subject.latest("s").await.expect("loaded"), Some(again));
}

/// Nor does it take an id of another session.
pub async fn a_save_after_the_latest_takes_no_id_of_another_session(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options::default()).await;
    save(&subject, &checkpoint("s", "a", "r", 1)).await;
    save(&subject, &checkpoint("t", "t", "r", 1)).await;
    let error = subject.save_after(&checkpoint("s", "t", "r", 50), Some("a")).await.expect_err("taken");
    assert!(matches!(error, Error::Conflict(Conflict::IdInUse { .. })), "{error}");
    assert_eq!((subject.ids("s", 9).await, subject.ids("t", 9).await), (vec!["a".into()], vec!["t".into()]));
}

/// What names nothing, or what is another session's, is no latest checkpoint.
pub async fn a_latest_checkpoint_is_one_that_lives_and_is_the_sessions_own(place: &TestStore, mode: Mode) {
    let (subject, short) =
        (place.open(mode, &Options::default()).await, place.open(mode, &Options::ttl_ms(50)).await);
    let of = |id: &str, second| checkpoint("s", id, "r", second);
    save(&short, &of("gone", 90)).await;
    save(&subject, &checkpoint("other", "stray", "r", 80)).await;
    let index = place.names().index("s");
    for member in ["stray", "never there"] {
        let stray =
            IndexPut { index: index.clone(), member: member.into(), score: 2e9, expiry: Expiry::Never };
        place.write(vec![Operation::IndexPut(stray)]).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    subject.save_after(&of("a", 10), None).await.expect("saved");
    save(&short, &of("gone too", 50)).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    subject.save_after(&of("b", 20), Some("a")).await.expect("saved");
    assert_eq!(subject.ids("s", 9).await, ["b", "a"]);
    // As many that expired as it may take: more than a store looks at in a step.
    let expiring = (0..1500).map(|number| {
        let member = format!("old {number}");
        Operation::IndexPut(IndexPut { index: index.clone(), member, score: 3e9, expiry: Expiry::Never })
    });
    place.write(expiring.collect()).await;
    subject.save_after(&of("c", 30), Some("b")).await.expect("saved");
    // One that can't be read is the latest all the same, as it is for a load.
    place.put(&place.names().document("s", "c"), "{").await;
    let error = subject.save_after(&of("d", 40), Some("b")).await.expect_err("another is the latest");
    assert!(matches!(&error, Error::Conflict(Conflict::NotLatest { actual: Some(latest) }) if latest == "c"), "{error}");
    subject.save_after(&of("d", 40), Some("c")).await.expect("saved");
}

/// Many tasks that extend one session lose no update and fork no history.
pub async fn of_many_that_extend_a_session_each_comes_after_another(place: &TestStore, mode: Mode) {
    const TASKS: u32 = 8;
    const STEPS: u32 = 6;
    let opening = Options { session_ttl: false, ..Options::ttl_ms(60_000) };
    let subject = place.open(mode, &opening).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let subject = subject.clone();
            tokio::spawn(async move {
                let mut latest: Option<String> = None;
                for step in 0..STEPS {
                    loop {
                        // Its place is told by how many there are before it.
                        let before = match &latest {
                            None => 0,
                            Some(id) => {
                                id.split('/').next().and_then(|at| at.parse().ok()).expect("a number")
                            }
                        };
                        let id = format!("{}/{task}.{step}", before + 1);
                        let mut next = checkpoint("s", &id, "r", before + 1);
                        next.state = format!("{{\"after\": {before}}}");
                        match subject.save_after(&next, latest.as_deref()).await {
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
    let ids = subject.ids("s", 1000).await;
    let places: Vec<u32> =
        ids.iter().map(|id| id.split('/').next().and_then(|at| at.parse().ok()).expect("a number")).collect();
    assert_eq!(places, (1..=TASKS * STEPS).rev().collect::<Vec<_>>());
    let writers: BTreeSet<_> = ids.iter().map(|id| id.split('/').nth(1).expect("a writer")).collect();
    assert_eq!(writers.len(), (TASKS * STEPS) as usize);
}

/// The limit of a session and its latest checkpoint are looked at in one step.
pub async fn a_save_after_keeps_to_the_limit_of_a_session(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options { max_checkpoints: Some(2), ..Options::default() }).await;
    let of = |second: u32| checkpoint("s", &format!("c{second}"), "r", second);
    let mut latest: Option<String> = None;
    for second in 1..6 {
        subject.save_after(&of(second), latest.as_deref()).await.expect("saved");
        latest = Some(format!("c{second}"));
    }
    assert_eq!(subject.ids("s", 9).await, ["c5", "c4"]);
    let error = subject.save_after(&of(1), Some("c5")).await.expect_err("not the latest");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    let error = subject.save_after(&of(1), Some("c4")).await.expect_err("not the latest");
    assert!(matches!(error, Error::Conflict(Conflict::NotLatest { .. })), "{error}");
    assert_eq!(subject.ids("s", 9).await, ["c5", "c4"]);
}
