//! The environment of one run: grants, an empty WASI, a memory limit and a log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncWrite;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{Grants, Limits, PluginCtx, PluginCtxView, PluginView};
use crate::component::memory_limiter::MemoryLimiter;

/// Receives the output of a plugin in chunks.
pub(super) type LogSink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// The data of the wasmtime store of a run.
pub(super) struct RunCtx {
    pub(super) plugin: PluginCtx,
    pub(super) memory: MemoryLimiter,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl RunCtx {
    pub(super) fn new(grants: Grants, limits: &Limits, sink: Option<LogSink>) -> Self {
        let remaining = Arc::new(AtomicUsize::new(limits.max_log_bytes));
        let log = Log { remaining, limit: limits.max_log_bytes, sink };
        let mut wasi = WasiCtx::builder();
        wasi.stdout(log.clone()).stderr(log).max_random_size(limits.max_bytes_per_call as u64);
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.max_handles);
        let memory = MemoryLimiter {
            max_instances: limits.max_instances,
            max_tables: limits.max_tables,
            max_memories: limits.max_memories,
            ..MemoryLimiter::new(limits.max_memory_bytes)
        };
        Self { plugin: PluginCtx::new(grants).limits(limits), memory, wasi: wasi.build(), table }
    }
}

/// Adds all interfaces that a plugin may import.
pub(super) fn add_all_to_linker(linker: &mut Linker<RunCtx>) -> wasmtime::Result<()> {
    super::add_to_linker(linker)?;
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

impl PluginView for RunCtx {
    fn plugin(&mut self) -> PluginCtxView<'_> {
        PluginCtxView { ctx: &mut self.plugin, table: &mut self.table }
    }
}

impl WasiView for RunCtx {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// A plugin wrote more than its limit of log bytes.
#[derive(Debug, Error)]
#[error("the limit of {0} log bytes is exceeded")]
pub(super) struct LogLimitExceeded(pub(super) usize);

/// The standard output and the standard error of a plugin, which share one limit.
#[derive(Clone)]
struct Log {
    remaining: Arc<AtomicUsize>,
    limit: usize,
    sink: Option<LogSink>,
}

/// The most bytes of one write.
const MAX_WRITE_BYTES: usize = 4096;

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 uses this stream, and a plugin has WASI 0.2.
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

#[async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let take = |remaining: usize| remaining.checked_sub(bytes.len());
        if self.remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(StreamError::Trap(LogLimitExceeded(self.limit).into()));
        }
        if let Some(sink) = &self.sink {
            sink(&bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(MAX_WRITE_BYTES)
    }
}
