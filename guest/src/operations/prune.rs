//! The limit on how many checkpoints a session keeps: which of them have to go
//! so that one can come.

use super::{ATTEMPTS, Checkpointer, HEAD, overtaken};
use crate::Error;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, IndexSize, Keyvalue, Operation, Order, Query};

/// How many checkpoints go in one step. More than one goes only where a limit
/// is new, or was lowered.
const PAGE: u32 = 300;

/// A checkpoint that is about to be saved.
pub(super) struct Newcomer<'a> {
    pub id: &'a str,
    pub score: f64,
    /// Whether the session does not have it yet.
    pub is_new: bool,
}

/// What it takes to keep to the limit.
pub(super) struct Room {
    /// That the session has not grown since, and that the oldest are still what
    /// they were.
    pub conditions: Vec<Vec<Condition>>,
    /// What removes the oldest.
    pub operations: Vec<Operation>,
    /// What tidies up after that.
    pub tidying: Vec<Batch>,
    /// How many are still too many after that.
    pub excess: u64,
    /// Whether the newcomer itself is one of those that have to go.
    pub takes_newcomer: bool,
}

impl<K: Keyvalue> Checkpointer<K> {
    /// How to keep to `most` checkpoints in a session when `newcomer` comes.
    pub(super) fn room(
        &self,
        session: &Id,
        most: u64,
        newcomer: Option<&Newcomer<'_>>,
    ) -> Result<Room, Error> {
        let index = self.keys.session(session);
        let page = self.bucket.range(&Query {
            index: index.clone(),
            order: Order::Ascending,
            after: None,
            limit: PAGE,
            values_at: self.keys.documents(),
            head: Some(HEAD),
            resumable: true,
            counted: true,
        })?;
        let size = page.size.unwrap_or_default();
        // An earlier version that expired may have left its entry.
        let grows = newcomer.is_some_and(|newcomer| {
            newcomer.is_new && page.entries.iter().all(|entry| entry.member != newcomer.id)
        });
        let grown = size + u64::from(grows);
        let mut room = Room {
            conditions: vec![vec![Condition::IndexAtMost(IndexSize { index, size })]],
            operations: Vec::new(),
            tidying: Vec::new(),
            excess: grown.saturating_sub(most),
            takes_newcomer: false,
        };
        for entry in page.entries {
            if room.excess == 0 {
                break;
            }
            if let Some(newcomer) = newcomer {
                if entry.member == newcomer.id {
                    continue;
                }
                let place = (entry.score.unwrap_or(f64::NEG_INFINITY), entry.member.as_str());
                if (newcomer.score, newcomer.id) < place {
                    room.takes_newcomer = true;
                    break;
                }
            }
            room.excess -= 1;
            // What is another session's by an index of the same name is not
            // ours to remove, and did not count.
            if let Some(deletion) = self.deletion(session, &entry.member, entry.value)? {
                let mut batches = deletion.batches.into_iter();
                for Batch { conditions, operations } in batches.by_ref().take(1) {
                    room.conditions.extend(conditions);
                    room.operations.extend(operations);
                }
                room.tidying.extend(batches);
            }
        }
        Ok(room)
    }

    /// Removes the oldest checkpoints of a session that are over the limit, step
    /// by step.
    pub(super) fn prune(&self, session: &Id, most: u64) -> Result<(), Error> {
        let mut refused = 0;
        while refused < ATTEMPTS {
            let Room { conditions, operations, tidying, excess, .. } = self.room(session, most, None)?;
            if operations.is_empty() {
                return Ok(());
            }
            let mut batches = vec![Batch { conditions, operations }];
            batches.extend(tidying);
            if !self.commit(&batches)? {
                refused += 1;
            } else if excess == 0 {
                return Ok(());
            }
        }
        Err(overtaken())
    }
}
