//! Scenarios: starting states and operations.

use std::time::Duration;

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Checkpoint, DEFAULT_PREFIX, Error, Layout, StorageError};
use checkpointer_guest::ScanPage;
use checkpointer_tests::checkpointer_under_test::{CheckpointerUnderTest, Options};
use checkpointer_tests::contents::Contents;
use checkpointer_tests::names::Names;
use checkpointer_tests::samples::{checkpoint, plain, timestamp};

/// Longer than any test takes.
pub const HOUR: Duration = Duration::from_secs(3600);

/// More than the guest removes in one step.
const MANY: u32 = 302;

/// A starting state and an operation.
pub struct Scenario {
    pub name: &'static str,
    pub options: Options,
    pub given: Vec<Given>,
    pub request: Request,
    /// Whether it has so many checkpoints that one run is enough.
    pub is_large: bool,
}

/// The steps that create a starting state, in order.
pub enum Given {
    /// An operation of a checkpointer.
    Asked(Options, Box<Request>),
    /// A text that another program put at a key.
    Text(String, &'static str),
    /// An index entry that another program added.
    Entry(String, &'static str, f64),
    /// A key that expired.
    Gone(String),
}

/// An operation of a checkpointer.
#[derive(Clone)]
pub enum Request {
    Save(Checkpoint),
    SaveAfter(Checkpoint, Option<&'static str>),
    SaveDocument(String),
    Restore(String, Option<Duration>),
    Latest(&'static str),
    Load(&'static str, &'static str),
    LatestDocument(&'static str),
    LoadDocument(&'static str, &'static str),
    List(&'static str, Option<u32>),
    ListByRun(&'static str, &'static str, Option<u32>),
    ListDocuments(&'static str, Option<&'static str>, Option<u32>),
    Scan,
    PinCheckpoint(&'static str, &'static str),
    PinSession(&'static str),
    UnpinCheckpoint(&'static str, &'static str),
    UnpinSession(&'static str),
    DeleteCheckpoint(&'static str, &'static str),
    DeleteSession(&'static str),
    ClearAll,
}

/// The result of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The number of checkpoints that were deleted, pinned or unpinned.
    Count(u64),
    /// Any other answer.
    Answer(String),
    /// A rejection that is not a failure of the store.
    Refused(String),
    /// A failure of the store.
    Failed(StorageReason, Effect),
    /// The caller was dropped.
    Killed,
}

impl End {
    /// Whether this is the expected answer. A save that fails to read the newer
    /// checkpoint after it has succeeded reports it without an id.
    pub fn matches(&self, expected: &Self) -> bool {
        let is_not_latest =
            |end: &Self, text: &str| matches!(end, Self::Answer(answer) if answer.starts_with(text));
        self == expected
            || is_not_latest(self, "NotLatest { latest_id: \"\"") && is_not_latest(expected, "NotLatest")
    }
}

impl Request {
    /// Runs the operation.
    pub async fn of(&self, checkpointer: &CheckpointerUnderTest) -> End {
        let ended = match self {
            Self::Save(checkpoint) => checkpointer.save(checkpoint).await.map(answer),
            Self::SaveAfter(checkpoint, latest) => {
                checkpointer.save_after(checkpoint, *latest).await.map(answer)
            }
            Self::SaveDocument(document) => checkpointer.save_document(document).await.map(answer),
            Self::Restore(document, left) => checkpointer.restore(document, *left).await.map(answer),
            Self::Latest(session) => checkpointer.latest(session).await.map(answer),
            Self::Load(session, id) => checkpointer.load(session, id).await.map(answer),
            Self::LatestDocument(session) => checkpointer.latest_document(session).await.map(answer),
            Self::LoadDocument(session, id) => checkpointer.load_document(session, id).await.map(answer),
            Self::List(session, limit) => checkpointer.list(session, *limit).await.map(answer),
            Self::ListByRun(session, run, limit) => {
                checkpointer.list_by_run(session, run, *limit).await.map(answer)
            }
            Self::ListDocuments(session, run, limit) => {
                checkpointer.list_documents(session, *run, *limit).await.map(answer)
            }
            Self::Scan => checkpointer.scan(None).await.map(found),
            Self::PinCheckpoint(session, id) => checkpointer.pin_checkpoint(session, id).await.map(whether),
            Self::PinSession(session) => checkpointer.pin_session(session).await.map(End::Count),
            Self::UnpinCheckpoint(session, id) => {
                checkpointer.unpin_checkpoint(session, id).await.map(whether)
            }
            Self::UnpinSession(session) => checkpointer.unpin_session(session).await.map(End::Count),
            Self::DeleteCheckpoint(session, id) => {
                checkpointer.delete_checkpoint(session, id).await.map(whether)
            }
            Self::DeleteSession(session) => checkpointer.delete_session(session).await.map(End::Count),
            Self::ClearAll => checkpointer.clear_all().await.map(End::Count),
        };
        ended.unwrap_or_else(|error| match error {
            Error::Storage(StorageError { reason, effect, .. }) => End::Failed(reason, effect),
            Error::Busy | Error::Component(_) | Error::Closed => panic!("{error}"),
            error => End::Refused(error.to_string()),
        })
    }

    fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Latest(..)
                | Self::Load(..)
                | Self::LatestDocument(..)
                | Self::LoadDocument(..)
                | Self::List(..)
                | Self::ListByRun(..)
                | Self::ListDocuments(..)
                | Self::Scan
        )
    }
}

impl Scenario {
    /// Whether it only reads, apart from removing dangling entries.
    pub fn only_reads(&self) -> bool {
        self.request.only_reads() && !self.options.refresh_on_read
    }

    /// Whether it extends TTLs, a write that does not change the contents.
    pub fn prolongs(&self) -> bool {
        let Options { session_ttl, refresh_on_read, .. } = self.options;
        session_ttl
            || refresh_on_read
            || matches!(
                self.request,
                Request::PinCheckpoint(..)
                    | Request::PinSession(..)
                    | Request::UnpinCheckpoint(..)
                    | Request::UnpinSession(..)
            )
    }

    /// Whether two states count as equal. `save_after` may remove dangling
    /// entries or not.
    pub fn equal(&self, one: &Contents, other: &Contents) -> bool {
        match self.request {
            Request::SaveAfter(..) => one.without_dangling() == other.without_dangling(),
            _ => one == other,
        }
    }
}

fn whether(exists: bool) -> End {
    End::Count(u64::from(exists))
}

fn answer(answer: impl std::fmt::Debug) -> End {
    End::Answer(format!("{answer:?}"))
}

/// A page of a scan, without remaining TTLs.
fn found(page: ScanPage) -> End {
    let checkpoints =
        page.checkpoints.into_iter().map(|it| format!("{}/{}", it.session_id, it.checkpoint_id));
    let mut all: Vec<String> = checkpoints.collect();
    all.extend(page.unreadable.into_iter().map(|it| format!("{}: {}", it.checkpoint_id, it.reason)));
    all.sort();
    answer((all, page.pinned_sessions, page.next_cursor))
}

/// All scenarios for checkpointers with this TTL and layout: a name, options, a
/// starting state and an operation.
pub fn scenarios(ttl: Option<Duration>, layout: Layout) -> Vec<Scenario> {
    let usual = Options { ttl, layout, ..Options::default() };
    let limited = |count| Options { max_checkpoints: Some(count), ..usual.clone() };
    let under = |prefix: &str| Options { prefix: prefix.to_owned(), ..usual.clone() };
    let other_ttl = Options { ttl: if ttl.is_some() { None } else { Some(HOUR) }, ..usual.clone() };

    let asked = |options: &Options, request| Given::Asked(options.clone(), Box::new(request));
    let saved = |checkpoint| asked(&usual, Request::Save(checkpoint));
    let saved_under = |prefix, checkpoint| asked(&under(prefix), Request::Save(checkpoint));
    let names = Names { prefix: DEFAULT_PREFIX, layout };
    let document = |id: &str| names.document("s", id);
    let gone = |id: &str| Given::Gone(document(id));
    let garbage = |id: &'static str| Given::Text(document(id), "no document");
    let entry = |index: &str, id, score| Given::Entry(names.index(index), id, score);
    // A value that is not text, at the key of a document.
    let alien = |id: &str| Given::Entry(document(id), "member", 1.0);

    let save = Request::Save;
    let written = |id: &str| {
        let timestamp = timestamp(9);
        format!(
            r#"{{"checkpoint_id": "{id}", "session_id": "s", "timestamp": "{timestamp}",
                "node_name": "node", "step": 9, "state": "{{}}"}}"#
        )
    };
    // A document of the session and its run `r` in another JSON spelling.
    let respelled = r#"{"run_id":"r","session_id":"s","checkpoint_id":"c","node":"n","prev_node":"","step":1,
        "updated_fields":[],"attempt":1,"dispatch_id":null,"created_at":"2026-01-01T00:00:01Z","state":{}}"#;

    // Five checkpoints of the session `s`, in two runs and without one.
    let five = || {
        vec![
            saved(checkpoint("s", "a", "r", 1)),
            saved(checkpoint("s", "b", "q", 2)),
            saved(plain("s", "c", 3)),
            saved(checkpoint("s", "d", "r", 4)),
            saved(checkpoint("s", "e", "q", 5)),
        ]
    };
    let five_and = |more: Vec<Given>| five().into_iter().chain(more).collect::<Vec<_>>();
    let five_gone = || five_and(["a", "b", "c", "d", "e"].map(gone).into());
    // A session of five checkpoints with all kinds of defects.
    let wrong = || {
        five_and(vec![
            gone("b"),
            garbage("g"),
            entry("s", "g", 1_767_225_600.5),
            alien("x"),
            entry("s", "x", 1_767_225_600.6),
            entry("s", "never", 1_767_225_600.7),
            saved(checkpoint("s", "f", "r", 6)),
            gone("f"),
            saved(checkpoint("other", "o", "r", 7)),
            entry("s", "o", 1_767_225_600.8),
        ])
    };
    let many = || -> Vec<Given> {
        (0..MANY).map(|number| saved(checkpoint("s", &format!("{number:04}"), "r", number))).collect()
    };
    // Two prefixes that use the same index name.
    let shared = || {
        vec![
            saved_under("app:", checkpoint("session:s", "a", "r", 1)),
            saved_under("app:session:", checkpoint("s", "b", "r", 2)),
            saved_under("app:", checkpoint("session:s", "c", "r", 3)),
            saved_under("app:session:", checkpoint("s", "d", "r", 4)),
            saved_under("app:", checkpoint("t", "e", "r", 5)),
            saved_under("app:eu:", checkpoint("s", "f", "r", 6)),
        ]
    };

    let mut scenarios = Vec::new();
    let mut add = |name, options: &Options, given, request| {
        let options = options.clone();
        scenarios.push(Scenario { name, options, given, request, is_large: false });
    };

    add("save the first of a session", &usual, vec![], save(checkpoint("s", "n", "r", 9)));
    add("save one without a run", &usual, five(), save(plain("s", "n", 9)));
    add("save another of a session", &usual, five(), save(checkpoint("s", "n", "r", 9)));
    add("save an identical one", &usual, five(), save(checkpoint("s", "d", "r", 4)));
    add("save a later version of one", &usual, five(), save(checkpoint("s", "a", "r", 9)));
    add("save one that changes its run", &usual, five(), save(checkpoint("s", "a", "q", 9)));
    add("save one that leaves its run", &usual, five(), save(plain("s", "a", 9)));
    add("save one that joins a run", &usual, five(), save(checkpoint("s", "c", "r", 9)));
    add("save an id of another session", &usual, five(), save(checkpoint("other", "a", "r", 9)));
    add(
        "save over an invalid value",
        &usual,
        five_and(vec![garbage("g")]),
        save(checkpoint("s", "g", "r", 9)),
    );
    add("save over a foreign value", &usual, five_and(vec![alien("x")]), save(checkpoint("s", "x", "r", 9)));
    add("save an expired one", &usual, five_and(vec![gone("a")]), save(checkpoint("s", "a", "q", 9)));
    add(
        "save over another spelling",
        &usual,
        five_and(vec![Given::Text(document("c"), respelled)]),
        save(checkpoint("s", "c", "r", 9)),
    );
    add(
        "save over one with the other ttl",
        &usual,
        vec![asked(&other_ttl, save(checkpoint("s", "a", "r", 1))), saved(checkpoint("s", "b", "r", 2))],
        save(checkpoint("s", "a", "q", 9)),
    );
    add(
        "save one that changes its run where two prefixes share it",
        &under("app:"),
        shared(),
        save(checkpoint("session:s", "a", "q", 9)),
    );
    add("save a document", &usual, five(), Request::SaveDocument(written("n")));
    add("save a document that replaces one", &usual, five(), Request::SaveDocument(written("a")));
    add("restore a document", &usual, five(), Request::Restore(written("n"), ttl));
    add("restore a document that replaces one", &usual, five(), Request::Restore(written("a"), ttl));
    add("save an invalid document", &usual, five(), Request::SaveDocument("[]".to_owned()));

    add("save with room", &limited(6), five(), save(checkpoint("s", "n", "r", 9)));
    add("save the first with room", &limited(1), vec![], save(checkpoint("s", "n", "r", 9)));
    add("save with one over", &limited(5), five(), save(checkpoint("s", "n", "r", 9)));
    add("save with a limit that was lowered", &limited(2), five(), save(checkpoint("s", "n", "r", 9)));
    add("save a later version at the limit", &limited(5), five(), save(checkpoint("s", "a", "r", 9)));
    add(
        "save one that changes its run over the limit",
        &limited(3),
        five(),
        save(checkpoint("s", "b", "r", 9)),
    );
    add("save one that is too old", &limited(5), five(), save(checkpoint("s", "n", "r", 0)));
    add("save one that is too old with many over", &limited(2), five(), save(checkpoint("s", "n", "r", 0)));
    add("save one that is too old that is there", &limited(4), five(), save(checkpoint("s", "d", "r", 0)));
    add(
        "save an id of another session at the limit",
        &limited(5),
        five_and(vec![saved(checkpoint("other", "o", "r", 7)), gone("b")]),
        save(checkpoint("s", "o", "r", 9)),
    );
    add("save over the limit among all defects", &limited(2), wrong(), save(checkpoint("s", "n", "r", 9)));
    add(
        "save one that changes its run among all defects",
        &limited(2),
        wrong(),
        save(checkpoint("s", "d", "q", 9)),
    );
    add(
        "save one that is too old among all defects",
        &limited(2),
        wrong(),
        save(checkpoint("s", "d", "r", 0)),
    );
    add(
        "save over the limit where two prefixes share the index",
        &Options { max_checkpoints: Some(1), ..under("app:") },
        shared(),
        save(checkpoint("session:s", "n", "r", 9)),
    );
    add(
        "save over the limit of a session named like a run",
        &limited(1),
        five_and(vec![saved(plain("s:run:r", "m", 1)), saved(plain("s:run:r", "n", 2))]),
        save(plain("s:run:r", "o", 9)),
    );

    add("load by id", &usual, five(), Request::Load("s", "b"));
    add("load an id that does not exist", &usual, five(), Request::Load("s", "n"));
    add("load an id of another session", &usual, five(), Request::Load("other", "b"));
    add("load an invalid value", &usual, wrong(), Request::Load("s", "g"));
    add("load the latest", &usual, five(), Request::Latest("s"));
    add("load the latest of nothing", &usual, vec![], Request::Latest("s"));
    add("load the latest behind an expired one", &usual, five_and(vec![gone("e")]), Request::Latest("s"));
    add(
        "load the latest behind many expired ones",
        &usual,
        five_and(vec![gone("e"), gone("d"), gone("c"), gone("b")]),
        Request::Latest("s"),
    );
    add("load the latest of all expired", &usual, five_gone(), Request::Latest("s"));
    add("load the latest among all defects", &usual, wrong(), Request::Latest("s"));
    add("load a document", &usual, five(), Request::LoadDocument("s", "b"));
    add("load the latest document", &usual, wrong(), Request::LatestDocument("s"));
    add("list a session", &usual, five(), Request::List("s", None));
    add("list a session with all defects", &usual, wrong(), Request::List("s", None));
    add("list a part of it", &usual, wrong(), Request::List("s", Some(3)));
    add(
        "list two behind expired ones",
        &usual,
        five_and(vec![gone("e"), gone("c"), gone("b")]),
        Request::List("s", Some(2)),
    );
    add("list more than a page of the store", &usual, wrong(), Request::List("s", Some(2000)));
    add("list a run", &usual, wrong(), Request::ListByRun("s", "r", None));
    add("list a part of a run", &usual, wrong(), Request::ListByRun("s", "r", Some(1)));
    add("scan", &usual, wrong(), Request::Scan);
    add("list documents", &usual, wrong(), Request::ListDocuments("s", None, None));
    add("list documents of a run", &usual, wrong(), Request::ListDocuments("s", Some("q"), Some(1)));

    add("delete one", &usual, five(), Request::DeleteCheckpoint("s", "a"));
    add("delete one without a run", &usual, five(), Request::DeleteCheckpoint("s", "c"));
    add("delete one that does not exist", &usual, five(), Request::DeleteCheckpoint("s", "n"));
    add("delete an expired one", &usual, wrong(), Request::DeleteCheckpoint("s", "b"));
    add("delete one of another session", &usual, wrong(), Request::DeleteCheckpoint("s", "o"));
    add("delete an invalid value", &usual, wrong(), Request::DeleteCheckpoint("s", "g"));
    add("delete the entry of a foreign value", &usual, wrong(), Request::DeleteCheckpoint("s", "x"));
    add(
        "delete one where two prefixes share the index",
        &under("app:"),
        shared(),
        Request::DeleteCheckpoint("session:s", "a"),
    );
    add("delete a session", &usual, five(), Request::DeleteSession("s"));
    add("delete a session that does not exist", &usual, five(), Request::DeleteSession("other"));
    add("delete a session with all defects", &usual, wrong(), Request::DeleteSession("s"));
    add("delete a session of which all expired", &usual, five_gone(), Request::DeleteSession("s"));
    add(
        "delete a session named like a run",
        &usual,
        five_and(vec![saved(checkpoint("s:run:r", "m", "r", 1)), saved(plain("s:run:r", "n", 2))]),
        Request::DeleteSession("s:run:r"),
    );
    add(
        "delete a session whose run is named like a session",
        &usual,
        five_and(vec![saved(checkpoint("s:run:r", "m", "r", 1)), saved(plain("s:run:r", "n", 2))]),
        Request::DeleteSession("s"),
    );
    add(
        "delete a session whose index two prefixes share",
        &under("app:session:"),
        shared(),
        Request::DeleteSession("s"),
    );

    add("clear nothing", &usual, vec![], Request::ClearAll);
    add(
        "clear several sessions",
        &usual,
        five_and(vec![saved(checkpoint("t", "n", "r", 1)), saved(plain("u", "o", 2))]),
        Request::ClearAll,
    );
    add("clear all defects", &usual, wrong(), Request::ClearAll);
    add("clear a prefix of other prefixes", &under("app:"), shared(), Request::ClearAll);
    add("clear a prefix within another", &under("app:session:"), shared(), Request::ClearAll);
    add("clear expired checkpoints with index entries", &usual, five_gone(), Request::ClearAll);

    let mine = |id, second| checkpoint("s", id, "r", second);
    let after = |checkpoint, latest| Request::SaveAfter(checkpoint, latest);
    add("save the first after none", &usual, vec![], after(mine("n", 9), None));
    add("save after none where there is one", &usual, five(), after(mine("n", 9), None));
    add("save after the latest", &usual, five(), after(mine("n", 9), Some("e")));
    add("save after another than the latest", &usual, five(), after(mine("n", 9), Some("d")));
    add("save after one that does not exist", &usual, vec![], after(mine("n", 9), Some("d")));
    add("save too early after the latest", &usual, five(), after(mine("n", 0), Some("e")));
    add("save the latest after itself", &usual, five(), after(plain("s", "e", 9), Some("e")));
    add("save one that is there after the latest", &usual, five(), after(mine("d", 9), Some("e")));
    add("save an identical one", &usual, five(), after(mine("d", 4), Some("c")));
    add(
        "save an id of another session after none",
        &usual,
        five(),
        after(checkpoint("t", "a", "r", 9), None),
    );
    add(
        "save after the latest that lives",
        &usual,
        five_and(vec![gone("e")]),
        after(mine("n", 9), Some("d")),
    );
    add("save after the latest of all defects", &usual, wrong(), after(mine("n", 9), Some("g")));
    add("save after the latest at the limit", &limited(2), five(), after(mine("n", 9), Some("e")));
    add("save after another at the limit", &limited(2), five(), after(mine("n", 0), Some("d")));
    add(
        "save after the latest below foreign entries",
        &usual,
        five_and(vec![saved(checkpoint("t", "o", "r", 7)), entry("s", "o", 2e9), entry("s", "never", 3e9)]),
        after(mine("n", 9), Some("e")),
    );

    let pinned = |id| asked(&usual, Request::PinCheckpoint("s", id));
    let pinned_session = || asked(&usual, Request::PinSession("s"));
    add("pin one", &usual, five(), Request::PinCheckpoint("s", "a"));
    add("pin one that does not exist", &usual, five(), Request::PinCheckpoint("s", "n"));
    add("pin one of another session", &usual, five(), Request::PinCheckpoint("t", "a"));
    add("pin a session", &usual, five(), Request::PinSession("s"));
    add("pin a session with all defects", &usual, wrong(), Request::PinSession("s"));
    add("pin an empty session", &usual, vec![], Request::PinSession("s"));
    add("unpin one", &usual, five_and(vec![pinned("a")]), Request::UnpinCheckpoint("s", "a"));
    add("unpin a session", &usual, five_and(vec![pinned_session()]), Request::UnpinSession("s"));
    add("unpin a session that is not pinned", &usual, wrong(), Request::UnpinSession("s"));
    add("save into a pinned session", &usual, five_and(vec![pinned_session()]), save(mine("n", 9)));
    add("save a pinned one again", &usual, five_and(vec![pinned("a")]), save(mine("a", 9)));
    add(
        "save after the latest of a pinned session",
        &usual,
        five_and(vec![pinned_session()]),
        after(mine("n", 9), Some("e")),
    );
    add("delete a pinned session", &usual, five_and(vec![pinned_session()]), Request::DeleteSession("s"));
    add("clear pinned sessions", &usual, five_and(vec![pinned_session()]), Request::ClearAll);

    if ttl.is_some() {
        let whole = Options { session_ttl: true, ..usual.clone() };
        let refreshing = Options { refresh_on_read: true, ..usual.clone() };
        let refreshing_whole = Options { refresh_on_read: true, ..whole.clone() };
        add("save into a session with a session TTL", &whole, five(), save(mine("n", 9)));
        add("save one that changes its run there", &whole, five(), save(mine("b", 9)));
        add("save there among all defects", &whole, wrong(), save(mine("n", 9)));
        add("save after the latest there", &whole, five(), after(mine("n", 9), Some("e")));
        add("save after another there", &whole, five(), after(mine("n", 9), Some("d")));
        add(
            "save there at the limit",
            &Options { max_checkpoints: Some(2), ..whole },
            five(),
            save(mine("n", 9)),
        );
        for options in [&refreshing, &refreshing_whole] {
            add("load and refresh", options, five(), Request::Load("s", "b"));
            add("load nothing to refresh", options, five(), Request::Load("s", "n"));
            add("load the latest and refresh", options, five(), Request::Latest("s"));
            add("load a document and refresh", options, five(), Request::LatestDocument("s"));
            add("list and refresh", options, five(), Request::List("s", None));
            add("list a run and refresh", options, five(), Request::ListByRun("s", "r", None));
        }
    }

    let mut add = |name, options: &Options, request| {
        let (options, given) = (options.clone(), many());
        scenarios.push(Scenario { name, options, given, request, is_large: true });
    };
    add("save with a limit that was lowered by very many", &limited(1), save(checkpoint("s", "n", "r", 999)));
    add("save one that is too old with very many over", &limited(1), save(checkpoint("s", "0001", "r", 0)));
    add("delete a session of very many checkpoints", &usual, Request::DeleteSession("s"));
    add("pin a session of very many checkpoints", &usual, Request::PinSession("s"));
    if ttl.is_some() {
        let whole = Options { session_ttl: true, ..usual.clone() };
        add("save into a session of very many checkpoints with a session TTL", &whole, save(mine("n", 999)));
    }
    scenarios
}
