//! What a Rust application uses.

use std::sync::Arc;
use std::time::Duration;

use crate::bindings::exports::flow::checkpoint::checkpointer::{Lifetime, Options, Ttl};
use crate::component::{Instance, Pool, Service};
use crate::keyvalue::KeyvalueCtx;
use crate::store::{Address, Store};
use crate::{Checkpoint, Documents, Error, History, Layout, Listing, Metadata, Outcome};

/// What every key begins with unless something else is said. It is llmfy's.
pub const DEFAULT_PREFIX: &str = "llmfy_checkpoint:";

/// The one bucket that a component of this library may open.
const BUCKET: &str = "default";

/// The checkpoints under one prefix of one store.
///
/// It is cheap to clone, and calls from many tasks overlap. Dropping the last
/// clone closes it. It must be used within a tokio runtime with time and I/O.
#[derive(Clone)]
pub struct Checkpointer {
    pool: Arc<Pool>,
}

/// How to open a [`Checkpointer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it opens a checkpointer"]
pub struct Builder {
    prefix: String,
    layout: Layout,
    ttl: Option<Duration>,
    lifetime: Lifetime,
    refresh_on_read: bool,
    max_state_bytes: Option<u64>,
    compress: bool,
    max_checkpoints: Option<u32>,
}

/// Makes one call on an instance of the component.
macro_rules! call {
    ($self:ident.$function:ident($($argument:expr),*)) => {{
        let mut turn = $self.pool.turn().await?;
        let Instance { store, component, checkpointer, .. } = &mut turn.instance;
        let exports = component.flow_checkpoint_checkpointer().checkpointer();
        let answer = exports.$function(store, *checkpointer, $($argument),*).await;
        turn.end(answer)
    }};
}

impl Checkpointer {
    /// Opens the checkpointer over the store at `address`, for instance
    /// `sqlite:checkpoints.db` or `redis://localhost`, with llmfy's prefix and
    /// no expiry. All forms are at [`Address`].
    ///
    /// # Errors
    /// The address is at fault, or the file can't be opened. Redis is connected
    /// to when it is first used.
    pub async fn open(address: &str) -> Result<Self, Error> {
        Self::builder().open(address).await
    }

    /// A builder, for a prefix, an expiry or a size limit.
    pub fn builder() -> Builder {
        Builder {
            prefix: DEFAULT_PREFIX.to_owned(),
            layout: Layout::Llmfy,
            ttl: None,
            lifetime: Lifetime::OfCheckpoint,
            refresh_on_read: false,
            max_state_bytes: None,
            compress: false,
            max_checkpoints: None,
        }
    }

    /// Opens the checkpointer over the bucket that the options name.
    pub(crate) async fn over(ctx: KeyvalueCtx, options: Options, service: Service) -> Result<Self, Error> {
        Ok(Self { pool: Pool::new(ctx, options, service).await? })
    }

    /// Saves a checkpoint. One with the same id in its session is replaced, and
    /// the indexes follow, all in one atomic step. It is [`Outcome::Kept`],
    /// unless [`Builder::max_checkpoints`] says otherwise.
    ///
    /// # Errors
    /// Any but [`Error::Corrupt`].
    pub async fn save(&self, checkpoint: &Checkpoint) -> Result<Outcome, Error> {
        call!(self.call_save(checkpoint))
    }

    /// Saves a checkpoint if `latest` is the session's latest one, or if it has
    /// none at all, decided in the same atomic step as the write: of many tasks
    /// that go on from the same checkpoint, one does.
    ///
    /// If the very checkpoint is there already, that is a success: it may be
    /// repeated like every operation.
    ///
    /// # Errors
    /// [`Error::Conflict`] with [`Conflict::Latest`](crate::Conflict::Latest) and
    /// what the latest is, if it is another; [`Error::InvalidArgument`] if the
    /// timestamp is before that of the latest, or the same with an id that is not
    /// greater; else as [`Checkpointer::save`].
    pub async fn save_after(&self, checkpoint: &Checkpoint, latest: Option<&str>) -> Result<Outcome, Error> {
        call!(self.call_save_after(checkpoint, latest))
    }

    /// Saves a checkpoint given as the document that llmfy stores, of either
    /// generation, and says what it is.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it can't be read, else as
    /// [`Checkpointer::save`].
    pub async fn save_document(&self, document: &str) -> Result<(Metadata, Outcome), Error> {
        call!(self.call_save_document(document))
    }

    /// The same for a checkpoint that has lived already, for instance elsewhere:
    /// what is left of its life is `left`, at least a millisecond, or has no end if
    /// none. The ttl of this checkpointer means nothing to it, nor does it to the
    /// rest of the session. In a session that is pinned it is pinned. It says as
    /// what the checkpoint was saved: with its timestamp as it is stored.
    ///
    /// # Errors
    /// As [`Checkpointer::save_document`], and [`Error::InvalidArgument`] if `left`
    /// is less than a millisecond, or more than a store can count.
    pub async fn restore(
        &self,
        document: &str,
        left: Option<Duration>,
    ) -> Result<(Metadata, Outcome), Error> {
        call!(self.call_restore(document, left.map(milliseconds)))
    }

    /// The checkpoint with this id in this session, or the session's latest;
    /// none only when there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is there and can't be read;
    /// [`Error::InvalidArgument`], [`Error::Storage`].
    pub async fn load(
        &self,
        session_id: &str,
        checkpoint_id: Option<&str>,
    ) -> Result<Option<Checkpoint>, Error> {
        call!(self.call_load(session_id, checkpoint_id))
    }

    /// The same as [`Checkpointer::load`], as the very text that is stored.
    ///
    /// # Errors
    /// As [`Checkpointer::load`].
    pub async fn load_document(
        &self,
        session_id: &str,
        checkpoint_id: Option<&str>,
    ) -> Result<Option<String>, Error> {
        call!(self.call_load_document(session_id, checkpoint_id))
    }

    /// The newest checkpoints of a session, newest first, no more than `limit`,
    /// or 10. Those that can't be read are named beside the others.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Storage`].
    pub async fn list(&self, session_id: &str, limit: Option<u32>) -> Result<History, Error> {
        call!(self.call_list(session_id, limit))
    }

    /// The newest checkpoints of one run of a session, no more than `limit`, or
    /// 100.
    ///
    /// # Errors
    /// As [`Checkpointer::list`].
    pub async fn list_by_run(
        &self,
        session_id: &str,
        run_id: &str,
        limit: Option<u32>,
    ) -> Result<History, Error> {
        call!(self.call_list_by_run(session_id, run_id, limit))
    }

    /// The same as [`Checkpointer::list`], or with a run as
    /// [`Checkpointer::list_by_run`], as the very texts that are stored.
    ///
    /// # Errors
    /// As [`Checkpointer::list`].
    pub async fn list_documents(
        &self,
        session_id: &str,
        run_id: Option<&str>,
        limit: Option<u32>,
    ) -> Result<Documents, Error> {
        call!(self.call_list_documents(session_id, run_id, limit))
    }

    /// The checkpoints of all sessions under the prefix and in the layout, with the
    /// time that they have left, page by page and in no order: a small part of each
    /// is read, so that a page is small whatever the states. What is there from the
    /// first page to the last is given at least once. `after` is the
    /// [`Listing::next`] of the page before. With [`Builder::refresh_on_read`]
    /// nothing lives on for that.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where no page begins; [`Error::Storage`].
    pub async fn scan(&self, after: Option<&str>) -> Result<Listing, Error> {
        call!(self.call_scan(after))
    }

    /// Keeps the checkpoint with this id from expiring until it is saved again,
    /// or all of the session and what is saved in it from now on. What is removed
    /// goes all the same, and so does what is over the limit of a session. Says
    /// how many checkpoints that were.
    ///
    /// # Errors
    /// As [`Checkpointer::delete`].
    pub async fn pin(&self, session_id: &str, checkpoint_id: Option<&str>) -> Result<u64, Error> {
        call!(self.call_pin(session_id, checkpoint_id))
    }

    /// Ends that: the checkpoint, or all of the session, lives on as if it had
    /// just been saved; of a session that is pinned, one alone stays pinned. Says
    /// how many checkpoints that were.
    ///
    /// # Errors
    /// As [`Checkpointer::delete`].
    pub async fn unpin(&self, session_id: &str, checkpoint_id: Option<&str>) -> Result<u64, Error> {
        call!(self.call_unpin(session_id, checkpoint_id))
    }

    /// Removes the checkpoint with this id from this session, or the whole
    /// session, oldest first; says how many checkpoints that were.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Storage`], where those that were
    /// removed before stay so, and repeating goes on.
    pub async fn delete(&self, session_id: &str, checkpoint_id: Option<&str>) -> Result<u64, Error> {
        call!(self.call_delete(session_id, checkpoint_id))
    }

    /// Removes all checkpoints under the prefix, and says how many there were.
    ///
    /// # Errors
    /// [`Error::Storage`], as for [`Checkpointer::delete`].
    pub async fn clear_all(&self) -> Result<u64, Error> {
        call!(self.call_clear_all())
    }
}

impl Builder {
    /// What every key begins with, 1 to 512 bytes. Checkpointers with different
    /// prefixes see nothing of each other, even if one prefix begins with the
    /// other.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How keys are named behind the prefix: [`Layout::Llmfy`] unless said. In a
    /// Redis Cluster [`Layout::Partitioned`] spreads sessions over the machines,
    /// each in one place; there a checkpoint's id belongs to its session, and two
    /// sessions may have the same. What is saved in one layout is not there in the
    /// other.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// What is saved goes away after this time, at least a millisecond; a
    /// fraction of one is dropped. Each checkpoint counts from when it was saved.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self.lifetime = Lifetime::OfCheckpoint;
        self
    }

    /// The same for a session as a whole: all of it goes away when so much time
    /// has passed since a checkpoint was last saved in it. A save takes two round
    /// trips then; for each 300 checkpoints beyond the first 300 two more, and two
    /// in the end.
    pub fn session_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self.lifetime = Lifetime::OfSession;
        self
    }

    /// What is read lives on as if it had just been saved: checkpoints, or with
    /// [`Builder::session_ttl`] their session. A read that can't do so fails. It
    /// means nothing without a ttl.
    pub fn refresh_on_read(mut self, refresh: bool) -> Self {
        self.refresh_on_read = refresh;
        self
    }

    /// The largest state to save, in bytes; 25 MiB unless said.
    pub fn max_state_bytes(mut self, bytes: u64) -> Self {
        self.max_state_bytes = Some(bytes);
        self
    }

    /// Stores the states of checkpoints with a run compressed, as llmfy does with
    /// `compress=True`: base64 of zlib. Both are read then, compressed and not.
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = compress;
        self
    }

    /// How many checkpoints a session keeps, at least 1. Those over it go, oldest
    /// first, in the same atomic step as the save; the one just saved only if it
    /// is the oldest by its timestamp, and then it is [`Outcome::Pruned`].
    pub fn max_checkpoints(mut self, count: u32) -> Self {
        self.max_checkpoints = Some(count);
        self
    }

    /// Opens the checkpointer over the store at `address`.
    ///
    /// # Errors
    /// As [`Checkpointer::open`], and [`Error::InvalidArgument`] if an option is
    /// at fault.
    pub async fn open(self, address: &str) -> Result<Checkpointer, Error> {
        let address: Address = address.parse()?;
        self.open_store(address.open().await?).await
    }

    /// Opens the checkpointer over a store that is open already, which several
    /// may share.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if an option is at fault, or if the store is on
    /// several machines and would not keep together what the layout needs to be.
    pub async fn open_store(self, store: Arc<dyn Store>) -> Result<Checkpointer, Error> {
        let options = Options {
            bucket: BUCKET.to_owned(),
            prefix: self.prefix,
            layout: self.layout,
            ttl: self.ttl.map(|ttl| Ttl {
                milliseconds: milliseconds(ttl),
                lifetime: self.lifetime,
                refresh_on_read: self.refresh_on_read,
            }),
            max_state_bytes: self.max_state_bytes,
            compress: self.compress,
            max_checkpoints: self.max_checkpoints,
        };
        let ctx = KeyvalueCtx::builder().bucket(BUCKET, store, "").build();
        Checkpointer::over(ctx, options, Service::default()).await
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Metadata {
    /// The metadata of the first step of no run, at the node `""`.
    pub fn new(
        session_id: impl Into<String>,
        checkpoint_id: impl Into<String>,
        timestamp: impl Into<String>,
    ) -> Self {
        Self {
            session_id: session_id.into(),
            checkpoint_id: checkpoint_id.into(),
            timestamp: timestamp.into(),
            node: String::new(),
            step: 0,
            run: None,
        }
    }
}
