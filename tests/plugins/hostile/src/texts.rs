//! An attack that reads error messages. They might contain the store's address or
//! its credentials.

use crate::flow::checkpoint::checkpointer::Checkpointer;
use crate::flow::checkpoint::types::{Error, NamedValue, Ttl, TtlScope};
use crate::{Answer, checkpoint, describe, options, query};

/// Makes every kind of call that may fail, and returns the error messages, one per
/// line.
pub fn all_error_texts() -> Answer {
    let mut texts = Vec::new();
    open_with_invalid_options(&mut texts);
    match Checkpointer::open(&options("texts:")) {
        Ok(checkpointer) => {
            call_with_valid_arguments(&checkpointer, &mut texts);
            call_with_invalid_arguments(&checkpointer, &mut texts);
        }
        Err(error) => texts.push(describe(error)),
    }
    Ok(texts.join("\n"))
}

fn note<T>(answer: Result<T, Error>, texts: &mut Vec<String>) {
    texts.extend(answer.err().map(describe));
}

fn open_with_invalid_options(texts: &mut Vec<String>) {
    let mut no_bucket = options("texts:");
    no_bucket.bucket = "not-granted".into();
    note(Checkpointer::open(&no_bucket), texts);
    note(Checkpointer::open(&options("")), texts);
    note(Checkpointer::open(&options("a\0b")), texts);
    for milliseconds in [0, u64::MAX] {
        let mut with_ttl = options("texts:");
        with_ttl.ttl = Some(Ttl { milliseconds, scope: TtlScope::Session, refresh_on_read: true });
        note(Checkpointer::open(&with_ttl), texts);
    }
    let mut no_checkpoints = options("texts:");
    no_checkpoints.max_checkpoints = Some(0);
    note(Checkpointer::open(&no_checkpoints), texts);
    let mut unknown_option = options("texts:");
    unknown_option.extra.push(NamedValue { name: "unknown".into(), value: "0".into() });
    note(Checkpointer::open(&unknown_option), texts);
}

/// None of these calls fails if the store works.
fn call_with_valid_arguments(checkpointer: &Checkpointer, texts: &mut Vec<String>) {
    let saved = checkpoint("session", "id", "run", "0");
    note(checkpointer.save(&saved), texts);
    note(checkpointer.save_after(&saved, None), texts);
    note(checkpointer.latest("session"), texts);
    note(checkpointer.load("session", "id"), texts);
    note(checkpointer.latest_document("session"), texts);
    note(checkpointer.load_document("session", "id"), texts);
    note(checkpointer.dump("session", "id"), texts);
    note(checkpointer.pin_session("session"), texts);
    note(checkpointer.pin_checkpoint("session", "id"), texts);
    note(checkpointer.unpin_session("session"), texts);
    note(checkpointer.unpin_checkpoint("session", "id"), texts);
    for run in [None, Some("run")] {
        note(checkpointer.list(&query("session", run, None)), texts);
        note(checkpointer.list_documents(&query("session", run, None)), texts);
    }
    note(checkpointer.scan(None), texts);
    note(checkpointer.delete_checkpoint("session", "id"), texts);
    note(checkpointer.delete_session("session"), texts);
    note(checkpointer.clear_all(), texts);
}

fn call_with_invalid_arguments(checkpointer: &Checkpointer, texts: &mut Vec<String>) {
    let long = "i".repeat(513);
    for id in ["", "a\0b", &long] {
        note(checkpointer.latest(id), texts);
        note(checkpointer.load("session", id), texts);
        note(checkpointer.list(&query("session", Some(id), None)), texts);
        note(checkpointer.delete_session(id), texts);
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
    note(checkpointer.scan(Some("unknown")), texts);
    let mut small = options("texts:");
    small.max_state_bytes = Some(1);
    match Checkpointer::open(&small) {
        Ok(small) => note(small.save(&checkpoint("session", "id", "run", "10")), texts),
        Err(error) => texts.push(describe(error)),
    }
    // If the store works, the id is in use after this save.
    let _ = checkpointer.save(&checkpoint("session", "id", "run", "0"));
    note(checkpointer.save(&checkpoint("another", "id", "run", "0")), texts);
    note(checkpointer.save_after(&checkpoint("session", "later", "run", "0"), None), texts);
}
