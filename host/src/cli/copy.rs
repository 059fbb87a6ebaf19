//! `copy`: all checkpoints under a prefix to another place, each for the time that
//! it has left, until a look at all of them finds everything there as it is here.
//!
//! - `transfer`: what is done with one checkpoint.
//! - `life`: how long it has to live, here and there.
//! - `bookmark`: where an interrupted copy goes on.
//! - `meter`: how far it has come, for people.

mod bookmark;
mod life;
mod meter;
mod transfer;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use checkpointer::store::{StoreUrl, StorageReason};
use checkpointer::{Checkpointer, Error, Listed, Listing};
use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::bookmark::Bookmark;
use self::life::{Life, Watched, with_life};
use self::meter::{Meter, counted};
use self::transfer::{Fate, transfer};
use super::{Layout, Options, Outcome, Usage, show};

/// How many checkpoints are on their way at once, and how many bytes of documents
/// about.
const AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = 64 * 1024 * 1024;

/// How many there are to begin with, while nobody knows how large they are.
const AT_FIRST: usize = 4;

/// How often everything is gone through until nothing differs.
const PASSES: u32 = 5;

/// How many of those that were left are named.
const NAMED: usize = 20;

/// The pauses before a store is tried again.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

#[derive(Debug, Args)]
#[command(
    after_help = "What is copied begins with --prefix and is named as --layout says. Each checkpoint has \
    the time that it has left here, and sessions that are pinned are pinned there. What differs there, in its \
    document or by more than 10 seconds in its life, is replaced, and nothing is removed on either side. A session \
    that is pinned there and not here stays so, and is named.\n\
    Repeat the command to go on with a copy that was interrupted."
)]
pub struct Copy {
    /// Where to copy from; written as for --store.
    #[arg(long, value_name = "URL", env = "CHECKPOINTER_FROM", hide_env_values = true)]
    from: String,
    /// Where to copy to.
    #[arg(long, value_name = "URL", env = "CHECKPOINTER_TO", hide_env_values = true)]
    to: String,
    /// What every key begins with there [default: as --prefix].
    #[arg(long, value_name = "P")]
    to_prefix: Option<String>,
    /// How keys are named behind it there [default: as --layout].
    #[arg(long, value_name = "L")]
    to_layout: Option<Layout>,
    /// Begin at the beginning, even if an earlier copy was interrupted.
    #[arg(long)]
    restart: bool,
}

impl Copy {
    pub async fn run(self, options: &Options, out: &mut impl Write) -> Result<Outcome> {
        options.are_for_copying()?;
        let (prefix, layout) = (options.prefix.as_str(), options.layout);
        let from = Place::new(&self.from, prefix, layout)?;
        let to_prefix = self.to_prefix.as_deref().unwrap_or(prefix);
        let to = Place::new(&self.to, to_prefix, self.to_layout.unwrap_or(layout))?;
        // Whoever it is that connects, it is the same.
        if from.to_string() == to.to_string() {
            return Err(Usage(format!(
                "{from} is where to copy from and where to copy to; say another --to, --to-prefix or --to-layout"
            ))
            .into());
        }
        if let StoreUrl::Sqlite(path) = &from.address
            && !path.exists()
        {
            bail!("{}: there is no such file to copy from", from.address);
        }
        let bookmark = Bookmark::of(&from.to_string(), &to.to_string());
        let mut copying = Copying {
            from: from.open().await?,
            to: to.open().await?,
            bookmark,
            meter: Meter::new(),
            tally: Tally::default(),
            pinned: HashSet::new(),
            reached: None,
            is_resumed: false,
        };
        if self.restart {
            copying.bookmark.remove();
        }
        let ended = tokio::select! {
            ended = copying.run() => ended,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("can't wait for an interruption")?;
                Err(anyhow::anyhow!("interrupted"))
            }
        };
        copying.meter.finish();
        if let Err(error) = ended {
            return Err(copying.stopped(error));
        }
        copying.tally.tell(options.json, out)?;
        Ok(if copying.tally.left == 0 { Outcome::Done } else { Outcome::Failed })
    }
}

/// Where checkpoints are.
struct Place {
    address: StoreUrl,
    prefix: String,
    layout: Layout,
}

impl Place {
    fn new(address: &str, prefix: &str, layout: Layout) -> Result<Self> {
        let mut address: StoreUrl = address.parse().map_err(Error::from)?;
        match &mut address {
            StoreUrl::Memory => {
                let fault = "memory: is gone with this process; copy between stores that stay";
                return Err(Usage(fault.to_owned()).into());
            }
            // However the file is called, it is the same.
            StoreUrl::Sqlite(path) => *path = fs::canonicalize(&path).unwrap_or(std::path::absolute(&path)?),
            StoreUrl::Redis(_) => {}
        }
        Ok(Self { address, prefix: prefix.to_owned(), layout })
    }

    async fn open(self) -> Result<Side> {
        let Self { address, prefix, layout } = self;
        // Everything as it is stored: no state is too large, or to be expanded.
        let builder = Checkpointer::builder().prefix(prefix).layout(layout.into()).max_state_bytes(u64::MAX);
        let store = address.open().await.map_err(Error::from).with_context(|| address.to_string())?;
        let opened = builder.open_store(Arc::new(Watched(store))).await;
        let checkpointer = opened.with_context(|| address.to_string())?;
        Ok(Side { checkpointer, address: address.to_string().into() })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, prefix, layout } = self;
        write!(formatter, "{address} (prefix {prefix:?}, layout {})", layout.word())
    }
}

/// A checkpointer, and where it is, for messages.
#[derive(Clone)]
struct Side {
    checkpointer: Checkpointer,
    address: Arc<str>,
}

impl Side {
    /// Does what may be repeated, again if the store was out of reach for a moment.
    async fn call<T, F>(&self, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        for pause in PAUSES {
            match call().await {
                Err(error) if may_pass(&error) => {
                    tracing::warn!(store = %self.address, %error, ?pause, "trying again");
                    sleep(pause).await;
                }
                answer => return answer,
            }
        }
        call().await
    }

    /// The document of a checkpoint that is there, and how long it has to live.
    async fn look_at(&self, session: &str, id: &str) -> Result<Option<(String, Life)>, Error> {
        let load = || with_life(self.checkpointer.load_document(session, Some(id)));
        let (document, life) = self.call(load).await?;
        Ok(document.zip(life))
    }

    /// Says of a failure which side it was on.
    fn failed(&self, error: Error) -> anyhow::Error {
        anyhow::Error::new(error).context(self.address.to_string())
    }
}

fn may_pass(error: &Error) -> bool {
    let reasons = [StorageReason::Unavailable, StorageReason::Timeout];
    matches!(error, Error::Storage { reason, .. } if reasons.contains(reason)) || matches!(error, Error::Busy)
}

/// A copy that is under way.
struct Copying {
    from: Side,
    to: Side,
    bookmark: Bookmark,
    meter: Meter,
    tally: Tally,
    /// Sessions that were pinned there.
    pinned: HashSet<String>,
    /// How far the first pass has come: where to go on, and how many checkpoints
    /// that were.
    reached: Option<(String, u64)>,
    /// Whether it goes on where an earlier copy was, and did not begin again since.
    is_resumed: bool,
}

impl Copying {
    /// Goes through everything until nothing differs.
    async fn run(&mut self) -> Result<()> {
        let mut after = None;
        if let Some((place, done)) = self.bookmark.read() {
            let done_before = checkpoints(done);
            self.meter.say(&format!(
                "an earlier copy stopped after about {done_before}; going on from there if the store still knows \
                 the place"
            ));
            self.reached = Some((place.clone(), done));
            self.is_resumed = true;
            after = Some(place);
        }
        for pass in 1..=PASSES {
            self.tally.begin_pass();
            let is_whole = self.pass(pass, after.take()).await?;
            self.tally.reconcile_quota();
            // The passes that come look at everything again, so there is nothing
            // that an interruption could lose.
            self.forget_place();
            let Tally { equal, differing, bytes, .. } = self.tally;
            let equal = counted(equal);
            self.meter.say(&match pass {
                1 => format!(
                    "first pass: {} copied ({}), {equal} equal",
                    counted(differing),
                    HumanBytes(bytes)
                ),
                _ => format!("pass {pass}: {} copied, {equal} equal", counted(differing)),
            });
            if is_whole && differing == 0 {
                self.tally.passes = pass;
                return Ok(());
            }
        }
        bail!(
            "{} keeps changing: the last of {PASSES} passes still found {} new or different; repeat the command \
             when less is saved there",
            self.from.address,
            checkpoints(self.tally.differing)
        )
    }

    /// From now on, the same command begins at the beginning.
    fn forget_place(&mut self) {
        self.reached = None;
        self.is_resumed = false;
        self.bookmark.remove();
    }

    /// Goes through everything from a place on; says whether that was everything.
    async fn pass(&mut self, pass: u32, mut after: Option<String>) -> Result<bool> {
        let mut is_whole = after.is_none();
        loop {
            let (from, place) = (&self.from, after.as_deref());
            let Listing { checkpoints, unreadable, pinned, next } =
                match from.call(|| from.checkpointer.scan(place)).await {
                    Ok(page) => page,
                    Err(error) => {
                        let failed = from.failed(error);
                        // If there is a first page, it is the place that it fails for,
                        // and would fail for again.
                        if place.is_some() && from.checkpointer.scan(None).await.is_ok() {
                            let may_begin_again = self.is_resumed;
                            self.forget_place();
                            if may_begin_again {
                                let why = show::plain(&format!("{failed:#}"));
                                let said = format!("can't go on from there, so the copy begins again: {why}");
                                self.meter.say(&said);
                                self.tally.begin_pass();
                                (after, is_whole) = (None, true);
                                continue;
                            }
                        }
                        return Err(failed);
                    }
                };
            for it in unreadable {
                self.tally.leave(None, Some(&it.checkpoint_id), format!("it can't be read: {}", it.reason));
            }
            self.page(pass, checkpoints).await?;
            for session in pinned {
                self.pin(session).await?;
            }
            after = next;
            let Some(place) = &after else { return Ok(is_whole) };
            if pass == 1 {
                let earlier = self.reached.take().map_or(0, |(_, done)| done);
                let done = earlier + std::mem::take(&mut self.tally.since_bookmark);
                self.bookmark.write_now_and_then(place, done);
                self.reached = Some((place.clone(), done));
            }
        }
    }

    /// Brings the checkpoints of a page over, some at once.
    async fn page(&mut self, pass: u32, listed: Vec<Listed>) -> Result<()> {
        let mut listed = listed.into_iter();
        let mut under_way = JoinSet::new();
        let (mut done, mut largest) = (0, 1);
        loop {
            let at_once = AT_ONCE.min(AT_FIRST + done).min(BYTES_AT_ONCE / largest).max(1);
            while under_way.len() < at_once {
                let Some(next) = listed.next() else { break };
                let (from, to) = (self.from.clone(), self.to.clone());
                let session = &next.session_id;
                let is_pinned_there = self.pinned.contains(session) || self.tally.held.contains_key(session);
                under_way.spawn(async move { (transfer(&from, &to, &next, is_pinned_there).await, next) });
            }
            let Some(ended) = under_way.join_next().await else { return Ok(()) };
            let (fate, checkpoint) = ended.context("a part of the copy failed")?;
            done += 1;
            let fate = fate?;
            if let Fate::Equal { bytes } | Fate::Copied { bytes, .. } = fate {
                largest = largest.max(bytes);
            }
            self.tally.add(pass, &checkpoint, fate);
            self.meter.show(pass, &self.tally);
        }
    }

    /// Pins a session there, if that was not done yet.
    async fn pin(&mut self, session: String) -> Result<()> {
        self.tally.pinned_here.insert(session.clone());
        if self.pinned.contains(&session) {
            return Ok(());
        }
        let to = &self.to;
        match to.call(|| to.checkpointer.pin(&session, None)).await {
            Ok(_) => {
                self.pinned.insert(session);
                self.tally.pinned += 1;
                Ok(())
            }
            Err(Error::InvalidArgument(reason)) => {
                self.tally.leave(Some(&session), None, reason);
                Ok(())
            }
            Err(error) => Err(to.failed(error)),
        }
    }

    /// What to say of a copy that did not come to its end.
    fn stopped(&mut self, error: anyhow::Error) -> anyhow::Error {
        let Some((place, done)) = &self.reached else {
            return error.context("the copy stopped; the same command goes through all of it again");
        };
        match self.bookmark.write(place, *done) {
            Ok(()) => {
                let done = checkpoints(*done);
                error.context(format!(
                    "the copy stopped after about {done}; the same command goes on from there if the store still \
                     knows the place"
                ))
            }
            Err(_) => error.context("the copy stopped; the same command begins again, or further back"),
        }
    }
}

/// What became of what.
#[derive(Default)]
struct Tally {
    /// How many were copied to where there was none, or another one to begin with.
    copied: u64,
    /// The bytes of these.
    bytes: u64,
    pinned: u64,
    passes: u32,
    /// Of this pass: how many were there as they are,
    equal: u64,
    /// how many were not,
    differing: u64,
    /// how many can't be copied,
    left: u64,
    /// the first of these,
    named: Vec<Left>,
    /// the hashes of the sessions' ids of those that are there,
    sessions: HashSet<u64>,
    /// the sessions that are pinned here,
    pinned_here: HashSet<String>,
    /// and for how many of a session the only difference is that it is pinned there.
    held: BTreeMap<String, u64>,
    since_bookmark: u64,
}

/// A checkpoint that was left where it is, or a session that was left as it is there.
struct Left {
    session: Option<String>,
    checkpoint: Option<String>,
    reason: String,
}

impl Tally {
    fn begin_pass(&mut self) {
        let Self { copied, bytes, pinned, passes, .. } = *self;
        *self = Self { copied, bytes, pinned, passes, ..Self::default() };
    }

    fn add(&mut self, pass: u32, checkpoint: &Listed, fate: Fate) {
        self.since_bookmark += 1;
        match fate {
            Fate::Gone => return,
            Fate::Left(reason) => {
                return self.leave(Some(&checkpoint.session_id), Some(&checkpoint.checkpoint_id), reason);
            }
            Fate::Held => {
                *self.held.entry(checkpoint.session_id.clone()).or_default() += 1;
                return;
            }
            Fate::Equal { .. } => self.equal += 1,
            Fate::Copied { bytes, was_there } => {
                self.differing += 1;
                self.bytes += bytes as u64;
                // In a later pass it was counted before.
                self.copied += u64::from(pass == 1 || !was_there);
            }
        }
        self.count_session(&checkpoint.session_id);
    }

    fn count_session(&mut self, session: &str) {
        let mut hasher = DefaultHasher::new();
        session.hash(&mut hasher);
        self.sessions.insert(hasher.finish());
    }

    /// Says of those that have no end there whether that is as it is to be, now that
    /// the pass has come by all sessions that are pinned here.
    fn settle(&mut self) {
        let held = std::mem::take(&mut self.held);
        let (as_here, only_there): (BTreeMap<_, _>, _) =
            held.into_iter().partition(|(session, _)| self.pinned_here.contains(session));
        for (session, count) in as_here {
            self.equal += count;
            self.count_session(&session);
        }
        for (session, count) in &only_there {
            let reason = format!(
                "it is pinned there and not here, so {} of it will not expire there; unpin it there and repeat the \
                 command, or pin it here",
                checkpoints(*count)
            );
            self.leave(Some(session), None, reason);
        }
        self.held = only_there;
    }

    fn leave(&mut self, session: Option<&str>, checkpoint: Option<&str>, reason: String) {
        self.left += 1;
        if self.named.len() < NAMED {
            let (session, checkpoint) = (session.map(str::to_owned), checkpoint.map(str::to_owned));
            self.named.push(Left { session, checkpoint, reason });
        }
    }

    /// The last words.
    fn tell(&self, json: bool, out: &mut impl Write) -> Result<()> {
        let Self { copied, bytes, equal, left, .. } = *self;
        let held: u64 = self.held.values().sum();
        let (sessions, there) = (self.sessions.len() as u64, (equal + held).saturating_sub(copied));
        if json {
            let named = self.named.iter().map(
                |it| json!({ "session_id": it.session, "checkpoint_id": it.checkpoint, "reason": it.reason }),
            );
            let named: Vec<_> = named.collect();
            writeln!(
                out,
                "{}",
                json!({ "copied": copied, "bytes": bytes, "there_already": there, "equal": equal,
                        "sessions": sessions, "pinned": self.pinned, "passes": self.passes, "left": left,
                        "named": named })
            )?;
            out.flush()?;
            return Ok(());
        }
        let are = if there == 1 { "was" } else { "were" };
        let sessions =
            format!("{} {}", counted(sessions), if sessions == 1 { "session" } else { "sessions" });
        writeln!(
            out,
            "copied {} ({}), {} {are} there already; all {} of {sessions} compared equal",
            checkpoints(copied),
            HumanBytes(bytes),
            counted(there),
            counted(equal),
        )?;
        out.flush()?;
        let err = &mut io::stderr();
        for Left { session, checkpoint, reason } in &self.named {
            let what = match (checkpoint, session) {
                (Some(checkpoint), Some(session)) => {
                    format!("the checkpoint {checkpoint:?} of the session {session:?}")
                }
                (Some(checkpoint), None) => format!("the checkpoint {checkpoint:?}"),
                (None, session) => format!("the session {:?}", session.as_deref().unwrap_or_default()),
            };
            writeln!(err, "checkpointer: left {what}: {}", show::plain(reason))?;
        }
        if left > self.named.len() as u64 {
            writeln!(err, "checkpointer: and {} more", counted(left - self.named.len() as u64))?;
        }
        Ok(())
    }
}

/// So many checkpoints, in words.
fn checkpoints(count: u64) -> String {
    format!("{} {}", counted(count), if count == 1 { "checkpoint" } else { "checkpoints" })
}
