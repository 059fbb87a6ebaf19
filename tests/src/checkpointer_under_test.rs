//! The two modes in which the contract checks the checkpointer.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use checkpointer::store::Store;
use checkpointer::{
    Checkpoint, Checkpointer, DEFAULT_PREFIX, Error, HistoryQuery, Layout, Metadata, SaveOutcome,
};
use checkpointer_guest as guest;
use tokio::runtime::Handle;

use crate::native::{self, BlockingStore, guest_checkpoint};

/// How a checkpointer is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the component, in the sandbox.
    Component,
    /// As the same logic, compiled natively.
    Native,
}

/// Both modes.
pub const MODES: [Mode; 2] = [Mode::Component, Mode::Native];

/// How a [`CheckpointerUnderTest`] is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The prefix of every key.
    pub prefix: String,
    /// How keys are named.
    pub layout: Layout,
    /// The TTL of saved checkpoints.
    pub ttl: Option<Duration>,
    /// The maximum size of a state.
    pub max_state_bytes: Option<u64>,
    /// Whether the TTL is that of the session as a whole.
    pub session_ttl: bool,
    /// Whether a read refreshes the TTL.
    pub refresh_on_read: bool,
    /// Whether states are stored compressed.
    pub compress: bool,
    /// How many checkpoints a session keeps.
    pub max_checkpoints: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: DEFAULT_PREFIX.to_owned(),
            layout: Layout::Llmfy,
            ttl: None,
            session_ttl: false,
            refresh_on_read: false,
            max_state_bytes: None,
            compress: false,
            max_checkpoints: None,
        }
    }
}

impl Options {
    /// The default with another prefix.
    pub fn prefix(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..Self::default() }
    }

    /// The default with a TTL in milliseconds.
    pub fn ttl_ms(milliseconds: u64) -> Self {
        Self { ttl: Some(Duration::from_millis(milliseconds)), ..Self::default() }
    }
}

/// Checkpoints of a session, newest first. The library's `History` can't be
/// constructed outside of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The readable checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// The unreadable checkpoints among them.
    pub unreadable: Vec<guest::Unreadable>,
}

/// A checkpointer in one of the modes. Its methods are those of [`Checkpointer`].
#[derive(Clone)]
pub enum CheckpointerUnderTest {
    /// See [`Mode::Component`].
    Component(Checkpointer),
    /// See [`Mode::Native`].
    Native(Arc<Native>),
}

type Native = guest::Checkpointer<BlockingStore<Handle>>;

type Answer<T> = Result<T, Error>;

/// Calls the method of the same name in either mode. The arguments are text.
macro_rules! call {
    ($self:ident.$method:ident($($argument:ident),*)) => {
        match $self {
            Self::Component(component) => component.$method($($argument),*).await,
            Self::Native(native) => {
                $(let $argument = $argument.to_owned();)*
                run(native, move |native| native.$method($(&$argument),*)).await
            }
        }
    };
}

impl CheckpointerUnderTest {
    /// Opens a checkpointer over `store`.
    pub async fn open(mode: Mode, store: Arc<dyn Store>, options: &Options) -> Answer<Self> {
        match mode {
            Mode::Component => {
                let mut builder = Checkpointer::builder()
                    .prefix(&options.prefix)
                    .layout(options.layout)
                    .compress(options.compress)
                    .refresh_on_read(options.refresh_on_read);
                if let Some(ttl) = options.ttl {
                    builder = if options.session_ttl { builder.session_ttl(ttl) } else { builder.ttl(ttl) };
                }
                if let Some(bytes) = options.max_state_bytes {
                    builder = builder.max_state_bytes(bytes);
                }
                if let Some(count) = options.max_checkpoints {
                    builder = builder.max_checkpoints(count);
                }
                Ok(Self::Component(builder.open_store(store).await?))
            }
            Mode::Native => {
                let scope =
                    if options.session_ttl { guest::TtlScope::Session } else { guest::TtlScope::Checkpoint };
                let options = guest::Options {
                    bucket: "default".to_owned(),
                    prefix: Some(options.prefix.clone()),
                    layout: native::guest_layout(options.layout),
                    ttl: options.ttl.map(|ttl| guest::Ttl {
                        milliseconds: ttl.as_millis() as u64,
                        scope,
                        refresh_on_read: options.refresh_on_read,
                    }),
                    max_state_bytes: options.max_state_bytes,
                    compress: options.compress,
                    max_checkpoints: options.max_checkpoints,
                    extra: Vec::new(),
                };
                let store = BlockingStore { store, runtime: Handle::current() };
                let native = guest::Checkpointer::open(store, &options).map_err(native::error)?;
                Ok(Self::Native(Arc::new(native)))
            }
        }
    }

    /// See [`Checkpointer::save`].
    pub async fn save(&self, checkpoint: &Checkpoint) -> Answer<SaveOutcome> {
        match self {
            Self::Component(component) => component.save(checkpoint).await,
            Self::Native(native) => {
                let checkpoint = guest_checkpoint(checkpoint.clone());
                run(native, move |native| native.save(checkpoint)).await.map(native::outcome)
            }
        }
    }

    /// See [`Checkpointer::save_after`].
    pub async fn save_after(&self, checkpoint: &Checkpoint, latest: Option<&str>) -> Answer<SaveOutcome> {
        match self {
            Self::Component(component) => component.save_after(checkpoint, latest).await,
            Self::Native(native) => {
                let (checkpoint, latest) = (guest_checkpoint(checkpoint.clone()), latest.map(str::to_owned));
                let saved = run(native, move |native| native.save_after(checkpoint, latest.as_deref()));
                saved.await.map(native::outcome)
            }
        }
    }

    /// See [`Checkpointer::save_document`].
    pub async fn save_document(&self, document: &str) -> Answer<Metadata> {
        match self {
            Self::Component(component) => Ok(component.save_document(document).await?.0),
            Self::Native(native) => {
                let document = document.to_owned();
                let saved = run(native, move |native| native.save_document(document)).await?;
                Ok(native::metadata(saved.0))
            }
        }
    }

    /// See [`Checkpointer::restore`].
    pub async fn restore(&self, document: &str, ttl: Option<Duration>) -> Answer<Metadata> {
        match self {
            Self::Component(component) => Ok(component.restore(document, ttl).await?.0),
            Self::Native(native) => {
                let (document, ttl_ms) = (document.to_owned(), ttl.map(|ttl| ttl.as_millis() as u64));
                let restored = run(native, move |native| native.restore(document, ttl_ms)).await?;
                Ok(native::metadata(restored.0))
            }
        }
    }

    /// See [`Checkpointer::latest`].
    pub async fn latest(&self, session: &str) -> Answer<Option<Checkpoint>> {
        match self {
            Self::Component(component) => component.latest(session).await,
            Self::Native(native) => {
                let session = session.to_owned();
                Ok(run(native, move |native| native.latest(&session)).await?.map(native::checkpoint))
            }
        }
    }

    /// See [`Checkpointer::load`].
    pub async fn load(&self, session: &str, id: &str) -> Answer<Option<Checkpoint>> {
        match self {
            Self::Component(component) => component.load(session, id).await,
            Self::Native(native) => {
                let (session, id) = (session.to_owned(), id.to_owned());
                Ok(run(native, move |native| native.load(&session, &id)).await?.map(native::checkpoint))
            }
        }
    }

    /// See [`Checkpointer::latest_document`].
    pub async fn latest_document(&self, session: &str) -> Answer<Option<String>> {
        call!(self.latest_document(session))
    }

    /// See [`Checkpointer::load_document`].
    pub async fn load_document(&self, session: &str, id: &str) -> Answer<Option<String>> {
        call!(self.load_document(session, id))
    }

    /// See [`Checkpointer::dump`].
    pub async fn dump(&self, session: &str, id: &str) -> Answer<Option<guest::DocumentDump>> {
        match self {
            Self::Component(component) => Ok(component.dump(session, id).await?.map(native::document_dump)),
            Self::Native(native) => {
                let (session, id) = (session.to_owned(), id.to_owned());
                run(native, move |native| native.dump(&session, &id)).await
            }
        }
    }

    /// Lists the newest checkpoints of a session.
    pub async fn list(&self, session: &str, limit: Option<u32>) -> Answer<History> {
        self.history(session, None, limit).await
    }

    /// Lists the newest checkpoints of a run.
    pub async fn list_by_run(&self, session: &str, run: &str, limit: Option<u32>) -> Answer<History> {
        self.history(session, Some(run), limit).await
    }

    async fn history(&self, session: &str, run_id: Option<&str>, limit: Option<u32>) -> Answer<History> {
        match self {
            Self::Component(component) => {
                let history = component.list(query(session, run_id, limit)).await?;
                let unreadable = native::unreadable(history.unreadable);
                Ok(History { checkpoints: history.checkpoints, unreadable })
            }
            Self::Native(native) => {
                let query = guest_query(session, run_id, limit);
                let history = run(native, move |native| native.list(&query)).await?;
                let checkpoints = history.checkpoints.into_iter().map(native::checkpoint).collect();
                Ok(History { checkpoints, unreadable: history.unreadable })
            }
        }
    }

    /// Lists the stored documents of a session or a run.
    pub async fn list_documents(
        &self,
        session: &str,
        run_id: Option<&str>,
        limit: Option<u32>,
    ) -> Answer<guest::RawHistory> {
        match self {
            Self::Component(component) => {
                Ok(native::raw_history(component.list_documents(query(session, run_id, limit)).await?))
            }
            Self::Native(native) => {
                let query = guest_query(session, run_id, limit);
                run(native, move |native| native.list_documents(&query)).await
            }
        }
    }

    /// See [`Checkpointer::scan`].
    pub async fn scan(&self, cursor: Option<&str>) -> Answer<guest::ScanPage> {
        match self {
            Self::Component(component) => Ok(native::scan_page(component.scan(cursor).await?)),
            Self::Native(native) => {
                let cursor = cursor.map(str::to_owned);
                run(native, move |native| native.scan(cursor.as_deref())).await
            }
        }
    }

    /// See [`Checkpointer::pin_checkpoint`].
    pub async fn pin_checkpoint(&self, session: &str, id: &str) -> Answer<bool> {
        call!(self.pin_checkpoint(session, id))
    }

    /// See [`Checkpointer::pin_session`].
    pub async fn pin_session(&self, session: &str) -> Answer<u64> {
        call!(self.pin_session(session))
    }

    /// See [`Checkpointer::unpin_checkpoint`].
    pub async fn unpin_checkpoint(&self, session: &str, id: &str) -> Answer<bool> {
        call!(self.unpin_checkpoint(session, id))
    }

    /// See [`Checkpointer::unpin_session`].
    pub async fn unpin_session(&self, session: &str) -> Answer<u64> {
        call!(self.unpin_session(session))
    }

    /// See [`Checkpointer::delete_checkpoint`].
    pub async fn delete_checkpoint(&self, session: &str, id: &str) -> Answer<bool> {
        call!(self.delete_checkpoint(session, id))
    }

    /// See [`Checkpointer::delete_session`].
    pub async fn delete_session(&self, session: &str) -> Answer<u64> {
        call!(self.delete_session(session))
    }

    /// See [`Checkpointer::clear_all`].
    pub async fn clear_all(&self) -> Answer<u64> {
        call!(self.clear_all())
    }

    /// The ids of the newest checkpoints of a session, of which none is unreadable.
    pub async fn ids(&self, session: &str, limit: u32) -> Vec<String> {
        ids(self.list(session, Some(limit)).await.expect("a history"))
    }

    /// The ids of the newest checkpoints of a run, of which none is unreadable.
    pub async fn ids_of_run(&self, session: &str, run: &str) -> Vec<String> {
        // More than any test saves; the default limit is 10.
        ids(self.list_by_run(session, run, Some(10_000)).await.expect("a history"))
    }

    /// The id of the latest checkpoint of a session.
    pub async fn latest_id(&self, session: &str) -> Option<String> {
        let latest = self.latest(session).await.expect("a latest checkpoint or none");
        latest.map(|checkpoint| checkpoint.metadata.checkpoint_id)
    }
}

fn ids(history: History) -> Vec<String> {
    assert_eq!(history.unreadable, []);
    history.checkpoints.into_iter().map(|checkpoint| checkpoint.metadata.checkpoint_id).collect()
}

fn query(session: &str, run_id: Option<&str>, limit: Option<u32>) -> HistoryQuery {
    let query = HistoryQuery::new(session);
    let query = run_id.into_iter().fold(query, |query, run_id| query.run(run_id));
    limit.into_iter().fold(query, HistoryQuery::limit)
}

fn guest_query(session: &str, run_id: Option<&str>, limit: Option<u32>) -> guest::HistoryQuery {
    let (session_id, run_id) = (session.to_owned(), run_id.map(str::to_owned));
    guest::HistoryQuery { session_id, run_id, limit, extra: Vec::new() }
}

/// Runs a blocking call outside the threads of the runtime. A panic of the store
/// is a panic of the caller.
async fn run<T: Send + 'static>(
    native: &Arc<Native>,
    call: impl FnOnce(&Native) -> Result<T, guest::Error> + Send + 'static,
) -> Answer<T> {
    let native = Arc::clone(native);
    match tokio::task::spawn_blocking(move || call(&native)).await {
        Ok(answer) => answer.map_err(native::error),
        Err(panicked) => resume_unwind(panicked.into_panic()),
    }
}
