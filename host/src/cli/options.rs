//! The options that most commands share, and the checkpointer that they open.

use std::time::Duration;

use checkpointer::store::StoreUrl;
use checkpointer::{Checkpointer, DEFAULT_PREFIX, Error};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, ValueEnum};

use super::UsageError;

#[derive(Debug, Args)]
#[command(next_help_heading = "Shared options")]
pub struct Options {
    /// The URL of the store
    ///
    /// sqlite:FILE                                     a SQLite file
    /// memory:                                         no file, for tests
    /// redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]  Redis or Valkey
    /// redis+unix:///SOCKET                            the same through a Unix socket
    /// redis-cluster://HOST[:PORT],…                   Redis Cluster
    /// redis+sentinel://HOST[:PORT],…/MASTER           the master that Sentinels name
    ///
    /// rediss instead of redis: over TLS. valkey instead of redis: the same as redis.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CHECKPOINTER_STORE",
        hide_env_values = true,
        default_value = "sqlite:checkpoints.db",
        verbatim_doc_comment
    )]
    pub store: String,
    /// The prefix of all keys.
    #[arg(long, global = true, value_name = "P", default_value = DEFAULT_PREFIX)]
    pub prefix: String,
    /// How keys are named.
    #[arg(long, global = true, value_name = "L", default_value = "llmfy")]
    pub layout: Layout,
    /// Saved checkpoints expire after this many seconds.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub ttl: Option<u64>,
    /// All checkpoints of a session expire this many seconds after the last save in it.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(1..),
        conflicts_with = "ttl"
    )]
    session_ttl: Option<u64>,
    /// A read starts the TTL of its checkpoint or session again.
    #[arg(long, global = true)]
    refresh_on_read: bool,
    /// A session keeps at most this many checkpoints: each save deletes the oldest ones above it.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_checkpoints: Option<u32>,
    /// Save states compressed, as llmfy does with compress=True, and decompress loaded ones.
    #[arg(long, global = true)]
    compress: bool,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// [`checkpointer::Layout`] as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// The keys of llmfy.
    Llmfy,
    /// All keys of a session in one slot of a Redis Cluster.
    Partitioned,
}

impl Layout {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl From<Layout> for checkpointer::Layout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Llmfy => Self::Llmfy,
            Layout::Partitioned => Self::Partitioned,
        }
    }
}

impl Options {
    pub fn url(&self) -> Result<StoreUrl, Error> {
        Ok(self.store.parse()?)
    }

    pub async fn open(&self) -> Result<Checkpointer, Error> {
        let mut builder = Checkpointer::builder()
            .prefix(&self.prefix)
            .layout(self.layout.into())
            .refresh_on_read(self.refresh_on_read)
            .compress(self.compress);
        if let Some(seconds) = self.ttl {
            builder = builder.ttl(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.session_ttl {
            builder = builder.session_ttl(Duration::from_secs(seconds));
        }
        if let Some(count) = self.max_checkpoints {
            builder = builder.max_checkpoints(count);
        }
        builder.open(&self.store).await
    }
}

/// The ids of the options that a command uses, if it does not use all of them.
fn used_options(command: &str) -> Option<&'static [&'static str]> {
    match command {
        "copy" => Some(&["prefix", "layout", "json"]),
        "plugin" => Some(&["store", "json"]),
        "compose" => Some(&["json"]),
        _ => None,
    }
}

/// The options that a command does not use.
fn unused_options(command: &str) -> Vec<Arg> {
    let Some(used) = used_options(command) else { return Vec::new() };
    let all = Options::augment_args(Command::new(""));
    all.get_arguments().filter(|option| !used.contains(&option.get_id().as_str())).cloned().collect()
}

/// Hides options from the help of the commands that do not use them.
pub fn hide_unused(command: Command) -> Command {
    let unused = unused_options(command.get_name());
    command.args(unused.into_iter().map(|option| option.hide(true))).mut_subcommands(hide_unused)
}

/// Fails if an option was given to a command that does not use it. An
/// environment variable is no mistake: it is meant for other commands.
pub fn reject_unused(matches: &ArgMatches) -> Result<(), UsageError> {
    let (mut matches, mut path) = (matches, "checkpointer".to_owned());
    while let Some((name, of_command)) = matches.subcommand() {
        path = format!("{path} {name}");
        for option in unused_options(name) {
            let id = option.get_id().as_str();
            if of_command.value_source(id) == Some(ValueSource::CommandLine) {
                let option = id.replace('_', "-");
                return Err(UsageError(format!(
                    "--{option} does not apply to `{path}`; see `{path} --help`"
                )));
            }
        }
        matches = of_command;
    }
    Ok(())
}
