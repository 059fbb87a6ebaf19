//! The latest of a session of a million checkpoints, against that of ten.

use anyhow::{Result, ensure};
use checkpointer::DEFAULT_PREFIX;
use checkpointer_guest::document;
use redis::pipe;

use super::{LIBRARY, READ};
use crate::bench::Bench;
use crate::contenders::component::Component;
use crate::contenders::native;
use crate::report::{Finding, Relation, Target, Unit};
use crate::states::{SMALL, checkpoint, checkpoints, session_id, state};
use crate::statistics::{Contender, interleave, time_of_a_call};

const MANY: u32 = 1_000_000;
const FEW: u32 = 10;
const CALLS: usize = 30;
const ROUNDS: usize = 200;

/// The session of many.
const LONG: u32 = READ + 1;

/// When 2026 begins, in seconds, with the fraction of the timestamps.
const BEGIN: f64 = 1_767_225_600.123_456;

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    if bench.quick {
        return Ok(Vec::new());
    }
    let name = format!("load latest of a million, {}", SMALL.name);
    let (url, state) = (bench.server.url(), state(SMALL));
    bench.flush();
    fill(bench, LONG, MANY - FEW)?;
    for session in [LONG, READ] {
        // The newest are the same in both.
        bench.fill(&url, session, MANY - FEW..MANY, &state)?;
    }
    let component = Component::open(&bench.runtime, &url, None)?;
    let latest = |session: u32| {
        let (id, wanted) = (session_id(session), checkpoint(session, MANY - 1, &state));
        let component = &component;
        Contender::new(move || {
            ensure!(component.load(&id)? == wanted, "another checkpoint is the latest");
            time_of_a_call(vec![(); CALLS], |()| component.load(&id))
        })
    };
    bench.begin(&name);
    let measured = interleave(bench.rounds(ROUNDS), vec![latest(LONG), latest(READ)], &bench.progress)?;
    bench.flush();
    let (many, few) = ((LIBRARY, measured[0].as_slice()), ("of ten", measured[1].as_slice()));
    Ok(vec![
        Finding::between(name, Unit::Nanoseconds, many, Relation::Ratio, few).target(Target::AtMost(1.2)),
    ])
}

/// Writes the first `count` checkpoints of a session as the library would, with
/// a small state, and past it.
fn fill(bench: &Bench, session: u32, count: u32) -> Result<()> {
    const CHUNK: u32 = 1000;
    bench.begin("filling the session of a million");
    bench.progress.set_length(u64::from(count));
    bench.progress.set_position(0);
    let mut connection = bench.runtime.block_on(bench.server.connect())?;
    for begin in (0..count).step_by(CHUNK as usize) {
        let numbers = begin..count.min(begin + CHUNK);
        let mut pipe = pipe();
        for (number, checkpoint) in numbers.clone().zip(checkpoints(session, numbers, "{}")) {
            let checkpoint = native::checkpoint(checkpoint);
            let metadata = &checkpoint.metadata;
            let id = &metadata.checkpoint_id;
            pipe.cmd("SET").arg(format!("{DEFAULT_PREFIX}checkpoint:{id}"));
            pipe.arg(document::write(metadata, &checkpoint.state)).ignore();
            let score = BEGIN + f64::from(number);
            pipe.cmd("ZADD").arg(format!("{DEFAULT_PREFIX}session:{}", metadata.session_id));
            pipe.arg(score).arg(id).ignore();
        }
        bench.runtime.block_on(pipe.exec_async(&mut connection))?;
        bench.progress.inc(u64::from(CHUNK));
    }
    Ok(())
}
