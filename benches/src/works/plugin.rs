//! A call that a plugin makes, against the library's own. A plugin has no clock,
//! so both are the average over many calls.

use std::time::Instant;

use anyhow::Result;
use checkpointer::Checkpointer;

use super::{LIBRARY, NEW, READ};
use crate::bench::Bench;
use crate::contenders::plugin::Plugin;
use crate::report::{Finding, Relation, Unit};
use crate::states::{MEDIUM, SMALL, checkpoints, session_id, state};
use crate::statistics::{Contender, interleave};

const CALLS: u32 = 30;
const ROUNDS: usize = 100;

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    bench.begin("building the measuring plugin");
    let (runtime, url) = (&bench.runtime, bench.server.url());
    let mut plugin = Plugin::new(runtime, &url)?;
    let library = runtime.block_on(Checkpointer::open(&url))?;
    let mut findings = Vec::new();
    for work in ["save", "load"] {
        for size in [SMALL, MEDIUM] {
            let name = format!("{work} by a plugin, {}", size.name);
            bench.begin(&name);
            let (state, session) = (state(size), session_id(READ));
            let saves = checkpoints(NEW, 0..CALLS, &state);
            bench.flush();
            bench.fill(&url, READ, 0..CALLS, &state)?;
            let prepare = || {
                if work == "save" {
                    bench.flush();
                }
            };
            let contenders = vec![
                Contender::new(|| {
                    prepare();
                    plugin.time_of_a_call(work, CALLS as usize, &state)
                }),
                Contender::new(|| {
                    prepare();
                    let start = Instant::now();
                    runtime.block_on(async {
                        for save in &saves {
                            if work == "save" {
                                library.save(save).await?;
                            } else {
                                library.load(&session, None).await?;
                            }
                        }
                        anyhow::Ok(())
                    })?;
                    Ok(start.elapsed().as_nanos() as f64 / f64::from(CALLS))
                }),
            ];
            let measured = interleave(bench.rounds(ROUNDS), contenders, &bench.progress)?;
            let (ours, other) = (("plugin", measured[0].as_slice()), (LIBRARY, measured[1].as_slice()));
            findings.push(Finding::between(name, Unit::Nanoseconds, ours, Relation::Ratio, other));
        }
    }
    Ok(findings)
}
