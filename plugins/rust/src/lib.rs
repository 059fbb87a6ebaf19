//! An agent as a plugin: each call loads the latest checkpoint of a session,
//! does one step and saves it. `plugins/README.md` says what all languages do.

// Makes the types and functions below of the interface.
wit_bindgen::generate!({ path: "../../wit", world: "plugin" });

use flow::checkpoint::checkpointer::{
    Checkpoint, Checkpointer, Conflict, Error, Layout, Metadata, Options, Run, Taken, Unreadable,
};
use flow::checkpoint::types::{Effect, StorageError};
use serde::{Deserialize, Serialize};

const LANGUAGE: &str = "rust";
const USAGE: &str = "say: SESSION | step SESSION [RUN] | history SESSION";

/// What the agent knows. The order of the fields is the order they are stored in.
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
        prefix: "llmfy_checkpoint:".into(),
        layout: Layout::Llmfy,
        ttl: None,
        max_state_bytes: None,
        compress: false,
        max_checkpoints: None,
    };
    Checkpointer::open(&options).map_err(in_words)
}

/// Goes one step on from the latest checkpoint, whatever others do meanwhile.
fn step(checkpointer: &Checkpointer, session: &str, run: &str) -> Result<String, String> {
    for attempt in 1.. {
        let latest = checkpointer.load(session, None).map_err(in_words)?;
        let next = after(latest.as_ref(), session, run, attempt)?;
        let latest = latest.as_ref().map(|latest| latest.metadata.checkpoint_id.as_str());
        match checkpointer.save_after(&next, latest) {
            // Another got ahead, and what was computed here is out of date. One
            // gets ahead each time, so this ends.
            Err(Error::Conflict(Conflict::Latest(_))) => {}
            Err(error) => return Err(in_words(error)),
            Ok(_) => break,
        }
    }
    history(checkpointer, session).map_err(|error| format!("the step is saved, but not shown: {error}"))
}

/// The checkpoint that follows; nothing in it comes from a clock or from chance,
/// so a step that is repeated gives the same.
fn after(latest: Option<&Checkpoint>, session: &str, run: &str, attempt: i64) -> Result<Checkpoint, String> {
    let mut state = State::default();
    let (mut step, mut prev_node) = (1, "__start__");
    if let Some(Checkpoint { metadata, state: text }) = latest {
        let alien = |_| format!("the state of checkpoint {} is not this agent's", metadata.checkpoint_id);
        state = serde_json::from_str(text).map_err(alien)?;
        prev_node = &metadata.node;
        // Steps are counted within a run.
        if metadata.run.as_ref().is_some_and(|before| before.run_id == run) {
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
    };
    let state = serde_json::to_string(&state).map_err(|error| error.to_string())?;
    Ok(Checkpoint { metadata, state })
}

/// So many seconds into 2026, as long as it is January; what is no date then,
/// the checkpointer refuses.
fn timestamp(seconds: u64) -> String {
    let (day, hour) = (1 + seconds / 86_400, seconds / 3_600 % 24);
    format!("2026-01-{day:02}T{hour:02}:{:02}:{:02}Z", seconds / 60 % 60, seconds % 60)
}

/// The newest checkpoints of the session, a line each.
fn history(checkpointer: &Checkpointer, session: &str) -> Result<String, String> {
    let history = checkpointer.list(session, None).map_err(in_words)?;
    let checkpoints = history.checkpoints.iter().map(|Checkpoint { metadata, .. }| {
        format!("{} {} {}", metadata.step, metadata.node, metadata.checkpoint_id)
    });
    let unreadable = history.unreadable.iter().map(cannot_be_read);
    Ok(checkpoints.chain(unreadable).collect::<Vec<_>>().join("\n"))
}

fn in_words(error: Error) -> String {
    match error {
        Error::InvalidArgument(reason) => format!("invalid argument: {reason}"),
        Error::Conflict(Conflict::Taken(Taken { checkpoint_id, reason })) => {
            format!("checkpoint {checkpoint_id} can't be saved: {reason}")
        }
        Error::Conflict(Conflict::Latest(_)) => "the session has gone on meanwhile".into(),
        Error::Corrupt(unreadable) => cannot_be_read(&unreadable),
        Error::TooLarge(excess) => {
            format!("the state has {} bytes, and {} are allowed", excess.size, excess.limit)
        }
        Error::Storage(StorageError { effect: Effect::None, message, .. }) => {
            format!("the store failed: {message}")
        }
        Error::Storage(StorageError { effect: Effect::Unknown, message, .. }) => {
            format!("the store failed, and the step may be saved or not: {message}")
        }
    }
}

fn cannot_be_read(Unreadable { checkpoint_id, reason }: &Unreadable) -> String {
    format!("checkpoint {checkpoint_id} can't be read: {reason}")
}
