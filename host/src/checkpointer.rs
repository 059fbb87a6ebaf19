//! The checkpointer for Rust applications.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "serde")]
use crate::Timestamp;
use crate::bindings::flow::checkpoint::types as wit;
use crate::component::{Pool, PoolLimits, call, require_runtime};
use crate::keyvalue::KeyvalueCtx;
use crate::retry::Retry;
use crate::store::{ManualClock, SqliteStore, Store, StoreUrl};
use crate::{
    Checkpoint, DocumentDump, Error, History, HistoryQuery, Layout, Metadata, RawHistory, SaveOutcome,
    ScanPage,
};

/// The default prefix of every key, which llmfy uses too.
pub const DEFAULT_PREFIX: &str = "llmfy_checkpoint:";

/// The only bucket that the library's own component may open.
const BUCKET: &str = "default";

/// The checkpoints under one prefix of one store.
///
/// Clones are cheap and share instances and connections. Calls from many tasks
/// run concurrently. Dropping the last clone closes the checkpointer, as does
/// [`Checkpointer::close`].
///
/// Calls need a tokio runtime with time and I/O (`enable_all`); different runtimes may
/// use the same checkpointer. Outside of a runtime, a call is an
/// [`Error::NoRuntime`]. In a runtime without time or I/O, a call that needs them
/// panics.
///
/// Dropping the future of a call cancels it: a save that was cancelled has either
/// taken effect as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Checkpointer {
    pool: Arc<Pool>,
    retry: Retry,
    #[cfg(feature = "serde")]
    clock: Option<ManualClock>,
}

/// Options of a [`Checkpointer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it opens a checkpointer"]
pub struct CheckpointerBuilder {
    prefix: String,
    layout: Layout,
    ttl: Option<(Duration, wit::TtlScope)>,
    refresh_on_read: bool,
    max_state_bytes: Option<u64>,
    compress: bool,
    max_checkpoints: Option<u32>,
    retry: Retry,
    clock: Option<ManualClock>,
}

/// Calls an export of the component, and retries as the options say.
macro_rules! call_with_retry {
    ($self:ident.$function:ident($($argument:expr),*)) => {{
        let mut attempts = $self.retry.attempts();
        loop {
            let result = call!($self.pool, $function($($argument),*));
            match attempts.next(result).await {
                Some(result) => break result,
                None => continue,
            }
        }
    }};
}

impl Checkpointer {
    /// Opens the checkpointer over the store at this URL, for example
    /// `sqlite:checkpoints.db` or `redis://localhost`, with default options:
    /// llmfy's prefix and layout, no expiry. [`StoreUrl`] lists all forms of URLs.
    /// A connection to Redis is made by the first call.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let checkpointer = Checkpointer::open("memory:").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::StoreUrl`] for an invalid URL; [`Error::Storage`] if the file can't be
    /// opened.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::builder().open(url).await
    }

    /// Starts a builder with the default options.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use checkpointer::{Checkpointer, Layout, Retry};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let checkpointer = Checkpointer::builder()
    ///     .prefix("my-agent:")
    ///     .layout(Layout::Partitioned)
    ///     .session_ttl(Duration::from_secs(30 * 24 * 60 * 60))
    ///     .refresh_on_read(true)
    ///     .max_checkpoints(1000)
    ///     .max_state_bytes(1_000_000)
    ///     .compress(true)
    ///     .retry(Retry::default())
    ///     .open("memory:")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> CheckpointerBuilder {
        CheckpointerBuilder {
            prefix: DEFAULT_PREFIX.to_owned(),
            layout: Layout::Llmfy,
            ttl: None,
            refresh_on_read: false,
            max_state_bytes: None,
            compress: false,
            max_checkpoints: None,
            retry: Retry::none(),
            clock: None,
        }
    }

    /// Saves a checkpoint and its index entries in one atomic step. It replaces a
    /// checkpoint of the session with the same id. A checkpoint passed by
    /// reference is cloned.
    ///
    /// ```
    /// # use checkpointer::{Checkpoint, Checkpointer, Metadata, Run, SaveOutcome};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let checkpointer = Checkpointer::open("memory:").await?;
    /// let metadata = Metadata::new("session-1", "checkpoint-1").run(Run::new("run-1"));
    /// let outcome = checkpointer.save(Checkpoint::new(metadata, r#"{"turn": 1}"#)).await?;
    /// assert_eq!(outcome, SaveOutcome::Latest);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Any error but [`Error::Corrupt`].
    pub async fn save(&self, checkpoint: impl Into<Checkpoint>) -> Result<SaveOutcome, Error> {
        let checkpoint = wit::Checkpoint::from(checkpoint.into());
        call_with_retry!(self.call_save(&checkpoint)).map(SaveOutcome::from)
    }

    /// Saves a checkpoint if `latest` is the id of the session's latest checkpoint;
    /// with `None`, if the session has no checkpoint. The check and the write are
    /// one atomic step: of several concurrent calls with the same `latest`, exactly
    /// one succeeds. Saving an identical checkpoint again succeeds.
    ///
    /// ```
    /// # use checkpointer::{Checkpoint, Checkpointer, Conflict, Error, Metadata, Run};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// let checkpoint = |id: &str| Checkpoint::new(Metadata::new("s", id).run(Run::new("run-1")), "{}");
    /// checkpointer.save_after(checkpoint("1"), None).await?;
    /// match checkpointer.save_after(checkpoint("2"), None).await {
    ///     Err(Error::Conflict(Conflict::NotLatest { actual })) => assert_eq!(actual.as_deref(), Some("1")),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Conflict`] with [`Conflict::NotLatest`](crate::Conflict::NotLatest)
    /// if another checkpoint is the latest; [`Error::InvalidArgument`] if the
    /// checkpoint is not newer than the latest one; otherwise as
    /// [`Checkpointer::save`].
    pub async fn save_after(
        &self,
        checkpoint: impl Into<Checkpoint>,
        latest: Option<&str>,
    ) -> Result<SaveOutcome, Error> {
        let checkpoint = wit::Checkpoint::from(checkpoint.into());
        call_with_retry!(self.call_save_after(&checkpoint, latest)).map(SaveOutcome::from)
    }

    /// Saves a checkpoint given as a stored document of format A or B. Returns its
    /// metadata.
    ///
    /// ```
    /// # use checkpointer::{Checkpoint, Checkpointer, Metadata, Run};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// let metadata = Metadata::new("session-1", "checkpoint-1").run(Run::new("run-1"));
    /// checkpointer.save(Checkpoint::new(metadata, "{}")).await?;
    /// let document = checkpointer.latest_document("session-1").await?.expect("a document");
    /// assert_eq!(checkpointer.load_document("session-1", "checkpoint-1").await?, Some(document.clone()));
    /// let (metadata, _) = checkpointer.save_document(&document).await?;
    /// assert_eq!(metadata.checkpoint_id, "checkpoint-1");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the document can't be read; otherwise as
    /// [`Checkpointer::save`].
    pub async fn save_document(&self, document: &str) -> Result<(Metadata, SaveOutcome), Error> {
        let (metadata, outcome) = call_with_retry!(self.call_save_document(document))?;
        Ok((metadata.try_into()?, outcome.into()))
    }

    /// Saves a document with the given remaining TTL; with `None` it does not
    /// expire. The TTL of this checkpointer is ignored, and the TTLs of other
    /// checkpoints do not change. In a pinned session the checkpoint is pinned.
    /// Used to copy between stores, with [`Checkpointer::dump`].
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (source, target) = (Checkpointer::open("memory:").await?, Checkpointer::open("memory:").await?);
    /// if let Some(dump) = source.dump("session-1", "checkpoint-1").await? {
    ///     target.restore(&dump.document, dump.expires_in).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Checkpointer::save_document`], and [`Error::InvalidArgument`] if the
    /// TTL is less than 1 ms or too far in the future for the store.
    pub async fn restore(
        &self,
        document: &str,
        ttl: Option<Duration>,
    ) -> Result<(Metadata, SaveOutcome), Error> {
        let (metadata, outcome) = call_with_retry!(self.call_restore(document, ttl.map(milliseconds)))?;
        Ok((metadata.try_into()?, outcome.into()))
    }

    /// Returns the latest checkpoint of a session; `None` if the session has none.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// assert_eq!(checkpointer.latest("session-1").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it can't be read; [`Error::InvalidArgument`],
    /// [`Error::Storage`].
    pub async fn latest(&self, session_id: &str) -> Result<Option<Checkpoint>, Error> {
        call_with_retry!(self.call_latest(session_id))?.map(Checkpoint::try_from).transpose()
    }

    /// Returns the checkpoint with this id; `None` if the session has no such
    /// checkpoint.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// assert_eq!(checkpointer.load("session-1", "checkpoint-1").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Checkpointer::latest`].
    pub async fn load(&self, session_id: &str, checkpoint_id: &str) -> Result<Option<Checkpoint>, Error> {
        call_with_retry!(self.call_load(session_id, checkpoint_id))?.map(Checkpoint::try_from).transpose()
    }

    /// Returns the stored document of the latest checkpoint of a session. See
    /// [`Checkpointer::save_document`] for an example.
    ///
    /// # Errors
    /// As [`Checkpointer::latest`].
    pub async fn latest_document(&self, session_id: &str) -> Result<Option<String>, Error> {
        call_with_retry!(self.call_latest_document(session_id))
    }

    /// Returns the stored document of the checkpoint with this id. See
    /// [`Checkpointer::save_document`] for an example.
    ///
    /// # Errors
    /// As [`Checkpointer::latest`].
    pub async fn load_document(
        &self,
        session_id: &str,
        checkpoint_id: &str,
    ) -> Result<Option<String>, Error> {
        call_with_retry!(self.call_load_document(session_id, checkpoint_id))
    }

    /// Returns the stored document of the checkpoint with this id and its remaining
    /// TTL, for [`Checkpointer::restore`]. Does not refresh the TTL.
    ///
    /// # Errors
    /// As [`Checkpointer::latest`].
    pub async fn dump(&self, session_id: &str, checkpoint_id: &str) -> Result<Option<DocumentDump>, Error> {
        Ok(call_with_retry!(self.call_dump(session_id, checkpoint_id))?.map(DocumentDump::from))
    }

    /// Returns the newest checkpoints of a session, newest first. A session id is
    /// a query for its 10 newest checkpoints.
    ///
    /// ```
    /// # use checkpointer::{Checkpoint, Checkpointer, HistoryQuery, Metadata, Run};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// for id in ["1", "2", "3"] {
    ///     let metadata = Metadata::new("session-1", id).run(Run::new("run-1"));
    ///     checkpointer.save(Checkpoint::new(metadata, "{}")).await?;
    /// }
    /// let history = checkpointer.list(HistoryQuery::new("session-1").run("run-1").limit(2)).await?;
    /// let ids: Vec<_> = history.checkpoints.iter().map(|it| it.metadata.checkpoint_id.as_str()).collect();
    /// assert_eq!(ids, ["3", "2"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Storage`].
    pub async fn list(&self, query: impl Into<HistoryQuery>) -> Result<History, Error> {
        let query = query.into().into();
        call_with_retry!(self.call_list(&query))?.try_into()
    }

    /// Returns the stored documents of the newest checkpoints of a session, newest
    /// first. See [`Checkpointer::list`] for an example.
    ///
    /// # Errors
    /// As [`Checkpointer::list`].
    pub async fn list_documents(&self, query: impl Into<HistoryQuery>) -> Result<RawHistory, Error> {
        let query = query.into().into();
        call_with_retry!(self.call_list_documents(&query)).map(RawHistory::from)
    }

    /// Returns a page of the checkpoints of all sessions under the prefix, with
    /// their remaining TTLs, unordered. Only the head of each document is read, so
    /// the size of a page does not depend on the size of the states. A checkpoint
    /// that exists from the first page to the last is returned at least once.
    /// `cursor` is the [`ScanPage::next_cursor`] of the previous page. Does not
    /// refresh TTLs.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// let mut cursor = None;
    /// loop {
    ///     let page = checkpointer.scan(cursor.as_deref()).await?;
    ///     for entry in page.checkpoints {
    ///         println!("{} {}", entry.session_id, entry.checkpoint_id);
    ///     }
    ///     cursor = page.next_cursor;
    ///     if cursor.is_none() {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an invalid cursor; [`Error::Storage`].
    pub async fn scan(&self, cursor: Option<&str>) -> Result<ScanPage, Error> {
        call_with_retry!(self.call_scan(cursor)).map(ScanPage::from)
    }

    /// Pins a checkpoint: it does not expire. Saving the same id again ends the pin.
    /// A pinned checkpoint can still be deleted, and
    /// [`CheckpointerBuilder::max_checkpoints`] counts it and can remove it. Returns
    /// whether the checkpoint exists.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// assert!(!checkpointer.pin_checkpoint("session-1", "checkpoint-1").await?);
    /// assert!(!checkpointer.unpin_checkpoint("session-1", "checkpoint-1").await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Checkpointer::delete_session`].
    pub async fn pin_checkpoint(&self, session_id: &str, checkpoint_id: &str) -> Result<bool, Error> {
        call_with_retry!(self.call_pin_checkpoint(session_id, checkpoint_id))
    }

    /// Pins a session: its checkpoints do not expire, nor do those saved in it until
    /// [`Checkpointer::unpin_session`]. Returns how many checkpoints the session has.
    ///
    /// ```
    /// # use checkpointer::{Checkpoint, Checkpointer, Metadata, Run};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// let builder = Checkpointer::builder().ttl(Duration::from_secs(60));
    /// let checkpointer = builder.open("memory:").await?;
    /// let metadata = Metadata::new("session-1", "checkpoint-1").run(Run::new("run-1"));
    /// checkpointer.save(Checkpoint::new(metadata, "{}")).await?;
    /// checkpointer.pin_session("session-1").await?;
    /// let dump = checkpointer.dump("session-1", "checkpoint-1").await?.expect("a document");
    /// assert_eq!(dump.expires_in, None);
    /// assert_eq!(checkpointer.unpin_session("session-1").await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Checkpointer::delete_session`].
    pub async fn pin_session(&self, session_id: &str) -> Result<u64, Error> {
        call_with_retry!(self.call_pin_session(session_id))
    }

    /// Gives a pinned checkpoint the TTL of a checkpoint saved now. In a pinned
    /// session it stays pinned. Returns whether the checkpoint exists.
    ///
    /// # Errors
    /// As [`Checkpointer::delete_session`].
    pub async fn unpin_checkpoint(&self, session_id: &str, checkpoint_id: &str) -> Result<bool, Error> {
        call_with_retry!(self.call_unpin_checkpoint(session_id, checkpoint_id))
    }

    /// Ends the pin of a session, and gives all of its checkpoints the TTL of a
    /// checkpoint saved now. Returns how many checkpoints the session has.
    ///
    /// # Errors
    /// As [`Checkpointer::delete_session`].
    pub async fn unpin_session(&self, session_id: &str) -> Result<u64, Error> {
        call_with_retry!(self.call_unpin_session(session_id))
    }

    /// Deletes a checkpoint. Returns whether it existed.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// assert!(!checkpointer.delete_checkpoint("session-1", "checkpoint-1").await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Storage`].
    pub async fn delete_checkpoint(&self, session_id: &str, checkpoint_id: &str) -> Result<bool, Error> {
        call_with_retry!(self.call_delete_checkpoint(session_id, checkpoint_id))
    }

    /// Deletes all checkpoints of a session, oldest first. Returns how many
    /// existed.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// assert_eq!(checkpointer.delete_session("session-1").await?, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Storage`]: checkpoints deleted before
    /// the failure stay deleted, and a retry continues.
    pub async fn delete_session(&self, session_id: &str) -> Result<u64, Error> {
        call_with_retry!(self.call_delete_session(session_id))
    }

    /// Deletes all checkpoints and pin markers under the prefix. Returns how many
    /// checkpoints existed.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// assert_eq!(checkpointer.clear_all().await?, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Checkpointer::delete_session`].
    pub async fn clear_all(&self) -> Result<u64, Error> {
        call_with_retry!(self.call_clear_all())
    }

    /// Waits for the running calls of all clones, then closes the connections or
    /// the file. A store that other checkpointers use too, see
    /// [`CheckpointerBuilder::open_store`], stays open. Later calls fail with
    /// [`Error::Closed`].
    ///
    /// ```
    /// # use checkpointer::{Checkpointer, Error};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// checkpointer.close().await;
    /// assert!(matches!(checkpointer.latest("session-1").await, Err(Error::Closed)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The time of the clock that the builder set, or else of the system.
    #[cfg(feature = "serde")]
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.as_ref().map_or_else(Timestamp::now, |clock| clock.now().into())
    }
}

impl CheckpointerBuilder {
    /// The prefix of every key, 1 to 512 bytes. Checkpointers with different prefixes
    /// share no checkpoints, even if one prefix begins with the other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How keys are named: [`Layout::Llmfy`] by default. Use
    /// [`Layout::Partitioned`] on a Redis Cluster.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// The TTL of each checkpoint, at least 1 ms, rounded down to milliseconds. It
    /// starts when the checkpoint is saved. Replaces
    /// [`CheckpointerBuilder::session_ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some((ttl, wit::TtlScope::Checkpoint));
        self
    }

    /// The TTL of each session as a whole. It starts again with each save in the
    /// session. Replaces [`CheckpointerBuilder::ttl`].
    ///
    /// A save then takes more round trips: 1 more; for each 300 checkpoints of the
    /// session beyond the first 300, 2 more, and 2 more at the end.
    pub fn session_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some((ttl, wit::TtlScope::Session));
        self
    }

    /// Whether reading a checkpoint starts its TTL again, or that of its session
    /// with [`CheckpointerBuilder::session_ttl`]. A read returns an error if
    /// its refresh fails. No effect without a TTL.
    pub fn refresh_on_read(mut self, refresh: bool) -> Self {
        self.refresh_on_read = refresh;
        self
    }

    /// The maximum size of a state in bytes; 25 MiB by default.
    pub fn max_state_bytes(mut self, bytes: u64) -> Self {
        self.max_state_bytes = Some(bytes);
        self
    }

    /// Whether states are stored compressed, as llmfy does with `compress=True`:
    /// base64 of zlib; false by default. If true, compressed and plain states can be
    /// loaded, and saving a checkpoint without a run is an
    /// [`Error::InvalidArgument`], since format A can't hold a compressed state. If
    /// false, a compressed state is loaded as a JSON string.
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = compress;
        self
    }

    /// How many checkpoints a session keeps, at least 1. A save removes the oldest
    /// ones above this number in the same atomic step. If the saved checkpoint is
    /// the oldest itself, it is not stored: [`SaveOutcome::Pruned`].
    pub fn max_checkpoints(mut self, count: u32) -> Self {
        self.max_checkpoints = Some(count);
        self
    }

    /// Whether and how failed calls are retried; [`Retry::none`] by default.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets a clock for tests: TTLs in the store `memory:` and timestamps of sessions
    /// use it in place of the system's clock. No other store accepts it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use checkpointer::{Checkpoint, Checkpointer, Metadata, Run};
    /// use checkpointer::store::ManualClock;
    ///
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let clock = ManualClock::new();
    /// let checkpointer = Checkpointer::builder().ttl(DAY).clock(clock.clone()).open("memory:").await?;
    /// let metadata = Metadata::new("session-1", "checkpoint-1").run(Run::new("run-1"));
    /// checkpointer.save(Checkpoint::new(metadata, "{}")).await?;
    /// clock.advance(DAY);
    /// assert_eq!(checkpointer.latest("session-1").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn clock(mut self, clock: ManualClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Opens the checkpointer over the store at this URL.
    ///
    /// # Errors
    /// As [`Checkpointer::open`], and [`Error::InvalidArgument`] if an option is
    /// invalid.
    pub async fn open(self, url: &str) -> Result<Checkpointer, Error> {
        require_runtime()?;
        let url: StoreUrl = url.parse()?;
        match self.clock.clone() {
            Some(clock) if url == StoreUrl::Memory => {
                self.open_over(Arc::new(SqliteStore::in_memory_with_clock(clock).await?)).await
            }
            _ => self.open_store(url.open().await?).await,
        }
    }

    /// Opens the checkpointer over an open store. Several checkpointers may share a
    /// store.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use checkpointer::{Checkpointer, store::StoreUrl};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = "memory:".parse::<StoreUrl>()?.open().await?;
    /// let first = Checkpointer::builder().prefix("tenant-1:").open_store(Arc::clone(&store)).await?;
    /// let second = Checkpointer::builder().prefix("tenant-2:").open_store(store).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if an option is invalid, or if the layout needs a
    /// hash tag in the prefix on this store; [`Error::Storage`] with
    /// [`StorageReason::Unsupported`](crate::StorageReason::Unsupported) if the
    /// store lacks a capability that the options need.
    pub async fn open_store(self, store: Arc<dyn Store>) -> Result<Checkpointer, Error> {
        if self.clock.is_some() {
            let message = "only the store memory: accepts a clock; open it by its URL";
            return Err(Error::InvalidArgument(message.to_owned()));
        }
        self.open_over(store).await
    }

    async fn open_over(self, store: Arc<dyn Store>) -> Result<Checkpointer, Error> {
        require_runtime()?;
        let options = wit::Options {
            bucket: BUCKET.to_owned(),
            prefix: Some(self.prefix),
            layout: self.layout.into(),
            ttl: self.ttl.map(|(ttl, scope)| wit::Ttl {
                milliseconds: milliseconds(ttl),
                scope,
                refresh_on_read: self.refresh_on_read,
            }),
            max_state_bytes: self.max_state_bytes,
            compress: self.compress,
            max_checkpoints: self.max_checkpoints,
            extra: Vec::new(),
        };
        let ctx = KeyvalueCtx::builder().bucket(BUCKET, store, "").build();
        let pool = Pool::new(ctx, options, PoolLimits::default()).await?;
        Ok(Checkpointer {
            pool,
            retry: self.retry,
            #[cfg(feature = "serde")]
            clock: self.clock,
        })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
