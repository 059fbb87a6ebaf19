//! Many tasks on one checkpointer, against as many on one bare connection, on
//! the same runtime with a thread for each processor.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use checkpointer::{Checkpoint, Checkpointer};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::LIBRARY;
use crate::bench::Bench;
use crate::contenders::bare;
use crate::recording::{Words, record};
use crate::report::{Finding, Relation, Target, Unit};
use crate::states::{SMALL, checkpoints, state};
use crate::statistics::{Contender, interleave};

const TASKS: u32 = 64;
const SAVES: u32 = 50;
const ROUNDS: usize = 60;

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    let name = format!("save, {TASKS} tasks, {}", SMALL.name);
    bench.begin(&name);
    let (url, state) = (bench.server.url(), state(SMALL));
    // Each task has a session of its own.
    let saves: Vec<Vec<Checkpoint>> =
        (0..TASKS).map(|session| checkpoints(session, 0..SAVES, &state)).collect();
    bench.flush();
    let commands = record(bench, (TASKS * SAVES) as usize, async |library| {
        for save in saves.iter().flatten() {
            library.save(save).await?;
        }
        Ok(())
    })?;
    let commands: Vec<Vec<Words>> = commands.chunks(SAVES as usize).map(<[Words]>::to_vec).collect();
    let (saves, commands) = (Arc::new(saves), Arc::new(commands));

    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let checkpointer = runtime.block_on(Checkpointer::open(&url))?;
    let connection = runtime.block_on(bare::connect(&url))?;
    let contenders = vec![
        Contender::new(|| {
            bench.flush();
            rate(&runtime, |task| {
                let (checkpointer, saves) = (checkpointer.clone(), Arc::clone(&saves));
                async move {
                    for save in &saves[task] {
                        checkpointer.save(save).await?;
                    }
                    Ok(())
                }
            })
        }),
        Contender::new(|| {
            bench.flush();
            rate(&runtime, |task| {
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
    let measured = interleave(bench.rounds(ROUNDS), contenders, &bench.progress)?;
    let (ours, other) = ((LIBRARY, measured[0].as_slice()), ("bare redis-rs", measured[1].as_slice()));
    Ok(vec![
        Finding::between(name, Unit::PerSecond, ours, Relation::Ratio, other).target(Target::AtLeast(0.80)),
    ])
}

/// How many saves a second all tasks do together.
fn rate<F>(runtime: &Runtime, task: impl Fn(usize) -> F) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    runtime.block_on(async {
        let start = Instant::now();
        let mut tasks: JoinSet<Result<()>> = (0..TASKS as usize).map(task).collect();
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(f64::from(TASKS * SAVES) / start.elapsed().as_secs_f64())
    })
}
