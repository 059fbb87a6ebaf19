//! How long what is saved lives: sessions that expire as a whole, reading that
//! refreshes, and pins.
//!
//! A checkpoint is pinned by having no expiry. That a session is, and what is
//! saved in it later with it, is a mark at a key of its own, which every save
//! with a ttl looks at in the very step that writes.

use super::{ATTEMPTS, Checkpointer, ids, Found, HEAD, Held, PAGE, overtaken, starts_with, storage_error};
use crate::document::Owner;
use crate::id::Id;
use crate::keyvalue::{
    Batch, Condition, Effect, Expire, ExpireMode, Expiry, Keyvalue, Operation, Order, Position, Put, Query,
    StorageReason, Value,
};
use crate::{Error, TtlScope};

/// Until when something is to live.
#[derive(Clone)]
pub(super) struct Until {
    expiry: Expiry,
    /// Whether a longer life is cut short.
    shorten: bool,
    /// What has to hold besides.
    condition: Option<Condition>,
}

impl Until {
    /// No less than this.
    pub fn at_least(expiry: Expiry) -> Self {
        Self { expiry, shorten: false, condition: None }
    }

    /// Only if this holds.
    pub fn only_if(self, condition: Condition) -> Self {
        Self { condition: Some(condition), ..self }
    }
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Excludes a checkpoint from expiry. Returns whether it exists.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Storage`].
    pub fn pin_checkpoint(&self, session: &str, checkpoint: &str) -> Result<bool, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        self.checkpoint_lives(&session, &checkpoint, || Ok(Until::at_least(Expiry::Never)))
    }

    /// Excludes the checkpoints of a session from expiry, and those saved in it
    /// later. Returns how many exist.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Storage`], after which the pages before
    /// the failure are pinned.
    pub fn pin_session(&self, session: &str) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        self.in_steps(|it| {
            it.bucket.commit(&[it.marking(&session)])?;
            let until = Until::at_least(Expiry::Never).only_if(it.pinned_as_seen(&session, true));
            it.session_lives(&session, &until, None)
        })
    }

    /// Gives a pinned checkpoint the TTL of a checkpoint saved now; in a pinned
    /// session it stays pinned. Returns whether it exists.
    ///
    /// # Errors
    /// As [`Checkpointer::pin_checkpoint`].
    pub fn unpin_checkpoint(&self, session: &str, checkpoint: &str) -> Result<bool, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        self.in_steps(|it| {
            let until = || Ok(it.until_unpinned(&session, it.is_pinned(&session)?));
            let exists = it.checkpoint_lives(&session, &checkpoint, until)?;
            // It must not outlive those that are newer.
            if exists && it.lives_as_a_whole() {
                it.session_lives(&session, &Until::at_least(it.expiry()), None)?;
            }
            Ok(exists)
        })
    }

    /// Ends the pin of a session, and gives its checkpoints the TTL of a
    /// checkpoint saved now. Returns how many exist.
    ///
    /// # Errors
    /// As [`Checkpointer::pin_session`].
    pub fn unpin_session(&self, session: &str) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        self.in_steps(|it| {
            it.bucket.commit(&[it.unmarking(&session)])?;
            it.session_lives(&session, &it.until_unpinned(&session, false), None)
        })
    }

    fn until_unpinned(&self, session: &Id, is_pinned: bool) -> Until {
        Until {
            // As it is for a save in that session.
            expiry: if is_pinned { Expiry::Never } else { self.expiry() },
            shorten: true,
            condition: Some(self.pinned_as_seen(session, is_pinned)),
        }
    }

    /// Whether sessions live as a whole.
    pub(super) fn lives_as_a_whole(&self) -> bool {
        self.ttl.is_some_and(|ttl| ttl.scope == TtlScope::Session)
    }

    /// Whether what is read lives on.
    pub(super) fn refreshes(&self) -> bool {
        self.ttl.is_some_and(|ttl| ttl.refresh_on_read)
    }

    /// Lets what was read live on, if reading refreshes.
    pub(super) fn refresh<'a>(
        &self,
        session: &Id,
        read: impl IntoIterator<Item = &'a Found>,
    ) -> Result<(), Error> {
        if !self.refreshes() {
            return Ok(());
        }
        let until = Until::at_least(self.expiry());
        let mut read = read.into_iter().peekable();
        if self.lives_as_a_whole() && read.peek().is_some() {
            return self.in_steps(|it| it.session_lives(session, &until, None)).map(drop);
        }
        let batches: Vec<Batch> = read
            .filter_map(|found| found.owner.as_ref())
            .map(|(owner, guard)| {
                let key = self.keys.documents(session) + &owner.checkpoint_id;
                self.living(key, owner, guard.clone(), &until)
            })
            .collect();
        self.in_steps(|it| {
            for page in batches.chunks(PAGE as usize) {
                it.bucket.commit(page)?;
            }
            Ok(())
        })
    }

    /// Lets all of a session live until then, step by step, from a place on or
    /// from the beginning; says how many checkpoints do.
    ///
    /// Where lives are made longer the newest come first, so that the latest stays
    /// the latest whatever fails on the way; and where that took several steps
    /// they come last again, since each step counts from its own moment.
    pub(super) fn session_lives(
        &self,
        session: &Id,
        until: &Until,
        mut after: Option<Position>,
    ) -> Result<u64, Error> {
        let mut is_one_step = after.is_none();
        let mut count = 0;
        loop {
            let (applied, next) = self.step_of_session_lives(session, until, after)?;
            count += applied;
            after = next;
            if after.is_none() {
                break;
            }
            is_one_step = false;
        }
        if !is_one_step && !until.shorten && until.expiry != Expiry::Never {
            self.step_of_session_lives(session, until, None)?;
        }
        Ok(count)
    }

    fn step_of_session_lives(
        &self,
        session: &Id,
        until: &Until,
        after: Option<Position>,
    ) -> Result<(u64, Option<Position>), Error> {
        let (batches, next) = self.page_lives(session, until, after)?;
        if batches.is_empty() {
            return Ok((0, next));
        }
        let applied = self.bucket.commit(&batches)?;
        Ok((applied.into_iter().map(u64::from).sum(), next))
    }

    /// The batches that let a page of a session live until then, and the place
    /// to go on: newest first, but oldest first where lives are cut short.
    pub(super) fn page_lives(
        &self,
        session: &Id,
        until: &Until,
        after: Option<Position>,
    ) -> Result<(Vec<Batch>, Option<Position>), Error> {
        let order = if until.shorten { Order::Ascending } else { Order::Descending };
        let query = self.query(&self.keys.session(session), order, PAGE);
        let page = self.bucket.range(&Query { after, max_value_bytes: Some(HEAD), with_next: true, ..query })?;
        let mut batches = Vec::new();
        for found in page.entries {
            let key = self.keys.documents(session) + &found.member;
            if let Held::Document(owner, guard) = self.owner(&key, found.value)?
                && owner.is_of(session, &found.member)
            {
                batches.push(self.living(key, &owner, guard, until));
            }
        }
        Ok((batches, page.next))
    }

    /// Lets one checkpoint of a session live until then; returns whether it exists.
    fn checkpoint_lives(
        &self,
        session: &Id,
        checkpoint: &Id,
        until: impl Fn() -> Result<Until, Error>,
    ) -> Result<bool, Error> {
        let key = self.keys.document(session, checkpoint);
        for _ in 0..ATTEMPTS {
            match self.owner(&key, self.get(&key, Some(HEAD))?)? {
                Held::Document(owner, guard) if owner.is_of(session, checkpoint.as_str()) => {
                    if self.commit(&[self.living(key.clone(), &owner, guard, &until()?)])? {
                        return Ok(true);
                    }
                }
                _ => return Ok(false),
            }
        }
        Err(overtaken())
    }

    /// The batch that lets a document live until then, if it still begins with
    /// `guard`, and its indexes no less.
    fn living(&self, key: String, owner: &Owner, guard: String, until: &Until) -> Batch {
        let session = self.keys.session(&Id::stored(&owner.session_id));
        let indexes = [session].into_iter().chain(self.run_index(owner));
        let Until { expiry, shorten, ref condition } = *until;
        let mode = if shorten { ExpireMode::Set } else { ExpireMode::ExtendOnly };
        let mut operations = vec![Operation::Expire(Expire { key: key.clone(), expiry, mode })];
        let mode = ExpireMode::ExtendOnly;
        operations.extend(indexes.map(|key| Operation::Expire(Expire { key, expiry, mode })));
        let conditions = [starts_with(key, guard)].into_iter().chain(condition.clone());
        Batch { conditions: conditions.map(|condition| vec![condition]).collect(), operations }
    }

    /// The batch that marks a session as pinned.
    fn marking(&self, session: &Id) -> Batch {
        let mark = Put { key: self.keys.pin(session), value: String::new(), expiry: Expiry::Never };
        let is_new = self.pinned_as_seen(session, false);
        Batch { conditions: vec![vec![is_new]], operations: vec![Operation::Put(mark)] }
    }

    /// The batch that takes the mark of a pinned session away.
    pub(super) fn unmarking(&self, session: &Id) -> Batch {
        removing_mark(self.keys.pin(session))
    }

    /// Whether a session is pinned.
    pub(super) fn is_pinned(&self, session: &Id) -> Result<bool, Error> {
        match self.get(&self.keys.pin(session), Some(0))? {
            Value::Absent => Ok(false),
            Value::Text(_) | Value::Truncated(_) => Ok(true),
            Value::Unreadable(what) => {
                let message = format!("the key for the mark of a pinned session holds {what}");
                Err(storage_error(StorageReason::WrongType, Effect::None, message))
            }
        }
    }

    /// That a session is pinned, or that it is not.
    pub(super) fn pinned_as_seen(&self, session: &Id, is_pinned: bool) -> Condition {
        let mark = self.keys.pin(session);
        if is_pinned { starts_with(mark, String::new()) } else { Condition::Absent(mark) }
    }
}

/// The batch that takes a mark away, if it is there.
pub(super) fn removing_mark(mark: String) -> Batch {
    let is_there = starts_with(mark.clone(), String::new());
    Batch { conditions: vec![vec![is_there]], operations: vec![Operation::Delete(mark)] }
}
