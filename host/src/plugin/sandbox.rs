//! What an instance of a plugin has of the host, and no more than that: its
//! grants, an empty WASI, so much memory, and a log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{Limits, PluginCtx, PluginCtxView, PluginView};

/// Takes what a plugin writes to its standard output and its standard error, bit
/// by bit as it comes.
pub type LogSink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// The interfaces that a plugin may import, by how their names begin. Of WASI it
/// is what languages need to run at all: there are no files, arguments, variables
/// and addresses behind it, only a clock and random numbers.
pub const GIVEN: [&str; 8] = [
    "flow:checkpoint/checkpointer@",
    "flow:checkpoint/types@",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// The data of the store of an instance.
pub struct Ctx {
    plugin: PluginCtx,
    wasi: WasiCtx,
    table: ResourceTable,
    pub memory: Memory,
}

impl Ctx {
    /// What a run has, with a WASI that gives nothing but what it is told to.
    pub fn new(plugin: PluginCtx, limits: &Limits, log: Option<LogSink>) -> Self {
        let log =
            Log { left: Arc::new(AtomicUsize::new(limits.log_bytes)), limit: limits.log_bytes, sink: log };
        let mut wasi = WasiCtx::builder();
        wasi.stdout(log.clone()).stderr(log).max_random_size(limits.max_bytes_per_call as u64);
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        let memory = Memory { limits: limits.clone(), used: 0, is_over: false };
        Self { plugin, wasi: wasi.build(), table, memory }
    }
}

/// Adds all that a plugin may import.
pub fn add_all_to_linker(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    super::add_to_linker(linker)?;
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

impl PluginView for Ctx {
    fn plugin(&mut self) -> PluginCtxView<'_> {
        PluginCtxView { ctx: &mut self.plugin, table: &mut self.table }
    }
}

impl WasiView for Ctx {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Keeps to the limit of memory, over all memories and tables of an instance, and
/// to the numbers of these.
pub struct Memory {
    limits: Limits,
    used: usize,
    /// Whether it ever wanted more.
    pub is_over: bool,
}

impl Memory {
    fn grow(&mut self, bytes: usize) -> bool {
        let fits = self.used.checked_add(bytes).is_some_and(|used| used <= self.limits.memory);
        if fits {
            self.used += bytes;
        } else {
            self.is_over = true;
        }
        fits
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, now: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(now)))
    }

    fn table_growing(&mut self, now: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(now).saturating_mul(size_of::<usize>())))
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}

/// A plugin wrote more than it may.
#[derive(Debug, Error)]
#[error("the plugin wrote more than the {0} bytes of log it may")]
pub struct LogIsFull(pub usize);

/// The standard output and the standard error of a plugin, which have one limit
/// together.
#[derive(Clone)]
struct Log {
    left: Arc<AtomicUsize>,
    limit: usize,
    sink: Option<LogSink>,
}

/// How much may be written at a time.
const CHUNK: usize = 4096;

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // That is for WASI 0.3, which a plugin is not given.
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
        let take = |left: usize| left.checked_sub(bytes.len());
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(StreamError::Trap(LogIsFull(self.limit).into()));
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
        Ok(CHUNK)
    }
}
