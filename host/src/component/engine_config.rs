//! The configuration of the engines. The build script includes this file: code
//! that was compiled with another configuration can't be loaded.

use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// The maximum number of instances in one process, over all checkpointers of one
/// [`Trust`].
pub(crate) const MAX_INSTANCES: u32 = 256;

/// Whether the callers of an engine are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The application, which waits for its own calls.
    Trusted,
    /// A plugin. A computing call can be interrupted: compiled code checks the
    /// engine's epoch in every loop.
    #[cfg(feature = "plugins")]
    Untrusted,
}

/// The configuration of the engine for callers with this trust.
pub(crate) fn engine_config(trust: Trust) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(MAX_INSTANCES)
        // The encoder adds two small modules to the guest's module, which connect it
        // to its imports, and a table between them.
        .total_core_instances(3 * MAX_INSTANCES)
        .total_memories(MAX_INSTANCES)
        .total_tables(2 * MAX_INSTANCES)
        .total_stacks(MAX_INSTANCES)
        .max_memories_per_module(1)
        .max_tables_per_module(1)
        // The memory for a state of usual size stays mapped between instances.
        .linear_memory_keep_resident(512 * 1024);
    let mut config = Config::new();
    config.epoch_interruption(trust != Trust::Trusted);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
