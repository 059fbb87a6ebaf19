//! The measurement of a population, from the first save to the last delete.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use checkpointer::{Checkpoint, Checkpointer, SaveOutcome};
use indicatif::ProgressBar;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::meter::{Meter, Usage};
use super::population::{KILOBYTE, Population};
use super::servers::Servers;
use super::{Cost, Effort, Measured, Operation};
use crate::states::{self, Size, session_id, state};
use crate::statistics::Quartiles;

/// The number of concurrent tasks: the calls that a [`Checkpointer`] runs at once.
const TASKS: u32 = 64;

/// The default limit of a list.
const LIST_LIMIT: usize = 10;

/// The maximum size of all states that the calls of a round transfer, in bytes.
const MAX_ROUND_BYTES: usize = 128 * 1024 * KILOBYTE;

/// The maximum number of sessions that a round deletes.
const MAX_DELETED_SESSIONS: u32 = 200;

/// Starts servers, fills them with a population and measures its memory and the
/// cost of its operations.
///
/// # Errors
/// The servers can't be started, or a call fails.
pub fn measure(
    runtime: &Runtime,
    population: Population,
    effort: Effort,
    progress: &ProgressBar,
) -> Result<Measured> {
    runtime.block_on(async {
        let servers = Servers::start(population.topology).await?;
        let meter = Meter::open(&servers.masters).await?;
        let empty = meter.memory().await?;
        let size = Size { bytes: population.state_bytes, name: "" };
        let state = state(size).into();
        let mut measurement = Measurement { servers, meter, population, effort, state, samples: Vec::new() };
        progress.set_length(u64::from(effort.rounds) + 3);
        progress.set_position(0);
        measurement.fill().await?;
        let bytes = measurement.meter.memory().await? - empty;
        progress.inc(1);
        measurement.measure_bounded(progress).await?;
        for operation in population.unbounded_operations() {
            measurement.measure_unbounded(*operation).await?;
        }
        Ok(Measured {
            population,
            bytes_per_checkpoint: bytes / f64::from(population.total()),
            costs: costs(&measurement.samples),
        })
    })
}

/// A call with its arguments, prepared outside of the measured time.
enum Call {
    Save(Box<Checkpoint>),
    Latest(String),
    Load(String, String),
    List(String),
    DeleteCheckpoint(String, String),
    DeleteSession(String),
    ClearAll,
}

impl Call {
    /// Makes the call. Returns the number of checkpoints that it deleted, or else 1.
    async fn make(&self, checkpointer: &Checkpointer) -> Result<u64> {
        match self {
            Self::Save(checkpoint) => {
                let outcome = checkpointer.save(checkpoint.as_ref()).await?;
                ensure!(outcome != SaveOutcome::Pruned, "a checkpoint was pruned");
            }
            Self::Latest(session) => {
                checkpointer.latest(session).await?.with_context(|| format!("no checkpoint in {session}"))?;
            }
            Self::Load(session, checkpoint) => {
                let loaded = checkpointer.load(session, checkpoint).await?;
                loaded.with_context(|| format!("no checkpoint {checkpoint} in {session}"))?;
            }
            Self::List(session) => {
                let history = checkpointer.list(session.as_str()).await?;
                ensure!(history.checkpoints.len() == LIST_LIMIT, "{} checkpoints", history.checkpoints.len());
            }
            Self::DeleteCheckpoint(session, checkpoint) => {
                return Ok(checkpointer.delete_checkpoint(session, checkpoint).await?.into());
            }
            Self::DeleteSession(session) => return Ok(checkpointer.delete_session(session).await?),
            Self::ClearAll => return Ok(checkpointer.clear_all().await?),
        }
        Ok(1)
    }
}

/// The mean usage of an operation in a round.
struct Sample {
    operation: Operation,
    tasks: u32,
    count: u64,
    usage: Usage,
}

/// A measurement in progress.
struct Measurement {
    servers: Servers,
    meter: Meter,
    population: Population,
    effort: Effort,
    state: Arc<str>,
    samples: Vec<Sample>,
}

impl Measurement {
    /// Saves all checkpoints, the oldest of all sessions first.
    async fn fill(&self) -> Result<()> {
        let checkpointer = self.open(Operation::Save).await?;
        let Population { sessions, .. } = self.population;
        let total = self.population.total();
        let mut tasks: JoinSet<Result<()>> = (0..TASKS)
            .map(|task| {
                let (checkpointer, state) = (checkpointer.clone(), Arc::clone(&self.state));
                async move {
                    for index in (task..total).step_by(TASKS as usize) {
                        let (session, number) = (index % sessions, index / sessions);
                        checkpointer.save(states::checkpoint(session, number, &state)).await?;
                    }
                    Ok(())
                }
            })
            .collect();
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        Ok(())
    }

    /// Measures the bounded operations: with many concurrent tasks, as in a busy
    /// service, and with one task.
    async fn measure_bounded(&mut self, progress: &ProgressBar) -> Result<()> {
        let checkpointer = self.open(Operation::Save).await?;
        let concurrent = Operation::BOUNDED.map(|operation| (operation, TASKS, self.calls(operation)));
        let sequential = Operation::SEQUENTIAL.map(|operation| (operation, 1, self.calls(operation) / 4));
        // Round 0 warms up and is not counted.
        for round in 0..=self.effort.rounds {
            for (operation, tasks, calls) in concurrent.into_iter().chain(sequential) {
                let calls = (0..calls).map(|index| self.call(operation, index)).collect();
                let sample = self.sample(operation, &checkpointer, tasks, calls).await?;
                if round > 0 {
                    self.samples.push(sample);
                }
            }
            progress.inc(1);
        }
        Ok(())
    }

    /// The number of calls in a round of an operation; at least one per task.
    fn calls(&self, operation: Operation) -> u32 {
        let states = if operation == Operation::List { LIST_LIMIT } else { 1 };
        let max_calls = MAX_ROUND_BYTES / (states * self.population.state_bytes);
        self.effort.calls.min(max_calls as u32).max(TASKS)
    }

    /// Measures an operation on whole sessions, one call at a time.
    async fn measure_unbounded(&mut self, operation: Operation) -> Result<()> {
        let Population { sessions, checkpoints, .. } = self.population;
        let checkpointer = self.open(operation).await?;
        checkpointer.latest(&session_id(sessions - 1)).await?;
        let half = sessions / 2;
        let (rounds, calls) = match operation {
            Operation::ClearAll => (1, 1),
            Operation::DeleteSession => {
                let rounds = self.effort.rounds.min(half);
                (rounds, (half / rounds).min(MAX_DELETED_SESSIONS))
            }
            _ => (self.effort.rounds, (self.effort.calls * 10 / checkpoints).clamp(1, self.effort.calls / 8)),
        };
        for round in 0..rounds {
            let indexes = round * calls..(round + 1) * calls;
            let calls = indexes.map(|index| self.call(operation, index)).collect();
            let sample = self.sample(operation, &checkpointer, 1, calls).await?;
            self.samples.push(sample);
        }
        Ok(())
    }

    async fn open(&self, operation: Operation) -> Result<Checkpointer> {
        Ok(self.population.builder(operation).open(&self.servers.url).await?)
    }

    /// The call with this index. Saves use ids after those of the population;
    /// deletes of a checkpoint use the same ids.
    fn call(&self, operation: Operation, index: u32) -> Call {
        let Population { sessions, checkpoints, .. } = self.population;
        // A prime stride: consecutive calls use distant sessions, and all sessions
        // are used equally often.
        let session = (u64::from(index) * 7_919 % u64::from(sessions)) as u32;
        let next = checkpoints + index / sessions;
        let id = |number| states::checkpoint(session, number, "").metadata.checkpoint_id;
        match operation {
            Operation::Save | Operation::SaveAtLimit | Operation::SaveWithSessionTtl => {
                Call::Save(Box::new(states::checkpoint(session, next, &self.state)))
            }
            Operation::Latest => Call::Latest(session_id(session)),
            Operation::Load => {
                Call::Load(session_id(session), id((u64::from(index) * 31 % u64::from(checkpoints)) as u32))
            }
            Operation::List => Call::List(session_id(session)),
            Operation::DeleteCheckpoint => Call::DeleteCheckpoint(session_id(session), id(next)),
            Operation::DeleteSession => Call::DeleteSession(session_id(index)),
            Operation::ClearAll => Call::ClearAll,
        }
    }

    /// Makes calls and returns their mean usage per call, or per deleted checkpoint.
    async fn sample(
        &self,
        operation: Operation,
        checkpointer: &Checkpointer,
        tasks: u32,
        calls: Vec<Call>,
    ) -> Result<Sample> {
        // The arguments are dropped after the usage has been read.
        let calls: Arc<[Call]> = calls.into();
        let before = self.meter.usage().await?;
        let mut running: JoinSet<Result<u64>> = (0..tasks as usize)
            .map(|task| {
                let (checkpointer, calls) = (checkpointer.clone(), Arc::clone(&calls));
                async move {
                    let mut count = 0;
                    for call in calls.iter().skip(task).step_by(tasks as usize) {
                        count += call.make(&checkpointer).await?;
                    }
                    Ok(count)
                }
            })
            .collect();
        let mut count = 0;
        while let Some(result) = running.join_next().await {
            count += result??;
        }
        let usage = self.meter.usage().await?.since(before, count);
        ensure!(count >= calls.len() as u64, "{} found only {count} checkpoints", operation.name());
        Ok(Sample { operation, tasks, count, usage })
    }
}

/// Combines the samples of each operation over the rounds.
fn costs(samples: &[Sample]) -> Vec<Cost> {
    let mut costs: Vec<Cost> = Vec::new();
    for first in samples {
        let is_same = |operation, tasks| (operation, tasks) == (first.operation, first.tasks);
        if costs.iter().any(|cost| is_same(cost.operation, cost.tasks)) {
            continue;
        }
        let rounds: Vec<_> = samples.iter().filter(|it| is_same(it.operation, it.tasks)).collect();
        let quartiles = |value: fn(&Usage) -> f64| {
            Quartiles::new(&rounds.iter().map(|sample| value(&sample.usage)).collect::<Vec<_>>())
        };
        costs.push(Cost {
            operation: first.operation,
            tasks: first.tasks,
            count: first.count,
            host: quartiles(|usage| usage.host),
            redis: quartiles(|usage| usage.redis),
            bytes: quartiles(|usage| usage.bytes).median,
        });
    }
    costs
}
