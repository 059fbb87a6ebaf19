//! The contract of the checkpointer for scans, dumps and restores, which copy
//! checkpoints between stores.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpointer::store::{Expiry, IndexPut, Operation};
use checkpointer::{Conflict, Error, Layout};
use checkpointer_guest::ScanEntry;

use super::TestStore;
use super::checkpointer::{save, sorted};
use crate::checkpointer_under_test::{CheckpointerUnderTest, Mode, Options};
use crate::paged::Paged;
use crate::samples::{checkpoint, plain, timestamp};

/// All pages of a scan.
#[derive(Default)]
struct Scanned {
    /// Ordered by id.
    listed: Vec<ScanEntry>,
    /// Each with the reason.
    unreadable: Vec<(String, String)>,
    pinned: Vec<String>,
    pages: usize,
}

async fn scan(checkpointer: &CheckpointerUnderTest) -> Scanned {
    let (mut all, mut after) = (Scanned::default(), None);
    loop {
        let page = checkpointer.scan(after.as_deref()).await.expect("a page");
        assert!(all.pinned.is_empty() || page.checkpoints.is_empty(), "pins come last");
        all.listed.extend(page.checkpoints);
        all.unreadable.extend(page.unreadable.into_iter().map(|it| (it.checkpoint_id, it.reason)));
        all.pinned.extend(page.pinned_sessions);
        all.pages += 1;
        after = page.next_cursor;
        if after.is_none() {
            all.listed.sort_by(|a, b| a.checkpoint_id.cmp(&b.checkpoint_id));
            all.unreadable.sort();
            all.pinned.sort();
            return all;
        }
    }
}

impl Scanned {
    /// The checkpoints, each as `session/checkpoint`.
    fn checkpoints(&self) -> Vec<String> {
        let name = |it: &ScanEntry| format!("{}/{}", it.session_id, it.checkpoint_id);
        sorted(self.listed.iter().map(name).collect::<Vec<_>>())
    }
}

/// The checkpoints that a scan returns, each as `session/checkpoint`.
pub(super) async fn scanned(checkpointer: &CheckpointerUnderTest) -> Vec<String> {
    scan(checkpointer).await.checkpoints()
}

/// A scan of many pages returns each checkpoint of the prefix once, and none of
/// another prefix.
pub async fn a_scan_returns_each_checkpoint_of_a_prefix_once(store: &TestStore, mode: Mode) {
    let prefixes = ["app:", "app:session:", "app:checkpoint:", "app:pinned", "ap", "app:{s}"];
    let sessions = ["s", "session:s", "s:run:r", "}{", "é"];
    let mut expected = Vec::new();
    for prefix in prefixes {
        let checkpointer = store.open(mode, &Options::prefix(prefix)).await;
        assert_eq!(scanned(&checkpointer).await, [""; 0]);
        let mut of_prefix = Vec::new();
        for session in sessions {
            for second in 0..4 {
                // In the layout `llmfy` an id belongs to one session.
                let id = format!("{second}/{session}/{prefix}");
                let saved = match second {
                    0 => plain(session, &id, 1),
                    _ => checkpoint(session, &id, "r", second),
                };
                save(&checkpointer, &saved).await;
                of_prefix.push(format!("{session}/{id}"));
            }
        }
        expected.push(sorted(of_prefix));
    }
    for (prefix, expected) in prefixes.into_iter().zip(expected) {
        let checkpointer = store.open(mode, &Options::prefix(prefix)).await;
        assert_eq!(scanned(&checkpointer).await, expected, "{prefix}");
        let paged = Paged::new(store.accessed(), 3);
        let options = Options { layout: store.layout, ..Options::prefix(prefix) };
        let paged = CheckpointerUnderTest::open(mode, paged, &options).await.expect("a checkpointer");
        let scanned = scan(&paged).await;
        assert_eq!(scanned.checkpoints(), expected, "{prefix}");
        assert!(scanned.pages > expected.len() / 3, "{prefix}: {} pages", scanned.pages);
    }
    let checkpointer = store.open(mode, &Options::default()).await;
    for nowhere in ["", "nowhere", "checkpoints", "pinned "] {
        let refused = checkpointer.scan(Some(nowhere)).await;
        assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{nowhere:?}: {refused:?}");
    }
}

/// Values that can't be read are reported if they certainly belong to the prefix,
/// and so are pinned sessions.
pub async fn a_scan_reports_pinned_sessions_and_unreadable_values(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::ttl_ms(60_000)).await;
    for (second, id) in ["a", "b", "c"].into_iter().enumerate() {
        save(&checkpointer, &checkpoint("s", id, "r", second as u32)).await;
    }
    let names = store.names();
    store.put(&names.document("s", "garbage"), "no document").await;
    // A document with another id than its key is foreign.
    store.put(&names.document("s", "other"), &store.text(&names.document("s", "a")).await.expect("a")).await;
    store.put(&names.document("s", "b"), "{\"checkpoint_id\": \"b\", \"session_id\": \"s\"}").await;
    let alien = names.document("s", "alien");
    let put = IndexPut { index: alien, member: "m".into(), score: 1.0, expiry: Expiry::Never };
    store.write(vec![Operation::IndexPut(put)]).await;
    // In the layout `llmfy` it may belong to a longer prefix.
    store.put(&names.document("s", "checkpoint:d"), "no document").await;
    for session in ["s", "without any", "ended"] {
        checkpointer.pin_session(session).await.expect("pinned");
    }
    checkpointer.unpin_session("ended").await.expect("ended");
    for page in [1, 1000] {
        let options = Options { layout: store.layout, ..Options::default() };
        let paged = Paged::new(store.accessed(), page);
        let scanned =
            scan(&CheckpointerUnderTest::open(mode, paged, &options).await.expect("a checkpointer")).await;
        // A scan reads only the head of each document.
        assert_eq!(scanned.checkpoints(), ["s/a", "s/b", "s/c"]);
        assert_eq!(scanned.pinned, ["s", "without any"]);
        let (ids, reasons): (Vec<_>, Vec<_>) = scanned.unreadable.into_iter().unzip();
        if store.layout == Layout::Partitioned {
            assert_eq!(ids, ["alien", "checkpoint:d", "garbage"]);
        } else {
            assert_eq!(ids, ["alien", "garbage"]);
        }
        assert!(reasons[0].starts_with("its key holds "), "{reasons:?}");
        assert_eq!(reasons[1], "expected an object at byte 0");
    }
}

/// A scan returns the remaining TTL of each checkpoint, and does not refresh it.
pub async fn a_scan_returns_remaining_ttls_without_refreshing(store: &TestStore, mode: Mode) {
    let forever = store.open(mode, &Options::default()).await;
    save(&forever, &checkpoint("s", "forever", "r", 1)).await;
    let start = Instant::now();
    let hour = store.open(mode, &Options { refresh_on_read: true, ..Options::ttl_ms(3_600_000) }).await;
    save(&hour, &checkpoint("s", "hour", "r", 2)).await;
    save(&hour, &checkpoint("s", "pinned", "r", 3)).await;
    hour.pin_checkpoint("s", "pinned").await.expect("pinned");
    let gone = store.open(mode, &Options::ttl_ms(50)).await;
    save(&gone, &checkpoint("s", "gone", "r", 4)).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    for _ in 0..2 {
        let listed = scan(&hour).await.listed;
        let elapsed = start.elapsed().as_millis() as u64;
        let left: Vec<_> = listed.iter().map(|it| (it.checkpoint_id.as_str(), it.expires_in_ms)).collect();
        let [("forever", None), ("hour", Some(left)), ("pinned", None)] = left.as_slice() else {
            panic!("{left:?}");
        };
        // At least 150 ms have passed; stores count whole milliseconds.
        assert!((3_599_998 - elapsed..=3_599_850).contains(left), "{left} after {elapsed}");
    }
}

/// When a key expires, in milliseconds after `start`, rounded to minutes.
async fn end(store: &TestStore, key: &str, start: Instant) -> Option<Expiry> {
    let life = store.inner.ttl(vec![key.to_owned()]).await.expect("lives").remove(0)?;
    let elapsed = start.elapsed().as_millis() as u64;
    Some(match life {
        Expiry::Never => Expiry::Never,
        Expiry::AfterMs(left) => Expiry::AfterMs((left + elapsed + 30_000) / 60_000 * 60_000),
    })
}

/// A document of the session `s`.
fn document(id: &str, run: &str, second: u32) -> String {
    let timestamp = timestamp(second).to_string().replace("+00:00", "Z");
    format!(
        r#"{{"checkpoint_id": "{id}", "session_id": "s", "run_id": "{run}", "created_at": "{timestamp}", "node": "n",
            "prev_node": "", "step": 1, "updated_fields": [], "attempt": null, "dispatch_id": null, "state": {{}}}}"#
    )
}

/// A restored checkpoint has the given TTL instead of that of the options. Its
/// indexes expire no earlier, and the TTLs of other checkpoints do not change.
pub async fn restore_sets_the_given_ttl(store: &TestStore, mode: Mode) {
    let hour = Duration::from_secs(3600);
    let day = Options::ttl_ms(24 * 3_600_000);
    let names = store.names();
    let never = Some(Expiry::Never);
    let after = |time: Duration| Some(Expiry::AfterMs(time.as_millis() as u64));
    for options in [Options::default(), day.clone(), Options { session_ttl: true, ..day }] {
        let checkpointer = store.open(mode, &options).await;
        let of_others = if options.ttl.is_none() { never } else { after(24 * hour) };
        let mut start = Instant::now();
        let lives = async |id: &str, start| end(store, &names.document("s", id), start).await;
        let restored = checkpointer.restore(&document("a", "r", 9), Some(hour)).await.expect("restored");
        assert_eq!(restored.timestamp, timestamp(9));
        assert_eq!(checkpointer.ids("s", 9).await, ["a"]);
        assert_eq!(checkpointer.ids_of_run("s", "r").await, ["a"]);
        for key in [names.document("s", "a"), names.index("s"), names.index_of_run("s", "r")] {
            assert_eq!(end(store, &key, start).await, after(hour), "{options:?}: {key:?}");
        }
        // It replaces an earlier one, and no index expires before it.
        start = Instant::now();
        checkpointer.restore(&document("a", "q", 10), Some(hour * 2)).await.expect("restored");
        assert_eq!(checkpointer.ids_of_run("s", "r").await, [""; 0]);
        assert_eq!(checkpointer.ids_of_run("s", "q").await, ["a"]);
        assert_eq!(lives("a", start).await, after(hour * 2));
        assert_eq!(end(store, &names.index("s"), start).await, after(hour * 2));
        start = Instant::now();
        checkpointer.restore(&document("a", "q", 10), Some(hour)).await.expect("restored");
        assert_eq!(lives("a", start).await, after(hour));
        assert_eq!(end(store, &names.index_of_run("s", "q"), start).await, after(hour * 2));
        // A save beside it has the TTL of the options; a restore does not change that.
        start = Instant::now();
        save(&checkpointer, &checkpoint("s", "b", "q", 11)).await;
        checkpointer.restore(&document("c", "q", 12), None).await.expect("restored");
        checkpointer.restore(&document("a", "q", 10), Some(hour)).await.expect("restored");
        assert_eq!(lives("b", start).await, of_others);
        assert_eq!(lives("c", start).await, never);
        assert_eq!(lives("a", start).await, after(hour));
        assert_eq!(end(store, &names.index("s"), start).await, never);
        assert_eq!(checkpointer.ids("s", 9).await, ["c", "b", "a"]);
        // In a pinned session a restored checkpoint is pinned.
        assert_eq!(checkpointer.pin_session("s").await.expect("pinned"), 3);
        checkpointer.restore(&document("d", "q", 13), Some(hour)).await.expect("restored");
        assert_eq!(lives("d", start).await, never);
        assert_eq!(checkpointer.clear_all().await.expect("cleared"), 4);
        assert_eq!(store.keys("").await, [""; 0]);
    }
    let checkpointer = store.open(mode, &Options::default()).await;
    checkpointer.restore(&document("gone", "r", 1), Some(Duration::from_millis(50))).await.expect("restored");
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(store.keys("").await, [""; 0]);
}

/// A dump returns the stored document with its remaining TTL, and does not refresh
/// the TTL. A restore of both produces the same checkpoint.
pub async fn dump_returns_the_document_with_its_ttl(store: &TestStore, mode: Mode) {
    let forever = store.open(mode, &Options::default()).await;
    save(&forever, &plain("s", "forever", 1)).await;
    let start = Instant::now();
    let hour = store.open(mode, &Options { refresh_on_read: true, ..Options::ttl_ms(3_600_000) }).await;
    save(&hour, &checkpoint("s", "hour", "r", 2)).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    for _ in 0..2 {
        let dump = hour.dump("s", "hour").await.expect("dumped").expect("there");
        let elapsed = start.elapsed().as_millis() as u64;
        assert_eq!(Some(&dump.document), store.text(&store.names().document("s", "hour")).await.as_ref());
        assert!(dump.expires_in_ms.is_some_and(|left| (3_599_998 - elapsed..=3_599_850).contains(&left)));
    }
    let dump = hour.dump("s", "forever").await.expect("dumped").expect("there");
    assert_eq!(dump.expires_in_ms, None);
    assert_eq!(hour.dump("s", "missing").await.expect("dumped"), None);
    assert_eq!(hour.dump("other", "hour").await.expect("dumped"), None);
    let expected = hour.list("s", None).await.expect("a history");
    let dumps = [dump, hour.dump("s", "hour").await.expect("dumped").expect("there")];
    assert_eq!(hour.delete_session("s").await.expect("deleted"), 2);
    for dump in dumps {
        let ttl = dump.expires_in_ms.map(Duration::from_millis);
        hour.restore(&dump.document, ttl).await.expect("restored");
    }
    assert_eq!(forever.list("s", None).await.expect("a history"), expected);
}

/// A restore rejects what a save rejects.
pub async fn restore_is_rejected_like_save(store: &TestStore, mode: Mode) {
    let checkpointer = store.open(mode, &Options::default()).await;
    for left in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        let refused = checkpointer.restore(&document("a", "r", 1), Some(left)).await;
        assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{left:?}: {refused:?}");
    }
    let refused = checkpointer.restore("no document", None).await;
    assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{refused:?}");
    assert_eq!(store.keys("").await, [""; 0]);
    save(&checkpointer, &checkpoint("other", "a", "r", 1)).await;
    store.put(&store.names().document("s", "garbage"), "no document").await;
    let is_taken =
        |refused: &Result<_, Error>| matches!(refused, Err(Error::Conflict(Conflict::IdInUse { .. })));
    assert!(is_taken(&checkpointer.restore(&document("garbage", "r", 1), None).await));
    let of_others = checkpointer.restore(&document("a", "r", 1), None).await;
    if store.layout == Layout::Partitioned {
        assert_eq!(checkpointer.ids("s", 1).await, ["a"]);
    } else {
        assert!(is_taken(&of_others));
    }
    assert_eq!(checkpointer.ids("other", 1).await, ["a"]);
}

/// Checkpoints copied by scan and restore to the other layout are identical.
pub async fn a_copy_in_the_other_layout_is_identical(store: &TestStore, mode: Mode) {
    let open = async |layout, prefix: &str| {
        let options = Options { layout, ..Options::prefix(prefix) };
        CheckpointerUnderTest::open(mode, Arc::clone(&store.inner), &options).await.expect("a checkpointer")
    };
    let (from, to) = match store.layout {
        Layout::Partitioned => (Layout::Partitioned, Layout::Llmfy),
        other => (other, Layout::Partitioned),
    };
    let (from, to) = (open(from, "app:").await, open(to, "app:").await);
    for (second, session) in ["s", "}{", "session:s"].into_iter().enumerate() {
        for id in ["a", "b", "c"] {
            save(&from, &checkpoint(session, &format!("{session}/{id}"), id, second as u32)).await;
        }
        save(&from, &plain(session, &format!("{session}/plain"), 9)).await;
    }
    for listed in scan(&from).await.listed {
        let (session, id) = (listed.session_id.as_str(), listed.checkpoint_id.as_str());
        let document = from.load_document(session, id).await.expect("loaded").expect("there");
        let left = listed.expires_in_ms.map(Duration::from_millis);
        to.restore(&document, left).await.expect("restored");
    }
    assert_eq!(scanned(&to).await, scanned(&from).await);
    for session in ["s", "}{", "session:s"] {
        let listed = async |checkpointer: &CheckpointerUnderTest| {
            checkpointer.list(session, None).await.expect("a history")
        };
        assert_eq!(listed(&to).await, listed(&from).await);
        assert_eq!(to.ids_of_run(session, "b").await, [format!("{session}/b")]);
    }
}
