//! Where an interrupted copy goes on: a small file in a folder of this user's.
//!
//! It is named by a hash of both places and says nothing of them. A wrong one loses
//! nothing: what a copy passes over for it, the next pass finds. `--restart` does
//! without it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How long it may be behind.
const BEHIND: Duration = Duration::from_secs(1);

pub struct Bookmark {
    /// None where this user has no place for it.
    path: Option<PathBuf>,
    written_at: Option<Instant>,
}

/// What is in the file.
#[derive(Deserialize, Serialize)]
struct Content {
    /// Where to go on.
    after: String,
    /// How many checkpoints are before that.
    checkpoints: u64,
}

impl Bookmark {
    /// That of the copies between these places.
    pub fn of(from: &str, to: &str) -> Self {
        let folder = std::env::var_os("CHECKPOINTER_STATE")
            .map(PathBuf::from)
            .or_else(|| Some(dirs::state_dir().or_else(dirs::data_local_dir)?.join("checkpointer")));
        let hash = Sha256::digest(format!("{from}\0{to}"));
        let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { path: folder.map(|folder| folder.join("copies").join(name + ".json")), written_at: None }
    }

    /// Where to go on, and how many checkpoints are before that.
    pub fn read(&self) -> Option<(String, u64)> {
        let path = self.path.as_ref()?;
        is_ours(path).ok()?;
        let Content { after, checkpoints } = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some((after, checkpoints))
    }

    /// Keeps the place, unless that was just done.
    pub fn write_now_and_then(&mut self, after: &str, checkpoints: u64) {
        if self.written_at.is_some_and(|at| at.elapsed() < BEHIND) {
            return;
        }
        self.written_at = Some(Instant::now());
        if let Err(error) = self.write(after, checkpoints) {
            tracing::warn!(%error, "if it is interrupted, the copy will begin again");
        }
    }

    /// Keeps the place. Others find the whole file or none.
    pub fn write(&self, after: &str, checkpoints: u64) -> io::Result<()> {
        let path = self.path.as_ref().ok_or_else(|| io::Error::other("there is no folder for it"))?;
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
            is_ours(folder)?;
        }
        let half = path.with_extension(format!("{}.half", std::process::id()));
        let content = serde_json::to_vec(&Content { after: after.to_owned(), checkpoints })?;
        let written = make_file(&half).and_then(|mut file| file.write_all(&content));
        written.and_then(|()| fs::rename(&half, path)).inspect_err(|_| {
            let _ = fs::remove_file(&half);
        })
    }

    pub fn remove(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
        self.written_at = None;
    }
}

/// A folder that nobody else may look into.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

/// A new file that nobody else may read.
fn make_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create(true).truncate(true).open(path)
}

/// That a file or folder is one that only this user can change.
#[cfg(unix)]
fn is_ours(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::symlink_metadata(path)?;
    let is_own = found.uid() == rustix::process::geteuid().as_raw();
    if is_own && !found.is_symlink() && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!("{} may be changed by others", path.display())))
}

#[cfg(not(unix))]
fn is_ours(_: &Path) -> io::Result<()> {
    Ok(())
}
