//! How the component is compiled: the build script and the library must agree
//! on it, or the compiled code is refused.

use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How many instances one process has at the most, over all checkpointers.
pub const INSTANCES: u32 = 256;

/// The configuration of the engine.
pub fn configuration() -> Config {
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
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
