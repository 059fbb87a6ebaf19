//! The question before a deletion of more than one checkpoint.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Result, bail};
use clap::Args;

use super::UsageError;

#[derive(Debug, Args)]
pub struct Confirmation {
    /// Do not ask for a confirmation.
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Asks whether to do `action`, unless `--yes` was given.
    ///
    /// # Errors
    /// The answer is not yes, or standard input is not a terminal.
    pub fn confirm(&self, action: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            let message =
                format!("can't ask whether to {action}: standard input is not a terminal; use --yes");
            return Err(UsageError(message).into());
        }
        write!(io::stderr(), "checkpointer: {action}? [y/N] ")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("nothing was deleted");
        }
        Ok(())
    }
}
