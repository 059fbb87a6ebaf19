//! The benchmarks with their targets, one file per group of rows.

use anyhow::Result;

use crate::bench::Bench;
use crate::report::Row;

mod cold_start;
mod instance;
mod langgraph;
mod llmfy;
mod memory;
mod million;
mod plugin;
mod sandbox;
mod tasks;

/// Rows that are measured together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The name for `--only`.
    pub name: &'static str,
    /// Measures the rows.
    pub measure: fn(&Bench) -> Result<Vec<Row>>,
}

/// All groups, in the order of the report.
pub const GROUPS: [Group; 9] = [
    Group { name: "sandbox", measure: sandbox::measure },
    Group { name: "tasks", measure: tasks::measure },
    Group { name: "llmfy", measure: llmfy::measure },
    Group { name: "langgraph", measure: langgraph::measure },
    Group { name: "million", measure: million::measure },
    Group { name: "memory", measure: memory::measure },
    Group { name: "cold-start", measure: cold_start::measure },
    Group { name: "instance", measure: instance::measure },
    Group { name: "plugin", measure: plugin::measure },
];

/// The name of the library in the report.
const LIBRARY: &str = "library";

/// The session in which new checkpoints are saved.
const NEW: u32 = 1;

/// The session that is read.
const READ: u32 = 2;
