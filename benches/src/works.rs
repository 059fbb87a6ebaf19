//! What is measured: a file for each group of rows, with the targets.

use anyhow::Result;

use crate::bench::Bench;
use crate::report::Finding;

mod cold_start;
mod instance;
mod langgraph;
mod llmfy;
mod memory;
mod million;
mod plugin;
mod sandbox;
mod tasks;

/// Some rows that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// What `--only` calls it.
    pub name: &'static str,
    /// Measures it.
    pub measure: fn(&Bench) -> Result<Vec<Finding>>,
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

/// What rows call the library.
const LIBRARY: &str = "library";

/// The session that new checkpoints are saved in.
const NEW: u32 = 1;

/// The session that is read.
const READ: u32 = 2;
