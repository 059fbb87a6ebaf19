//! Loads the latest checkpoint of a session as the command line does, without
//! the sandbox: `checkpointer-native STORE SESSION`.

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use checkpointer_benches::contenders::native::Native;
use tokio::runtime::Builder;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let (address, session) = arguments.next().zip(arguments.next()).context("say: STORE SESSION")?;
    // The kind of runtime that the command line has.
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    match Native::open(&runtime, &address)?.find(&session)? {
        Some(checkpoint) => {
            writeln!(stdout(), "{}", checkpoint.state)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            writeln!(stderr(), "checkpointer-native: no checkpoint in session {session:?}")?;
            Ok(ExitCode::from(3))
        }
    }
}
