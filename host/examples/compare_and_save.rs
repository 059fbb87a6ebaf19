//! Several tasks extend one session with compare-and-save: no change is lost.

#![allow(clippy::print_stdout)]

use std::error::Error;

use checkpointer::{Checkpointer, Conflict};

const TASKS: u64 = 8;
const STEPS: u64 = 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let checkpointer = Checkpointer::open("memory:").await?;

    // `step` loads, changes and saves, and repeats this after a conflict.
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let counter = checkpointer.session::<u64>("counter");
            tokio::spawn(async move {
                for _ in 0..STEPS {
                    counter.step("add", |count| *count += 1).await?;
                }
                Ok::<_, checkpointer::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let counter = checkpointer.session::<u64>("counter");
    let latest = counter.latest().await?.ok_or("the session has no checkpoint")?;
    assert_eq!(latest.state, TASKS * STEPS);

    // `append` saves after a given step, and reports a conflict.
    let next = counter.append(&latest, "double", &(2 * latest.state)).await?;
    match counter.append(&latest, "clear", &0).await {
        Err(checkpointer::Error::Conflict(Conflict::NotLatest { actual })) => {
            assert_eq!(actual, Some(next.id));
        }
        other => return Err(format!("expected a conflict, got {other:?}").into()),
    }
    println!("{TASKS} tasks did {STEPS} steps each: {}", latest.state);
    Ok(())
}
