//! The progress of a copy on standard error: a line that changes on a terminal,
//! or a new line from time to time.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

/// The interval between new lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The interval between changes of the line on a terminal.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);

pub struct Progress {
    /// The line on a terminal.
    spinner: Option<ProgressBar>,
    shown_at: Instant,
}

impl Progress {
    pub fn new() -> Self {
        let spinner = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(spinner) = &spinner {
            spinner.enable_steady_tick(REFRESH_INTERVAL);
        }
        Self { spinner, shown_at: Instant::now() }
    }

    /// Shows the progress, unless it was shown within the interval.
    pub fn show(&mut self, message: impl FnOnce() -> String) {
        let interval = if self.spinner.is_some() { REFRESH_INTERVAL } else { LINE_INTERVAL };
        if self.shown_at.elapsed() < interval {
            return;
        }
        self.shown_at = Instant::now();
        match &self.spinner {
            Some(spinner) => spinner.set_message(message()),
            None => self.print(&message()),
        }
    }

    /// Prints a line that stays.
    pub fn print(&self, message: &str) {
        let print = || writeln!(io::stderr(), "{message}");
        // A closed standard error does not end the copy.
        let _ = match &self.spinner {
            Some(spinner) => spinner.suspend(print),
            None => print(),
        };
    }

    /// Removes the line from the terminal.
    pub fn finish(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
