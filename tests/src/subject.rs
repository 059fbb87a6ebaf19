//! The two ways to run the checkpointer that the contract is checked with.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use checkpointer::store::{Effect, StorageReason, Store};
use checkpointer::{
    Checkpoint, Checkpointer, Conflict, DEFAULT_PREFIX, Documents, Error, History, Layout, Listed, Listing,
    Metadata, Outcome, Run, Taken, Unreadable,
};
use checkpointer_guest as guest;
use tokio::runtime::Handle;

use crate::native::Blocking;

/// How a checkpointer is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the component, in the sandbox.
    Component,
    /// As the same logic, compiled natively.
    Native,
}

/// Both ways.
pub const MODES: [Mode; 2] = [Mode::Component, Mode::Native];

/// How a [`Subject`] is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// What every key begins with.
    pub prefix: String,
    /// How the keys go on.
    pub layout: Layout,
    /// When what is saved goes away.
    pub ttl: Option<Duration>,
    /// The largest state.
    pub max_state_bytes: Option<u64>,
    /// Whether the ttl is that of a session as a whole.
    pub of_session: bool,
    /// Whether what is read lives on.
    pub refresh_on_read: bool,
    /// Whether states are stored compressed.
    pub compress: bool,
    /// How many checkpoints a session keeps.
    pub max_checkpoints: Option<u32>,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            prefix: DEFAULT_PREFIX.to_owned(),
            layout: Layout::Llmfy,
            ttl: None,
            of_session: false,
            refresh_on_read: false,
            max_state_bytes: None,
            compress: false,
            max_checkpoints: None,
        }
    }
}

impl Opening {
    /// The default with another prefix.
    pub fn prefix(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..Self::default() }
    }

    /// The default with a ttl in milliseconds.
    pub fn ttl_ms(milliseconds: u64) -> Self {
        Self { ttl: Some(Duration::from_millis(milliseconds)), ..Self::default() }
    }
}

/// A checkpointer, run either way.
#[derive(Clone)]
pub enum Subject {
    /// See [`Mode::Component`].
    Component(Checkpointer),
    /// See [`Mode::Native`].
    Native(Arc<guest::Checkpointer<Blocking>>),
}

type Answer<T> = Result<T, Error>;

impl Subject {
    /// Opens a checkpointer over `store`.
    pub async fn open(mode: Mode, store: Arc<dyn Store>, opening: &Opening) -> Answer<Self> {
        match mode {
            Mode::Component => {
                let mut builder = Checkpointer::builder().prefix(&opening.prefix).layout(opening.layout);
                builder = builder.compress(opening.compress);
                if let Some(ttl) = opening.ttl {
                    builder = if opening.of_session { builder.session_ttl(ttl) } else { builder.ttl(ttl) };
                    builder = builder.refresh_on_read(opening.refresh_on_read);
                }
                if let Some(bytes) = opening.max_state_bytes {
                    builder = builder.max_state_bytes(bytes);
                }
                if let Some(count) = opening.max_checkpoints {
                    builder = builder.max_checkpoints(count);
                }
                Ok(Self::Component(builder.open_store(store).await?))
            }
            Mode::Native => {
                let options = guest::Options {
                    bucket: "default".to_owned(),
                    prefix: opening.prefix.clone(),
                    layout: match opening.layout {
                        Layout::Llmfy => guest::Layout::Llmfy,
                        Layout::Partitioned => guest::Layout::Partitioned,
                    },
                    ttl: opening.ttl.map(|ttl| guest::Ttl {
                        milliseconds: ttl.as_millis() as u64,
                        lifetime: if opening.of_session {
                            guest::Lifetime::OfSession
                        } else {
                            guest::Lifetime::OfCheckpoint
                        },
                        refresh_on_read: opening.refresh_on_read,
                    }),
                    max_state_bytes: opening.max_state_bytes,
                    compress: opening.compress,
                    max_checkpoints: opening.max_checkpoints,
                };
                let bucket = Blocking { store, runtime: Handle::current() };
                Ok(Self::Native(Arc::new(guest::Checkpointer::open(bucket, &options).map_err(error)?)))
            }
        }
    }

    /// See [`Checkpointer::save`].
    pub async fn save(&self, checkpoint: &Checkpoint) -> Answer<Outcome> {
        let (metadata, state) = (guest_metadata(&checkpoint.metadata), checkpoint.state.clone());
        match self {
            Self::Component(component) => component.save(checkpoint).await,
            Self::Native(native) => {
                on(native, move |native| native.save(guest::Checkpoint { metadata, state }))
                    .await
                    .map(outcome)
            }
        }
    }

    /// See [`Checkpointer::save_after`].
    pub async fn save_after(&self, checkpoint: &Checkpoint, latest: Option<&str>) -> Answer<Outcome> {
        let (metadata, state) = (guest_metadata(&checkpoint.metadata), checkpoint.state.clone());
        let latest_id = latest.map(str::to_owned);
        match self {
            Self::Component(component) => component.save_after(checkpoint, latest).await,
            Self::Native(native) => {
                let checkpoint = guest::Checkpoint { metadata, state };
                on(native, move |native| native.save_after(checkpoint, latest_id.as_deref()))
                    .await
                    .map(outcome)
            }
        }
    }

    /// See [`Checkpointer::save_document`].
    pub async fn save_document(&self, document: &str) -> Answer<Metadata> {
        let text = document.to_owned();
        match self {
            Self::Component(component) => {
                component.save_document(document).await.map(|(metadata, _)| metadata)
            }
            Self::Native(native) => {
                on(native, move |native| native.save_document(text)).await.map(|(saved, _)| metadata(saved))
            }
        }
    }

    /// See [`Checkpointer::restore`].
    pub async fn restore(&self, document: &str, left: Option<Duration>) -> Answer<Metadata> {
        let (text, milliseconds) = (document.to_owned(), left.map(|left| left.as_millis() as u64));
        match self {
            Self::Component(component) => {
                component.restore(document, left).await.map(|(metadata, _)| metadata)
            }
            Self::Native(native) => on(native, move |native| native.restore(text, milliseconds))
                .await
                .map(|(restored, _)| metadata(restored)),
        }
    }

    /// See [`Checkpointer::load`].
    pub async fn load(&self, session: &str, id: Option<&str>) -> Answer<Option<Checkpoint>> {
        let (session_id, checkpoint_id) = (session.to_owned(), id.map(str::to_owned));
        match self {
            Self::Component(component) => component.load(session, id).await,
            Self::Native(native) => {
                let loaded =
                    on(native, move |native| native.load(&session_id, checkpoint_id.as_deref())).await?;
                Ok(loaded.map(checkpoint))
            }
        }
    }

    /// See [`Checkpointer::load_document`].
    pub async fn load_document(&self, session: &str, id: Option<&str>) -> Answer<Option<String>> {
        let (session_id, checkpoint_id) = (session.to_owned(), id.map(str::to_owned));
        match self {
            Self::Component(component) => component.load_document(session, id).await,
            Self::Native(native) => {
                on(native, move |native| native.load_document(&session_id, checkpoint_id.as_deref())).await
            }
        }
    }

    /// See [`Checkpointer::list`].
    pub async fn list(&self, session: &str, limit: Option<u32>) -> Answer<History> {
        let session_id = session.to_owned();
        match self {
            Self::Component(component) => component.list(session, limit).await,
            Self::Native(native) => {
                on(native, move |native| native.list(&session_id, limit)).await.map(history)
            }
        }
    }

    /// See [`Checkpointer::list_by_run`].
    pub async fn list_by_run(&self, session: &str, run: &str, limit: Option<u32>) -> Answer<History> {
        let (session_id, run_id) = (session.to_owned(), run.to_owned());
        match self {
            Self::Component(component) => component.list_by_run(session, run, limit).await,
            Self::Native(native) => {
                on(native, move |native| native.list_by_run(&session_id, &run_id, limit)).await.map(history)
            }
        }
    }

    /// See [`Checkpointer::scan`].
    pub async fn scan(&self, after: Option<&str>) -> Answer<Listing> {
        let place = after.map(str::to_owned);
        match self {
            Self::Component(component) => component.scan(after).await,
            Self::Native(native) => {
                on(native, move |native| native.scan(place.as_deref())).await.map(listing)
            }
        }
    }

    /// See [`Checkpointer::pin`].
    pub async fn pin(&self, session: &str, id: Option<&str>) -> Answer<u64> {
        let (session_id, checkpoint_id) = (session.to_owned(), id.map(str::to_owned));
        match self {
            Self::Component(component) => component.pin(session, id).await,
            Self::Native(native) => {
                on(native, move |native| native.pin(&session_id, checkpoint_id.as_deref())).await
            }
        }
    }

    /// See [`Checkpointer::unpin`].
    pub async fn unpin(&self, session: &str, id: Option<&str>) -> Answer<u64> {
        let (session_id, checkpoint_id) = (session.to_owned(), id.map(str::to_owned));
        match self {
            Self::Component(component) => component.unpin(session, id).await,
            Self::Native(native) => {
                on(native, move |native| native.unpin(&session_id, checkpoint_id.as_deref())).await
            }
        }
    }

    /// See [`Checkpointer::list_documents`].
    pub async fn list_documents(
        &self,
        session: &str,
        run: Option<&str>,
        limit: Option<u32>,
    ) -> Answer<Documents> {
        let (session_id, run_id) = (session.to_owned(), run.map(str::to_owned));
        match self {
            Self::Component(component) => component.list_documents(session, run, limit).await,
            Self::Native(native) => {
                let listed =
                    on(native, move |native| native.list_documents(&session_id, run_id.as_deref(), limit));
                let guest::Documents { documents, unreadable: these } = listed.await?;
                Ok(Documents { documents, unreadable: unreadable(these) })
            }
        }
    }

    /// See [`Checkpointer::delete`].
    pub async fn delete(&self, session: &str, id: Option<&str>) -> Answer<u64> {
        let (session_id, checkpoint_id) = (session.to_owned(), id.map(str::to_owned));
        match self {
            Self::Component(component) => component.delete(session, id).await,
            Self::Native(native) => {
                on(native, move |native| native.delete(&session_id, checkpoint_id.as_deref())).await
            }
        }
    }

    /// See [`Checkpointer::clear_all`].
    pub async fn clear_all(&self) -> Answer<u64> {
        match self {
            Self::Component(component) => component.clear_all().await,
            Self::Native(native) => on(native, |native| native.clear_all()).await,
        }
    }

    /// The ids of the newest checkpoints of a session, none of them unreadable.
    pub async fn ids(&self, session: &str, limit: u32) -> Vec<String> {
        ids(self.list(session, Some(limit)).await.expect("a history"))
    }

    /// The ids of the newest checkpoints of a run, none of them unreadable.
    pub async fn ids_of_run(&self, session: &str, run: &str) -> Vec<String> {
        ids(self.list_by_run(session, run, None).await.expect("a history"))
    }

    /// The id of the latest checkpoint of a session.
    pub async fn latest(&self, session: &str) -> Option<String> {
        let latest = self.load(session, None).await.expect("a latest checkpoint or none");
        latest.map(|checkpoint| checkpoint.metadata.checkpoint_id)
    }
}

fn ids(history: History) -> Vec<String> {
    assert_eq!(history.unreadable, []);
    history.checkpoints.into_iter().map(|checkpoint| checkpoint.metadata.checkpoint_id).collect()
}

/// Runs blocking logic away from the threads of the runtime. It panics only if
/// the store does, and then so does this.
async fn on<T: Send + 'static>(
    native: &Arc<guest::Checkpointer<Blocking>>,
    call: impl FnOnce(&guest::Checkpointer<Blocking>) -> Result<T, guest::Error> + Send + 'static,
) -> Answer<T> {
    let native = Arc::clone(native);
    match tokio::task::spawn_blocking(move || call(&native)).await {
        Ok(answer) => answer.map_err(error),
        Err(panicked) => resume_unwind(panicked.into_panic()),
    }
}

fn guest_metadata(metadata: &Metadata) -> guest::Metadata {
    let metadata = metadata.clone();
    guest::Metadata {
        session_id: metadata.session_id,
        checkpoint_id: metadata.checkpoint_id,
        timestamp: metadata.timestamp,
        node: metadata.node,
        step: metadata.step,
        run: metadata.run.map(|run| guest::Run {
            run_id: run.run_id,
            prev_node: run.prev_node,
            updated_fields: run.updated_fields,
            attempt: run.attempt,
            dispatch_id: run.dispatch_id,
        }),
    }
}

fn metadata(metadata: guest::Metadata) -> Metadata {
    Metadata {
        session_id: metadata.session_id,
        checkpoint_id: metadata.checkpoint_id,
        timestamp: metadata.timestamp,
        node: metadata.node,
        step: metadata.step,
        run: metadata.run.map(|run| Run {
            run_id: run.run_id,
            prev_node: run.prev_node,
            updated_fields: run.updated_fields,
            attempt: run.attempt,
            dispatch_id: run.dispatch_id,
        }),
    }
}

fn outcome(outcome: guest::Outcome) -> Outcome {
    match outcome {
        guest::Outcome::Kept => Outcome::Kept,
        guest::Outcome::Pruned => Outcome::Pruned,
    }
}

fn checkpoint(checkpoint: guest::Checkpoint) -> Checkpoint {
    Checkpoint { metadata: metadata(checkpoint.metadata), state: checkpoint.state }
}

fn history(history: guest::History) -> History {
    History {
        checkpoints: history.checkpoints.into_iter().map(checkpoint).collect(),
        unreadable: unreadable(history.unreadable),
    }
}

fn listing(listing: guest::Listing) -> Listing {
    let listed = listing.checkpoints.into_iter().map(|listed| Listed {
        session_id: listed.session_id,
        checkpoint_id: listed.checkpoint_id,
        milliseconds: listed.milliseconds,
    });
    Listing {
        checkpoints: listed.collect(),
        unreadable: unreadable(listing.unreadable),
        pinned: listing.pinned,
        next: listing.next,
    }
}

fn unreadable(these: Vec<guest::Unreadable>) -> Vec<Unreadable> {
    let these = these.into_iter();
    these.map(|it| Unreadable { checkpoint_id: it.checkpoint_id, reason: it.reason }).collect()
}

fn error(error: guest::Error) -> Error {
    match error {
        guest::Error::InvalidArgument(message) => Error::InvalidArgument(message),
        guest::Error::Conflict(guest::Conflict::Taken(taken)) => Error::Conflict(Conflict::Taken(Taken {
            checkpoint_id: taken.checkpoint_id,
            reason: taken.reason,
        })),
        guest::Error::Conflict(guest::Conflict::Latest(latest)) => Error::Conflict(Conflict::Latest(latest)),
        guest::Error::Corrupt(unreadable) => {
            Error::Corrupt { checkpoint_id: unreadable.checkpoint_id, reason: unreadable.reason }
        }
        guest::Error::TooLarge(excess) => Error::TooLarge { size: excess.size, limit: excess.limit },
        guest::Error::Storage(error) => Error::Storage {
            // By their place in the same WIT enumeration.
            reason: REASONS[error.reason as usize],
            effect: if error.effect == guest::keyvalue::Effect::None {
                Effect::None
            } else {
                Effect::Unknown
            },
            message: error.message,
        },
    }
}

const REASONS: [StorageReason; 11] = [
    StorageReason::NoSuchBucket,
    StorageReason::AccessDenied,
    StorageReason::InvalidArgument,
    StorageReason::Unsupported,
    StorageReason::TooLarge,
    StorageReason::WrongType,
    StorageReason::Full,
    StorageReason::ReadOnly,
    StorageReason::Unavailable,
    StorageReason::Timeout,
    StorageReason::Other,
];
