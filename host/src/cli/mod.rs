//! The command line: what people type, what they read, and the exit status.
//!
//! Answers go to standard output, all else to standard error. With `--json` the
//! answer is JSON and nothing but that.

mod copy;
mod demo;
mod plugin;
mod show;

use std::fs;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use checkpointer::store::StoreUrl;
use checkpointer::{Checkpointer, DEFAULT_PREFIX, Error};
use clap::{Args, Parser, Subcommand, ValueEnum};

const DEFAULT_STORE: &str = "sqlite:checkpoints.db";

/// Says another one.
const STORE_VARIABLE: &str = "CHECKPOINTER_STORE";

/// Saves, finds and removes the checkpoints of agents and workflows.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage, 3 not found.\nSet CHECKPOINTER_LOG=debug to see what happens."
)]
struct Command {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Args)]
struct Options {
    /// Where checkpoints are: sqlite:FILE, memory:, redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE],
    /// rediss://… (TLS), redis+unix:///SOCKET, redis-cluster://HOST[:PORT],… or
    /// redis+sentinel://HOST[:PORT],…/MASTER.
    #[arg(long, global = true, value_name = "URL", env = STORE_VARIABLE, hide_env_values = true, default_value = DEFAULT_STORE)]
    store: String,
    /// What every key begins with.
    #[arg(long, global = true, value_name = "P", default_value = DEFAULT_PREFIX)]
    prefix: String,
    /// How keys are named behind it.
    #[arg(long, global = true, value_name = "L", default_value = "llmfy")]
    layout: Layout,
    /// What is saved goes away after so many seconds.
    #[arg(long, global = true, value_name = "SECONDS", allow_negative_numbers = true)]
    ttl: Option<String>,
    /// The same for a session as a whole, from when something was last saved in it.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        allow_negative_numbers = true,
        conflicts_with = "ttl"
    )]
    session_ttl: Option<String>,
    /// What is read lives on as if it had just been saved.
    #[arg(long, global = true)]
    refresh_on_read: bool,
    /// Keep no more than so many checkpoints of a session: the oldest go.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_checkpoints: Option<u32>,
    /// Store states compressed, as llmfy does with compress=True, and read them so.
    #[arg(long, global = true)]
    compress: bool,
    /// Print JSON for programs.
    #[arg(long, global = true)]
    json: bool,
}

/// [`checkpointer::Layout`], as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// As llmfy names them.
    Llmfy,
    /// Each session in one slot of a Redis Cluster.
    Partitioned,
}

impl Layout {
    /// As it is typed.
    fn word(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
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

#[derive(Debug, Subcommand)]
enum Action {
    /// Save documents as llmfy stores them: one JSON object a file, or several, or JSON Lines.
    Save {
        /// The files; - or none for standard input.
        files: Vec<PathBuf>,
    },
    /// Show a checkpoint; with --json, the stored document.
    Load {
        /// The session.
        session: String,
        /// The checkpoint; the latest, if none.
        id: Option<String>,
    },
    /// Show the history of a session, newest first; with --json, a stored document a line.
    List {
        /// The session.
        session: String,
        /// How many checkpoints at most [default: 10, or 100 of a run].
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// Only those of this run.
        #[arg(long)]
        run: Option<String>,
    },
    /// Keep a checkpoint from going away until it is saved again, or a session with all that is
    /// saved in it from now on.
    Pin {
        /// The session.
        session: String,
        /// The checkpoint; the session, if none.
        id: Option<String>,
    },
    /// End that: what was pinned lives on as if it had just been saved.
    Unpin {
        /// The session.
        session: String,
        /// The checkpoint; the session, if none.
        id: Option<String>,
    },
    /// Remove a checkpoint, or all of a session.
    Delete {
        /// The session.
        session: String,
        /// The checkpoint; all, if none.
        id: Option<String>,
    },
    /// Remove all checkpoints under the prefix.
    ClearAll {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Copy all checkpoints under the prefix to another store, prefix or layout, and look whether
    /// they are there as they are here.
    Copy(copy::Copy),
    /// Run a plugin on a text, with what it is granted and nothing else.
    Run(plugin::Run),
    /// Say what a plugin imports and exports, whether it can be run and what it would be granted.
    Check(plugin::Check),
    /// Make one component of a plugin and the checkpointer, for a host that gives it `keyvalue`.
    Compose(plugin::Compose),
    /// Tell the story of an agent that is killed half-way and goes on.
    Demo {
        /// Take the part of the agent.
        #[arg(long, hide = true)]
        agent: bool,
    },
}

/// What an action ended with, if it did not fail.
enum Outcome {
    Done,
    /// It failed, and has said so.
    Failed,
    NotFound,
}

/// A fault of what was typed, found only after clap was done with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Does what the command line says.
pub async fn main() -> ExitCode {
    let command = Command::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("CHECKPOINTER_LOG").unwrap_or_default();
    // Without CHECKPOINTER_LOG only errors show: what fails is said anyway.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(io::stderr().is_terminal()).init();
    match command.run().await {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::NotFound) => ExitCode::from(3),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "checkpointer: {error:#}");
            ExitCode::from(if is_bad_usage(&error) { 2 } else { 1 })
        }
    }
}

/// Whoever read our output has seen enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn is_bad_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || matches!(error.downcast_ref::<Error>(), Some(Error::StoreUrl(_) | Error::InvalidArgument(_)))
}

impl Command {
    async fn run(self) -> Result<Outcome> {
        let Self { options, action } = self;
        let json = options.json;
        let out = &mut io::stdout().lock();
        if matches!(action, Action::Run(_) | Action::Check(_) | Action::Compose(_)) {
            options.are_for_plugins()?;
        }
        match action {
            Action::Run(run) => return run.run(&options, out).await,
            Action::Check(check) => return check.run(&options, out),
            Action::Compose(compose) => return compose.run(&options, out),
            Action::Copy(copy) => return copy.run(&options, out).await,
            Action::Demo { agent } => demo::run(&options, agent, out).await?,
            Action::Save { files } => options.save(files, out).await?,
            Action::Load { session, id } => {
                if !options.load(&session, id.as_deref(), out).await? {
                    return not_found(&session, id.as_deref());
                }
            }
            Action::List { session, limit, run } => {
                options.list(&session, run.as_deref(), limit, out).await?
            }
            Action::Pin { session, id } => {
                let opened = options.open().await?;
                let count = opened.at(opened.checkpointer.pin(&session, id.as_deref()).await)?;
                if count == 0 && id.is_some() {
                    return not_found(&session, id.as_deref());
                }
                show::count("pinned", count, json, out)?;
            }
            Action::Unpin { session, id } => {
                let opened = options.open().await?;
                let count = opened.at(opened.checkpointer.unpin(&session, id.as_deref()).await)?;
                if count == 0 && id.is_some() {
                    return not_found(&session, id.as_deref());
                }
                show::count("unpinned", count, json, out)?;
            }
            Action::Delete { session, id } => {
                let opened = options.open().await?;
                let removed = opened.at(opened.checkpointer.delete(&session, id.as_deref()).await)?;
                if removed == 0 && !json {
                    return not_found(&session, id.as_deref());
                }
                show::count("removed", removed, json, out)?;
                if removed == 0 {
                    return Ok(Outcome::NotFound);
                }
            }
            Action::ClearAll { yes } => {
                let opened = options.open().await?;
                if !yes && !confirmed(&options.prefix, &opened.address)? {
                    bail!("nothing was removed");
                }
                let removed = opened.at(opened.checkpointer.clear_all().await)?;
                show::count("removed", removed, json, out)?;
            }
        }
        out.flush()?;
        Ok(Outcome::Done)
    }
}

fn not_found(session: &str, id: Option<&str>) -> Result<Outcome> {
    let what = id.map_or("no checkpoint".to_owned(), |id| format!("no checkpoint {id:?}"));
    writeln!(io::stderr(), "checkpointer: {what} in session {session:?}")?;
    Ok(Outcome::NotFound)
}

/// A checkpointer, and where it is, for messages.
struct Opened {
    checkpointer: Checkpointer,
    address: StoreUrl,
}

impl Opened {
    /// Says of a failure of the store which store that was.
    fn at<T>(&self, result: Result<T, Error>) -> Result<T> {
        match result {
            Err(error @ Error::Storage { .. }) => Err(error).with_context(|| self.address.to_string()),
            result => Ok(result?),
        }
    }
}

impl Options {
    fn address(&self) -> Result<StoreUrl, Error> {
        Ok(self.store.parse()?)
    }

    /// A plugin says for itself how it stores; nobody is to think that he said it.
    fn are_for_plugins(&self) -> Result<(), Usage> {
        match self.given_but_for(&["--store"]) {
            None => Ok(()),
            Some(name) => Err(Usage(format!(
                "{name} is not for plugins, which say how they store themselves; what they reach is said by --grants"
            ))),
        }
    }

    /// A copy has two stores, and changes nothing of what it copies.
    fn are_for_copying(&self) -> Result<(), Usage> {
        match self.given_but_for(&["--prefix", "--layout"]) {
            None => Ok(()),
            Some(name) => Err(Usage(format!(
                "{name} is not for copy, which takes everything as it is; where from and where to is said by --from \
                 and --to"
            ))),
        }
    }

    /// The first option that was given and is none of these.
    fn given_but_for(&self, fitting: &[&str]) -> Option<&'static str> {
        let usual = std::env::var(STORE_VARIABLE).unwrap_or_else(|_| DEFAULT_STORE.to_owned());
        let given = [
            ("--store", self.store != usual),
            ("--prefix", self.prefix != DEFAULT_PREFIX),
            ("--layout", self.layout != Layout::Llmfy),
            ("--ttl", self.ttl.is_some()),
            ("--session-ttl", self.session_ttl.is_some()),
            ("--refresh-on-read", self.refresh_on_read),
            ("--max-checkpoints", self.max_checkpoints.is_some()),
            ("--compress", self.compress),
        ];
        let mut given = given.into_iter().filter(|(name, is_given)| *is_given && !fitting.contains(name));
        given.next().map(|(name, _)| name)
    }

    async fn open(&self) -> Result<Opened> {
        let address = self.address()?;
        let mut builder = Checkpointer::builder().prefix(&self.prefix).layout(self.layout.into());
        builder = builder.compress(self.compress);
        if let Some(ttl) = &self.ttl {
            builder = builder.ttl(seconds("--ttl", ttl)?);
        }
        if let Some(ttl) = &self.session_ttl {
            builder = builder.session_ttl(seconds("--session-ttl", ttl)?);
        }
        builder = builder.refresh_on_read(self.refresh_on_read);
        if let Some(count) = self.max_checkpoints {
            builder = builder.max_checkpoints(count);
        }
        let store = address.open().await.map_err(Error::from).with_context(|| address.to_string())?;
        Ok(Opened { checkpointer: builder.open_store(store).await?, address })
    }

    async fn save(&self, files: Vec<PathBuf>, out: &mut impl Write) -> Result<()> {
        let opened = self.open().await?;
        let files = if files.is_empty() { vec![PathBuf::from("-")] } else { files };
        for file in files {
            let name =
                if file.as_os_str() == "-" { "standard input".into() } else { file.display().to_string() };
            let bytes = if file.as_os_str() == "-" {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
            } else {
                fs::read(&file)
            };
            let text = String::from_utf8(bytes.with_context(|| name.clone())?)
                .map_err(|_| Usage(format!("{name}: not text in UTF-8")))?;
            // Some editors put a byte order mark before it.
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let documents = documents(text);
            if documents.is_empty() {
                return Err(Usage(format!("{name}: no document in it")).into());
            }
            for (line, document) in documents {
                let saved = opened.at(opened.checkpointer.save_document(document).await);
                let (metadata, outcome) = saved.with_context(|| format!("{name}, line {line}"))?;
                show::saved(&metadata, outcome, self.json, out)?;
            }
        }
        Ok(())
    }

    async fn load(&self, session: &str, id: Option<&str>, out: &mut impl Write) -> Result<bool> {
        let opened = self.open().await?;
        if self.json {
            let document = opened.at(opened.checkpointer.load_document(session, id).await)?;
            if let Some(document) = &document {
                writeln!(out, "{document}")?;
            }
            return Ok(document.is_some());
        }
        let checkpoint = opened.at(opened.checkpointer.load(session, id).await)?;
        if let Some(checkpoint) = &checkpoint {
            show::checkpoint(checkpoint, out)?;
        }
        Ok(checkpoint.is_some())
    }

    async fn list(
        &self,
        session: &str,
        run: Option<&str>,
        limit: Option<u32>,
        out: &mut impl Write,
    ) -> Result<()> {
        let opened = self.open().await?;
        let unreadable = if self.json {
            let listed = opened.at(opened.checkpointer.list_documents(session, run, limit).await)?;
            for document in listed.documents {
                // Line breaks in JSON stand only between tokens.
                writeln!(out, "{}", document.replace(['\n', '\r'], " "))?;
            }
            listed.unreadable
        } else {
            let history = match run {
                Some(run) => opened.checkpointer.list_by_run(session, run, limit).await,
                None => opened.checkpointer.list(session, limit).await,
            };
            let history = opened.at(history)?;
            if history.checkpoints.is_empty() {
                show::nothing(session, run, limit, out)?;
            } else {
                show::history(&history.checkpoints, out)?;
            }
            history.unreadable
        };
        for unreadable in unreadable {
            let (id, reason) = (unreadable.checkpoint_id, unreadable.reason);
            writeln!(io::stderr(), "checkpointer: the checkpoint {id:?} can't be read: {reason}")?;
        }
        Ok(())
    }
}

/// The documents of a file, each with the number of the line that it begins in:
/// the whole of it, or a line each.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let lines = || {
        text.lines()
            .enumerate()
            .map(|(line, text)| (line + 1, text))
            .filter(|(_, line)| !line.trim().is_empty())
    };
    // What is JSON Lines has a whole object in its first line.
    let first_is_whole =
        lines().next().is_some_and(|(_, line)| line.trim_end().ends_with('}') && balanced(line));
    if first_is_whole {
        return lines().collect();
    }
    lines().next().map(|(line, _)| (line, text)).into_iter().collect()
}

/// Whether as many braces close as open outside of strings.
fn balanced(line: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_i64, false, false);
    for byte in line.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' if !in_string => depth += 1,
            b'}' if !in_string => depth -= 1,
            _ => {}
        }
    }
    depth == 0 && !in_string
}

fn seconds(option: &str, ttl: &str) -> Result<Duration, Usage> {
    match ttl.parse() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(Usage(format!("{option} must be a whole number of seconds greater than 0, not {ttl:?}"))),
    }
}

fn confirmed(prefix: &str, address: &StoreUrl) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Usage("clear-all asks first; without a terminal, say --yes".into()).into());
    }
    write!(io::stderr(), "Remove all checkpoints under {prefix:?} in {address}? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_document_or_one_a_line() {
        assert_eq!(documents("{\n \"a\": {}\n}\n"), [(1, "{\n \"a\": {}\n}\n")]);
        assert_eq!(
            documents("\n{\"a\": \"}{\"}\n\n{\"b\": 1}\n"),
            [(2, "{\"a\": \"}{\"}"), (4, "{\"b\": 1}")]
        );
        assert_eq!(documents("{\"a\": {}}"), [(1, "{\"a\": {}}")]);
        assert_eq!(documents(" \n"), []);
        assert_eq!(documents("not json"), [(1, "not json")]);
    }
}
