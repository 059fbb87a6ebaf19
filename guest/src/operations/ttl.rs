//! TTLs: sessions that expire as a whole, and reads that refresh.

use super::call::{Call, all, contention, starts_with};
use super::load::Found;
use super::save::{NewCheckpoint, SavePlan};
use super::stored::Stored;
use super::{ATTEMPTS, HEAD, PAGE};
use crate::document::Owner;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, Expire, ExpireMode, Expiry, Keyvalue, Operation, Order, Position};
use crate::{Error, TtlScope};

/// A change of the expiry of checkpoints.
#[derive(Clone)]
pub(super) struct ExpiryUpdate {
    pub expiry: Expiry,
    pub mode: ExpireMode,
    /// A condition besides that the checkpoint still exists.
    pub condition: Option<Condition>,
}

impl ExpiryUpdate {
    /// Extends TTLs, and never shortens them.
    pub fn extend(expiry: Expiry) -> Self {
        Self { expiry, mode: ExpireMode::ExtendOnly, condition: None }
    }

    /// Applies to checkpoints only if the condition holds.
    pub fn only_if(self, condition: Condition) -> Self {
        Self { condition: Some(condition), ..self }
    }
}

/// The extension of a session's TTL by a save.
pub(super) struct SessionTtl {
    pub update: ExpiryUpdate,
    /// The position after the checkpoints that the commit of the save extends.
    pub next: Option<Position>,
}

impl<K: Keyvalue> Call<'_, K> {
    /// Whether all checkpoints of a session expire together.
    pub(super) fn has_session_ttl(&self) -> bool {
        self.settings.ttl.is_some_and(|ttl| ttl.scope == TtlScope::Session)
    }

    /// Whether reads refresh TTLs.
    pub(super) fn refreshes(&self) -> bool {
        self.settings.ttl.is_some_and(|ttl| ttl.refresh_on_read)
    }

    /// Adds the extension of the newest page of the session to a save. The next pages
    /// are extended after it.
    pub(super) fn plan_session_ttl(
        &self,
        new: &NewCheckpoint,
        is_pinned: bool,
        plan: &mut SavePlan,
    ) -> Result<Option<SessionTtl>, Error> {
        if !new.extends_session {
            return Ok(None);
        }
        let update = ExpiryUpdate::extend(if is_pinned { Expiry::Never } else { new.expiry });
        let (others, next) = self.update_page(&new.session, &update, None)?;
        for other in others {
            plan.conditions.extend(other.conditions);
            plan.operations.extend(other.operations);
        }
        let update = update.only_if(self.pin_condition(&new.session, is_pinned));
        Ok(Some(SessionTtl { update, next }))
    }

    /// Refreshes the TTLs of checkpoints that were read.
    pub(super) fn refresh<'a>(
        &self,
        session: &Id,
        found: impl IntoIterator<Item = &'a Found>,
    ) -> Result<(), Error> {
        if !self.refreshes() {
            return Ok(());
        }
        let update = ExpiryUpdate::extend(self.expiry());
        let mut found = found.into_iter().peekable();
        if self.has_session_ttl() && found.peek().is_some() {
            return self.update_session(session, &update, None).map(drop);
        }
        let owners = found.filter_map(|found| found.owner.as_ref());
        let batches = owners.map(|(owner, guard)| {
            let key = self.keys.documents(session) + &owner.checkpoint_id;
            self.update_batch(key, owner, guard.clone(), &update)
        });
        batches.collect::<Vec<_>>().chunks(PAGE as usize).try_for_each(|page| self.commit(page).map(drop))
    }

    /// Updates the checkpoints of a session, page by page, from a position or from
    /// the first page. Returns how many were updated.
    ///
    /// TTLs are extended newest first, so that after a partial failure the latest
    /// checkpoint does not expire first. After an extension of several pages the
    /// newest page is extended once more, because each commit starts the TTL at a
    /// different time.
    pub(super) fn update_session(
        &self,
        session: &Id,
        update: &ExpiryUpdate,
        mut after: Option<Position>,
    ) -> Result<u64, Error> {
        let mut is_one_page = after.is_none();
        let mut count = 0;
        loop {
            let (batches, next) = self.update_page(session, update, after)?;
            count += self.commit(&batches)?.into_iter().map(u64::from).sum::<u64>();
            after = next;
            if after.is_none() {
                break;
            }
            is_one_page = false;
        }
        if !is_one_page && update.mode == ExpireMode::ExtendOnly && update.expiry != Expiry::Never {
            self.commit(&self.update_page(session, update, None)?.0)?;
        }
        Ok(count)
    }

    /// Returns the batches that update a page of a session, and the next position.
    /// TTLs are shortened oldest first.
    fn update_page(
        &self,
        session: &Id,
        update: &ExpiryUpdate,
        after: Option<Position>,
    ) -> Result<(Vec<Batch>, Option<Position>), Error> {
        let order = match update.mode {
            ExpireMode::Set => Order::Ascending,
            ExpireMode::ExtendOnly => Order::Descending,
        };
        let page = self.bucket.range(&self.query_heads(&self.keys.session(session), order, PAGE, after))?;
        let mut batches = Vec::new();
        for entry in page.entries {
            let key = self.keys.documents(session) + &entry.member;
            if let Stored::Document(owner, guard) = self.stored(&key, entry.value)?
                && owner.matches(session, &entry.member)
            {
                batches.push(self.update_batch(key, &owner, guard, update));
            }
        }
        Ok((batches, page.next))
    }

    /// Updates one checkpoint. Returns whether it exists.
    pub(super) fn update_checkpoint(
        &self,
        session: &Id,
        checkpoint: &Id,
        update: impl Fn() -> Result<ExpiryUpdate, Error>,
    ) -> Result<bool, Error> {
        let key = self.keys.document(session, checkpoint);
        for _ in 0..ATTEMPTS {
            match self.stored(&key, self.get(&key, Some(HEAD))?)? {
                Stored::Document(owner, guard) if owner.matches(session, checkpoint.as_str()) => {
                    if self.commit(&[self.update_batch(key.clone(), &owner, guard, &update()?)])?[0] {
                        return Ok(true);
                    }
                }
                _ => return Ok(false),
            }
        }
        Err(contention())
    }

    /// Returns a batch that updates a document if it still starts with `guard`. Its
    /// indexes are only extended, because they have other entries.
    fn update_batch(&self, key: String, owner: &Owner, guard: String, update: &ExpiryUpdate) -> Batch {
        let ExpiryUpdate { expiry, mode, ref condition } = *update;
        let mut operations = vec![Operation::Expire(Expire { key: key.clone(), expiry, mode })];
        let mode = ExpireMode::ExtendOnly;
        operations.extend(self.indexes(owner).map(|key| Operation::Expire(Expire { key, expiry, mode })));
        Batch { conditions: all([starts_with(key, guard)].into_iter().chain(condition.clone())), operations }
    }
}
