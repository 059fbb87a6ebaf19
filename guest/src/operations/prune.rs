//! The limit on how many checkpoints a session keeps: which of them have to go
//! so that one can come.

use super::{ATTEMPTS, Checkpointer, HEAD, Held, entry, overtaken, starts_with};
use crate::Error;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, IndexSize, Keyvalue, Operation, Order, Position, Query, Value};

/// How many entries to look at in one round trip.
const PAGE: u32 = 1000;

/// How many checkpoints go in one step. More than one goes only where a limit
/// is new, or was lowered.
const STEP: usize = 300;

/// What it takes to keep to the limit.
pub(super) struct Room {
    /// That the session has not grown since, and that the oldest are still what
    /// they were.
    pub conditions: Vec<Vec<Condition>>,
    /// What removes the oldest.
    pub operations: Vec<Operation>,
    /// What tidies up after that.
    pub tidying: Vec<Batch>,
    /// Whether there are still too many after that.
    pub is_partial: bool,
    /// Whether the newcomer itself is one of those that have to go.
    pub takes_newcomer: bool,
}

/// The checkpoints of a session but for the newcomer.
#[derive(Default)]
struct Census {
    /// How many entries the index has; none before the first page.
    size: Option<u64>,
    living: u64,
    /// How many of the living are older than the newcomer.
    older: u64,
    /// The oldest of the living, no more than [`STEP`].
    oldest: Vec<String>,
    /// Entries that name nothing, no more than [`STEP`].
    dead: Vec<String>,
}

impl<K: Keyvalue> Checkpointer<K> {
    /// How to keep to `most` checkpoints in a session when one comes to the place
    /// of `newcomer`.
    pub(super) fn room(&self, session: &Id, most: u64, newcomer: Option<&Position>) -> Result<Room, Error> {
        let index = self.keys.session(session);
        let census = self.census(session, &index, newcomer)?;
        let excess = (census.living + u64::from(newcomer.is_some())).saturating_sub(most);
        let mut room = Room {
            conditions: vec![vec![Condition::IndexSizeAtMost(IndexSize {
                index: index.clone(),
                size: census.size.unwrap_or_default(),
            })]],
            operations: Vec::new(),
            tidying: census.dead.iter().map(|member| self.sweeping(&index, member)).collect(),
            is_partial: excess > STEP as u64,
            takes_newcomer: newcomer.is_some() && census.older < excess,
        };
        let going = usize::try_from(excess).unwrap_or(usize::MAX).min(census.oldest.len());
        let documents = self.keys.documents(session);
        let keys: Vec<_> = census.oldest[..going].iter().map(|id| format!("{documents}{id}")).collect();
        if keys.is_empty() || room.takes_newcomer {
            return Ok(room);
        }
        let values = self.bucket.get(&keys, Some(HEAD))?;
        for ((key, member), value) in keys.into_iter().zip(&census.oldest).zip(values) {
            let text = match &value {
                Value::Text(text) | Value::Truncated(text) => text.clone(),
                Value::Absent | Value::Unreadable(_) => String::new(),
            };
            // If somebody has removed it since, the count is not true any more.
            room.conditions.push(vec![Condition::IndexHas(entry(index.clone(), member))]);
            match self.owner(&key, value)? {
                // All that was read has to be there still: with another
                // timestamp it might be the newest by now.
                Held::Document(owner, _) if owner.is_of(session, member) => {
                    let mut batches = self.removal(key, &owner, text).into_iter();
                    for Batch { conditions, operations } in batches.by_ref().take(1) {
                        room.conditions.extend(conditions);
                        room.operations.extend(operations);
                    }
                    room.tidying.extend(batches);
                }
                Held::Garbage(_, text) => {
                    room.conditions.push(vec![starts_with(key.clone(), text)]);
                    room.operations.push(Operation::Delete(key));
                    room.tidying.push(self.sweeping(&index, member));
                }
                Held::Alien(_) if !self.keys.may_be_shared(&index) => {
                    room.operations.push(Operation::IndexDelete(entry(index.clone(), member)));
                }
                Held::Nothing | Held::Alien(_) | Held::Document(..) => {}
            }
        }
        Ok(room)
    }

    /// Counts who lives in a session. The entries of an index alone do not say:
    /// some name nothing any more, and some are not the session's own.
    fn census(&self, session: &Id, index: &str, newcomer: Option<&Position>) -> Result<Census, Error> {
        let mut census = Census::default();
        let mut after = None;
        loop {
            // The size of the beginning holds: what comes later has the save
            // begin again.
            let with_count = census.size.is_none();
            let query = self.query(index, Order::Ascending, PAGE);
            let page =
                self.bucket.range(&Query { after, max_value_bytes: Some(HEAD), with_next: true, with_count, ..query })?;
            census.size = census.size.or(page.count);
            for found in page.entries {
                if newcomer.is_some_and(|newcomer| newcomer.member == found.member) {
                    continue;
                }
                if matches!(found.value, Value::Absent) {
                    if census.dead.len() < STEP {
                        census.dead.push(found.member);
                    }
                    continue;
                }
                if !self.is_of(session, &found.member, found.value)? {
                    continue;
                }
                census.living += 1;
                let place = (found.score.unwrap_or(f64::NEG_INFINITY), found.member.as_str());
                let is_older =
                    newcomer.is_none_or(|newcomer| place < (newcomer.score, newcomer.member.as_str()));
                census.older += u64::from(is_older);
                if census.oldest.len() < STEP {
                    census.oldest.push(found.member);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(census);
            }
        }
    }

    /// Whether what stands at the key of `member` is this session's, as far as
    /// can be told.
    fn is_of(&self, session: &Id, member: &str, value: Value) -> Result<bool, Error> {
        Ok(match self.owner(&(self.keys.documents(session) + member), value)? {
            Held::Document(owner, _) => owner.is_of(session, member),
            Held::Nothing | Held::Alien(_) | Held::Garbage(..) => false,
        })
    }

    /// Removes the oldest checkpoints of a session that are over the limit, step
    /// by step.
    pub(super) fn prune(&self, session: &Id, most: u64) -> Result<(), Error> {
        let mut refused = 0;
        while refused < ATTEMPTS {
            let Room { conditions, operations, tidying, is_partial, .. } = self.room(session, most, None)?;
            if operations.is_empty() {
                return Ok(());
            }
            let mut batches = vec![Batch { conditions, operations }];
            batches.extend(tidying);
            if !self.commit(&batches)? {
                refused += 1;
            } else if !is_partial {
                return Ok(());
            }
        }
        Err(overtaken())
    }
}
