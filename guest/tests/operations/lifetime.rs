//! How long things live, whatever comes between the steps of an operation.

use checkpointer_guest::keyvalue::{
    Batch, Effect, Expire, Expiry, IndexPage, IndexPut, KeyPage, Keyvalue, Operation, Put, Query,
    StorageError, StorageReason, Value,
};
use checkpointer_guest::{Checkpointer, Error, TtlScope, Options, Ttl};

use super::fake::Fake;
use super::{checkpoint, ids, open, open_with, options, query};

#[test]
fn a_session_of_many_pages_lives_and_goes_as_a_whole() {
    let store = Fake::default();
    let of_session = |milliseconds| {
        let ttl = Ttl { milliseconds, scope: TtlScope::Session, refresh_on_read: true };
        open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) })
    };
    let (short, long) = (of_session(100), of_session(1000));
    let each_by_itself = open(store.clone(), Some(100));
    for number in 0..650 {
        each_by_itself.save(checkpoint("s", &format!("c{number}"), "r", number % 60)).expect("saved");
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
    assert_eq!(open(store.clone(), None).list(&query("s", Some(1000))).expect("a list").checkpoints.len(), 651);
    assert_eq!(short.pin_session("s"), Ok(651));
    store.shared.now.set(5000);
    assert_eq!(count(&short), 651);
    assert_eq!(short.unpin_session("s"), Ok(651));
    store.shared.now.set(5100);
    assert_eq!(count(&short), 0);
}

#[test]
fn a_pin_that_comes_between_holds_for_the_save_that_it_overtakes() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), None));
    store.interrupt(move || assert_eq!(theirs.pin_session("s"), Ok(0)));
    ours.save(checkpoint("s", "c", "r", 1)).expect("saved");
    store.shared.now.set(100);
    assert_eq!(ids(&ours, "s"), ["c"]);
    // And the other way round.
    let theirs = open(store.clone(), Some(100));
    store.interrupt(move || assert_eq!(theirs.unpin_session("s"), Ok(1)));
    ours.save(checkpoint("s", "d", "r", 2)).expect("saved");
    store.shared.now.set(200);
    assert_eq!(ids(&ours, "s"), [""; 0]);
}

#[test]
fn a_save_that_is_refused_lets_nothing_live_longer() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    checkpointer.save(checkpoint("s", "a", "r", 1)).expect("saved");
    checkpointer.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(50);
    // It stands there already, in the same run, but is not the latest.
    let refused = checkpointer.save_after(checkpoint("s", "a", "r", 0), Some("a"));
    assert!(matches!(refused, Err(Error::Conflict(_))));
    store.shared.now.set(100);
    assert_eq!(ids(&checkpointer, "s"), [""; 0]);
}

#[test]
fn of_a_long_session_the_latest_lives_longest_whatever_fails() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: true };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let each_by_itself = open(store.clone(), Some(100));
    for number in 0..400 {
        each_by_itself.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    store.shared.now.set(60);
    // Refused, it leaves all of the session as it was.
    let refused = checkpointer.save_after(checkpoint("s", "n", "r", 59), Some("c000"));
    assert!(matches!(refused, Err(Error::Conflict(_))));
    // Time goes on between two pages: the newest are refreshed first.
    store.shared.now.set(99);
    let later = store.clone();
    store.interrupt(move || {
        let even_later = later.clone();
        later.interrupt(move || even_later.shared.now.set(100));
    });
    assert!(checkpointer.latest("s").expect("loaded").is_some());
    assert_eq!(ids(&each_by_itself, "s")[0], "c399");
}

#[test]
fn of_a_long_session_that_took_several_steps_nothing_outlives_the_latest() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: true };
    let whole = Options { ttl: Some(ttl), ..options(None) };
    let checkpointer = open_with(store.clone(), &whole);
    let each_by_itself = open(store.clone(), Some(100));
    for number in 0..400 {
        each_by_itself.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    // Time goes on between the steps of a save, and of a read.
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
        let latest = each_by_itself.latest("s").expect("loaded");
        assert!(latest.is_none_or(|latest| latest.metadata.checkpoint_id == "latest"), "at {now}");
    }
    assert_eq!(ids(&each_by_itself, "s"), [""; 0]);
}

#[test]
fn a_save_that_is_repeated_goes_on_with_the_life_of_its_session() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let each_by_itself = open(store.clone(), Some(100));
    for number in 0..400 {
        each_by_itself.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    store.shared.now.set(50);
    each_by_itself.save(checkpoint("s", "latest", "r", 59)).expect("saved");
    // As if the first try had been cut after its first step.
    checkpointer.save_after(checkpoint("s", "latest", "r", 59), Some("c399")).expect("there already");
    store.shared.now.set(149);
    assert_eq!(each_by_itself.list(&query("s", Some(1000))).expect("a list").checkpoints.len(), 401);
}

#[test]
fn the_end_of_a_pin_holds_for_the_rest_of_a_save_that_it_overtakes() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Session, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let theirs = open(store.clone(), Some(100));
    for number in 0..400 {
        theirs.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    theirs.pin_session("s").expect("pinned");
    // The first commit is refused, since the session is pinned; the second saves.
    let (second, third) = (store.clone(), store.clone());
    store.interrupt(move || {
        second.interrupt(move || third.interrupt(move || assert_eq!(theirs.unpin_session("s"), Ok(401))));
    });
    checkpointer.save(checkpoint("s", "latest", "r", 59)).expect("saved");
    store.shared.now.set(100);
    assert_eq!(ids(&checkpointer, "s"), [""; 0]);
}

#[test]
fn a_checkpoint_that_moves_to_another_session_gets_no_life_of_the_one_it_was_in() {
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
fn of_a_pin_and_its_end_at_once_what_is_marked_stays() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), Some(100)));
    ours.save(checkpoint("s", "a", "r", 1)).expect("saved");
    ours.pin_session("s").expect("pinned");
    let between = store.clone();
    // Before the second step of the end.
    store.interrupt(move || between.interrupt(move || assert_eq!(theirs.pin_session("s"), Ok(1))));
    assert_eq!(ours.unpin_session("s"), Ok(0));
    store.shared.now.set(100);
    assert_eq!(ids(&ours, "s"), ["a"]);
    // Nor does one of a pinned session go away.
    assert_eq!(ours.unpin_checkpoint("s", "a"), Ok(true));
    store.shared.now.set(200);
    assert_eq!(ids(&ours, "s"), ["a"]);
}

#[test]
fn a_delete_takes_what_was_saved_while_the_session_was_pinned() {
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

/// A store that keeps everything for good, and says so.
struct Unexpiring(Fake);

impl Keyvalue for Unexpiring {
    fn get(&self, keys: &[String], max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.0.get(keys, max_value_bytes)
    }

    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.0.ttl(keys)
    }

    fn range(&self, query: &Query) -> Result<IndexPage, StorageError> {
        self.0.range(query)
    }

    fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, StorageError> {
        let expires = |operation: &Operation| {
            let (Operation::Put(Put { expiry, .. })
            | Operation::IndexPut(IndexPut { expiry, .. })
            | Operation::Expire(Expire { expiry, .. })) = operation
            else {
                return false;
            };
            *expiry != Expiry::Never
        };
        if batches.iter().flat_map(|batch| &batch.operations).any(expires) {
            let (reason, effect) = (StorageReason::Unsupported, Effect::None);
            return Err(StorageError { reason, effect, message: "nothing expires here".into() });
        }
        self.0.commit(batches)
    }

    fn scan(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, StorageError> {
        self.0.scan(prefix, after)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.0.is_colocated(prefix)
    }

    fn supports(&self, capability: &str) -> bool {
        self.0.supports(capability)
    }
}

#[test]
fn a_ttl_that_a_store_cannot_keep_is_refused_and_nothing_is_written() {
    let store = Fake::default();
    let with_ttl = open(Unexpiring(store.clone()), Some(1000));
    let refused = with_ttl.save(checkpoint("s", "c", "r", 1));
    assert!(
        matches!(&refused, Err(Error::Storage(error)) if error.reason == StorageReason::Unsupported && error.effect == Effect::None),
        "{refused:?}"
    );
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
    open(Unexpiring(store), None).save(checkpoint("s", "c", "r", 1)).expect("saved");
}
