//! An attack that listens: what errors say might tell where the store is, or how
//! to get in.

use crate::flow::checkpoint::checkpointer::{Checkpointer, Error, Lifetime, Ttl};
use crate::{Ending, checkpoint, in_words, options};

/// Does all that may fail, and says in a line each what was said.
pub fn all_that_errors_say() -> Ending {
    let mut texts = Vec::new();
    open_as_nobody_should(&mut texts);
    match Checkpointer::open(&options("texts:")) {
        Ok(checkpointer) => {
            call_as_usual(&checkpointer, &mut texts);
            call_as_nobody_should(&checkpointer, &mut texts);
        }
        Err(error) => texts.push(in_words(error)),
    }
    Ok(texts.join("\n"))
}

fn note<T>(answer: Result<T, Error>, texts: &mut Vec<String>) {
    texts.extend(answer.err().map(in_words));
}

fn open_as_nobody_should(texts: &mut Vec<String>) {
    let mut no_bucket = options("texts:");
    no_bucket.bucket = "not-granted".into();
    note(Checkpointer::open(&no_bucket), texts);
    note(Checkpointer::open(&options("")), texts);
    note(Checkpointer::open(&options("a\0b")), texts);
    for milliseconds in [0, u64::MAX] {
        let mut with_ttl = options("texts:");
        with_ttl.ttl = Some(Ttl { milliseconds, lifetime: Lifetime::OfSession, refresh_on_read: true });
        note(Checkpointer::open(&with_ttl), texts);
    }
    let mut none_at_all = options("texts:");
    none_at_all.max_checkpoints = Some(0);
    note(Checkpointer::open(&none_at_all), texts);
}

/// Nothing of this fails over a store that is well.
fn call_as_usual(checkpointer: &Checkpointer, texts: &mut Vec<String>) {
    let saved = checkpoint("session", "id", "run", "0");
    note(checkpointer.save(&saved), texts);
    note(checkpointer.save_after(&saved, None), texts);
    for id in [None, Some("id")] {
        note(checkpointer.load("session", id), texts);
        note(checkpointer.load_document("session", id), texts);
        note(checkpointer.pin("session", id), texts);
        note(checkpointer.unpin("session", id), texts);
    }
    note(checkpointer.list("session", None), texts);
    note(checkpointer.list_by_run("session", "run", None), texts);
    note(checkpointer.list_documents("session", None, None), texts);
    note(checkpointer.scan(None), texts);
    note(checkpointer.delete("session", Some("id")), texts);
    note(checkpointer.delete("session", None), texts);
    note(checkpointer.clear_all(), texts);
}

fn call_as_nobody_should(checkpointer: &Checkpointer, texts: &mut Vec<String>) {
    let long = "i".repeat(513);
    for id in ["", "a\0b", &long] {
        note(checkpointer.load(id, None), texts);
        note(checkpointer.load("session", Some(id)), texts);
        note(checkpointer.list_by_run("session", id, None), texts);
        note(checkpointer.delete(id, None), texts);
    }
    for timestamp in ["", "yesterday", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z"] {
        let mut saved = checkpoint("session", "id", "run", "0");
        saved.metadata.timestamp = timestamp.into();
        note(checkpointer.save(&saved), texts);
    }
    note(checkpointer.save(&checkpoint("session", "id", "run", "{")), texts);
    note(checkpointer.save_document("no document"), texts);
    note(checkpointer.restore("no document", Some(1)), texts);
    note(checkpointer.restore("no document", Some(0)), texts);
    note(checkpointer.scan(Some("behind")), texts);
    let mut small = options("texts:");
    small.max_state_bytes = Some(1);
    match Checkpointer::open(&small) {
        Ok(small) => note(small.save(&checkpoint("session", "id", "run", "10")), texts),
        Err(error) => texts.push(in_words(error)),
    }
    // Over a store that is well, the id is taken by then.
    let _ = checkpointer.save(&checkpoint("session", "id", "run", "0"));
    note(checkpointer.save(&checkpoint("another", "id", "run", "0")), texts);
    note(checkpointer.save_after(&checkpoint("session", "later", "run", "0"), None), texts);
}
