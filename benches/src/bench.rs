//! The server, the runtime and the progress bar that the benchmarks share.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use checkpointer::Checkpointer;
use checkpointer_tests::redis_server::RedisServer;
use indicatif::ProgressBar;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::states;
use crate::subjects::python::Python;

/// The environment of the benchmarks.
///
/// The runtime has one thread and drives every subject that makes one call at a
/// time. A handover between threads would cost more than the differences between
/// the subjects.
pub struct Bench {
    /// The server that all subjects share.
    pub server: RedisServer,
    /// A folder on disk, deleted on drop.
    pub folder: TempDir,
    /// The progress of the current benchmark.
    pub progress: ProgressBar,
    /// Whether to run few rounds.
    pub quick: bool,
    /// The runtime.
    pub runtime: Runtime,
}

impl Bench {
    /// Builds the measured programs with cargo and starts a server.
    ///
    /// # Errors
    /// A program can't be built, or a folder or the runtime can't be created.
    pub fn new(quick: bool, progress: ProgressBar) -> Result<Self> {
        progress.set_message("building the programs");
        build_programs()?;
        std::fs::create_dir_all(target())?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // A server of its own has no load but the measured calls.
        let server = runtime.block_on(RedisServer::start());
        Ok(Self { server, folder: TempDir::new_in(target())?, progress, quick, runtime })
    }

    /// The number of rounds to run: `full`, or a tenth of it in a quick run.
    pub fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10) } else { full }
    }

    /// Shows the name of the benchmark that begins.
    pub fn begin(&self, benchmark: &str) {
        self.progress.set_message(benchmark.to_owned());
    }

    /// Deletes all keys of the server. The scripts stay loaded.
    pub fn flush(&self) {
        self.runtime.block_on(self.server.command::<()>(&["FLUSHALL", "SYNC"]));
    }

    /// Saves the checkpoints of a session with these numbers to the store at `url`.
    ///
    /// # Errors
    /// The store fails.
    pub fn fill(&self, url: &str, session: u32, numbers: Range<u32>, state: &str) -> Result<()> {
        self.runtime.block_on(async {
            let checkpointer = Checkpointer::open(url).await?;
            for checkpoint in states::checkpoints(session, numbers, state) {
                checkpointer.save(checkpoint).await?;
            }
            Ok(())
        })
    }

    /// The URL of the SQLite database with this name.
    pub fn sqlite(&self, name: &str) -> String {
        format!("sqlite:{}", self.folder.path().join(name).display())
    }

    /// Installs and starts the Python savers.
    ///
    /// # Errors
    /// They can't be installed or started.
    pub fn python(&self) -> Result<Python> {
        self.begin("installing llmfy and LangGraph");
        Python::start(&self.server.url(), self.folder.path())
    }
}

/// The root folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The folder for generated files of the benchmarks.
pub fn target() -> PathBuf {
    root().join("target/benches")
}

/// The path of a program that [`Bench::new`] builds.
///
/// # Errors
/// The path of the running program is unknown.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// The cargo that runs this program, or else the one on the path.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn build_programs() -> Result<()> {
    // Building both packages at once selects the same features of all dependencies
    // as the build of this program, so only the programs themselves are built.
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
        .context("cargo can't be started")?;
    ensure!(status.success(), "the measured programs could not be built");
    Ok(())
}
