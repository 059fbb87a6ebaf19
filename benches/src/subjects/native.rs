//! The logic of the component compiled natively over the same stores. Compared
//! with the library, the difference is the price of the sandbox.
//!
//! The logic is synchronous and the stores are not. In the component, a fiber
//! connects them. Here each call of a store is one `block_on`, on a runtime with
//! the caller's thread as its only one: no thread hands over to another, no task
//! is spawned, and the connection is driven within the same `block_on`. The other
//! subjects need one `block_on` per call too.
//!
//! Host and guest have separate types generated from the same WIT, so arguments
//! are converted. Owned arguments are moved. Borrowed ones are copied once, as
//! every store would have to copy a document.

use anyhow::{Context, Result, anyhow, ensure};
use checkpointer::store::StoreUrl;
use checkpointer_guest as guest;
use checkpointer_tests::native::BlockingStore;
use tokio::runtime::Runtime;

/// The guest's checkpointer over a store of the host.
pub struct Native<'a> {
    checkpointer: guest::Checkpointer<BlockingStore<&'a Runtime>>,
}

impl<'a> Native<'a> {
    /// Opens a checkpointer over the store at `url`.
    ///
    /// # Errors
    /// The store can't be opened.
    pub fn open(runtime: &'a Runtime, url: &str) -> Result<Self> {
        let url: StoreUrl = url.parse()?;
        let store = runtime.block_on(url.open())?;
        let options = guest::Options {
            bucket: "default".to_owned(),
            prefix: None,
            layout: guest::Layout::Llmfy,
            ttl: None,
            max_state_bytes: None,
            compress: false,
            max_checkpoints: None,
            extra: Vec::new(),
        };
        let checkpointer = guest::Checkpointer::open(BlockingStore { store, runtime }, &options);
        Ok(Self { checkpointer: checkpointer.map_err(failed)? })
    }

    /// Saves a checkpoint.
    ///
    /// # Errors
    /// The save fails.
    pub fn save(&self, checkpoint: guest::Checkpoint) -> Result<guest::SaveOutcome> {
        self.checkpointer.save(checkpoint).map_err(failed)
    }

    /// Loads the latest checkpoint of a session.
    ///
    /// # Errors
    /// The session has none.
    pub fn latest(&self, session: &str) -> Result<guest::Checkpoint> {
        self.find_latest(session)?.context("no checkpoint")
    }

    /// Loads the latest checkpoint of a session; none if the session has none.
    ///
    /// # Errors
    /// The store fails.
    pub fn find_latest(&self, session: &str) -> Result<Option<guest::Checkpoint>> {
        self.checkpointer.latest(session).map_err(failed)
    }

    /// Lists the newest checkpoints of a session.
    ///
    /// # Errors
    /// The session has fewer than `limit`.
    pub fn list(&self, session: &str, limit: u32) -> Result<guest::History> {
        let query = guest::HistoryQuery {
            session_id: session.to_owned(),
            run_id: None,
            limit: Some(limit),
            extra: Vec::new(),
        };
        let history = self.checkpointer.list(&query).map_err(failed)?;
        ensure!(history.checkpoints.len() == limit as usize, "{} checkpoints", history.checkpoints.len());
        Ok(history)
    }
}

fn failed(error: guest::Error) -> anyhow::Error {
    anyhow!("{error:?}")
}
