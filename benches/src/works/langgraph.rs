//! The library against LangGraph's savers: over the same Redis, and over SQLite
//! in files of the same folder, both with a write-ahead log that is on disk when
//! a save returns. As in `llmfy.rs`, each row is there with the text and with a
//! tree.

use std::cell::Cell;

use anyhow::Result;
use serde_json::Value;

use super::READ;
use super::llmfy::rows;
use crate::bench::Bench;
use crate::contenders::component::Component;
use crate::contenders::python::{Order, Python, Saver, Work};
use crate::report::Finding;
use crate::states::{MEDIUM, SMALL, Size, checkpoints, session_id, state};
use crate::statistics::{Contender, interleave, time_of_a_call};

const ROUNDS: usize = 40;
const CALLS: u32 = 20;
/// At least so many times as fast.
const TIMES: f64 = 3.0;

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    let mut python = bench.python()?;
    let sizes: &[_] = if bench.quick { &[SMALL] } else { &[SMALL, MEDIUM] };
    let mut findings = Vec::new();
    for (saver, address) in [(Saver::Valkey, bench.server.url()), (Saver::Sqlite, bench.sqlite("library.db"))]
    {
        bench.flush();
        // A database is not emptied between rounds, so each has a new session.
        let new = Cell::new(READ);
        for size in sizes {
            findings.extend(compare(bench, &mut python, saver, &address, *size, &new)?);
        }
    }
    Ok(findings)
}

fn compare(
    bench: &Bench,
    python: &mut Python,
    saver: Saver,
    address: &str,
    size: Size,
    new: &Cell<u32>,
) -> Result<Vec<Finding>> {
    let component = Component::open(&bench.runtime, address, None)?;
    let state = state(size);
    let tree: Value = serde_json::from_str(&state)?;
    let place = match saver {
        Saver::Sqlite => "SQLite",
        Saver::Llmfy | Saver::Valkey => "Redis",
    };
    let next = || {
        new.set(new.get() + 1);
        new.get()
    };
    let count = CALLS as usize;

    let name = format!("put, {place}, {}", size.name);
    bench.begin(&name);
    let contenders = vec![
        Contender::new(|| {
            let saves = checkpoints(next(), 0..CALLS, &state);
            time_of_a_call(saves.iter().collect(), |save| component.save(save))
        }),
        Contender::new(|| {
            time_of_a_call(checkpoints(next(), 0..CALLS, ""), |mut save| {
                save.state = serde_json::to_string(&tree)?;
                component.save(&save)
            })
        }),
        Contender::new(|| {
            let work = Work::Save { state: &state };
            python.time_of_a_call(&Order { saver, session: next(), count, work })
        }),
    ];
    let measured = interleave(bench.rounds(ROUNDS), contenders, &bench.progress)?;
    let mut findings = rows(&name, "from a tree", TIMES, saver, &measured).to_vec();

    let name = format!("load latest, {place}, {}", size.name);
    bench.begin(&name);
    let session = next();
    bench.fill(address, session, 0..CALLS, &state)?;
    python.time_of_a_call(&Order { saver, session, count, work: Work::Save { state: &state } })?;
    let id = session_id(session);
    let contenders = vec![
        Contender::new(|| time_of_a_call(vec![(); count], |()| component.load(&id))),
        Contender::new(|| {
            time_of_a_call(vec![(); count], |()| {
                let loaded = component.load(&id)?;
                Ok(serde_json::from_str::<Value>(&loaded.state)?)
            })
        }),
        Contender::new(|| python.time_of_a_call(&Order { saver, session, count, work: Work::Load })),
    ];
    let measured = interleave(bench.rounds(ROUNDS), contenders, &bench.progress)?;
    findings.extend(rows(&name, "to a tree", TIMES, saver, &measured));
    Ok(findings)
}
