//! The library against llmfy 0.11.0, over the same server.
//!
//! llmfy is given a state as a tree and makes the text itself; the library is
//! given the text. So there is each row twice: as both are called, which the
//! targets are about, and with `serde_json` making the text of a tree, or a tree
//! of every text, within the measured time.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::{LIBRARY, NEW, READ};
use crate::bench::Bench;
use crate::contenders::component::Component;
use crate::contenders::python::{Order, Saver, Work};
use crate::report::{Finding, Relation, Target, Unit};
use crate::states::{MEDIUM, SMALL, checkpoints, session_id, state};
use crate::statistics::{Contender, interleave, time_of_a_call};

const ROUNDS: usize = 40;
const SAVES: u32 = 20;
const LISTS: usize = 5;
const LISTED: u32 = 100;
const TTL: Duration = Duration::from_secs(3600);
const SAVER: Saver = Saver::Llmfy;

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    let mut python = bench.python()?;
    let (runtime, url) = (&bench.runtime, bench.server.url());
    let component = Component::open(runtime, &url, Some(TTL))?;
    let mut findings = Vec::new();
    let sizes: &[_] = if bench.quick { &[SMALL] } else { &[SMALL, MEDIUM] };
    for size in sizes {
        let name = format!("save with ttl, {}", size.name);
        bench.begin(&name);
        let state = state(*size);
        let tree: Value = serde_json::from_str(&state)?;
        let contenders = vec![
            Contender::new(|| {
                bench.flush();
                let saves = checkpoints(NEW, 0..SAVES, &state);
                time_of_a_call(saves.iter().collect(), |save| component.save(save))
            }),
            Contender::new(|| {
                bench.flush();
                time_of_a_call(checkpoints(NEW, 0..SAVES, ""), |mut save| {
                    save.state = serde_json::to_string(&tree)?;
                    component.save(&save)
                })
            }),
            Contender::new(|| {
                bench.flush();
                let work = Work::Save { state: &state };
                python.time_of_a_call(&Order { saver: SAVER, session: NEW, count: SAVES as usize, work })
            }),
        ];
        let measured = interleave(bench.rounds(ROUNDS), contenders, &bench.progress)?;
        findings.extend(rows(&name, "from a tree", 4.0, SAVER, &measured));

        let name = format!("list({LISTED}), {}", size.name);
        bench.begin(&name);
        bench.flush();
        bench.fill(&url, READ, 0..LISTED, &state)?;
        let session = session_id(READ);
        let contenders = vec![
            Contender::new(|| time_of_a_call(vec![(); LISTS], |()| component.list(&session, LISTED))),
            Contender::new(|| {
                time_of_a_call(vec![(); LISTS], |()| {
                    let history = component.list(&session, LISTED)?;
                    let trees = history.checkpoints.iter().map(|listed| serde_json::from_str(&listed.state));
                    Ok(trees.collect::<Result<Vec<Value>, _>>()?)
                })
            }),
            Contender::new(|| {
                let work = Work::List { limit: LISTED };
                python.time_of_a_call(&Order { saver: SAVER, session: READ, count: LISTS, work })
            }),
        ];
        let measured = interleave(bench.rounds(ROUNDS), contenders, &bench.progress)?;
        findings.extend(rows(&name, "to trees", 15.0, SAVER, &measured));
    }
    Ok(findings)
}

/// A row with the text and one with the tree, against a saver that is measured
/// last.
pub fn rows(name: &str, tree: &str, least: f64, saver: Saver, measured: &[Vec<f64>]) -> [Finding; 2] {
    let against = |name: String, ours: &[f64]| {
        let (ours, other) = ((LIBRARY, ours), (saver.name(), measured[2].as_slice()));
        Finding::between(name, Unit::Nanoseconds, ours, Relation::TimesAsFast, other)
    };
    [
        against(name.to_owned(), &measured[0]).target(Target::AtLeast(least)),
        against(format!("{name}, {tree}"), &measured[1]),
    ]
}
