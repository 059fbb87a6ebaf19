//! What an operation costs of processors, and a checkpoint of memory, as what is
//! stored grows; and what follows from that for a cluster.
//!
//! - [`population`]: what is stored when something is measured.
//! - [`servers`]: the places where it is.
//! - [`meter`]: what the processors did.
//! - [`measurement`]: a population from the first save to the last delete.
//! - [`tables`]: the tables of SCALING.md, which follow from the figures alone.

use serde::{Deserialize, Serialize};

use crate::report::Machine;
use crate::statistics::Spread;
use population::Population;

pub mod measurement;
pub mod meter;
pub mod population;
pub mod servers;
pub mod tables;

/// All figures of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Where they were measured.
    pub machine: Machine,
    /// On which day, such as `2026-01-31`.
    pub date: String,
    /// How much was done for each.
    pub effort: Effort,
    /// What was measured.
    pub measured: Vec<Measured>,
}

/// How much is done.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Effort {
    /// How often, to see how figures vary.
    pub rounds: u32,
    /// How many calls in a round, where they are short.
    pub calls: u32,
}

/// What was measured of a population.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// What was stored.
    pub population: Population,
    /// How much memory Redis needs for each checkpoint, its state and its part of
    /// all indexes included.
    pub bytes_per_checkpoint: f64,
    /// What the operations cost.
    pub costs: Vec<Cost>,
}

/// What an operation costs, on average over many of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Which one.
    pub operation: Operation,
    /// How many tasks do it at once.
    pub tasks: u32,
    /// How many there are in a round, or how many checkpoints they remove.
    pub count: u64,
    /// Processor time of this process, in microseconds.
    pub host: Spread,
    /// Processor time of Redis, in microseconds; without that of replicas.
    pub redis: Spread,
    /// How many bytes Redis gets and sends, but for what replicas get.
    pub bytes: f64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// The save of a new checkpoint.
    Save,
    /// The latest checkpoint of a session.
    LoadLatest,
    /// A checkpoint by its id.
    LoadById,
    /// The ten newest of a session.
    List,
    /// One checkpoint by its id.
    Delete,
    /// A save into a session that has as many checkpoints as it may have.
    SaveWithinLimit,
    /// A save into a session that lives as a whole.
    SaveOfSession,
    /// All of a session; of each checkpoint.
    DeleteSession,
    /// All under the prefix; of each checkpoint.
    ClearAll,
}

impl Operation {
    /// Those that are called once for each checkpoint, in an order that leaves
    /// what there was before.
    pub const SINGLE: [Self; 5] = [Self::LoadLatest, Self::LoadById, Self::List, Self::Save, Self::Delete];

    /// Those of them that are measured one call at a time, too, in such an order.
    pub const ONE_AT_A_TIME: [Self; 3] = [Self::LoadLatest, Self::Save, Self::Delete];

    /// Those whose cost is that of each checkpoint that they remove.
    pub const REMOVALS: [Self; 2] = [Self::DeleteSession, Self::ClearAll];

    /// Saves that look at all checkpoints of the session.
    pub const OF_ALL: [Self; 2] = [Self::SaveWithinLimit, Self::SaveOfSession];

    /// The operation in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::LoadLatest => "load latest",
            Self::LoadById => "load by id",
            Self::List => "list(10)",
            Self::Delete => "delete by id",
            Self::SaveWithinLimit => "save at `max_checkpoints`",
            Self::SaveOfSession => "save with `session_ttl`",
            Self::DeleteSession => "delete a session",
            Self::ClearAll => "clear-all",
        }
    }
}
