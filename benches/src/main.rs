//! Runs the benchmarks on a server of their own and prints the table:
//! `cargo run --release -p checkpointer-benches`.

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Result, bail};
use checkpointer_benches::bench::{Bench, root, target};
use checkpointer_benches::benchmarks::GROUPS;
use checkpointer_benches::plot;
use checkpointer_benches::report::{self, Machine};
use clap::Parser;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};

/// Measures the checkpointer against native code, Redis alone, llmfy and
/// LangGraph.
///
/// Needs redis-server, and Python 3 with venv for llmfy and LangGraph, which are
/// installed below target/. The exit status does not depend on the targets.
#[derive(Parser)]
struct Options {
    /// Run few rounds, compare Python savers with small states only, skip the
    /// session of a million.
    #[arg(long)]
    quick: bool,
    /// Run only this group of rows; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(GROUPS.map(|group| group.name)))]
    only: Vec<String>,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE", default_value_os_t = target().join("performance.json"))]
    json: PathBuf,
    /// Replace the table in PERFORMANCE.md and the plot in docs/.
    #[arg(long)]
    write: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if cfg!(debug_assertions) {
        bail!("this is a debug build; run: cargo run --release -p checkpointer-benches");
    }
    if options.write && (options.quick || !options.only.is_empty()) {
        bail!("--write needs the figures of a whole run; omit --quick and --only");
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} {elapsed}")?;
    let progress = ProgressBar::no_length().with_style(style);
    let bench = Bench::new(options.quick, progress)?;
    let redis = bench.runtime.block_on(bench.server.information("server", "redis_version"));
    let machine = Machine::current(redis, options.quick);
    let mut rows = Vec::new();
    for group in GROUPS {
        if options.only.is_empty() || options.only.iter().any(|name| name == group.name) {
            rows.extend((group.measure)(&bench)?);
        }
    }
    bench.progress.finish_and_clear();

    let table = report::table(&machine, &rows);
    write!(stdout(), "{table}")?;
    report::write_json(&options.json, &machine, &rows)?;
    let plot = plot::draw(&rows)?;
    if options.write {
        report::replace_table(&root().join("PERFORMANCE.md"), &table)?;
        fs::write(root().join("docs/performance.svg"), plot)?;
    } else {
        fs::write(target().join("performance.svg"), plot)?;
    }
    Ok(())
}
