//! Measures the figures of SCALING.md and makes its tables:
//! `cargo run --release -p checkpointer-benches --bin checkpointer-scaling`.

use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use checkpointer_benches::bench::{root, target};
use checkpointer_benches::report::{Machine, replace_named_table};
use checkpointer_benches::scaling::measurement::measure;
use checkpointer_benches::scaling::population::{Population, Topology};
use checkpointer_benches::scaling::servers::Servers;
use checkpointer_benches::scaling::{Effort, Figures, tables};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Builder;

/// Measures the processor time of operations and the memory of checkpoints as the
/// stored data grows, and makes the tables of SCALING.md.
///
/// Needs redis-server and redis-cli.
#[derive(Parser)]
struct Options {
    /// Run one short round with the populations that are filled quickly, as a test.
    #[arg(long)]
    quick: bool,
    /// Measure nothing and use the figures of an earlier run.
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    from: Option<PathBuf>,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE", default_value_os_t = target().join("scaling.json"))]
    json: PathBuf,
    /// Replace the tables in SCALING.md.
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

/// Takes some minutes on two idle cores.
const FULL: Effort = Effort { rounds: 5, calls: 1280 };

/// Enough for a test.
const QUICK: Effort = Effort { rounds: 1, calls: 128 };

/// The size of the largest population in a quick run.
const MAX_QUICK_CHECKPOINTS: u32 = 20_000;

fn main() -> Result<()> {
    let options = Options::parse();
    if cfg!(debug_assertions) && options.from.is_none() && !options.quick {
        bail!(
            "this is a debug build; run: cargo run --release -p checkpointer-benches --bin checkpointer-scaling"
        );
    }
    let figures = match &options.from {
        Some(path) => read(path)?,
        None => {
            let figures = measure_all(options.quick)?;
            write_json(&options.json, &figures)?;
            figures
        }
    };
    ensure!(!options.write || !figures.machine.quick, "--write needs the figures of a full run");
    for (name, table) in tables::all(&figures) {
        writeln!(stdout(), "{name}:\n\n{table}")?;
        if options.write {
            replace_named_table(&root().join("SCALING.md"), name, &table)?;
        }
    }
    Ok(())
}

fn measure_all(quick: bool) -> Result<Figures> {
    let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} {elapsed}")?;
    let progress = ProgressBar::no_length().with_style(style);
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let redis = runtime.block_on(async {
        let servers = Servers::start(Topology::Server).await?;
        anyhow::Ok(servers.masters[0].information("server", "redis_version").await)
    })?;
    let machine = Machine::current(redis, quick);
    let (date, effort) = (today()?, if quick { QUICK } else { FULL });
    let mut measured = Vec::new();
    for population in Population::all() {
        if quick && population.total() > MAX_QUICK_CHECKPOINTS {
            continue;
        }
        progress.set_message(population.to_string());
        measured.push(measure(&runtime, population, effort, &progress)?);
    }
    progress.finish_and_clear();
    Ok(Figures { machine, date, effort, measured })
}

/// The current day in UTC.
fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("date can't be started")?;
    ensure!(output.status.success(), "date failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn read(path: &Path) -> Result<Figures> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{} contains no figures", path.display()))
}

fn write_json(path: &Path, figures: &Figures) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let text = serde_json::to_string_pretty(figures)?;
    fs::write(path, text + "\n").with_context(|| path.display().to_string())
}
