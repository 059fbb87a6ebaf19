//! The arguments, commands and exit status of the command line.
//!
//! Results go to standard output, messages go to standard error. With `--json`
//! standard output contains JSON only.
//!
//! - `options`: the options that most commands share.
//! - `save`, `copy`, `plugin`, `demo`: commands with code of their own.
//! - `confirmation`: the question before a deletion.
//! - `print`: the output.

mod confirmation;
mod copy;
mod demo;
mod options;
mod plugin;
mod print;
mod save;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use checkpointer::{Error, HistoryQuery};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::confirmation::Confirmation;
use self::options::Options;

/// Saves, loads and deletes the checkpoints of agents and workflows.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 success, 1 failure, 2 usage error, 3 not found.\nSet CHECKPOINTER_LOG=debug to log to standard error."
)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Save stored documents: files with one JSON object or with JSON Lines.
    Save {
        /// The files; `-` or none for standard input.
        files: Vec<PathBuf>,
    },
    /// Show the latest checkpoint of a session; with --json, its stored document.
    Latest(SessionId),
    /// Show a checkpoint; with --json, its stored document.
    Load(CheckpointId),
    /// List the checkpoints of a session, newest first; with --json, one stored document per line.
    List {
        #[command(flatten)]
        of: SessionId,
        /// The maximum number of checkpoints [default: 10].
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        /// Only checkpoints of this run.
        #[arg(long)]
        run: Option<String>,
    },
    /// Exclude a checkpoint from expiry until it is saved again.
    PinCheckpoint(CheckpointId),
    /// Exclude a session from expiry, with all checkpoints that are saved in it later.
    PinSession(SessionId),
    /// End the pin of a checkpoint; the TTL of --ttl or --session-ttl starts now.
    UnpinCheckpoint(CheckpointId),
    /// End the pin of a session; the TTL of --ttl or --session-ttl starts now.
    UnpinSession(SessionId),
    /// Delete a checkpoint.
    DeleteCheckpoint(CheckpointId),
    /// Delete all checkpoints of a session, after a confirmation.
    DeleteSession {
        #[command(flatten)]
        of: SessionId,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Delete all checkpoints under the prefix, after a confirmation.
    ClearAll(Confirmation),
    /// Copy all checkpoints under the prefix to another store, prefix or layout, and verify the copy.
    Copy(copy::CopyArguments),
    /// Run, inspect or compose plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Show an agent that is killed and resumes from its latest checkpoint.
    Demo {
        /// Run as the agent's process.
        #[arg(long, hide = true)]
        agent: bool,
    },
}

#[derive(Debug, Args)]
struct SessionId {
    /// The id of the session.
    session: String,
}

#[derive(Debug, Args)]
struct CheckpointId {
    /// The id of the session.
    session: String,
    /// The id of the checkpoint.
    #[arg(value_name = "ID")]
    checkpoint: String,
}

/// The result of a command that did not end with an error.
enum Status {
    Success,
    /// The command has printed the failure.
    Failure,
    NotFound,
}

/// A mistake in the arguments that clap does not detect.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Parses the arguments and runs the command.
pub async fn main() -> ExitCode {
    let matches = options::hide_unused(Arguments::command()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // Without CHECKPOINTER_LOG the filter logs errors only.
    let filter = tracing_subscriber::EnvFilter::try_from_env("CHECKPOINTER_LOG").unwrap_or_default();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(io::stderr().is_terminal()).init();
    let result = match options::reject_unused(&matches) {
        Ok(()) => arguments.run().await,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(Status::Success) => ExitCode::SUCCESS,
        Ok(Status::Failure) => ExitCode::FAILURE,
        Ok(Status::NotFound) => ExitCode::from(3),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "checkpointer: {}", with_sources(&error));
            ExitCode::from(if is_usage_error(&error) { 2 } else { 1 })
        }
    }
}

/// The text of an error and of its sources, without those that it repeats.
fn with_sources(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, source| match text.as_str() {
        "" => source,
        text if text.contains(&source) => text.to_owned(),
        text => format!("{text}: {source}"),
    })
}

/// Whether the reader of the output closed it, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn is_usage_error(error: &anyhow::Error) -> bool {
    error.is::<UsageError>()
        || matches!(error.downcast_ref::<Error>(), Some(Error::StoreUrl(_) | Error::InvalidArgument(_)))
}

impl Arguments {
    async fn run(self) -> Result<Status> {
        let Self { options, command } = self;
        let json = options.json;
        let out = &mut io::stdout().lock();
        match command {
            Command::Save { files } => save::run(&options, files, out).await,
            Command::Copy(arguments) => arguments.run(&options, out).await,
            Command::Plugin(command) => command.run(&options, out).await,
            Command::Demo { agent } => demo::run(&options, agent, out).await,
            Command::Latest(id) => {
                let checkpointer = options.open().await?;
                let is_found = if json {
                    print::document(checkpointer.latest_document(&id.session).await?, out)?
                } else {
                    print::checkpoint(checkpointer.latest(&id.session).await?, out)?
                };
                if is_found { Ok(Status::Success) } else { id.not_found() }
            }
            Command::Load(id) => {
                let checkpointer = options.open().await?;
                let is_found = if json {
                    print::document(checkpointer.load_document(&id.session, &id.checkpoint).await?, out)?
                } else {
                    print::checkpoint(checkpointer.load(&id.session, &id.checkpoint).await?, out)?
                };
                if is_found { Ok(Status::Success) } else { id.not_found() }
            }
            Command::List { of: SessionId { session }, limit, run } => {
                let mut query = HistoryQuery::new(&session);
                if let Some(run) = &run {
                    query = query.run(run);
                }
                if let Some(limit) = limit {
                    query = query.limit(limit);
                }
                let checkpointer = options.open().await?;
                let unreadable = if json {
                    let history = checkpointer.list_documents(query).await?;
                    print::documents(&history.documents, out)?;
                    history.unreadable
                } else {
                    let history = checkpointer.list(query).await?;
                    print::history(&history.checkpoints, &session, run.as_deref(), out)?;
                    history.unreadable
                };
                print::unreadable(&unreadable)?;
                Ok(Status::Success)
            }
            Command::PinCheckpoint(id) => {
                let is_found = options.open().await?.pin_checkpoint(&id.session, &id.checkpoint).await?;
                id.changed("pinned", is_found, json, out)
            }
            Command::PinSession(id) => {
                print::count("pinned", options.open().await?.pin_session(&id.session).await?, json, out)?;
                Ok(Status::Success)
            }
            Command::UnpinCheckpoint(id) => {
                let is_found = options.open().await?.unpin_checkpoint(&id.session, &id.checkpoint).await?;
                id.changed("unpinned", is_found, json, out)
            }
            Command::UnpinSession(id) => {
                print::count("unpinned", options.open().await?.unpin_session(&id.session).await?, json, out)?;
                Ok(Status::Success)
            }
            Command::DeleteCheckpoint(id) => {
                let is_found = options.open().await?.delete_checkpoint(&id.session, &id.checkpoint).await?;
                id.changed("deleted", is_found, json, out)
            }
            Command::DeleteSession { of: id, confirmation } => {
                let checkpointer = options.open().await?;
                let (session, url) = (&id.session, options.url()?);
                confirmation.confirm(&format!("delete all checkpoints of session {session:?} in {url}"))?;
                let count = checkpointer.delete_session(session).await?;
                if count == 0 {
                    return id.not_found();
                }
                print::count("deleted", count, json, out)?;
                Ok(Status::Success)
            }
            Command::ClearAll(confirmation) => {
                let checkpointer = options.open().await?;
                let (prefix, url) = (&options.prefix, options.url()?);
                confirmation
                    .confirm(&format!("delete all checkpoints with the prefix {prefix:?} in {url}"))?;
                print::count("deleted", checkpointer.clear_all().await?, json, out)?;
                Ok(Status::Success)
            }
        }
    }
}

impl CheckpointId {
    /// Prints that the checkpoint was changed, or that it does not exist.
    fn changed(&self, change: &str, is_found: bool, json: bool, out: &mut impl Write) -> Result<Status> {
        if !is_found {
            return self.not_found();
        }
        print::count(change, 1, json, out)?;
        Ok(Status::Success)
    }

    fn not_found(&self) -> Result<Status> {
        let Self { session, checkpoint } = self;
        writeln!(io::stderr(), "checkpointer: no checkpoint {checkpoint:?} in session {session:?}")?;
        Ok(Status::NotFound)
    }
}

impl SessionId {
    fn not_found(&self) -> Result<Status> {
        writeln!(io::stderr(), "checkpointer: no checkpoints in session {:?}", self.session)?;
        Ok(Status::NotFound)
    }
}
