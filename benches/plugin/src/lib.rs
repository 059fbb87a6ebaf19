//! A plugin that makes calls to be measured from outside, since it has no clock:
//! `save COUNT` and, on the following lines, the state; or `load COUNT`. It
//! saves new checkpoints of a session, or loads the latest of another.

wit_bindgen::generate!({ path: "../../wit", world: "plugin" });

use flow::checkpoint::checkpointer::{Checkpoint, Checkpointer, Layout, Metadata, Options, Run};

struct Plugin;
export!(Plugin);

impl Guest for Plugin {
    fn run(input: String) -> Result<String, String> {
        let (order, state) = input.split_once('\n').ok_or("no state")?;
        let (work, count) = order.split_once(' ').ok_or("no count")?;
        let count: u32 = count.parse().map_err(|_| "no number")?;
        let checkpointer = open()?;
        match work {
            "save" => save(&checkpointer, count, state)?,
            "load" => load(&checkpointer, count)?,
            _ => return Err("say: save | load".into()),
        }
        Ok(String::new())
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
    };
    let mut checkpoint = Checkpoint { metadata, state: state.into() };
    for number in 0..count {
        checkpoint.metadata.checkpoint_id = format!("7b1e42c0-5d8f-4a36-0001-{number:012x}");
        checkpoint.metadata.step = number.into();
        checkpointer.save(&checkpoint).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn load(checkpointer: &Checkpointer, count: u32) -> Result<(), String> {
    for _ in 0..count {
        checkpointer.load("user-2", None).map_err(|error| error.to_string())?.ok_or("no checkpoint")?;
    }
    Ok(())
}
