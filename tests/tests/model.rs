//! Random sequences of operations against a model in a few lines, step by step,
//! over every store, natively and as the component.
//!
//! `MODEL_CASES` sets how many sequences are drawn, 256 unless said. A sequence
//! that fails is shortened and kept beside this file.

use std::collections::BTreeMap;

use checkpointer::store::Operation;
use checkpointer::{Checkpoint, Conflict, Error};
use checkpointer_tests::contract::{Kind, Place};
use checkpointer_tests::samples::{checkpoint, plain};
use checkpointer_tests::subject::{Mode, Opening, Subject};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

const STEPS: usize = 50;

/// One is the beginning of others, and one makes indexes of the same name.
const PREFIXES: [&str; 4] = ["app:", "app:session:", "app:eu:", "a*[p]{p}\\%:"];
const SESSIONS: [&str; 5] = ["s", "s:run:r", "s:run", "session:s", "é?*"];
const RUNS: [Option<&str>; 5] = [None, Some("r"), Some("q"), Some("r:run:r"), Some("run:r")];
const IDS: [&str; 5] = ["c", "d", "checkpoint:c", "*", "{e}"];

/// The id, which differs from prefix to prefix: of two checkpoints with the same
/// id in an index that two prefixes share, the one saved last has the score.
fn id_of(prefix: usize, id: usize) -> String {
    format!("{}{prefix}", IDS[id])
}

/// What is done in a step. The numbers say which of the names above.
#[derive(Clone, Debug)]
enum Step {
    Save {
        prefix: usize,
        session: usize,
        run: usize,
        id: usize,
        second: u32,
        text: u32,
    },
    Load {
        prefix: usize,
        session: usize,
        id: usize,
    },
    Delete {
        prefix: usize,
        session: usize,
        id: usize,
    },
    DeleteSession {
        prefix: usize,
        session: usize,
    },
    ClearAll {
        prefix: usize,
    },
    /// The document goes by itself, as it does when it expires or is evicted.
    Expire {
        prefix: usize,
        id: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (prefix, session, run) = (0..PREFIXES.len(), 0..SESSIONS.len(), 0..RUNS.len());
    let id = 0..IDS.len();
    prop_oneof![
        12 => (prefix.clone(), session.clone(), run, id.clone(), 0_u32..4, any::<u32>()).prop_map(
            |(prefix, session, run, id, second, text)| Step::Save { prefix, session, run, id, second, text }
        ),
        3 => (prefix.clone(), session.clone(), id.clone())
            .prop_map(|(prefix, session, id)| Step::Load { prefix, session, id }),
        2 => (prefix.clone(), session.clone(), id.clone())
            .prop_map(|(prefix, session, id)| Step::Delete { prefix, session, id }),
        1 => (prefix.clone(), session).prop_map(|(prefix, session)| Step::DeleteSession { prefix, session }),
        1 => prefix.clone().prop_map(|prefix| Step::ClearAll { prefix }),
        3 => (prefix, id).prop_map(|(prefix, id)| Step::Expire { prefix, id }),
    ]
}

/// What should be there: the checkpoints of each prefix by their ids.
#[derive(Default)]
struct Model {
    checkpoints: BTreeMap<(usize, String), Checkpoint>,
}

impl Model {
    /// The checkpoints of a session, newest first.
    fn session(&self, prefix: usize, session: &str) -> Vec<Checkpoint> {
        let all = self.checkpoints.iter().filter(|((other, _), _)| *other == prefix);
        let mut found: Vec<_> = all.map(|(_, checkpoint)| checkpoint.clone()).collect();
        found.retain(|checkpoint| checkpoint.metadata.session_id == session);
        let place = |it: &Checkpoint| (it.metadata.timestamp.clone(), it.metadata.checkpoint_id.clone());
        found.sort_by_key(place);
        found.reverse();
        found
    }

    fn remove(&mut self, condition: impl Fn(usize, &Checkpoint) -> bool) -> u64 {
        let before = self.checkpoints.len();
        self.checkpoints.retain(|(prefix, _), checkpoint| !condition(*prefix, checkpoint));
        (before - self.checkpoints.len()) as u64
    }
}

fn run_of(checkpoint: &Checkpoint) -> Option<&str> {
    checkpoint.metadata.run.as_ref().map(|run| run.run_id.as_str())
}

/// Does one step in both, and compares what they say.
async fn take(step: &Step, place: &Place, subjects: &[Subject], model: &mut Model) {
    match *step {
        Step::Save { prefix, session, run, id, second, text } => {
            let mut saved = match RUNS[run] {
                Some(run) => checkpoint(SESSIONS[session], &id_of(prefix, id), run, second),
                None => plain(SESSIONS[session], &id_of(prefix, id), second),
            };
            saved.state = text.to_string();
            let key = (prefix, id_of(prefix, id));
            let taken =
                model.checkpoints.get(&key).is_some_and(|old| old.metadata.session_id != SESSIONS[session]);
            match subjects[prefix].save(&saved).await {
                Ok(_) if !taken => drop(model.checkpoints.insert(key, saved)),
                Err(Error::Conflict(Conflict::Taken(_))) if taken => {}
                other => panic!("{other:?}, and the id is taken: {taken}"),
            }
        }
        Step::Load { prefix, session, id } => {
            let loaded =
                subjects[prefix].load(SESSIONS[session], Some(&id_of(prefix, id))).await.expect("an answer");
            let there = model.checkpoints.get(&(prefix, id_of(prefix, id)));
            assert_eq!(loaded.as_ref(), there.filter(|it| it.metadata.session_id == SESSIONS[session]));
        }
        Step::Delete { prefix, session, id } => {
            let removed = subjects[prefix]
                .delete(SESSIONS[session], Some(&id_of(prefix, id)))
                .await
                .expect("an answer");
            let expected = model.remove(|other, it| {
                let metadata = &it.metadata;
                other == prefix
                    && metadata.session_id == SESSIONS[session]
                    && metadata.checkpoint_id == id_of(prefix, id)
            });
            assert_eq!(removed, expected);
        }
        Step::DeleteSession { prefix, session } => {
            let removed = subjects[prefix].delete(SESSIONS[session], None).await.expect("an answer");
            let of_session =
                |other, it: &Checkpoint| other == prefix && it.metadata.session_id == SESSIONS[session];
            assert_eq!(removed, model.remove(of_session));
        }
        Step::ClearAll { prefix } => {
            let removed = subjects[prefix].clear_all().await.expect("an answer");
            assert_eq!(removed, model.remove(|other, _| other == prefix));
        }
        Step::Expire { prefix, id } => {
            let key = format!("{}checkpoint:{}", PREFIXES[prefix], id_of(prefix, id));
            place.write(vec![Operation::Delete(key)]).await;
            model.checkpoints.remove(&(prefix, id_of(prefix, id)));
        }
    }
}

/// Compares all that can be read.
async fn compare(subjects: &[Subject], model: &Model) {
    for (prefix, subject) in subjects.iter().enumerate() {
        for session in SESSIONS {
            let expected = model.session(prefix, session);
            let latest = subject.load(session, None).await.expect("an answer");
            assert_eq!(latest.as_ref(), expected.first());
            for limit in [1, 2, 100] {
                let history = subject.list(session, Some(limit)).await.expect("a history");
                assert_eq!(history.unreadable, []);
                assert_eq!(history.checkpoints, expected[..expected.len().min(limit as usize)]);
            }
            for run in RUNS.into_iter().flatten() {
                let history = subject.list_by_run(session, run, None).await.expect("a history");
                let of_run: Vec<_> = expected.iter().filter(|it| run_of(it) == Some(run)).cloned().collect();
                assert_eq!(history.checkpoints, of_run);
            }
        }
    }
}

fn holds_to_the_model(kind: Kind, mode: Mode) {
    let cases = std::env::var("MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256);
    let persistence = FileFailurePersistence::WithSource("regressions");
    let config = Config { cases, failure_persistence: Some(Box::new(persistence)), ..Config::default() };
    let mut runner = TestRunner::new(Config { source_file: Some(file!()), ..config });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let place = runtime.block_on(Place::new(kind));
    let subjects = runtime.block_on(async {
        let mut subjects = Vec::new();
        for prefix in PREFIXES {
            subjects.push(place.open(mode, &Opening::prefix(prefix)).await);
        }
        subjects
    });
    let sequences = prop::collection::vec(step(), 1..=STEPS);
    let result = runner.run(&sequences, |steps| {
        runtime.block_on(async {
            // A sequence that failed has left something.
            for key in place.keys("").await {
                place.write(vec![Operation::Delete(key)]).await;
            }
            let mut model = Model::default();
            for step in &steps {
                take(step, &place, &subjects, &mut model).await;
                // So that a sequence which was shortened fails where it goes wrong.
                if steps.len() < 10 {
                    compare(&subjects, &model).await;
                }
            }
            compare(&subjects, &model).await;
            // At the end nothing is left, not even an entry that names nothing.
            for subject in &subjects {
                subject.clear_all().await.expect("cleared");
            }
            let left = place.keys("").await;
            assert_eq!(left, [""; 0]);
        });
        Ok(())
    });
    result.expect("the model and the checkpointer agree");
}

#[test]
fn in_memory_natively() {
    holds_to_the_model(Kind::Memory, Mode::Native);
}

#[test]
fn in_memory_as_the_component() {
    holds_to_the_model(Kind::Memory, Mode::Component);
}

#[test]
fn in_redis_natively() {
    holds_to_the_model(Kind::Redis, Mode::Native);
}

#[test]
fn in_redis_as_the_component() {
    holds_to_the_model(Kind::Redis, Mode::Component);
}
