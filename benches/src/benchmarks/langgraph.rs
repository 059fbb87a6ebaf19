//! The library compared with LangGraph's savers: over the same Redis, and over
//! SQLite files in the same folder. Both use a write-ahead log that is flushed to
//! disk before a save returns. Each comparison has two rows, as in `llmfy.rs`.

use std::cell::Cell;

use anyhow::Result;
use serde_json::Value;

use super::READ;
use super::llmfy::rows;
use crate::bench::Bench;
use crate::report::Row;
use crate::states::{MEDIUM, SMALL, Size, checkpoints, session_id, state};
use crate::statistics::{Subject, call_time, interleave};
use crate::subjects::library::Library;
use crate::subjects::python::{Operation, Python, Request, Saver};

const ROUNDS: usize = 40;
const CALLS: u32 = 20;
/// The target: at least this many times as fast.
const MIN_SPEEDUP: f64 = 3.0;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut python = bench.python()?;
    let sizes: &[_] = if bench.quick { &[SMALL] } else { &[SMALL, MEDIUM] };
    let mut rows = Vec::new();
    for (saver, url) in [(Saver::Valkey, bench.server.url()), (Saver::Sqlite, bench.sqlite("library.db"))] {
        bench.flush();
        // Each round has a new session, since a database is not emptied in between.
        let session = Cell::new(READ);
        for size in sizes {
            rows.extend(compare(bench, &mut python, saver, &url, *size, &session)?);
        }
    }
    Ok(rows)
}

fn compare(
    bench: &Bench,
    python: &mut Python,
    saver: Saver,
    url: &str,
    size: Size,
    session: &Cell<u32>,
) -> Result<Vec<Row>> {
    let library = Library::open(&bench.runtime, url, None)?;
    let state = state(size);
    let parsed: Value = serde_json::from_str(&state)?;
    let store = match saver {
        Saver::Sqlite => "SQLite",
        Saver::Llmfy | Saver::Valkey => "Redis",
    };
    let new_session = || {
        session.set(session.get() + 1);
        session.get()
    };
    let count = CALLS as usize;

    let name = format!("save, {store}, {}", size.name);
    bench.begin(&name);
    let subjects = vec![
        Subject::new(|| call_time(checkpoints(new_session(), 0..CALLS, &state), |save| library.save(save))),
        Subject::new(|| {
            call_time(checkpoints(new_session(), 0..CALLS, ""), |mut save| {
                save.state = serde_json::to_string(&parsed)?;
                library.save(save)
            })
        }),
        Subject::new(|| {
            let operation = Operation::Save { state: &state };
            python.call_time(&Request { saver, session: new_session(), count, operation })
        }),
    ];
    let measured = interleave(bench.rounds(ROUNDS), subjects, &bench.progress)?;
    let mut result = rows(&name, "with serializing", MIN_SPEEDUP, saver, &measured).to_vec();

    let name = format!("latest, {store}, {}", size.name);
    bench.begin(&name);
    let session = new_session();
    bench.fill(url, session, 0..CALLS, &state)?;
    python.call_time(&Request { saver, session, count, operation: Operation::Save { state: &state } })?;
    let id = session_id(session);
    let subjects = vec![
        Subject::new(|| call_time(vec![(); count], |()| library.latest(&id))),
        Subject::new(|| {
            call_time(vec![(); count], |()| {
                let latest = library.latest(&id)?;
                Ok(serde_json::from_str::<Value>(&latest.state)?)
            })
        }),
        Subject::new(|| python.call_time(&Request { saver, session, count, operation: Operation::Latest })),
    ];
    let measured = interleave(bench.rounds(ROUNDS), subjects, &bench.progress)?;
    result.extend(rows(&name, "with parsing", MIN_SPEEDUP, saver, &measured));
    Ok(result)
}
