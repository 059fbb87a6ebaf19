//! The real llmfy, as `tests/run` installs it, controlled through a pipe.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use checkpointer::{Checkpoint, Metadata, Run, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The formats of stored documents. The llmfy version that writes one does not
/// read the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Format A, without a run: llmfy up to 0.10.1.
    A,
    /// Format B, with a run: llmfy from 0.11.0.
    B,
}

/// Both formats.
pub const FORMATS: [Format; 2] = [Format::A, Format::B];

impl Format {
    /// The llmfy version that writes this format.
    pub fn version(self) -> &'static str {
        match self {
            Self::A => "0.10.1",
            Self::B => "0.11.0",
        }
    }
}

/// llmfy's `RedisCheckpointer` in a process of its own. Dropping it kills the
/// process.
pub struct Llmfy {
    _child: Child,
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Llmfy {
    /// Starts a process over the Redis server at `url`.
    pub async fn start(format: Format, url: &str) -> Self {
        Self::start_with(format, url, json!({})).await
    }

    /// Starts a process with options, by their names in Python.
    pub async fn start_with(format: Format, url: &str, mut options: Value) -> Self {
        options["redis_url"] = url.into();
        let mut child = script(format, "peer.py")
            .arg(options.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a Python that runs");
        let calls = child.stdin.take().expect("a pipe for calls");
        let answers = BufReader::new(child.stdout.take().expect("a pipe for answers"));
        Self { _child: child, calls, answers }
    }

    /// `save`.
    pub async fn save(&mut self, checkpoint: &Checkpoint) {
        self.call("save", json!([document(checkpoint)])).await;
    }

    /// `load`, with an id or for the latest. The state is the output of Python's
    /// `json.dumps`.
    pub async fn load(&mut self, session: &str, id: Option<&str>) -> Option<Checkpoint> {
        match self.call("load", json!([session, id])).await {
            Value::Null => None,
            document => Some(checkpoint(&document)),
        }
    }

    /// `list` with the default limit of llmfy.
    pub async fn list(&mut self, session: &str) -> Vec<Checkpoint> {
        checkpoints(&self.call("list", json!([session])).await)
    }

    /// `list` with a limit.
    pub async fn list_at_most(&mut self, session: &str, limit: u32) -> Vec<Checkpoint> {
        checkpoints(&self.call("list", json!([session, limit])).await)
    }

    /// `list_by_run`, which does not exist for format A.
    pub async fn list_by_run(&mut self, session: &str, run: &str) -> Vec<Checkpoint> {
        checkpoints(&self.call("list_by_run", json!([session, run])).await)
    }

    /// `delete`, of a checkpoint or of the session.
    pub async fn delete(&mut self, session: &str, id: Option<&str>) {
        self.call("delete", json!([session, id])).await;
    }

    /// `clear_all`.
    pub async fn clear_all(&mut self) {
        self.call("clear_all", json!([])).await;
    }

    /// The ids of the newest checkpoints of a session.
    pub async fn ids(&mut self, session: &str) -> Vec<String> {
        let checkpoints = self.list(session).await;
        checkpoints.into_iter().map(|checkpoint| checkpoint.metadata.checkpoint_id).collect()
    }

    async fn call(&mut self, call: &str, arguments: Value) -> Value {
        let line = format!("{}\n", json!({ "call": call, "arguments": arguments }));
        self.calls.write_all(line.as_bytes()).await.expect("llmfy takes a call");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).await.expect("an answer of llmfy");
        let mut answer: Value = serde_json::from_str(&answer).expect("an answer of llmfy as JSON");
        assert_eq!(answer.get("error"), None, "{line}");
        answer["answer"].take()
    }
}

/// Runs one turn of a session in the FlowEngine of llmfy 0.11.0, in a process of
/// its own. Returns the resulting state.
pub async fn take_turn(url: &str, session: &str, text: &str) -> Value {
    let mut script = script(Format::B, "flow.py");
    let output = script.args([url, session, text]).output().await.expect("a Python that runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a state as JSON")
}

/// A script of `tests/data/llmfy` with the Python environment of this llmfy
/// version.
fn script(format: Format, name: &str) -> Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python: PathBuf = [here, Path::new("../target/llmfy"), Path::new(format.version())].iter().collect();
    let python = python.join("bin/python");
    assert!(python.exists(), "run tests/run, which installs llmfy");
    let mut command = Command::new(python);
    command.arg(here.join("data/llmfy").join(name));
    // A timestamp without an offset is UTC for the component and local time for
    // llmfy: both are equal if local time is UTC.
    command.env("TZ", "UTC").env("PYTHONUTF8", "1");
    command
}

/// A checkpoint in the form in which the pipe transports it.
fn document(checkpoint: &Checkpoint) -> Value {
    let Checkpoint { metadata, state, .. } = checkpoint;
    match &metadata.run {
        None => json!({
            "checkpoint_id": metadata.checkpoint_id,
            "session_id": metadata.session_id,
            "timestamp": metadata.timestamp.to_string(),
            "node_name": metadata.node,
            "step": metadata.step,
            "state": state,
        }),
        Some(run) => json!({
            "checkpoint_id": metadata.checkpoint_id,
            "session_id": metadata.session_id,
            "run_id": run.run_id,
            "created_at": metadata.timestamp.to_string(),
            "node": metadata.node,
            "prev_node": run.prev_node,
            "step": metadata.step,
            "updated_fields": run.updated_fields,
            "attempt": run.attempt,
            "dispatch_id": run.dispatch_id,
            "state": state,
        }),
    }
}

fn checkpoints(documents: &Value) -> Vec<Checkpoint> {
    documents.as_array().expect("a list of checkpoints").iter().map(checkpoint).collect()
}

fn checkpoint(document: &Value) -> Checkpoint {
    let run = document.get("run_id").map(|run_id| {
        let mut run = Run::new(text(run_id));
        run.prev_node = text(&document["prev_node"]);
        run.updated_fields =
            document["updated_fields"].as_array().expect("a list").iter().map(text).collect();
        run.attempt = document["attempt"].as_i64();
        run.dispatch_id = document["dispatch_id"].as_str().map(str::to_owned);
        run
    });
    let (timestamp, node) = if run.is_some() { ("created_at", "node") } else { ("timestamp", "node_name") };
    let mut metadata = Metadata::new(text(&document["session_id"]), text(&document["checkpoint_id"]))
        .timestamp(text(&document[timestamp]).parse::<Timestamp>().expect("a timestamp"))
        .node(text(&document[node]))
        .step(document["step"].as_i64().expect("the number of a step"));
    metadata.run = run;
    Checkpoint::new(metadata, text(&document["state"]))
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}
