//! Random sequences of operations against a small model, compared after each step
//! with everything that can be read: over SQLite and Redis, in both modes and
//! both layouts.
//!
//! `MODEL_CASES` sets the number of sequences. The default is 256 with the long
//! tests and 16 without, and a quarter of that if not all prefixes have the
//! layout `llmfy`. A sequence that fails is shortened and stored in
//! `model.regressions` beside this file; those are tried first from then on.

use std::collections::BTreeMap;
use std::time::Duration;

use checkpointer::{Checkpoint, Conflict, Error, Layout, SaveOutcome, Timestamp};
use checkpointer_tests::checkpointer_under_test::{CheckpointerUnderTest, Mode, Options};
use checkpointer_tests::contract::{Backend, TestStore};
use checkpointer_tests::long_tests;
use checkpointer_tests::samples::{checkpoint, plain};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

const STEPS: usize = 50;

/// Nested prefixes: one produces equal index names, and one has its keys among
/// the documents of another.
const PREFIXES: [&str; 5] = ["app:", "app:session:", "app:checkpoint:", "app:eu:", "a*[p]{p}\\%?:"];
const SESSIONS: [&str; 5] = ["s", "s:run:r", "s:run", "session:s", "{é}?*%"];
const RUNS: [Option<&str>; 5] = [None, Some("r"), Some("q"), Some("r:run:r"), Some("run:r")];
const IDS: [&str; 5] = ["c", "d", "checkpoint:c", "*", "{e}"];

/// The layout of each prefix.
type Layouts = [Layout; PREFIXES.len()];

const LLMFYS: Layouts = [Layout::Llmfy; PREFIXES.len()];
const PARTITIONED: Layouts = [Layout::Partitioned; PREFIXES.len()];
const MIXED: Layouts =
    [Layout::Llmfy, Layout::Partitioned, Layout::Partitioned, Layout::Llmfy, Layout::Partitioned];

/// The TTLs of the checkpointers of a prefix, each with seconds, whether it is a
/// session TTL, and whether reads refresh it.
const TTLS: [Option<(u64, bool, bool)>; 5] = [
    None,
    Some((1000, false, false)),
    Some((1000, false, true)),
    Some((1500, true, false)),
    Some((1500, true, true)),
];

/// Time passes in steps of this many seconds, so long that the duration of the
/// test does not matter.
const SECONDS: u64 = 400;

/// The id, which differs per prefix: of two checkpoints with equal ids in an
/// index that two prefixes share, the index has the score of the one saved last.
fn id_of(prefix: usize, id: usize) -> String {
    format!("{}{prefix}", IDS[id])
}

/// The caller of a step: a prefix, options and a session.
#[derive(Clone, Copy, Debug)]
struct Caller {
    prefix: usize,
    options: usize,
    session: usize,
}

/// An operation. Numbers are positions in the arrays above.
#[derive(Clone, Debug)]
enum Step {
    Save {
        run: usize,
        id: usize,
        second: u32,
        text: u32,
    },
    /// The expected latest checkpoint: the actual one, none, or any id.
    SaveAfter {
        run: usize,
        id: usize,
        second: u32,
        believed: Option<Option<usize>>,
    },
    Load {
        id: usize,
    },
    LoadLatest,
    List {
        limit: u32,
    },
    ListByRun {
        run: usize,
    },
    Delete {
        id: usize,
    },
    DeleteSession,
    ClearAll,
    Pin {
        id: Option<usize>,
    },
    Unpin {
        id: Option<usize>,
    },
    TimePasses {
        times: u32,
    },
}

fn caller() -> impl Strategy<Value = Caller> {
    (0..PREFIXES.len(), 0..TTLS.len(), 0..SESSIONS.len()).prop_map(|(prefix, options, session)| Caller {
        prefix,
        options,
        session,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let (run, id, second) = (0..RUNS.len(), 0..IDS.len(), 0_u32..4);
    prop_oneof![
        14 => (run.clone(), id.clone(), second.clone(), any::<u32>())
            .prop_map(|(run, id, second, text)| Step::Save { run, id, second, text }),
        6 => (run, id.clone(), second, prop::option::of(prop::option::of(id.clone())))
            .prop_map(|(run, id, second, believed)| Step::SaveAfter { run, id, second, believed }),
        2 => id.clone().prop_map(|id| Step::Load { id }),
        1 => Just(Step::LoadLatest),
        2 => (0_u32..4).prop_map(|limit| Step::List { limit }),
        1 => (1..RUNS.len()).prop_map(|run| Step::ListByRun { run }),
        2 => id.clone().prop_map(|id| Step::Delete { id }),
        1 => Just(Step::DeleteSession),
        1 => Just(Step::ClearAll),
        2 => prop::option::of(id.clone()).prop_map(|id| Step::Pin { id }),
        1 => prop::option::of(id).prop_map(|id| Step::Unpin { id }),
        6 => (1_u32..4).prop_map(|times| Step::TimePasses { times }),
    ]
}

/// A checkpoint that exists until a time.
#[derive(Clone)]
struct Kept {
    checkpoint: Checkpoint,
    until: u64,
}

/// The expected contents: the checkpoints of each prefix by id, in the layout
/// `partitioned` also by session, and the pinned sessions.
struct Model {
    layouts: Layouts,
    now: u64,
    checkpoints: BTreeMap<Key, Kept>,
    pinned: BTreeMap<(usize, usize), ()>,
}

/// A prefix, the session in the layout `partitioned`, and an id.
type Key = (usize, Option<usize>, String);

const NEVER: u64 = u64::MAX;

impl Model {
    fn new(layouts: Layouts) -> Self {
        Self { layouts, now: 0, checkpoints: BTreeMap::new(), pinned: BTreeMap::new() }
    }

    fn key(&self, caller: Caller, id: String) -> Key {
        let is_own = self.layouts[caller.prefix] == Layout::Partitioned;
        (caller.prefix, is_own.then_some(caller.session), id)
    }

    /// The checkpoint with the key of the one to be saved.
    fn existing(&self, caller: Caller, id: usize) -> Option<&Checkpoint> {
        Some(&self.checkpoints.get(&self.key(caller, id_of(caller.prefix, id)))?.checkpoint)
    }

    /// The checkpoints of a session, newest first.
    fn session(&self, prefix: usize, session: &str) -> Vec<Checkpoint> {
        let all = self.checkpoints.iter().filter(|((other, ..), _)| *other == prefix);
        let mut found: Vec<_> = all.map(|(_, kept)| kept.checkpoint.clone()).collect();
        found.retain(|checkpoint| checkpoint.metadata.session_id == session);
        found.sort_by_key(position_of);
        found.reverse();
        found
    }

    fn of_run(&self, prefix: usize, session: &str, run: &str) -> Vec<Checkpoint> {
        let mut found = self.session(prefix, session);
        found.retain(|it| it.metadata.run.as_ref().is_some_and(|other| other.run_id == run));
        found
    }

    /// When a checkpoint saved now expires.
    fn until(&self, caller: Caller) -> u64 {
        match TTLS[caller.options] {
            Some((seconds, ..)) if !self.pinned.contains_key(&(caller.prefix, caller.session)) => {
                self.now + seconds
            }
            _ => NEVER,
        }
    }

    fn save(&mut self, caller: Caller, checkpoint: Checkpoint) {
        let until = self.until(caller);
        self.extend_session(caller);
        let key = self.key(caller, checkpoint.metadata.checkpoint_id.clone());
        self.checkpoints.insert(key, Kept { checkpoint, until });
    }

    /// The outcome of the save that was just applied.
    fn outcome(&self, caller: Caller, saved: &Checkpoint) -> SaveOutcome {
        let latest = self.session(caller.prefix, SESSIONS[caller.session]).swap_remove(0);
        if latest == *saved {
            return SaveOutcome::Latest;
        }
        let ahead = latest.metadata.timestamp.unix_micros() - saved.metadata.timestamp.unix_micros();
        SaveOutcome::NotLatest {
            latest_id: latest.metadata.checkpoint_id,
            ahead: Duration::from_micros(ahead.unsigned_abs()),
        }
    }

    /// With a session TTL, extends the TTLs of the session.
    fn extend_session(&mut self, caller: Caller) {
        if matches!(TTLS[caller.options], Some((_, true, _))) {
            self.set_expiry(caller, |_| true, self.until(caller), false);
        }
    }

    /// Refreshes the TTLs of read checkpoints.
    fn refresh(&mut self, caller: Caller, read: &[Checkpoint]) {
        let Some((seconds, of_session, true)) = TTLS[caller.options] else { return };
        if !read.is_empty() {
            let until = self.now + seconds;
            self.set_expiry(caller, |it| of_session || read.contains(it), until, false);
        }
    }

    /// Sets or extends the expiry of checkpoints of a session. Returns how many.
    fn set_expiry(
        &mut self,
        caller: Caller,
        which: impl Fn(&Checkpoint) -> bool,
        until: u64,
        shorten: bool,
    ) -> u64 {
        let mut count = 0;
        for ((prefix, ..), kept) in &mut self.checkpoints {
            let of_session = kept.checkpoint.metadata.session_id == SESSIONS[caller.session];
            if *prefix == caller.prefix && of_session && which(&kept.checkpoint) {
                kept.until = if shorten { until } else { kept.until.max(until) };
                count += 1;
            }
        }
        count
    }

    fn remove(&mut self, condition: impl Fn(usize, &Checkpoint) -> bool) -> u64 {
        let before = self.checkpoints.len();
        self.checkpoints.retain(|(prefix, ..), kept| !condition(*prefix, &kept.checkpoint));
        (before - self.checkpoints.len()) as u64
    }
}

fn position_of(checkpoint: &Checkpoint) -> (Timestamp, String) {
    (checkpoint.metadata.timestamp, checkpoint.metadata.checkpoint_id.clone())
}

fn new_checkpoint(caller: Caller, run: usize, id: usize, second: u32) -> Checkpoint {
    let (session, id) = (SESSIONS[caller.session], id_of(caller.prefix, id));
    match RUNS[run] {
        Some(run) => checkpoint(session, &id, run, second),
        None => plain(session, &id, second),
    }
}

/// Applies a step to the checkpointer and to the model, and compares the results.
async fn apply(
    caller: Caller,
    step: &Step,
    store: &TestStore,
    checkpointers: &[Vec<CheckpointerUnderTest>],
    model: &mut Model,
) {
    let checkpointer = &checkpointers[caller.prefix][caller.options];
    let session = SESSIONS[caller.session];
    let of_session = |prefix, it: &Checkpoint| prefix == caller.prefix && it.metadata.session_id == session;
    let has_id = |it: &Checkpoint, id: usize| it.metadata.checkpoint_id == id_of(caller.prefix, id);
    match *step {
        Step::Save { run, id, second, text } => {
            let mut saved = new_checkpoint(caller, run, id, second);
            saved.state = text.to_string();
            let there = model.existing(caller, id);
            let is_in_use = there.is_some_and(|old| old.metadata.session_id != session);
            match checkpointer.save(&saved).await {
                Ok(outcome) if !is_in_use => {
                    model.save(caller, saved.clone());
                    assert_eq!(outcome, model.outcome(caller, &saved));
                }
                Err(Error::Conflict(Conflict::IdInUse { .. })) if is_in_use => {}
                other => panic!("{other:?}, and the id is taken: {is_in_use}"),
            }
        }
        Step::SaveAfter { run, id, second, believed } => {
            let saved = new_checkpoint(caller, run, id, second);
            let latest = model.session(caller.prefix, session).first().cloned();
            let latest_id = latest.as_ref().map(|latest| latest.metadata.checkpoint_id.clone());
            let believed = match believed {
                None => latest_id.clone(),
                Some(id) => id.map(|id| id_of(caller.prefix, id)),
            };
            let there = model.existing(caller, id);
            let is_in_use = there.is_some_and(|old| old.metadata.session_id != session);
            let is_there = there == Some(&saved);
            let is_later = latest.is_none_or(|latest| position_of(&latest) <= position_of(&saved));
            match checkpointer.save_after(&saved, believed.as_deref()).await {
                Ok(SaveOutcome::Latest) if !is_in_use && believed == latest_id && is_later => {
                    model.save(caller, saved)
                }
                // An earlier attempt may have been interrupted: the TTLs of the session
                // are extended.
                Ok(_) if is_there => model.extend_session(caller),
                Err(Error::Conflict(Conflict::IdInUse { .. })) if is_in_use => {}
                Err(Error::Conflict(Conflict::NotLatest { actual })) if !is_in_use && !is_there => {
                    assert_ne!(believed, latest_id);
                    assert_eq!(actual, latest_id);
                }
                Err(Error::InvalidArgument(_)) if !is_in_use && !is_there => {
                    assert!(believed == latest_id && !is_later);
                }
                other => panic!("{other:?} after {believed:?} where {latest_id:?} is the latest"),
            }
        }
        Step::Load { id } => {
            let loaded = checkpointer.load(session, &id_of(caller.prefix, id)).await.expect("an answer");
            let mut expected = model.session(caller.prefix, session);
            expected.retain(|it| has_id(it, id));
            assert_eq!(loaded.as_ref(), expected.first());
            model.refresh(caller, &expected);
        }
        Step::LoadLatest => {
            let loaded = checkpointer.latest(session).await.expect("an answer");
            let mut expected = model.session(caller.prefix, session);
            expected.truncate(1);
            assert_eq!(loaded.as_ref(), expected.first());
            model.refresh(caller, &expected);
        }
        Step::List { limit } => {
            let listed = checkpointer.list(session, Some(limit)).await.expect("a history").checkpoints;
            let mut expected = model.session(caller.prefix, session);
            expected.truncate(limit as usize);
            assert_eq!(listed, expected);
            model.refresh(caller, &expected);
        }
        Step::ListByRun { run } => {
            let run = RUNS[run].unwrap_or_default();
            let listed =
                checkpointer.list_by_run(session, run, Some(100)).await.expect("a history").checkpoints;
            let expected = model.of_run(caller.prefix, session, run);
            assert_eq!(listed, expected);
            model.refresh(caller, &expected);
        }
        Step::Delete { id } => {
            let removed =
                checkpointer.delete_checkpoint(session, &id_of(caller.prefix, id)).await.expect("an answer");
            let expected = model.remove(|prefix, it| of_session(prefix, it) && has_id(it, id));
            assert_eq!(u64::from(removed), expected);
        }
        Step::DeleteSession => {
            let removed = checkpointer.delete_session(session).await.expect("an answer");
            assert_eq!(removed, model.remove(of_session));
            model.pinned.remove(&(caller.prefix, caller.session));
        }
        Step::ClearAll => {
            let removed = checkpointer.clear_all().await.expect("an answer");
            assert_eq!(removed, model.remove(|prefix, _| prefix == caller.prefix));
            model.pinned.retain(|(prefix, _), ()| *prefix != caller.prefix);
        }
        Step::Pin { id } => {
            let pinned = match id {
                Some(id) => {
                    checkpointer.pin_checkpoint(session, &id_of(caller.prefix, id)).await.map(u64::from)
                }
                None => checkpointer.pin_session(session).await,
            };
            let pinned = pinned.expect("pinned");
            assert_eq!(
                pinned,
                model.set_expiry(caller, |it| id.is_none_or(|id| has_id(it, id)), NEVER, false)
            );
            if id.is_none() {
                model.pinned.insert((caller.prefix, caller.session), ());
            }
        }
        Step::Unpin { id } => {
            let ended = match id {
                Some(id) => {
                    checkpointer.unpin_checkpoint(session, &id_of(caller.prefix, id)).await.map(u64::from)
                }
                None => checkpointer.unpin_session(session).await,
            };
            let ended = ended.expect("ended");
            if id.is_none() {
                model.pinned.remove(&(caller.prefix, caller.session));
            }
            let until = model.until(caller);
            assert_eq!(ended, model.set_expiry(caller, |it| id.is_none_or(|id| has_id(it, id)), until, true));
            // Unpinning a checkpoint extends its session like a save.
            if id.is_some() && ended > 0 {
                model.extend_session(caller);
            }
        }
        Step::TimePasses { times } => {
            let seconds = SECONDS * u64::from(times);
            store.pass(Duration::from_secs(seconds)).await;
            model.now += seconds;
            let now = model.now;
            model.checkpoints.retain(|_, kept| kept.until > now);
        }
    }
}

/// Compares every session of every prefix, and the runs of those that `with_runs`
/// selects, through checkpointers that do not refresh.
async fn compare(
    checkpointers: &[Vec<CheckpointerUnderTest>],
    model: &Model,
    with_runs: impl Fn(usize, &str) -> bool,
) {
    let with_runs = &with_runs;
    let sessions = checkpointers.iter().enumerate().flat_map(|(prefix, checkpointers)| {
        SESSIONS.into_iter().map(move |session| async move {
            let checkpointer = &checkpointers[0];
            let expected = model.session(prefix, session);
            let history = checkpointer.list(session, Some(100)).await.expect("a history");
            assert_eq!(history.unreadable, []);
            assert_eq!(history.checkpoints, expected, "{} {session}", PREFIXES[prefix]);
            let latest = checkpointer.latest(session).await.expect("an answer");
            assert_eq!(latest.as_ref(), expected.first());
            for run in RUNS.into_iter().flatten().filter(|_| with_runs(prefix, session)) {
                let history = checkpointer.list_by_run(session, run, Some(100)).await.expect("a history");
                assert_eq!(history.checkpoints, model.of_run(prefix, session, run));
            }
        })
    });
    join_all(sessions).await;
}

fn options(prefix: &str, ttl: Option<(u64, bool, bool)>) -> Options {
    let (seconds, of_session, refresh_on_read) = ttl.unwrap_or_default();
    Options {
        ttl: ttl.map(|_| Duration::from_secs(seconds)),
        session_ttl: of_session,
        refresh_on_read,
        ..Options::prefix(prefix)
    }
}

fn matches_the_model(backend: Backend, mode: Mode, layouts: Layouts) {
    let default =
        if long_tests::are_requested("most of the random sequences of the model") { 256 } else { 16 };
    let cases = std::env::var("MODEL_CASES").map_or(default, |cases| cases.parse().expect("a number"));
    let is_usual = layouts == LLMFYS && backend != Backend::RedisSlot;
    let cases = if is_usual { cases } else { u32::div_ceil(cases, 4) };
    let regressions =
        FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/model.regressions"));
    let config = Config {
        cases,
        max_shrink_iters: 500,
        failure_persistence: Some(Box::new(regressions)),
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut store = runtime.block_on(async {
        match backend {
            Backend::File | Backend::Memory => TestStore::in_memory_file().await,
            backend => TestStore::new(backend).await,
        }
    });
    let checkpointers = runtime.block_on(async {
        let mut checkpointers = Vec::new();
        for (prefix, layout) in PREFIXES.into_iter().zip(layouts) {
            store.layout = layout;
            let mut ways = Vec::new();
            for ttl in TTLS {
                ways.push(store.open(mode, &options(prefix, ttl)).await);
            }
            checkpointers.push(ways);
        }
        checkpointers
    });
    // A step can be left out, so that a sequence can be shortened.
    let sequences = prop::collection::vec(prop::option::weighted(0.999, (caller(), step())), STEPS);
    let result = runner.run(&sequences, |steps| {
        runtime.block_on(async {
            // The previous sequence may have failed.
            store.clear().await;
            let mut model = Model::new(layouts);
            for (caller, step) in steps.iter().flatten() {
                apply(*caller, step, &store, &checkpointers, &mut model).await;
                compare(&checkpointers, &model, |prefix, session| {
                    prefix == caller.prefix && session == SESSIONS[caller.session]
                })
                .await;
            }
            compare(&checkpointers, &model, |_, _| true).await;
            // In the end no key is left, and no dangling entry.
            for checkpointer in &checkpointers {
                checkpointer[0].clear_all().await.expect("cleared");
            }
            assert_eq!(store.keys("").await, [""; 0]);
        });
        Ok(())
    });
    result.expect("the model and the checkpointer agree");
}

#[test]
fn sqlite_native_matches_the_model() {
    matches_the_model(Backend::Memory, Mode::Native, LLMFYS);
}

#[test]
fn sqlite_component_matches_the_model() {
    matches_the_model(Backend::Memory, Mode::Component, LLMFYS);
}

#[test]
fn redis_native_matches_the_model() {
    matches_the_model(Backend::Redis, Mode::Native, LLMFYS);
}

#[test]
fn redis_component_matches_the_model() {
    matches_the_model(Backend::Redis, Mode::Component, LLMFYS);
}

#[test]
fn sqlite_component_partitioned_matches_the_model() {
    matches_the_model(Backend::Memory, Mode::Component, PARTITIONED);
}

#[test]
fn redis_component_partitioned_matches_the_model() {
    matches_the_model(Backend::Redis, Mode::Component, PARTITIONED);
}

#[test]
fn one_slot_of_a_cluster_matches_the_model() {
    matches_the_model(Backend::RedisSlot, Mode::Component, LLMFYS);
}

#[test]
fn a_cluster_partitioned_matches_the_model() {
    matches_the_model(Backend::RedisCluster, Mode::Component, PARTITIONED);
}

#[test]
fn mixed_layouts_match_the_model() {
    matches_the_model(Backend::Memory, Mode::Native, MIXED);
}
