//! `delete`: one checkpoint, or a whole session page by page.

use std::collections::BTreeSet;

use super::{ATTEMPTS, Checkpointer, HEAD, Held, entry, overtaken, starts_with, sweeping};
use crate::Error;
use crate::id::Id;
use crate::keys;
use crate::keyvalue::{Batch, Condition, Keyvalue, Operation, Value};

/// How many checkpoints go in one step. Two round trips a page are at most
/// 1 + n/100 for any n from 100 on, and a store is not busy with it for long.
const PAGE: u32 = 300;

/// How many indexes of runs are kept in mind at the most.
const RUNS: usize = 1000;

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
            Some(checkpoint) => {
                let checkpoint = Id::new("checkpoint id", checkpoint)?;
                self.in_steps(|it| it.delete_one(&session, &checkpoint))
            }
            None => self.in_steps(|it| it.delete_session(&session)),
        }
    }

    pub(super) fn delete_one(&self, session: &Id, checkpoint: &Id) -> Result<u64, Error> {
        let key = self.keys.document(checkpoint);
        for _ in 0..ATTEMPTS {
            let value = self.get(&key, Some(HEAD))?;
            let Some(Deletion { batches, of }) = self.deletion(session, checkpoint.as_str(), value)? else {
                return Ok(0);
            };
            let applied = self.commit(&batches)?;
            if applied || of != Target::Document {
                return Ok(u64::from(applied && of != Target::Entry));
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
    ///
    /// The indexes of runs lose their members with the documents. Whether one
    /// is gone by then is asked with the same commit; those that are not may
    /// name documents that expired, and are swept.
    fn delete_pages(&self, session: &Id) -> Result<(u64, bool), Error> {
        let index = self.keys.session(session);
        let (mut removed, mut overtaken) = (0, false);
        let mut runs = BTreeSet::new();
        let mut after = None;
        loop {
            let page = self.oldest(&index, after, PAGE, HEAD, false)?;
            let (mut batches, mut targets) = (Vec::new(), Vec::new());
            for found in page.entries {
                if let Some(deletion) = self.deletion(session, &found.member, found.value)? {
                    runs.extend(run_indexes(&deletion, &index));
                    targets.push(deletion.of);
                    targets.resize(batches.len() + deletion.batches.len(), Target::Entry);
                    batches.extend(deletion.batches);
                }
            }
            if !batches.is_empty() {
                batches.extend(runs.iter().map(|run| is_gone(run)));
                let mut applied = self.bucket.commit(&batches)?.into_iter();
                for of in targets {
                    let applied = applied.next().unwrap_or_default();
                    removed += u64::from(applied && of != Target::Entry);
                    overtaken |= !applied && of == Target::Document;
                }
                runs.retain(|_| !applied.next().unwrap_or_default());
            }
            after = page.next;
            if after.is_none() || runs.len() > RUNS {
                for run in std::mem::take(&mut runs) {
                    self.sweep_index(&run)?;
                }
            }
            if after.is_none() {
                return Ok((removed, overtaken));
            }
        }
    }

    /// How to remove what `value` says of `member` of a session; none where it
    /// is another session's.
    fn deletion(&self, session: &Id, member: &str, value: Value) -> Result<Option<Deletion>, Error> {
        let index = self.keys.session(session);
        let key = format!("{}{member}", self.keys.documents());
        // Another prefix may have an index of the same name.
        let others = keys::documents_named_by(&index, member).filter(|other| *other != key);
        let nobody_elses: Vec<_> = others.map(|other| vec![Condition::Absent(other)]).collect();
        let (batches, of) = match self.owner(&key, value)? {
            Held::Nothing => (vec![sweeping(&index, member)], Target::Entry),
            // Not ours to remove; but the session need not name it.
            Held::Alien(_) => {
                let operations = vec![Operation::IndexDelete(entry(index, member))];
                (vec![Batch { conditions: nobody_elses, operations }], Target::Entry)
            }
            Held::Garbage(_, text) => {
                let named = Condition::IndexHas(entry(index.clone(), member));
                let mut conditions = nobody_elses;
                conditions.extend([vec![named], vec![starts_with(key.clone(), text)]]);
                let operations = vec![Operation::Delete(key), Operation::IndexDelete(entry(index, member))];
                (vec![Batch { conditions, operations }], Target::Garbage)
            }
            Held::Document(owner, guard)
                if owner.session_id == session.as_str() && owner.checkpoint_id == member =>
            {
                (self.removal(key, &owner, guard), Target::Document)
            }
            Held::Document(..) => return Ok(None),
        };
        Ok(Some(Deletion { batches, of }))
    }
}

/// Batches that remove something. The first decides, the others tidy up after
/// it.
struct Deletion {
    batches: Vec<Batch>,
    of: Target,
}

/// What a batch removes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Only an index entry; it counts for nothing.
    Entry,
    /// Text that is no checkpoint, if the session names it.
    Garbage,
    /// A checkpoint of the session. If the batch is refused it has changed, and
    /// has to be looked at again.
    Document,
}

/// The indexes of runs that a removal touches.
fn run_indexes(deletion: &Deletion, session: &str) -> impl Iterator<Item = String> {
    let operations = deletion.batches.iter().flat_map(|batch| &batch.operations);
    operations.filter_map(move |operation| match operation {
        Operation::IndexDelete(gone) if gone.index != session => Some(gone.index.clone()),
        _ => None,
    })
}

/// A batch that does nothing, and is applied if there is no such index.
fn is_gone(index: &str) -> Batch {
    Batch { conditions: vec![vec![Condition::Absent(index.to_owned())]], operations: Vec::new() }
}
