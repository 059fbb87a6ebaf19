//! How much more memory a process has at the peak of a save or a load of a large
//! state than it had before, over the size of that state. Each is measured in a
//! process of its own, `src/bin/checkpointer-memory.rs`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{LIBRARY, READ};
use crate::bench::{Bench, program};
use crate::report::{Finding, Relation, Target, Unit};
use crate::states::{LARGE, session_id, state};
use crate::statistics::{Contender, interleave};

const ROUNDS: usize = 10;

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    let state = state(LARGE);
    let file = bench.folder.path().join("state.json");
    std::fs::write(&file, &state)?;
    let mut findings = Vec::new();
    for (place, address) in [("Redis", bench.server.url()), ("SQLite", bench.sqlite("memory.db"))] {
        bench.flush();
        bench.fill(&address, READ, 0..1, &state)?;
        for (work, argument) in [("save", file.display().to_string()), ("load latest", session_id(READ))] {
            let name = format!("memory of a {work}, {place}, {}", LARGE.name);
            bench.begin(&name);
            let peak = Contender::new(|| {
                let mut probe = Command::new(program("checkpointer-memory")?);
                let verb = if work == "save" { "save" } else { "load" };
                let output = probe.args([&address, verb, &argument]).output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let bytes = String::from_utf8_lossy(&output.stdout);
                bytes.trim().parse().with_context(|| format!("no number: {bytes:?}"))
            });
            let size = Contender::new(|| Ok(LARGE.bytes as f64));
            let measured = interleave(bench.rounds(ROUNDS), vec![peak, size], &bench.progress)?;
            let (ours, size) = ((LIBRARY, measured[0].as_slice()), ("the state", measured[1].as_slice()));
            findings.push(
                Finding::between(name, Unit::Bytes, ours, Relation::Ratio, size).target(Target::AtMost(4.0)),
            );
        }
    }
    Ok(findings)
}
