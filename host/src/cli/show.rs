//! What people read: a checkpoint, a timeline, a count.

use std::io::{Result, Write};

use checkpointer::{Checkpoint, Metadata, Outcome};

/// How much of a state a person is shown.
const STATE_SHOWN: usize = 2000;

/// One line for a saved checkpoint, or a JSON object.
pub fn saved(metadata: &Metadata, outcome: Outcome, json: bool, out: &mut impl Write) -> Result<()> {
    if json {
        let (session, id) = (text(&metadata.session_id), text(&metadata.checkpoint_id));
        let kept = outcome == Outcome::Kept;
        writeln!(out, "{{\"session_id\": {session}, \"checkpoint_id\": {id}, \"kept\": {kept}}}")
    } else {
        writeln!(
            out,
            "{} {}  {}  step {}  {}",
            if outcome == Outcome::Kept {
                "saved"
            } else {
                "not kept, older than all that the session may keep:"
            },
            plain(&metadata.session_id),
            plain(&metadata.checkpoint_id),
            metadata.step,
            plain(&metadata.node)
        )
    }
}

/// What was done with how many checkpoints.
pub fn count(done: &str, count: u64, json: bool, out: &mut impl Write) -> Result<()> {
    match (json, count) {
        (true, _) => writeln!(out, "{{\"{done}\": {count}}}"),
        (false, 1) => writeln!(out, "{done} 1 checkpoint"),
        (false, _) => writeln!(out, "{done} {count} checkpoints"),
    }
}

/// A checkpoint, a line for each thing that is known of it, and its state.
pub fn checkpoint(checkpoint: &Checkpoint, out: &mut impl Write) -> Result<()> {
    let metadata = &checkpoint.metadata;
    writeln!(out, "session     {}", plain(&metadata.session_id))?;
    writeln!(out, "checkpoint  {}", plain(&metadata.checkpoint_id))?;
    writeln!(out, "time        {}", plain(&metadata.timestamp))?;
    writeln!(out, "node        {}", plain(&metadata.node))?;
    writeln!(out, "step        {}", metadata.step)?;
    if let Some(run) = &metadata.run {
        writeln!(out, "run         {}", plain(&run.run_id))?;
        writeln!(out, "after       {}", plain(&run.prev_node))?;
        writeln!(out, "changed     {}", plain(&run.updated_fields.join(", ")))?;
        if let Some(attempt) = run.attempt {
            writeln!(out, "attempt     {attempt}")?;
        }
        if let Some(dispatch) = &run.dispatch_id {
            writeln!(out, "dispatch    {}", plain(dispatch))?;
        }
    }
    let state = &checkpoint.state;
    writeln!(out, "state       {} bytes", state.len())?;
    match state.char_indices().nth(STATE_SHOWN) {
        None => writeln!(out, "{}", plain(state)),
        Some((end, _)) => writeln!(out, "{}… (--json shows all of it)", plain(&state[..end])),
    }
}

/// That a list is empty.
pub fn nothing(session: &str, run: Option<&str>, limit: Option<u32>, out: &mut impl Write) -> Result<()> {
    match (limit, run) {
        (Some(0), _) => writeln!(out, "a list of no more than 0 is empty"),
        (_, Some(run)) => writeln!(out, "no checkpoints of run {run:?} in session {session:?}"),
        (_, None) => writeln!(out, "no checkpoints in session {session:?}"),
    }
}

/// A timeline, newest first.
pub fn history(checkpoints: &[Checkpoint], out: &mut impl Write) -> Result<()> {
    let columns = ["TIME", "STEP", "NODE", "RUN", "BYTES", "CHECKPOINT"];
    let rows: Vec<[String; 6]> = checkpoints
        .iter()
        .map(|Checkpoint { metadata, state }| {
            let run = metadata.run.as_ref().map_or("-", |run| run.run_id.as_str());
            [
                plain(&metadata.timestamp),
                metadata.step.to_string(),
                plain(&metadata.node),
                plain(run),
                state.len().to_string(),
                plain(&metadata.checkpoint_id),
            ]
        })
        .collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([columns[column].len()]).max().unwrap_or_default()
        })
        .collect();
    let mut line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    line(&columns.map(str::to_owned))?;
    rows.iter().try_for_each(|row| line(row))
}

/// Text from a store or a plugin for a terminal: control characters are made visible, so
/// that they can't move the cursor or change colours.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => plain.push(character),
            _ if character.is_control() => plain.extend(character.escape_unicode()),
            _ => plain.push(character),
        }
    }
    plain
}

/// A JSON string.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
