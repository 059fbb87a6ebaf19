//! The contract of the checkpointer over every store, in both modes. Numbers in
//! parentheses are defects of llmfy that the checkpointer does not have.

use std::time::Duration;

use checkpointer::store::{Expiry, IndexMember, IndexPut, Operation};
use checkpointer::{Checkpoint, Conflict, DEFAULT_PREFIX, Error, Metadata, SaveOutcome, Timestamp};

use super::TestStore;
use crate::checkpointer_under_test::{CheckpointerUnderTest, History, Mode, Options};
use crate::samples::{checkpoint, data, plain, timestamp, with_state};

pub(super) fn key(rest: &str) -> String {
    format!("{DEFAULT_PREFIX}{rest}")
}

pub(super) async fn save(checkpointer: &CheckpointerUnderTest, checkpoint: &Checkpoint) {
    checkpointer.save(checkpoint).await.expect("saved");
}

/// The outcome of a save that is this many seconds older than the latest.
fn not_latest(latest_id: &str, seconds: u64) -> SaveOutcome {
    SaveOutcome::NotLatest { latest_id: latest_id.to_owned(), ahead: Duration::from_secs(seconds) }
}

pub(super) fn sorted(keys: impl Into<Vec<String>>) -> Vec<String> {
    let mut keys = keys.into();
    keys.sort();
    keys
}

/// Loading returns the saved checkpoint, for all kinds of states.
pub async fn a_loaded_checkpoint_equals_the_saved_one(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    let states = [
        "{}",
        " {\"a\" :\t[1, 1.0, 1e400, NaN, -Infinity]}\n",
        r#"{"lone": "\ud800", "é": "☀ \u007f\/"}"#,
        "[]",
        "\"text\"",
        "null",
        "{\"__type__\": \"os.system\", \"__module__\": \"os\", \"data\": {\"command\": \"touch /tmp/x\"}}",
    ];
    for (number, state) in states.iter().enumerate() {
        for mut saved in [checkpoint("s", "of run", "r", 1), plain("s", "plain", 2)] {
            saved.metadata.checkpoint_id += &number.to_string();
            saved.metadata.node = "nöde \"1\"\n".into();
            saved.state = (*state).to_owned();
            save(&checkpointer, &saved).await;
            let id = saved.metadata.checkpoint_id.clone();
            assert_eq!(checkpointer.load("s", &id).await.expect("loaded"), Some(saved));
        }
    }
    let deep =
        with_state(checkpoint("s", "deep", "r", 3), format!("{}{}", "[".repeat(5000), "]".repeat(5000)));
    save(&checkpointer, &deep).await;
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(deep));
}

/// Reading a missing session or checkpoint is not an error.
pub async fn missing_checkpoints_are_none(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    assert_eq!(checkpointer.latest("s").await.expect("an answer"), None);
    assert_eq!(checkpointer.load("s", "c").await.expect("an answer"), None);
    assert_eq!(
        checkpointer.list("s", None).await.expect("an answer"),
        History { checkpoints: vec![], unreadable: vec![] }
    );
    assert_eq!(checkpointer.delete_session("s").await.expect("an answer"), 0);
    assert!(!checkpointer.delete_checkpoint("s", "c").await.expect("an answer"));
    assert_eq!(checkpointer.clear_all().await.expect("an answer"), 0);
}

/// A save returns whether it is the latest checkpoint, and otherwise the latest
/// and how much newer it is.
pub async fn a_save_reports_a_newer_checkpoint(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    let save =
        async |id: &str, second| checkpointer.save(&checkpoint("s", id, "r", second)).await.expect("saved");
    assert_eq!(save("b", 10).await, SaveOutcome::Latest);
    assert_eq!(save("c", 20).await, SaveOutcome::Latest);
    assert_eq!(save("a", 5).await, not_latest("c", 15));
    // Equal timestamps: the greater id is newer.
    assert_eq!(save("a", 20).await, not_latest("c", 0));
    assert_eq!(save("d", 20).await, SaveOutcome::Latest);
    assert_eq!(save("d", 30).await, SaveOutcome::Latest);
    // A dangling entry and an entry of another session do not count.
    store.write(vec![Operation::Delete(store.names().document("s", "d"))]).await;
    assert_eq!(save("e", 25).await, SaveOutcome::Latest);
    checkpointer.save(&checkpoint("other", "foreign", "r", 99)).await.expect("saved");
    for member in ["foreign", "dangling"] {
        let (index, member) = (store.names().index("s"), member.to_owned());
        let entry = IndexPut { index, member, score: 2e9, expiry: Expiry::Never };
        store.write(vec![Operation::IndexPut(entry)]).await;
    }
    assert_eq!(save("f", 26).await, SaveOutcome::Latest);
    assert_eq!(save("g", 24).await, not_latest("f", 2));
}

/// Newest first, ties by the bytes of the ids, and at most the limit (6).
pub async fn a_list_is_newest_first_and_limited(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    for id in ["tie-m", "tie-a", "tie-z", "tie-é"] {
        save(&checkpointer, &checkpoint("s", id, "r", 5)).await;
    }
    for number in 0..8 {
        save(&checkpointer, &checkpoint("s", &format!("c{number}"), "r", 10 + number)).await;
    }
    save(&checkpointer, &checkpoint("s", "old", "r2", 1)).await;
    let all = ["c7", "c6", "c5", "c4", "c3", "c2", "c1", "c0", "tie-é", "tie-z", "tie-m", "tie-a", "old"];
    assert_eq!(checkpointer.ids("s", 100).await, all);
    assert_eq!(checkpointer.ids("s", 3).await, all[..3]);
    assert_eq!(checkpointer.ids("s", 0).await, [""; 0]);
    assert_eq!(checkpointer.list("s", None).await.expect("a list").checkpoints.len(), 10);
    assert_eq!(checkpointer.latest_id("s").await.as_deref(), Some("c7"));
    assert_eq!(checkpointer.ids_of_run("s", "r2").await, ["old"]);
    assert_eq!(checkpointer.ids_of_run("s", "r").await, all[..12]);
    assert_eq!(checkpointer.list_by_run("s", "r", Some(2)).await.expect("a list").checkpoints.len(), 2);
    assert_eq!(checkpointer.ids_of_run("s", "none").await, [""; 0]);
}

/// Saving an id again replaces the checkpoint and its index entries.
pub async fn saving_an_id_again_moves_its_index_entries(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    save(&checkpointer, &checkpoint("s", "other", "r1", 50)).await;
    save(&checkpointer, &checkpoint("s", "c", "r1", 10)).await;
    // Later in the same run; a second time, as after a lost reply.
    for _ in 0..2 {
        save(&checkpointer, &checkpoint("s", "c", "r1", 60)).await;
        assert_eq!(checkpointer.ids("s", 9).await, ["c", "other"]);
        assert_eq!(checkpointer.ids_of_run("s", "r1").await, ["c", "other"]);
    }
    // Earlier, and in another run.
    save(&checkpointer, &checkpoint("s", "c", "r2", 20)).await;
    assert_eq!(checkpointer.ids("s", 9).await, ["other", "c"]);
    assert_eq!(
        (checkpointer.ids_of_run("s", "r1").await, checkpointer.ids_of_run("s", "r2").await),
        (vec!["other".into()], vec!["c".into()])
    );
    // Without a run, then with one again.
    save(&checkpointer, &plain("s", "c", 70)).await;
    assert_eq!(checkpointer.ids("s", 9).await, ["c", "other"]);
    assert_eq!(store.keys(&store.names().index_of_run("s", "r2")).await, [""; 0]);
    save(&checkpointer, &checkpoint("s", "c", "r3", 30)).await;
    assert_eq!(checkpointer.ids_of_run("s", "r3").await, ["c"]);
    assert_eq!(checkpointer.load("s", "c").await.expect("loaded"), Some(checkpoint("s", "c", "r3", 30)));
    assert_eq!(checkpointer.delete_session("s").await.expect("deleted"), 2);
    assert_eq!(store.keys("").await, [""; 0]);
}

/// No session reads or deletes checkpoints of another one (1), or takes its ids
/// (2).
pub async fn sessions_are_isolated(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    save(&checkpointer, &checkpoint("alice", "c", "r", 1)).await;
    let before = store.text(&key("checkpoint:c")).await;
    assert_eq!(checkpointer.load("bob", "c").await.expect("an answer"), None);
    assert!(!checkpointer.delete_checkpoint("bob", "c").await.expect("an answer"));
    for stolen in [checkpoint("bob", "c", "r", 2), plain("bob", "c", 2), checkpoint("bob", "c", "x", 2)] {
        let error = checkpointer.save(&stolen).await.expect_err("a conflict");
        assert!(
            matches!(&error, Error::Conflict(Conflict::IdInUse { checkpoint_id, .. }) if checkpoint_id == "c"),
            "{error}"
        );
    }
    assert_eq!(store.text(&key("checkpoint:c")).await, before);
    assert_eq!(checkpointer.latest_id("alice").await.as_deref(), Some("c"));
    assert_eq!(checkpointer.latest_id("bob").await, None);
    assert_eq!(store.keys(&key("session:bob")).await, [""; 0]);
}

/// Index entries that llmfy leaves because of its defects 1 and 2 are ignored.
pub async fn a_foreign_index_entry_is_ignored(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    save(&checkpointer, &checkpoint("bob", "c", "r", 9)).await;
    save(&checkpointer, &checkpoint("alice", "mine", "r", 1)).await;
    let names = store.names();
    for index in [names.index("alice"), names.index_of_run("alice", "r")] {
        let stray = IndexPut { index, member: "c".into(), score: 2e9, expiry: Expiry::Never };
        store.write(vec![Operation::IndexPut(stray)]).await;
    }
    assert_eq!(checkpointer.latest_id("alice").await.as_deref(), Some("mine"));
    assert_eq!(checkpointer.ids("alice", 1).await, ["mine"]);
    assert_eq!(checkpointer.ids_of_run("alice", "r").await, ["mine"]);
    assert_eq!(checkpointer.delete_session("alice").await.expect("deleted"), 1);
    assert_eq!(checkpointer.ids("bob", 9).await, ["c"]);
}

/// A session may have the name of a run of another session (8).
pub async fn a_session_named_like_a_run_is_separate(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    for (session, run) in [("u1", "r9"), ("u1:run:r9", "x"), ("u1", "r9:run:x"), ("u1:run", "r9")] {
        for number in 0..3 {
            save(&checkpointer, &checkpoint(session, &format!("{session}/{run}/{number}"), run, number))
                .await;
        }
    }
    let of = |session: &str, run: &str| {
        (0..3).rev().map(|number| format!("{session}/{run}/{number}")).collect::<Vec<_>>()
    };
    assert_eq!(checkpointer.ids_of_run("u1", "r9").await, of("u1", "r9"));
    assert_eq!(checkpointer.ids("u1:run:r9", 9).await, of("u1:run:r9", "x"));
    assert_eq!(checkpointer.ids("u1:run:r9", 1).await.len(), 1);
    assert_eq!(checkpointer.ids_of_run("u1", "r9:run:x").await, of("u1", "r9:run:x"));
    assert_eq!(checkpointer.ids_of_run("u1:run:r9", "x").await, of("u1:run:r9", "x"));
    assert_eq!(checkpointer.ids("u1", 9).await.len(), 6);
    assert_eq!(checkpointer.delete_session("u1:run:r9").await.expect("deleted"), 3);
    assert_eq!(checkpointer.ids_of_run("u1", "r9").await, of("u1", "r9"));
    assert_eq!(checkpointer.ids_of_run("u1", "r9:run:x").await, of("u1", "r9:run:x"));
    assert_eq!(checkpointer.delete_session("u1").await.expect("deleted"), 6);
    assert_eq!(checkpointer.ids("u1:run", 9).await, of("u1:run", "r9"));
}

/// `clear_all` deletes the keys under its prefix, taken literally (7).
pub async fn clear_all_clears_exactly_one_prefix(store: &TestStore, mode: Mode) {
    let prefixes = [
        "app:",
        "app:eu:",
        "app[1]:",
        "app1:",
        "*",
        "?",
        "\\",
        "app:session:",
        "app:checkpoint:",
        "a",
        "app:{",
        "app:{s}",
    ];
    let mut left = Vec::new();
    for prefix in prefixes {
        let checkpointer = store.open(mode, &Options::prefix(prefix)).await;
        for number in 0..3 {
            save(&checkpointer, &checkpoint("s", &format!("c{number}"), "r", number)).await;
        }
        save(&checkpointer, &plain("s", "p", 9)).await;
        left.push(checkpointer);
    }
    store.put("app:unrelated", "1").await;
    while !left.is_empty() {
        let cleared = left.remove(left.len() / 2);
        assert_eq!(cleared.clear_all().await.expect("cleared"), 4);
        assert_eq!(cleared.ids("s", 9).await, [""; 0]);
        assert_eq!(cleared.clear_all().await.expect("cleared"), 0);
        for other in &left {
            assert_eq!(other.ids("s", 9).await, ["p", "c2", "c1", "c0"]);
            assert_eq!(other.ids_of_run("s", "r").await, ["c2", "c1", "c0"]);
        }
    }
    assert_eq!(store.keys("").await, ["app:unrelated"]);
}

/// Two prefixes that use the same index name do not affect each other.
pub async fn prefixes_that_share_an_index_name_are_isolated(store: &TestStore, mode: Mode) {
    let outer = store.open(mode, &Options::prefix("app:")).await;
    let inner = store.open(mode, &Options::prefix("app:session:")).await;
    // Both name the index of this session app:session:session:s.
    let fill = async || {
        save(&outer, &checkpoint("session:s", "o", "r", 1)).await;
        save(&inner, &checkpoint("s", "i", "r", 2)).await;
        for both in [&outer, &inner] {
            let session = if std::ptr::eq(both, &outer) { "session:s" } else { "s" };
            save(both, &checkpoint(session, "same", "r", 3)).await;
        }
    };
    fill().await;
    for _ in 0..2 {
        assert_eq!(outer.ids("session:s", 9).await, ["same", "o"]);
        assert_eq!(inner.ids("s", 9).await, ["same", "i"]);
        assert_eq!(inner.ids_of_run("s", "r").await, ["same", "i"]);
    }
    save(&outer, &checkpoint("session:s", "same", "other", 3)).await;
    assert_eq!(inner.ids_of_run("s", "r").await, ["same", "i"]);
    assert!(outer.delete_checkpoint("session:s", "same").await.expect("deleted"));
    assert_eq!(inner.ids("s", 9).await, ["same", "i"]);
    fill().await;
    assert_eq!(outer.delete_session("session:s").await.expect("deleted"), 2);
    assert_eq!(inner.ids("s", 9).await, ["same", "i"]);
    fill().await;
    assert_eq!(outer.clear_all().await.expect("cleared"), 2);
    assert_eq!(inner.ids("s", 9).await, ["same", "i"]);
    assert_eq!(inner.delete_session("s").await.expect("deleted"), 2);
    // An entry that may belong to the other prefix remains until the next read.
    assert_eq!(outer.clear_all().await.expect("cleared"), 0);
    assert_eq!(store.keys("").await, [""; 0]);
}

/// An unreadable checkpoint is reported and hides no other (10).
pub async fn an_unreadable_checkpoint_is_reported_beside_the_readable_ones(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    for number in 0..4 {
        save(&checkpointer, &checkpoint("s", &format!("c{number}"), "r", number)).await;
    }
    let names = store.names();
    store.put(&names.document("s", "c3"), "{\"checkpoint_id\": \"c3\"").await;
    store
        .put(
            &names.document("s", "c1"),
            "{\"checkpoint_id\": \"c1\", \"session_id\": \"s\", \"run_id\": \"r\"}",
        )
        .await;
    let history = checkpointer.list("s", Some(2)).await.expect("a history");
    let ids: Vec<_> =
        history.checkpoints.iter().map(|checkpoint| checkpoint.metadata.checkpoint_id.as_str()).collect();
    assert_eq!(ids, ["c2", "c0"]);
    let why: Vec<_> =
        history.unreadable.iter().map(|one| (one.checkpoint_id.as_str(), one.reason.as_str())).collect();
    let cut = "expected a comma or the closing bracket at byte 22";
    assert_eq!(why, [("c3", cut), ("c1", "the member \"prev_node\" is missing")]);
    for loaded in [checkpointer.latest("s").await, checkpointer.load("s", "c3").await] {
        let error = loaded.expect_err("corrupt");
        assert!(
            matches!(&error, Error::Corrupt { checkpoint_id, reason } if checkpoint_id == "c3" && reason == cut),
            "{error}"
        );
    }
    let error = checkpointer.save(&checkpoint("s", "c3", "r", 9)).await.expect_err("in the way");
    assert!(matches!(error, Error::Conflict(Conflict::IdInUse { .. })), "{error}");
    assert!(!checkpointer.delete_checkpoint("other", "c3").await.expect("an answer"));
    assert!(checkpointer.delete_checkpoint("s", "c3").await.expect("deleted"));
    assert_eq!(checkpointer.delete_session("s").await.expect("deleted"), 3);
    assert_eq!(store.keys("").await, [""; 0]);
}

/// A value of another type at the key of a checkpoint is an error that names it.
pub async fn a_foreign_value_type_is_reported(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    save(&checkpointer, &checkpoint("s", "c1", "r", 1)).await;
    save(&checkpointer, &checkpoint("s", "c2", "r", 2)).await;
    let names = store.names();
    let c2 = names.document("s", "c2");
    let alien = IndexPut { index: c2.clone(), member: "m".into(), score: 1.0, expiry: Expiry::Never };
    store.write(vec![Operation::Delete(c2.clone())]).await;
    store.write(vec![Operation::IndexPut(alien)]).await;
    for loaded in [checkpointer.latest("s").await, checkpointer.load("s", "c2").await] {
        assert!(matches!(loaded, Err(Error::Corrupt { checkpoint_id, .. }) if checkpoint_id == "c2"));
    }
    let history = checkpointer.list("s", None).await.expect("a history");
    assert_eq!((history.checkpoints.len(), history.unreadable.len()), (1, 1));
    // A save with a limit takes another script on Redis.
    let limited = store.open(mode, &Options { max_checkpoints: Some(9), ..Options::default() }).await;
    for checkpointer in [&checkpointer, &limited] {
        let saved = checkpointer.save(&checkpoint("s", "c2", "r", 2)).await;
        assert!(matches!(saved, Err(Error::Conflict(Conflict::IdInUse { .. }))), "{saved:?}");
    }
    assert_eq!(checkpointer.delete_session("s").await.expect("deleted"), 1);
    // A foreign value is not deleted. Its run is unknown, so the entry in the
    // index of the run remains.
    assert_eq!(store.keys("").await, [c2, names.index_of_run("s", "r")]);
}

/// Checkpoints of format A and B are read from one session.
pub async fn both_formats_are_read_in_one_session(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    save(&checkpointer, &plain("s", "a", 1)).await;
    save(&checkpointer, &checkpoint("s", "b", "r", 2)).await;
    for (id, member) in [("a", "\"node_name\": \"node\""), ("b", "\"run_id\": \"r\"")] {
        let text = store.text(&store.names().document("s", id)).await;
        assert!(text.is_some_and(|text| text.contains(member)));
    }
    assert_eq!(
        checkpointer.list("s", None).await.expect("a history").checkpoints,
        [checkpoint("s", "b", "r", 2), plain("s", "a", 1)]
    );
}

/// Deletion returns the number of deleted checkpoints and leaves no key.
pub async fn deletion_returns_the_count_and_leaves_no_key(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    for number in 0..5 {
        save(&checkpointer, &checkpoint("s", &format!("c{number}"), &format!("r{}", number % 2), number))
            .await;
    }
    save(&checkpointer, &checkpoint("t", "t", "r0", 9)).await;
    assert!(checkpointer.delete_checkpoint("s", "c4").await.expect("deleted"));
    assert!(!checkpointer.delete_checkpoint("s", "c4").await.expect("deleted"));
    assert_eq!(checkpointer.latest_id("s").await.as_deref(), Some("c3"));
    assert_eq!(checkpointer.ids_of_run("s", "r0").await, ["c2", "c0"]);
    assert_eq!(checkpointer.delete_session("s").await.expect("deleted"), 4);
    let names = store.names();
    let left = [names.document("t", "t"), names.index("t"), names.index_of_run("t", "r0")];
    assert_eq!(store.keys("").await, sorted(left));
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 1);
    assert_eq!(store.keys("").await, [""; 0]);
}

/// Sessions of many pages are listed, deleted and cleared completely.
pub async fn large_sessions_are_processed_in_pages(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    let count = 1250;
    let fill = async |session: &str| {
        for number in 0..count {
            save(&checkpointer, &checkpoint(session, &format!("{session}{number:04}"), "r", number)).await;
        }
    };
    fill("s").await;
    let newest_first: Vec<String> = (0..count).rev().map(|number| format!("s{number:04}")).collect();
    assert_eq!(checkpointer.ids("s", 1000).await, newest_first[..1000]);
    assert_eq!(checkpointer.ids("s", 1200).await, newest_first[..1200]);
    assert_eq!(checkpointer.ids("s", 5000).await, newest_first);
    assert_eq!(checkpointer.delete_session("s").await.expect("deleted"), u64::from(count));
    assert_eq!(store.keys("").await, [""; 0]);
    fill("t").await;
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), u64::from(count));
    assert_eq!(store.keys("").await, [""; 0]);
}

/// An invalid argument is rejected with the reason, and nothing is written.
pub async fn invalid_arguments_are_rejected_with_the_reason(store: &TestStore, mode: Mode) {
    let options = Options { max_state_bytes: Some(1000), ..Options::default() };
    let checkpointer = store.open(mode, &options).await;
    let long = "x".repeat(513);
    let with = |change: fn(&mut Metadata, &str), to: &str| {
        let mut changed = checkpoint("s", "c", "r", 1);
        change(&mut changed.metadata, to);
        changed
    };
    let session: fn(&mut Metadata, &str) = |metadata, to| metadata.session_id = to.into();
    let id: fn(&mut Metadata, &str) = |metadata, to| metadata.checkpoint_id = to.into();
    let run: fn(&mut Metadata, &str) = |metadata, to| {
        if let Some(run) = &mut metadata.run {
            run.run_id = to.into();
        }
    };
    for (refused, reason) in [
        (with(session, ""), "the session id is empty"),
        (with(session, &long), "the session id has 513 bytes; the maximum is 512"),
        (with(session, "a\0b"), "the session id \"a\\0b\" contains NUL"),
        (with(id, ""), "the checkpoint id is empty"),
        (with(id, &long), "the checkpoint id has 513 bytes; the maximum is 512"),
        (with(run, ""), "the run id is empty"),
        (with_state(checkpoint("s", "c", "r", 1), "{"), "the state is not JSON: expected a string at byte 1"),
        (with_state(plain("s", "c", 1), ""), "the state is not JSON: expected a value at byte 0"),
    ] {
        let error = checkpointer.save(&refused).await.expect_err(reason);
        assert!(matches!(&error, Error::InvalidArgument(message) if message == reason), "{error}");
    }
    let large = with_state(plain("s", "c", 1), format!("\"{}\"", "x".repeat(999)));
    let error = checkpointer.save(&large).await.expect_err("too large");
    assert!(matches!(error, Error::TooLarge { size: 1001, limit: 1000 }), "{error}");
    for session in ["", &long, "s\0"] {
        assert!(matches!(checkpointer.latest(session).await, Err(Error::InvalidArgument(_))));
        assert!(matches!(checkpointer.delete_session(session).await, Err(Error::InvalidArgument(_))));
    }
    for (session, id) in [("", "c"), ("s", ""), (&long, "c"), ("s", &long), ("s", "a\0")] {
        assert!(matches!(checkpointer.load(session, id).await, Err(Error::InvalidArgument(_))));
        assert!(matches!(checkpointer.delete_checkpoint(session, id).await, Err(Error::InvalidArgument(_))));
    }
    for text in ["yesterday", "2026-02-30T00:00:00"] {
        let reason = format!("{text:?} is not an ISO 8601 timestamp of the years 1 to 9999");
        let error = text.parse::<Timestamp>().expect_err(text);
        assert_eq!(error.to_string(), reason);
        let document = format!(
            r#"{{"checkpoint_id": "c", "session_id": "s", "timestamp": "{text}", "node_name": "n", "step": 1, "state": "1"}}"#
        );
        let error = checkpointer.save_document(&document).await.expect_err(text);
        assert!(
            matches!(&error, Error::InvalidArgument(message) if message.contains(&format!("{text:?}"))),
            "{error}"
        );
    }
    assert!(matches!(checkpointer.list("", None).await, Err(Error::InvalidArgument(_))));
    assert!(matches!(checkpointer.list_by_run("s", "", None).await, Err(Error::InvalidArgument(_))));
    assert!(matches!(checkpointer.save_document("{}").await, Err(Error::InvalidArgument(_))));
    for prefix in ["", "a\0b", &long] {
        let opened = store.try_open(mode, &Options::prefix(prefix)).await;
        assert!(matches!(opened, Err(Error::InvalidArgument(_))), "{prefix:?}");
    }
    assert_eq!(store.keys("").await, [""; 0]);
}

/// A stored checkpoint whose ids are invalid for a save can be deleted.
pub async fn a_stored_checkpoint_with_invalid_ids_can_be_deleted(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    for (id, run) in [("a", String::new()), ("b", "r".repeat(600))] {
        save(&checkpointer, &checkpoint("s", id, "RUN", 1)).await;
        let key = store.names().document("s", id);
        let document = store.text(&key).await.expect("a document");
        store.put(&key, &document.replace("RUN", &run)).await;
        let index = store.names().index_of_run("s", "RUN");
        store.write(vec![Operation::IndexDelete(IndexMember { index, member: id.into() })]).await;
    }
    assert_eq!(checkpointer.ids("s", 9).await, ["b", "a"]);
    assert!(checkpointer.delete_checkpoint("s", "a").await.expect("deleted"));
    save(&checkpointer, &checkpoint("s", "b", "short", 2)).await;
    assert_eq!(checkpointer.ids_of_run("s", "short").await, ["b"]);
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 1);
    assert_eq!(store.keys("").await, [""; 0]);
}

/// A compressed state is loaded unchanged, also beside uncompressed ones.
pub async fn compressed_states_use_the_encoding_of_llmfy(store: &TestStore, mode: Mode) {
    let compressing = store.open(mode, &Options { compress: true, ..Options::default() }).await;
    let checkpointer = store.open(mode, &Options::default()).await;
    let state = format!("{{\"text\": \"{}\"}}", "again and ".repeat(1000));
    let compressed = with_state(checkpoint("s", "b", "r", 2), &state);
    save(&compressing, &compressed).await;
    assert_eq!(compressing.latest("s").await.expect("loaded"), Some(compressed));
    let stored = store.text(&store.names().document("s", "b")).await.expect("a document");
    assert!(stored.len() < 500, "{stored}");
    // Format A can't hold a compressed state.
    let error = compressing.save(&plain("s", "a", 1)).await.expect_err("no run");
    assert!(matches!(&error, Error::InvalidArgument(reason) if reason.contains("has no run")), "{error}");
    assert_eq!(store.text(&store.names().document("s", "a")).await, None);
    // Without the option a compressed state is a JSON string.
    let string = checkpointer.load("s", "b").await.expect("loaded").expect("there").state;
    assert!(string.starts_with("\"eJ"), "{string}");
    for text in [string.as_str(), "\"abcd\"", "{}"] {
        save(&checkpointer, &with_state(checkpoint("t", "t", "r", 1), text.to_owned())).await;
        let loaded = compressing.latest("t").await.expect("loaded").expect("there").state;
        assert_eq!(loaded, if text == string { state.as_str() } else { text });
    }
}

/// A session keeps its newest checkpoints, at most `max_checkpoints`.
pub async fn max_checkpoints_removes_the_oldest(store: &TestStore, mode: Mode) {
    let limited =
        async |count| store.open(mode, &Options { max_checkpoints: Some(count), ..Options::default() }).await;
    let three = limited(3).await;
    for number in 1..=5 {
        let saved = checkpoint("s", &format!("c{number}"), &format!("r{number}"), number * 10);
        assert_eq!(three.save(&saved).await.expect("saved"), SaveOutcome::Latest);
    }
    assert_eq!(three.ids("s", 9).await, ["c5", "c4", "c3"]);
    let names = store.names();
    let mut all = vec![names.index("s")];
    for number in 3..=5 {
        all.push(names.document("s", &format!("c{number}")));
        all.push(names.index_of_run("s", &format!("r{number}")));
    }
    assert_eq!(store.keys("").await, sorted(all));
    // Saving it again removes nothing; at an older timestamp it is the oldest and
    // remains.
    for (second, expected) in
        [(50, SaveOutcome::Latest), (31, not_latest("c4", 9)), (60, SaveOutcome::Latest)]
    {
        assert_eq!(three.save(&checkpoint("s", "c5", "r5", second)).await.expect("saved"), expected);
        assert_eq!(three.ids("s", 9).await.len(), 3);
    }
    // A checkpoint between the others removes the oldest; one that is older than
    // all of them is pruned itself.
    assert_eq!(three.save(&checkpoint("s", "d", "r", 35)).await.expect("saved"), not_latest("c5", 25));
    assert_eq!(three.ids("s", 9).await, ["c5", "c4", "d"]);
    assert_eq!(three.save(&checkpoint("s", "old", "r", 1)).await.expect("saved"), SaveOutcome::Pruned);
    assert_eq!(three.ids("s", 9).await, ["c5", "c4", "d"]);
    assert_eq!(three.load("s", "old").await.expect("an answer"), None);
    // Ties are ordered by id, as in a list.
    assert_eq!(three.save(&checkpoint("s", "a", "r", 35)).await.expect("saved"), SaveOutcome::Pruned);
    assert_eq!(three.save(&checkpoint("s", "e", "r", 35)).await.expect("saved"), not_latest("c5", 25));
    assert_eq!(three.ids("s", 9).await, ["c5", "c4", "e"]);
    // A limit set later removes all checkpoints above it.
    let unlimited = store.open(mode, &Options::default()).await;
    for number in 0..700 {
        save(&unlimited, &checkpoint("many", &format!("m{number:03}"), "r", number)).await;
    }
    assert_eq!(
        limited(2).await.save(&checkpoint("many", "new", "r", 800)).await.expect("saved"),
        SaveOutcome::Latest
    );
    assert_eq!(three.ids("many", 9).await, ["new", "m699"]);
    assert_eq!(three.ids_of_run("many", "r").await, ["new", "m699"]);
    assert_eq!(
        limited(1).await.save(&checkpoint("many", "m699", "r", 900)).await.expect("saved"),
        SaveOutcome::Latest
    );
    assert_eq!(three.ids("many", 9).await, ["m699"]);
    let none = Options { max_checkpoints: Some(0), ..Options::default() };
    assert!(matches!(store.try_open(mode, &none).await, Err(Error::InvalidArgument(_))));
}

/// A session at its limit can't take an id of another session.
pub async fn max_checkpoints_does_not_free_an_id_of_another_session(store: &TestStore, mode: Mode) {
    let one = store.open(mode, &Options { max_checkpoints: Some(1), ..Options::default() }).await;
    save(&one, &checkpoint("s", "c", "r", 1)).await;
    save(&one, &checkpoint("other", "d", "r", 2)).await;
    let error = one.save(&checkpoint("other", "c", "r", 3)).await.expect_err("a conflict");
    assert!(matches!(error, Error::Conflict(Conflict::IdInUse { .. })), "{error}");
    assert_eq!((one.ids("s", 9).await, one.ids("other", 9).await), (vec!["c".into()], vec!["d".into()]));
}

/// Only existing checkpoints of the session count towards its limit.
pub async fn max_checkpoints_ignores_dangling_and_foreign_entries(store: &TestStore, mode: Mode) {
    let limited = Options { max_checkpoints: Some(3), ..Options::default() };
    let checkpointer = store.open(mode, &limited).await;
    let unlimited = store.open(mode, &Options::default()).await;
    // Expired checkpoints between and above existing ones.
    for number in 1..=3 {
        save(&unlimited, &checkpoint("s", &format!("c{number}"), "r", number)).await;
    }
    for gone in ["c2", "c3"] {
        store.write(vec![Operation::Delete(store.names().document("s", gone))]).await;
    }
    assert_eq!(checkpointer.save(&checkpoint("s", "c0", "r", 0)).await.expect("saved"), not_latest("c1", 1));
    assert_eq!(checkpointer.save(&checkpoint("s", "c4", "r", 4)).await.expect("saved"), SaveOutcome::Latest);
    assert_eq!(checkpointer.ids("s", 9).await, ["c4", "c1", "c0"]);
    // Checkpoints of a run whose index has the name of the session's index.
    for number in 0..5 {
        save(&unlimited, &checkpoint("a", &format!("f{number}"), "b", 50 + number)).await;
    }
    for (number, expected) in [
        (10, SaveOutcome::Latest),
        (11, SaveOutcome::Latest),
        (9, not_latest("o11", 2)),
        (8, SaveOutcome::Pruned),
    ] {
        let saved = checkpoint("a:run:b", &format!("o{number:02}"), "r", number);
        assert_eq!(checkpointer.save(&saved).await.expect("saved"), expected);
    }
    assert_eq!(
        checkpointer.save(&checkpoint("a:run:b", "o12", "r", 12)).await.expect("saved"),
        SaveOutcome::Latest
    );
    assert_eq!(checkpointer.ids("a:run:b", 9).await, ["o12", "o11", "o10"]);
    assert_eq!(checkpointer.ids_of_run("a", "b").await.len(), 5);
    // Checkpoints of another prefix.
    let inner = store.open(mode, &Options { prefix: key("session:"), ..limited.clone() }).await;
    for number in 0..4 {
        save(&inner, &checkpoint("s1", &format!("i{number}"), "r", number)).await;
        save(&checkpointer, &checkpoint("session:s1", &format!("o{number}"), "r", number)).await;
    }
    assert_eq!(inner.ids("s1", 9).await, ["i3", "i2", "i1"]);
    assert_eq!(checkpointer.ids("session:s1", 9).await, ["o3", "o2", "o1"]);
    // An id that moves within a session at its limit, beyond the first page.
    let many = store.open(mode, &Options { max_checkpoints: Some(1100), ..Options::default() }).await;
    for number in 0..1100 {
        save(&unlimited, &checkpoint("many", &format!("m{number:04}"), "r", number + 10)).await;
    }
    assert_eq!(
        many.save(&checkpoint("many", "m1050", "r", 1)).await.expect("saved"),
        not_latest("m1099", 1108)
    );
    assert_eq!(many.ids("many", 2000).await.len(), 1100);
}

/// Timestamps are stored in the format of Python's `isoformat()`, and ordered by
/// the moment.
pub async fn timestamps_are_stored_in_the_format_of_python(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    for (id, given, stored) in [
        ("a", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
        ("b", "2026-01-02T10:04:05.5+07:00", "2026-01-02T10:04:05.500000+07:00"),
        ("c", "2026-01-02T03:04:06", "2026-01-02T03:04:06"),
    ] {
        let mut saved = checkpoint("s", id, "r", 0);
        saved.metadata.timestamp = given.parse().expect("a timestamp");
        save(&checkpointer, &saved).await;
        let loaded = checkpointer.load("s", id).await.expect("loaded").expect("there");
        assert_eq!(loaded.metadata.timestamp.to_string(), stored);
    }
    assert_eq!(checkpointer.ids("s", 9).await, ["c", "b", "a"]);
    assert_eq!(timestamp(3661).to_string(), "2026-01-01T01:01:01+00:00");
}

/// The twelve checkpoints of a real agent run are stored and loaded byte for
/// byte.
pub async fn a_real_agent_run_is_stored_byte_for_byte(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    let files = data("agent-chat");
    assert_eq!(files.len(), 12);
    let mut runs = Vec::new();
    for (_, document) in &files {
        let metadata = checkpointer.save_document(document).await.expect("saved");
        assert_eq!(metadata.session_id, "user-123");
        let id = metadata.checkpoint_id.as_str();
        assert_eq!(checkpointer.latest_id("user-123").await.as_deref(), Some(id));
        assert_eq!(
            checkpointer.load_document("user-123", id).await.expect("loaded").as_ref(),
            Some(document)
        );
        let run = metadata.run.expect("a run").run_id;
        assert!(document.contains(&format!("\"run_id\": \"{run}\"")));
        runs.push(run);
    }
    runs.dedup();
    let of_runs = [
        checkpointer.ids_of_run("user-123", &runs[0]).await,
        checkpointer.ids_of_run("user-123", &runs[1]).await,
    ];
    let all = checkpointer.ids("user-123", 100).await;
    assert_eq!(all.len(), 12);
    assert_eq!([of_runs[1].clone(), of_runs[0].clone()].concat(), all);
    let latest = checkpointer.latest_document("user-123").await.expect("loaded");
    assert_eq!(latest.as_ref(), files.last().map(|(_, document)| document));
    assert_eq!(checkpointer.delete_session("user-123").await.expect("deleted"), 12);
    assert_eq!(store.keys("").await, [""; 0]);
}
