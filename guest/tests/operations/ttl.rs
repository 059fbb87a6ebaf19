//! TTLs and pins with concurrent calls between the steps of an operation.

use checkpointer_guest::keyvalue::{
    Effect, Expire, Expiry, IndexPut, Keyvalue, Operation, Put, StorageError, StorageReason,
};
use checkpointer_guest::{Checkpointer, Error, Options, Ttl, TtlScope};

use super::fake::Fake;
use super::{checkpoint, ids, open, open_with, options, query};

#[test]
fn a_session_of_many_pages_expires_as_a_whole() {
    let store = Fake::default();
    let with_session_ttl = |milliseconds| {
        let ttl = Ttl { milliseconds, scope: TtlScope::Session, refresh_on_read: true };
        open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) })
    };
    let (short, long) = (with_session_ttl(100), with_session_ttl(1000));
    let with_checkpoint_ttl = open(store.clone(), Some(100));
    for number in 0..650 {
        with_checkpoint_ttl.save(checkpoint("s", &format!("c{number}"), "r", number % 60)).expect("saved");
    }
    let count = |checkpointer: &Checkpointer<Fake>| {
        checkpointer.list(&query("s", Some(1000))).expect("a list").checkpoints.len()
    };
    store.shared.now.set(99);
    store.calls();
    long.save(checkpoint("s", "last", "r", 59)).expect("saved");
    assert_eq!(store.calls(), ["range", "commit"].repeat(4));
    store.shared.now.set(1098);
    assert!(short.load("s", "last").expect("loaded").is_some());
    store.shared.now.set(1197);
    assert_eq!(
        open(store.clone(), None).list(&query("s", Some(1000))).expect("a list").checkpoints.len(),
        651
    );
    assert_eq!(short.pin_session("s"), Ok(651));
    store.shared.now.set(5000);
    assert_eq!(count(&short), 651);
    assert_eq!(short.unpin_session("s"), Ok(651));
    store.shared.now.set(5100);
    assert_eq!(count(&short), 0);
}

#[test]
fn a_concurrent_pin_or_unpin_applies_to_a_save() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), None));
    store.interrupt(move || assert_eq!(theirs.pin_session("s"), Ok(0)));
    ours.save(checkpoint("s", "c", "r", 1)).expect("saved");
    store.shared.now.set(100);
    assert_eq!(ids(&ours, "s"), ["c"]);
    let theirs = open(store.clone(), Some(100));
    store.interrupt(move || assert_eq!(theirs.unpin_session("s"), Ok(1)));
    ours.save(checkpoint("s", "d", "r", 2)).expect("saved");
    store.shared.now.set(200);
    assert_eq!(ids(&ours, "s"), [""; 0]);
}

#[test]
fn a_failed_save_extends_no_ttl() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    checkpointer.save(checkpoint("s", "a", "r", 1)).expect("saved");
    checkpointer.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(50);
    // The id exists in the same run, but is not the latest.
    let failed = checkpointer.save_after(checkpoint("s", "a", "r", 0), Some("a"));
    assert!(matches!(failed, Err(Error::Conflict(_))));
    store.shared.now.set(100);
    assert_eq!(ids(&checkpointer, "s"), [""; 0]);
}

#[test]
fn a_partial_extension_extends_the_latest_first() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: true };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let with_checkpoint_ttl = open(store.clone(), Some(100));
    for number in 0..400 {
        with_checkpoint_ttl.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    store.shared.now.set(60);
    // A failed save changes no TTL of the session.
    let failed = checkpointer.save_after(checkpoint("s", "n", "r", 59), Some("c000"));
    assert!(matches!(failed, Err(Error::Conflict(_))));
    // The clock advances between two pages.
    store.shared.now.set(99);
    let later = store.clone();
    store.interrupt(move || {
        let even_later = later.clone();
        later.interrupt(move || even_later.shared.now.set(100));
    });
    assert!(checkpointer.latest("s").expect("loaded").is_some());
    assert_eq!(ids(&with_checkpoint_ttl, "s")[0], "c399");
}

#[test]
fn no_checkpoint_expires_after_the_latest() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: true };
    let whole = Options { ttl: Some(ttl), ..options(None) };
    let checkpointer = open_with(store.clone(), &whole);
    let with_checkpoint_ttl = open(store.clone(), Some(100));
    for number in 0..400 {
        with_checkpoint_ttl.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    // The clock advances between the commits of a save and of a read.
    let slow = |step: u64| {
        let (later, store) = (store.clone(), store.clone());
        store.interrupt(move || {
            let even_later = later.clone();
            later.interrupt(move || even_later.shared.now.set(step));
        });
    };
    slow(5);
    checkpointer.save_after(checkpoint("s", "latest", "r", 59), Some("c399")).expect("saved");
    slow(10);
    assert!(checkpointer.latest("s").expect("loaded").is_some());
    for now in 100..111 {
        store.shared.now.set(now);
        let latest = with_checkpoint_ttl.latest("s").expect("loaded");
        assert!(latest.is_none_or(|latest| latest.metadata.checkpoint_id == "latest"), "at {now}");
    }
    assert_eq!(ids(&with_checkpoint_ttl, "s"), [""; 0]);
}

#[test]
fn a_repeated_save_after_extends_the_session() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let with_checkpoint_ttl = open(store.clone(), Some(100));
    for number in 0..400 {
        with_checkpoint_ttl.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    store.shared.now.set(50);
    with_checkpoint_ttl.save(checkpoint("s", "latest", "r", 59)).expect("saved");
    // The first attempt was interrupted after its first commit.
    checkpointer.save_after(checkpoint("s", "latest", "r", 59), Some("c399")).expect("saved already");
    store.shared.now.set(149);
    assert_eq!(with_checkpoint_ttl.list(&query("s", Some(1000))).expect("a list").checkpoints.len(), 401);
}

#[test]
fn a_concurrent_unpin_applies_to_the_rest_of_a_save() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let theirs = open(store.clone(), Some(100));
    for number in 0..400 {
        theirs.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    theirs.pin_session("s").expect("pinned");
    // The first commit fails because the session is pinned; the second one saves.
    let (second, third) = (store.clone(), store.clone());
    store.interrupt(move || {
        second.interrupt(move || third.interrupt(move || assert_eq!(theirs.unpin_session("s"), Ok(401))));
    });
    checkpointer.save(checkpoint("s", "latest", "r", 59)).expect("saved");
    store.shared.now.set(100);
    assert_eq!(ids(&checkpointer, "s"), [""; 0]);
}

#[test]
fn a_checkpoint_of_another_session_is_not_extended() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 1000, scope: TtlScope::Session, refresh_on_read: false };
    let ours = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let theirs = open(store.clone(), Some(50));
    ours.save(checkpoint("s", "a", "r", 1)).expect("saved");
    store.interrupt(move || {
        assert_eq!(theirs.delete_checkpoint("s", "a"), Ok(true));
        theirs.save(checkpoint("t", "a", "r", 1)).expect("saved");
    });
    ours.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(50);
    assert_eq!((ids(&ours, "s"), ids(&ours, "t")), (vec!["b".to_owned()], Vec::new()));
}

#[test]
fn a_concurrent_pin_wins_over_an_unpin() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), Some(100)));
    ours.save(checkpoint("s", "a", "r", 1)).expect("saved");
    ours.pin_session("s").expect("pinned");
    let between = store.clone();
    // Before the second commit of `unpin_session`.
    store.interrupt(move || between.interrupt(move || assert_eq!(theirs.pin_session("s"), Ok(1))));
    assert_eq!(ours.unpin_session("s"), Ok(0));
    store.shared.now.set(100);
    assert_eq!(ids(&ours, "s"), ["a"]);
    // A checkpoint of a pinned session stays pinned.
    assert_eq!(ours.unpin_checkpoint("s", "a"), Ok(true));
    store.shared.now.set(200);
    assert_eq!(ids(&ours, "s"), ["a"]);
}

#[test]
fn a_delete_removes_what_was_saved_in_a_pinned_session() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), Some(100)));
    for session in ["s", "t"] {
        ours.save(checkpoint(session, session, "r", 1)).expect("saved");
        ours.pin_session(session).expect("pinned");
    }
    store.interrupt(move || theirs.save(checkpoint("s", "b", "r", 2)).expect("saved"));
    assert_eq!(ours.delete_session("s"), Ok(2));
    assert_eq!(ids(&ours, "s"), [""; 0]);
    assert_eq!(ours.clear_all(), Ok(1));
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn a_store_that_refuses_an_expiry_fails_the_save() {
    let store = Fake::default();
    let without_expiry = store.failing(|batches| {
        let expires = |operation: &Operation| {
            matches!(
                operation,
                Operation::Put(Put { expiry: Expiry::AfterMs(_), .. })
                    | Operation::IndexPut(IndexPut { expiry: Expiry::AfterMs(_), .. })
                    | Operation::Expire(Expire { expiry: Expiry::AfterMs(_), .. })
            )
        };
        let (reason, effect) = (StorageReason::Unsupported, Effect::None);
        let error = StorageError { reason, effect, message: "no expiry".into() };
        batches.iter().flat_map(|batch| &batch.operations).any(expires).then_some(error)
    });
    let with_ttl = open(without_expiry.clone(), Some(1000));
    let failed = with_ttl.save(checkpoint("s", "c", "r", 1));
    assert!(
        matches!(&failed, Err(Error::Storage(error)) if error.reason == StorageReason::Unsupported && error.effect == Effect::None),
        "{failed:?}"
    );
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
    open(without_expiry, None).save(checkpoint("s", "c", "r", 1)).expect("saved");
}
