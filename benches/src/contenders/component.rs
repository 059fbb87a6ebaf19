//! The library as it is shipped, a call at a time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use checkpointer::{Checkpoint, Checkpointer, History, Outcome};
use tokio::runtime::Runtime;

/// A checkpointer and the runtime that drives it.
pub struct Component<'a> {
    runtime: &'a Runtime,
    checkpointer: Checkpointer,
}

impl<'a> Component<'a> {
    /// Opens one over the store at `address`; what is saved goes away after `ttl`.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(runtime: &'a Runtime, address: &str, ttl: Option<Duration>) -> Result<Self> {
        let mut builder = Checkpointer::builder();
        if let Some(ttl) = ttl {
            builder = builder.ttl(ttl);
        }
        Ok(Self { runtime, checkpointer: runtime.block_on(builder.open(address))? })
    }

    /// Saves a checkpoint.
    ///
    /// # Errors
    /// It is not saved.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<Outcome> {
        Ok(self.runtime.block_on(self.checkpointer.save(checkpoint))?)
    }

    /// Loads the latest checkpoint of a session.
    ///
    /// # Errors
    /// There is none.
    pub fn load(&self, session: &str) -> Result<Checkpoint> {
        self.runtime.block_on(self.checkpointer.load(session, None))?.context("no checkpoint")
    }

    /// Lists the newest checkpoints of a session.
    ///
    /// # Errors
    /// There are not so many.
    pub fn list(&self, session: &str, limit: u32) -> Result<History> {
        let history = self.runtime.block_on(self.checkpointer.list(session, Some(limit)))?;
        ensure!(history.checkpoints.len() == limit as usize, "{} checkpoints", history.checkpoints.len());
        Ok(history)
    }
}
