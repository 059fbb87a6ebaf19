//! The limits of the memories and tables of a wasmtime store.

use wasmtime::{ResourceLimiter, Result};

/// Limits and counts the bytes of all memories and tables of a wasmtime store
/// together, and limits their numbers.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    /// The most bytes of memories and tables.
    pub max_bytes: usize,
    /// The most core module instances.
    pub max_instances: usize,
    /// The most tables.
    pub max_tables: usize,
    /// The most memories.
    pub max_memories: usize,
    /// The bytes in use.
    pub used_bytes: usize,
    /// Whether growth beyond `max_bytes` was ever refused.
    pub is_exceeded: bool,
}

impl MemoryLimiter {
    /// A limit of bytes, and no limit of numbers.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            max_instances: usize::MAX,
            max_tables: usize::MAX,
            max_memories: usize::MAX,
            used_bytes: 0,
            is_exceeded: false,
        }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used_bytes.saturating_add(desired.saturating_sub(current));
        let fits = used <= self.max_bytes;
        if fits {
            self.used_bytes = used;
        }
        self.is_exceeded |= !fits;
        fits
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(size_of::<usize>());
        Ok(self.grow(bytes(current), bytes(desired)))
    }

    fn instances(&self) -> usize {
        self.max_instances
    }

    fn tables(&self) -> usize {
        self.max_tables
    }

    fn memories(&self) -> usize {
        self.max_memories
    }
}
