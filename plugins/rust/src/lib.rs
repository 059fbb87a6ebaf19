//! A sample agent as a plugin. Each call loads the latest checkpoint of a session,
//! does one step and saves it. `plugins/README.md` describes the agent.

// Generates the types and functions of the interface. `generate_all`: also those of
// the packages in `wit/deps`.
wit_bindgen::generate!({ path: "../../wit", world: "plugin", generate_all });

use flow::checkpoint::checkpointer::Checkpointer;
use flow::checkpoint::types::{
    Checkpoint, Conflict, Effect, Error, HistoryQuery, IdConflict, Layout, Metadata, Options, Run,
    StorageError, Unreadable,
};
use serde::{Deserialize, Serialize};

const LANGUAGE: &str = "rust";
const USAGE: &str = "say: SESSION | step SESSION [RUN] | history SESSION";

/// The agent's state. Its fields are stored in this order.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct State {
    count: u64,
    trail: Vec<String>,
}

struct Plugin;
export!(Plugin);

impl Guest for Plugin {
    fn run(input: String) -> Result<String, String> {
        let words: Vec<&str> = input.split_whitespace().collect();
        match words[..] {
            ["history", session] => history(&open()?, session),
            ["step", session, run] => step(&open()?, session, run),
            ["step", session] | [session] => step(&open()?, session, session),
            _ => Err(USAGE.into()),
        }
    }
}

fn open() -> Result<Checkpointer, String> {
    let options = Options {
        bucket: "default".into(),
        prefix: None,
        layout: Layout::Llmfy,
        ttl: None,
        max_state_bytes: None,
        compress: false,
        max_checkpoints: None,
        extra: Vec::new(),
    };
    Checkpointer::open(&options).map_err(describe)
}

/// Saves the step that follows the latest checkpoint.
fn step(checkpointer: &Checkpointer, session: &str, run: &str) -> Result<String, String> {
    for attempt in 1.. {
        let latest = checkpointer.latest(session).map_err(describe)?;
        let next = next_checkpoint(latest.as_ref(), session, run, attempt)?;
        let latest = latest.as_ref().map(|latest| latest.metadata.checkpoint_id.as_str());
        match checkpointer.save_after(&next, latest) {
            // Another save was first, so this step is computed again. The loop
            // ends, because one of the concurrent saves succeeds each time.
            Err(Error::Conflict(Conflict::NotLatest(_))) => {}
            Err(error) => return Err(describe(error)),
            Ok(_) => break,
        }
    }
    history(checkpointer, session)
        .map_err(|error| format!("the step is saved, but the history can't be read: {error}"))
}

/// Returns the checkpoint that follows `latest`. It contains no time and no random
/// value, so that a repeated step saves the same checkpoint.
fn next_checkpoint(
    latest: Option<&Checkpoint>,
    session: &str,
    run: &str,
    attempt: i64,
) -> Result<Checkpoint, String> {
    let mut state = State::default();
    let (mut step, mut prev_node) = (1, "__start__");
    if let Some(Checkpoint { metadata, state: text }) = latest {
        let foreign = |_| format!("the state of checkpoint {} is not this agent's", metadata.checkpoint_id);
        state = serde_json::from_str(text).map_err(foreign)?;
        prev_node = &metadata.node;
        // Steps are counted within a run.
        if metadata.run.as_ref().is_some_and(|previous| previous.run_id == run) {
            step = metadata.step + 1;
        }
    }
    state.count += 1;
    state.trail.push(LANGUAGE.into());
    let metadata = Metadata {
        session_id: session.into(),
        checkpoint_id: format!("{run}-{}-{LANGUAGE}", state.count),
        timestamp: timestamp(state.count),
        node: LANGUAGE.into(),
        step,
        run: Some(Run {
            run_id: run.into(),
            prev_node: prev_node.into(),
            updated_fields: vec!["count".into(), "trail".into()],
            attempt: Some(attempt),
            dispatch_id: None,
        }),
        extra: Vec::new(),
    };
    let state = serde_json::to_string(&state).map_err(|error| error.to_string())?;
    Ok(Checkpoint { metadata, state })
}

/// Returns the start of 2026 plus this many seconds. After January the result is
/// not a date, and the checkpointer refuses it.
fn timestamp(seconds: u64) -> String {
    let (day, hour) = (1 + seconds / 86_400, seconds / 3_600 % 24);
    format!("2026-01-{day:02}T{hour:02}:{:02}:{:02}Z", seconds / 60 % 60, seconds % 60)
}

/// Lists the newest checkpoints of the session, one per line.
fn history(checkpointer: &Checkpointer, session: &str) -> Result<String, String> {
    let query = HistoryQuery { session_id: session.into(), run_id: None, limit: None, extra: Vec::new() };
    let history = checkpointer.list(&query).map_err(describe)?;
    let checkpoints = history.checkpoints.iter().map(|Checkpoint { metadata, .. }| {
        format!("{} {} {}", metadata.step, metadata.node, metadata.checkpoint_id)
    });
    let unreadable = history.unreadable.iter().map(describe_unreadable);
    Ok(checkpoints.chain(unreadable).collect::<Vec<_>>().join("\n"))
}

fn describe(error: Error) -> String {
    match error {
        Error::InvalidArgument(reason) => format!("invalid argument: {reason}"),
        Error::Conflict(Conflict::IdInUse(IdConflict { checkpoint_id, reason })) => {
            format!("checkpoint {checkpoint_id} can't be saved: {reason}")
        }
        Error::Conflict(Conflict::NotLatest(_)) => "the session has a newer checkpoint".into(),
        Error::Corrupt(unreadable) => describe_unreadable(&unreadable),
        Error::TooLarge(excess) => {
            format!("the state has {} bytes, and the limit is {}", excess.size, excess.limit)
        }
        Error::Storage(StorageError { effect: Effect::None, message, .. }) => {
            format!("the store failed: {message}")
        }
        Error::Storage(StorageError { effect: Effect::Unknown, message, .. }) => {
            format!("the store failed, and the step may or may not be saved: {message}")
        }
    }
}

fn describe_unreadable(Unreadable { checkpoint_id, reason }: &Unreadable) -> String {
    format!("checkpoint {checkpoint_id} can't be read: {reason}")
}
