//! The command `copy`, run as a person or a program would run it.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use checkpointer::store::{Address, Batch, Expiry, IndexPut, Operation, Put, Store};
use checkpointer::{Builder, Checkpoint, Checkpointer, DEFAULT_PREFIX, History, Layout, Listed};
use checkpointer_tests::names::Names;
use checkpointer_tests::redis_cluster::RedisCluster;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::{checkpoint, plain};
use tempfile::TempDir;

/// A folder with the stores of a test in it, and with what copies keep in mind.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder") }
    }

    fn url(&self, file: &str) -> String {
        format!("sqlite:{}", self.folder.path().join(file).display())
    }

    async fn store(&self, file: &str) -> Arc<dyn Store> {
        open(&self.url(file)).await
    }

    /// The program with these words, the first ones being said already.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkpointer"));
        command.arg("copy").args(words).current_dir(self.folder.path());
        for variable in ["STORE", "FROM", "TO"] {
            command.env_remove(format!("CHECKPOINTER_{variable}"));
        }
        command.env("CHECKPOINTER_STATE", self.folder.path().join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn copy(&self, words: &[&str]) -> Ended {
        Ended::of(self.command(words).output().expect("the program runs"))
    }

    fn begin(&self, words: &[&str]) -> Child {
        self.command(words).spawn().expect("the program runs")
    }

    /// The files that copies keep.
    fn kept(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.folder.path().join("state/copies"));
        let files = folder.into_iter().flatten().map(|file| file.expect("a file").path());
        files.filter(|file| file.extension().is_some_and(|it| it == "json")).collect()
    }

    /// Waits until a copy has come so far that it would go on from there, or from
    /// another place than before.
    async fn is_under_way(&self, before: Option<&str>) -> String {
        loop {
            let kept = self.kept().pop().and_then(|file| fs::read_to_string(file).ok());
            if let Some(kept) = kept.filter(|kept| Some(kept.as_str()) != before) {
                return kept;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Kills a copy that is under way, and says where the next one is to go on.
    async fn is_stopped_at(&self, words: &[&str], content: &str) {
        let copy = self.begin(words);
        self.is_under_way(None).await;
        let killed = Command::new("kill").args(["-KILL", &copy.id().to_string()]).status();
        assert!(killed.expect("killed").success());
        copy.wait_with_output().expect("it ends");
        fs::write(self.kept().pop().expect("a file"), content).expect("written");
    }
}

/// What the program said.
#[derive(Debug, PartialEq)]
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn done(out: &str, err: &str) -> Ended {
    Ended { status: Some(0), out: out.to_owned(), err: err.to_owned() }
}

async fn open(url: &str) -> Arc<dyn Store> {
    url.parse::<Address>().expect("an address").open().await.expect("a store")
}

fn under(prefix: &str, layout: Layout) -> Builder {
    Checkpointer::builder().prefix(prefix).layout(layout)
}

async fn over(store: &Arc<dyn Store>, builder: Builder) -> Checkpointer {
    builder.open_store(Arc::clone(store)).await.expect("a checkpointer")
}

async fn save(checkpointer: &Checkpointer, checkpoints: &[Checkpoint]) {
    for checkpoint in checkpoints {
        checkpointer.save(checkpoint).await.expect("saved");
    }
}

/// All that a checkpointer has, with the pinned sessions.
async fn all(checkpointer: &Checkpointer) -> (Vec<Listed>, Vec<String>) {
    let (mut checkpoints, mut pinned, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = checkpointer.scan(after.as_deref()).await.expect("a page");
        checkpoints.extend(page.checkpoints);
        pinned.extend(page.pinned);
        after = page.next;
        if after.is_none() {
            let place = |it: &Listed| (it.session_id.clone(), it.checkpoint_id.clone());
            checkpoints.sort_by_key(place);
            pinned.sort();
            return (checkpoints, pinned);
        }
    }
}

async fn listed(checkpointer: &Checkpointer, session: &str) -> History {
    checkpointer.list(session, Some(10_000)).await.expect("a history")
}

/// That one has what the other one has: the same in each list, and for as long.
async fn assert_same(here: &Checkpointer, there: &Checkpointer) {
    let ((checkpoints, pinned), (of_other, pinned_there)) = (all(here).await, all(there).await);
    assert_eq!(pinned, pinned_there);
    let lives: BTreeMap<_, _> =
        of_other.into_iter().map(|it| ((it.session_id, it.checkpoint_id), it.milliseconds)).collect();
    assert_eq!(checkpoints.len(), lives.len());
    let mut sessions = Vec::new();
    for it in checkpoints {
        sessions.push(it.session_id.clone());
        let of_other = lives[&(it.session_id, it.checkpoint_id)];
        assert_eq!(it.milliseconds.is_some(), of_other.is_some());
        // Not to the minute, on a busy machine.
        let apart = it.milliseconds.unwrap_or_default().abs_diff(of_other.unwrap_or_default());
        assert!(apart < 60_000, "{apart} ms");
    }
    sessions.dedup();
    for session in sessions {
        let history = listed(here, &session).await;
        assert_eq!(listed(there, &session).await, history);
        for run in history.checkpoints.iter().filter_map(|it| it.metadata.run.as_ref()) {
            let of_run = async |it: &Checkpointer| it.list_by_run(&session, &run.run_id, Some(10_000)).await;
            assert_eq!(of_run(there).await.expect("a history"), of_run(here).await.expect("a history"));
        }
    }
}

/// Some of everything under a prefix: 22 checkpoints in 4 sessions, one of them
/// pinned.
async fn fill(store: &Arc<dyn Store>, prefix: &str, layout: Layout) {
    let forever = over(store, under(prefix, layout)).await;
    let hours = over(store, under(prefix, layout).ttl(Duration::from_secs(7200))).await;
    let compressed = over(store, under(prefix, layout).compress(true)).await;
    for second in 0..5 {
        let id = |kind: &str| format!("{kind} {second}");
        save(&forever, &[checkpoint("s", &id("run"), &format!("r{}", second % 2), second)]).await;
        save(&forever, &[plain("session:s", &id("plain"), second)]).await;
        save(&hours, &[checkpoint("{s}", &id("hours"), "r", second), plain("s", &id("old"), 9)]).await;
    }
    let mut large = checkpoint("s:run:r0", "large", "r0", 1);
    large.state = format!("{{\"text\": \"{}\"}}", "much ".repeat(10_000));
    save(&compressed, &[large, checkpoint("s:run:r0", "small", "r0", 2)]).await;
    assert_eq!(hours.pin("session:s", None).await.expect("pinned"), 5);
    assert_eq!(hours.pin("{s}", Some("hours 3")).await.expect("pinned"), 1);
    // In ways to write it that are not ours.
    let names = Names { prefix, layout };
    let document = names.document("s", "run 3");
    let text = forever.load_document("s", Some("run 3")).await.expect("loaded").expect("there");
    let text = text.replacen("+00:00", "Z", 1).replacen('{', "{ \"unknown\": 1, ", 1);
    put(store, vec![(document, text)], Vec::new()).await;
}

/// Puts texts at keys, and members with scores into indexes, as anybody might.
async fn put(store: &Arc<dyn Store>, texts: Vec<(String, String)>, members: Vec<(String, String, f64)>) {
    let texts =
        texts.into_iter().map(|(key, value)| Operation::Put(Put { key, value, expiry: Expiry::Never }));
    let members = members.into_iter().map(|(index, member, score)| {
        Operation::IndexPut(IndexPut { index, member, score, expiry: Expiry::Never })
    });
    let batch = Batch { conditions: Vec::new(), operations: texts.chain(members).collect() };
    assert_eq!(store.commit(vec![batch]).await, Ok(vec![true]));
}

/// Many checkpoints of 40 sessions under llmfy's prefix.
async fn fill_with_many(store: &Arc<dyn Store>, count: usize) {
    let names = Names { prefix: DEFAULT_PREFIX, layout: Layout::Llmfy };
    let (mut texts, mut members) = (Vec::new(), Vec::new());
    let state = "1234567 ".repeat(500);
    for number in 0..count {
        let (session, id) = (format!("s{}", number % 40), format!("c{number:05}"));
        let text = format!(
            "{{\"checkpoint_id\": \"{id}\", \"session_id\": \"{session}\", \"run_id\": \"r\", \
             \"created_at\": \"2026-01-01T00:00:00+00:00\", \"node\": \"n\", \"prev_node\": \"\", \"step\": 1, \
             \"updated_fields\": [], \"attempt\": 1, \"dispatch_id\": null, \"state\": \"{state}\"}}"
        );
        texts.push((names.document(&session, &id), text));
        for index in [names.index(&session), names.index_of_run(&session, "r")] {
            members.push((index, id.clone(), 1_767_225_600.0));
        }
    }
    put(store, texts, members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_afterwards_in_the_other_layout_and_nothing_else() {
    let place = Place::new();
    let (here, there) = (place.store("here.db").await, place.store("there.db").await);
    for prefix in ["app:", "app:session:"] {
        fill(&here, prefix, Layout::Llmfy).await;
    }
    let (from, to) = (place.url("here.db"), place.url("there.db"));
    let words = ["--from", &from, "--to", &to, "--prefix", "app:", "--to-layout", "partitioned"];
    let first = place.copy(&words);
    assert_eq!(first.status, Some(0), "{first:?}");
    let kibibytes = "4.75 KiB";
    assert_eq!(
        first,
        done(
            &format!(
                "copied 22 checkpoints ({kibibytes}), 0 were there already; all 22 of 4 sessions compared equal\n"
            ),
            &format!("first pass: 22 copied ({kibibytes}), 0 equal\npass 2: 0 copied, 22 equal\n")
        )
    );
    let from = over(&here, under("app:", Layout::Llmfy)).await;
    let to = over(&there, under("app:", Layout::Partitioned)).await;
    // But for the one that was written in another way.
    let ours = from.load_document("s", Some("run 3")).await.expect("loaded").expect("there");
    assert!(ours.starts_with("{ \"unknown\": 1, ") && ours.contains('Z'), "{ours}");
    from.save_document(&ours).await.expect("saved");
    assert_same(&from, &to).await;
    assert_eq!(all(&to).await.1, ["session:s"]);
    let others = over(&there, under("app:session:", Layout::Partitioned)).await;
    assert_eq!(all(&others).await, (Vec::new(), Vec::new()));
    let others = over(&there, under("app:", Layout::Llmfy)).await;
    assert_eq!(all(&others).await, (Vec::new(), Vec::new()));

    // Again, and one that came meanwhile.
    let nothing = "copied 0 checkpoints (0 B), 22 were there already; all 22 of 4 sessions compared equal\n";
    assert_eq!(place.copy(&words), done(nothing, "first pass: 0 copied (0 B), 22 equal\n"));
    save(&from, &[checkpoint("s", "new", "r1", 99), checkpoint("s", "run 1", "r1", 77)]).await;
    let ended = place.copy(&[words.as_slice(), &["--json"]].concat());
    assert_eq!(ended.err, "first pass: 2 copied (508 B), 21 equal\npass 2: 0 copied, 23 equal\n");
    let numbers: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    let expected = serde_json::json!({
        "copied": 2, "bytes": 508, "there_already": 21, "equal": 23, "sessions": 4, "pinned": 1, "passes": 2,
        "left": 0, "named": [],
    });
    assert_eq!((numbers, ended.status), (expected, Some(0)));
    assert_same(&from, &to).await;
    assert_eq!(place.kept(), [""; 0].map(PathBuf::from));
}

/// What is written in another way compares equal, whether its timestamp is stored
/// as it was or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_in_their_own_way_is_copied_once() {
    let place = Place::new();
    let here = place.store("here.db").await;
    fill(&here, DEFAULT_PREFIX, Layout::Partitioned).await;
    let (from, to) = (place.url("here.db"), place.url("there.db"));
    let words = ["--from", &from, "--layout", "partitioned", "--to", &to, "--to-layout", "llmfy", "--json"];
    for (passes, copied) in [(2, 22), (1, 0)] {
        let ended = place.copy(&words);
        assert_eq!(ended.status, Some(0), "{ended:?}");
        let numbers: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
        assert_eq!((&numbers["passes"], &numbers["copied"]), (&passes.into(), &copied.into()));
        assert_eq!(numbers["equal"], 22);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_moved_to_a_file_and_back() {
    let (place, server) = (Place::new(), RedisServer::start().await);
    let (redis, file) = (server.url(), place.url("there.db"));
    let here = open(&redis).await;
    fill(&here, "app:", Layout::Llmfy).await;
    let last = |ended: Ended| {
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.out.split_once("), ").expect("words").1.to_owned()
    };
    let words = "0 were there already; all 22 of 4 sessions compared equal\n";
    let to_file = ["--from", &redis, "--prefix", "app:", "--to", &file, "--to-layout", "partitioned"];
    assert_eq!(last(place.copy(&to_file)), words);
    // Under a prefix that begins with the one that it came from.
    let back = [
        "--from",
        &file,
        "--layout",
        "partitioned",
        "--prefix",
        "app:",
        "--to",
        &redis,
        "--to-prefix",
        "app:checkpoint:",
        "--to-layout",
        "llmfy",
    ];
    assert_eq!(last(place.copy(&back)), words);
    // And from one part of a store to another, which begins with it too.
    let within =
        ["--from", &redis, "--prefix", "app:", "--to", &redis, "--to-prefix", "app:session:", "--json"];
    assert_eq!(place.copy(&within).status, Some(0));
    let original = over(&here, under("app:", Layout::Llmfy)).await;
    let ours = original.load_document("s", Some("run 3")).await.expect("loaded").expect("there");
    original.save_document(&ours).await.expect("saved");
    for prefix in ["app:checkpoint:", "app:session:"] {
        assert_same(&original, &over(&here, under(prefix, Layout::Llmfy)).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_moved_into_a_cluster_and_back() {
    let place = Place::new();
    let here = place.store("here.db").await;
    fill(&here, "app:", Layout::Llmfy).await;
    let (cluster, _alone) = RedisCluster::shared().await;
    let (file, back, cluster) = (place.url("here.db"), place.url("back.db"), cluster.url());
    let into =
        ["--from", &file, "--prefix", "app:", "--to", &cluster, "--to-layout", "partitioned", "--json"];
    let out = ["--from", &cluster, "--prefix", "app:", "--layout", "partitioned", "--to", &back];
    for words in [&into[..], &[&out[..], &["--to-layout", "llmfy", "--json"]].concat()] {
        let ended = place.copy(words);
        assert_eq!(ended.status, Some(0), "{ended:?}");
        let numbers: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
        assert_eq!(
            (&numbers["copied"], &numbers["equal"], &numbers["sessions"]),
            (&22.into(), &22.into(), &4.into())
        );
    }
    let refused = place.copy(&["--from", &file, "--prefix", "app:", "--to", &cluster]);
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.err.contains("the layout `partitioned`"), "{refused:?}");
    let back = place.store("back.db").await;
    let original = over(&here, under("app:", Layout::Llmfy)).await;
    let ours = original.load_document("s", Some("run 3")).await.expect("loaded").expect("there");
    original.save_document(&ours).await.expect("saved");
    assert_same(&original, &over(&back, under("app:", Layout::Llmfy)).await).await;
}

/// Many enough that no copy is done before it is killed.
const MANY: usize = 4000;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_goes_on_where_it_was() {
    let place = Place::new();
    let (here, there) = (place.store("here.db").await, place.store("there.db").await);
    fill_with_many(&here, MANY).await;
    let (from, to) = (place.url("here.db"), place.url("there.db"));
    let words = ["--from", &from, "--to", &to, "--to-layout", "partitioned"];
    let (mut earlier, mut kept) = (0, None);
    for signal in ["INT", "KILL"] {
        let copy = place.begin(&words);
        place.is_under_way(kept.as_deref()).await;
        let file = place.kept().pop().expect("a file");
        let private = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o077 == 0;
        assert!(private(&file) && private(file.parent().expect("a folder")));
        let killed = Command::new("kill").args([&format!("-{signal}"), &copy.id().to_string()]).status();
        assert!(killed.expect("killed").success());
        let ended = Ended::of(copy.wait_with_output().expect("it ends"));
        assert_eq!((ended.status, ended.out.as_str()), (if signal == "INT" { Some(1) } else { None }, ""));
        if signal == "INT" {
            let (said, rest) = ended.err.rsplit_once(" checkpoints; ").expect("words");
            let after = said.strip_prefix("checkpointer: the copy stopped after about ").expect("words");
            assert_eq!(
                rest,
                "the same command goes on from there if the store still knows the place: interrupted\n"
            );
            earlier = after.replace(',', "").parse().expect("a number");
            assert!((1000..MANY).contains(&earlier), "{ended:?}");
            kept = Some(fs::read_to_string(&file).expect("a place"));
        } else {
            assert_eq!(after_how_many(&ended.err), earlier);
        }
    }
    let ended = place.copy(&words);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let after = after_how_many(&ended.err);
    assert!((earlier..MANY).contains(&after), "{ended:?}");
    let (_, verdict) = ended.out.split_once("already; ").expect("words");
    assert_eq!(verdict, "all 4,000 of 40 sessions compared equal\n");
    assert_eq!(place.kept(), [""; 0].map(PathBuf::from));
    let to = over(&there, under(DEFAULT_PREFIX, Layout::Partitioned)).await;
    assert_same(&over(&here, under(DEFAULT_PREFIX, Layout::Llmfy)).await, &to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_copy_goes_on_is_only_believed_if_it_is_a_place() {
    let place = Place::new();
    fill_with_many(&place.store("here.db").await, MANY).await;
    let (from, to) = (place.url("here.db"), place.url("there.db"));
    let words = ["--from", &from, "--to", &to];
    place.is_stopped_at(&words, "no JSON").await;
    let ended = place.copy(&words);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.err.starts_with("first pass: "), "{ended:?}");
    assert!(ended.out.ends_with("all 4,000 of 40 sessions compared equal\n"), "{ended:?}");
    place.is_stopped_at(&words, r#"{"after": "nowhere", "checkpoints": 1}"#).await;
    let why = format!("{from}: a page begins only where the one before said, not at \"nowhere\"");
    assert_begins_again(&place.copy(&words), &why);
}

/// One and the same command would go on at such a place for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_begins_again_where_a_store_refuses_the_place() {
    let (place, server) = (Place::new(), RedisServer::start().await);
    fill_with_many(&place.store("here.db").await, MANY).await;
    let (cluster, _alone) = RedisCluster::shared().await;
    let (file, there) = (place.url("here.db"), place.url("there.db"));
    let (redis, cluster) = (server.url(), cluster.url());
    for (store, refused, why) in [
        (&redis, "checkpoints:nowhere", "a page begins only where the one before said"),
        // Since then slots moved, and before that 100 times.
        (&cluster, "checkpoints:0.17.1.1.100", "the store keeps moving keys, or changing servers"),
        // The server was restarted, and before that 100 times.
        (&redis, "checkpoints:17.1.100", "the store keeps moving keys, or changing servers"),
    ] {
        let layout = ["--layout", "partitioned"];
        let filled = place.copy(&["--from", &file, "--to", store, "--to-layout", "partitioned"]);
        assert_eq!(filled.status, Some(0), "{filled:?}");
        let words = [&["--from", store, "--to", &there], layout.as_slice()].concat();
        place.is_stopped_at(&words, &format!(r#"{{"after": "{refused}", "checkpoints": 1}}"#)).await;
        assert_begins_again(&place.copy(&words), why);
    }
}

/// That a copy did not go on after 1 checkpoint, since the store said why not.
fn assert_begins_again(ended: &Ended, why: &str) {
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let mut lines = ended.err.lines();
    let said = "an earlier copy stopped after about 1 checkpoint; going on from there if the store still knows the \
                place";
    assert_eq!(lines.next(), Some(said));
    let again =
        lines.next().and_then(|it| it.strip_prefix("can't go on from there, so the copy begins again: "));
    assert!(again.is_some_and(|it| it.contains(why)), "{ended:?}");
    assert!(lines.next().is_some_and(|it| it.starts_with("first pass: ")), "{ended:?}");
    assert!(ended.out.ends_with("all 4,000 of 40 sessions compared equal\n"), "{ended:?}");
}

/// After how many checkpoints a copy went on.
fn after_how_many(err: &str) -> usize {
    let first = err.split_once(" checkpoints; going on from there if the store still knows the place\n");
    let number = first.and_then(|(said, _)| said.strip_prefix("an earlier copy stopped after about "));
    number.expect(err).replace(',', "").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_stops_when_a_store_is_gone_and_goes_on_when_it_is_back() {
    let (place, mut server) = (Place::new(), RedisServer::start().await);
    let here = place.store("here.db").await;
    fill_with_many(&here, MANY).await;
    let (from, to) = (place.url("here.db"), format!("{}?connect_timeout=1", server.url()));
    let words = ["--from", &from, "--to", &to];
    let copy = place.begin(&words);
    place.is_under_way(None).await;
    server.kill().await;
    let ended = Ended::of(copy.wait_with_output().expect("it ends"));
    assert_eq!((ended.status, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains("; the same command goes on from there if "), "{ended:?}");
    assert!(ended.err.contains(" knows the place: redis://"), "{ended:?}");

    // What it had is gone, and the file says that it was copied.
    server.restart().await;
    let ended = place.copy(&words);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!((1000..MANY).contains(&after_how_many(&ended.err)));
    assert!(ended.out.starts_with("copied 4,000 checkpoints"), "{ended:?}");
    let there = over(&open(&server.url()).await, under(DEFAULT_PREFIX, Layout::Llmfy)).await;
    assert_same(&over(&here, under(DEFAULT_PREFIX, Layout::Llmfy)).await, &there).await;

    // A short trouble is waited out, and one who wants to begins again.
    let copy = place.begin(&words);
    place.is_under_way(None).await;
    server.kill().await;
    server.restart().await;
    let ended = Ended::of(copy.wait_with_output().expect("it ends"));
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.out.ends_with("all 4,000 of 40 sessions compared equal\n"), "{ended:?}");
    let copy = place.begin(&words);
    place.is_under_way(None).await;
    let killed = Command::new("kill").args(["-KILL", &copy.id().to_string()]).status();
    assert!(killed.expect("killed").success());
    copy.wait_with_output().expect("it ends");
    let ended = place.copy(&[words.as_slice(), &["--restart"]].concat());
    assert_eq!(ended.err, "first pass: 0 copied (0 B), 4,000 equal\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_it_is_copied_is_found_by_another_pass() {
    let place = Place::new();
    let (here, there) = (place.store("here.db").await, place.store("there.db").await);
    fill_with_many(&here, MANY).await;
    let source = over(&here, under(DEFAULT_PREFIX, Layout::Llmfy)).await;
    let (from, to) = (place.url("here.db"), place.url("there.db"));
    let copy = place.begin(&["--from", &from, "--to", &to, "--json"]);
    place.is_under_way(None).await;
    // All of this is where it was already: another state, one more, one less.
    save(&source, &[checkpoint("s1", "c00001", "q", 1), checkpoint("s1", "before", "q", 1)]).await;
    assert_eq!(source.delete("s2", Some("c00002")).await.expect("deleted"), 1);
    let ended = Ended::of(copy.wait_with_output().expect("it ends"));
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(
        ended.err.contains("\npass 2: 2 copied, 3,998 equal\npass 3: 0 copied, 4,000 equal\n"),
        "{ended:?}"
    );
    let numbers: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!((&numbers["copied"], &numbers["equal"]), (&4001.into(), &4000.into()));
    // What was removed here meanwhile stays there.
    let target = over(&there, under(DEFAULT_PREFIX, Layout::Llmfy)).await;
    assert_eq!(target.delete("s2", Some("c00002")).await.expect("deleted"), 1);
    assert_same(&source, &target).await;
}

/// Whether what came to live longer, shorter or for ever was copied before or not:
/// it is so there, too, and that is no reason to go on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_lives_for_another_time_comes_to_live_as_long_there() {
    let (place, server) = (Place::new(), RedisServer::start().await);
    let here = place.store("here.db").await;
    let lasting =
        async |seconds| over(&here, under("app:", Layout::Llmfy).ttl(Duration::from_secs(seconds))).await;
    let source = lasting(7200).await;
    let of = |id: &str| checkpoint("s", id, "r", 1);
    for to in [place.url("there.db"), server.url()] {
        save(&source, &["longer", "shorter", "pinned", "pinned there", "as it was"].map(of)).await;
        let from = place.url("here.db");
        let words =
            ["--from", &from, "--to", &to, "--prefix", "app:", "--to-layout", "partitioned", "--json"];
        let target = over(&open(&to).await, under("app:", Layout::Partitioned)).await;
        for (copied, passes) in [(5, 2), (4, 2), (0, 1)] {
            let ended = place.copy(&words);
            assert_eq!(ended.status, Some(0), "{ended:?}");
            let numbers: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
            let found = ["copied", "passes", "equal"].map(|name| numbers[name].as_u64());
            assert_eq!(found, [Some(copied), Some(passes), Some(5)], "{ended:?}");
            assert_same(&source, &target).await;
            if copied == 5 {
                save(&lasting(20_000).await, &[of("longer")]).await;
                save(&lasting(600).await, &[of("shorter")]).await;
                assert_eq!(source.pin("s", Some("pinned")).await.expect("pinned"), 1);
                assert_eq!(target.pin("s", Some("pinned there")).await.expect("pinned"), 1);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_pinned_only_there_stays_so_and_is_named() {
    let place = Place::new();
    let (here, there) = (place.store("here.db").await, place.store("there.db").await);
    let source = over(&here, under("app:", Layout::Llmfy).ttl(Duration::from_secs(7200))).await;
    let target = over(&there, under("app:", Layout::Llmfy).ttl(Duration::from_secs(60))).await;
    save(&source, &[plain("p", "p1", 1), plain("p", "p2", 2), plain("q", "q", 3)]).await;
    assert_eq!(target.pin("p", None).await.expect("pinned"), 0);
    let (from, to) = (place.url("here.db"), place.url("there.db"));
    let words = ["--from", &from, "--to", &to, "--prefix", "app:"];
    let left = "checkpointer: left the session \"p\": it is pinned there and not here, so 2 checkpoints of it will \
                not expire there; unpin it there and repeat the command, or pin it here\n";
    let ended = place.copy(&words);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.err.ends_with(&format!("\npass 2: 0 copied, 1 equal\n{left}")), "{ended:?}");
    assert!(ended.out.starts_with("copied 3 checkpoints ("), "{ended:?}");
    assert!(ended.out.ends_with("0 were there already; all 1 of 1 session compared equal\n"), "{ended:?}");
    let ended = place.copy(&words);
    let out = "copied 0 checkpoints (0 B), 3 were there already; all 1 of 1 session compared equal\n";
    assert_eq!((ended.status, ended.out.as_str()), (Some(1), out), "{ended:?}");
    assert_eq!(ended.err, format!("first pass: 0 copied (0 B), 1 equal\n{left}"));
    let ended = place.copy(&[&words[..], &["--json"]].concat());
    let numbers: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    let named = &numbers["named"][0];
    assert_eq!(
        (&numbers["left"], &named["session_id"], &named["checkpoint_id"]),
        (&1.into(), &"p".into(), &().into())
    );

    // Unpinned there, or pinned here: nothing differs any more.
    assert_eq!(target.unpin("p", None).await.expect("unpinned"), 2);
    let ended = place.copy(&words);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.err.ends_with("pass 2: 0 copied, 3 equal\n"), "{ended:?}");
    assert_same(&source, &target).await;
    assert_eq!(source.pin("p", None).await.expect("pinned"), 2);
    assert_eq!(place.copy(&words).status, Some(0));
    assert_same(&source, &target).await;

    // Somebody who knows nothing of pins saves in it, as llmfy does.
    let key = Names { prefix: "app:", layout: Layout::Llmfy }.document("p", "p1");
    let value = source.load_document("p", Some("p1")).await.expect("loaded").expect("there");
    let put = Operation::Put(Put { key, value, expiry: Expiry::AfterMs(7_200_000) });
    let batch = Batch { conditions: Vec::new(), operations: vec![put] };
    assert_eq!(here.commit(vec![batch]).await, Ok(vec![true]));
    let ended = place.copy(&words);
    let out = "copied 0 checkpoints (0 B), 3 were there already; all 3 of 2 sessions compared equal\n";
    assert_eq!(ended, done(out, "first pass: 0 copied (0 B), 3 equal\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_copied_is_left_and_named() {
    let place = Place::new();
    let (here, there) = (place.store("here.db").await, place.store("there.db").await);
    let source = over(&here, under("app:", Layout::Partitioned)).await;
    let target = over(&there, under("app:", Layout::Llmfy)).await;
    // Both have a checkpoint `c`, and llmfy's layout has room for one; the other
    // one was there before, of another session.
    save(&source, &[checkpoint("a", "a1", "r", 1), checkpoint("a", "c", "r", 2)]).await;
    save(&target, &[checkpoint("x", "c", "r", 3)]).await;
    let names = Names { prefix: "app:", layout: Layout::Partitioned };
    let half = "{\"checkpoint_id\": \"half\", \"session_id\": \"a\", \"run_id\": \"r\"}";
    put(&here, vec![(names.document("a", "half"), half.into())], Vec::new()).await;
    put(&here, vec![(names.document("a", "garbage"), "no document".into())], Vec::new()).await;
    let in_the_way = Names { prefix: "app:", layout: Layout::Llmfy }.document("a", "a1");
    put(&there, vec![(in_the_way.clone(), "no document".into())], Vec::new()).await;
    let (from, to) = (place.url("here.db"), place.url("there.db"));
    let words = ["--from", &from, "--to", &to, "--prefix", "app:", "--layout", "partitioned"];
    let words = [words.as_slice(), &["--to-layout", "llmfy"]].concat();
    let ended = place.copy(&words);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert_eq!(
        ended.out,
        "copied 0 checkpoints (0 B), 0 were there already; all 0 of 0 sessions compared equal\n"
    );
    let mut named: Vec<&str> = ended.err.lines().collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [
            "checkpointer: left the checkpoint \"a1\" of the session \"a\": the checkpoint \"a1\" can't be saved: its \
             key holds text that is no checkpoint (expected an object at byte 0); delete it first",
            "checkpointer: left the checkpoint \"c\" of the session \"a\": the checkpoint \"c\" can't be saved: it \
             belongs to another session",
            "checkpointer: left the checkpoint \"garbage\": it can't be read: expected an object at byte 0",
            "checkpointer: left the checkpoint \"half\" of the session \"a\": it can't be read: the key \
             \"prev_node\" is missing",
            "first pass: 0 copied (0 B), 0 equal",
        ]
    );
    assert_eq!(listed(&target, "x").await.checkpoints, [checkpoint("x", "c", "r", 3)]);
    let garbage = (0..30).map(|number| (names.document("b", &number.to_string()), "no document".into()));
    put(&here, garbage.collect(), Vec::new()).await;
    assert_eq!(target.delete("x", None).await.expect("deleted"), 1);
    let ended = place.copy(&words);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.out.ends_with("all 1 of 1 session compared equal\n"), "{ended:?}");
    assert_eq!(ended.err.lines().filter(|line| line.contains("left the checkpoint")).count(), 20);
    assert!(ended.err.ends_with("\ncheckpointer: and 13 more\n"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let place = Place::new();
    fill(&place.store("here.db").await, DEFAULT_PREFIX, Layout::Llmfy).await;
    std::os::unix::fs::symlink(place.folder.path().join("here.db"), place.folder.path().join("link.db"))
        .expect("a link");
    let (here, there) = (place.url("here.db"), place.url("there.db"));
    for (from, to, more, status, why) in [
        (here.as_str(), here.as_str(), &[][..], 2, "is where to copy from and where to copy to"),
        (&here, "sqlite:./here.db", &[], 2, "is where to copy from and where to copy to"),
        ("sqlite:link.db", &here, &[], 2, "is where to copy from and where to copy to"),
        ("redis://u:secret@h/1", "redis://h:6379/1", &[], 2, "redis://h:6379/1 (prefix "),
        ("memory:", &there, &[], 2, "memory: is gone with this process"),
        (&here, "memory:", &[], 2, "memory: is gone with this process"),
        ("sqlite:nowhere.db", &there, &[], 1, "nowhere.db: there is no such file to copy from"),
        (&here, &there, &["--store", "sqlite:x.db"], 2, "--store is not for copy"),
        (&here, &there, &["--ttl", "5"], 2, "--ttl is not for copy"),
        (&here, &there, &["--session-ttl", "5"], 2, "--session-ttl is not for copy"),
        (&here, &there, &["--refresh-on-read"], 2, "--refresh-on-read is not for copy"),
        (&here, &there, &["--max-checkpoints", "5"], 2, "--max-checkpoints is not for copy"),
        (&here, &there, &["--compress"], 2, "--compress is not for copy"),
        (&here, &there, &["--to-prefix", ""], 2, "the prefix is empty"),
        (&here, "postgres://h", &[], 2, "\"postgres\" is no kind of store"),
    ] {
        let ended = place.copy(&[&["--from", from, "--to", to], more].concat());
        assert_eq!((ended.status, ended.out.as_str()), (Some(status), ""), "{from} {to} {more:?}: {ended:?}");
        assert!(ended.err.contains(why) && !ended.err.contains("secret"), "{from} {to} {more:?}: {ended:?}");
    }
    // Somebody may have a usual store, and may have said from where and where to.
    let mut command = place.command(&[]);
    command.env("CHECKPOINTER_STORE", &here).env("CHECKPOINTER_FROM", &here).env("CHECKPOINTER_TO", &there);
    let ended = Ended::of(command.output().expect("the program runs"));
    assert_eq!(ended.status, Some(0), "{ended:?}");
}
