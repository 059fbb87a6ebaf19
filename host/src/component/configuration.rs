//! How the component is compiled: the build script and the library must agree
//! on it, or the compiled code is refused.

use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How many instances one process has at the most, over all checkpointers.
pub const INSTANCES: u32 = 256;

/// Whose calls an engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The application itself, which waits for its own call.
    Application,
    /// Somebody whom the application does not trust: a call of his can be
    /// interrupted while it computes, for which the code looks at a counter in
    /// every loop.
    #[cfg(feature = "plugins")]
    Plugin,
}

/// The configuration of the engine for calls of `caller`.
pub fn configuration(caller: Caller) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        // Beside the guest's own module, the encoder adds two small ones that
        // tie it to its imports, with a table between them.
        .total_core_instances(3 * INSTANCES)
        .total_memories(INSTANCES)
        .total_tables(2 * INSTANCES)
        .total_stacks(INSTANCES)
        .max_memories_per_module(1)
        .max_tables_per_module(1)
        // What a state of the usual size needs stays mapped between calls.
        .linear_memory_keep_resident(512 * 1024);
    let mut config = Config::new();
    config.epoch_interruption(caller != Caller::Application);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
