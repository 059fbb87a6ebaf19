//! The outcome of a save: latest or not.

use checkpointer_guest::keyvalue::{Batch, Condition, Effect, Operation};
use checkpointer_guest::{NewerCheckpoint, SaveOutcome};

use super::fake::Fake;
use super::{checkpoint, error, open};

fn not_latest(id: &str, ahead_us: u64) -> SaveOutcome {
    SaveOutcome::NotLatest(NewerCheckpoint { checkpoint_id: id.into(), ahead_us })
}

#[test]
fn a_save_reports_a_newer_checkpoint_and_the_time_it_is_ahead() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    assert_eq!(checkpointer.save(checkpoint("s", "b", "r", 5)), Ok(SaveOutcome::Latest));
    assert_eq!(checkpointer.save(checkpoint("s", "c", "r", 5)), Ok(SaveOutcome::Latest));
    store.calls();
    assert_eq!(checkpointer.save(checkpoint("s", "a", "r", 3)), Ok(not_latest("c", 2_000_000)));
    assert_eq!(store.calls(), ["commit", "range"]);
    assert_eq!(checkpointer.save(checkpoint("s", "a", "r", 5)), Ok(not_latest("c", 0)));
    let mut microsecond = checkpoint("s", "d", "r", 0);
    microsecond.metadata.timestamp = "2026-01-01T00:00:04.999999+00:00".into();
    assert_eq!(checkpointer.save(microsecond), Ok(not_latest("c", 1)));
    assert_eq!(checkpointer.save(checkpoint("s", "c", "r", 1)), Ok(not_latest("b", 4_000_000)));
}

#[test]
fn expired_and_foreign_checkpoints_are_not_newer() {
    let store = Fake::default();
    let (permanent, expiring) = (open(store.clone(), None), open(store.clone(), Some(100)));
    expiring.save(checkpoint("s", "expired", "r", 9)).expect("saved");
    store.shared.now.set(100);
    store.calls();
    assert_eq!(permanent.save(checkpoint("s", "a", "r", 1)), Ok(SaveOutcome::Latest));
    assert_eq!(store.calls(), ["commit"]);
    // The index of a run of one session is the index of another session.
    permanent.save(checkpoint("t", "foreign", "r", 9)).expect("saved");
    store.calls();
    assert_eq!(permanent.save(checkpoint("t:run:r", "b", "q", 1)), Ok(SaveOutcome::Latest));
    assert_eq!(store.calls(), ["commit", "range"]);
}

#[test]
fn a_save_succeeds_if_the_newer_checkpoint_cannot_be_read() {
    let store = Fake::default();
    open(store.clone(), None).save(checkpoint("s", "b", "r", 5)).expect("saved");
    let commits_only = store.failing(|batches| batches.is_empty().then(|| error(Effect::None)));
    assert_eq!(open(commits_only, None).save(checkpoint("s", "a", "r", 1)), Ok(not_latest("", 0)));
    assert!(store.value("p:checkpoint:a").is_some());
}

/// Hosts recognize the usual save by its shape.
#[test]
fn the_usual_save_has_exactly_two_batches() {
    for ttl_ms in [None, Some(100)] {
        let store = Fake::default().failing(move |batches| {
            let [put, check] = batches else { panic!("{batches:?}") };
            let pin = ttl_ms.map(|_| vec![Condition::Absent("p:pinned\0s".into())]);
            assert_eq!(put.conditions[1..], Vec::from_iter(pin));
            assert!(matches!(put.conditions[0][..], [Condition::Absent(_), Condition::StartsWith(_)]));
            assert!(matches!(
                put.operations[..],
                [Operation::Put(_), Operation::IndexPut(_), Operation::IndexPut(_)]
            ));
            let Batch { conditions, operations } = check;
            let [all] = &conditions[..] else { panic!("{conditions:?}") };
            assert!(matches!(all[..], [Condition::IndexMax(_)]) && operations.is_empty());
            None
        });
        let checkpointer = open(store, ttl_ms);
        assert_eq!(checkpointer.save(checkpoint("s", "c", "r", 1)), Ok(SaveOutcome::Latest));
    }
}
