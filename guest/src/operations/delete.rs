//! `delete`: one checkpoint, or a whole session page by page.

use super::{ATTEMPTS, Checkpointer, HEAD, Held, entry, overtaken, starts_with, sweeping};
use crate::Error;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, Keyvalue, Operation, Order, Query, Value};

/// How many checkpoints go in one step. Two round trips a page are at most
/// 1 + n/100 for any n from 100 on, and Redis is busy for about a millisecond.
const PAGE: u32 = 300;

impl<K: Keyvalue> Checkpointer<K> {
    /// Removes the checkpoint with this id from this session, or the whole
    /// session; says how many checkpoints that were.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Storage`], where of a session those
    /// removed in earlier steps stay so, and the latest goes last.
    pub fn delete(&self, session: &str, checkpoint: Option<&str>) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        match checkpoint {
            Some(checkpoint) => self.delete_one(&session, &Id::new("checkpoint id", checkpoint)?),
            None => self.delete_session(&session),
        }
    }

    fn delete_one(&self, session: &Id, checkpoint: &Id) -> Result<u64, Error> {
        let key = self.keys.document(checkpoint);
        for _ in 0..ATTEMPTS {
            let value = self.get(&key, Some(HEAD))?;
            match self.deletion(session, checkpoint.as_str(), value)? {
                Deletion::Keep => return Ok(0),
                Deletion::Tidy(batch) => {
                    self.commit(batch)?;
                    return Ok(0);
                }
                Deletion::Remove(batch) => {
                    if self.commit(batch)? {
                        return Ok(1);
                    }
                }
            }
        }
        Err(overtaken())
    }

    fn delete_session(&self, session: &Id) -> Result<u64, Error> {
        let mut removed = 0;
        for _ in 0..ATTEMPTS {
            let (more, overtaken) = self.delete_pages(session)?;
            removed += more;
            if !overtaken {
                return Ok(removed);
            }
        }
        Err(overtaken())
    }

    /// Goes through the session once, oldest first, so that what is left after
    /// a failure still ends with the latest. Says how many checkpoints it
    /// removed, and whether others changed some in between.
    fn delete_pages(&self, session: &Id) -> Result<(u64, bool), Error> {
        let (mut removed, mut overtaken) = (0, false);
        let mut after = None;
        loop {
            let page = self.bucket.range(&Query {
                index: self.keys.session(session),
                order: Order::Ascending,
                after,
                limit: PAGE,
                values_at: self.keys.documents(),
                head: Some(HEAD),
                resumable: true,
            })?;
            let (mut batches, mut counts) = (Vec::new(), Vec::new());
            for found in page.entries {
                match self.deletion(session, &found.member, found.value)? {
                    Deletion::Keep => {}
                    Deletion::Tidy(batch) => {
                        batches.push(batch);
                        counts.push(false);
                    }
                    Deletion::Remove(batch) => {
                        batches.push(batch);
                        counts.push(true);
                    }
                }
            }
            if !batches.is_empty() {
                for (applied, counts) in self.bucket.commit(&batches)?.into_iter().zip(counts) {
                    removed += u64::from(applied && counts);
                    overtaken |= counts && !applied;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok((removed, overtaken));
            }
        }
    }

    /// How to remove what `value` says of `member` of a session.
    fn deletion(&self, session: &Id, member: &str, value: Value) -> Result<Deletion, Error> {
        let index = self.keys.session(session);
        let key = format!("{}{member}", self.keys.documents());
        Ok(match self.owner(&key, value)? {
            Held::Nothing => Deletion::Tidy(sweeping(&index, member)),
            // Not ours to remove; but the session need not name it.
            Held::Alien(_) => Deletion::Tidy(Batch {
                conditions: Vec::new(),
                operations: vec![Operation::IndexDelete(entry(index, member))],
            }),
            Held::Garbage(_, text) => Deletion::Remove(Batch {
                conditions: vec![
                    vec![Condition::IndexHas(entry(index.clone(), member))],
                    vec![starts_with(key.clone(), text)],
                ],
                operations: vec![Operation::Delete(key), Operation::IndexDelete(entry(index, member))],
            }),
            Held::Document(owner, guard)
                if owner.session_id == session.as_str() && owner.checkpoint_id == member =>
            {
                Deletion::Remove(self.removal(key, &owner, guard)?)
            }
            Held::Document(..) => Deletion::Keep,
        })
    }
}

/// What to do about a checkpoint that shall go.
enum Deletion {
    /// Nothing: it is another session's.
    Keep,
    /// Remove an index entry that names no checkpoint.
    Tidy(Batch),
    /// Remove it.
    Remove(Batch),
}
