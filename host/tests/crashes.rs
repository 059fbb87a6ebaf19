//! Processes that write to a SQLite file and are killed in the middle of it,
//! again and again.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use checkpointer::Checkpointer;
use checkpointer_tests::chance::milliseconds;
use checkpointer_tests::samples::data;
use rusqlite::Connection;
use tempfile::TempDir;

const WRITERS: usize = 4;
const ROUNDS: usize = 10;

/// More than a writer gets done before it is killed.
const DOCUMENTS: usize = 4000;

const SIGKILL: i32 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_every_kill_and_nothing_is_half_saved() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("checkpoints.db");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let writers: Vec<_> = (0..WRITERS).map(|writer| format!("round-{round}-writer-{writer}")).collect();
        let saved = save_at_once(&file, &writers, DOCUMENTS, || Some(milliseconds(50..600)));
        assert!(!saved.is_empty(), "nobody got to save anything in round {round}");
        acknowledged.extend(saved);
        check(&file, acknowledged.len());
    }
    // What is killed no more gets to its end.
    let writers: Vec<_> = (0..WRITERS).map(|writer| format!("last-writer-{writer}")).collect();
    let last = save_at_once(&file, &writers, 50, || None);
    assert_eq!(last.len(), WRITERS * 50);
    acknowledged.extend(last);

    check(&file, acknowledged.len());
    let checkpointer = Checkpointer::open(&format!("sqlite:{}", file.display())).await.expect("opened");
    for Document { session, id, text } in &acknowledged {
        let loaded = checkpointer.load_document(session, Some(id)).await.expect("loaded");
        assert_eq!(loaded.as_ref(), Some(text), "{id}");
    }
    println!(
        "{} saves were acknowledged by {} processes that were killed",
        acknowledged.len(),
        WRITERS * ROUNDS
    );
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

/// Has a process for each session save documents, all of them at the same time,
/// and each killed after a time if `lifetime` says so. Gives what they said is
/// saved.
fn save_at_once(
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
    let mut program = Command::new(env!("CARGO_BIN_EXE_checkpointer"))
        .arg("--store")
        .arg(format!("sqlite:{}", file.display()))
        .arg("save")
        .arg(input)
        .stdin(Stdio::null())
        .stdout(File::create(&output).expect("a file"))
        .spawn()
        .expect("the program runs");
    if let Some(lifetime) = lifetime {
        thread::sleep(lifetime);
        program.kill().expect("killed");
    }
    let status = program.wait().expect("the program ends");
    assert_eq!(status.signal(), lifetime.map(|_| SIGKILL), "{status}");
    assert!(lifetime.is_some() || status.success(), "{status}");

    let said = fs::read_to_string(output).expect("text");
    // A line without its end was not said.
    let lines: Vec<_> = said.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    for (line, document) in lines.iter().zip(&documents) {
        assert!(line.starts_with(&format!("saved {session}  {}  ", document.id)), "{line}");
    }
    let count = lines.len();
    documents.into_iter().take(count).collect()
}

/// The file is whole, and every document is named by the indexes of its session
/// and its run, which name nothing else. There are `at_least` so many.
fn check(file: &Path, at_least: usize) {
    let database = Connection::open(file).expect("a database");
    let count = |query: &str| database.query_row(query, [], |row| row.get::<_, i64>(0)).expect("a count");
    let integrity: String =
        database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(integrity, "ok");
    let documents = count("SELECT count(*) FROM checkpointer_value");
    assert!(documents >= i64::try_from(at_least).expect("a count"), "{documents} documents are left");
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
