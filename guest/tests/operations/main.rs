//! The logic without a host, against a store in a few lines of memory: what it
//! asks of a store, and what it does when others get in between.
//!
//! What callers see is in the contract in `tests/`, over real stores.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]

mod fake;
mod layout;
mod lifetime;

use checkpointer_guest::keyvalue::{
    Batch, Effect, Expiry, IndexPage, KeyPage, Keyvalue, Operation, Query, StorageError, StorageReason, Value,
};
use checkpointer_guest::{
    Checkpoint, Checkpointer, Conflict, Error, HistoryQuery, Layout, Metadata, Options, Run, SaveOutcome, Ttl, TtlScope,
};

use fake::Fake;

fn options(ttl_ms: Option<u64>) -> Options {
    Options {
        bucket: "default".into(),
        prefix: Some("p:".into()),
        layout: Layout::Llmfy,
        ttl: ttl_ms.map(|milliseconds| Ttl {
            milliseconds,
            scope: TtlScope::Checkpoint,
            refresh_on_read: false,
        }),
        max_state_bytes: None,
        compress: false,
        max_checkpoints: None,
        extra: Vec::new(),
    }
}

fn open_with<K: Keyvalue>(store: K, options: &Options) -> Checkpointer<K> {
    Checkpointer::open(store, options).expect("a checkpointer")
}

fn open<K: Keyvalue>(store: K, ttl_ms: Option<u64>) -> Checkpointer<K> {
    open_with(store, &options(ttl_ms))
}

fn checkpoint(session: &str, id: &str, run: &str, second: u32) -> Checkpoint {
    let run = Run {
        run_id: run.into(),
        prev_node: "a".into(),
        updated_fields: Vec::new(),
        attempt: None,
        dispatch_id: None,
    };
    let metadata = Metadata {
        session_id: session.into(),
        checkpoint_id: id.into(),
        timestamp: format!("2026-01-01T00:00:{second:02}+00:00"),
        node: "b".into(),
        step: 1,
        run: Some(run),
        extra: Vec::new(),
    };
    Checkpoint { metadata, state: "{}".into() }
}

fn query(session: &str, limit: Option<u32>) -> HistoryQuery {
    HistoryQuery { session_id: session.into(), run_id: None, limit, extra: Vec::new() }
}

fn ids(checkpointer: &Checkpointer<Fake>, session: &str) -> Vec<String> {
    let history = checkpointer.list(&query(session, None)).expect("a history");
    history.checkpoints.into_iter().map(|checkpoint| checkpoint.metadata.checkpoint_id).collect()
}

#[test]
fn each_operation_asks_the_store_as_little_as_it_can() {
    for layout in [Layout::Llmfy, Layout::Partitioned] {
        let store = Fake::default();
        let checkpointer = open_with(store.clone(), &Options { layout, ..options(None) });
        for number in 0..5 {
            checkpointer.save(checkpoint("s", &format!("c{number}"), "r", number)).expect("saved");
        }
        assert_eq!(store.calls(), ["commit"; 5]);
        checkpointer.latest("s").expect("loaded");
        assert_eq!(store.calls(), ["range"]);
        checkpointer.load("s", "c1").expect("loaded");
        assert_eq!(store.calls(), ["get"]);
        checkpointer.list(&query("s", None)).expect("listed");
        assert_eq!(store.calls(), ["range"]);
        checkpointer.list(&query("s", Some(0))).expect("listed");
        assert_eq!(store.calls(), [""; 0]);
        checkpointer.delete_checkpoint("s", "c1").expect("deleted");
        assert_eq!(store.calls(), ["get", "commit"]);
        checkpointer.delete_session("s").expect("deleted");
        assert_eq!(store.calls(), ["range", "commit"]);
    }
}

#[test]
fn a_save_that_another_session_overtakes_is_a_conflict() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    store.interrupt(move || theirs.save(checkpoint("theirs", "c", "r", 1)).expect("saved"));
    assert!(matches!(ours.save(checkpoint("ours", "c", "r", 2)), Err(Error::Conflict(_))));
    assert_eq!((ids(&ours, "ours"), ids(&ours, "theirs")), (Vec::new(), vec!["c".to_owned()]));
}

#[test]
fn a_save_that_a_delete_overtakes_begins_again() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    ours.save(checkpoint("s", "c", "old", 1)).expect("saved");
    store.calls();
    // The first commit is refused, since the run changes; the second is
    // overtaken.
    let between = store.clone();
    store.interrupt(move || {
        between.interrupt(move || assert_eq!(theirs.delete_session("s"), Ok(1)));
    });
    ours.save(checkpoint("s", "c", "new", 2)).expect("saved");
    assert_eq!(ids(&ours, "s"), ["c"]);
    assert_eq!(store.members("p:session:s:run:new").len(), 1);
    assert_eq!(store.members("p:session:s:run:old").len(), 0);
}

#[test]
fn a_delete_that_a_save_overtakes_removes_what_is_there_then() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    ours.save(checkpoint("s", "c", "r1", 1)).expect("saved");
    store.interrupt(move || theirs.save(checkpoint("s", "c", "r2", 2)).expect("saved"));
    assert_eq!(ours.delete_session("s"), Ok(1));
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn an_entry_that_is_saved_again_just_before_it_is_swept_stays() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), None));
    theirs.save(checkpoint("s", "old", "r", 1)).expect("saved");
    ours.save(checkpoint("s", "c", "r", 2)).expect("saved");
    store.shared.now.set(100);
    let again = checkpoint("s", "c", "r", 3);
    store.interrupt(move || theirs.save(again).expect("saved"));
    // It was not there when the list was read.
    assert_eq!(ids(&ours, "s"), ["old"]);
    assert_eq!(ids(&ours, "s"), ["c", "old"]);
}

#[test]
fn a_document_whose_head_does_not_say_whose_it_is_is_read_as_a_whole() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    checkpointer.save(checkpoint("s", "c", "r", 1)).expect("saved");
    let document = store.value("p:checkpoint:c").expect("a document");
    let members = document.strip_suffix(", \"state\": {}}").and_then(|text| text.strip_prefix('{'));
    let state = format!("{{\"state\": \"{}\", {}}}", "x".repeat(5000), members.expect("as we write it"));
    store.shared.values.borrow_mut().insert("p:checkpoint:c".into(), (state, None));
    store.calls();
    assert_eq!(checkpointer.delete_session("s"), Ok(1));
    assert_eq!(store.calls(), ["range", "get", "commit"]);
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn deleting_a_session_takes_what_expired_out_of_its_runs() {
    let store = Fake::default();
    let (stays, goes) = (open(store.clone(), None), open(store.clone(), Some(100)));
    stays.save(checkpoint("s", "a", "r", 1)).expect("saved");
    goes.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(100);
    // The session's index loses the entry in passing, that of the run does not.
    assert_eq!(ids(&stays, "s"), ["a"]);
    assert_eq!(store.members("p:session:s:run:r").len(), 2);
    assert_eq!(stays.delete_session("s"), Ok(1));
    store.shared.values.borrow_mut().clear();
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn what_expired_makes_room_once_it_is_seen() {
    let store = Fake::default();
    let limited = |ttl_ms| Options { max_checkpoints: Some(3), ..options(ttl_ms) };
    let (stays, goes) =
        (open_with(store.clone(), &limited(None)), open_with(store.clone(), &limited(Some(100))));
    stays.save(checkpoint("s", "b", "r", 2)).expect("saved");
    stays.save(checkpoint("s", "c", "r", 3)).expect("saved");
    goes.save(checkpoint("s", "a", "r", 1)).expect("saved");
    store.shared.now.set(100);
    stays.save(checkpoint("s", "d", "r", 4)).expect("saved");
    assert_eq!(ids(&stays, "s"), ["d", "c", "b"]);
    // The same id again, whose entry is still there.
    goes.save(checkpoint("t", "z", "r", 9)).expect("saved");
    stays.save(checkpoint("t", "x", "r", 1)).expect("saved");
    stays.save(checkpoint("t", "y", "r", 2)).expect("saved");
    store.shared.now.set(200);
    stays.save(checkpoint("t", "z", "r", 9)).expect("saved");
    assert_eq!(ids(&stays, "t"), ["z", "y", "x"]);
}

#[test]
fn a_limit_does_not_count_what_is_another_sessions() {
    let store = Fake::default();
    let limited = open_with(store.clone(), &Options { max_checkpoints: Some(2), ..options(None) });
    let unlimited = open(store.clone(), None);
    // As llmfy leaves it: an id that another session has taken over.
    unlimited.save(checkpoint("s", "stray", "r", 50)).expect("saved");
    let theirs = checkpoint("t", "stray", "r", 50);
    let document = store.value("p:checkpoint:stray").expect("a document").replace("\"s\"", "\"t\"");
    store.shared.values.borrow_mut().insert("p:checkpoint:stray".into(), (document, None));
    assert_eq!(unlimited.load("t", "stray").expect("loaded"), Some(theirs));
    for number in 1..4 {
        let saved = limited.save(checkpoint("s", &format!("c{number}"), "r", number));
        assert_eq!(saved, Ok(SaveOutcome::Latest));
    }
    assert_eq!(ids(&limited, "s"), ["c3", "c2"]);
}

#[test]
fn what_stands_in_the_index_of_a_session_is_not_its_latest_for_that() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    // The run of one session, and a session of the same name.
    checkpointer.save(checkpoint("s", "theirs", "r", 1)).expect("saved");
    let refused = checkpointer.save_after(checkpoint("s:run:r", "n", "q", 2), Some("theirs"));
    assert!(matches!(refused, Err(Error::Conflict(Conflict::NotLatest(None)))), "{refused:?}");
    checkpointer.save_after(checkpoint("s:run:r", "n", "q", 2), None).expect("saved");
    checkpointer.save_after(checkpoint("s:run:r", "o", "q", 3), Some("n")).expect("saved");
    // Nor does the spelling of its document make it another's.
    let document = store.value("p:checkpoint:o").expect("a document").replace("{\"", "{ \"");
    store.shared.values.borrow_mut().insert("p:checkpoint:o".into(), (document, None));
    checkpointer.save_after(checkpoint("s:run:r", "p", "q", 4), Some("o")).expect("saved");
}

#[test]
fn too_many_of_others_above_the_latest_are_said_to_be_the_reason() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    // A run of one session, and a session of the same name.
    for number in 0..1100 {
        checkpointer.save(checkpoint("a", &format!("c{number}"), "b", 50)).expect("saved");
    }
    checkpointer.save(checkpoint("a:run:b", "own", "r", 1)).expect("saved");
    let refused = checkpointer.save_after(checkpoint("a:run:b", "n", "r", 2), Some("other"));
    assert!(
        matches!(&refused, Err(Error::Storage(error)) if error.reason == StorageReason::Unsupported && error.effect == Effect::None),
        "{refused:?}"
    );
}

/// A store that never says what became of a commit without a put: it took effect.
struct Silent(Fake);

impl Keyvalue for Silent {
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
        let applied = self.0.commit(batches)?;
        let mut operations = batches.iter().flat_map(|batch| &batch.operations);
        if operations.any(|operation| matches!(operation, Operation::Put(_))) {
            return Ok(applied);
        }
        let message = "lost".to_owned();
        Err(StorageError { reason: StorageReason::Unavailable, effect: Effect::Unknown, message })
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
fn to_tidy_up_fails_nothing_where_nobody_knows_what_became_of_it() {
    let store = Fake::default();
    let (stays, goes) = (open(store.clone(), None), open(store.clone(), Some(100)));
    stays.save(checkpoint("s", "latest", "r", 0)).expect("saved");
    for number in 0..150 {
        goes.save(checkpoint("s", &format!("c{number}"), "r", 9)).expect("saved");
    }
    store.shared.now.set(100);
    let silent = open(Silent(store.clone()), None);
    // What expired is above the latest, on more than a page.
    let refused = silent.save_after(checkpoint("s", "n", "r", 10), Some("other"));
    let latest = Some("latest".to_owned());
    assert_eq!(refused, Err(Error::Conflict(Conflict::NotLatest(latest))));
    assert!(store.members("p:session:s").len() <= 51);
    let history = silent.list(&query("s", None)).expect("a history");
    assert_eq!(history.checkpoints, [checkpoint("s", "latest", "r", 0)]);
    assert_eq!(silent.latest("s").expect("loaded"), Some(checkpoint("s", "latest", "r", 0)));
}

/// A store that is out of reach for everything.
struct Down;

fn down<T>() -> Result<T, StorageError> {
    Err(StorageError { reason: StorageReason::Unavailable, effect: Effect::None, message: "down".into() })
}

impl Keyvalue for Down {
    fn get(&self, _: &[String], _: Option<u32>) -> Result<Vec<Value>, StorageError> {
        down()
    }

    fn ttl(&self, _: &[String]) -> Result<Vec<Option<Expiry>>, StorageError> {
        down()
    }

    fn range(&self, _: &Query) -> Result<IndexPage, StorageError> {
        down()
    }

    fn commit(&self, _: &[Batch]) -> Result<Vec<bool>, StorageError> {
        down()
    }

    fn scan(&self, _: &str, _: Option<&str>) -> Result<KeyPage, StorageError> {
        down()
    }

    fn is_colocated(&self, _: &str) -> bool {
        true
    }

    fn supports(&self, _: &str) -> bool {
        true
    }
}

#[test]
fn a_store_that_is_down_is_never_an_empty_one() {
    let checkpointer = open(Down, None);
    let is_down =
        |error: Option<Error>| matches!(error, Some(Error::Storage(error)) if error.message == "down");
    assert!(is_down(checkpointer.latest("s").err()));
    assert!(is_down(checkpointer.load("s", "c").err()));
    assert!(is_down(checkpointer.list(&query("s", None)).err()));
    assert!(is_down(checkpointer.save(checkpoint("s", "c", "r", 1)).err()));
    assert!(is_down(checkpointer.delete_session("s").err()));
    assert!(is_down(checkpointer.delete_checkpoint("s", "c").err()));
    assert!(is_down(checkpointer.clear_all().err()));
}
