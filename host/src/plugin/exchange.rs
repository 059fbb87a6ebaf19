//! The interface as a plugin has it, to and from what the library has: the types
//! of both are made from the same WIT, so what is here only carries them over.

use super::bindings::flow::checkpoint::checkpointer as plugin;
use crate::bindings::exports::flow::checkpoint::checkpointer as library;
use crate::store::{Effect, StorageError, StorageReason};
use crate::{
    Checkpoint, Conflict, Documents, Error, History, Listed, Listing, Metadata, Outcome, Run, Unreadable,
};

impl From<plugin::Options> for library::Options {
    fn from(options: plugin::Options) -> Self {
        Self {
            bucket: options.bucket,
            prefix: options.prefix,
            layout: match options.layout {
                plugin::Layout::Llmfy => library::Layout::Llmfy,
                plugin::Layout::Partitioned => library::Layout::Partitioned,
            },
            ttl: options.ttl.map(|ttl| library::Ttl {
                milliseconds: ttl.milliseconds,
                lifetime: match ttl.lifetime {
                    plugin::Lifetime::OfCheckpoint => library::Lifetime::OfCheckpoint,
                    plugin::Lifetime::OfSession => library::Lifetime::OfSession,
                },
                refresh_on_read: ttl.refresh_on_read,
            }),
            max_state_bytes: options.max_state_bytes,
            compress: options.compress,
            max_checkpoints: options.max_checkpoints,
        }
    }
}

impl From<plugin::Checkpoint> for Checkpoint {
    fn from(checkpoint: plugin::Checkpoint) -> Self {
        let metadata = checkpoint.metadata;
        Self {
            metadata: Metadata {
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
            },
            state: checkpoint.state,
        }
    }
}

impl From<Metadata> for plugin::Metadata {
    fn from(metadata: Metadata) -> Self {
        Self {
            session_id: metadata.session_id,
            checkpoint_id: metadata.checkpoint_id,
            timestamp: metadata.timestamp,
            node: metadata.node,
            step: metadata.step,
            run: metadata.run.map(|run| plugin::Run {
                run_id: run.run_id,
                prev_node: run.prev_node,
                updated_fields: run.updated_fields,
                attempt: run.attempt,
                dispatch_id: run.dispatch_id,
            }),
        }
    }
}

impl From<Checkpoint> for plugin::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { metadata: checkpoint.metadata.into(), state: checkpoint.state }
    }
}

impl From<Outcome> for plugin::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Kept => Self::Kept,
            Outcome::Pruned => Self::Pruned,
        }
    }
}

impl From<Unreadable> for plugin::Unreadable {
    fn from(unreadable: Unreadable) -> Self {
        Self { checkpoint_id: unreadable.checkpoint_id, reason: unreadable.reason }
    }
}

impl From<History> for plugin::History {
    fn from(history: History) -> Self {
        Self {
            checkpoints: history.checkpoints.into_iter().map(Into::into).collect(),
            unreadable: history.unreadable.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Documents> for plugin::Documents {
    fn from(documents: Documents) -> Self {
        Self {
            documents: documents.documents,
            unreadable: documents.unreadable.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Listed> for plugin::Listed {
    fn from(listed: Listed) -> Self {
        Self {
            session_id: listed.session_id,
            checkpoint_id: listed.checkpoint_id,
            milliseconds: listed.milliseconds,
        }
    }
}

impl From<Listing> for plugin::Listing {
    fn from(listing: Listing) -> Self {
        Self {
            checkpoints: listing.checkpoints.into_iter().map(Into::into).collect(),
            unreadable: listing.unreadable.into_iter().map(Into::into).collect(),
            pinned: listing.pinned,
            next: listing.next,
        }
    }
}

impl From<Error> for plugin::Error {
    fn from(error: Error) -> Self {
        let effect = error.effect();
        match error {
            Error::InvalidArgument(message) => Self::InvalidArgument(message),
            Error::Conflict(Conflict::Taken(taken)) => {
                Self::Conflict(plugin::Conflict::Taken(plugin::Taken {
                    checkpoint_id: taken.checkpoint_id,
                    reason: taken.reason,
                }))
            }
            Error::Conflict(Conflict::Latest(latest)) => Self::Conflict(plugin::Conflict::Latest(latest)),
            Error::Corrupt { checkpoint_id, reason } => {
                Self::Corrupt(plugin::Unreadable { checkpoint_id, reason })
            }
            Error::TooLarge { size, limit } => Self::TooLarge(plugin::Excess { size, limit }),
            Error::Storage { reason, effect, message } => {
                Self::Storage(StorageError { reason, effect, message })
            }
            Error::Busy => Self::Storage(StorageError {
                reason: StorageReason::Unavailable,
                effect: Effect::None,
                message: "too many calls at once; try again".to_owned(),
            }),
            // What else there is concerns the host alone.
            Error::Address(_) | Error::Component(_) => Self::Storage(StorageError {
                reason: StorageReason::Other,
                effect,
                message: "the checkpointer failed".to_owned(),
            }),
        }
    }
}
