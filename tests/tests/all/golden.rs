//! Values that llmfy stored. They are read correctly, and written again byte for
//! byte, at the same keys and with the same scores.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use checkpointer::store::{Expiry, IndexPut, Operation, Put};
use checkpointer::{Checkpoint, DEFAULT_PREFIX, Metadata, Run, Timestamp};
use checkpointer_tests::checkpointer_under_test::{CheckpointerUnderTest, MODES, Mode, Options};
use checkpointer_tests::contract::{Backend, TestStore};
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::{checkpoint, data, plain, with_state};
use serde_json::Value;

const BACKENDS: [Backend; 2] = [Backend::Redis, Backend::Memory];

/// A value that llmfy stored, with its content.
struct Golden {
    text: String,
    score: f64,
    checkpoint: Checkpoint,
}

impl Golden {
    /// Reads a value with an independent parser.
    fn new(text: String, score: f64) -> Self {
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let string = |key: &str| json[key].as_str().expect(key).to_owned();
        let strings = |key: &str| {
            let items = json[key].as_array().expect(key).iter();
            items.map(|item| item.as_str().expect(key).to_owned()).collect()
        };
        let run = json.get("run_id").map(|_| {
            let mut run = Run::new(string("run_id"));
            run.prev_node = string("prev_node");
            run.updated_fields = strings("updated_fields");
            run.attempt = json["attempt"].as_i64();
            run.dispatch_id = json["dispatch_id"].as_str().map(str::to_owned);
            run
        });
        let (timestamp, node, state) = if run.is_some() {
            let state = text.split_once("\"state\": ").and_then(|(_, state)| state.strip_suffix('}'));
            (string("created_at"), string("node"), state.expect("a state").to_owned())
        } else {
            (string("timestamp"), string("node_name"), string("state"))
        };
        let mut metadata = Metadata::new(string("session_id"), string("checkpoint_id"))
            .timestamp(timestamp.parse::<Timestamp>().expect("a timestamp"))
            .node(node)
            .step(json["step"].as_i64().expect("step"));
        metadata.run = run;
        Self { text, score, checkpoint: Checkpoint::new(metadata, state) }
    }

    fn id(&self) -> &str {
        &self.checkpoint.metadata.checkpoint_id
    }

    fn session(&self) -> &str {
        &self.checkpoint.metadata.session_id
    }

    fn run(&self) -> Option<&str> {
        self.checkpoint.metadata.run.as_ref().map(|run| run.run_id.as_str())
    }

    /// The key of the document.
    fn key(&self) -> String {
        format!("{DEFAULT_PREFIX}checkpoint:{}", self.id())
    }

    /// The indexes that contain it.
    fn indexes(&self) -> Vec<String> {
        let session = format!("{DEFAULT_PREFIX}session:{}", self.session());
        let run = self.run().map(|run| format!("{session}:run:{run}"));
        [session].into_iter().chain(run).collect()
    }

    /// Writes the document and its index entries like llmfy.
    async fn put(&self, store: &TestStore) {
        let put = Put { key: self.key(), value: self.text.clone(), expiry: Expiry::Never };
        let index_put = |index| {
            let member = self.id().to_owned();
            Operation::IndexPut(IndexPut { index, member, score: self.score, expiry: Expiry::Never })
        };
        let entries = self.indexes().into_iter().map(index_put);
        store.write([Operation::Put(put)].into_iter().chain(entries).collect()).await;
    }

    /// The contents of Redis with only this checkpoint.
    fn rows(&self) -> Vec<Row> {
        let text = Row { key: self.key(), value: self.text.clone(), ..Row::of("string", None) };
        let entry = |key| Row { key, value: self.id().to_owned(), ..Row::of("zset", Some(self.score)) };
        let mut rows: Vec<Row> = self.indexes().into_iter().map(entry).collect();
        rows.push(text);
        rows.sort();
        rows
    }
}

/// A line of `redis-dump.tsv`: a text value, or one member of an index.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    key: String,
    kind: String,
    /// In milliseconds; -1 if the key never expires.
    ttl: i64,
    /// The bits of the double, for an exact comparison.
    score: Option<u64>,
    value: String,
}

impl Row {
    fn of(kind: &str, score: Option<f64>) -> Self {
        let score = score.map(f64::to_bits);
        Self { key: String::new(), kind: kind.to_owned(), ttl: -1, score, value: String::new() }
    }
}

/// The contents of a server, in order.
async fn rows_of(server: &RedisServer) -> Vec<Row> {
    let mut rows = Vec::new();
    for key in server.command::<Vec<String>>(&["KEYS", "*"]).await {
        let kind: String = server.command(&["TYPE", &key]).await;
        let ttl = server.command(&["PTTL", &key]).await;
        let mut row = |score: Option<&String>, value: &str| {
            let score = score.map(|score| score.parse().expect("a double"));
            rows.push(Row { key: key.clone(), ttl, value: value.to_owned(), ..Row::of(&kind, score) });
        };
        if kind == "zset" {
            let members: Vec<String> = server.command(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]).await;
            members.chunks(2).for_each(|member| row(Some(&member[1]), &member[0]));
        } else {
            row(None, &server.command::<String>(&["GET", &key]).await);
        }
    }
    rows.sort();
    rows
}

/// The lines of a file of `tests/data` without comments, split into columns.
fn table(file: &str) -> Vec<Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(file);
    let text = fs::read_to_string(file).expect("a table of tests/data");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// `redis-dump.tsv`: the contents of Redis after the agent chat.
fn dump() -> Vec<Row> {
    let unquoted = |text: &String| serde_json::from_str(text).expect("a JSON string");
    let row = |columns: Vec<String>| Row {
        key: unquoted(&columns[0]),
        ttl: columns[2].parse().expect("a ttl"),
        value: unquoted(&columns[4]),
        ..Row::of(&columns[1], (!columns[3].is_empty()).then(|| columns[3].parse().expect("a score")))
    };
    let mut rows: Vec<Row> = table("agent-chat/redis-dump.tsv").into_iter().map(row).collect();
    rows.sort();
    rows
}

/// The values of `tests/data/golden`.
fn goldens() -> Vec<Golden> {
    let scores = table("golden/scores.tsv");
    let files = data("golden");
    assert_eq!((files.len(), scores.len()), (22, 22));
    let golden = |((file, text), score): ((PathBuf, String), Vec<String>)| {
        assert!(file.ends_with(&score[0]), "{} {}", file.display(), score[0]);
        Golden::new(text, score[1].parse().expect("a score"))
    };
    files.into_iter().zip(scores).map(golden).collect()
}

/// The values of `tests/data/agent-chat`.
fn agent_chat() -> Vec<Golden> {
    let dump = dump();
    let golden = |text: String| {
        let unscored = Golden::new(text, 0.0);
        let entry = dump.iter().find(|row| row.kind == "zset" && row.value == unscored.id());
        let score = entry.and_then(|row| row.score).expect("a score");
        Golden { score: f64::from_bits(score), ..unscored }
    };
    let goldens: Vec<Golden> = data("agent-chat").into_iter().map(|(_, text)| golden(text)).collect();
    assert_eq!(goldens.len(), 12);
    goldens
}

async fn open(store: &TestStore, mode: Mode) -> CheckpointerUnderTest {
    store.open(mode, &Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_values_are_read_and_rewritten_byte_for_byte() {
    for backend in BACKENDS {
        let store = TestStore::new(backend).await;
        for mode in MODES {
            let checkpointer = open(&store, mode).await;
            for golden in goldens().into_iter().chain(agent_chat()) {
                golden.put(&store).await;
                let (session, id) = (golden.session(), golden.id());
                for document in [
                    checkpointer.load_document(session, id).await,
                    checkpointer.latest_document(session).await,
                ] {
                    assert_eq!(document.expect("loaded").as_ref(), Some(&golden.text));
                }
                for loaded in [checkpointer.load(session, id).await, checkpointer.latest(session).await] {
                    assert_eq!(loaded.expect("loaded").as_ref(), Some(&golden.checkpoint));
                }
                let loaded = checkpointer.latest(golden.session()).await.expect("loaded").expect("there");
                assert_eq!(checkpointer.delete_session(golden.session()).await.expect("deleted"), 1);
                assert_eq!(store.keys("").await, [""; 0]);

                checkpointer.save(&loaded).await.expect("saved");
                let keys: BTreeSet<String> = golden.rows().into_iter().map(|row| row.key).collect();
                assert_eq!(store.keys("").await, keys.into_iter().collect::<Vec<_>>());
                assert_eq!(store.text(&golden.key()).await.as_ref(), Some(&golden.text));
                if let Some(server) = &store.server {
                    assert_eq!(rows_of(server).await, golden.rows());
                }
                assert_eq!(checkpointer.delete_session(golden.session()).await.expect("deleted"), 1);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_checkpoints_have_the_order_of_llmfy() {
    for backend in BACKENDS {
        for mode in MODES {
            let store = TestStore::new(backend).await;
            let checkpointer = open(&store, mode).await;
            let mut all: Vec<Golden> = goldens().into_iter().chain(agent_chat()).collect();
            for golden in &all {
                checkpointer.save(&golden.checkpoint).await.expect("saved");
            }
            all.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.id().cmp(a.id())));
            for golden in &all {
                let session = golden.session();
                let of_session = all.iter().filter(|other| other.session() == session);
                let of_run = of_session.clone().filter(|other| other.run() == golden.run());
                let ids: Vec<&str> = of_session.map(Golden::id).collect();
                assert_eq!(checkpointer.ids(session, 100).await, ids);
                if let Some(run) = golden.run() {
                    assert_eq!(
                        checkpointer.ids_of_run(session, run).await,
                        of_run.map(Golden::id).collect::<Vec<_>>()
                    );
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_chat_produces_the_keyspace_of_llmfy() {
    for mode in MODES {
        let store = TestStore::new(Backend::Redis).await;
        let checkpointer = open(&store, mode).await;
        for golden in agent_chat() {
            checkpointer.save(&golden.checkpoint).await.expect("saved");
        }
        assert_eq!(rows_of(store.server.as_ref().expect("a server")).await, dump());
    }
}

/// The expected texts are the output of Python's `json.dumps` and `isoformat`.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_checkpoint_is_written_like_python_does() {
    let mut run = Run::new("r/1");
    run.prev_node = "__start__".into();
    run.updated_fields = vec!["a".into(), "ü".into()];
    run.dispatch_id = Some("d\u{1f}".into());
    let plain = Metadata::new("s\"1", "c é")
        .timestamp("2026-01-02T03:04:05.000Z".parse::<Timestamp>().expect("a timestamp"))
        .node("näme \"1\"\\\n\t\0\u{7f}\u{2028}\u{1f30d}/~")
        .step(-3);
    let of_run = "2026-01-02 03:04:05,5+0700".parse::<Timestamp>().expect("a timestamp");
    let metadata = plain.clone().timestamp(of_run).run(run);
    // A state is stored unchanged, with its spaces, floats and letters.
    let state = "{\"k\":\"hé\\u00E9\",  \"f\": [1E-7, 1e16, -0.0]}";
    let of_run = r#"{"checkpoint_id": "c \u00e9", "session_id": "s\"1", "run_id": "r/1", "created_at": "2026-01-02T03:04:05.500000+07:00", "node": "n\u00e4me \"1\"\\\n\t\u0000\u007f\u2028\ud83c\udf0d/~", "prev_node": "__start__", "step": -3, "updated_fields": ["a", "\u00fc"], "attempt": null, "dispatch_id": "d\u001f", "state": {"k":"hé\u00E9",  "f": [1E-7, 1e16, -0.0]}}"#;
    let without = r#"{"checkpoint_id": "c \u00e9", "session_id": "s\"1", "timestamp": "2026-01-02T03:04:05+00:00", "node_name": "n\u00e4me \"1\"\\\n\t\u0000\u007f\u2028\ud83c\udf0d/~", "step": -3, "state": "{\"k\":\"h\u00e9\\u00E9\",  \"f\": [1E-7, 1e16, -0.0]}"}"#;
    for backend in BACKENDS {
        let store = TestStore::new(backend).await;
        for mode in MODES {
            let checkpointer = open(&store, mode).await;
            for (metadata, text) in [(&metadata, of_run), (&plain, without)] {
                let saved = Checkpoint::new(metadata.clone(), state);
                checkpointer.save(&saved).await.expect("saved");
                let key = format!("{DEFAULT_PREFIX}checkpoint:c é");
                assert_eq!(store.text(&key).await.as_deref(), Some(text));
                let loaded = checkpointer.latest("s\"1").await.expect("loaded").expect("there");
                assert_eq!(loaded.state, state);
                checkpointer.delete_session("s\"1").await.expect("deleted");
            }
        }
    }
}

/// Saves each state in both formats, and expects to load it unchanged.
async fn are_kept_to_the_byte(states: &[String]) {
    for backend in BACKENDS {
        let store = TestStore::new(backend).await;
        for mode in MODES {
            let checkpointer = open(&store, mode).await;
            for state in states {
                for sample in [checkpoint("s", "of run", "r", 1), plain("s", "plain", 2)] {
                    let saved = with_state(sample, state.clone());
                    let id = saved.metadata.checkpoint_id.clone();
                    checkpointer.save(&saved).await.expect("saved");
                    let loaded = checkpointer.load("s", &id).await.expect("loaded").expect("there");
                    assert_eq!(loaded, saved);
                    let document = checkpointer.load_document("s", &id).await.expect("loaded");
                    checkpointer.delete_checkpoint("s", &id).await.expect("deleted");
                    checkpointer.save_document(document.as_ref().expect("there")).await.expect("saved");
                    assert_eq!(checkpointer.load_document("s", &id).await.expect("loaded"), document);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_names_a_class_is_kept_byte_for_byte() {
    let hostile = r#"{"__type__": "system", "__module__": "os", "data": {"command": "false"}}"#;
    are_kept_to_the_byte(&[hostile.to_owned(), format!("[{hostile}, {{\"x\": {hostile}}}]")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_extensions_of_python_are_kept_byte_for_byte() {
    are_kept_to_the_byte(&[
        "[NaN, Infinity, -Infinity, -0, 1, 1.0, 1e400, 1E-400]".to_owned(),
        format!("{{\"n\": -{}}}", "8".repeat(4000)),
        r#"["\ud800", "\udc00\ud800", "\uD83C", "\ud83c\udf0d", "\"\\\/\b\f\n\r\t\u0000\u007F"]"#.to_owned(),
        format!("{}0{}", "[".repeat(2000), "]".repeat(2000)),
        format!("{}null{}", "{\"a\": ".repeat(2000), "}".repeat(2000)),
        r#"{"a": 1, "a": 2, "state": 3, "state": 4, "session_id": "other"}"#.to_owned(),
    ])
    .await;
}
