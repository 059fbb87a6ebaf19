//! The contract of the checkpointer in the layout `partitioned`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpointer::{Checkpoint, DEFAULT_PREFIX, Layout, SaveOutcome};

use super::TestStore;
use super::checkpointer::save;
use super::scan_and_restore::scanned;
use crate::checkpointer_under_test::{CheckpointerUnderTest, Mode, Options};
use crate::names::{LAYOUTS, Names, hash_tag};
use crate::samples::{checkpoint, plain, with_state};

fn with_text(checkpoint: Checkpoint, text: &str) -> Checkpoint {
    with_state(checkpoint, format!("{text:?}"))
}

/// An id belongs to its session: another session may have an equal id.
pub async fn sessions_with_equal_ids_are_isolated(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    let of = |session: &str, second| with_text(checkpoint(session, "c", "r", second), session);
    save(&checkpointer, &of("alice", 1)).await;
    assert_eq!(checkpointer.load("bob", "c").await.expect("an answer"), None);
    assert!(!checkpointer.delete_checkpoint("bob", "c").await.expect("an answer"));
    assert_eq!(checkpointer.save_after(&of("bob", 2), None).await.expect("saved"), SaveOutcome::Latest);
    for (session, second) in [("alice", 1), ("bob", 2)] {
        assert_eq!(checkpointer.load(session, "c").await.expect("loaded"), Some(of(session, second)));
        assert_eq!(checkpointer.latest(session).await.expect("loaded"), Some(of(session, second)));
        assert_eq!(
            checkpointer.list(session, None).await.expect("a list").checkpoints,
            [of(session, second)]
        );
        assert_eq!(checkpointer.ids_of_run(session, "r").await, ["c"]);
    }
    // One of them changes its run and timestamp; the other one remains.
    save(&checkpointer, &checkpoint("bob", "c", "q", 9)).await;
    assert_eq!(checkpointer.ids_of_run("alice", "r").await, ["c"]);
    assert_eq!(checkpointer.latest("alice").await.expect("loaded"), Some(of("alice", 1)));
    assert_eq!(checkpointer.pin_session("bob").await.expect("pinned"), 1);
    assert!(checkpointer.delete_checkpoint("bob", "c").await.expect("deleted"));
    assert_eq!(checkpointer.ids("bob", 9).await, [""; 0]);
    assert_eq!(checkpointer.load("alice", "c").await.expect("loaded"), Some(of("alice", 1)));
    save(&checkpointer, &of("bob", 2)).await;
    assert_eq!(checkpointer.delete_session("alice").await.expect("deleted"), 1);
    assert_eq!(checkpointer.latest("bob").await.expect("loaded"), Some(of("bob", 2)));
    // A limit removes the oldest checkpoint of its own session.
    let one = store.open(mode, &Options { max_checkpoints: Some(1), ..Options::default() }).await;
    save(&checkpointer, &of("alice", 1)).await;
    assert_eq!(one.save(&checkpoint("alice", "d", "r", 3)).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(
        (checkpointer.ids("alice", 9).await, checkpointer.ids("bob", 9).await),
        (vec!["d".into()], vec!["c".into()])
    );
    save(&checkpointer, &of("alice", 4)).await;
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 3);
    assert_eq!(store.keys("").await, [""; 0]);
}

/// Ids that could be parsed as the end of a session, another session or another
/// kind of key.
const HOSTILE: [&str; 12] =
    ["a", "{", "}", "}{", "{}", "{a}", "%7Ba%7D", "%", "a}:run:b", "session", "run:a", "checkpoint:a"];

/// Ids that look like parts of keys are kept apart.
pub async fn hostile_ids_are_isolated(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    let of = |session: &str, id: &str, second| with_text(checkpoint(session, id, id, second), session);
    let times =
        |id: &str| HOSTILE.iter().position(|other| *other == id).map_or(0, |position| position as u32);
    for session in HOSTILE {
        for id in HOSTILE {
            save(&checkpointer, &of(session, id, times(id))).await;
        }
    }
    let newest_first: Vec<&str> = HOSTILE.into_iter().rev().collect();
    let is_whole = async |session: &str| {
        let listed = checkpointer.list(session, Some(100)).await.expect("a list");
        let expected: Vec<_> = newest_first.iter().map(|id| of(session, id, times(id))).collect();
        assert_eq!((listed.checkpoints, listed.unreadable), (expected, vec![]));
        for id in HOSTILE {
            assert_eq!(checkpointer.ids_of_run(session, id).await, [id]);
        }
    };
    for (number, session) in HOSTILE.into_iter().enumerate() {
        is_whole(session).await;
        assert!(checkpointer.delete_checkpoint(session, "{").await.expect("deleted"));
        assert_eq!(checkpointer.delete_session(session).await.expect("deleted"), HOSTILE.len() as u64 - 1);
        assert_eq!(checkpointer.ids(session, 9).await, [""; 0]);
        for other in &HOSTILE[number + 1..] {
            is_whole(other).await;
        }
    }
    assert_eq!(store.keys("").await, [""; 0]);
}

/// All keys of a session are in one slot of a Redis Cluster.
pub async fn all_keys_of_a_session_have_one_hash_tag(store: &TestStore, mode: Mode) {
    let checkpointer =
        store.open(mode, &Options { max_checkpoints: Some(20), ..Options::ttl_ms(600_000) }).await;
    for session in HOSTILE {
        let before: BTreeSet<String> = store.keys("").await.into_iter().collect();
        for (second, id) in HOSTILE.into_iter().enumerate() {
            save(&checkpointer, &checkpoint(session, id, id, second as u32)).await;
        }
        save(&checkpointer, &plain(session, "without a run", 99)).await;
        assert_eq!(checkpointer.pin_session(session).await.expect("pinned"), HOSTILE.len() as u64 + 1);
        let keys: BTreeSet<String> = store.keys("").await.into_iter().collect();
        let left: Vec<&String> = keys.difference(&before).collect();
        // Documents and runs, the document without a run, the index and the pin marker.
        assert_eq!(left.len(), 2 * HOSTILE.len() + 3);
        let tags: BTreeSet<&str> = left.iter().map(|key| hash_tag(key)).collect();
        assert_eq!(tags.len(), 1, "{tags:?}");
        assert!(
            before.iter().all(|key| !tags.contains(hash_tag(key))),
            "{session:?} is in the slot of another"
        );
    }
}

/// Both layouts can be used under one prefix and under nested prefixes, and do
/// not affect each other.
pub async fn layouts_are_isolated_under_equal_and_nested_prefixes(store: &TestStore, mode: Mode) {
    let prefixes =
        ["app:", "app:session:", "app:checkpoint:", "app:pinned", "app:{", "app:{s}", "app:session:{s}:run:"];
    let sessions = ["s", "session:s", "s}", "{s}", "x"];
    let ids = ["c", "checkpoint:d"];
    let all = prefixes.iter().flat_map(|prefix| LAYOUTS.map(|layout| (*prefix, layout)));
    let mut left = BTreeMap::new();
    for (prefix, layout) in all {
        // Without the check that rejects the layout `llmfy` on a cluster.
        let options = Options { layout, ..Options::prefix(prefix) };
        let checkpointer = CheckpointerUnderTest::open(mode, Arc::clone(&store.inner), &options)
            .await
            .expect("a checkpointer");
        let before: BTreeSet<String> = store.keys("").await.into_iter().collect();
        for session in sessions {
            for (second, id) in ids.into_iter().enumerate() {
                // In the layout `llmfy` an id belongs to one session.
                let id = format!("{id}/{session}/{prefix}");
                save(&checkpointer, &checkpoint(session, &id, "r", second as u32)).await;
            }
            checkpointer.pin_session(session).await.expect("pinned");
        }
        let after: BTreeSet<String> = store.keys("").await.into_iter().collect();
        let own: BTreeSet<String> = after.difference(&before).cloned().collect();
        left.insert((layout == Layout::Partitioned, prefix), (checkpointer, own));
    }
    let holds = async |prefix: &str, checkpointer: &CheckpointerUnderTest| {
        assert_eq!(scanned(checkpointer).await.len(), sessions.len() * ids.len(), "{prefix:?}");
        for session in sessions {
            let expected = ids.map(|id| format!("{id}/{session}/{prefix}"));
            let newest_first: Vec<&str> = expected.iter().rev().map(String::as_str).collect();
            assert_eq!(checkpointer.ids(session, 9).await, newest_first, "{prefix:?}");
            assert_eq!(checkpointer.ids_of_run(session, "r").await, newest_first, "{prefix:?}");
        }
    };
    let order: Vec<_> = left.keys().copied().collect();
    // Some of each layout are cleared first, the others last.
    for cleared in order.iter().skip(1).step_by(2).chain(order.iter().step_by(2)) {
        let before: BTreeSet<String> = store.keys("").await.into_iter().collect();
        let (checkpointer, own) = left.remove(cleared).expect("not cleared yet");
        let count = (sessions.len() * ids.len()) as u64;
        assert_eq!(checkpointer.clear_all().await.expect("cleared"), count, "{cleared:?}");
        let after: BTreeSet<String> = store.keys("").await.into_iter().collect();
        let gone: BTreeSet<String> = before.difference(&after).cloned().collect();
        for ((is_partitioned, prefix), (other, keys)) in &left {
            holds(prefix, other).await;
            assert!(!is_partitioned || gone.is_disjoint(keys), "{cleared:?} took {gone:?}");
        }
        // In the layout `llmfy` prefixes may share the name of an index.
        let (is_partitioned, _) = cleared;
        assert!(!is_partitioned || gone == own, "{cleared:?} took {gone:?}");
    }
    assert_eq!(store.keys("").await, [""; 0]);
}

/// Documents are the same text in both layouts.
pub async fn documents_are_equal_in_both_layouts(store: &TestStore, mode: Mode) {
    let texts = async |layout| {
        let names = Names { prefix: DEFAULT_PREFIX, layout };
        let options = Options { layout, ..Options::default() };
        let checkpointer = CheckpointerUnderTest::open(mode, Arc::clone(&store.inner), &options)
            .await
            .expect("a checkpointer");
        save(&checkpointer, &checkpoint("s", "a", "r", 1)).await;
        save(&checkpointer, &plain("s", "b", 2)).await;
        (store.text(&names.document("s", "a")).await, store.text(&names.document("s", "b")).await)
    };
    let llmfys = texts(Layout::Llmfy).await;
    assert!(llmfys.0.is_some() && llmfys.1.is_some());
    assert_eq!(texts(Layout::Partitioned).await, llmfys);
}
