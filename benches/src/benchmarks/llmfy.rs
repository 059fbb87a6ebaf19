//! The library compared with llmfy 0.11.0 over the same server.
//!
//! llmfy takes and returns parsed JSON, the library takes and returns JSON text.
//! Each comparison therefore has two rows: one with both as they are called, which
//! has the target, and one in which `serde_json` serializes or parses each state
//! of the library within the measured time.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::{LIBRARY, NEW, READ};
use crate::bench::Bench;
use crate::report::{Relation, Row, Target, Unit};
use crate::states::{MEDIUM, SMALL, checkpoints, session_id, state};
use crate::statistics::{Subject, call_time, interleave};
use crate::subjects::library::Library;
use crate::subjects::python::{Operation, Request, Saver};

const ROUNDS: usize = 40;
const SAVES: u32 = 20;
const LISTS: usize = 5;
const LIST_LIMIT: u32 = 100;
const TTL: Duration = Duration::from_secs(3600);
const SAVER: Saver = Saver::Llmfy;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut python = bench.python()?;
    let (runtime, url) = (&bench.runtime, bench.server.url());
    let library = Library::open(runtime, &url, Some(TTL))?;
    let mut result = Vec::new();
    let sizes: &[_] = if bench.quick { &[SMALL] } else { &[SMALL, MEDIUM] };
    for size in sizes {
        let name = format!("save with TTL, {}", size.name);
        bench.begin(&name);
        let state = state(*size);
        let parsed: Value = serde_json::from_str(&state)?;
        let subjects = vec![
            Subject::new(|| {
                bench.flush();
                call_time(checkpoints(NEW, 0..SAVES, &state), |save| library.save(save))
            }),
            Subject::new(|| {
                bench.flush();
                call_time(checkpoints(NEW, 0..SAVES, ""), |mut save| {
                    save.state = serde_json::to_string(&parsed)?;
                    library.save(save)
                })
            }),
            Subject::new(|| {
                bench.flush();
                let operation = Operation::Save { state: &state };
                python.call_time(&Request { saver: SAVER, session: NEW, count: SAVES as usize, operation })
            }),
        ];
        let measured = interleave(bench.rounds(ROUNDS), subjects, &bench.progress)?;
        result.extend(rows(&name, "with serializing", 4.0, SAVER, &measured));

        let name = format!("list({LIST_LIMIT}), {}", size.name);
        bench.begin(&name);
        bench.flush();
        bench.fill(&url, READ, 0..LIST_LIMIT, &state)?;
        let session = session_id(READ);
        let subjects = vec![
            Subject::new(|| call_time(vec![(); LISTS], |()| library.list(&session, LIST_LIMIT))),
            Subject::new(|| {
                call_time(vec![(); LISTS], |()| {
                    let history = library.list(&session, LIST_LIMIT)?;
                    let parsed = history.checkpoints.iter().map(|it| serde_json::from_str(&it.state));
                    Ok(parsed.collect::<Result<Vec<Value>, _>>()?)
                })
            }),
            Subject::new(|| {
                let operation = Operation::List { limit: LIST_LIMIT };
                python.call_time(&Request { saver: SAVER, session: READ, count: LISTS, operation })
            }),
        ];
        let measured = interleave(bench.rounds(ROUNDS), subjects, &bench.progress)?;
        result.extend(rows(&name, "with parsing", 15.0, SAVER, &measured));
    }
    Ok(result)
}

/// The two rows of a comparison. `measured` has the library with text, the library
/// with parsed JSON, and the saver.
pub fn rows(name: &str, conversion: &str, min_speedup: f64, saver: Saver, measured: &[Vec<f64>]) -> [Row; 2] {
    let row = |name: String, library: &[f64]| {
        let (library, saver) = ((LIBRARY, library), (saver.name(), measured[2].as_slice()));
        Row::compare(name, Unit::Nanoseconds, library, Relation::Speedup, saver)
    };
    [
        row(name.to_owned(), &measured[0]).target(Target::AtLeast(min_speedup)),
        row(format!("{name}, {conversion}"), &measured[1]),
    ]
}
