//! A population from the first save to the last delete.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use checkpointer::{Checkpoint, Checkpointer, Outcome};
use indicatif::ProgressBar;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::meter::{Meter, Usage};
use super::population::{KILOBYTE, Population};
use super::servers::Servers;
use super::{Cost, Effort, Measured, Operation};
use crate::states::{self, Size, session_id, state};
use crate::statistics::Spread;

/// As many as a [`Checkpointer`] takes at once.
const TASKS: u32 = 64;

/// How many checkpoints a list has.
const LISTED: usize = 10;

/// The most bytes of states that the calls of a round move.
const BYTES_TO_MOVE: usize = 128 * 1024 * KILOBYTE;

/// The most sessions that are deleted in a round.
const SESSIONS_TO_DELETE: u32 = 200;

/// Fills servers of its own with a population, and measures what it costs.
///
/// # Errors
/// They can't be started, or a call fails.
pub fn measure(
    runtime: &Runtime,
    population: Population,
    effort: Effort,
    progress: &ProgressBar,
) -> Result<Measured> {
    runtime.block_on(async {
        let servers = Servers::start(population.place).await?;
        let meter = Meter::open(&servers.masters).await?;
        let empty = meter.memory().await?;
        let size = Size { bytes: population.state_bytes, name: "" };
        let state = state(size).into();
        let mut run = Run { servers, meter, population, effort, state, samples: Vec::new() };
        progress.set_length(u64::from(effort.rounds) + 3);
        progress.set_position(0);
        run.fill().await?;
        let bytes = run.meter.memory().await? - empty;
        progress.inc(1);
        run.measure_single(progress).await?;
        for operation in population.others() {
            run.measure_other(*operation).await?;
        }
        Ok(Measured {
            population,
            bytes_per_checkpoint: bytes / f64::from(population.total()),
            costs: costs(&run.samples),
        })
    })
}

/// A call with its arguments, made before it is measured.
enum Call {
    Save(Checkpoint),
    Load(String, Option<String>),
    List(String),
    Delete(String, Option<String>),
    ClearAll,
}

impl Call {
    /// Makes it; says how many checkpoints it removed, or 1.
    async fn make(&self, checkpointer: &Checkpointer) -> Result<u64> {
        match self {
            Self::Save(checkpoint) => {
                let outcome = checkpointer.save(checkpoint).await?;
                ensure!(outcome == Outcome::Kept, "a checkpoint was not kept");
            }
            Self::Load(session, checkpoint) => {
                let loaded = checkpointer.load(session, checkpoint.as_deref()).await?;
                loaded.with_context(|| format!("no checkpoint in {session}"))?;
            }
            Self::List(session) => {
                let history = checkpointer.list(session, None).await?;
                ensure!(history.checkpoints.len() == LISTED, "{} checkpoints", history.checkpoints.len());
            }
            Self::Delete(session, checkpoint) => {
                return Ok(checkpointer.delete(session, checkpoint.as_deref()).await?);
            }
            Self::ClearAll => return Ok(checkpointer.clear_all().await?),
        }
        Ok(1)
    }
}

/// What a round used for each of its operations.
struct Sample {
    operation: Operation,
    tasks: u32,
    count: u64,
    used: Usage,
}

/// A population that is being measured.
struct Run {
    servers: Servers,
    meter: Meter,
    population: Population,
    effort: Effort,
    state: Arc<str>,
    samples: Vec<Sample>,
}

impl Run {
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
                        checkpointer.save(&states::checkpoint(session, number, &state)).await?;
                    }
                    Ok(())
                }
            })
            .collect();
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// What is called once for each checkpoint: by many tasks at once, which is how
    /// a busy service does it, and by one.
    async fn measure_single(&mut self, progress: &ProgressBar) -> Result<()> {
        let checkpointer = self.open(Operation::Save).await?;
        let busy = Operation::SINGLE.map(|operation| (operation, TASKS, self.calls(operation)));
        let idle = Operation::ONE_AT_A_TIME.map(|operation| (operation, 1, self.calls(operation) / 4));
        // A round before the first warms up and does not count.
        for round in 0..=self.effort.rounds {
            for (operation, tasks, calls) in busy.into_iter().chain(idle) {
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

    /// How many calls a round of an operation has; one for each task at least.
    fn calls(&self, operation: Operation) -> u32 {
        let states = if operation == Operation::List { LISTED } else { 1 };
        let most = BYTES_TO_MOVE / (states * self.population.state_bytes);
        self.effort.calls.min(most as u32).max(TASKS)
    }

    /// What is called once for many checkpoints, one call at a time.
    async fn measure_other(&mut self, operation: Operation) -> Result<()> {
        let Population { sessions, checkpoints, .. } = self.population;
        let checkpointer = self.open(operation).await?;
        checkpointer.load(&session_id(sessions - 1), None).await?;
        let half = sessions / 2;
        let (rounds, calls) = match operation {
            Operation::ClearAll => (1, 1),
            Operation::DeleteSession => {
                let rounds = self.effort.rounds.min(half);
                (rounds, (half / rounds).min(SESSIONS_TO_DELETE))
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
        Ok(self.population.builder(operation).open(&self.servers.address).await?)
    }

    /// The call of this number. Those that save give ids that follow on those of
    /// the population, and those that delete one name the same.
    fn call(&self, operation: Operation, index: u32) -> Call {
        let Population { sessions, checkpoints, .. } = self.population;
        // Not one behind the other, as they were saved; each as often as the others.
        let session = (u64::from(index) * 7_919 % u64::from(sessions)) as u32;
        let next = checkpoints + index / sessions;
        let id = |number| states::checkpoint(session, number, "").metadata.checkpoint_id;
        match operation {
            Operation::Save | Operation::SaveWithinLimit | Operation::SaveOfSession => {
                Call::Save(states::checkpoint(session, next, &self.state))
            }
            Operation::LoadLatest => Call::Load(session_id(session), None),
            Operation::LoadById => Call::Load(
                session_id(session),
                Some(id((u64::from(index) * 31 % u64::from(checkpoints)) as u32)),
            ),
            Operation::List => Call::List(session_id(session)),
            Operation::Delete => Call::Delete(session_id(session), Some(id(next))),
            Operation::DeleteSession => Call::Delete(session_id(index), None),
            Operation::ClearAll => Call::ClearAll,
        }
    }

    /// Makes calls, and says what each checkpoint that they were about took.
    async fn sample(
        &self,
        operation: Operation,
        checkpointer: &Checkpointer,
        tasks: u32,
        calls: Vec<Call>,
    ) -> Result<Sample> {
        // What they are given goes when all has been read.
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
        while let Some(ended) = running.join_next().await {
            count += ended??;
        }
        let used = self.meter.usage().await?.since(before, count);
        ensure!(count >= calls.len() as u64, "{} found {count} checkpoints", operation.in_words());
        Ok(Sample { operation, tasks, count, used })
    }
}

/// The samples of each operation, together.
fn costs(samples: &[Sample]) -> Vec<Cost> {
    let mut costs: Vec<Cost> = Vec::new();
    for first in samples {
        let is_same = |operation, tasks| (operation, tasks) == (first.operation, first.tasks);
        if costs.iter().any(|cost| is_same(cost.operation, cost.tasks)) {
            continue;
        }
        let rounds: Vec<_> = samples.iter().filter(|it| is_same(it.operation, it.tasks)).collect();
        let over = |value: fn(&Usage) -> f64| {
            Spread::of(&rounds.iter().map(|sample| value(&sample.used)).collect::<Vec<_>>())
        };
        costs.push(Cost {
            operation: first.operation,
            tasks: first.tasks,
            count: first.count,
            host: over(|used| used.host),
            redis: over(|used| used.redis),
            bytes: over(|used| used.bytes).median,
        });
    }
    costs
}
