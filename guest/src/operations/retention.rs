//! Retention: `max-checkpoints` of a session. A save removes the oldest
//! checkpoints above the limit in its commit.
//!
//! Below the limit one condition on the size of the index is enough. Only if it
//! fails, the checkpoints are counted: the index may contain dangling entries and
//! checkpoints of other sessions, which do not count.

use super::ATTEMPTS;
use super::call::{Call, all, contention, index_member, index_size_at_most};
use super::save::{NewCheckpoint, SavePlan};
use super::stored::Stored;
use crate::document::Owner;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, Keyvalue, Order, Position, Query, Value};
use crate::{Error, SaveOutcome};

/// The number of entries to read in one round trip.
const PAGE: u32 = 1000;

/// The number of checkpoints to remove in one commit. More than one is removed
/// only after the limit was lowered or introduced.
const MAX_REMOVED: usize = 300;

/// The limit of a session during a save.
pub(super) struct Retention {
    max: u64,
    /// Whether the index has reached the limit, so that checkpoints are counted.
    is_counting: bool,
    /// Whether the session is above the limit even after the commit.
    has_more: bool,
}

impl Retention {
    pub fn new(max: u64) -> Self {
        Self { max, is_counting: false, has_more: false }
    }

    /// Returns whether an attempt failed because the index has reached the limit.
    pub fn must_count(&mut self, applied: &[bool]) -> bool {
        let is_full = !self.is_counting && !applied[1];
        self.is_counting |= is_full;
        is_full
    }
}

/// The checkpoints above the limit of a session.
#[derive(PartialEq, Eq)]
enum Excess {
    /// At most the checkpoints that the plan removes.
    Removed,
    /// More checkpoints than a plan removes.
    More,
    /// The new checkpoint itself: it is older than all that are kept.
    New,
}

/// The number of checkpoints of a session without the new one.
#[derive(Default)]
struct SessionCount {
    /// The number of index entries; none before the first page.
    index_size: Option<u64>,
    checkpoints: u64,
    /// How many of them are older than the new one.
    older: u64,
    /// The oldest checkpoints, at most [`MAX_REMOVED`].
    oldest: Vec<OldCheckpoint>,
    /// Dangling entries, at most [`MAX_REMOVED`].
    dangling: Vec<String>,
}

/// A checkpoint that may be removed.
struct OldCheckpoint {
    id: String,
    owner: Owner,
    /// The beginning of its document when it was counted.
    head: String,
}

impl<K: Keyvalue> Call<'_, K> {
    /// Adds the limit to a save. Returns false if the new checkpoint is older than
    /// all that the session keeps.
    pub(super) fn plan_retention(
        &self,
        retention: &mut Retention,
        new: &NewCheckpoint,
        plan: &mut SavePlan,
    ) -> Result<bool, Error> {
        if !retention.is_counting {
            let below = all([index_size_at_most(&new.session_index, retention.max - 1)]);
            plan.conditions.extend(below.clone());
            plan.size_check = Some(Batch { conditions: below, operations: Vec::new() });
            return Ok(true);
        }
        let excess = self.plan_eviction(&new.session, retention.max, Some(&new.position), plan)?;
        retention.has_more = excess == Excess::More;
        Ok(excess != Excess::New)
    }

    /// Removes the rest above the limit after a save. The save has succeeded: if
    /// this fails, the next save removes it.
    pub(super) fn finish_retention(&self, retention: &Retention, new: &NewCheckpoint) {
        if retention.has_more {
            let _ = self.prune(&new.session, retention.max);
        }
    }

    /// Ends the save of a checkpoint that is too old to be kept. Deletes an earlier
    /// version of it.
    pub(super) fn prune_new(&self, new: &NewCheckpoint, retention: &Retention) -> Result<SaveOutcome, Error> {
        if let (Some(_), _) = self.existing(new)? {
            self.delete_one(&new.session, &Id::unchecked(new.id()))?;
        }
        let _ = self.prune(&new.session, retention.max);
        Ok(SaveOutcome::Pruned)
    }

    /// Removes the oldest checkpoints of a session above the limit.
    fn prune(&self, session: &Id, max: u64) -> Result<(), Error> {
        let mut failed = 0;
        while failed < ATTEMPTS {
            let mut plan = SavePlan::default();
            let excess = self.plan_eviction(session, max, None, &mut plan)?;
            if plan.operations.is_empty() {
                return Ok(());
            }
            if !self.commit(&plan.into_batches(None))?[0] {
                failed += 1;
            } else if excess != Excess::More {
                return Ok(());
            }
        }
        Err(contention())
    }

    /// Adds the removal of the oldest checkpoints, so that with the new one a session
    /// has at most `max`. The conditions are that the session has not grown, and that
    /// the removed checkpoints have not changed.
    fn plan_eviction(
        &self,
        session: &Id,
        max: u64,
        new: Option<&Position>,
        plan: &mut SavePlan,
    ) -> Result<Excess, Error> {
        let index = self.keys.session(session);
        let count = self.count(session, &index, new)?;
        let excess = (count.checkpoints + u64::from(new.is_some())).saturating_sub(max);
        let index_size = count.index_size.unwrap_or_default();
        plan.conditions.extend(all([index_size_at_most(&index, index_size)]));
        plan.follow_up.extend(count.dangling.iter().map(|id| self.remove_dangling_batch(&index, id)));
        if new.is_some() && count.older < excess {
            return Ok(Excess::New);
        }
        let removed = usize::try_from(excess).unwrap_or(usize::MAX);
        let documents = self.keys.documents(session);
        for OldCheckpoint { id, owner, head } in count.oldest.into_iter().take(removed) {
            // After a concurrent removal the count is too high.
            plan.conditions.extend(all([Condition::IndexHas(index_member(&index, &id))]));
            // The guard is all of the text that was counted: with another timestamp the
            // checkpoint may be the newest one.
            let mut batches = self.delete_batches(format!("{documents}{id}"), &owner, head).into_iter();
            if let Some(Batch { conditions, operations }) = batches.next() {
                plan.conditions.extend(conditions);
                plan.operations.extend(operations);
            }
            plan.follow_up.extend(batches);
        }
        Ok(if excess > MAX_REMOVED as u64 { Excess::More } else { Excess::Removed })
    }

    /// Counts the checkpoints of a session.
    fn count(&self, session: &Id, index: &str, new: Option<&Position>) -> Result<SessionCount, Error> {
        let mut count = SessionCount::default();
        let mut after = None;
        loop {
            // The size at the first page: after a concurrent save the commit fails.
            let with_count = count.index_size.is_none();
            let query = self.query_heads(index, Order::Ascending, PAGE, after);
            let page = self.bucket.range(&Query { with_count, ..query })?;
            count.index_size = count.index_size.or(page.count);
            for entry in page.entries {
                if new.is_some_and(|new| new.member == entry.member) {
                    continue;
                }
                let is_wanted = count.oldest.len() < MAX_REMOVED;
                let head = match &entry.value {
                    Value::Text(text) | Value::Truncated(text) if is_wanted => text.clone(),
                    _ => String::new(),
                };
                match self.stored(&(self.keys.documents(session) + &entry.member), entry.value)? {
                    Stored::Absent if count.dangling.len() < MAX_REMOVED => count.dangling.push(entry.member),
                    Stored::Document(owner, _) if owner.matches(session, &entry.member) => {
                        count.checkpoints += 1;
                        let position = (entry.score.unwrap_or(f64::NEG_INFINITY), entry.member.as_str());
                        let is_older = new.is_none_or(|new| position < (new.score, new.member.as_str()));
                        count.older += u64::from(is_older);
                        if is_wanted {
                            count.oldest.push(OldCheckpoint { id: entry.member, owner, head });
                        }
                    }
                    _ => {}
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }
}
