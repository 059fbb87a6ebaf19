//! What there is for Python: llmfy and LangGraph's savers, in a process of their
//! own that is told by lines what to do, and itself takes the time of each call,
//! so that nothing of the pipe is in it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::bench::target;
use crate::statistics::Spread;

/// A running Python with all savers open. Dropping it ends it.
pub struct Python {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Which saver is meant.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Saver {
    /// llmfy's `RedisCheckpointer`, with a ttl.
    Llmfy,
    /// LangGraph's `AsyncValkeySaver`.
    Valkey,
    /// LangGraph's `AsyncSqliteSaver`, in a file.
    Sqlite,
}

impl Saver {
    /// What the report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llmfy => "llmfy",
            Self::Valkey => "AsyncValkeySaver",
            Self::Sqlite => "AsyncSqliteSaver",
        }
    }
}

/// What to do, and how often.
#[derive(Clone, Debug, Serialize)]
pub struct Order<'a> {
    /// With whom.
    pub saver: Saver,
    /// In which session.
    pub session: u32,
    /// How many calls.
    pub count: usize,
    /// What.
    #[serde(flatten)]
    pub work: Work<'a>,
}

/// What can be done.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "work", rename_all = "lowercase")]
pub enum Work<'a> {
    /// Save new checkpoints with this state, given as JSON and passed to the
    /// saver as a tree.
    Save {
        /// The state.
        state: &'a str,
    },
    /// Load the latest checkpoint.
    Load,
    /// List the newest checkpoints; only with llmfy.
    List {
        /// How many.
        limit: u32,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Nanoseconds(Vec<f64>),
    Error(String),
}

impl Python {
    /// Starts one over the Redis at `url`, with a database in `folder`, after
    /// installing what it needs if it is not there.
    ///
    /// # Errors
    /// There is no Python with `venv`, or what it needs can't be installed.
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
            .context("the Python of the venv does not run")?;
        let orders = child.stdin.take().context("no way to give orders")?;
        let answers = BufReader::new(child.stdout.take().context("no way to get answers")?);
        Ok(Self { child, orders, answers })
    }

    /// Has something done; gives the median time of a call in nanoseconds.
    ///
    /// # Errors
    /// A call failed.
    pub fn time_of_a_call(&mut self, order: &Order) -> Result<f64> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes())?;
        line.clear();
        self.answers.read_line(&mut line)?;
        match serde_json::from_str(&line).with_context(|| format!("an answer of Python: {line:?}"))? {
            Answer::Nanoseconds(times) => Ok(Spread::of(&times).median),
            Answer::Error(traceback) => bail!("{}: {traceback}", order.saver.name()),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It is gone or goes; there is nothing to be done about the rest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a virtual environment with just these packages.
fn install(environment: &Path, requirements: &Path) -> Result<()> {
    let wanted = std::fs::read_to_string(requirements)?;
    // Written last: an installation that was interrupted has none.
    let mark = environment.join("installed.txt");
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let run = |command: &mut Command, what: &str| {
        let status = command.status().with_context(|| format!("{what} does not run"))?;
        ensure!(status.success(), "{what} failed");
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment), "python3 -m venv")?;
    run(
        Command::new(environment.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(requirements),
        "pip install",
    )?;
    Ok(std::fs::write(&mark, wanted)?)
}
