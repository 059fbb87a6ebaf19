//! `delete`: one checkpoint, or a whole session page by page.

use std::collections::BTreeMap;

use super::{ATTEMPTS, Checkpointer, HEAD, Held, PAGE, entry, ids, overtaken, starts_with};
use crate::Error;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, IndexSize, Keyvalue, Operation, Order, Query, Value};

/// How many runs are kept in mind at the most.
const RUNS: usize = 1000;

impl<K: Keyvalue> Checkpointer<K> {
    /// Deletes a checkpoint. Returns whether it existed.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Storage`].
    pub fn delete_checkpoint(&self, session: &str, checkpoint: &str) -> Result<bool, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        self.in_steps(|it| it.delete_one(&session, &checkpoint))
    }

    /// Deletes all checkpoints of a session, oldest first. Returns how many
    /// existed.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Storage`], after which the pages before
    /// the failure are deleted.
    pub fn delete_session(&self, session: &str) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        self.in_steps(|it| it.delete_all(&session))
    }

    pub(super) fn delete_one(&self, session: &Id, checkpoint: &Id) -> Result<bool, Error> {
        let key = self.keys.document(session, checkpoint);
        for _ in 0..ATTEMPTS {
            let value = self.get(&key, Some(HEAD))?;
            let Some(Deletion { batches, of, .. }) = self.deletion(session, checkpoint.as_str(), value)?
            else {
                return Ok(false);
            };
            let applied = self.commit(&batches)?;
            if applied || of != Target::Document {
                return Ok(applied && of != Target::Entry);
            }
        }
        Err(overtaken())
    }

    fn delete_all(&self, session: &Id) -> Result<u64, Error> {
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
    /// The index of a run may name documents that expired. It is swept then, and
    /// only after that the last document goes that tells of the run: until it is
    /// done, whoever repeats the delete finds it. Whether there is more in an
    /// index is asked with the same commit, and mostly there is not.
    fn delete_pages(&self, session: &Id) -> Result<(u64, bool), Error> {
        let index = self.keys.session(session);
        let mut tally = Tally::default();
        // The latest document so far, and of the others the last of each run.
        let mut latest: Option<Deletion> = None;
        let mut last = BTreeMap::<String, Deletion>::new();
        let mut after = None;
        loop {
            let query = self.query(&index, Order::Ascending, PAGE);
            let page = self.bucket.range(&Query { after, max_value_bytes: Some(HEAD), with_next: true, ..query })?;
            let mut going = Vec::new();
            for found in page.entries {
                match self.deletion(session, &found.member, found.value)? {
                    Some(deletion) if deletion.of == Target::Document => {
                        let Some(earlier) = latest.replace(deletion) else { continue };
                        match earlier.run.clone() {
                            Some(run) => going.extend(last.insert(run, earlier)),
                            None => going.push(earlier),
                        }
                    }
                    deletion => going.extend(deletion),
                }
            }
            if let Some(run) = latest.as_ref().and_then(|latest| latest.run.as_ref()) {
                going.extend(last.remove(run));
            }
            after = page.next;
            let is_end = after.is_none();
            if is_end {
                let batches = vec![self.unmarking(session)];
                going.push(Deletion { batches, of: Target::Mark, run: None });
            }
            let applied =
                self.remove(going.iter().chain(&guarded(&last, latest.as_ref().filter(|_| is_end))))?;
            let (sure, kept) = applied.split_at(going.len());
            tally.count(&going, sure);
            let mut kept = kept.iter().copied();
            last.retain(|_, _| !tally.went(kept.next()));
            latest = latest.filter(|_| !tally.went(kept.next()));
            if is_end || last.len() > RUNS {
                let mut rest: Vec<Deletion> = std::mem::take(&mut last).into_values().collect();
                rest.extend(latest.take_if(|_| is_end));
                for run in rest.iter().filter_map(|deletion| deletion.run.as_ref()) {
                    self.sweep_index(run)?;
                }
                let applied = self.remove(&rest)?;
                tally.count(&rest, &applied);
            }
            if is_end {
                return Ok((tally.removed, tally.overtaken));
            }
        }
    }

    /// Removes something in one step; says of each whether its first batch was
    /// applied.
    fn remove<'a>(&self, deletions: impl IntoIterator<Item = &'a Deletion>) -> Result<Vec<bool>, Error> {
        let (mut batches, mut decides) = (Vec::new(), Vec::new());
        for deletion in deletions {
            decides.push(batches.len());
            batches.extend(deletion.batches.iter().cloned());
        }
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let applied = self.bucket.commit(&batches)?;
        Ok(decides.into_iter().map(|at| applied.get(at).copied().unwrap_or_default()).collect())
    }

    /// How to remove what `value` says of `member` of a session; none where it
    /// is another session's.
    fn deletion(&self, session: &Id, member: &str, value: Value) -> Result<Option<Deletion>, Error> {
        let index = self.keys.session(session);
        let key = self.keys.documents(session) + member;
        // Another prefix may have an index of the same name.
        let named = self.keys.documents_named_by(&index, member).into_iter();
        let others = named.filter(|other| *other != key);
        let nobody_elses: Vec<_> = others.map(|other| vec![Condition::Absent(other)]).collect();
        let mut run = None;
        let (batches, of) = match self.owner(&key, value)? {
            Held::Nothing => (vec![self.sweeping(&index, member)], Target::Entry),
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
            Held::Document(owner, guard) if owner.is_of(session, member) => {
                run = self.run_index(&owner);
                (self.removal(key, &owner, guard), Target::Document)
            }
            Held::Document(..) => return Ok(None),
        };
        Ok(Some(Deletion { batches, of, run }))
    }
}

/// Batches that remove something. The first decides, the others tidy up after
/// it.
#[derive(Clone)]
struct Deletion {
    batches: Vec<Batch>,
    of: Target,
    /// The index of the run, of a document that has one.
    run: Option<String>,
}

/// What a batch removes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Only an index entry; it counts for nothing.
    Entry,
    /// The mark of a pinned session. A save that saw it and came in between has
    /// no end, so the session is gone through again.
    Mark,
    /// Text that is no checkpoint, if the session names it.
    Garbage,
    /// A checkpoint of the session. If the batch is refused it has changed, and
    /// has to be looked at again.
    Document,
}

/// What has become of the documents of a session.
#[derive(Default)]
struct Tally {
    removed: u64,
    overtaken: bool,
}

impl Tally {
    /// Counts what was to be removed in any case.
    fn count(&mut self, deletions: &[Deletion], applied: &[bool]) {
        for (deletion, applied) in deletions.iter().zip(applied) {
            match deletion.of {
                Target::Entry => {}
                Target::Mark => self.overtaken |= applied,
                Target::Garbage => self.removed += u64::from(*applied),
                Target::Document => {
                    self.removed += u64::from(*applied);
                    self.overtaken |= !applied;
                }
            }
        }
    }

    /// Counts a document that may stay for now, and says whether it went.
    fn went(&mut self, applied: Option<bool>) -> bool {
        let went = applied.unwrap_or_default();
        self.removed += u64::from(went);
        went
    }
}

/// The last document of each run, to go if the index of the run names nothing
/// else; and the latest of all, to go if there is none of those left.
fn guarded(last: &BTreeMap<String, Deletion>, latest: Option<&Deletion>) -> Vec<Deletion> {
    let is_last_of = |run: &String| vec![Condition::IndexSizeAtMost(IndexSize { index: run.clone(), size: 1 })];
    let with = |deletion: &Deletion, conditions: Vec<Vec<Condition>>| {
        let mut deletion = deletion.clone();
        deletion.batches[0].conditions.extend(conditions);
        deletion
    };
    let mut guarded: Vec<_> = last.iter().map(|(run, it)| with(it, vec![is_last_of(run)])).collect();
    guarded.extend(latest.map(|latest| {
        let gone = last.keys().map(|run| vec![Condition::Absent(run.clone())]);
        with(latest, gone.chain(latest.run.as_ref().map(is_last_of)).collect())
    }));
    guarded
}
