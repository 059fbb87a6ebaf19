//! Random sequences of operations against a model in a few lines, compared after
//! each step with all that can be read, over SQLite and Redis, natively and as
//! the component, in both layouts.
//!
//! `MODEL_CASES` sets how many sequences are drawn, 256 unless said; a quarter of
//! that where not all prefixes have llmfy's layout. A sequence
//! that fails is shortened and kept in `model.regressions` beside this file,
//! whose cases are tried first from then on.

use std::collections::BTreeMap;
use std::time::Duration;

use checkpointer::{Checkpoint, Conflict, Error, Layout, SaveOutcome, Timestamp};
use checkpointer_tests::contract::{Backend, TestStore};
use checkpointer_tests::samples::{checkpoint, plain};
use checkpointer_tests::checkpointer_under_test::{Mode, Options, CheckpointerUnderTest};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

const STEPS: usize = 50;

/// One is the beginning of others, of which one makes indexes of the same name,
/// and one has all its keys where those of documents are.
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

/// How the checkpointers of a prefix are opened: without a ttl, with one of each
/// checkpoint, and with one of the session; the last two with refresh on read or
/// without.
const OPENINGS: [Option<(u64, bool, bool)>; 5] = [
    None,
    Some((1000, false, false)),
    Some((1000, false, true)),
    Some((1500, true, false)),
    Some((1500, true, true)),
];

/// Time passes in steps of so many seconds. It is so much longer than a test
/// takes that the real time makes no difference.
const SECONDS: u64 = 400;

/// The id, which differs from prefix to prefix: of two checkpoints with the same
/// id in an index that two prefixes share, the one saved last has the score.
fn id_of(prefix: usize, id: usize) -> String {
    format!("{}{prefix}", IDS[id])
}

/// Who does something: through which prefix, opened how, for which session.
#[derive(Clone, Copy, Debug)]
struct Who {
    prefix: usize,
    opening: usize,
    session: usize,
}

/// What is done in a step. The numbers say which of the names above.
#[derive(Clone, Debug)]
enum Step {
    Save {
        run: usize,
        id: usize,
        second: u32,
        text: u32,
    },
    /// What is believed to be the latest: the truth, nothing, or any id.
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

fn who() -> impl Strategy<Value = Who> {
    (0..PREFIXES.len(), 0..OPENINGS.len(), 0..SESSIONS.len()).prop_map(|(prefix, opening, session)| Who {
        prefix,
        opening,
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

/// A checkpoint that should be there, and until when.
#[derive(Clone)]
struct Kept {
    checkpoint: Checkpoint,
    until: u64,
}

/// What should be there: the checkpoints of each prefix by their ids, where these
/// are a session's own by that too, and the pinned sessions.
struct Model {
    layouts: Layouts,
    now: u64,
    checkpoints: BTreeMap<Key, Kept>,
    pinned: BTreeMap<(usize, usize), ()>,
}

/// A prefix, a session if ids are its own, and an id.
type Key = (usize, Option<usize>, String);

const NEVER: u64 = u64::MAX;

impl Model {
    fn new(layouts: Layouts) -> Self {
        Self { layouts, now: 0, checkpoints: BTreeMap::new(), pinned: BTreeMap::new() }
    }

    fn key(&self, who: Who, id: String) -> Key {
        let is_own = self.layouts[who.prefix] == Layout::Partitioned;
        (who.prefix, is_own.then_some(who.session), id)
    }

    /// The checkpoint that stands where one of this id is to be saved.
    fn standing(&self, who: Who, id: usize) -> Option<&Checkpoint> {
        Some(&self.checkpoints.get(&self.key(who, id_of(who.prefix, id)))?.checkpoint)
    }

    /// The checkpoints of a session, newest first.
    fn session(&self, prefix: usize, session: &str) -> Vec<Checkpoint> {
        let all = self.checkpoints.iter().filter(|((other, ..), _)| *other == prefix);
        let mut found: Vec<_> = all.map(|(_, kept)| kept.checkpoint.clone()).collect();
        found.retain(|checkpoint| checkpoint.metadata.session_id == session);
        found.sort_by_key(place_of);
        found.reverse();
        found
    }

    fn of_run(&self, prefix: usize, session: &str, run: &str) -> Vec<Checkpoint> {
        let mut found = self.session(prefix, session);
        found.retain(|it| it.metadata.run.as_ref().is_some_and(|other| other.run_id == run));
        found
    }

    /// When what is saved now goes away.
    fn until(&self, who: Who) -> u64 {
        match OPENINGS[who.opening] {
            Some((seconds, ..)) if !self.pinned.contains_key(&(who.prefix, who.session)) => {
                self.now + seconds
            }
            _ => NEVER,
        }
    }

    fn save(&mut self, who: Who, checkpoint: Checkpoint) {
        let until = self.until(who);
        self.prolong(who);
        let key = self.key(who, checkpoint.metadata.checkpoint_id.clone());
        self.checkpoints.insert(key, Kept { checkpoint, until });
    }

    /// The outcome of the save that was just made.
    fn outcome(&self, who: Who, saved: &Checkpoint) -> SaveOutcome {
        let latest = self.session(who.prefix, SESSIONS[who.session]).swap_remove(0);
        if latest == *saved {
            return SaveOutcome::Latest;
        }
        let ahead = latest.metadata.timestamp.unix_micros() - saved.metadata.timestamp.unix_micros();
        SaveOutcome::NotLatest {
            latest_id: latest.metadata.checkpoint_id,
            ahead: Duration::from_micros(ahead.unsigned_abs()),
        }
    }

    /// What is in a session that lives as a whole lives on.
    fn prolong(&mut self, who: Who) {
        if matches!(OPENINGS[who.opening], Some((_, true, _))) {
            self.live(who, |_| true, self.until(who), false);
        }
    }

    /// What was read lives on.
    fn refresh(&mut self, who: Who, read: &[Checkpoint]) {
        let Some((seconds, of_session, true)) = OPENINGS[who.opening] else { return };
        if !read.is_empty() {
            let until = self.now + seconds;
            self.live(who, |it| of_session || read.contains(it), until, false);
        }
    }

    /// Lets checkpoints of a session live until then; says how many there are.
    fn live(&mut self, who: Who, which: impl Fn(&Checkpoint) -> bool, until: u64, shorten: bool) -> u64 {
        let mut count = 0;
        for ((prefix, ..), kept) in &mut self.checkpoints {
            let of_session = kept.checkpoint.metadata.session_id == SESSIONS[who.session];
            if *prefix == who.prefix && of_session && which(&kept.checkpoint) {
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

fn place_of(checkpoint: &Checkpoint) -> (Timestamp, String) {
    (checkpoint.metadata.timestamp, checkpoint.metadata.checkpoint_id.clone())
}

fn new_checkpoint(who: Who, run: usize, id: usize, second: u32) -> Checkpoint {
    let (session, id) = (SESSIONS[who.session], id_of(who.prefix, id));
    match RUNS[run] {
        Some(run) => checkpoint(session, &id, run, second),
        None => plain(session, &id, second),
    }
}

/// Does one step in both, and compares what they say.
async fn take(who: Who, step: &Step, place: &TestStore, subjects: &[Vec<CheckpointerUnderTest>], model: &mut Model) {
    let subject = &subjects[who.prefix][who.opening];
    let session = SESSIONS[who.session];
    let of_session = |prefix, it: &Checkpoint| prefix == who.prefix && it.metadata.session_id == session;
    let has_id = |it: &Checkpoint, id: usize| it.metadata.checkpoint_id == id_of(who.prefix, id);
    match *step {
        Step::Save { run, id, second, text } => {
            let mut saved = new_checkpoint(who, run, id, second);
            saved.state = text.to_string();
            let there = model.standing(who, id);
            let is_taken = there.is_some_and(|old| old.metadata.session_id != session);
            match subject.save(&saved).await {
                Ok(outcome) if !is_taken => {
                    model.save(who, saved.clone());
                    assert_eq!(outcome, model.outcome(who, &saved));
                }
                Err(Error::Conflict(Conflict::IdInUse { .. })) if is_taken => {}
                other => panic!("{other:?}, and the id is taken: {is_taken}"),
            }
        }
        Step::SaveAfter { run, id, second, believed } => {
            let saved = new_checkpoint(who, run, id, second);
            let latest = model.session(who.prefix, session).first().cloned();
            let latest_id = latest.as_ref().map(|latest| latest.metadata.checkpoint_id.clone());
            let believed = match believed {
                None => latest_id.clone(),
                Some(id) => id.map(|id| id_of(who.prefix, id)),
            };
            let there = model.standing(who, id);
            let is_taken = there.is_some_and(|old| old.metadata.session_id != session);
            let is_there = there == Some(&saved);
            let is_later = latest.is_none_or(|latest| place_of(&latest) <= place_of(&saved));
            match subject.save_after(&saved, believed.as_deref()).await {
                Ok(SaveOutcome::Latest) if !is_taken && believed == latest_id && is_later => model.save(who, saved),
                // An earlier try may have been cut: the rest of the session follows.
                Ok(_) if is_there => model.prolong(who),
                Err(Error::Conflict(Conflict::IdInUse { .. })) if is_taken => {}
                Err(Error::Conflict(Conflict::NotLatest { actual })) if !is_taken && !is_there => {
                    assert_ne!(believed, latest_id);
                    assert_eq!(actual, latest_id);
                }
                Err(Error::InvalidArgument(_)) if !is_taken && !is_there => {
                    assert!(believed == latest_id && !is_later);
                }
                other => panic!("{other:?} after {believed:?} where {latest_id:?} is the latest"),
            }
        }
        Step::Load { id } => {
            let loaded = subject.load(session, &id_of(who.prefix, id)).await.expect("an answer");
            let mut expected = model.session(who.prefix, session);
            expected.retain(|it| has_id(it, id));
            assert_eq!(loaded.as_ref(), expected.first());
            model.refresh(who, &expected);
        }
        Step::LoadLatest => {
            let loaded = subject.latest(session).await.expect("an answer");
            let mut expected = model.session(who.prefix, session);
            expected.truncate(1);
            assert_eq!(loaded.as_ref(), expected.first());
            model.refresh(who, &expected);
        }
        Step::List { limit } => {
            let listed = subject.list(session, Some(limit)).await.expect("a history").checkpoints;
            let mut expected = model.session(who.prefix, session);
            expected.truncate(limit as usize);
            assert_eq!(listed, expected);
            model.refresh(who, &expected);
        }
        Step::ListByRun { run } => {
            let run = RUNS[run].unwrap_or_default();
            let listed = subject.list_by_run(session, run, Some(100)).await.expect("a history").checkpoints;
            let expected = model.of_run(who.prefix, session, run);
            assert_eq!(listed, expected);
            model.refresh(who, &expected);
        }
        Step::Delete { id } => {
            let removed = subject.delete_checkpoint(session, &id_of(who.prefix, id)).await.expect("an answer");
            let expected = model.remove(|prefix, it| of_session(prefix, it) && has_id(it, id));
            assert_eq!(u64::from(removed), expected);
        }
        Step::DeleteSession => {
            let removed = subject.delete_session(session).await.expect("an answer");
            assert_eq!(removed, model.remove(of_session));
            model.pinned.remove(&(who.prefix, who.session));
        }
        Step::ClearAll => {
            let removed = subject.clear_all().await.expect("an answer");
            assert_eq!(removed, model.remove(|prefix, _| prefix == who.prefix));
            model.pinned.retain(|(prefix, _), ()| *prefix != who.prefix);
        }
        Step::Pin { id } => {
            let pinned = match id {
                Some(id) => subject.pin_checkpoint(session, &id_of(who.prefix, id)).await.map(u64::from),
                None => subject.pin_session(session).await,
            };
            let pinned = pinned.expect("pinned");
            assert_eq!(pinned, model.live(who, |it| id.is_none_or(|id| has_id(it, id)), NEVER, false));
            if id.is_none() {
                model.pinned.insert((who.prefix, who.session), ());
            }
        }
        Step::Unpin { id } => {
            let ended = match id {
                Some(id) => subject.unpin_checkpoint(session, &id_of(who.prefix, id)).await.map(u64::from),
                None => subject.unpin_session(session).await,
            };
            let ended = ended.expect("ended");
            if id.is_none() {
                model.pinned.remove(&(who.prefix, who.session));
            }
            let until = model.until(who);
            assert_eq!(ended, model.live(who, |it| id.is_none_or(|id| has_id(it, id)), until, true));
            // One that lives on takes its session along, like one that is saved.
            if id.is_some() && ended > 0 {
                model.prolong(who);
            }
        }
        Step::TimePasses { times } => {
            let seconds = SECONDS * u64::from(times);
            place.pass(Duration::from_secs(seconds)).await;
            model.now += seconds;
            let now = model.now;
            model.checkpoints.retain(|_, kept| kept.until > now);
        }
    }
}

/// Compares what is in every session of every prefix, and in the runs of those
/// that `with_runs` says, by checkpointers that refresh nothing.
async fn compare(subjects: &[Vec<CheckpointerUnderTest>], model: &Model, with_runs: impl Fn(usize, &str) -> bool) {
    let with_runs = &with_runs;
    let sessions = subjects.iter().enumerate().flat_map(|(prefix, subjects)| {
        SESSIONS.into_iter().map(move |session| async move {
            let subject = &subjects[0];
            let expected = model.session(prefix, session);
            let history = subject.list(session, Some(100)).await.expect("a history");
            assert_eq!(history.unreadable, []);
            assert_eq!(history.checkpoints, expected, "{} {session}", PREFIXES[prefix]);
            let latest = subject.latest(session).await.expect("an answer");
            assert_eq!(latest.as_ref(), expected.first());
            for run in RUNS.into_iter().flatten().filter(|_| with_runs(prefix, session)) {
                let history = subject.list_by_run(session, run, Some(100)).await.expect("a history");
                assert_eq!(history.checkpoints, model.of_run(prefix, session, run));
            }
        })
    });
    join_all(sessions).await;
}

fn opening(prefix: &str, ttl: Option<(u64, bool, bool)>) -> Options {
    let (seconds, of_session, refresh_on_read) = ttl.unwrap_or_default();
    Options {
        ttl: ttl.map(|_| Duration::from_secs(seconds)),
        session_ttl: of_session,
        refresh_on_read,
        ..Options::prefix(prefix)
    }
}

fn holds_to_the_model(kind: Backend, mode: Mode, layouts: Layouts) {
    let cases = std::env::var("MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256_u32);
    let is_usual = layouts == LLMFYS && kind != Backend::RedisSlot;
    let cases = if is_usual { cases } else { cases.div_ceil(4) };
    let regressions =
        FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model.regressions"));
    let config = Config {
        cases,
        max_shrink_iters: 500,
        failure_persistence: Some(Box::new(regressions)),
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut place = runtime.block_on(async {
        match kind {
            Backend::File | Backend::Memory => TestStore::in_memory_file().await,
            kind => TestStore::new(kind).await,
        }
    });
    let subjects = runtime.block_on(async {
        let mut subjects = Vec::new();
        for (prefix, layout) in PREFIXES.into_iter().zip(layouts) {
            place.layout = layout;
            let mut ways = Vec::new();
            for ttl in OPENINGS {
                ways.push(place.open(mode, &opening(prefix, ttl)).await);
            }
            subjects.push(ways);
        }
        subjects
    });
    // A step that can be left out, so that a sequence can be shortened.
    let sequences = prop::collection::vec(prop::option::weighted(0.999, (who(), step())), STEPS);
    let result = runner.run(&sequences, |steps| {
        runtime.block_on(async {
            // A sequence that failed has left something.
            place.clear().await;
            let mut model = Model::new(layouts);
            for (who, step) in steps.iter().flatten() {
                take(*who, step, &place, &subjects, &mut model).await;
                compare(&subjects, &model, |prefix, session| {
                    prefix == who.prefix && session == SESSIONS[who.session]
                })
                .await;
            }
            compare(&subjects, &model, |_, _| true).await;
            // At the end nothing is left, not even an entry that names nothing.
            for subject in &subjects {
                subject[0].clear_all().await.expect("cleared");
            }
            assert_eq!(place.keys("").await, [""; 0]);
        });
        Ok(())
    });
    result.expect("the model and the checkpointer agree");
}

#[test]
fn in_sqlite_natively() {
    holds_to_the_model(Backend::Memory, Mode::Native, LLMFYS);
}

#[test]
fn in_sqlite_as_the_component() {
    holds_to_the_model(Backend::Memory, Mode::Component, LLMFYS);
}

#[test]
fn in_redis_natively() {
    holds_to_the_model(Backend::Redis, Mode::Native, LLMFYS);
}

#[test]
fn in_redis_as_the_component() {
    holds_to_the_model(Backend::Redis, Mode::Component, LLMFYS);
}

#[test]
fn in_partitions_of_sqlite_as_the_component() {
    holds_to_the_model(Backend::Memory, Mode::Component, PARTITIONED);
}

#[test]
fn in_partitions_of_redis_as_the_component() {
    holds_to_the_model(Backend::Redis, Mode::Component, PARTITIONED);
}

#[test]
fn in_a_slot_of_a_cluster() {
    holds_to_the_model(Backend::RedisSlot, Mode::Component, LLMFYS);
}

#[test]
fn in_partitions_of_a_cluster() {
    holds_to_the_model(Backend::RedisCluster, Mode::Component, PARTITIONED);
}

#[test]
fn in_both_layouts_side_by_side() {
    holds_to_the_model(Backend::Memory, Mode::Native, MIXED);
}
