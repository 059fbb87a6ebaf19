//! How long what is saved lives: sessions that expire as a whole, reading that
//! refreshes, and pins.
//!
//! A checkpoint is pinned by having no expiry. That a session is, and what is
//! saved in it later with it, is a mark at a key of its own, which every save
//! with a ttl looks at in the very step that writes.

use super::{ATTEMPTS, Checkpointer, Found, HEAD, Held, PAGE, overtaken, starts_with};
use crate::document::Owner;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, Expire, Expiry, Keyvalue, Operation, Order, Put, Query, Value};
use crate::{Error, Lifetime};

/// Until when something is to live.
#[derive(Clone, Copy)]
pub(super) struct Until {
    pub expiry: Expiry,
    /// Whether a longer life is cut short.
    pub shorten: bool,
}

impl Until {
    /// No less than this.
    pub fn at_least(expiry: Expiry) -> Self {
        Self { expiry, shorten: false }
    }
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Keeps a checkpoint, or a session with what is saved in it from now on,
    /// from going away; says how many checkpoints that were.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Storage`], where of a session those
    /// pinned in earlier steps stay so.
    pub fn pin(&self, session: &str, checkpoint: Option<&str>) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        self.live_from_now(&session, checkpoint, self.marking(&session), Until::at_least(Expiry::Never))
    }

    /// Ends what [`Checkpointer::pin`] began: what it pinned lives on as if it
    /// had just been saved. Says how many checkpoints that were.
    ///
    /// # Errors
    /// As [`Checkpointer::pin`].
    pub fn unpin(&self, session: &str, checkpoint: Option<&str>) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        let until = Until { expiry: self.expiry(), shorten: true };
        self.live_from_now(&session, checkpoint, self.unmarking(&session), until)
    }

    /// Lets one checkpoint live until then; or all of a session, once its mark is
    /// set or taken away.
    fn live_from_now(
        &self,
        session: &Id,
        checkpoint: Option<&str>,
        mark: Batch,
        until: Until,
    ) -> Result<u64, Error> {
        match checkpoint {
            Some(checkpoint) => self.checkpoint_lives(session, &Id::new("checkpoint id", checkpoint)?, until),
            None => self.in_steps(|it| {
                it.bucket.commit(&[mark])?;
                it.session_lives(session, until)
            }),
        }
    }

    /// Lets what was read live on, if reading refreshes.
    pub(super) fn refresh<'a>(
        &self,
        session: &Id,
        read: impl IntoIterator<Item = &'a Found>,
    ) -> Result<(), Error> {
        let Some(ttl) = self.ttl.filter(|ttl| ttl.refresh_on_read) else { return Ok(()) };
        let until = Until::at_least(self.expiry());
        let mut read = read.into_iter().peekable();
        if ttl.lifetime == Lifetime::OfSession && read.peek().is_some() {
            return self.in_steps(|it| it.session_lives(session, until)).map(drop);
        }
        let batches: Vec<Batch> = read
            .filter_map(|found| found.owner.as_ref())
            .map(|(owner, guard)| {
                let key = self.keys.documents() + &owner.checkpoint_id;
                self.living(key, owner, guard.clone(), until)
            })
            .collect();
        self.in_steps(|it| {
            for page in batches.chunks(PAGE as usize) {
                it.bucket.commit(page)?;
            }
            Ok(())
        })
    }

    /// Lets all of a session live until then; says how many checkpoints do.
    fn session_lives(&self, session: &Id, until: Until) -> Result<u64, Error> {
        let (mut count, last) = self.all_but_the_last_page_live(session, until)?;
        if !last.is_empty() {
            count += count_of(self.bucket.commit(&last)?);
        }
        Ok(count)
    }

    /// Lets all of a session live until then, but for what the batches do that
    /// it gives: so they can be part of a larger step.
    pub(super) fn all_but_the_last_page_live(
        &self,
        session: &Id,
        until: Until,
    ) -> Result<(u64, Vec<Batch>), Error> {
        let index = self.keys.session(session);
        let (mut count, mut after) = (0, None);
        loop {
            let query = self.query(&index, Order::Ascending, PAGE);
            let page = self.bucket.range(&Query { after, head: Some(HEAD), resumable: true, ..query })?;
            let mut batches = Vec::new();
            for found in page.entries {
                let key = self.keys.documents() + &found.member;
                if let Held::Document(owner, guard) = self.owner(&key, found.value)?
                    && owner.is_of(session, &found.member)
                {
                    batches.push(self.living(key, &owner, guard, until));
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok((count, batches));
            }
            count += count_of(self.bucket.commit(&batches)?);
        }
    }

    /// Lets one checkpoint of a session live until then; gives 0 if it is not
    /// there.
    fn checkpoint_lives(&self, session: &Id, checkpoint: &Id, until: Until) -> Result<u64, Error> {
        let key = self.keys.document(checkpoint);
        for _ in 0..ATTEMPTS {
            match self.owner(&key, self.get(&key, Some(HEAD))?)? {
                Held::Document(owner, guard) if owner.is_of(session, checkpoint.as_str()) => {
                    if self.commit(&[self.living(key.clone(), &owner, guard, until)])? {
                        return Ok(1);
                    }
                }
                _ => return Ok(0),
            }
        }
        Err(overtaken())
    }

    /// The batch that lets a document live until then, if it still begins with
    /// `guard`, and its indexes no less.
    fn living(&self, key: String, owner: &Owner, guard: String, until: Until) -> Batch {
        let session = self.keys.session(&Id::stored(&owner.session_id));
        let indexes = [session].into_iter().chain(self.run_index(owner));
        let Until { expiry, shorten } = until;
        let mut operations = vec![Operation::Expire(Expire { key: key.clone(), expiry, shorten })];
        operations.extend(indexes.map(|key| Operation::Expire(Expire { key, expiry, shorten: false })));
        Batch { conditions: vec![vec![starts_with(key, guard)]], operations }
    }

    /// Whether a session is pinned.
    pub(super) fn is_pinned(&self, session: &Id) -> Result<bool, Error> {
        Ok(self.get(&self.keys.pin(session), Some(0))? != Value::Absent)
    }

    /// That a session is pinned, or that it is not.
    pub(super) fn pinned_as_seen(&self, session: &Id, is_pinned: bool) -> Condition {
        let mark = self.keys.pin(session);
        if is_pinned { starts_with(mark, String::new()) } else { Condition::Absent(mark) }
    }

    /// The batch that marks a session as pinned.
    fn marking(&self, session: &Id) -> Batch {
        let mark = Put { key: self.keys.pin(session), value: String::new(), expiry: Expiry::Never };
        let is_new = Condition::Absent(mark.key.clone());
        Batch { conditions: vec![vec![is_new]], operations: vec![Operation::Put(mark)] }
    }

    /// The batch that takes the mark of a pinned session away.
    pub(super) fn unmarking(&self, session: &Id) -> Batch {
        let mark = self.keys.pin(session);
        let is_there = starts_with(mark.clone(), String::new());
        Batch { conditions: vec![vec![is_there]], operations: vec![Operation::Delete(mark)] }
    }
}

fn count_of(applied: Vec<bool>) -> u64 {
    applied.into_iter().map(u64::from).sum()
}
