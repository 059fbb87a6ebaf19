//! The operations over a store in memory: their round trips, and their behaviour
//! with concurrent calls. The contract in `tests/` checks the results over real
//! stores.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]

mod fake;
mod layout;
mod outcome;
mod retention;
mod ttl;

use checkpointer_guest::keyvalue::{Effect, Keyvalue, Operation, StorageError, StorageReason};
use checkpointer_guest::{
    Checkpoint, Checkpointer, Conflict, Error, HistoryQuery, Layout, Metadata, NamedValue, Options, Run, Ttl,
    TtlScope,
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

/// The error of an unavailable store.
fn error(effect: Effect) -> StorageError {
    StorageError { reason: StorageReason::Unavailable, effect, message: "unavailable".into() }
}

fn ids(checkpointer: &Checkpointer<Fake>, session: &str) -> Vec<String> {
    let history = checkpointer.list(&query(session, None)).expect("a history");
    history.checkpoints.into_iter().map(|checkpoint| checkpoint.metadata.checkpoint_id).collect()
}

#[test]
fn each_operation_makes_the_fewest_round_trips() {
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
fn concurrent_saves_of_one_id_in_two_sessions_conflict() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    store.interrupt(move || theirs.save(checkpoint("theirs", "c", "r", 1)).expect("saved"));
    assert!(matches!(ours.save(checkpoint("ours", "c", "r", 2)), Err(Error::Conflict(_))));
    assert_eq!((ids(&ours, "ours"), ids(&ours, "theirs")), (Vec::new(), vec!["c".to_owned()]));
}

#[test]
fn a_save_is_retried_after_a_concurrent_delete() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    ours.save(checkpoint("s", "c", "old", 1)).expect("saved");
    store.calls();
    // The first commit fails because the run changes, the second because of the
    // concurrent delete.
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
fn a_delete_removes_a_concurrently_saved_version() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    ours.save(checkpoint("s", "c", "r1", 1)).expect("saved");
    store.interrupt(move || theirs.save(checkpoint("s", "c", "r2", 2)).expect("saved"));
    assert_eq!(ours.delete_session("s"), Ok(1));
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn a_dangling_entry_stays_if_its_checkpoint_is_saved_concurrently() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), None));
    theirs.save(checkpoint("s", "old", "r", 1)).expect("saved");
    ours.save(checkpoint("s", "c", "r", 2)).expect("saved");
    store.shared.now.set(100);
    let again = checkpoint("s", "c", "r", 3);
    store.interrupt(move || theirs.save(again).expect("saved"));
    // The checkpoint did not exist when the list was read.
    assert_eq!(ids(&ours, "s"), ["old"]);
    assert_eq!(ids(&ours, "s"), ["c", "old"]);
}

#[test]
fn a_document_is_read_whole_if_its_head_does_not_determine_its_owner() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    checkpointer.save(checkpoint("s", "c", "r", 1)).expect("saved");
    let document = store.value("p:checkpoint:c").expect("a document");
    let members = document.strip_suffix(", \"state\": {}}").and_then(|text| text.strip_prefix('{'));
    let state =
        format!("{{\"state\": \"{}\", {}}}", "x".repeat(5000), members.expect("a document of this crate"));
    store.shared.values.borrow_mut().insert("p:checkpoint:c".into(), (state, None));
    store.calls();
    assert_eq!(checkpointer.delete_session("s"), Ok(1));
    assert_eq!(store.calls(), ["range", "get", "commit"]);
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn delete_session_removes_dangling_entries_of_its_runs() {
    let store = Fake::default();
    let (permanent, expiring) = (open(store.clone(), None), open(store.clone(), Some(100)));
    permanent.save(checkpoint("s", "a", "r", 1)).expect("saved");
    expiring.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(100);
    // Listing removes the dangling entry of the session's index, not of the run's.
    assert_eq!(ids(&permanent, "s"), ["a"]);
    assert_eq!(store.members("p:session:s:run:r").len(), 2);
    assert_eq!(permanent.delete_session("s"), Ok(1));
    store.shared.values.borrow_mut().clear();
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn save_after_ignores_foreign_entries_of_the_index() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    // The index of a run of one session is the index of another session.
    checkpointer.save(checkpoint("s", "theirs", "r", 1)).expect("saved");
    let failed = checkpointer.save_after(checkpoint("s:run:r", "n", "q", 2), Some("theirs"));
    assert!(matches!(failed, Err(Error::Conflict(Conflict::NotLatest(None)))), "{failed:?}");
    checkpointer.save_after(checkpoint("s:run:r", "n", "q", 2), None).expect("saved");
    checkpointer.save_after(checkpoint("s:run:r", "o", "q", 3), Some("n")).expect("saved");
    // White space in the document makes no difference.
    let document = store.value("p:checkpoint:o").expect("a document").replace("{\"", "{ \"");
    store.shared.values.borrow_mut().insert("p:checkpoint:o".into(), (document, None));
    checkpointer.save_after(checkpoint("s:run:r", "p", "q", 4), Some("o")).expect("saved");
}

#[test]
fn too_many_foreign_entries_above_the_latest_are_unsupported() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    // The index of a run of one session is the index of another session.
    for number in 0..1100 {
        checkpointer.save(checkpoint("a", &format!("c{number}"), "b", 50)).expect("saved");
    }
    checkpointer.save(checkpoint("a:run:b", "own", "r", 1)).expect("saved");
    let failed = checkpointer.save_after(checkpoint("a:run:b", "n", "r", 2), Some("other"));
    assert!(
        matches!(&failed, Err(Error::Storage(error)) if error.reason == StorageReason::Unsupported && error.effect == Effect::None),
        "{failed:?}"
    );
}

#[test]
fn operations_succeed_if_removing_dangling_entries_has_an_unknown_effect() {
    let store = Fake::default();
    let (permanent, expiring) = (open(store.clone(), None), open(store.clone(), Some(100)));
    permanent.save(checkpoint("s", "latest", "r", 0)).expect("saved");
    for number in 0..150 {
        expiring.save(checkpoint("s", &format!("c{number}"), "r", 9)).expect("saved");
    }
    store.shared.now.set(100);
    // Commits without a put are applied, and their answers are lost.
    let lossy = open(
        store.failing(|batches| {
            let mut operations = batches.iter().flat_map(|batch| &batch.operations);
            let has_put = operations.any(|operation| matches!(operation, Operation::Put(_)));
            (!batches.is_empty() && !has_put).then(|| error(Effect::Unknown))
        }),
        None,
    );
    // More than one page of dangling entries is above the latest checkpoint.
    let failed = lossy.save_after(checkpoint("s", "n", "r", 10), Some("other"));
    let latest = Some("latest".to_owned());
    assert_eq!(failed, Err(Error::Conflict(Conflict::NotLatest(latest))));
    assert!(store.members("p:session:s").len() <= 51);
    let history = lossy.list(&query("s", None)).expect("a history");
    assert_eq!(history.checkpoints, [checkpoint("s", "latest", "r", 0)]);
    assert_eq!(lossy.latest("s").expect("loaded"), Some(checkpoint("s", "latest", "r", 0)));
}

#[test]
fn an_unavailable_store_is_an_error_for_every_operation() {
    let checkpointer = open(Fake::default().failing(|_| Some(error(Effect::None))), None);
    let is_down = |failed: Option<Error>| failed == Some(Error::Storage(error(Effect::None)));
    assert!(is_down(checkpointer.latest("s").err()));
    assert!(is_down(checkpointer.dump("s", "c").err()));
    assert!(is_down(checkpointer.scan(None).err()));
    assert!(is_down(checkpointer.load("s", "c").err()));
    assert!(is_down(checkpointer.list(&query("s", None)).err()));
    assert!(is_down(checkpointer.save(checkpoint("s", "c", "r", 1)).err()));
    assert!(is_down(checkpointer.delete_session("s").err()));
    assert!(is_down(checkpointer.delete_checkpoint("s", "c").err()));
    assert!(is_down(checkpointer.clear_all().err()));
}

#[test]
fn open_refuses_a_store_without_a_needed_capability() {
    let store = Fake::default();
    for (capability, ttl_ms) in [("conditions", None), ("atomic-commit", None), ("expiry", Some(100))] {
        store.shared.lacks.set(Some(capability));
        let error = Checkpointer::open(store.clone(), &options(ttl_ms)).err().expect("an error");
        let Error::Storage(error) = error else { panic!("{error:?}") };
        assert_eq!((error.reason, error.effect), (StorageReason::Unsupported, Effect::None));
        assert!(
            error
                .message
                .starts_with(&format!("the store lacks the capability {capability:?}; use a store "))
        );
    }
    open(store, None);
}

#[test]
fn unknown_names_in_extra_are_refused() {
    let extra = vec![NamedValue { name: "color".into(), value: "1".into() }];
    let opened = Checkpointer::open(Fake::default(), &Options { extra: extra.clone(), ..options(None) });
    let checkpointer = open(Fake::default(), None);
    let listed = checkpointer.list(&HistoryQuery { extra, ..query("s", None) });
    for (error, name) in [(opened.err(), "options"), (listed.err(), "query")] {
        let message = format!("unknown name \"color\" in the extra of the {name}; this version defines none");
        assert_eq!(error, Some(Error::InvalidArgument(message)));
    }
}

#[test]
fn the_default_prefix_is_that_of_llmfy() {
    let store = Fake::default();
    let checkpointer = open_with(store.clone(), &Options { prefix: None, ..options(None) });
    checkpointer.save(checkpoint("s", "c", "r", 1)).expect("saved");
    assert!(store.value("llmfy_checkpoint:checkpoint:c").is_some());
}

#[test]
fn dump_returns_the_document_and_its_remaining_ttl() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, scope: TtlScope::Checkpoint, refresh_on_read: true };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    checkpointer.save(checkpoint("s", "c", "r", 1)).expect("saved");
    store.shared.now.set(40);
    store.calls();
    let dump = checkpointer.dump("s", "c").expect("dumped").expect("a checkpoint");
    assert_eq!(store.calls(), ["get", "ttl"]);
    assert_eq!(
        (Some(&dump.document), dump.expires_in_ms),
        (store.value("p:checkpoint:c").as_ref(), Some(60))
    );
    assert_eq!(checkpointer.dump("t", "c"), Ok(None));
    checkpointer.pin_session("s").expect("pinned");
    assert_eq!(checkpointer.dump("s", "c").expect("dumped").map(|dump| dump.expires_in_ms), Some(None));
}

#[test]
fn extra_members_are_saved_copied_and_validated() {
    let (source, target) = (open(Fake::default(), None), open(Fake::default(), None));
    let with_extra = |name: &str, value: &str| {
        let mut checkpoint = checkpoint("s", "c", "r", 1);
        checkpoint.metadata.extra = vec![NamedValue { name: name.into(), value: value.into() }];
        checkpoint
    };
    let checkpoint = with_extra("color", "[1.0]");
    source.save(checkpoint.clone()).expect("saved");
    let document = source.latest_document("s").expect("loaded").expect("a document");
    assert!(document.ends_with("\"color\": [1.0], \"state\": {}}"), "{document}");
    target.restore(document.clone(), None).expect("restored");
    assert_eq!(target.latest("s"), Ok(Some(checkpoint.clone())));
    assert_eq!(target.latest_document("s"), Ok(Some(document)));
    assert_eq!(target.list(&query("s", None)).expect("listed").checkpoints, [checkpoint]);
    for invalid in [with_extra("state", "1"), with_extra("color", "1,"), with_extra("color", "")] {
        assert!(matches!(source.save(invalid), Err(Error::InvalidArgument(_))));
    }
}

#[test]
fn compression_without_a_run_is_an_invalid_argument_except_for_restore() {
    let (store, plain) = (Fake::default(), open(Fake::default(), None));
    let compressing = open_with(store.clone(), &Options { compress: true, ..options(None) });
    let mut checkpoint = checkpoint("s", "c", "r", 1);
    checkpoint.metadata.run = None;
    plain.save(checkpoint.clone()).expect("saved");
    let document = plain.latest_document("s").expect("loaded").expect("a document");
    let is_refused = |error: Option<Error>| matches!(error, Some(Error::InvalidArgument(_)));
    assert!(is_refused(compressing.save(checkpoint.clone()).err()));
    assert!(is_refused(compressing.save_after(checkpoint.clone(), None).err()));
    assert!(is_refused(compressing.save_document(document.clone()).err()));
    compressing.restore(document.clone(), None).expect("restored");
    assert_eq!(store.value("p:checkpoint:c"), Some(document));
    assert_eq!(compressing.latest("s"), Ok(Some(checkpoint)));
}
