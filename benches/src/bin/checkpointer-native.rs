//! Loads the latest checkpoint of a session as the command line does, without the
//! sandbox: `checkpointer-native STORE SESSION`.

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use checkpointer_benches::subjects::native::Native;
use tokio::runtime::Builder;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let (url, session) =
        arguments.next().zip(arguments.next()).context("usage: checkpointer-native STORE SESSION")?;
    // The command line uses a runtime of the same kind.
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    match Native::open(&runtime, &url)?.find_latest(&session)? {
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
