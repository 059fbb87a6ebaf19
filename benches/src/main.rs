//! Measures everything on a server of its own, and prints the table:
//! `cargo run --release -p checkpointer-benches`.

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Result, bail};
use checkpointer_benches::bench::{Bench, root, target};
use checkpointer_benches::plot;
use checkpointer_benches::report::{self, Machine};
use checkpointer_benches::works::GROUPS;
use clap::Parser;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};

/// Measures how fast the checkpointer is, beside what else there is.
///
/// Needs redis-server, and Python 3 with venv for llmfy and LangGraph, which it
/// installs below target/. Whether a target is met changes no exit status.
#[derive(Parser)]
struct Options {
    /// Few rounds, small states beside the Python ones, no session of a million.
    #[arg(long)]
    quick: bool,
    /// Only this group of rows; may be said several times.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(GROUPS.map(|group| group.name)))]
    only: Vec<String>,
    /// Where to write the figures as JSON.
    #[arg(long, value_name = "FILE", default_value_os_t = target().join("performance.json"))]
    json: PathBuf,
    /// Put the table into PERFORMANCE.md and the plot into docs/.
    #[arg(long)]
    write: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if cfg!(debug_assertions) {
        bail!("say: cargo run --release -p checkpointer-benches (this was built to be debugged)");
    }
    if options.write && (options.quick || !options.only.is_empty()) {
        bail!("what is written is a whole run: say --write without --quick and --only");
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} {elapsed}")?;
    let progress = ProgressBar::no_length().with_style(style);
    let bench = Bench::new(options.quick, progress)?;
    let redis = bench.runtime.block_on(bench.server.information("server", "redis_version"));
    let machine = Machine::before(redis, options.quick);
    let mut findings = Vec::new();
    for group in GROUPS {
        if options.only.is_empty() || options.only.iter().any(|name| name == group.name) {
            findings.extend((group.measure)(&bench)?);
        }
    }
    bench.progress.finish_and_clear();

    let table = report::table(&machine, &findings);
    write!(stdout(), "{table}")?;
    report::write_json(&options.json, &machine, &findings)?;
    let plot = plot::draw(&findings)?;
    if options.write {
        report::rewrite(&root().join("PERFORMANCE.md"), &table)?;
        fs::write(root().join("docs/performance.svg"), plot)?;
    } else {
        fs::write(target().join("performance.svg"), plot)?;
    }
    Ok(())
}
