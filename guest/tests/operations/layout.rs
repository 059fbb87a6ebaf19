//! Both layouts over a cluster.

use checkpointer_guest::keyvalue::Keyvalue;
use checkpointer_guest::{Checkpointer, Error, HistoryQuery, Layout, Options, Ttl, TtlScope};

use super::fake::Fake;
use super::{checkpoint, ids, open_with, options, query};

/// A cluster, which panics if a call has keys in several slots.
fn cluster() -> Fake {
    let store = Fake::default();
    store.shared.is_cluster.set(true);
    store
}

fn partitioned() -> Options {
    Options { layout: Layout::Partitioned, ..options(None) }
}

/// Returns the error of invalid options.
fn refused(store: &Fake, layout: Layout, prefix: &str) -> String {
    match Checkpointer::open(store.clone(), &Options { layout, prefix: Some(prefix.into()), ..options(None) })
    {
        Err(Error::InvalidArgument(why)) => why,
        other => format!("{:?}", other.map(drop)),
    }
}

#[test]
fn llmfy_layout_on_a_cluster_requires_a_prefix_with_a_hash_tag() {
    let store = cluster();
    assert_eq!(
        refused(&store, Layout::Llmfy, "llmfy_checkpoint:"),
        "the store is a cluster, and the keys under the prefix \"llmfy_checkpoint:\" are in many slots; use a \
         prefix with a hash tag, for example \"{llmfy_checkpoint}:\", or the layout `partitioned`"
    );
    assert_eq!(
        refused(&store, Layout::Llmfy, "{}app:"),
        "the store is a cluster, and the keys under the prefix \"{}app:\" are in many slots; use a prefix \
         with a hash tag, for example \"{{}app}:\", or the layout `partitioned`"
    );
    let tagged = Options { prefix: Some("{p}:".into()), ..options(None) };
    let checkpointer = open_with(store, &tagged);
    checkpointer.save(checkpoint("s", "c", "r", 1)).expect("saved");
    assert_eq!(ids(&checkpointer, "s"), ["c"]);
    assert_eq!(checkpointer.clear_all(), Ok(1));
}

#[test]
fn partitioned_layout_accepts_any_prefix_without_empty_braces() {
    let store = cluster();
    for prefix in ["app:", "{app}:", "{", "}", "a}{b"] {
        open_with(store.clone(), &Options { prefix: Some(prefix.into()), ..partitioned() });
    }
    assert_eq!(
        refused(&store, Layout::Partitioned, "{}app:"),
        "the store is a cluster, and \"{}\" before the session prevents the hash tag of the session; use a \
         prefix without \"{}\" instead of \"{}app:\""
    );
}

#[test]
fn a_store_on_one_machine_accepts_any_prefix() {
    for (layout, prefix) in [(Layout::Llmfy, "{}p:"), (Layout::Partitioned, "{}p:")] {
        open_with(Fake::default(), &Options { layout, prefix: Some(prefix.into()), ..options(None) });
    }
}

#[test]
fn every_operation_of_a_session_uses_one_slot() {
    let scopes = [None, Some(TtlScope::Checkpoint), Some(TtlScope::Session)];
    for (scope, max_checkpoints) in scopes.into_iter().flat_map(|scope| [(scope, None), (scope, Some(2))]) {
        let store = cluster();
        let ttl = scope.map(|scope| Ttl { milliseconds: 100, scope, refresh_on_read: true });
        let checkpointer = open_with(store.clone(), &Options { ttl, max_checkpoints, ..partitioned() });
        for session in ["s", "t"] {
            for number in 0..4 {
                let id = format!("c{number}");
                checkpointer.save(checkpoint(session, &id, "r", number)).expect("saved");
            }
            checkpointer.save(checkpoint(session, "c3", "other", 4)).expect("moved to another run");
            checkpointer.save_after(checkpoint(session, "d", "r", 5), Some("c3")).expect("saved");
            checkpointer.save_after(checkpoint(session, "e", "r", 6), None).expect_err("not the latest");
            checkpointer.latest(session).expect("loaded");
            checkpointer.load(session, "c3").expect("loaded");
            checkpointer
                .list(&HistoryQuery { run_id: Some("other".into()), ..query(session, None) })
                .expect("listed");
            assert_eq!(ids(&checkpointer, session)[..2], ["d", "c3"]);
            assert_eq!(checkpointer.pin_checkpoint(session, "d"), Ok(true));
            checkpointer.pin_session(session).expect("pinned");
            checkpointer.unpin_checkpoint(session, "d").expect("unpinned");
            checkpointer.unpin_session(session).expect("unpinned");
            checkpointer.pin_session(session).expect("pinned");
            assert_eq!(checkpointer.delete_checkpoint(session, "d"), Ok(true));
        }
        checkpointer.delete_session("s").expect("deleted");
        assert_eq!(ids(&checkpointer, "s"), [""; 0]);
        checkpointer.save(checkpoint("s", "c3", "r", 1)).expect("saved");
        let remaining = ids(&checkpointer, "t").len() as u64;
        assert_eq!(checkpointer.clear_all(), Ok(remaining + 1));
        assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
    }
}

#[test]
fn clear_all_removes_dangling_entries_of_every_session() {
    let store = cluster();
    let checkpointer = open_with(store.clone(), &partitioned());
    for session in ["s", "t"] {
        for id in ["a", "b"] {
            checkpointer.save(checkpoint(session, id, id, 1)).expect("saved");
        }
    }
    store.shared.values.borrow_mut().retain(|key, _| !key.ends_with("checkpoint:b"));
    assert_eq!(checkpointer.clear_all(), Ok(2));
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn a_document_under_a_key_of_another_session_is_not_a_checkpoint() {
    let store = cluster();
    let checkpointer = open_with(store.clone(), &partitioned());
    checkpointer.save(checkpoint("s", "c", "r", 1)).expect("saved");
    let document = store.value("p:{s}\0checkpoint:c").expect("a document");
    store.shared.values.borrow_mut().insert("p:{t}\0checkpoint:c".into(), (document, None));
    assert_eq!(checkpointer.load("t", "c"), Ok(None));
    assert!(matches!(checkpointer.save(checkpoint("t", "c", "r", 1)), Err(Error::Conflict(_))));
    assert_eq!(checkpointer.delete_session("t"), Ok(0));
    assert_eq!(checkpointer.clear_all(), Ok(1));
    assert_eq!(store.scan("", None).expect("keys").keys, ["p:{t}\0checkpoint:c"]);
}
