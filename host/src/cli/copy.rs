//! `copy`: copies all checkpoints of a prefix with their TTLs and pins, and
//! compares source and target until they match.
//!
//! - `location`: store, prefix and layout of the source or the target.
//! - `transfer`: the copy of one checkpoint.
//! - `expiry`: expiries that are compared between stores.
//! - `resume_file`: the position of an interrupted copy.
//! - `summary`, `progress`: the result, and messages until then.

mod expiry;
mod location;
mod progress;
mod resume_file;
mod summary;
mod transfer;

use std::collections::HashSet;
use std::io::Write;

use anyhow::{Context, Result, bail};
use checkpointer::{Checkpointer, Error, ScanEntry};
use clap::Args;
use tokio::task::JoinSet;

use self::location::Location;
use self::progress::Progress;
use self::resume_file::{Position, ResumeFile};
use self::summary::Summary;
use self::transfer::{CopyOutcome, transfer};
use super::options::Layout;
use super::{Options, Status, UsageError, print, with_sources};

/// Limits of the transfers that run concurrently.
const MAX_CONCURRENT: usize = 64;
const MAX_CONCURRENT_BYTES: usize = 64 * 1024 * 1024;

/// The first transfers of a page, before the size of documents is known.
const INITIAL_CONCURRENT: usize = 4;

const MAX_PASSES: u32 = 5;

#[derive(Debug, Args)]
#[command(
    after_help = "The source is --from with --prefix and --layout. TTLs and pinned sessions are preserved. Source and \
    target are compared until they match: a checkpoint of the target is replaced if its document differs, or if its \
    expiry differs by more than 10 seconds. Nothing is deleted on either side. A session that is pinned at the target \
    only stays pinned and is reported.\n\
    Repeat the command to resume an interrupted copy."
)]
pub struct CopyArguments {
    /// The URL of the source; see --store of other commands for its forms.
    #[arg(long, value_name = "URL", env = "CHECKPOINTER_FROM", hide_env_values = true)]
    from: String,
    /// The URL of the target.
    #[arg(long, value_name = "URL", env = "CHECKPOINTER_TO", hide_env_values = true)]
    to: String,
    /// The prefix of all keys at the target [default: --prefix].
    #[arg(long, value_name = "P")]
    to_prefix: Option<String>,
    /// How keys are named at the target [default: --layout].
    #[arg(long, value_name = "L")]
    to_layout: Option<Layout>,
    /// Start again instead of resuming an interrupted copy.
    #[arg(long)]
    restart: bool,
}

impl CopyArguments {
    pub async fn run(self, options: &Options, out: &mut impl Write) -> Result<Status> {
        let source = Location::new(&self.from, &options.prefix, options.layout)?;
        let prefix = self.to_prefix.as_deref().unwrap_or(&options.prefix);
        let target = Location::new(&self.to, prefix, self.to_layout.unwrap_or(options.layout))?;
        let (source_name, target_name) = (source.to_string(), target.to_string());
        if source_name == target_name {
            let message = format!(
                "source and target are both {source_name}; use another --to, --to-prefix or --to-layout"
            );
            return Err(UsageError(message).into());
        }
        if source.is_missing_file() {
            bail!("the source does not exist: {source_name}");
        }
        let mut job = CopyJob {
            source: source.open().await?,
            source_name: source_name.clone(),
            target: target.open().await?,
            resume_file: ResumeFile::new(&source_name, &target_name),
            progress: Progress::new(),
            summary: Summary::default(),
            pinned_by_copy: HashSet::new(),
            position: None,
            is_resumed: false,
        };
        if self.restart {
            job.resume_file.remove();
        }
        let result = tokio::select! {
            result = job.run() => result,
            signal = tokio::signal::ctrl_c() => {
                signal.context("can't handle SIGINT")?;
                Err(anyhow::anyhow!("interrupted"))
            }
        };
        job.progress.finish();
        if let Err(error) = result {
            return Err(error.context(job.save_position()));
        }
        job.summary.print(options.json, out)?;
        Ok(if job.summary.has_skipped() { Status::Failure } else { Status::Success })
    }
}

struct CopyJob {
    source: Checkpointer,
    source_name: String,
    target: Checkpointer,
    resume_file: ResumeFile,
    progress: Progress,
    summary: Summary,
    /// Sessions that this copy pinned at the target.
    pinned_by_copy: HashSet<String>,
    /// The position of the first pass.
    position: Option<Position>,
    /// Whether the first pass began at the position of an earlier copy.
    is_resumed: bool,
}

impl CopyJob {
    /// Copies in passes over all checkpoints until a pass finds no difference.
    async fn run(&mut self) -> Result<()> {
        self.position = self.resume_file.read();
        self.is_resumed = self.position.is_some();
        if let Some(Position { checkpoints, .. }) = &self.position {
            let done = print::checkpoints(*checkpoints);
            self.progress.print(&format!("resuming an earlier copy after about {done}"));
        }
        for _ in 0..MAX_PASSES {
            self.summary.begin_pass();
            let is_complete = self.pass().await?;
            self.summary.end_pass();
            // Each later pass starts at the beginning.
            self.discard_position();
            self.progress.print(&self.summary.pass_result());
            if is_complete && self.summary.different() == 0 {
                return Ok(());
            }
        }
        bail!(
            "the last of {MAX_PASSES} passes still copied {}, because {} keeps changing; repeat the command when \
             fewer checkpoints are saved",
            print::checkpoints(self.summary.different()),
            self.source_name
        )
    }

    /// Copies all checkpoints, from the position of an earlier copy on if there is
    /// one. Returns whether the pass was complete.
    async fn pass(&mut self) -> Result<bool> {
        let is_first = self.summary.passes == 1;
        let mut cursor = self.position.as_ref().map(|position| position.cursor.clone());
        let mut is_complete = cursor.is_none();
        loop {
            let page = match self.source.scan(cursor.as_deref()).await {
                Ok(page) => page,
                Err(error) => {
                    // If the first page can be read, the store rejects the cursor and
                    // would reject it again.
                    let rejects_cursor = cursor.is_some() && self.source.scan(None).await.is_ok();
                    let was_resumed = self.is_resumed;
                    if rejects_cursor {
                        self.discard_position();
                    }
                    if !rejects_cursor || !was_resumed {
                        return Err(error.into());
                    }
                    let error = print::escape_control(&with_sources(&error.into()));
                    self.progress
                        .print(&format!("the copy starts again, because it can't be resumed: {error}"));
                    self.summary.passes = 0;
                    self.summary.begin_pass();
                    (cursor, is_complete) = (None, true);
                    continue;
                }
            };
            for unreadable in page.unreadable {
                let reason = format!("it can't be read: {}", unreadable.reason);
                self.summary.skip(None, Some(&unreadable.checkpoint_id), reason);
            }
            self.transfer_page(page.checkpoints).await?;
            for session in page.pinned_sessions {
                self.pin(session).await?;
            }
            let Some(next) = page.next_cursor else { return Ok(is_complete) };
            if is_first {
                let earlier = self.position.take().map_or(0, |position| position.checkpoints);
                let checkpoints = earlier + self.summary.take_processed();
                let position = Position { cursor: next.clone(), checkpoints };
                self.resume_file.write_throttled(&position);
                self.position = Some(position);
            }
            cursor = Some(next);
        }
    }

    /// Copies the checkpoints of a page concurrently.
    async fn transfer_page(&mut self, entries: Vec<ScanEntry>) -> Result<()> {
        let mut entries = entries.into_iter();
        let mut running = JoinSet::new();
        let (mut done, mut max_bytes) = (0, 1);
        loop {
            let limit =
                MAX_CONCURRENT.min(INITIAL_CONCURRENT + done).min(MAX_CONCURRENT_BYTES / max_bytes).max(1);
            while running.len() < limit {
                let Some(entry) = entries.next() else { break };
                let (source, target) = (self.source.clone(), self.target.clone());
                let session = &entry.session_id;
                let is_pinned =
                    self.pinned_by_copy.contains(session) || self.summary.is_pinned_at_target(session);
                running.spawn(async move { (transfer(&source, &target, &entry, is_pinned).await, entry) });
            }
            let Some(ended) = running.join_next().await else { return Ok(()) };
            let (outcome, entry) = ended.context("a task of the copy failed")?;
            done += 1;
            let outcome = outcome?;
            if let CopyOutcome::Equal { bytes } | CopyOutcome::Copied { bytes, .. } = outcome {
                max_bytes = max_bytes.max(bytes);
            }
            self.summary.count(&entry, outcome);
            self.progress.show(|| self.summary.progress());
        }
    }

    /// Pins a session at the target, unless this copy has pinned it before.
    async fn pin(&mut self, session: String) -> Result<()> {
        self.summary.count_pinned_at_source(&session);
        if self.pinned_by_copy.contains(&session) {
            return Ok(());
        }
        match self.target.pin_session(&session).await {
            Ok(_) => {
                self.pinned_by_copy.insert(session);
                self.summary.pinned += 1;
            }
            Err(Error::InvalidArgument(reason)) => self.summary.skip(Some(&session), None, reason),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The next copy starts again.
    fn discard_position(&mut self) {
        self.position = None;
        self.is_resumed = false;
        self.resume_file.remove();
    }

    /// Writes the position of a copy that stopped. Returns a message for the user.
    fn save_position(&self) -> String {
        match &self.position {
            Some(position) if self.resume_file.write(position).is_ok() => {
                let done = print::checkpoints(position.checkpoints);
                format!("the copy stopped after about {done}; repeat the command to resume it")
            }
            _ => "the copy stopped; repeat the command to start it again".to_owned(),
        }
    }
}
