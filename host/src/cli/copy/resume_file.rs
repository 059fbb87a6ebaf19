//! The position of an interrupted copy, in a small private file.
//!
//! Its name is a hash of source and target. A stale or wrong resume file is
//! harmless: a copy that began in the middle is followed by a pass over
//! everything.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

const WRITE_INTERVAL: Duration = Duration::from_secs(1);

pub struct ResumeFile {
    /// None if the user has no folder for state.
    path: Option<PathBuf>,
    written_at: Option<Instant>,
}

/// The content of the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Position {
    /// The cursor of the next page of the source.
    pub cursor: String,
    /// The number of checkpoints before it.
    pub checkpoints: u64,
}

impl ResumeFile {
    /// The file of the copies from `source` to `target`.
    pub fn new(source: &str, target: &str) -> Self {
        let folder = std::env::var_os("CHECKPOINTER_STATE")
            .map(PathBuf::from)
            .or_else(|| Some(dirs::state_dir().or_else(dirs::data_local_dir)?.join("checkpointer")));
        let hash = Sha256::digest(format!("{source}\0{target}"));
        let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { path: folder.map(|folder| folder.join("copies").join(name + ".json")), written_at: None }
    }

    pub fn read(&self) -> Option<Position> {
        serde_json::from_slice(&fs::read(self.path.as_ref()?).ok()?).ok()
    }

    /// Writes the position, at most once per [`WRITE_INTERVAL`].
    pub fn write_throttled(&mut self, position: &Position) {
        if self.written_at.is_some_and(|at| at.elapsed() < WRITE_INTERVAL) {
            return;
        }
        self.written_at = Some(Instant::now());
        if let Err(error) = self.write(position) {
            tracing::warn!(%error, "can't write the resume file; an interrupted copy will start again");
        }
    }

    /// Writes the position. Readers see the old content or the new one.
    pub fn write(&self, position: &Position) -> io::Result<()> {
        let no_folder = || io::Error::other("the user has no folder for state");
        let path = self.path.as_ref().ok_or_else(no_folder)?;
        let folder = path.parent().ok_or_else(no_folder)?;
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder)?;
        // Only the user can read a temporary file.
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(position)?)?;
        file.persist(path)?;
        Ok(())
    }

    pub fn remove(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
        self.written_at = None;
    }
}
