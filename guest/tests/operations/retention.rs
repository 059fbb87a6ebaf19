//! `max-checkpoints`: its round trips, and which checkpoints count.

use checkpointer_guest::{Checkpointer, Options, SaveOutcome};

use super::fake::Fake;
use super::{checkpoint, ids, open, open_with, options};

fn limited(store: &Fake, max: u32, ttl_ms: Option<u64>) -> Checkpointer<Fake> {
    open_with(store.clone(), &Options { max_checkpoints: Some(max), ..options(ttl_ms) })
}

#[test]
fn a_save_below_the_limit_takes_one_round_trip() {
    let store = Fake::default();
    let checkpointer = limited(&store, 5, None);
    for number in 0..5 {
        checkpointer.save(checkpoint("s", &format!("c{number}"), "r", number)).expect("saved");
    }
    assert_eq!(store.calls(), ["commit"; 5]);
    checkpointer.save_after(checkpoint("t", "d", "r", 5), None).expect("saved");
    assert_eq!(store.calls(), ["commit"]);
    // At the limit the checkpoints are counted.
    checkpointer.save(checkpoint("s", "c5", "r", 5)).expect("saved");
    assert_eq!(store.calls(), ["commit", "range", "commit"]);
    assert_eq!(ids(&checkpointer, "s"), ["c5", "c4", "c3", "c2", "c1"]);
    store.calls();
    // An id that exists needs no removal.
    checkpointer.save(checkpoint("s", "c5", "r", 6)).expect("saved");
    assert_eq!(store.calls(), ["commit", "range", "commit"]);
    // A checkpoint that is older than all that are kept.
    assert_eq!(checkpointer.save(checkpoint("s", "c0", "r", 0)), Ok(SaveOutcome::Pruned));
    assert_eq!(ids(&checkpointer, "s"), ["c5", "c4", "c3", "c2", "c1"]);
}

#[test]
fn the_oldest_checkpoint_is_not_removed_if_it_is_saved_again_after_it_was_counted() {
    let store = Fake::default();
    let checkpointer = limited(&store, 2, None);
    checkpointer.save(checkpoint("s", "a", "r", 1)).expect("saved");
    checkpointer.save(checkpoint("s", "b", "r", 2)).expect("saved");
    // Before the second commit, which follows the count.
    let (second, other) = (store.clone(), limited(&store, 2, None));
    store.interrupt(move || {
        second.interrupt(move || drop(other.save(checkpoint("s", "a", "r", 9)).expect("saved")));
    });
    checkpointer.save(checkpoint("s", "c", "r", 3)).expect("saved");
    assert_eq!(ids(&checkpointer, "s"), ["a", "c"]);
}

#[test]
fn dangling_entries_at_the_limit_do_not_remove_checkpoints() {
    let store = Fake::default();
    let (permanent, expiring) = (limited(&store, 2, None), limited(&store, 2, Some(100)));
    permanent.save(checkpoint("s", "a", "r", 1)).expect("saved");
    expiring.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(100);
    store.calls();
    permanent.save(checkpoint("s", "c", "r", 3)).expect("saved");
    assert_eq!(store.calls(), ["commit", "range", "commit"]);
    assert_eq!(ids(&permanent, "s"), ["c", "a"]);
    assert_eq!(store.members("p:session:s").len(), 2);
}

#[test]
fn expired_checkpoints_do_not_count_towards_the_limit() {
    let store = Fake::default();
    let (permanent, expiring) = (limited(&store, 3, None), limited(&store, 3, Some(100)));
    permanent.save(checkpoint("s", "b", "r", 2)).expect("saved");
    permanent.save(checkpoint("s", "c", "r", 3)).expect("saved");
    expiring.save(checkpoint("s", "a", "r", 1)).expect("saved");
    store.shared.now.set(100);
    permanent.save(checkpoint("s", "d", "r", 4)).expect("saved");
    assert_eq!(ids(&permanent, "s"), ["d", "c", "b"]);
    // An id with a dangling entry is saved again.
    expiring.save(checkpoint("t", "z", "r", 9)).expect("saved");
    permanent.save(checkpoint("t", "x", "r", 1)).expect("saved");
    permanent.save(checkpoint("t", "y", "r", 2)).expect("saved");
    store.shared.now.set(200);
    permanent.save(checkpoint("t", "z", "r", 9)).expect("saved");
    assert_eq!(ids(&permanent, "t"), ["z", "y", "x"]);
}

#[test]
fn checkpoints_of_other_sessions_do_not_count_towards_the_limit() {
    let store = Fake::default();
    let limited = limited(&store, 2, None);
    let unlimited = open(store.clone(), None);
    // llmfy leaves this behind: another session has saved the same id.
    unlimited.save(checkpoint("s", "foreign", "r", 50)).expect("saved");
    let theirs = checkpoint("t", "foreign", "r", 50);
    let document = store.value("p:checkpoint:foreign").expect("a document").replace("\"s\"", "\"t\"");
    store.shared.values.borrow_mut().insert("p:checkpoint:foreign".into(), (document, None));
    assert_eq!(unlimited.load("t", "foreign").expect("loaded"), Some(theirs));
    for number in 1..4 {
        let saved = limited.save(checkpoint("s", &format!("c{number}"), "r", number));
        assert_eq!(saved, Ok(SaveOutcome::Latest));
    }
    assert_eq!(ids(&limited, "s"), ["c3", "c2"]);
}
