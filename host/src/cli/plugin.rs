//! `plugin`: runs a plugin, inspects it, or composes it with the checkpointer.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use checkpointer::plugin::{self, BucketGrant, GrantsFile, PluginError, Plugins};
use checkpointer::store::StoreUrl;
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar};
use serde_json::{Map, Value, json};

use super::{Options, Status, UsageError, print};

/// The bucket that is granted without `--grants`.
const DEFAULT_BUCKET: &str = "default";

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Run a plugin on a text, with the granted buckets only.
    Run(Run),
    /// Show the imports, exports and grants of a plugin, and whether it can run.
    Inspect(Inspect),
    /// Compose a plugin and the checkpointer into one component that imports `keyvalue`.
    Compose(Compose),
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    plugin: GrantedPlugin,
    /// The input of the plugin.
    #[arg(long, value_name = "TEXT", default_value = "")]
    input: String,
    /// A session id, appended to the input as its last word.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
}

#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    plugin: GrantedPlugin,
}

#[derive(Debug, Args)]
pub struct Compose {
    /// The plugin, a component.
    plugin: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct GrantedPlugin {
    /// The plugin, a component.
    plugin: PathBuf,
    /// A TOML file of grants and limits; without it, the bucket "default" is all of --store.
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
}

impl PluginCommand {
    pub async fn run(self, options: &Options, out: &mut impl Write) -> Result<Status> {
        match self {
            Self::Run(run) => run.run(options, out).await,
            Self::Inspect(inspect) => inspect.run(options, out),
            Self::Compose(compose) => compose.run(options, out),
        }
    }
}

impl Run {
    async fn run(self, options: &Options, out: &mut impl Write) -> Result<Status> {
        let default_store = options.url()?;
        let grants_file = self.plugin.grants()?;
        let name = self.plugin.plugin.display().to_string();
        let plugin = self.plugin.compile(Plugins::load)?.limits(grants_file.limits.clone()).log(|bytes| {
            let _ = write!(io::stderr(), "{}", print::escape_control(&String::from_utf8_lossy(bytes)));
        });
        let grants = grants_file.open(&default_store).await?;
        let words = [Some(self.input).filter(|input| !input.is_empty()), self.session];
        let input = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let result = plugin.run(&grants, &input).await.context(name)?;
        match &result {
            Ok(text) if options.json => writeln!(out, "{}", json!({ "result": text }))?,
            Err(text) if options.json => writeln!(out, "{}", json!({ "error": text }))?,
            Ok(text) => writeln!(out, "{}", print::escape_control(text))?,
            Err(text) => {
                let text = print::escape_control(text);
                writeln!(io::stderr(), "checkpointer: the plugin returned an error: {text}")?;
            }
        }
        Ok(if result.is_ok() { Status::Success } else { Status::Failure })
    }
}

impl Inspect {
    fn run(self, options: &Options, out: &mut impl Write) -> Result<Status> {
        let default_store = options.url()?;
        let grants_file = self.plugin.grants()?;
        let inspection = self.plugin.compile(Plugins::inspect)?;
        let is_compatible = inspection.is_compatible();
        let disallowed = &inspection.disallowed_imports;
        let incompatibility = inspection.incompatibility.as_deref().map(print::escape_control);
        if options.json {
            let buckets = grants_file.buckets.iter();
            let buckets: Map<_, _> =
                buckets.map(|(name, grant)| (name.clone(), to_json(grant, &default_store))).collect();
            let inspection = json!({
                "is_compatible": is_compatible,
                "incompatibility": incompatibility,
                "imports": inspection.imports,
                "disallowed_imports": disallowed,
                "exports": inspection.exports,
                "buckets": buckets,
            });
            writeln!(out, "{inspection}")?;
        } else {
            writeln!(out, "{}", self.plugin.plugin.display())?;
            for name in &inspection.imports {
                let note = if disallowed.contains(name) { " (not allowed)" } else { "" };
                writeln!(out, "imports     {}{note}", print::escape_control(name))?;
            }
            for name in &inspection.exports {
                writeln!(out, "exports     {}", print::escape_control(name))?;
            }
            if grants_file.buckets.is_empty() {
                writeln!(out, "granted     nothing")?;
            }
            for (name, grant) in &grants_file.buckets {
                writeln!(out, "granted     bucket {name:?}: {}", describe(grant, &default_store))?;
            }
            let verdict = match &incompatibility {
                _ if is_compatible => "yes",
                None => "no, it has imports that are not allowed",
                Some(incompatibility) => &format!("no, {incompatibility}"),
            };
            writeln!(out, "compatible  {verdict}")?;
        }
        Ok(if is_compatible { Status::Success } else { Status::Failure })
    }
}

impl Compose {
    fn run(self, options: &Options, out: &mut impl Write) -> Result<Status> {
        let composed = plugin::compose(&read(&self.plugin)?);
        let composed = composed.with_context(|| self.plugin.display().to_string())?;
        let output = self.output.display().to_string();
        fs::write(&self.output, &composed).with_context(|| output.clone())?;
        let bytes = composed.len();
        if options.json {
            writeln!(out, "{}", json!({ "output": output, "bytes": bytes }))?;
        } else {
            writeln!(out, "wrote {output}, {}", HumanBytes(bytes as u64))?;
        }
        Ok(Status::Success)
    }
}

impl GrantedPlugin {
    fn grants(&self) -> Result<GrantsFile> {
        let Some(path) = &self.grants else {
            let mut file = GrantsFile::default();
            file.buckets.insert(DEFAULT_BUCKET.to_owned(), BucketGrant::new(""));
            return Ok(file);
        };
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(text.parse().map_err(|error| UsageError(format!("{}: {error}", path.display())))?)
    }

    /// Reads the plugin and compiles it by `load`, which may take seconds: shows a
    /// spinner on a terminal.
    fn compile<T>(&self, load: impl FnOnce(&Plugins, &[u8]) -> Result<T, PluginError>) -> Result<T> {
        let (name, wasm) = (self.plugin.display().to_string(), read(&self.plugin)?);
        let progress = ProgressBar::new_spinner();
        progress.set_message(format!("compiling {name} ({})", HumanBytes(wasm.len() as u64)));
        progress.enable_steady_tick(Duration::from_millis(100));
        let compiled = plugins().and_then(|plugins| load(&plugins, &wasm));
        progress.finish_and_clear();
        compiled.context(name)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// An engine with the user's cache of compiled plugins; without a cache if its
/// folder can't be used.
fn plugins() -> Result<Plugins, PluginError> {
    let folder = std::env::var_os("CHECKPOINTER_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(dirs::cache_dir()?.join("checkpointer")));
    let Some(folder) = folder else { return Plugins::new() };
    Plugins::new()?.cache(&folder).or_else(|error| {
        tracing::warn!(%error, "compiled plugins are not cached");
        Plugins::new()
    })
}

/// The limits of a bucket: name, value, and unit for people.
fn limits(grant: &BucketGrant) -> [(&'static str, Option<u64>, &'static str); 5] {
    [
        ("max_checkpoint_bytes", grant.max_checkpoint_bytes, "bytes per checkpoint"),
        ("max_total_checkpoints", grant.max_total_checkpoints, "checkpoints in total"),
        ("max_total_bytes", grant.max_total_bytes, "bytes in total"),
        (
            "max_operations_per_second",
            grant.max_operations_per_second.map(u64::from),
            "operations per second",
        ),
        ("max_results_per_call", grant.max_results_per_call.map(u64::from), "results per call"),
    ]
}

fn describe(grant: &BucketGrant, default_store: &StoreUrl) -> String {
    let access = if grant.read_only { "read-only" } else { "read and write" };
    let store = grant.store.as_ref().unwrap_or(default_store);
    let limits = limits(grant).into_iter();
    let limits = limits.filter_map(|(_, limit, unit)| limit.map(|limit| format!(", at most {limit} {unit}")));
    format!("{store}, keys with the prefix {:?}, {access}{}", grant.prefix, limits.collect::<String>())
}

fn to_json(grant: &BucketGrant, default_store: &StoreUrl) -> Value {
    let mut bucket = json!({
        "store": grant.store.as_ref().unwrap_or(default_store).to_string(),
        "prefix": grant.prefix,
        "read_only": grant.read_only,
    });
    for (name, limit, _) in limits(grant) {
        bucket[name] = limit.into();
    }
    bucket
}
