//! `demo`: an agent's process is killed with SIGKILL while it plans a trip, and
//! a second process resumes from the latest checkpoint.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use checkpointer::store::StoreUrl;
use checkpointer::{Checkpoint, Checkpointer, Metadata, Run};
use serde::{Deserialize, Serialize};

use super::{Options, Status, print};

const STEPS: [(&str, &str); 6] = [
    ("plan", "three days in Lisbon, by train"),
    ("search_trains", "12 connections found"),
    ("book_train", "paid 89.00 EUR, seat 61 in coach 4"),
    ("search_hotels", "9 hotels near the station"),
    ("book_hotel", "paid 240.00 EUR for three nights"),
    ("write_itinerary", "sent to ann@example.com"),
];

/// The agent is killed after it has paid for the train: a restart from the first
/// step would pay twice.
const KILLED_AFTER: usize = 3;

const SESSION: &str = "demo-trip-to-lisbon";

pub async fn run(options: &Options, is_agent: bool, out: &mut impl Write) -> Result<Status> {
    let checkpointer = options.open().await?;
    if is_agent {
        run_agent(&checkpointer, out).await?;
    } else {
        run_story(options, &checkpointer, out).await?;
    }
    Ok(Status::Success)
}

async fn run_story(options: &Options, checkpointer: &Checkpointer, out: &mut impl Write) -> Result<()> {
    let url = options.url()?;
    if url == StoreUrl::Memory {
        bail!("the demo kills a process, and memory: would be lost with it; use sqlite:FILE or redis://…");
    }
    checkpointer.delete_session(SESSION).await?;
    writeln!(out, "An agent books a trip. It saves a checkpoint to {url} after each step.\n")?;
    writeln!(out, "The first process:")?;
    let mut first = start_agent(options)?;
    let lines = BufReader::new(first.stdout.take().context("the agent has no output")?).lines();
    for line in lines.take(KILLED_AFTER) {
        writeln!(out, "  {}", line?)?;
    }
    first.kill().context("can't kill the agent")?;
    first.wait()?;
    writeln!(out, "  ✗ killed (SIGKILL), after it paid for the train\n")?;

    let latest = checkpointer.latest(SESSION).await?.context("no checkpoint was saved")?;
    writeln!(out, "The latest checkpoint: step {}, {}.\n", latest.metadata.step, latest.metadata.node)?;

    writeln!(out, "A second process resumes from it and pays for nothing twice:")?;
    let second = start_agent(options)?.wait_with_output()?;
    for line in String::from_utf8_lossy(&second.stdout).lines() {
        writeln!(out, "  {line}")?;
    }
    if !second.status.success() {
        bail!("the second process failed");
    }
    writeln!(out, "\nThe checkpoints of the session, newest first:\n")?;
    print::history(&checkpointer.list(SESSION).await?.checkpoints, SESSION, None, out)?;
    writeln!(out, "\nTry: checkpointer latest {SESSION}")?;
    Ok(())
}

/// Starts this program as the agent's process.
fn start_agent(options: &Options) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // `ps` would show a password in an argument.
    command.env("CHECKPOINTER_STORE", &options.store);
    command.args(["--prefix", &options.prefix, "--layout", &options.layout.name()]);
    if let Some(seconds) = options.ttl {
        command.args(["--ttl", &seconds.to_string()]);
    }
    command.args(["demo", "--agent"]).stdout(Stdio::piped());
    command.spawn().context("can't start the agent")
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    log: Vec<String>,
}

/// Resumes from the latest checkpoint and saves one after each further step.
async fn run_agent(checkpointer: &Checkpointer, out: &mut impl Write) -> Result<()> {
    let (completed, mut previous, mut state) = match checkpointer.latest(SESSION).await? {
        Some(Checkpoint { metadata, state, .. }) => {
            (usize::try_from(metadata.step)?, metadata.node, serde_json::from_str(&state)?)
        }
        None => (0, "__start__".to_owned(), State::default()),
    };
    let run_id = format!("run-{}", std::process::id());
    for (index, (node, result)) in STEPS.iter().enumerate().skip(completed) {
        std::thread::sleep(Duration::from_millis(150));
        state.log.push(format!("{node}: {result}"));
        let step = i64::try_from(index)? + 1;
        let mut run = Run::new(&run_id);
        run.prev_node = std::mem::replace(&mut previous, (*node).to_owned());
        run.updated_fields = vec!["log".to_owned()];
        run.attempt = Some(1);
        let metadata = Metadata::new(SESSION, format!("{SESSION}-{step}")).node(*node).step(step).run(run);
        checkpointer.save(Checkpoint::new(metadata, serde_json::to_string(&state)?)).await?;
        writeln!(out, "✓ step {step}: {node} ({result})")?;
        out.flush()?;
    }
    Ok(())
}
