//! What can go wrong with a checkpointer.

use thiserror::Error;

use crate::bindings::exports::flow::checkpoint::checkpointer;
use crate::store::{AddressError, Effect, StorageError, StorageReason};
use crate::{Conflict, Taken};

/// Why an operation failed. [`Error::effect`] says what became of a write; every
/// operation is safe to repeat.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is at fault. Nothing was written; repeating does not help.
    #[error("{0}")]
    InvalidArgument(String),
    /// The address of the store is at fault.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// What is there does not allow it: the id of the checkpoint is taken, or the
    /// session's latest checkpoint is another than was said. Nothing was written.
    #[error("{}", describe(.0))]
    Conflict(Conflict),
    /// The checkpoint that was asked for is there, and can't be read.
    #[error("the checkpoint {checkpoint_id:?} can't be read: {reason}")]
    Corrupt {
        /// The id.
        checkpoint_id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The state is too large. Nothing was written.
    #[error("the state has {size} bytes, more than the {limit} that may be saved")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes, see [`Builder::max_state_bytes`](crate::Builder::max_state_bytes).
        limit: u64,
    },
    /// The store failed.
    #[error("{message}{}", match effect { Effect::None => "", Effect::Unknown => "; whether the write took effect is unknown" })]
    Storage {
        /// Why, for a program to act on: `Unavailable` and `Timeout` may be
        /// tried again.
        reason: StorageReason,
        /// Whether a write took effect.
        effect: Effect,
        /// Why, in words.
        message: String,
    },
    /// No instance of the component became free in time. Nothing was written.
    #[error("too many calls at once: no instance of the component became free in time")]
    Busy,
    /// The component failed, by a fault of its own or for want of memory. A
    /// write before that may have taken effect.
    #[error("the component failed: {0}")]
    Component(String),
}

impl Error {
    /// Whether what was to be written took effect: not at all, or nobody knows;
    /// or in part, of an operation that goes in steps.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Storage { effect, .. } => *effect,
            Self::Component(_) => Effect::Unknown,
            _ => Effect::None,
        }
    }
}

fn describe(conflict: &Conflict) -> String {
    match conflict {
        Conflict::Taken(Taken { checkpoint_id, reason }) => {
            format!("the checkpoint {checkpoint_id:?} can't be saved: {reason}")
        }
        Conflict::Latest(Some(id)) => format!("the latest checkpoint of the session is {id:?}"),
        Conflict::Latest(None) => "the session has no checkpoint".to_owned(),
    }
}

impl From<checkpointer::Error> for Error {
    fn from(error: checkpointer::Error) -> Self {
        match error {
            checkpointer::Error::InvalidArgument(message) => Self::InvalidArgument(message),
            checkpointer::Error::Conflict(conflict) => Self::Conflict(conflict),
            checkpointer::Error::Corrupt(unreadable) => {
                Self::Corrupt { checkpoint_id: unreadable.checkpoint_id, reason: unreadable.reason }
            }
            checkpointer::Error::TooLarge(excess) => {
                Self::TooLarge { size: excess.size, limit: excess.limit }
            }
            checkpointer::Error::Storage(error) => error.into(),
        }
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Self::Storage { reason: error.reason, effect: error.effect, message: error.message }
    }
}
