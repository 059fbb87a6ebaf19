//! A call by a plugin compared with a call by an application. Plugins have no
//! clock, so both are the mean of many calls.

use std::time::Instant;

use anyhow::Result;
use checkpointer::Checkpointer;

use super::{LIBRARY, NEW, READ};
use crate::bench::Bench;
use crate::report::{Relation, Row, Unit};
use crate::states::{MEDIUM, SMALL, checkpoints, session_id, state};
use crate::statistics::{Subject, interleave};
use crate::subjects::plugin::Plugin;

const CALLS: u32 = 30;
const ROUNDS: usize = 100;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    bench.begin("building the plugin");
    let (runtime, url) = (&bench.runtime, bench.server.url());
    let mut plugin = Plugin::new(runtime, &url)?;
    let library = runtime.block_on(Checkpointer::open(&url))?;
    let mut rows = Vec::new();
    for operation in ["save", "latest"] {
        for size in [SMALL, MEDIUM] {
            let name = format!("{operation} by a plugin, {}", size.name);
            bench.begin(&name);
            let (state, session) = (state(size), session_id(READ));
            let saves = checkpoints(NEW, 0..CALLS, &state);
            bench.flush();
            bench.fill(&url, READ, 0..CALLS, &state)?;
            let prepare = || {
                if operation == "save" {
                    bench.flush();
                }
            };
            let subjects = vec![
                Subject::new(|| {
                    prepare();
                    plugin.call_time(operation, CALLS as usize, &state)
                }),
                Subject::new(|| {
                    prepare();
                    let saves = saves.clone();
                    let start = Instant::now();
                    runtime.block_on(async {
                        for save in saves {
                            if operation == "save" {
                                library.save(save).await?;
                            } else {
                                library.latest(&session).await?;
                            }
                        }
                        anyhow::Ok(())
                    })?;
                    Ok(start.elapsed().as_nanos() as f64 / f64::from(CALLS))
                }),
            ];
            let measured = interleave(bench.rounds(ROUNDS), subjects, &bench.progress)?;
            let (plugin, library) = (("plugin", measured[0].as_slice()), (LIBRARY, measured[1].as_slice()));
            rows.push(Row::compare(name, Unit::Nanoseconds, plugin, Relation::Ratio, library));
        }
    }
    Ok(rows)
}
