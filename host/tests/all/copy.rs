//! The command `copy`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use checkpointer::store::{Batch, Expiry, IndexPut, Operation, Put, Store, StoreUrl};
use checkpointer::{
    Checkpoint, Checkpointer, CheckpointerBuilder, DEFAULT_PREFIX, History, HistoryQuery, Layout, ScanEntry,
};
use checkpointer_tests::names::Names;
use checkpointer_tests::redis_cluster::RedisCluster;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::{checkpoint, plain, with_state};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{self, Ended, run_command};

/// A folder with SQLite files and with the resume files of copies.
struct TestFolder(TempDir);

impl TestFolder {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn url(&self, file: &str) -> String {
        format!("sqlite:{}", self.0.path().join(file).display())
    }

    async fn store(&self, file: &str) -> Arc<dyn Store> {
        open(&self.url(file)).await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        program::command(self.0.path(), &[&["copy"], arguments].concat())
    }

    fn copy(&self, arguments: &[&str]) -> Ended {
        without_progress(run_command(self.command(arguments)))
    }

    /// Runs a copy with `--json` that succeeds. Returns its result.
    fn copy_json(&self, arguments: &[&str]) -> Value {
        let out = self.copy(&[arguments, &["--json"]].concat()).success();
        serde_json::from_str(&out).expect("JSON")
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs")
    }

    fn resume_files(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.0.path().join("state/copies"));
        let files = folder.into_iter().flatten().map(|file| file.expect("a file").path());
        files.filter(|file| file.extension().is_some_and(|extension| extension == "json")).collect()
    }

    /// Waits until a copy has written a resume file with another content than
    /// `before`. Returns its content.
    async fn resume_file(&self, before: Option<&str>) -> String {
        loop {
            let content = self.resume_files().pop().and_then(|file| fs::read_to_string(file).ok());
            if let Some(content) = content.filter(|content| Some(content.as_str()) != before) {
                return content;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Kills a copy after it has written a resume file, and replaces the file's
    /// content.
    async fn kill_copy(&self, arguments: &[&str], resume_file: Option<&str>) {
        let copy = self.start(arguments);
        self.resume_file(None).await;
        signal(&copy, "KILL");
        copy.wait_with_output().expect("it ends");
        if let Some(content) = resume_file {
            fs::write(self.resume_files().pop().expect("a file"), content).expect("written");
        }
    }
}

fn signal(process: &Child, name: &str) {
    let killed = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
}

fn ended(process: Child) -> Ended {
    without_progress(process.wait_with_output().expect("it ends").into())
}

/// Removes the lines that a copy prints every 10 seconds.
fn without_progress(mut ended: Ended) -> Ended {
    let lines = ended.err.split_inclusive('\n').filter(|line| !line.contains(" of them copied ("));
    ended.err = lines.collect();
    ended
}

fn success(out: &str, err: &str) -> Ended {
    Ended { status: Some(0), out: out.to_owned(), err: err.to_owned() }
}

async fn open(url: &str) -> Arc<dyn Store> {
    url.parse::<StoreUrl>().expect("a URL").open().await.expect("a store")
}

fn with_prefix(prefix: &str, layout: Layout) -> CheckpointerBuilder {
    Checkpointer::builder().prefix(prefix).layout(layout)
}

async fn over(store: &Arc<dyn Store>, builder: CheckpointerBuilder) -> Checkpointer {
    builder.open_store(Arc::clone(store)).await.expect("a checkpointer")
}

async fn save(checkpointer: &Checkpointer, checkpoints: &[Checkpoint]) {
    for checkpoint in checkpoints {
        checkpointer.save(checkpoint).await.expect("saved");
    }
}

async fn load_document(checkpointer: &Checkpointer, session: &str, id: &str) -> String {
    checkpointer.load_document(session, id).await.expect("loaded").expect("a document")
}

/// All checkpoints and pinned sessions, sorted.
async fn scan_all(checkpointer: &Checkpointer) -> (Vec<ScanEntry>, Vec<String>) {
    let (mut checkpoints, mut pinned_sessions, mut cursor) = (Vec::new(), Vec::new(), None);
    loop {
        let page = checkpointer.scan(cursor.as_deref()).await.expect("a page");
        checkpoints.extend(page.checkpoints);
        pinned_sessions.extend(page.pinned_sessions);
        cursor = page.next_cursor;
        if cursor.is_none() {
            checkpoints.sort_by_key(|entry| (entry.session_id.clone(), entry.checkpoint_id.clone()));
            pinned_sessions.sort();
            return (checkpoints, pinned_sessions);
        }
    }
}

async fn list(checkpointer: &Checkpointer, query: HistoryQuery) -> History {
    checkpointer.list(query.limit(10_000)).await.expect("a history")
}

/// Asserts that source and target have equal checkpoints, histories, TTLs and
/// pins.
async fn assert_equal(source: &Checkpointer, target: &Checkpointer) {
    let ((checkpoints, pinned), (at_target, pinned_at_target)) =
        (scan_all(source).await, scan_all(target).await);
    assert_eq!(pinned, pinned_at_target);
    let ttls: BTreeMap<_, _> = at_target
        .into_iter()
        .map(|entry| ((entry.session_id, entry.checkpoint_id), entry.expires_in))
        .collect();
    assert_eq!(checkpoints.len(), ttls.len());
    let mut sessions = Vec::new();
    for entry in checkpoints {
        sessions.push(entry.session_id.clone());
        let at_target = ttls[&(entry.session_id, entry.checkpoint_id)];
        assert_eq!(entry.expires_in.is_some(), at_target.is_some());
        // More than the tolerance of `copy`, for a busy machine.
        let difference = entry.expires_in.unwrap_or_default().abs_diff(at_target.unwrap_or_default());
        assert!(difference < Duration::from_secs(60), "{difference:?}");
    }
    sessions.dedup();
    for session in sessions {
        let history = list(source, HistoryQuery::new(&session)).await;
        assert_eq!(list(target, HistoryQuery::new(&session)).await, history);
        for run in history.checkpoints.iter().filter_map(|checkpoint| checkpoint.metadata.run.as_ref()) {
            let of_run = || HistoryQuery::new(&session).run(&run.run_id);
            assert_eq!(list(target, of_run()).await, list(source, of_run()).await);
        }
    }
}

/// Saves 22 checkpoints in 4 sessions, one of them pinned: with and without run,
/// TTL and compression.
async fn fill(store: &Arc<dyn Store>, prefix: &str, layout: Layout) {
    let without_ttl = over(store, with_prefix(prefix, layout)).await;
    let with_ttl = over(store, with_prefix(prefix, layout).ttl(Duration::from_secs(7200))).await;
    let compressed = over(store, with_prefix(prefix, layout).compress(true)).await;
    for second in 0..5 {
        let id = |kind: &str| format!("{kind} {second}");
        save(&without_ttl, &[checkpoint("s", &id("run"), &format!("r{}", second % 2), second)]).await;
        save(&without_ttl, &[plain("session:s", &id("plain"), second)]).await;
        save(&with_ttl, &[checkpoint("{s}", &id("hours"), "r", second), plain("s", &id("old"), 9)]).await;
    }
    let state = format!("{{\"text\": \"{}\"}}", "much ".repeat(10_000));
    let large = with_state(checkpoint("s:run:r0", "large", "r0", 1), state);
    save(&compressed, &[large, checkpoint("s:run:r0", "small", "r0", 2)]).await;
    assert_eq!(with_ttl.pin_session("session:s").await.expect("pinned"), 5);
    assert!(with_ttl.pin_checkpoint("{s}", "hours 3").await.expect("pinned"));
    // A form that another program may write.
    let document = Names { prefix, layout }.document("s", "run 3");
    let text = load_document(&without_ttl, "s", "run 3").await;
    let text = text.replacen("+00:00", "Z", 1).replacen('{', "{ \"unknown\": 1, ", 1);
    put(store, vec![(document, text)], Vec::new()).await;
}

/// Writes values and index entries past the checkpointer.
async fn put(store: &Arc<dyn Store>, values: Vec<(String, String)>, entries: Vec<(String, String, f64)>) {
    let values =
        values.into_iter().map(|(key, value)| Operation::Put(Put { key, value, expiry: Expiry::Never }));
    let entries = entries.into_iter().map(|(index, member, score)| {
        Operation::IndexPut(IndexPut { index, member, score, expiry: Expiry::Never })
    });
    let batch = Batch { conditions: Vec::new(), operations: values.chain(entries).collect() };
    assert_eq!(store.commit(vec![batch]).await.expect("committed"), [true]);
}

/// So many checkpoints that a copy runs long enough to be killed.
const MANY: usize = 4000;

/// Writes [`MANY`] checkpoints of 40 sessions in the layout of llmfy.
async fn fill_with_many(store: &Arc<dyn Store>) {
    let names = Names { prefix: DEFAULT_PREFIX, layout: Layout::Llmfy };
    let (mut values, mut entries) = (Vec::new(), Vec::new());
    let state = "1234567 ".repeat(500);
    for number in 0..MANY {
        let (session, id) = (format!("s{}", number % 40), format!("c{number:05}"));
        let document = format!(
            "{{\"checkpoint_id\": \"{id}\", \"session_id\": \"{session}\", \"run_id\": \"r\", \
             \"created_at\": \"2026-01-01T00:00:00+00:00\", \"node\": \"n\", \"prev_node\": \"\", \"step\": 1, \
             \"updated_fields\": [], \"attempt\": 1, \"dispatch_id\": null, \"state\": \"{state}\"}}"
        );
        values.push((names.document(&session, &id), document));
        for index in [names.index(&session), names.index_of_run(&session, "r")] {
            entries.push((index, id.clone(), 1_767_225_600.0));
        }
    }
    put(store, values, entries).await;
}

/// The end of the output after a copy of [`MANY`].
const ALL_EQUAL: &str = "; 4,000 checkpoints of 40 sessions compared equal\n";

#[tokio::test(flavor = "multi_thread")]
async fn copy_into_the_other_layout_has_all_checkpoints_and_nothing_else() {
    let folder = TestFolder::new();
    let (source, target) = (folder.store("source.db").await, folder.store("target.db").await);
    for prefix in ["app:", "app:session:"] {
        fill(&source, prefix, Layout::Llmfy).await;
    }
    let (from, to) = (folder.url("source.db"), folder.url("target.db"));
    let arguments = ["--from", &from, "--to", &to, "--prefix", "app:", "--to-layout", "partitioned"];
    let first = folder.copy(&arguments);
    assert_eq!(first.status, Some(0), "{first:?}");
    assert_eq!(
        first,
        success(
            "copied 22 checkpoints (4.75 KiB), already at the target: 0; 22 checkpoints of 4 sessions compared equal\n",
            "pass 1: 22 copied (4.75 KiB), 0 equal\npass 2: 0 copied, 22 equal\n"
        )
    );
    let from = over(&source, with_prefix("app:", Layout::Llmfy)).await;
    let to = over(&target, with_prefix("app:", Layout::Partitioned)).await;
    let foreign = load_document(&from, "s", "run 3").await;
    assert!(foreign.starts_with("{ \"unknown\": 1, ") && foreign.contains('Z'), "{foreign}");
    assert_equal(&from, &to).await;
    assert_eq!(scan_all(&to).await.1, ["session:s"]);
    for (prefix, layout) in [("app:session:", Layout::Partitioned), ("app:", Layout::Llmfy)] {
        let other = over(&target, with_prefix(prefix, layout)).await;
        assert_eq!(scan_all(&other).await, (Vec::new(), Vec::new()));
    }

    let out = "copied 0 checkpoints (0 B), already at the target: 22; 22 checkpoints of 4 sessions compared equal\n";
    assert_eq!(folder.copy(&arguments), success(out, "pass 1: 0 copied (0 B), 22 equal\n"));
    // A new and a changed checkpoint.
    save(&from, &[checkpoint("s", "new", "r1", 99), checkpoint("s", "run 1", "r1", 77)]).await;
    let second = folder.copy(&[arguments.as_slice(), &["--json"]].concat());
    assert_eq!(second.err, "pass 1: 2 copied (508 B), 21 equal\npass 2: 0 copied, 23 equal\n");
    assert_eq!(
        serde_json::from_str::<Value>(&second.success()).expect("JSON"),
        json!({
            "copied": 2, "bytes": 508, "already_at_target": 21, "equal": 23, "sessions": 4, "pinned": 1,
            "passes": 2, "skipped": 0, "reported": [],
        })
    );
    assert_equal(&from, &to).await;
    assert_eq!(folder.resume_files(), [""; 0].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_other_programs_are_copied_once_and_compare_equal() {
    let folder = TestFolder::new();
    fill(&folder.store("source.db").await, DEFAULT_PREFIX, Layout::Partitioned).await;
    let (from, to) = (folder.url("source.db"), folder.url("target.db"));
    let arguments = ["--from", &from, "--layout", "partitioned", "--to", &to, "--to-layout", "llmfy"];
    for (passes, copied) in [(2, 22), (1, 0)] {
        let result = folder.copy_json(&arguments);
        assert_eq!((&result["passes"], &result["copied"]), (&passes.into(), &copied.into()));
        assert_eq!(result["equal"], 22);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_copied_to_a_file_and_back() {
    let (folder, server) = (TestFolder::new(), RedisServer::start().await);
    let (redis, file) = (server.url(), folder.url("target.db"));
    let source = open(&redis).await;
    fill(&source, "app:", Layout::Llmfy).await;
    let to_file = ["--from", &redis, "--prefix", "app:", "--to", &file, "--to-layout", "partitioned"];
    // The prefix of the source is the beginning of this one.
    let prefix = ["--prefix", "app:", "--to-prefix", "app:checkpoint:"];
    let back =
        [&["--from", &file, "--layout", "partitioned", "--to", &redis, "--to-layout", "llmfy"], &prefix[..]];
    for arguments in [&to_file[..], &back.concat()] {
        let out = folder.copy(arguments).success();
        let all = "), already at the target: 0; 22 checkpoints of 4 sessions compared equal\n";
        assert!(out.ends_with(all), "{out}");
    }
    // From one prefix of a store to another one.
    let within = ["--from", &redis, "--prefix", "app:", "--to", &redis, "--to-prefix", "app:session:"];
    folder.copy(&within).success();
    let source_checkpointer = over(&source, with_prefix("app:", Layout::Llmfy)).await;
    for prefix in ["app:checkpoint:", "app:session:"] {
        assert_equal(&source_checkpointer, &over(&source, with_prefix(prefix, Layout::Llmfy)).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_is_copied_into_a_cluster_and_back() {
    let folder = TestFolder::new();
    let source = folder.store("source.db").await;
    fill(&source, "app:", Layout::Llmfy).await;
    let (cluster, _guard) = RedisCluster::shared().await;
    let (file, back, cluster) = (folder.url("source.db"), folder.url("back.db"), cluster.url());
    let into = ["--from", &file, "--prefix", "app:", "--to", &cluster, "--to-layout", "partitioned"];
    let out = ["--from", &cluster, "--prefix", "app:", "--layout", "partitioned", "--to", &back];
    for arguments in [&into[..], &[&out[..], &["--to-layout", "llmfy"]].concat()] {
        let result = folder.copy_json(arguments);
        let counts = ["copied", "equal", "sessions"].map(|name| result[name].as_u64());
        assert_eq!(counts, [Some(22), Some(22), Some(4)]);
    }
    let refused = folder.copy(&["--from", &file, "--prefix", "app:", "--to", &cluster]);
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.err.contains("the layout `partitioned`"), "{refused:?}");
    let back = over(&folder.store("back.db").await, with_prefix("app:", Layout::Llmfy)).await;
    assert_equal(&over(&source, with_prefix("app:", Layout::Llmfy)).await, &back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_copy_is_resumed() {
    let folder = TestFolder::new();
    let (source, target) = (folder.store("source.db").await, folder.store("target.db").await);
    fill_with_many(&source).await;
    let (from, to) = (folder.url("source.db"), folder.url("target.db"));
    let arguments = ["--from", &from, "--to", &to, "--to-layout", "partitioned"];

    let copy = folder.start(&arguments);
    folder.resume_file(None).await;
    let file = folder.resume_files().pop().expect("a file");
    let is_private = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o077 == 0;
    assert!(is_private(&file) && is_private(file.parent().expect("a folder")));
    signal(&copy, "INT");
    let interrupted = ended(copy);
    assert_eq!((interrupted.status, interrupted.out.as_str()), (Some(1), ""));
    let (message, rest) = interrupted.err.rsplit_once(" checkpoints; ").expect("a message");
    assert_eq!(rest, "repeat the command to resume it: interrupted\n");
    let done = message.strip_prefix("checkpointer: the copy stopped after about ").expect("a message");
    let done: usize = done.replace(',', "").parse().expect("a number");
    assert!((1000..MANY).contains(&done), "{interrupted:?}");

    let copy = folder.start(&arguments);
    folder.resume_file(Some(&fs::read_to_string(&file).expect("a position"))).await;
    signal(&copy, "KILL");
    let killed = ended(copy);
    assert_eq!((killed.status, killed.out.as_str()), (None, ""));
    assert_eq!(resumed_after(&killed.err), done);

    let resumed = folder.copy(&arguments);
    assert!((done..MANY).contains(&resumed_after(&resumed.err)), "{resumed:?}");
    assert!(resumed.success().ends_with(ALL_EQUAL));
    assert_eq!(folder.resume_files(), [""; 0].map(PathBuf::from));
    let target = over(&target, with_prefix(DEFAULT_PREFIX, Layout::Partitioned)).await;
    assert_equal(&over(&source, with_prefix(DEFAULT_PREFIX, Layout::Llmfy)).await, &target).await;
}

/// The number of checkpoints before the position at which a copy was resumed.
fn resumed_after(err: &str) -> usize {
    let first = err.split_once(" checkpoints\n").expect(err).0;
    let number = first.strip_prefix("resuming an earlier copy after about ").expect(err);
    number.replace(',', "").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_resume_file_does_not_end_a_copy() {
    let folder = TestFolder::new();
    fill_with_many(&folder.store("source.db").await).await;
    let (from, to) = (folder.url("source.db"), folder.url("target.db"));
    let arguments = ["--from", &from, "--to", &to];
    folder.kill_copy(&arguments, Some("no JSON")).await;
    let copy = folder.copy(&arguments);
    assert!(copy.err.starts_with("pass 1: "), "{copy:?}");
    assert!(copy.success().ends_with(ALL_EQUAL));
    folder.kill_copy(&arguments, Some(r#"{"cursor": "nowhere", "checkpoints": 1}"#)).await;
    assert_starts_again(folder.copy(&arguments), "\"nowhere\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_starts_again_if_the_store_rejects_its_cursor() {
    let (folder, server) = (TestFolder::new(), RedisServer::start().await);
    fill_with_many(&folder.store("source.db").await).await;
    let (cluster, _guard) = RedisCluster::shared().await;
    let (file, target) = (folder.url("source.db"), folder.url("target.db"));
    let (redis, cluster) = (server.url(), cluster.url());
    for (source, cursor, reason) in [
        (&redis, "checkpoints:nowhere", "invalid scan cursor"),
        // After 100 restarts of the scan because of moved slots, and one more.
        (&cluster, "checkpoints:0.17.1.1.100", "the scan was restarted too often"),
        // After 100 restarts of the scan because of restarted servers, and one more.
        (&redis, "checkpoints:17.1.100", "the scan was restarted too often"),
    ] {
        folder.copy(&["--from", &file, "--to", source, "--to-layout", "partitioned"]).success();
        let arguments = ["--from", source, "--to", &target, "--layout", "partitioned"];
        let position = json!({ "cursor": cursor, "checkpoints": 1 }).to_string();
        folder.kill_copy(&arguments, Some(&position)).await;
        assert_starts_again(folder.copy(&arguments), reason);
    }
}

/// Asserts that a copy was not resumed after 1 checkpoint, for this reason.
fn assert_starts_again(copy: Ended, reason: &str) {
    let mut lines = copy.err.lines();
    assert_eq!(lines.next(), Some("resuming an earlier copy after about 1 checkpoint"), "{copy:?}");
    let again = "the copy starts again, because it can't be resumed: ";
    let again = lines.next().and_then(|line| line.strip_prefix(again));
    assert!(again.is_some_and(|error| error.contains(reason)), "{copy:?}");
    assert!(lines.next().is_some_and(|line| line.starts_with("pass 1: ")), "{copy:?}");
    assert!(copy.success().ends_with(ALL_EQUAL));
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_stops_when_a_store_is_lost_and_is_resumed_when_it_is_back() {
    let (folder, mut server) = (TestFolder::new(), RedisServer::start().await);
    let source = folder.store("source.db").await;
    fill_with_many(&source).await;
    let (from, to) = (folder.url("source.db"), format!("{}?connect_timeout=1", server.url()));
    let arguments = ["--from", &from, "--to", &to];
    let copy = folder.start(&arguments);
    folder.resume_file(None).await;
    server.kill().await;
    let stopped = ended(copy);
    assert_eq!((stopped.status, stopped.out.as_str()), (Some(1), ""), "{stopped:?}");
    assert!(stopped.err.contains("checkpointer: the copy stopped after about "), "{stopped:?}");
    assert!(stopped.err.contains("; repeat the command to resume it: "), "{stopped:?}");

    // The server lost its data, and the position is that of an earlier copy.
    server.restart().await;
    let resumed = folder.copy(&arguments);
    assert!((1000..MANY).contains(&resumed_after(&resumed.err)));
    assert!(resumed.success().starts_with("copied 4,000 checkpoints"));
    let source = over(&source, with_prefix(DEFAULT_PREFIX, Layout::Llmfy)).await;
    let target = over(&open(&server.url()).await, with_prefix(DEFAULT_PREFIX, Layout::Llmfy)).await;
    assert_equal(&source, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_retries_while_a_server_restarts() {
    let (folder, mut server) = (TestFolder::new(), RedisServer::start().await);
    fill_with_many(&folder.store("source.db").await).await;
    let (from, to) = (folder.url("source.db"), format!("{}?connect_timeout=1", server.url()));
    let arguments = ["--from", &from, "--to", &to];
    let copy = folder.start(&arguments);
    folder.resume_file(None).await;
    server.kill().await;
    server.restart().await;
    assert!(ended(copy).success().ends_with(ALL_EQUAL));
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_option_ignores_the_resume_file() {
    let folder = TestFolder::new();
    fill_with_many(&folder.store("source.db").await).await;
    let (from, to) = (folder.url("source.db"), folder.url("target.db"));
    let arguments = ["--from", &from, "--to", &to];
    folder.copy(&arguments).success();
    folder.kill_copy(&arguments, None).await;
    let copy = folder.copy(&[arguments.as_slice(), &["--restart"]].concat());
    assert_eq!(copy.err, "pass 1: 0 copied (0 B), 4,000 equal\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_during_a_copy_are_found_by_another_pass() {
    let folder = TestFolder::new();
    let (source, target) = (folder.store("source.db").await, folder.store("target.db").await);
    fill_with_many(&source).await;
    let source = over(&source, with_prefix(DEFAULT_PREFIX, Layout::Llmfy)).await;
    let (from, to) = (folder.url("source.db"), folder.url("target.db"));
    let copy = folder.start(&["--from", &from, "--to", &to, "--json"]);
    folder.resume_file(None).await;
    // All of these are before the position of the copy: a changed, a new and a
    // deleted checkpoint.
    save(&source, &[checkpoint("s1", "c00001", "q", 1), checkpoint("s1", "before", "q", 1)]).await;
    assert!(source.delete_checkpoint("s2", "c00002").await.expect("deleted"));
    let copy = ended(copy);
    assert!(
        copy.err.contains("\npass 2: 2 copied, 3,998 equal\npass 3: 0 copied, 4,000 equal\n"),
        "{copy:?}"
    );
    let result: Value = serde_json::from_str(&copy.success()).expect("JSON");
    assert_eq!((&result["copied"], &result["equal"]), (&4001.into(), &4000.into()));
    // The deleted checkpoint had been copied.
    let target = over(&target, with_prefix(DEFAULT_PREFIX, Layout::Llmfy)).await;
    assert!(target.delete_checkpoint("s2", "c00002").await.expect("deleted"));
    assert_equal(&source, &target).await;
}

/// The second copy changes the TTLs and pins of checkpoints that are equal
/// otherwise. The last pass of each copy, and the third copy, find no difference.
#[tokio::test(flavor = "multi_thread")]
async fn changed_ttls_and_pins_are_copied() {
    let (folder, server) = (TestFolder::new(), RedisServer::start().await);
    let source_store = folder.store("source.db").await;
    let with_ttl = async |seconds| {
        over(&source_store, with_prefix("app:", Layout::Llmfy).ttl(Duration::from_secs(seconds))).await
    };
    let source = with_ttl(7200).await;
    let with_id = |id: &str| checkpoint("s", id, "r", 1);
    for to in [folder.url("target.db"), server.url()] {
        save(&source, &["longer", "shorter", "pinned", "pinned at target", "unchanged"].map(with_id)).await;
        let from = folder.url("source.db");
        let arguments = ["--from", &from, "--to", &to, "--prefix", "app:", "--to-layout", "partitioned"];
        let target = over(&open(&to).await, with_prefix("app:", Layout::Partitioned)).await;
        for (copied, passes) in [(5, 2), (4, 2), (0, 1)] {
            let result = folder.copy_json(&arguments);
            let counts = ["copied", "passes", "equal"].map(|name| result[name].as_u64());
            assert_eq!(counts, [Some(copied), Some(passes), Some(5)], "{result}");
            assert_equal(&source, &target).await;
            if copied == 5 {
                save(&with_ttl(20_000).await, &[with_id("longer")]).await;
                save(&with_ttl(600).await, &[with_id("shorter")]).await;
                assert!(source.pin_checkpoint("s", "pinned").await.expect("pinned"));
                assert!(target.pin_checkpoint("s", "pinned at target").await.expect("pinned"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_pinned_at_the_target_only_stays_pinned_and_is_reported() {
    let folder = TestFolder::new();
    let (source_store, target_store) = (folder.store("source.db").await, folder.store("target.db").await);
    let with_ttl = |seconds| with_prefix("app:", Layout::Llmfy).ttl(Duration::from_secs(seconds));
    let source = over(&source_store, with_ttl(7200)).await;
    let target = over(&target_store, with_ttl(60)).await;
    save(&source, &[plain("p", "p1", 1), plain("p", "p2", 2), plain("q", "q", 3)]).await;
    assert_eq!(target.pin_session("p").await.expect("pinned"), 0);
    let (from, to) = (folder.url("source.db"), folder.url("target.db"));
    let arguments = ["--from", &from, "--to", &to, "--prefix", "app:"];
    let skipped = "checkpointer: skipped session \"p\": it is pinned at the target only, so 2 checkpoints of it will \
                   not expire there; unpin it at the target and repeat the command, or pin it at the source\n";
    let copy = folder.copy(&arguments);
    assert_eq!(copy.status, Some(1), "{copy:?}");
    assert!(copy.err.ends_with(&format!("\npass 2: 0 copied, 1 equal\n{skipped}")), "{copy:?}");
    assert!(copy.out.starts_with("copied 3 checkpoints ("), "{copy:?}");
    let equal = "1 checkpoint of 1 session compared equal\n";
    assert!(copy.out.ends_with(&format!("already at the target: 0; {equal}")), "{copy:?}");
    let copy = folder.copy(&arguments);
    let out = format!("copied 0 checkpoints (0 B), already at the target: 3; {equal}");
    assert_eq!((copy.status, copy.out), (Some(1), out));
    assert_eq!(copy.err, format!("pass 1: 0 copied (0 B), 1 equal\n{skipped}"));
    let copy = folder.copy(&[&arguments[..], &["--json"]].concat());
    let result: Value = serde_json::from_str(&copy.out).expect("JSON");
    let reported = &result["reported"][0];
    assert_eq!(
        (&result["skipped"], &reported["session_id"], &reported["checkpoint_id"]),
        (&1.into(), &"p".into(), &Value::Null)
    );

    // Unpinned at the target.
    assert_eq!(target.unpin_session("p").await.expect("unpinned"), 2);
    let copy = folder.copy(&arguments);
    assert!(copy.err.ends_with("pass 2: 0 copied, 3 equal\n"), "{copy:?}");
    copy.success();
    assert_equal(&source, &target).await;
    // Pinned at the source.
    assert_eq!(source.pin_session("p").await.expect("pinned"), 2);
    folder.copy(&arguments).success();
    assert_equal(&source, &target).await;

    // A program without pins, such as llmfy, saves into the pinned session.
    let key = Names { prefix: "app:", layout: Layout::Llmfy }.document("p", "p1");
    let value = load_document(&source, "p", "p1").await;
    let put = Operation::Put(Put { key, value, expiry: Expiry::AfterMs(7_200_000) });
    let batch = Batch { conditions: Vec::new(), operations: vec![put] };
    assert_eq!(source_store.commit(vec![batch]).await.expect("committed"), [true]);
    let out =
        "copied 0 checkpoints (0 B), already at the target: 3; 3 checkpoints of 2 sessions compared equal\n";
    assert_eq!(folder.copy(&arguments), success(out, "pass 1: 0 copied (0 B), 3 equal\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_that_cannot_be_copied_are_skipped_and_reported() {
    let folder = TestFolder::new();
    let (source_store, target_store) = (folder.store("source.db").await, folder.store("target.db").await);
    let source = over(&source_store, with_prefix("app:", Layout::Partitioned)).await;
    let target = over(&target_store, with_prefix("app:", Layout::Llmfy)).await;
    // In the layout of llmfy, the id `c` belongs to session `x`.
    save(&source, &[checkpoint("a", "a1", "r", 1), checkpoint("a", "c", "r", 2)]).await;
    save(&target, &[checkpoint("x", "c", "r", 3)]).await;
    let names = Names { prefix: "app:", layout: Layout::Partitioned };
    let half = "{\"checkpoint_id\": \"half\", \"session_id\": \"a\", \"run_id\": \"r\"}";
    put(&source_store, vec![(names.document("a", "half"), half.into())], Vec::new()).await;
    put(&source_store, vec![(names.document("a", "garbage"), "no document".into())], Vec::new()).await;
    let foreign = Names { prefix: "app:", layout: Layout::Llmfy }.document("a", "a1");
    put(&target_store, vec![(foreign, "no document".into())], Vec::new()).await;
    let (from, to) = (folder.url("source.db"), folder.url("target.db"));
    let arguments = ["--from", &from, "--to", &to, "--prefix", "app:", "--layout", "partitioned"];
    let arguments = [arguments.as_slice(), &["--to-layout", "llmfy"]].concat();
    let copy = folder.copy(&arguments);
    assert_eq!(copy.status, Some(1), "{copy:?}");
    assert_eq!(
        copy.out,
        "copied 0 checkpoints (0 B), already at the target: 0; 0 checkpoints of 0 sessions compared equal\n"
    );
    let mut reported: Vec<&str> = copy.err.lines().collect();
    reported.sort_unstable();
    let expected = [
        ("skipped checkpoint \"a1\" of session \"a\": ", "checkpoint \"a1\" can't be saved: "),
        ("skipped checkpoint \"c\" of session \"a\": ", "checkpoint \"c\" can't be saved: "),
        ("skipped checkpoint \"garbage\": ", "it can't be read: "),
        ("skipped checkpoint \"half\" of session \"a\": ", "it can't be read: "),
    ];
    assert_eq!(reported.len(), expected.len() + 1, "{copy:?}");
    for (line, (checkpoint, reason)) in reported.iter().zip(expected) {
        assert!(line.starts_with(&format!("checkpointer: {checkpoint}{reason}")), "{line}");
    }
    assert_eq!(reported.last(), Some(&"pass 1: 0 copied (0 B), 0 equal"));
    assert_eq!(list(&target, "x".into()).await.checkpoints, [checkpoint("x", "c", "r", 3)]);

    // At most 20 are reported by name.
    let garbage = (0..30).map(|number| (names.document("b", &number.to_string()), "no document".into()));
    put(&source_store, garbage.collect(), Vec::new()).await;
    assert_eq!(target.delete_session("x").await.expect("deleted"), 1);
    let copy = folder.copy(&arguments);
    assert_eq!(copy.status, Some(1), "{copy:?}");
    assert!(copy.out.ends_with("; 1 checkpoint of 1 session compared equal\n"), "{copy:?}");
    assert_eq!(copy.err.lines().filter(|line| line.contains("skipped checkpoint ")).count(), 20);
    assert!(copy.err.ends_with("\ncheckpointer: skipped 13 more\n"), "{copy:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_arguments_are_refused_before_anything_is_copied() {
    let folder = TestFolder::new();
    fill(&folder.store("source.db").await, DEFAULT_PREFIX, Layout::Llmfy).await;
    let path = folder.0.path();
    symlink(path.join("source.db"), path.join("link.db")).expect("a link");
    let (source, target) = (folder.url("source.db"), folder.url("target.db"));
    let equal = "source and target are both ";
    for (from, to, more, status, reason) in [
        (source.as_str(), source.as_str(), &[][..], 2, equal),
        (&source, "sqlite:./source.db", &[], 2, equal),
        ("sqlite:link.db", &source, &[], 2, equal),
        ("redis://u:secret@h/1", "redis://h:6379/1", &[], 2, "redis://h:6379/1 (prefix "),
        ("memory:", &target, &[], 2, "memory: is lost when this process ends"),
        (&source, "memory:", &[], 2, "memory: is lost when this process ends"),
        ("sqlite:nowhere.db", &target, &[], 1, "the source does not exist: sqlite:"),
        (&source, &target, &["--store", "sqlite:x.db"], 2, "--store does not apply to `checkpointer copy`"),
        (&source, &target, &["--ttl", "5"], 2, "--ttl does not apply"),
        (&source, &target, &["--session-ttl", "5"], 2, "--session-ttl does not apply"),
        (&source, &target, &["--refresh-on-read"], 2, "--refresh-on-read does not apply"),
        (&source, &target, &["--max-checkpoints", "5"], 2, "--max-checkpoints does not apply"),
        (&source, &target, &["--compress"], 2, "--compress does not apply"),
        (&source, &target, &["--to-prefix", ""], 2, "the prefix is empty"),
        (&source, "postgres://h", &[], 2, "postgres://h"),
    ] {
        let ended = folder.copy(&[&["--from", from, "--to", to], more].concat());
        assert_eq!((ended.status, ended.out.as_str()), (Some(status), ""), "{from} {to} {more:?}: {ended:?}");
        assert!(
            ended.err.contains(reason) && !ended.err.contains("secret"),
            "{from} {to} {more:?}: {ended:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn source_and_target_are_read_from_the_environment() {
    let folder = TestFolder::new();
    fill(&folder.store("source.db").await, DEFAULT_PREFIX, Layout::Llmfy).await;
    let (source, target) = (folder.url("source.db"), folder.url("target.db"));
    let mut command = folder.command(&[]);
    // The store of other commands is not a mistake.
    command.env("CHECKPOINTER_STORE", &source);
    command.env("CHECKPOINTER_FROM", &source).env("CHECKPOINTER_TO", &target);
    run_command(command).success();
}
