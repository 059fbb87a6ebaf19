//! Why an operation of a checkpointer failed.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use thiserror::Error as ThisError;

use crate::bindings::flow::checkpoint::types as wit;
use crate::store::StoreUrlError;
use crate::{Conflict, Effect, StorageReason};

/// Why an operation failed. [`Error::effect`] says whether a write took effect.
/// Every operation is idempotent and may be retried; [`Error::is_retryable`] says
/// whether a retry may succeed.
#[derive(Clone, Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// An argument is invalid. Nothing was written, and a retry fails again.
    #[error("{0}")]
    InvalidArgument(String),
    /// The URL of the store is invalid. Nothing was written.
    #[error(transparent)]
    StoreUrl(#[from] StoreUrlError),
    /// The stored data rules out the save: the id is in use, or the session's
    /// latest checkpoint is not the expected one. Nothing was written. Load the
    /// latest checkpoint and continue from it.
    #[error("{}", describe(.0))]
    Conflict(Conflict),
    /// The requested checkpoint exists and can't be read.
    #[error("checkpoint {checkpoint_id:?} can't be read: {reason}")]
    Corrupt {
        /// The id of the checkpoint.
        checkpoint_id: String,
        /// Why it can't be read.
        reason: String,
    },
    /// The state is too large. Nothing was written.
    #[error("the state has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The size of the state in bytes.
        size: u64,
        /// The limit in bytes, see
        /// [`CheckpointerBuilder::max_state_bytes`](crate::CheckpointerBuilder::max_state_bytes).
        limit: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No instance of the component became free within 30 seconds. Nothing was
    /// written. A retry may succeed.
    #[error("too many concurrent calls: no instance of the component became free")]
    Busy,
    /// The component failed, because of a defect or for lack of memory. Whether a
    /// write took effect is unknown.
    #[error("the component failed: {0}")]
    Component(String),
    /// [`Checkpointer::close`](crate::Checkpointer::close) was called. Nothing was
    /// written.
    #[error("the checkpointer is closed")]
    Closed,
    /// The call was polled outside of a tokio runtime. Nothing was written.
    #[error("there is no tokio runtime; call from a task of a runtime built with enable_all()")]
    NoRuntime,
    /// A state can't be converted to the type of a [`Session`](crate::Session), or
    /// from it. Nothing was written.
    #[error("the state of {} can't be {action}: {message}", state_owner(.session_id, .checkpoint_id))]
    State {
        /// The id of the session.
        session_id: String,
        /// The id of the checkpoint with an unreadable state; none for a state that
        /// can't be saved.
        checkpoint_id: Option<String>,
        /// `read` or `saved`.
        action: &'static str,
        /// The reason, with the line and column in the JSON text.
        message: String,
    },
}

impl Error {
    /// Whether a failed write took effect.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Storage(error) => error.effect,
            Self::Component(_) => Effect::Unknown,
            _ => Effect::None,
        }
    }

    /// Whether a retry of the same call may succeed: the store was unavailable or
    /// did not answer in time, or too many calls were running.
    ///
    /// ```
    /// use checkpointer::{Effect, Error, StorageError, StorageReason};
    ///
    /// let error = Error::from(StorageError::new(StorageReason::Timeout, Effect::Unknown, "no answer"));
    /// assert!(error.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Storage(error) => {
                matches!(error.reason, StorageReason::Unavailable | StorageReason::Timeout)
            }
            _ => false,
        }
    }

    /// Whether the stored data ruled out a save; see [`Conflict`].
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}

/// A failure of a store.
///
/// The message contains no address and no credentials; a plugin receives only the
/// message. [`StorageError::address`] and the [source](std::error::Error::source)
/// are for the application that opened the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StorageError {
    /// The class of the failure.
    pub reason: StorageReason,
    /// Whether a failed write took effect.
    pub effect: Effect,
    /// A description for people.
    pub message: String,
    context: Option<Arc<Context>>,
}

/// Details of a failure for the application only.
#[derive(Debug)]
struct Context {
    address: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl StorageError {
    /// A failure. The message must contain no address and no credentials.
    pub fn new(reason: StorageReason, effect: Effect, message: impl Into<String>) -> Self {
        Self { reason, effect, message: message.into(), context: None }
    }

    /// Replaces the effect.
    #[must_use]
    pub(crate) fn with_effect(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    /// Adds the address of the server or file, without credentials, and the error
    /// that caused the failure.
    #[must_use]
    pub fn with_context(
        mut self,
        address: Option<String>,
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        self.context = Some(Arc::new(Context { address, source }));
        self
    }

    /// The address of the server or file that failed, without credentials.
    pub fn address(&self) -> Option<&str> {
        self.context.as_ref()?.address.as_deref()
    }

    /// Adds the context of `other`, if the component made this error from it.
    pub(crate) fn with_context_of(mut self, other: Option<Self>) -> Self {
        if let Some(other) = other.filter(|other| other.message == self.message) {
            self.context = other.context;
        }
        self
    }
}

/// Compares reason, effect and message, not the context.
impl PartialEq for StorageError {
    fn eq(&self, other: &Self) -> bool {
        (self.reason, self.effect, &self.message) == (other.reason, other.effect, &other.message)
    }
}

impl Eq for StorageError {}

impl fmt::Display for StorageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        if let Some(address) = self.address() {
            write!(formatter, " ({address})")?;
        }
        match self.effect {
            Effect::None => Ok(()),
            Effect::Unknown => formatter.write_str("; whether the write took effect is unknown"),
        }
    }
}

impl StdError for StorageError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.context.as_ref()?.source.as_ref()?;
        Some(source.as_ref())
    }
}

fn state_owner(session_id: &str, checkpoint_id: &Option<String>) -> String {
    match checkpoint_id {
        Some(id) => format!("checkpoint {id:?} of session {session_id:?}"),
        None => format!("session {session_id:?}"),
    }
}

fn describe(conflict: &Conflict) -> String {
    match conflict {
        Conflict::IdInUse { checkpoint_id, reason } => {
            format!("checkpoint {checkpoint_id:?} can't be saved: {reason}")
        }
        Conflict::NotLatest { actual: Some(id) } => format!("the latest checkpoint of the session is {id:?}"),
        Conflict::NotLatest { actual: None } => "the session has no checkpoint".to_owned(),
    }
}

impl From<wit::StorageError> for StorageError {
    fn from(error: wit::StorageError) -> Self {
        Self::new(error.reason.into(), error.effect.into(), error.message)
    }
}

/// Address and source stay in the host.
impl From<StorageError> for wit::StorageError {
    fn from(error: StorageError) -> Self {
        Self { reason: error.reason.into(), effect: error.effect.into(), message: error.message }
    }
}

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        match error {
            wit::Error::InvalidArgument(message) => Self::InvalidArgument(message),
            wit::Error::Conflict(conflict) => Self::Conflict(conflict.into()),
            wit::Error::Corrupt(wit::Unreadable { checkpoint_id, reason }) => {
                Self::Corrupt { checkpoint_id, reason }
            }
            wit::Error::TooLarge(wit::SizeExcess { size, limit }) => Self::TooLarge { size, limit },
            wit::Error::Storage(error) => Self::Storage(error.into()),
        }
    }
}
