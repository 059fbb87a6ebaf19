//! The output of commands, as text and as JSON.

use std::io::{self, Result, Write};

use checkpointer::{Checkpoint, Metadata, SaveOutcome, Unreadable};
use indicatif::HumanCount;
use serde_json::json;

/// How many characters of a state are printed.
const MAX_STATE_CHARS: usize = 2000;

/// Prints a saved checkpoint, with a warning if it is not the session's latest.
pub fn saved(metadata: &Metadata, outcome: &SaveOutcome, json: bool, out: &mut impl Write) -> Result<()> {
    let (session, id) = (&metadata.session_id, &metadata.checkpoint_id);
    let mut fields = json!({ "session_id": session, "checkpoint_id": id });
    match outcome {
        SaveOutcome::Pruned => fields["outcome"] = "pruned".into(),
        SaveOutcome::NotLatest { latest_id, ahead } => {
            fields["outcome"] = "not-latest".into();
            fields["latest_id"] = latest_id.as_str().into();
            fields["behind_ms"] = (ahead.as_millis() as u64).into();
        }
        _ => fields["outcome"] = "latest".into(),
    }
    if json {
        return writeln!(out, "{fields}");
    }
    let [session, id] = [session, id].map(|text| escape_control(text));
    let line = format!("{session}  {id}  step {}  {}", metadata.step, escape_control(&metadata.node));
    match outcome {
        SaveOutcome::Pruned => {
            writeln!(out, "not saved, older than all checkpoints that the session keeps: {line}")
        }
        SaveOutcome::NotLatest { latest_id, ahead } => {
            writeln!(out, "saved {line}")?;
            let latest_id = escape_control(latest_id);
            let newer = if ahead.is_zero() {
                format!("{latest_id} has the same timestamp and a greater id")
            } else {
                let ahead = humantime::format_duration(*ahead).to_string();
                // The two largest units, for example "2h 3m".
                let ahead: Vec<&str> = ahead.split(' ').take(2).collect();
                format!("{latest_id} is newer by {}; the clock may be behind", ahead.join(" "))
            };
            writeln!(io::stderr(), "checkpointer: saved {session} {id}, but {newer}")
        }
        _ => writeln!(out, "saved {line}"),
    }
}

/// Prints how many checkpoints were changed.
pub fn count(change: &str, count: u64, json: bool, out: &mut impl Write) -> Result<()> {
    if json {
        writeln!(out, "{}", json!({ change: count }))
    } else {
        writeln!(out, "{change} {}", checkpoints(count))
    }
}

/// A number of checkpoints, for example "1,234 checkpoints".
pub fn checkpoints(count: u64) -> String {
    format!("{} {}", HumanCount(count), if count == 1 { "checkpoint" } else { "checkpoints" })
}

/// Prints a stored document, if there is one. Returns whether there is one.
pub fn document(document: Option<String>, out: &mut impl Write) -> Result<bool> {
    document.iter().try_for_each(|document| writeln!(out, "{document}"))?;
    Ok(document.is_some())
}

/// Prints stored documents, one per line.
pub fn documents(documents: &[String], out: &mut impl Write) -> Result<()> {
    // JSON has line breaks between tokens only.
    documents.iter().try_for_each(|document| writeln!(out, "{}", document.replace(['\n', '\r'], " ")))
}

/// Prints a checkpoint, if there is one. Returns whether there is one.
pub fn checkpoint(checkpoint: Option<Checkpoint>, out: &mut impl Write) -> Result<bool> {
    let Some(Checkpoint { metadata, state, .. }) = checkpoint else { return Ok(false) };
    let mut field = |name: &str, value: &str| writeln!(out, "{name:<12}{}", escape_control(value));
    field("session", &metadata.session_id)?;
    field("checkpoint", &metadata.checkpoint_id)?;
    field("time", &metadata.timestamp.to_string())?;
    field("node", &metadata.node)?;
    field("step", &metadata.step.to_string())?;
    if let Some(run) = &metadata.run {
        field("run", &run.run_id)?;
        field("after", &run.prev_node)?;
        field("changed", &run.updated_fields.join(", "))?;
        if let Some(attempt) = run.attempt {
            field("attempt", &attempt.to_string())?;
        }
        if let Some(dispatch) = &run.dispatch_id {
            field("dispatch", dispatch)?;
        }
    }
    field("state", &format!("{} bytes", state.len()))?;
    match state.char_indices().nth(MAX_STATE_CHARS) {
        None => writeln!(out, "{}", escape_control(&state))?,
        Some((end, _)) => writeln!(out, "{}… (--json prints all of it)", escape_control(&state[..end]))?,
    }
    Ok(true)
}

/// Prints a table of checkpoints.
pub fn history(
    checkpoints: &[Checkpoint],
    session: &str,
    run: Option<&str>,
    out: &mut impl Write,
) -> Result<()> {
    if checkpoints.is_empty() {
        let of_run = run.map_or_else(String::new, |run| format!(" of run {run:?}"));
        return writeln!(out, "no checkpoints{of_run} in session {session:?}");
    }
    let header = ["TIME", "STEP", "NODE", "RUN", "BYTES", "CHECKPOINT"].map(str::to_owned);
    let rows = checkpoints.iter().map(|Checkpoint { metadata, state, .. }| {
        [
            metadata.timestamp.to_string(),
            metadata.step.to_string(),
            escape_control(&metadata.node),
            metadata.run.as_ref().map_or_else(|| "-".to_owned(), |run| escape_control(&run.run_id)),
            state.len().to_string(),
            escape_control(&metadata.checkpoint_id),
        ]
    });
    let rows: Vec<_> = [header].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [0, 1, 2, 3, 4, 5].map(width);
    rows.iter().try_for_each(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
    })
}

/// Reports checkpoints that can't be read.
pub fn unreadable(unreadable: &[Unreadable]) -> Result<()> {
    unreadable.iter().try_for_each(|Unreadable { checkpoint_id, reason, .. }| {
        writeln!(io::stderr(), "checkpointer: checkpoint {checkpoint_id:?} can't be read: {reason}")
    })
}

/// Escapes the control characters in text from a store or a plugin, so that they
/// can't control the terminal. Line breaks and tabs are kept.
pub fn escape_control(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && !matches!(character, '\n' | '\t') {
            escaped.extend(character.escape_unicode());
        } else {
            escaped.push(character);
        }
    }
    escaped
}
