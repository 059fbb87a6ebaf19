//! The latest checkpoint of a session of 1,000,000 compared with that of a session
//! of 10.

use anyhow::{Result, ensure};
use checkpointer::DEFAULT_PREFIX;
use checkpointer_guest::document;
use checkpointer_tests::native::guest_checkpoint;
use redis::pipe;

use super::{LIBRARY, READ};
use crate::bench::Bench;
use crate::report::{Relation, Row, Target, Unit};
use crate::states::{SMALL, checkpoint, checkpoints, session_id, state, timestamp_micros};
use crate::statistics::{Subject, call_time, interleave};
use crate::subjects::library::Library;

const MANY: u32 = 1_000_000;
const FEW: u32 = 10;
const CALLS: usize = 30;
const ROUNDS: usize = 200;

/// The session with many checkpoints.
const LONG: u32 = READ + 1;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    if bench.quick {
        return Ok(Vec::new());
    }
    let name = format!("latest of 1,000,000, {}", SMALL.name);
    let (url, state) = (bench.server.url(), state(SMALL));
    bench.flush();
    fill(bench, LONG, MANY - FEW)?;
    for session in [LONG, READ] {
        // The newest checkpoints are the same in both sessions.
        bench.fill(&url, session, MANY - FEW..MANY, &state)?;
    }
    let library = Library::open(&bench.runtime, &url, None)?;
    let latest = |session: u32| {
        let (id, expected) = (session_id(session), checkpoint(session, MANY - 1, &state));
        let library = &library;
        Subject::new(move || {
            ensure!(library.latest(&id)? == expected, "another checkpoint is the latest");
            call_time(vec![(); CALLS], |()| library.latest(&id))
        })
    };
    bench.begin(&name);
    let measured = interleave(bench.rounds(ROUNDS), vec![latest(LONG), latest(READ)], &bench.progress)?;
    bench.flush();
    let (many, few) = ((LIBRARY, measured[0].as_slice()), ("latest of ten", measured[1].as_slice()));
    Ok(vec![Row::compare(name, Unit::Nanoseconds, many, Relation::Ratio, few).target(Target::AtMost(1.2))])
}

/// Writes the first `count` checkpoints of a session directly to Redis, with a
/// small state, as the library would write them.
fn fill(bench: &Bench, session: u32, count: u32) -> Result<()> {
    const CHUNK: u32 = 1000;
    bench.begin("filling the session of 1,000,000");
    bench.progress.set_length(u64::from(count));
    bench.progress.set_position(0);
    let mut connection = bench.runtime.block_on(bench.server.connect())?;
    for begin in (0..count).step_by(CHUNK as usize) {
        let numbers = begin..count.min(begin + CHUNK);
        let mut pipe = pipe();
        for (number, checkpoint) in numbers.clone().zip(checkpoints(session, numbers, "{}")) {
            let checkpoint = guest_checkpoint(checkpoint);
            let metadata = &checkpoint.metadata;
            let id = &metadata.checkpoint_id;
            pipe.cmd("SET").arg(format!("{DEFAULT_PREFIX}checkpoint:{id}"));
            pipe.arg(document::write(metadata, &checkpoint.state)).ignore();
            pipe.cmd("ZADD").arg(format!("{DEFAULT_PREFIX}session:{}", metadata.session_id));
            pipe.arg(timestamp_micros(number) as f64 / 1e6).arg(id).ignore();
        }
        bench.runtime.block_on(pipe.exec_async(&mut connection))?;
        bench.progress.inc(u64::from(CHUNK));
    }
    Ok(())
}
