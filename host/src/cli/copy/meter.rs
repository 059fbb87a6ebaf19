//! How far a copy has come: a line that changes on a terminal, or now and then a
//! new one.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar};

use super::Tally;

/// How long there is nothing new to say where no line can change.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a line changes.
const TICK: Duration = Duration::from_millis(100);

pub struct Meter {
    /// The line that changes, on a terminal.
    bar: Option<ProgressBar>,
    said_at: Instant,
}

impl Meter {
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, said_at: Instant::now() }
    }

    /// Shows how far it is, if it is time for that.
    pub fn show(&mut self, pass: u32, tally: &Tally) {
        let is_time = self.said_at.elapsed() >= if self.bar.is_some() { TICK } else { SILENCE };
        if !is_time {
            return;
        }
        let Tally { equal, differing, left, bytes, .. } = tally;
        let message = format!(
            "pass {pass}: {} checkpoints, {} of them copied ({})",
            counted(equal + differing + left),
            counted(*differing),
            HumanBytes(*bytes)
        );
        self.said_at = Instant::now();
        match &self.bar {
            Some(bar) => bar.set_message(message),
            None => self.say(&message),
        }
    }

    /// Says something that stays.
    pub fn say(&self, message: &str) {
        let say = || writeln!(io::stderr(), "{message}");
        // Whoever does not want to read it has gone.
        let _ = match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        };
    }

    /// Takes the line away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A number as people read it.
pub fn counted(count: u64) -> HumanCount {
    HumanCount(count)
}
