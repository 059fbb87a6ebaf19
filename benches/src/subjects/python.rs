//! Savers for Python: llmfy and LangGraph, in a process of their own. It reads one
//! request per line and measures each call itself, so the times do not include the
//! pipe.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::bench::target;
use crate::statistics::Quartiles;

/// A Python process with all savers open. Dropping it kills the process.
pub struct Python {
    child: Child,
    requests: ChildStdin,
    responses: BufReader<ChildStdout>,
}

/// A saver.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Saver {
    /// llmfy's `RedisCheckpointer`, with a TTL.
    Llmfy,
    /// LangGraph's `AsyncValkeySaver`.
    Valkey,
    /// LangGraph's `AsyncSqliteSaver`, in a file.
    Sqlite,
}

impl Saver {
    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llmfy => "llmfy",
            Self::Valkey => "AsyncValkeySaver",
            Self::Sqlite => "AsyncSqliteSaver",
        }
    }
}

/// A request to make calls and measure them.
#[derive(Clone, Debug, Serialize)]
pub struct Request<'a> {
    /// The saver to call.
    pub saver: Saver,
    /// The number of the session.
    pub session: u32,
    /// The number of calls.
    pub count: usize,
    /// The method to call.
    #[serde(flatten)]
    pub operation: Operation<'a>,
}

/// A method of a saver.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "operation", rename_all = "lowercase")]
pub enum Operation<'a> {
    /// Saves new checkpoints with this state, given as JSON and passed to the saver
    /// as parsed JSON.
    Save {
        /// The state.
        state: &'a str,
    },
    /// Loads the latest checkpoint; not with llmfy.
    Latest,
    /// Lists the newest checkpoints; only with llmfy.
    List {
        /// The number of checkpoints.
        limit: u32,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Response {
    Nanoseconds(Vec<f64>),
    Error(String),
}

impl Python {
    /// Starts a process over the Redis at `url` and a database in `folder`. Installs
    /// its packages, if they are missing.
    ///
    /// # Errors
    /// Python with `venv` is missing, or the packages can't be installed.
    pub fn start(url: &str, folder: &Path) -> Result<Self> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let environment = target().join("python");
        install(&environment, &peers.join("requirements.txt"))?;
        let mut child = Command::new(environment.join("bin/python"))
            .arg(peers.join("peers.py"))
            .arg(url)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the Python of the venv can't be started")?;
        let requests = child.stdin.take().context("the process has no standard input")?;
        let responses = BufReader::new(child.stdout.take().context("the process has no standard output")?);
        Ok(Self { child, requests, responses })
    }

    /// Makes the calls and returns the median time of one in nanoseconds.
    ///
    /// # Errors
    /// A call failed.
    pub fn call_time(&mut self, request: &Request) -> Result<f64> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.requests.write_all(line.as_bytes())?;
        line.clear();
        self.responses.read_line(&mut line)?;
        match serde_json::from_str(&line).with_context(|| format!("invalid response of Python: {line:?}"))? {
            Response::Nanoseconds(times) => Ok(Quartiles::new(&times).median),
            Response::Error(traceback) => bail!("{}: {traceback}", request.saver.name()),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates a virtual environment with exactly these packages.
fn install(environment: &Path, requirements: &Path) -> Result<()> {
    let required = std::fs::read_to_string(requirements)?;
    // Written last: an interrupted installation has no such file.
    let marker = environment.join("installed.txt");
    if std::fs::read_to_string(&marker).is_ok_and(|installed| installed == required) {
        return Ok(());
    }
    let run = |command: &mut Command, name: &str| {
        let status = command.status().with_context(|| format!("{name} can't be started"))?;
        ensure!(status.success(), "{name} failed");
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment), "python3 -m venv")?;
    run(
        Command::new(environment.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(requirements),
        "pip install",
    )?;
    Ok(std::fs::write(&marker, required)?)
}
