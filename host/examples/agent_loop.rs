//! An agent that can be killed at any moment. It saves after every step, and a new
//! process continues from the latest step.
//!
//! `cargo run --example agent_loop URL` runs the agent once. Without a URL, the
//! example starts itself as an agent, kills it after a few steps, and starts another
//! one, which finishes the work.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use checkpointer::{Checkpointer, Retry};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

const STEPS: i64 = 10;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Trip {
    results: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(url) => agent(&url).await,
        None => kill_and_resume().await,
    }
}

async fn agent(url: &str) -> Result<(), Box<dyn Error>> {
    let checkpointer = Checkpointer::builder().retry(Retry::default()).open(url).await?;
    let session = checkpointer.session::<Trip>("user-123");
    let mut number = session.latest().await?.map_or(0, |latest| latest.number);
    while number < STEPS {
        let result = work(number).await;
        let step = session.step("search", |trip| trip.results.push(result.clone())).await?;
        println!("saved step {}", step.number);
        number = step.number;
    }
    checkpointer.close().await;
    Ok(())
}

/// The place of a model or a tool.
async fn work(number: i64) -> String {
    tokio::time::sleep(Duration::from_millis(20)).await;
    format!("result {number}")
}

async fn kill_and_resume() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:{}", folder.path().join("checkpoints.db").display());

    let mut first = Command::new(std::env::current_exe()?).arg(&url).stdout(Stdio::piped()).spawn()?;
    let output = first.stdout.take().ok_or("the agent has no output")?;
    for line in BufReader::new(output).lines().take(3) {
        println!("{}", line?);
    }
    first.kill()?;
    first.wait()?;
    println!("killed the agent");

    agent(&url).await?;

    let checkpointer = Checkpointer::open(&url).await?;
    let history: Vec<_> = checkpointer.session::<Trip>("user-123").history().try_collect().await?;
    let numbers: Vec<_> = history.iter().rev().map(|step| step.number).collect();
    assert_eq!(numbers, Vec::from_iter(1..=STEPS));
    let expected = Vec::from_iter((0..STEPS).map(|number| format!("result {number}")));
    assert_eq!(history.first().map(|latest| &latest.state.results), Some(&expected));
    println!("no step is missing, and none was done twice");
    Ok(())
}
