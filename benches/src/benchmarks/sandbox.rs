//! One call of the library at a time, compared with the same logic without the
//! sandbox and with the same commands without any logic. Each of the three has one
//! connection to the same server, driven by the same runtime.

use std::fmt;

use anyhow::Result;
use checkpointer::HistoryQuery;
use checkpointer_tests::native::guest_checkpoint;

use super::{LIBRARY, NEW, READ};
use crate::bench::Bench;
use crate::recording::record;
use crate::report::{Relation, Row, Target, Unit};
use crate::states::{MEDIUM, SMALL, Size, checkpoints, session_id, state};
use crate::statistics::{Subject, call_time, interleave};
use crate::subjects::bare;
use crate::subjects::library::Library;
use crate::subjects::native::Native;

const CALLS: u32 = 30;
const ROUNDS: usize = 200;
const LIST_LIMIT: u32 = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Save,
    Latest,
    List,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Save => f.write_str("save"),
            Self::Latest => f.write_str("latest"),
            Self::List => write!(f, "list({LIST_LIMIT})"),
        }
    }
}

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for operation in [Operation::Save, Operation::Latest, Operation::List] {
        for size in [SMALL, MEDIUM] {
            rows.extend(compare(bench, operation, size)?);
        }
    }
    Ok(rows)
}

fn compare(bench: &Bench, operation: Operation, size: Size) -> Result<[Row; 2]> {
    let name = format!("{operation}, {}", size.name);
    bench.begin(&name);
    let (runtime, url, session) = (&bench.runtime, bench.server.url(), session_id(READ));
    let saves = checkpoints(NEW, 0..CALLS, &state(size));
    bench.flush();
    bench.fill(&url, READ, 0..2 * LIST_LIMIT, &state(size))?;
    let commands = record(bench, CALLS as usize, async |library| {
        for save in &saves {
            match operation {
                Operation::Save => drop(library.save(save).await?),
                Operation::Latest => drop(library.latest(&session).await?),
                Operation::List => drop(library.list(HistoryQuery::new(&session).limit(LIST_LIMIT)).await?),
            }
        }
        Ok(())
    })?;
    // Every save is that of a new checkpoint.
    let prepare = || {
        if operation == Operation::Save {
            bench.flush();
        }
    };

    let library = Library::open(runtime, &url, None)?;
    let native = Native::open(runtime, &url)?;
    let mut connection = runtime.block_on(bare::connect(&url))?;
    let calls = || vec![(); CALLS as usize];
    let subjects = vec![
        Subject::new(|| {
            prepare();
            match operation {
                Operation::Save => call_time(saves.clone(), |save| library.save(save)),
                Operation::Latest => call_time(calls(), |()| library.latest(&session)),
                Operation::List => call_time(calls(), |()| library.list(&session, LIST_LIMIT)),
            }
        }),
        Subject::new(|| {
            prepare();
            match operation {
                Operation::Save => {
                    let saves = saves.iter().cloned().map(guest_checkpoint);
                    call_time(saves.collect(), |save| native.save(save))
                }
                Operation::Latest => call_time(calls(), |()| native.latest(&session)),
                Operation::List => call_time(calls(), |()| native.list(&session, LIST_LIMIT)),
            }
        }),
        Subject::new(|| {
            prepare();
            call_time(commands.iter().collect(), |command| {
                runtime.block_on(bare::send(&mut connection, command))
            })
        }),
    ];
    let measured = interleave(bench.rounds(ROUNDS), subjects, &bench.progress)?;
    let row = |reference: usize, reference_name: &str, max_ratio: f64| {
        let library = (LIBRARY, measured[0].as_slice());
        let reference = (reference_name, measured[reference].as_slice());
        Row::compare(&name, Unit::Nanoseconds, library, Relation::Ratio, reference)
            .target(Target::AtMost(max_ratio))
    };
    Ok([row(1, "native", 1.10), row(2, "bare redis-rs", 1.20)])
}
