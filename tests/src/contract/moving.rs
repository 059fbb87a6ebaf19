//! What the checkpointer keeps to where checkpoints are moved: it finds all that
//! there is, and saves what has lived already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpointer::store::{Expiry, IndexPut, Operation};
use checkpointer::{Conflict, Error, Layout};
use checkpointer_guest::ScanEntry;

use super::TestStore;
use super::checkpointer::{save, sorted};
use crate::paged::Paged;
use crate::samples::{checkpoint, plain, timestamp};
use crate::checkpointer_under_test::{Mode, Options, CheckpointerUnderTest};

/// All that a scan gives.
#[derive(Default)]
struct Scanned {
    /// In the order of their ids.
    listed: Vec<ScanEntry>,
    /// Each with what is wrong with it.
    unreadable: Vec<(String, String)>,
    pinned: Vec<String>,
    pages: usize,
}

async fn scan(subject: &CheckpointerUnderTest) -> Scanned {
    let (mut all, mut after) = (Scanned::default(), None);
    loop {
        let page = subject.scan(after.as_deref()).await.expect("a page");
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

/// The checkpoints that a scan gives, each as `session/checkpoint`.
pub(super) async fn scanned(subject: &CheckpointerUnderTest) -> Vec<String> {
    scan(subject).await.checkpoints()
}

/// Each checkpoint of each session under the prefix is given once, over many
/// pages, and none of another prefix is.
pub async fn a_scan_gives_each_checkpoint_of_a_prefix_once(place: &TestStore, mode: Mode) {
    let prefixes = ["app:", "app:session:", "app:checkpoint:", "app:pinned", "ap", "app:{s}"];
    let sessions = ["s", "session:s", "s:run:r", "}{", "é"];
    let mut expected = Vec::new();
    for prefix in prefixes {
        let subject = place.open(mode, &Options::prefix(prefix)).await;
        assert_eq!(scanned(&subject).await, [""; 0]);
        let mut of_prefix = Vec::new();
        for session in sessions {
            for second in 0..4 {
                // In llmfy's layout an id is one session's.
                let id = format!("{second}/{session}/{prefix}");
                let saved = match second {
                    0 => plain(session, &id, 1),
                    _ => checkpoint(session, &id, "r", second),
                };
                save(&subject, &saved).await;
                of_prefix.push(format!("{session}/{id}"));
            }
        }
        expected.push(sorted(of_prefix));
    }
    for (prefix, expected) in prefixes.into_iter().zip(expected) {
        let subject = place.open(mode, &Options::prefix(prefix)).await;
        assert_eq!(scanned(&subject).await, expected, "{prefix}");
        let paged = Paged::new(place.reached(), 3);
        let opening = Options { layout: place.layout, ..Options::prefix(prefix) };
        let paged = CheckpointerUnderTest::open(mode, paged, &opening).await.expect("a checkpointer");
        let scanned = scan(&paged).await;
        assert_eq!(scanned.checkpoints(), expected, "{prefix}");
        assert!(scanned.pages > expected.len() / 3, "{prefix}: {} pages", scanned.pages);
    }
    let subject = place.open(mode, &Options::default()).await;
    for nowhere in ["", "nowhere", "checkpoints", "pinned "] {
        let refused = subject.scan(Some(nowhere)).await;
        assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{nowhere:?}: {refused:?}");
    }
}

/// What can't be read is named if it is sure to be of this prefix, and so are the
/// sessions that are pinned.
pub async fn a_scan_names_what_is_pinned_and_what_cannot_be_read(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options::ttl_ms(60_000)).await;
    for (second, id) in ["a", "b", "c"].into_iter().enumerate() {
        save(&subject, &checkpoint("s", id, "r", second as u32)).await;
    }
    let names = place.names();
    place.put(&names.document("s", "garbage"), "no document").await;
    // It says that it is another one, so it is nobody's.
    place.put(&names.document("s", "other"), &place.text(&names.document("s", "a")).await.expect("a")).await;
    place.put(&names.document("s", "b"), "{\"checkpoint_id\": \"b\", \"session_id\": \"s\"}").await;
    let alien = names.document("s", "alien");
    let put = IndexPut { index: alien, member: "m".into(), score: 1.0, expiry: Expiry::Never };
    place.write(vec![Operation::IndexPut(put)]).await;
    // In llmfy's layout it might be of a longer prefix, where it would be right.
    place.put(&names.document("s", "checkpoint:d"), "no document").await;
    for session in ["s", "without any", "ended"] {
        subject.pin_session(session).await.expect("pinned");
    }
    subject.unpin_session("ended").await.expect("ended");
    for page in [1, 1000] {
        let opening = Options { layout: place.layout, ..Options::default() };
        let paged = Paged::new(place.reached(), page);
        let scanned = scan(&CheckpointerUnderTest::open(mode, paged, &opening).await.expect("a checkpointer")).await;
        // Whether all of it can be read shows when it is loaded.
        assert_eq!(scanned.checkpoints(), ["s/a", "s/b", "s/c"]);
        assert_eq!(scanned.pinned, ["s", "without any"]);
        let (ids, reasons): (Vec<_>, Vec<_>) = scanned.unreadable.into_iter().unzip();
        if place.layout == Layout::Partitioned {
            assert_eq!(ids, ["alien", "checkpoint:d", "garbage"]);
        } else {
            assert_eq!(ids, ["alien", "garbage"]);
        }
        assert!(reasons[0].starts_with("its key holds "), "{reasons:?}");
        assert_eq!(reasons[1], "expected an object at byte 0");
    }
}

/// A scan says how long each checkpoint has left, and nothing lives on for that.
pub async fn a_scan_says_how_long_each_checkpoint_has_left(place: &TestStore, mode: Mode) {
    let forever = place.open(mode, &Options::default()).await;
    save(&forever, &checkpoint("s", "forever", "r", 1)).await;
    let start = Instant::now();
    let hour = place.open(mode, &Options { refresh_on_read: true, ..Options::ttl_ms(3_600_000) }).await;
    save(&hour, &checkpoint("s", "hour", "r", 2)).await;
    save(&hour, &checkpoint("s", "pinned", "r", 3)).await;
    hour.pin_checkpoint("s", "pinned").await.expect("pinned");
    let gone = place.open(mode, &Options::ttl_ms(50)).await;
    save(&gone, &checkpoint("s", "gone", "r", 4)).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    for _ in 0..2 {
        let listed = scan(&hour).await.listed;
        let elapsed = start.elapsed().as_millis() as u64;
        let left: Vec<_> = listed.iter().map(|it| (it.checkpoint_id.as_str(), it.expires_in_ms)).collect();
        let [("forever", None), ("hour", Some(left)), ("pinned", None)] = left.as_slice() else {
            panic!("{left:?}");
        };
        // 150 have passed, if not more; a store counts whole milliseconds.
        assert!((3_599_998 - elapsed..=3_599_850).contains(left), "{left} after {elapsed}");
    }
}

/// When a key goes away, in milliseconds from `start` on, to the nearest minute.
async fn end(place: &TestStore, key: &str, start: Instant) -> Option<Expiry> {
    let life = place.store.ttl(vec![key.to_owned()]).await.expect("lives").remove(0)?;
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

/// What is restored lives for the time that it is given, whatever the ttl is, and
/// its indexes no less; nothing else lives on for that.
pub async fn what_is_restored_has_the_time_that_it_is_given(place: &TestStore, mode: Mode) {
    let hour = Duration::from_secs(3600);
    let day = Options::ttl_ms(24 * 3_600_000);
    let names = place.names();
    let never = Some(Expiry::Never);
    let after = |time: Duration| Some(Expiry::AfterMs(time.as_millis() as u64));
    for opening in [Options::default(), day.clone(), Options { session_ttl: true, ..day }] {
        let subject = place.open(mode, &opening).await;
        let of_others = if opening.ttl.is_none() { never } else { after(24 * hour) };
        let mut start = Instant::now();
        let lives = async |id: &str, start| end(place, &names.document("s", id), start).await;
        let restored = subject.restore(&document("a", "r", 9), Some(hour)).await.expect("restored");
        assert_eq!(restored.timestamp, timestamp(9));
        assert_eq!(subject.ids("s", 9).await, ["a"]);
        assert_eq!(subject.ids_of_run("s", "r").await, ["a"]);
        for key in [names.document("s", "a"), names.index("s"), names.index_of_run("s", "r")] {
            assert_eq!(end(place, &key, start).await, after(hour), "{opening:?}: {key:?}");
        }
        // It takes the place of an earlier one, and no index dies before it does.
        start = Instant::now();
        subject.restore(&document("a", "q", 10), Some(hour * 2)).await.expect("restored");
        assert_eq!(subject.ids_of_run("s", "r").await, [""; 0]);
        assert_eq!(subject.ids_of_run("s", "q").await, ["a"]);
        assert_eq!(lives("a", start).await, after(hour * 2));
        assert_eq!(end(place, &names.index("s"), start).await, after(hour * 2));
        start = Instant::now();
        subject.restore(&document("a", "q", 10), Some(hour)).await.expect("restored");
        assert_eq!(lives("a", start).await, after(hour));
        assert_eq!(end(place, &names.index_of_run("s", "q"), start).await, after(hour * 2));
        // What is saved beside it has the ttl; restoring changes nothing of that.
        start = Instant::now();
        save(&subject, &checkpoint("s", "b", "q", 11)).await;
        subject.restore(&document("c", "q", 12), None).await.expect("restored");
        subject.restore(&document("a", "q", 10), Some(hour)).await.expect("restored");
        assert_eq!(lives("b", start).await, of_others);
        assert_eq!(lives("c", start).await, never);
        assert_eq!(lives("a", start).await, after(hour));
        assert_eq!(end(place, &names.index("s"), start).await, never);
        assert_eq!(subject.ids("s", 9).await, ["c", "b", "a"]);
        // Of a session that is pinned all is.
        assert_eq!(subject.pin_session("s").await.expect("pinned"), 3);
        subject.restore(&document("d", "q", 13), Some(hour)).await.expect("restored");
        assert_eq!(lives("d", start).await, never);
        assert_eq!(subject.clear_all().await.expect("cleared"), 4);
        assert_eq!(place.keys("").await, [""; 0]);
    }
    let subject = place.open(mode, &Options::default()).await;
    subject.restore(&document("gone", "r", 1), Some(Duration::from_millis(50))).await.expect("restored");
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(place.keys("").await, [""; 0]);
}

/// What can't be saved can't be restored.
pub async fn restoring_is_refused_as_saving_is(place: &TestStore, mode: Mode) {
    let subject = place.open(mode, &Options::default()).await;
    for left in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        let refused = subject.restore(&document("a", "r", 1), Some(left)).await;
        assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{left:?}: {refused:?}");
    }
    let refused = subject.restore("no document", None).await;
    assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{refused:?}");
    assert_eq!(place.keys("").await, [""; 0]);
    save(&subject, &checkpoint("other", "a", "r", 1)).await;
    place.put(&place.names().document("s", "garbage"), "no document").await;
    let is_taken = |refused: &Result<_, Error>| matches!(refused, Err(Error::Conflict(Conflict::IdInUse { .. })));
    assert!(is_taken(&subject.restore(&document("garbage", "r", 1), None).await));
    let of_others = subject.restore(&document("a", "r", 1), None).await;
    if place.layout == Layout::Partitioned {
        assert_eq!(subject.ids("s", 1).await, ["a"]);
    } else {
        assert!(is_taken(&of_others));
    }
    assert_eq!(subject.ids("other", 1).await, ["a"]);
}

/// What was in one layout, found by a scan and restored in the other, is there as
/// it was.
pub async fn what_is_moved_to_the_other_layout_is_what_it_was(place: &TestStore, mode: Mode) {
    let open = async |layout, prefix: &str| {
        let opening = Options { layout, ..Options::prefix(prefix) };
        CheckpointerUnderTest::open(mode, Arc::clone(&place.store), &opening).await.expect("a checkpointer")
    };
    let (from, to) = match place.layout {
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
        let listed = async |subject: &CheckpointerUnderTest| subject.list(session, None).await.expect("a history");
        assert_eq!(listed(&to).await, listed(&from).await);
        assert_eq!(to.ids_of_run(session, "b").await, [format!("{session}/b")]);
    }
}
