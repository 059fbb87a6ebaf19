//! Processes that save to a SQLite file and are killed at random moments.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use checkpointer::Checkpointer;
use checkpointer_tests::random::milliseconds;
use checkpointer_tests::samples::data;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::program;

const WRITERS: usize = 4;
const ROUNDS: usize = 10;

/// More documents than a writer saves before it is killed.
const DOCUMENTS: usize = 4000;

const SIGKILL: i32 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_saves_survive_kills_and_no_save_is_partial() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("checkpoints.db");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let writers: Vec<_> = (0..WRITERS).map(|writer| format!("round-{round}-writer-{writer}")).collect();
        let saved = save_concurrently(&file, &writers, DOCUMENTS, || Some(milliseconds(50..600)));
        assert!(!saved.is_empty(), "no save was acknowledged in round {round}");
        acknowledged.extend(saved);
        check_file(&file, acknowledged.len());
    }
    // Writers that are not killed save everything.
    let writers: Vec<_> = (0..WRITERS).map(|writer| format!("last-writer-{writer}")).collect();
    let last = save_concurrently(&file, &writers, 50, || None);
    assert_eq!(last.len(), WRITERS * 50);
    acknowledged.extend(last);

    check_file(&file, acknowledged.len());
    let checkpointer = Checkpointer::open(&format!("sqlite:{}", file.display())).await.expect("opened");
    for Document { session, id, text } in &acknowledged {
        let loaded = checkpointer.load_document(session, id).await.expect("loaded");
        assert_eq!(loaded.as_ref(), Some(text), "{id}");
    }
    println!("{} killed processes acknowledged {} saves", WRITERS * ROUNDS, acknowledged.len());
}

struct Document {
    session: String,
    id: String,
    text: String,
}

impl Document {
    fn new(golden: &str, session: &str, number: usize) -> Self {
        let id = format!("{session}-{number}");
        let text = golden.replace("fx-01-empty-state", &id).replace("\"fx-01\"", &format!("\"{session}\""));
        Self { session: session.to_owned(), id, text }
    }
}

/// Runs one process per session, each of which saves `count` documents and is
/// killed after a time if `lifetime` returns one. Returns the acknowledged
/// documents.
fn save_concurrently(
    file: &Path,
    sessions: &[String],
    count: usize,
    lifetime: impl Fn() -> Option<Duration>,
) -> Vec<Document> {
    thread::scope(|scope| {
        let writers: Vec<_> = sessions
            .iter()
            .map(|session| {
                let lifetime = lifetime();
                scope.spawn(move || save(file, session, count, lifetime))
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
    })
}

fn save(file: &Path, session: &str, count: usize, lifetime: Option<Duration>) -> Vec<Document> {
    let golden = data("golden").remove(0).1;
    let documents: Vec<_> = (0..count).map(|number| Document::new(&golden, session, number)).collect();
    let [input, output] = ["input", "output"].map(|end| file.with_file_name(format!("{session}.{end}")));
    fs::write(&input, documents.iter().map(|document| document.text.clone() + "\n").collect::<String>())
        .expect("written");
    let mut process = Command::new(program::path())
        .arg("--store")
        .arg(format!("sqlite:{}", file.display()))
        .arg("save")
        .arg(input)
        .stdin(Stdio::null())
        .stdout(File::create(&output).expect("a file"))
        // All documents have the same timestamp, so that most are not the latest.
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    if let Some(lifetime) = lifetime {
        thread::sleep(lifetime);
        process.kill().expect("killed");
    }
    let status = process.wait().expect("the program ends");
    assert_eq!(status.signal(), lifetime.map(|_| SIGKILL), "{status}");
    assert!(lifetime.is_some() || status.success(), "{status}");

    let output = fs::read_to_string(output).expect("UTF-8");
    // A line without its end is no acknowledgement.
    let lines: Vec<_> = output.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    for (line, document) in lines.iter().zip(&documents) {
        assert!(line.starts_with(&format!("saved {session}  {}  ", document.id)), "{line}");
    }
    let count = lines.len();
    documents.into_iter().take(count).collect()
}

/// Asserts that the file is intact, that it has at least `min` documents, and that
/// the indexes of sessions and runs name each document and nothing else.
fn check_file(file: &Path, min: usize) {
    let database = Connection::open(file).expect("a database");
    let count = |query: &str| database.query_row(query, [], |row| row.get::<_, i64>(0)).expect("a count");
    let integrity: String =
        database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(integrity, "ok");
    let documents = count("SELECT count(*) FROM checkpointer_value");
    assert!(documents >= i64::try_from(min).expect("a count"), "{documents} documents are left");
    let named_by = |kind: &str| {
        count(&format!(
            "SELECT count(DISTINCT key) FROM checkpointer_member
               JOIN checkpointer_index ON id = index_id
               JOIN checkpointer_value ON key = 'llmfy_checkpoint:checkpoint:' || member
              WHERE name {kind} '%:run:%'"
        ))
    };
    assert_eq!(named_by("LIKE"), documents);
    assert_eq!(named_by("NOT LIKE"), documents);
    assert_eq!(count("SELECT count(*) FROM checkpointer_member"), 2 * documents);
}
