//! A call of the library, one at a time, against the same logic without the
//! sandbox and against the same commands without any logic. All three have a
//! connection each to the same server, and are driven by the same runtime.

use std::fmt;

use anyhow::Result;

use super::{LIBRARY, NEW, READ};
use crate::bench::Bench;
use crate::contenders::bare;
use crate::contenders::component::Component;
use crate::contenders::native::{self, Native};
use crate::recording::record;
use crate::report::{Finding, Relation, Target, Unit};
use crate::states::{MEDIUM, SMALL, Size, checkpoints, session_id, state};
use crate::statistics::{Contender, interleave, time_of_a_call};

const CALLS: u32 = 30;
const ROUNDS: usize = 200;
const LISTED: u32 = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Save,
    Load,
    List,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Save => f.write_str("save"),
            Self::Load => f.write_str("load latest"),
            Self::List => write!(f, "list({LISTED})"),
        }
    }
}

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for work in [Work::Save, Work::Load, Work::List] {
        for size in [SMALL, MEDIUM] {
            findings.extend(compare(bench, work, size)?);
        }
    }
    Ok(findings)
}

fn compare(bench: &Bench, work: Work, size: Size) -> Result<[Finding; 2]> {
    let name = format!("{work}, {}", size.name);
    bench.begin(&name);
    let (runtime, url, session) = (&bench.runtime, bench.server.url(), session_id(READ));
    let saves = checkpoints(NEW, 0..CALLS, &state(size));
    bench.flush();
    bench.fill(&url, READ, 0..2 * LISTED, &state(size))?;
    let commands = record(bench, CALLS as usize, async |library| {
        for save in &saves {
            match work {
                Work::Save => drop(library.save(save).await?),
                Work::Load => drop(library.load(&session, None).await?),
                Work::List => drop(library.list(&session, Some(LISTED)).await?),
            }
        }
        Ok(())
    })?;
    // A save is of a new checkpoint each time.
    let prepare = || {
        if work == Work::Save {
            bench.flush();
        }
    };

    let component = Component::open(runtime, &url, None)?;
    let native = Native::open(runtime, &url)?;
    let mut connection = runtime.block_on(bare::connect(&url))?;
    let calls = || vec![(); CALLS as usize];
    let contenders = vec![
        Contender::new(|| {
            prepare();
            match work {
                Work::Save => time_of_a_call(saves.iter().collect(), |save| component.save(save)),
                Work::Load => time_of_a_call(calls(), |()| component.load(&session)),
                Work::List => time_of_a_call(calls(), |()| component.list(&session, LISTED)),
            }
        }),
        Contender::new(|| {
            prepare();
            match work {
                Work::Save => {
                    let saves = saves.iter().cloned().map(native::checkpoint);
                    time_of_a_call(saves.collect(), |save| native.save(save))
                }
                Work::Load => time_of_a_call(calls(), |()| native.load(&session)),
                Work::List => time_of_a_call(calls(), |()| native.list(&session, LISTED)),
            }
        }),
        Contender::new(|| {
            prepare();
            time_of_a_call(commands.iter().collect(), |command| {
                runtime.block_on(bare::send(&mut connection, command))
            })
        }),
    ];
    let measured = interleave(bench.rounds(ROUNDS), contenders, &bench.progress)?;
    let against = |other: usize, called: &str, most: f64| {
        let (ours, other) = ((LIBRARY, measured[0].as_slice()), (called, measured[other].as_slice()));
        Finding::between(&name, Unit::Nanoseconds, ours, Relation::Ratio, other).target(Target::AtMost(most))
    };
    Ok([against(1, "native", 1.10), against(2, "bare redis-rs", 1.20)])
}
