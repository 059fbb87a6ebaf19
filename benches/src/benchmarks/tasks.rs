//! Many tasks on one checkpointer, compared with as many tasks on one bare
//! connection, on the same runtime with one thread per processor.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use checkpointer::{Checkpoint, Checkpointer};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::LIBRARY;
use crate::bench::Bench;
use crate::recording::{RecordedCommand, record};
use crate::report::{Relation, Row, Target, Unit};
use crate::states::{SMALL, checkpoints, state};
use crate::statistics::{Subject, interleave};
use crate::subjects::bare;

const TASKS: u32 = 64;
const SAVES: u32 = 50;
const ROUNDS: usize = 60;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let name = format!("save, {TASKS} tasks, {}", SMALL.name);
    bench.begin(&name);
    let (url, state) = (bench.server.url(), state(SMALL));
    // Each task has its own session.
    let saves: Vec<Vec<Checkpoint>> =
        (0..TASKS).map(|session| checkpoints(session, 0..SAVES, &state)).collect();
    bench.flush();
    let commands = record(bench, (TASKS * SAVES) as usize, async |library| {
        for save in saves.iter().flatten() {
            library.save(save).await?;
        }
        Ok(())
    })?;
    let commands: Vec<Vec<RecordedCommand>> =
        commands.chunks(SAVES as usize).map(<[RecordedCommand]>::to_vec).collect();
    let commands = Arc::new(commands);

    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let checkpointer = runtime.block_on(Checkpointer::open(&url))?;
    let connection = runtime.block_on(bare::connect(&url))?;
    let subjects = vec![
        Subject::new(|| {
            bench.flush();
            let mut saves = saves.clone();
            saves_per_second(&runtime, |task| {
                let (checkpointer, saves) = (checkpointer.clone(), std::mem::take(&mut saves[task]));
                async move {
                    for save in saves {
                        checkpointer.save(save).await?;
                    }
                    Ok(())
                }
            })
        }),
        Subject::new(|| {
            bench.flush();
            saves_per_second(&runtime, |task| {
                let (mut connection, commands) = (connection.clone(), Arc::clone(&commands));
                async move {
                    for command in &commands[task] {
                        bare::send(&mut connection, command).await?;
                    }
                    Ok(())
                }
            })
        }),
    ];
    let measured = interleave(bench.rounds(ROUNDS), subjects, &bench.progress)?;
    let (library, bare) = ((LIBRARY, measured[0].as_slice()), ("bare redis-rs", measured[1].as_slice()));
    Ok(vec![
        Row::compare(name, Unit::PerSecond, library, Relation::Ratio, bare).target(Target::AtLeast(0.80)),
    ])
}

/// The number of saves per second of all tasks together.
fn saves_per_second<F>(runtime: &Runtime, task: impl FnMut(usize) -> F) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    runtime.block_on(async {
        let start = Instant::now();
        let mut tasks: JoinSet<Result<()>> = (0..TASKS as usize).map(task).collect();
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        Ok(f64::from(TASKS * SAVES) / start.elapsed().as_secs_f64())
    })
}
