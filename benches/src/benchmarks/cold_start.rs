//! The command line from process start to exit, on a session without checkpoints
//! in an existing empty database; compared with a native program,
//! `src/bin/checkpointer-native.rs`.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use checkpointer::Checkpointer;

use super::LIBRARY;
use crate::bench::{Bench, program};
use crate::report::{Relation, Row, Target, Unit};
use crate::statistics::{Subject, interleave};

const ROUNDS: usize = 100;
const MAX_NANOSECONDS: f64 = 15e6;

/// The exit status of both programs if the session has no checkpoint.
const NOT_FOUND: i32 = 3;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let name = "cold start, SQLite";
    bench.begin(name);
    let url = bench.sqlite("empty.db");
    drop(bench.runtime.block_on(Checkpointer::open(&url))?);
    let (command, native) = (program("checkpointer")?, program("checkpointer-native")?);
    let subjects = vec![
        Subject::new(|| run_time(&command, &["--store", &url, "load", "session"])),
        Subject::new(|| run_time(&native, &[&url, "session"])),
    ];
    let measured = interleave(bench.rounds(ROUNDS), subjects, &bench.progress)?;
    let (library, native) = ((LIBRARY, measured[0].as_slice()), ("native", measured[1].as_slice()));
    Ok(vec![
        Row::compare(name, Unit::Nanoseconds, library, Relation::Difference, native)
            .target(Target::AtMost(MAX_NANOSECONDS)),
    ])
}

fn run_time(program: &Path, arguments: &[&str]) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(arguments);
    let start = Instant::now();
    let output = command.output()?;
    let time = start.elapsed().as_nanos() as f64;
    ensure!(output.status.code() == Some(NOT_FOUND), "{}: {output:?}", program.display());
    Ok(time)
}
