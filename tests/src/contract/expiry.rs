//! The contract of the checkpointer for TTLs and pins.

use std::time::{Duration, Instant};

use checkpointer::Error;
use checkpointer::store::{Order, Query};

use super::TestStore;
use super::checkpointer::{save, sorted};
use crate::checkpointer_under_test::{Mode, Options};
use crate::samples::checkpoint;

async fn sleep_ms(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// Expired checkpoints hide no others, even if the newest ones expire first (3).
pub async fn expired_checkpoints_hide_no_others(store: &TestStore, mode: Mode) {
    let (long, short) =
        (store.open(mode, &Options::default()).await, store.open(mode, &Options::ttl_ms(150)).await);
    save(&long, &checkpoint("s", "a", "r", 1)).await;
    save(&short, &checkpoint("s", "b", "r", 2)).await;
    save(&long, &checkpoint("s", "c", "r", 3)).await;
    for number in 0..20 {
        save(&short, &checkpoint("s", &format!("d{number}"), "r", 10 + number)).await;
    }
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(long.latest_id("s").await.as_deref(), Some("c"));
    assert_eq!(long.ids("s", 2).await, ["c", "a"]);
    assert_eq!(long.ids_of_run("s", "r").await, ["c", "a"]);
    // Reading removes dangling entries.
    assert_eq!(long.ids("s", 9).await, ["c", "a"]);
    assert_eq!(index_members(store, &store.names().index("s")).await, ["a", "c"]);
    assert_eq!(index_members(store, &store.names().index_of_run("s", "r")).await, ["a", "c"]);
}

async fn index_members(store: &TestStore, index: &str) -> Vec<String> {
    let query = Query {
        index: index.to_owned(),
        order: Order::Ascending,
        after: None,
        limit: 1000,
        // On a cluster the values must be in the slot of the index.
        value_key_prefix: index.to_owned(),
        max_value_bytes: Some(1),
        with_next: true,
        with_count: false,
    };
    let page = store.inner.range(query).await.expect("a page");
    page.entries.into_iter().map(|entry| entry.member).collect()
}

/// A TTL applies to all keys, and never shortens the TTL of an index (4, 12).
pub async fn a_ttl_applies_to_values_and_indexes(store: &TestStore, mode: Mode) {
    let short = store.open(mode, &Options::ttl_ms(80)).await;
    save(&short, &checkpoint("gone", "g", "r", 1)).await;
    let long = store.open(mode, &Options::ttl_ms(60_000)).await;
    save(&long, &checkpoint("stays", "s", "r", 1)).await;
    save(&short, &checkpoint("stays", "t", "r", 2)).await;
    tokio::time::sleep(Duration::from_millis(160)).await;
    let names = store.names();
    let expected = [names.document("stays", "s"), names.index("stays"), names.index_of_run("stays", "r")];
    assert_eq!(store.keys("").await, sorted(expected));
    assert_eq!(long.latest_id("stays").await.as_deref(), Some("s"));
    for (ttl, refused) in [(0, true), (1, false), (9_000_000_000_000_000_000, false), (u64::MAX, true)] {
        let opened = store.try_open(mode, &Options::ttl_ms(ttl)).await;
        assert_eq!(matches!(opened, Err(Error::InvalidArgument(_))), refused, "{ttl}");
    }
    let far = store.open(mode, &Options::ttl_ms(9_000_000_000_000_000_000)).await;
    save(&far, &checkpoint("far", "f", "r", 1)).await;
    assert_eq!(far.latest_id("far").await.as_deref(), Some("f"));
}

/// While checkpoints expire one by one, the newest first or last, a list returns
/// exactly those that have not expired, and those saved again.
pub async fn a_list_is_correct_while_checkpoints_expire(store: &TestStore, mode: Mode) {
    let lives = [400, 100, 300, 200, 500, 100, 250, 350];
    for order in [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0]] {
        let session = format!("s{}", order[0]);
        let start = Instant::now();
        let mut ends = Vec::new();
        for (number, second) in order.into_iter().enumerate() {
            let checkpointer = store.open(mode, &Options::ttl_ms(lives[number])).await;
            let life = Duration::from_millis(lives[number]);
            let before = start.elapsed();
            save(&checkpointer, &checkpoint(&session, &format!("{session}/{number}"), "r", second)).await;
            // The save happened at some time in between.
            ends.push((second, number, before + life, start.elapsed() + life));
        }
        ends.sort();
        ends.reverse();
        let checkpointer = store.open(mode, &Options::default()).await;
        save(&checkpointer, &checkpoint(&session, &format!("{session}/1"), "r", order[1])).await;
        let stays = order[1];
        while start.elapsed() < Duration::from_millis(700) {
            let before = start.elapsed();
            let ids = checkpointer.ids(&session, 100).await;
            let latest = checkpointer.latest_id(&session).await;
            let after = start.elapsed();
            // A checkpoint that expires after the list was read must be in it. One that
            // expired before must not be. Stores count in milliseconds.
            let moment = Duration::from_millis(2);
            let alive = |lives: &dyn Fn(Duration, Duration) -> bool| {
                let alive = ends.iter().filter(|(second, _, from, to)| *second == stays || lives(*from, *to));
                alive.map(|(_, number, ..)| format!("{session}/{number}")).collect::<Vec<_>>()
            };
            let at_least = alive(&|from, _| from > after + moment);
            let at_most = alive(&|_, to| to + moment > before);
            assert!(at_least.iter().all(|id| ids.contains(id)), "{ids:?} lacks some of {at_least:?}");
            let in_order: Vec<_> = at_most.iter().filter(|id| ids.contains(id)).cloned().collect();
            assert_eq!(ids, in_order);
            assert!(latest.is_some_and(|latest| ids.contains(&latest)));
            sleep_ms(20).await;
        }
        assert_eq!(checkpointer.ids(&session, 100).await, [format!("{session}/1")]);
        assert_eq!(index_members(store, &store.names().index(&session)).await, [format!("{session}/1")]);
    }
}

/// With a session TTL no checkpoint expires while the session is saved to; then
/// all expire together.
pub async fn a_session_ttl_expires_the_session_as_a_whole(store: &TestStore, mode: Mode) {
    let options = Options { session_ttl: true, ..Options::ttl_ms(1000) };
    let checkpointer = store.open(mode, &options).await;
    for number in 0..4 {
        save(&checkpointer, &checkpoint("s", &format!("c{number}"), &format!("r{}", number % 2), number))
            .await;
        sleep_ms(300).await;
    }
    assert_eq!(checkpointer.ids("s", 9).await, ["c3", "c2", "c1", "c0"]);
    assert_eq!(checkpointer.ids_of_run("s", "r0").await, ["c2", "c0"]);
    // A save in another session or a rejected save does not extend the TTL.
    let other = checkpoint("other", "o", "r", 1);
    save(&checkpointer, &other).await;
    checkpointer.save_after(&checkpoint("s", "n", "r", 9), None).await.expect_err("a conflict");
    sleep_ms(800).await;
    assert_eq!(store.keys(&store.names().index("s")).await, [""; 0]);
    assert_eq!(checkpointer.ids("s", 9).await, [""; 0]);
    sleep_ms(300).await;
    assert_eq!(store.keys("").await, [""; 0]);
}

/// A read restarts the TTL of the checkpoint, or of the session with a session
/// TTL.
pub async fn reads_refresh_the_ttl(store: &TestStore, mode: Mode) {
    let plain = store.open(mode, &Options::ttl_ms(1200)).await;
    let refreshing = Options { refresh_on_read: true, ..Options::ttl_ms(1200) };
    let by_checkpoint = store.open(mode, &refreshing).await;
    let by_session = store.open(mode, &Options { session_ttl: true, ..refreshing }).await;
    for session in ["loaded", "latest", "listed", "run", "whole", "unread"] {
        for number in 0..3 {
            save(&plain, &checkpoint(session, &format!("{session}{number}"), "r", number)).await;
        }
    }
    for _ in 0..4 {
        sleep_ms(480).await;
        assert!(by_checkpoint.load("loaded", "loaded0").await.expect("loaded").is_some());
        assert_eq!(by_checkpoint.latest_id("latest").await.as_deref(), Some("latest2"));
        assert_eq!(by_checkpoint.ids("listed", 2).await, ["listed2", "listed1"]);
        assert_eq!(
            by_checkpoint.list_by_run("run", "r", Some(1)).await.expect("a list").checkpoints.len(),
            1
        );
        assert!(by_session.load("whole", "whole1").await.expect("loaded").is_some());
    }
    assert_eq!(plain.ids("loaded", 9).await, ["loaded0"]);
    assert_eq!(plain.ids("latest", 9).await, ["latest2"]);
    assert_eq!(plain.ids("listed", 9).await, ["listed2", "listed1"]);
    assert_eq!(plain.ids("run", 9).await, ["run2"]);
    assert_eq!(plain.ids_of_run("run", "r").await, ["run2"]);
    assert_eq!(plain.ids("whole", 9).await, ["whole2", "whole1", "whole0"]);
    assert_eq!(plain.ids("unread", 9).await, [""; 0]);
    // A read without a TTL or with a shorter TTL never shortens one.
    let forever = store.open(mode, &Options::default()).await;
    save(&forever, &checkpoint("stays", "stays", "r", 1)).await;
    assert!(by_checkpoint.latest("stays").await.expect("loaded").is_some());
    assert!(by_session.latest("stays").await.expect("loaded").is_some());
    sleep_ms(1400).await;
    assert_eq!(forever.latest_id("stays").await.as_deref(), Some("stays"));
}

/// A pinned checkpoint does not expire until it is saved again. In a pinned
/// session no checkpoint expires until the session is unpinned.
pub async fn pinned_checkpoints_do_not_expire(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::ttl_ms(1000)).await;
    for session in ["one", "all", "ended", "none"] {
        for number in 0..2 {
            save(&checkpointer, &checkpoint(session, &format!("{session}{number}"), "r", number)).await;
        }
    }
    assert!(checkpointer.pin_checkpoint("one", "one0").await.expect("pinned"));
    assert!(!checkpointer.pin_checkpoint("one", "all0").await.expect("an answer"));
    assert!(!checkpointer.pin_checkpoint("one", "nothing").await.expect("an answer"));
    for session in ["all", "ended"] {
        assert_eq!(checkpointer.pin_session(session).await.expect("pinned"), 2);
        assert_eq!(checkpointer.pin_session(session).await.expect("pinned again"), 2);
        save(&checkpointer, &checkpoint(session, &format!("{session}2"), "r2", 2)).await;
        save(&checkpointer, &checkpoint(session, &format!("{session}1"), "r2", 1)).await;
    }
    assert_eq!(checkpointer.unpin_session("ended").await.expect("ended"), 3);
    save(&checkpointer, &checkpoint("ended", "ended3", "r2", 3)).await;
    sleep_ms(1200).await;
    assert_eq!(checkpointer.ids("one", 9).await, ["one0"]);
    assert_eq!(checkpointer.ids("all", 9).await, ["all2", "all1", "all0"]);
    assert_eq!(checkpointer.ids_of_run("all", "r2").await, ["all2", "all1"]);
    assert_eq!(checkpointer.ids("ended", 9).await, [""; 0]);
    assert_eq!(checkpointer.ids("none", 9).await, [""; 0]);
    assert!(checkpointer.unpin_checkpoint("one", "one0").await.expect("ended"));
    save(&checkpointer, &checkpoint("all", "all3", "r", 3)).await;
    sleep_ms(1200).await;
    assert_eq!(checkpointer.ids("one", 9).await, [""; 0]);
    assert_eq!(checkpointer.latest_id("all").await.as_deref(), Some("all3"));
    // An index that contained a pinned checkpoint never expires; reading removes
    // its dangling entries.
    for (session, run) in [("one", "r"), ("ended", "r"), ("ended", "r2")] {
        assert_eq!(checkpointer.ids_of_run(session, run).await, [""; 0]);
    }
    // Deleting the session or clearing the prefix deletes the pin marker.
    assert_eq!(checkpointer.delete_session("all").await.expect("deleted"), 4);
    assert_eq!(store.keys("").await, [""; 0]);
    assert_eq!(checkpointer.pin_session("later").await.expect("pinned"), 0);
    save(&checkpointer, &checkpoint("later", "l", "r", 1)).await;
    sleep_ms(1200).await;
    assert_eq!(checkpointer.latest_id("later").await.as_deref(), Some("l"));
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 1);
    assert_eq!(store.keys("").await, [""; 0]);
}

/// Pinning a session does not affect sessions of other prefixes.
pub async fn pins_are_isolated_by_prefix(store: &TestStore, mode: Mode) {
    let prefixes = ["app:", "app:pinned", "app:pinned:", "app:session:", "app:checkpoint:", "ap"];
    let mut checkpointers = Vec::new();
    for prefix in prefixes {
        checkpointers
            .push(store.open(mode, &Options { prefix: prefix.into(), ..Options::ttl_ms(60_000) }).await);
    }
    let sessions = ["s", "pinned:s", "p:s"];
    for checkpointer in &checkpointers {
        for session in sessions {
            assert_eq!(checkpointer.pin_session(session).await.expect("pinned"), 0);
            save(checkpointer, &checkpoint(session, session, "r", 1)).await;
        }
    }
    for (number, checkpointer) in checkpointers.iter().enumerate() {
        assert_eq!(checkpointer.unpin_session("s").await.expect("ended"), 1);
        assert_eq!(
            checkpointer.clear_all().await.expect("cleared"),
            sessions.len() as u64,
            "{}",
            prefixes[number]
        );
        for other in &checkpointers[number + 1..] {
            for session in sessions {
                assert_eq!(other.latest_id(session).await.as_deref(), Some(session));
            }
        }
    }
    assert_eq!(store.keys("").await, [""; 0]);
}
