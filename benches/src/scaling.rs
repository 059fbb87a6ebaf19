//! The processor time of operations and the memory of checkpoints as the stored
//! data grows, and the capacity of a cluster that follows from them.
//!
//! - [`population`]: the checkpoints that are stored during a measurement.
//! - [`servers`]: the servers that store them.
//! - [`meter`]: processor time, network traffic and memory.
//! - [`measurement`]: the measurement of a population.
//! - [`tables`]: the tables of SCALING.md, computed from the figures alone.

use serde::{Deserialize, Serialize};

use crate::report::Machine;
use crate::statistics::Quartiles;
use population::Population;

pub mod measurement;
pub mod meter;
pub mod population;
pub mod servers;
pub mod tables;

/// All figures of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// The machine and the server.
    pub machine: Machine,
    /// The day of the run, such as `2026-01-31`.
    pub date: String,
    /// The number of rounds and calls.
    pub effort: Effort,
    /// The figures of each population.
    pub measured: Vec<Measured>,
}

/// The number of rounds and calls of a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Effort {
    /// The rounds per operation.
    pub rounds: u32,
    /// The calls per round of short operations.
    pub calls: u32,
}

/// The figures of a population.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The population.
    pub population: Population,
    /// The memory of Redis per checkpoint, including its state and its part of all
    /// indexes.
    pub bytes_per_checkpoint: f64,
    /// The costs of the operations.
    pub costs: Vec<Cost>,
}

/// The mean cost of an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// The operation.
    pub operation: Operation,
    /// The number of concurrent tasks.
    pub tasks: u32,
    /// The calls per round, or the checkpoints that they delete.
    pub count: u64,
    /// Processor time of this process in microseconds.
    pub host: Quartiles,
    /// Processor time of Redis in microseconds, without replicas.
    pub redis: Quartiles,
    /// Bytes that Redis receives and sends, without replication.
    pub bytes: f64,
}

/// A measured operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Saves a new checkpoint.
    Save,
    /// Loads the latest checkpoint of a session.
    Latest,
    /// Loads a checkpoint by its id.
    Load,
    /// Lists the ten newest checkpoints of a session.
    List,
    /// Deletes a checkpoint.
    DeleteCheckpoint,
    /// Saves into a session that has as many checkpoints as it may keep.
    SaveAtLimit,
    /// Saves into a session with a session TTL.
    SaveWithSessionTtl,
    /// Deletes a session; the cost is per checkpoint.
    DeleteSession,
    /// Deletes everything under the prefix; the cost is per checkpoint.
    ClearAll,
}

impl Operation {
    /// Operations on a bounded number of checkpoints. The order restores the
    /// population: the last deletes the checkpoints that the save added.
    pub const BOUNDED: [Self; 5] = [Self::Latest, Self::Load, Self::List, Self::Save, Self::DeleteCheckpoint];

    /// The bounded operations that are also measured without concurrency.
    pub const SEQUENTIAL: [Self; 3] = [Self::Latest, Self::Save, Self::DeleteCheckpoint];

    /// Operations that delete many checkpoints.
    pub const DELETIONS: [Self; 2] = [Self::DeleteSession, Self::ClearAll];

    /// Saves that read all checkpoints of the session.
    pub const WHOLE_SESSION: [Self; 2] = [Self::SaveAtLimit, Self::SaveWithSessionTtl];

    /// The name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Latest => "latest",
            Self::Load => "load",
            Self::List => "list(10)",
            Self::DeleteCheckpoint => "delete checkpoint",
            Self::SaveAtLimit => "save at `max_checkpoints`",
            Self::SaveWithSessionTtl => "save with `session_ttl`",
            Self::DeleteSession => "delete session",
            Self::ClearAll => "clear all",
        }
    }
}
