//! The peak memory of a save or a load of a large state above the memory before
//! it, relative to the size of the state. Each is measured in a process of its
//! own, `src/bin/checkpointer-memory.rs`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{LIBRARY, READ};
use crate::bench::{Bench, program};
use crate::report::{Relation, Row, Target, Unit};
use crate::states::{LARGE, session_id, state};
use crate::statistics::{Subject, interleave};

const ROUNDS: usize = 10;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let state = state(LARGE);
    let file = bench.folder.path().join("state.json");
    std::fs::write(&file, &state)?;
    let mut rows = Vec::new();
    for (store, url) in [("Redis", bench.server.url()), ("SQLite", bench.sqlite("memory.db"))] {
        bench.flush();
        bench.fill(&url, READ, 0..1, &state)?;
        for (operation, argument) in [("save", file.display().to_string()), ("latest", session_id(READ))] {
            let name = format!("peak memory of {operation}, {store}, {}", LARGE.name);
            bench.begin(&name);
            let peak = Subject::new(|| {
                let mut probe = Command::new(program("checkpointer-memory")?);
                let output = probe.args([&url, operation, &argument]).output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let bytes = String::from_utf8_lossy(&output.stdout);
                bytes.trim().parse().with_context(|| format!("not a number: {bytes:?}"))
            });
            let size = Subject::new(|| Ok(LARGE.bytes as f64));
            let measured = interleave(bench.rounds(ROUNDS), vec![peak, size], &bench.progress)?;
            let (library, size) = ((LIBRARY, measured[0].as_slice()), ("state", measured[1].as_slice()));
            rows.push(
                Row::compare(name, Unit::Bytes, library, Relation::Ratio, size).target(Target::AtMost(4.0)),
            );
        }
    }
    Ok(rows)
}
