//! The demo: an agent that plans a trip is killed half-way, by the operating
//! system and without warning, and another process goes on from its latest
//! checkpoint.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use checkpointer::{Checkpoint, Metadata, Run};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Opened, Options, show};

const STEPS: [(&str, &str); 6] = [
    ("plan", "three days in Lisbon, by train"),
    ("search_trains", "12 connections found"),
    ("book_train", "paid 89.00 EUR, seat 61 in coach 4"),
    ("search_hotels", "9 hotels near the station"),
    ("book_hotel", "paid 240.00 EUR for three nights"),
    ("write_itinerary", "sent to ann@example.com"),
];

/// The agent is killed after it has paid for the train: to begin again would
/// be to pay twice.
const KILLED_AFTER: usize = 3;

const SESSION: &str = "demo-trip-to-lisbon";

pub async fn run(options: &Options, as_agent: bool, out: &mut impl Write) -> Result<()> {
    let opened = options.open().await?;
    if as_agent { act(&opened, out).await } else { tell(options, &opened, out).await }
}

/// The story, with the agent as a process of its own each time.
async fn tell(options: &Options, opened: &Opened, out: &mut impl Write) -> Result<()> {
    let checkpointer = &opened.checkpointer;
    if options.store == "memory:" {
        bail!("the demo kills a process, and memory: would go with it; use sqlite:FILE or redis://…");
    }
    opened.at(checkpointer.delete(SESSION, None).await)?;
    writeln!(out, "An agent books a trip, step by step. After each step it saves a checkpoint to")?;
    writeln!(out, "{}.\n", opened.address)?;
    writeln!(out, "The first process:")?;
    let mut first = agent(options)?;
    let lines = BufReader::new(first.stdout.take().context("the agent has no output")?).lines();
    for line in lines.take(KILLED_AFTER) {
        writeln!(out, "  {}", line?)?;
    }
    first.kill().context("the agent can't be killed")?;
    first.wait()?;
    writeln!(out, "  ✗ killed (SIGKILL), after it paid for the train\n")?;

    let latest = opened.at(checkpointer.load(SESSION, None).await)?.context("no checkpoint was saved")?;
    writeln!(out, "What is left of it: step {}, {}.\n", latest.metadata.step, latest.metadata.node)?;

    writeln!(out, "A second process goes on from there, and pays for nothing twice:")?;
    let second = agent(options)?.wait_with_output()?;
    for line in String::from_utf8_lossy(&second.stdout).lines() {
        writeln!(out, "  {line}")?;
    }
    if !second.status.success() {
        bail!("the second process failed");
    }
    writeln!(out, "\nThe history of the session, newest first:\n")?;
    let history = opened.at(checkpointer.list(SESSION, None).await)?;
    show::history(&history.checkpoints, out)?;
    writeln!(out, "\nLook around: checkpointer load {SESSION}")?;
    Ok(())
}

/// Starts this program in the part of the agent.
fn agent(options: &Options) -> Result<std::process::Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // By the environment, since a URL with a password would show in `ps`.
    command.env("CHECKPOINTER_STORE", &options.store).args(["--prefix", &options.prefix]);
    if let Some(layout) = options.layout.to_possible_value() {
        command.args(["--layout", layout.get_name()]);
    }
    if let Some(ttl) = &options.ttl {
        command.args(["--ttl", ttl]);
    }
    command.args(["demo", "--agent"]).stdout(Stdio::piped());
    command.spawn().context("the agent can't be started")
}

/// What the agent knows.
#[derive(Default, Serialize, Deserialize)]
struct State {
    log: Vec<String>,
}

/// What an agent does: resume from the latest checkpoint, then a step and a
/// checkpoint, again and again.
async fn act(opened: &Opened, out: &mut impl Write) -> Result<()> {
    let checkpointer = &opened.checkpointer;
    let latest = opened.at(checkpointer.load(SESSION, None).await)?;
    let (done, mut state): (usize, State) = match &latest {
        Some(checkpoint) => {
            (usize::try_from(checkpoint.metadata.step)?, serde_json::from_str(&checkpoint.state)?)
        }
        None => (0, State::default()),
    };
    let mut previous = latest.map_or("__start__".to_owned(), |checkpoint| checkpoint.metadata.node);
    let run_id = format!("run-{}", std::process::id());
    for (step, (node, result)) in STEPS.iter().enumerate().skip(done) {
        std::thread::sleep(Duration::from_millis(150));
        state.log.push(format!("{node}: {result}"));
        let number = i64::try_from(step)? + 1;
        let metadata = Metadata {
            session_id: SESSION.to_owned(),
            checkpoint_id: format!("{SESSION}-{number}"),
            timestamp: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            node: (*node).to_owned(),
            step: number,
            run: Some(Run {
                run_id: run_id.clone(),
                prev_node: std::mem::replace(&mut previous, (*node).to_owned()),
                updated_fields: vec!["log".to_owned()],
                attempt: Some(1),
                dispatch_id: None,
            }),
        };
        let state = serde_json::to_string(&state)?;
        opened.at(checkpointer.save(&Checkpoint { metadata, state }).await)?;
        writeln!(out, "✓ step {number}: {node} ({result})")?;
        out.flush()?;
    }
    Ok(())
}
