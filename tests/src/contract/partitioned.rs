//! What the checkpointer keeps to in the partitioned layout, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpointer::{Checkpoint, DEFAULT_PREFIX, Layout, SaveOutcome};

use super::TestStore;
use super::checkpointer::save;
use super::moving::scanned;
use crate::names::{LAYOUTS, Names, hash_tag};
use crate::samples::{checkpoint, plain, with_state};
use crate::checkpointer_under_test::{Mode, Options, CheckpointerUnderTest};

fn with_text(checkpoint: Checkpoint, text: &str) -> Checkpoint {
    with_state(checkpoint, format!("{text:?}"))
}

/// An id belongs to its session: another one may have the same.
pub async fn sessions_with_the_same_ids_never_meet(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options::default()).await;
    let of = |session: &str, second| with_text(checkpoint(session, "c", "r", second), session);
    save(&subject, &of("alice", 1)).await;
    assert_eq!(subject.load("bob", "c").await.expect("an answer"), None);
    assert!(!subject.delete_checkpoint("bob", "c").await.expect("an answer"));
    assert_eq!(subject.save_after(&of("bob", 2), None).await.expect("saved"), SaveOutcome::Latest);
    for (session, second) in [("alice", 1), ("bob", 2)] {
        assert_eq!(subject.load(session, "c").await.expect("loaded"), Some(of(session, second)));
        assert_eq!(subject.latest(session).await.expect("loaded"), Some(of(session, second)));
        assert_eq!(subject.list(session, None).await.expect("a list").checkpoints, [of(session, second)]);
        assert_eq!(subject.ids_of_run(session, "r").await, ["c"]);
    }
    // One moves to another run, and is moved in time; the other stays.
    save(&subject, &checkpoint("bob", "c", "q", 9)).await;
    assert_eq!(subject.ids_of_run("alice", "r").await, ["c"]);
    assert_eq!(subject.latest("alice").await.expect("loaded"), Some(of("alice", 1)));
    assert_eq!(subject.pin_session("bob").await.expect("pinned"), 1);
    assert!(subject.delete_checkpoint("bob", "c").await.expect("deleted"));
    assert_eq!(subject.ids("bob", 9).await, [""; 0]);
    assert_eq!(subject.load("alice", "c").await.expect("loaded"), Some(of("alice", 1)));
    save(&subject, &of("bob", 2)).await;
    assert_eq!(subject.delete_session("alice").await.expect("deleted"), 1);
    assert_eq!(subject.latest("bob").await.expect("loaded"), Some(of("bob", 2)));
    // A limit takes the oldest of its own session.
    let one = place.open(mode, &Options { max_checkpoints: Some(1), ..Options::default() }).await;
    save(&subject, &of("alice", 1)).await;
    assert_eq!(one.save(&checkpoint("alice", "d", "r", 3)).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(
        (subject.ids("alice", 9).await, subject.ids("bob", 9).await),
        (vec!["d".into()], vec!["c".into()])
    );
    save(&subject, &of("alice", 4)).await;
    assert_eq!(subject.clear_all().await.expect("cleared"), 3);
    assert_eq!(place.keys("").await, [""; 0]);
}

/// What may be taken for the end of a session, for another one or for a kind.
const HOSTILE: [&str; 12] =
    ["a", "{", "}", "}{", "{}", "{a}", "%7Ba%7D", "%", "a}:run:b", "session", "run:a", "checkpoint:a"];

/// Whatever ids are called, they are what they are and nothing else.
pub async fn hostile_ids_never_meet(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options::default()).await;
    let of = |session: &str, id: &str, second| with_text(checkpoint(session, id, id, second), session);
    let times = |id: &str| HOSTILE.iter().position(|other| *other == id).map_or(0, |place| place as u32);
    for session in HOSTILE {
        for id in HOSTILE {
            save(&subject, &of(session, id, times(id))).await;
        }
    }
    let newest_first: Vec<&str> = HOSTILE.into_iter().rev().collect();
    let is_whole = async |session: &str| {
        let listed = subject.list(session, Some(100)).await.expect("a list");
        let expected: Vec<_> = newest_first.iter().map(|id| of(session, id, times(id))).collect();
        assert_eq!((listed.checkpoints, listed.unreadable), (expected, vec![]));
        for id in HOSTILE {
            assert_eq!(subject.ids_of_run(session, id).await, [id]);
        }
    };
    for (number, session) in HOSTILE.into_iter().enumerate() {
        is_whole(session).await;
        assert!(subject.delete_checkpoint(session, "{").await.expect("deleted"));
        assert_eq!(subject.delete_session(session).await.expect("deleted"), HOSTILE.len() as u64 - 1);
        assert_eq!(subject.ids(session, 9).await, [""; 0]);
        for other in &HOSTILE[number + 1..] {
            is_whole(other).await;
        }
    }
    assert_eq!(place.keys("").await, [""; 0]);
}

/// All that a session leaves in a store is in one slot of a Redis Cluster.
pub async fn all_keys_of_a_session_have_one_hash_tag(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options { max_checkpoints: Some(20), ..Options::ttl_ms(600_000) }).await;
    for session in HOSTILE {
        let before: BTreeSet<String> = place.keys("").await.into_iter().collect();
        for (second, id) in HOSTILE.into_iter().enumerate() {
            save(&subject, &checkpoint(session, id, id, second as u32)).await;
        }
        save(&subject, &plain(session, "without a run", 99)).await;
        assert_eq!(subject.pin_session(session).await.expect("pinned"), HOSTILE.len() as u64 + 1);
        let keys: BTreeSet<String> = place.keys("").await.into_iter().collect();
        let left: Vec<&String> = keys.difference(&before).collect();
        // As many documents and runs, the one without a run, the index and the mark.
        assert_eq!(left.len(), 2 * HOSTILE.len() + 3);
        let tags: BTreeSet<&str> = left.iter().map(|key| hash_tag(key)).collect();
        assert_eq!(tags.len(), 1, "{tags:?}");
        assert!(
            before.iter().all(|key| !tags.contains(hash_tag(key))),
            "{session:?} is in the slot of another"
        );
    }
}

/// Both layouts may be used under one prefix, and under prefixes of which one
/// begins with the other: nothing of one is anything to the other.
pub async fn layouts_keep_apart_under_one_prefix_and_under_nested_ones(place: &TestStore, mode: Mode) {
    let prefixes =
        ["app:", "app:session:", "app:checkpoint:", "app:pinned", "app:{", "app:{s}", "app:session:{s}:run:"];
    let sessions = ["s", "session:s", "s}", "{s}", "x"];
    let ids = ["c", "checkpoint:d"];
    let all = prefixes.iter().flat_map(|prefix| LAYOUTS.map(|layout| (*prefix, layout)));
    let mut left = BTreeMap::new();
    for (prefix, layout) in all {
        // Past whatever keeps llmfy's layout away from many machines.
        let opening = Options { layout, ..Options::prefix(prefix) };
        let subject = CheckpointerUnderTest::open(mode, Arc::clone(&place.store), &opening).await.expect("a checkpointer");
        let before: BTreeSet<String> = place.keys("").await.into_iter().collect();
        for session in sessions {
            for (second, id) in ids.into_iter().enumerate() {
                // In llmfy's layout an id is one session's.
                let id = format!("{id}/{session}/{prefix}");
                save(&subject, &checkpoint(session, &id, "r", second as u32)).await;
            }
            subject.pin_session(session).await.expect("pinned");
        }
        let after: BTreeSet<String> = place.keys("").await.into_iter().collect();
        let own: BTreeSet<String> = after.difference(&before).cloned().collect();
        left.insert((layout == Layout::Partitioned, prefix), (subject, own));
    }
    let holds = async |prefix: &str, subject: &CheckpointerUnderTest| {
        assert_eq!(scanned(subject).await.len(), sessions.len() * ids.len(), "{prefix:?}");
        for session in sessions {
            let expected = ids.map(|id| format!("{id}/{session}/{prefix}"));
            let newest_first: Vec<&str> = expected.iter().rev().map(String::as_str).collect();
            assert_eq!(subject.ids(session, 9).await, newest_first, "{prefix:?}");
            assert_eq!(subject.ids_of_run(session, "r").await, newest_first, "{prefix:?}");
        }
    };
    let order: Vec<_> = left.keys().copied().collect();
    // Of each layout some go first, and the others last.
    for cleared in order.iter().skip(1).step_by(2).chain(order.iter().step_by(2)) {
        let before: BTreeSet<String> = place.keys("").await.into_iter().collect();
        let (subject, own) = left.remove(cleared).expect("not cleared yet");
        let count = (sessions.len() * ids.len()) as u64;
        assert_eq!(subject.clear_all().await.expect("cleared"), count, "{cleared:?}");
        let after: BTreeSet<String> = place.keys("").await.into_iter().collect();
        let gone: BTreeSet<String> = before.difference(&after).cloned().collect();
        for ((is_partitioned, prefix), (other, keys)) in &left {
            holds(prefix, other).await;
            assert!(!is_partitioned || gone.is_disjoint(keys), "{cleared:?} took {gone:?}");
        }
        // In llmfy's layout prefixes share indexes by their names.
        let (is_partitioned, _) = cleared;
        assert!(!is_partitioned || gone == own, "{cleared:?} took {gone:?}");
    }
    assert_eq!(place.keys("").await, [""; 0]);
}

/// What is stored is the same text in both layouts.
pub async fn documents_are_the_same_in_both_layouts(place: &TestStore, mode: Mode) {
    let texts = async |layout| {
        let names = Names { prefix: DEFAULT_PREFIX, layout };
        let opening = Options { layout, ..Options::default() };
        let subject = CheckpointerUnderTest::open(mode, Arc::clone(&place.store), &opening).await.expect("a checkpointer");
        save(&subject, &checkpoint("s", "a", "r", 1)).await;
        save(&subject, &plain("s", "b", 2)).await;
        (place.text(&names.document("s", "a")).await, place.text(&names.document("s", "b")).await)
    };
    let llmfys = texts(Layout::Llmfy).await;
    assert!(llmfys.0.is_some() && llmfys.1.is_some());
    assert_eq!(texts(Layout::Partitioned).await, llmfys);
}
