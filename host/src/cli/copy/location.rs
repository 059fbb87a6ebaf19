//! The source or the target of a copy.

use std::fmt;
use std::fs;
use std::path::absolute;
use std::time::Duration;

use anyhow::{Context, Result};
use checkpointer::store::StoreUrl;
use checkpointer::{Checkpointer, Error, Retry};

use super::super::UsageError;
use super::super::options::Layout;

/// The attempts of each call. Their backoffs add up to at least 6 seconds, enough
/// for a server to restart.
const ATTEMPTS: usize = 7;

/// The store, prefix and layout of checkpoints.
pub struct Location {
    url: StoreUrl,
    prefix: String,
    layout: Layout,
}

impl Location {
    pub fn new(url: &str, prefix: &str, layout: Layout) -> Result<Self> {
        let mut url: StoreUrl = url.parse().map_err(Error::from)?;
        match &mut url {
            StoreUrl::Memory => {
                let message = "memory: is lost when this process ends; copy between other stores";
                return Err(UsageError(message.to_owned()).into());
            }
            // Links and relative paths name the same file.
            StoreUrl::Sqlite(path) => *path = fs::canonicalize(&path).unwrap_or(absolute(&path)?),
            _ => {}
        }
        Ok(Self { url, prefix: prefix.to_owned(), layout })
    }

    /// Whether the location is a file that does not exist.
    pub fn is_missing_file(&self) -> bool {
        matches!(&self.url, StoreUrl::Sqlite(path) if !path.exists())
    }

    pub async fn open(&self) -> Result<Checkpointer> {
        // Documents are copied as they are stored: without a size limit, and
        // without decompression.
        let builder = Checkpointer::builder()
            .prefix(&self.prefix)
            .layout(self.layout.into())
            .max_state_bytes(u64::MAX)
            .retry(Retry::new(ATTEMPTS).max_backoff(Duration::from_secs(3)));
        let open = async { builder.open_store(self.url.open().await?).await };
        open.await.with_context(|| self.to_string())
    }
}

/// Contains no credentials, so that two locations with equal text are the same.
impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, prefix, layout } = self;
        write!(formatter, "{url} (prefix {prefix:?}, layout {})", layout.name())
    }
}
