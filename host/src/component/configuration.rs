//! How the component is compiled: the build script and the library must agree
//! on it, or the compiled code is refused.

use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How many instances one process has at the most, over all checkpointers.
pub const INSTANCES: u32 = 256;

/// The configuration of the engine.
pub fn configuration() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(INSTANCES)
        .total_memories(INSTANCES)
        .total_tables(INSTANCES)
        .total_stacks(INSTANCES)
        .max_memories_per_module(1)
        .max_tables_per_module(1)
        // What a state of the usual size needs stays mapped between calls.
        .linear_memory_keep_resident(512 * 1024);
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
