//! The command line from its start to its end, with the answer that there is no
//! checkpoint in a database that is there and empty; against a program that does
//! the same natively, `src/bin/checkpointer-native.rs`.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use checkpointer::Checkpointer;

use super::LIBRARY;
use crate::bench::{Bench, program};
use crate::report::{Finding, Relation, Target, Unit};
use crate::statistics::{Contender, interleave};

const ROUNDS: usize = 100;
const MOST_NANOSECONDS: f64 = 15e6;

/// What both end with when there is no checkpoint.
const NOT_FOUND: i32 = 3;

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    let name = "cold start, SQLite";
    bench.begin(name);
    let address = bench.sqlite("empty.db");
    drop(bench.runtime.block_on(Checkpointer::open(&address))?);
    let (command, native) = (program("checkpointer")?, program("checkpointer-native")?);
    let contenders = vec![
        Contender::new(|| time_of(&command, &["--store", &address, "load", "session"])),
        Contender::new(|| time_of(&native, &[&address, "session"])),
    ];
    let measured = interleave(bench.rounds(ROUNDS), contenders, &bench.progress)?;
    let (ours, other) = ((LIBRARY, measured[0].as_slice()), ("native", measured[1].as_slice()));
    Ok(vec![
        Finding::between(name, Unit::Nanoseconds, ours, Relation::Difference, other)
            .target(Target::AtMost(MOST_NANOSECONDS)),
    ])
}

fn time_of(program: &Path, arguments: &[&str]) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(arguments);
    let start = Instant::now();
    let output = command.output()?;
    let time = start.elapsed().as_nanos() as f64;
    ensure!(output.status.code() == Some(NOT_FOUND), "{}: {output:?}", program.display());
    Ok(time)
}
