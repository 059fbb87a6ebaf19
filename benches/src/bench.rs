//! What all works share.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use checkpointer::Checkpointer;
use checkpointer_tests::redis_server::RedisServer;
use indicatif::ProgressBar;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::contenders::python::Python;
use crate::states;

/// A server, a place for files, and a runtime of one thread, on which every
/// contender is driven that is measured one call at a time: nothing is handed
/// from thread to thread then, which would cost all of them more than there is
/// to be seen.
pub struct Bench {
    /// The server that all share.
    pub server: RedisServer,
    /// A folder on disk, gone with this.
    pub folder: TempDir,
    /// How far a work is.
    pub progress: ProgressBar,
    /// Whether few rounds have to do.
    pub quick: bool,
    /// The runtime.
    pub runtime: Runtime,
}

impl Bench {
    /// Starts a server, and has cargo build the programs that are measured.
    ///
    /// # Errors
    /// Something can't be built or made.
    pub fn new(quick: bool, progress: ProgressBar) -> Result<Self> {
        progress.set_message("building the programs");
        build_programs()?;
        std::fs::create_dir_all(target())?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // Redis is to have no work but what is measured.
        let server = runtime.block_on(RedisServer::start());
        Ok(Self { server, folder: TempDir::new_in(target())?, progress, quick, runtime })
    }

    /// So many rounds, or few of them if that has to do.
    pub fn rounds(&self, many: usize) -> usize {
        if self.quick { many.div_ceil(10) } else { many }
    }

    /// Says what is being measured.
    pub fn begin(&self, work: &str) {
        self.progress.set_message(work.to_owned());
    }

    /// Empties the server. The scripts that it knows stay.
    pub fn flush(&self) {
        self.runtime.block_on(self.server.command::<()>(&["FLUSHALL", "SYNC"]));
    }

    /// Saves checkpoints of a session, by their numbers, to the store at
    /// `address`.
    ///
    /// # Errors
    /// The store fails.
    pub fn fill(&self, address: &str, session: u32, numbers: Range<u32>, state: &str) -> Result<()> {
        self.runtime.block_on(async {
            let checkpointer = Checkpointer::open(address).await?;
            for checkpoint in states::checkpoints(session, numbers, state) {
                checkpointer.save(&checkpoint).await?;
            }
            Ok(())
        })
    }

    /// The address of a database of this name.
    pub fn sqlite(&self, name: &str) -> String {
        format!("sqlite:{}", self.folder.path().join(name).display())
    }

    /// The Python that has the others, started.
    ///
    /// # Errors
    /// It can't be installed.
    pub fn python(&self) -> Result<Python> {
        self.begin("installing llmfy and LangGraph");
        Python::start(&self.server.url(), self.folder.path())
    }
}

/// The folder of the whole project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where what is made for the benches is kept.
pub fn target() -> PathBuf {
    root().join("target/benches")
}

/// One of the programs that [`Bench::new`] builds.
///
/// # Errors
/// This program itself is nowhere.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// Cargo, as it runs this or as it is found.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn build_programs() -> Result<()> {
    // Both packages at once have the same features of all dependencies as this
    // very program, so only the programs themselves are built.
    let status = cargo()
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "checkpointer",
            "--package",
            "checkpointer-benches",
        ])
        .current_dir(root())
        .status()
        .context("cargo does not run")?;
    ensure!(status.success(), "the programs to measure could not be built");
    Ok(())
}
