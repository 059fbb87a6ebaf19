//! Plugins on the command line: run one, look at one, or make one file of it and
//! the checkpointer.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use checkpointer::plugin::{self, BucketGrant, GrantsFile, Inspection, Limits, Plugins};
use checkpointer::store::StoreUrl;
use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use serde_json::json;

use super::{Options, Outcome, Usage, show};

/// The bucket that is granted where no file says what is.
const BUCKET: &str = "default";

#[derive(Debug, Args)]
pub struct Granted {
    /// What it is granted, as TOML; without it, the bucket "default", which is all of --store.
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The component.
    plugin: PathBuf,
    /// The text to run it on.
    #[arg(long, value_name = "TEXT", default_value = "")]
    input: String,
    /// A session, put behind the text as its last word.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    #[command(flatten)]
    granted: Granted,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The component.
    plugin: PathBuf,
    #[command(flatten)]
    granted: Granted,
}

#[derive(Debug, Args)]
pub struct Compose {
    /// The component.
    plugin: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Run {
    pub async fn run(self, options: &Options, out: &mut impl Write) -> Result<Outcome> {
        let (wasm, own) = (read(&self.plugin)?, options.address()?);
        let granted = self.granted.read()?;
        let plugin = while_compiling(&self.plugin, wasm.len(), || plugins()?.load(&wasm))
            .with_context(|| self.plugin.display().to_string())?;
        let plugin = plugin.limits(granted.limits.clone()).log(|bytes| {
            let _ = write!(io::stderr(), "{}", show::plain(&String::from_utf8_lossy(bytes)));
        });
        let grants = granted.open(&own).await?;
        let words = [Some(self.input).filter(|input| !input.is_empty()), self.session];
        let input = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let answer = plugin.run(&grants, &input).await.with_context(|| self.plugin.display().to_string())?;
        if options.json {
            let (name, text) = match &answer {
                Ok(text) => ("answer", text),
                Err(text) => ("error", text),
            };
            writeln!(out, "{}", json!({ name: text }))?;
        } else {
            match &answer {
                Ok(text) => writeln!(out, "{}", show::plain(text))?,
                Err(text) => writeln!(io::stderr(), "checkpointer: the plugin says: {}", show::plain(text))?,
            }
        }
        Ok(if answer.is_ok() { Outcome::Done } else { Outcome::Failed })
    }
}

impl Check {
    pub fn run(self, options: &Options, out: &mut impl Write) -> Result<Outcome> {
        let (wasm, own) = (read(&self.plugin)?, options.address()?);
        let granted = self.granted.read()?;
        let found = while_compiling(&self.plugin, wasm.len(), || plugins()?.inspect(&wasm))
            .with_context(|| self.plugin.display().to_string())?;
        if options.json {
            let buckets: serde_json::Map<_, _> =
                granted.buckets.iter().map(|(name, bucket)| (name.clone(), as_json(bucket, &own))).collect();
            let fault = fault(&found);
            writeln!(
                out,
                "{}",
                json!({ "fits": found.fits(), "fault": fault, "imports": found.imports, "refused": found.refused,
                        "exports": found.exports, "buckets": buckets })
            )?;
        } else {
            writeln!(out, "{}: {}", self.plugin.display(), HumanBytes(wasm.len() as u64))?;
            for name in &found.imports {
                let refused = if found.refused.contains(name) { ", which a plugin is not given" } else { "" };
                writeln!(out, "imports  {}{refused}", show::plain(name))?;
            }
            for name in &found.exports {
                writeln!(out, "exports  {}", show::plain(name))?;
            }
            if granted.buckets.is_empty() {
                writeln!(out, "granted  nothing")?;
            }
            for (name, bucket) in &granted.buckets {
                writeln!(out, "granted  bucket {name:?}: {}", in_words(bucket, &own))?;
            }
            match fault(&found) {
                None => writeln!(out, "fits     the world plugin")?,
                Some(fault) => writeln!(out, "does not fit the world plugin: {}", show::plain(&fault))?,
            }
        }
        Ok(if found.fits() { Outcome::Done } else { Outcome::Failed })
    }
}

impl Compose {
    pub fn run(self, options: &Options, out: &mut impl Write) -> Result<Outcome> {
        let composed =
            plugin::compose(&read(&self.plugin)?).with_context(|| self.plugin.display().to_string())?;
        fs::write(&self.output, &composed).with_context(|| self.output.display().to_string())?;
        if options.json {
            writeln!(
                out,
                "{}",
                json!({ "output": self.output.display().to_string(), "bytes": composed.len() })
            )?;
        } else {
            writeln!(out, "wrote {}, {}", self.output.display(), HumanBytes(composed.len() as u64))?;
        }
        Ok(Outcome::Done)
    }
}

impl Granted {
    fn read(&self) -> Result<GrantsFile> {
        let Some(path) = &self.grants else {
            let buckets = [(BUCKET.to_owned(), BucketGrant::new(""))].into();
            return Ok(GrantsFile { buckets, limits: Limits::default() });
        };
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(text.parse().map_err(|error| Usage(format!("{}: {error}", path.display())))?)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// An engine that keeps what it compiled where this user's caches are, if there is
/// such a place.
fn plugins() -> Result<Plugins, plugin::PluginError> {
    let folder = std::env::var_os("CHECKPOINTER_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(dirs::cache_dir()?.join("checkpointer")));
    let Some(folder) = folder else { return Plugins::new() };
    Plugins::new()?.cache(&folder).or_else(|error| {
        tracing::warn!(%error, "plugins are compiled each time");
        Plugins::new()
    })
}

/// Does what may take some seconds, and says so on a terminal.
fn while_compiling<T>(plugin: &Path, bytes: usize, compile: impl FnOnce() -> T) -> T {
    let progress = ProgressBar::new_spinner();
    progress.set_message(format!("compiling {} ({})", plugin.display(), HumanBytes(bytes as u64)));
    progress.enable_steady_tick(std::time::Duration::from_millis(100));
    let compiled = compile();
    progress.finish_and_clear();
    compiled
}

fn fault(found: &Inspection) -> Option<String> {
    if found.refused.is_empty() {
        found.unfit.clone()
    } else {
        Some(format!("it imports {}", found.refused.join(", ")))
    }
}

fn in_words(bucket: &BucketGrant, own: &StoreUrl) -> String {
    let mut words = vec![
        bucket.store.as_ref().unwrap_or(own).to_string(),
        format!("keys that begin with {:?}", bucket.prefix),
        if bucket.read_only { "to read" } else { "to read and write" }.to_owned(),
    ];
    let limits = [
        (bucket.value_bytes, "bytes a checkpoint"),
        (bucket.checkpoints, "checkpoints in all"),
        (bucket.bytes, "bytes in all"),
        (bucket.operations_per_second.map(u64::from), "operations a second"),
        (bucket.results_per_call.map(u64::from), "results a call"),
    ];
    words.extend(limits.iter().filter_map(|(limit, of)| limit.map(|limit| format!("{limit} {of}"))));
    words.join(", ")
}

fn as_json(bucket: &BucketGrant, own: &StoreUrl) -> serde_json::Value {
    json!({
        "store": bucket.store.as_ref().unwrap_or(own).to_string(),
        "prefix": bucket.prefix,
        "read_only": bucket.read_only,
        "value_bytes": bucket.value_bytes,
        "checkpoints": bucket.checkpoints,
        "bytes": bucket.bytes,
        "operations_per_second": bucket.operations_per_second,
        "results_per_call": bucket.results_per_call,
    })
}
