//! The library as it is released, one call at a time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use checkpointer::{Checkpoint, Checkpointer, History, HistoryQuery, SaveOutcome};
use tokio::runtime::Runtime;

/// A checkpointer and the runtime that drives it.
pub struct Library<'a> {
    runtime: &'a Runtime,
    checkpointer: Checkpointer,
}

impl<'a> Library<'a> {
    /// Opens a checkpointer over the store at `url`, with a TTL if given.
    ///
    /// # Errors
    /// The store can't be opened.
    pub fn open(runtime: &'a Runtime, url: &str, ttl: Option<Duration>) -> Result<Self> {
        let mut builder = Checkpointer::builder();
        if let Some(ttl) = ttl {
            builder = builder.ttl(ttl);
        }
        Ok(Self { runtime, checkpointer: runtime.block_on(builder.open(url))? })
    }

    /// Saves a checkpoint.
    ///
    /// # Errors
    /// The save fails.
    pub fn save(&self, checkpoint: Checkpoint) -> Result<SaveOutcome> {
        Ok(self.runtime.block_on(self.checkpointer.save(checkpoint))?)
    }

    /// Loads the latest checkpoint of a session.
    ///
    /// # Errors
    /// The session has none.
    pub fn latest(&self, session: &str) -> Result<Checkpoint> {
        self.runtime.block_on(self.checkpointer.latest(session))?.context("no checkpoint")
    }

    /// Lists the newest checkpoints of a session.
    ///
    /// # Errors
    /// The session has fewer than `limit`.
    pub fn list(&self, session: &str, limit: u32) -> Result<History> {
        let query = HistoryQuery::new(session).limit(limit);
        let history = self.runtime.block_on(self.checkpointer.list(query))?;
        ensure!(history.checkpoints.len() == limit as usize, "{} checkpoints", history.checkpoints.len());
        Ok(history)
    }
}
