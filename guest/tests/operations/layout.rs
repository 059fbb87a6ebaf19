//! The partitioned layout over a store that is spread over many machines, and
//! which layouts such a store is opened with.

use checkpointer_guest::keyvalue::Keyvalue;
use checkpointer_guest::{Checkpointer, Error, HistoryQuery, Layout, TtlScope, Options, Ttl};

use super::fake::Fake;
use super::{checkpoint, ids, open_with, options, query};

/// A store on many machines, which panics where keys of several are touched at
/// once.
fn spread() -> Fake {
    let store = Fake::default();
    store.shared.is_spread.set(true);
    store
}

fn partitioned() -> Options {
    Options { layout: Layout::Partitioned, ..options(None) }
}

/// Why options are refused.
fn refused(store: &Fake, layout: Layout, prefix: &str) -> String {
    match Checkpointer::open(store.clone(), &Options { layout, prefix: Some(prefix.into()), ..options(None) }) {
        Err(Error::InvalidArgument(why)) => why,
        other => format!("{:?}", other.map(drop)),
    }
}

#[test]
fn llmfys_layout_on_many_machines_takes_a_prefix_with_a_hash_tag() {
    let store = spread();
    assert_eq!(
        refused(&store, Layout::Llmfy, "llmfy_checkpoint:"),
        "the store spreads keys over several machines, and those under the prefix \"llmfy_checkpoint:\" \
         would not stay together; take a prefix with a hash tag, for instance \"{llmfy_checkpoint}:\", or \
         the layout `partitioned`"
    );
    assert_eq!(
        refused(&store, Layout::Llmfy, "{}app:"),
        "the store spreads keys over several machines, and those under the prefix \"{}app:\" would not stay \
         together; take a prefix with a hash tag, for instance \"{{}app}:\", or the layout `partitioned`"
    );
    let tagged = Options { prefix: Some("{p}:".into()), ..options(None) };
    let checkpointer = open_with(store, &tagged);
    checkpointer.save(checkpoint("s", "c", "r", 1)).expect("saved");
    assert_eq!(ids(&checkpointer, "s"), ["c"]);
    assert_eq!(checkpointer.clear_all(), Ok(1));
}

#[test]
fn the_partitioned_layout_takes_any_prefix_that_leaves_the_tag_to_the_session() {
    let store = spread();
    for prefix in ["app:", "{app}:", "{", "}", "a}{b"] {
        open_with(store.clone(), &Options { prefix: Some(prefix.into()), ..partitioned() });
    }
    assert_eq!(
        refused(&store, Layout::Partitioned, "{}app:"),
        "the store spreads keys over several machines by the first text in braces, which is empty in the \
         prefix \"{}app:\" or before it; take one without \"{}\""
    );
}

#[test]
fn one_machine_keeps_everything_together() {
    for (layout, prefix) in [(Layout::Llmfy, "{}p:"), (Layout::Partitioned, "{}p:")] {
        open_with(Fake::default(), &Options { layout, prefix: Some(prefix.into()), ..options(None) });
    }
}

#[test]
fn every_operation_of_a_session_stays_on_its_machine() {
    let lifetimes = [None, Some(TtlScope::Checkpoint), Some(TtlScope::Session)];
    for (lifetime, max_checkpoints) in lifetimes.into_iter().flat_map(|it| [(it, None), (it, Some(2))]) {
        let store = spread();
        let ttl = lifetime.map(|scope| Ttl { milliseconds: 100, scope, refresh_on_read: true });
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
            checkpointer.list(&HistoryQuery { run_id: Some("other".into()), ..query(session, None) }).expect("listed");
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
        let left = ids(&checkpointer, "t").len() as u64;
        assert_eq!(checkpointer.clear_all(), Ok(left + 1));
        assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
    }
}

#[test]
fn what_expired_is_swept_out_of_every_index_of_a_partition() {
    let store = spread();
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
fn a_document_in_the_partition_of_another_session_is_nobodys() {
    let store = spread();
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
