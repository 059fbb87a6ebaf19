//! A plugin that makes calls for a benchmark. The host measures them, since a
//! plugin has no clock.
//!
//! The input is `save COUNT` or `latest COUNT`, and the state on the following
//! lines. `save` saves new checkpoints of a session, `latest` loads the latest
//! checkpoint of another session.

wit_bindgen::generate!({ path: "../../wit", world: "plugin", generate_all });

use flow::checkpoint::checkpointer::Checkpointer;
use flow::checkpoint::types::{Checkpoint, Layout, Metadata, Options, Run};

struct Plugin;
export!(Plugin);

impl Guest for Plugin {
    fn run(input: String) -> Result<String, String> {
        let (request, state) = input.split_once('\n').ok_or("the input has no state")?;
        let (operation, count) = request.split_once(' ').ok_or("the input has no count")?;
        let count: u32 = count.parse().map_err(|_| format!("{count:?} is not a count"))?;
        let checkpointer = open()?;
        match operation {
            "save" => save(&checkpointer, count, state)?,
            "latest" => latest(&checkpointer, count)?,
            _ => return Err(format!("unknown operation {operation:?}; use save or latest")),
        }
        Ok(String::new())
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
    Checkpointer::open(&options).map_err(|error| error.to_string())
}

fn save(checkpointer: &Checkpointer, count: u32, state: &str) -> Result<(), String> {
    let metadata = Metadata {
        session_id: "user-1".into(),
        checkpoint_id: String::new(),
        timestamp: "2026-01-01T00:00:00.123456+00:00".into(),
        node: "execute_tool".into(),
        step: 0,
        run: Some(Run {
            run_id: "4d2bb5cf-25f7-409b-a218-000000000001".into(),
            prev_node: "main".into(),
            updated_fields: vec!["messages".into()],
            attempt: Some(1),
            dispatch_id: None,
        }),
        extra: Vec::new(),
    };
    let mut checkpoint = Checkpoint { metadata, state: state.into() };
    for number in 0..count {
        checkpoint.metadata.checkpoint_id = format!("7b1e42c0-5d8f-4a36-0001-{number:012x}");
        checkpoint.metadata.step = number.into();
        checkpointer.save(&checkpoint).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn latest(checkpointer: &Checkpointer, count: u32) -> Result<(), String> {
    for _ in 0..count {
        checkpointer.latest("user-2").map_err(|error| error.to_string())?.ok_or("no checkpoint")?;
    }
    Ok(())
}
