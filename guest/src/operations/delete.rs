//! `delete-checkpoint`, `delete-session`.

use std::collections::BTreeMap;

use super::call::{Call, all, contention, index_member, index_size_at_most, starts_with};
use super::checkpointer::ids;
use super::pin::unpin_batch;
use super::stored::Stored;
use super::{ATTEMPTS, Checkpointer, HEAD, PAGE};
use crate::Error;
use crate::document::Owner;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, Keyvalue, Operation, Order, Value};

/// The maximum number of runs of which a document is held back in memory.
const MAX_RUNS: usize = 1000;

impl<K: Keyvalue> Checkpointer<K> {
    /// Deletes a checkpoint. Returns whether it existed.
    pub fn delete_checkpoint(&self, session: &str, checkpoint: &str) -> Result<bool, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        self.call(|call| call.delete_one(&session, &checkpoint))
    }

    /// Deletes all checkpoints of a session, oldest first, so that after a failure the
    /// latest one still exists. Returns how many existed.
    pub fn delete_session(&self, session: &str) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        self.call(|call| {
            let mut progress = Progress::default();
            for _ in 0..ATTEMPTS {
                progress.must_repeat = false;
                call.delete_pages(&session, &mut progress)?;
                if !progress.must_repeat {
                    return Ok(progress.deleted);
                }
            }
            Err(contention())
        })
    }
}

impl<K: Keyvalue> Call<'_, K> {
    pub(super) fn delete_one(&self, session: &Id, checkpoint: &Id) -> Result<bool, Error> {
        let key = self.keys.document(session, checkpoint);
        for _ in 0..ATTEMPTS {
            let value = self.get(&key, Some(HEAD))?;
            let Some(deletion) = self.deletion(session, checkpoint.as_str(), value)? else {
                return Ok(false);
            };
            let applied = self.commit(&deletion.batches)?[0];
            if applied || deletion.kind != DeleteKind::Document {
                return Ok(applied && deletion.kind != DeleteKind::Entry);
            }
        }
        Err(contention())
    }

    /// Deletes the checkpoints of a session, oldest first, so that after a failure
    /// the latest checkpoint is still the latest.
    ///
    /// The index of a run may contain dangling entries. They are removed before the
    /// last document of the run is deleted: without a document the run could not be
    /// found when an interrupted delete is repeated. So one document of each run is
    /// held back. The commit of a page deletes it too, on the condition that the
    /// index has no other entry, which is the usual case.
    fn delete_pages(&self, session: &Id, progress: &mut Progress) -> Result<(), Error> {
        let index = self.keys.session(session);
        // The newest document so far, and the newest one of each other run.
        let mut newest: Option<Deletion> = None;
        let mut newest_of_run = BTreeMap::<String, Deletion>::new();
        let mut after = None;
        loop {
            let page = self.bucket.range(&self.query_heads(&index, Order::Ascending, PAGE, after))?;
            let mut deletions = Vec::new();
            for entry in page.entries {
                match self.deletion(session, &entry.member, entry.value)? {
                    Some(deletion) if deletion.kind == DeleteKind::Document => {
                        let Some(older) = newest.replace(deletion) else { continue };
                        match older.run_index.clone() {
                            Some(run) => deletions.extend(newest_of_run.insert(run, older)),
                            None => deletions.push(older),
                        }
                    }
                    deletion => deletions.extend(deletion),
                }
            }
            if let Some(run) = newest.as_ref().and_then(|newest| newest.run_index.as_ref()) {
                deletions.extend(newest_of_run.remove(run));
            }
            after = page.next;
            let is_last = after.is_none();
            if is_last {
                let batches = vec![unpin_batch(self.keys.pin(session))];
                deletions.push(Deletion { batches, kind: DeleteKind::PinMarker, run_index: None });
            }
            let held_back = with_guards(&newest_of_run, newest.as_ref().filter(|_| is_last));
            let applied = self.delete(deletions.iter().chain(&held_back))?;
            let (applied, held_back) = applied.split_at(deletions.len());
            progress.count(&deletions, applied);
            let mut held_back = held_back.iter().copied();
            newest_of_run.retain(|_, _| !progress.count_held_back(held_back.next()));
            newest = newest.filter(|_| !progress.count_held_back(held_back.next()));
            if is_last || newest_of_run.len() > MAX_RUNS {
                let mut rest: Vec<Deletion> = std::mem::take(&mut newest_of_run).into_values().collect();
                rest.extend(newest.take_if(|_| is_last));
                for run in rest.iter().filter_map(|deletion| deletion.run_index.as_ref()) {
                    self.remove_dangling_of(run)?;
                }
                let applied = self.delete(&rest)?;
                progress.count(&rest, &applied);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Commits deletions. Returns for each whether its first batch was applied.
    pub(super) fn delete<'a>(
        &self,
        deletions: impl IntoIterator<Item = &'a Deletion>,
    ) -> Result<Vec<bool>, Error> {
        let (mut batches, mut first) = (Vec::new(), Vec::new());
        for deletion in deletions {
            first.push(batches.len());
            batches.extend(deletion.batches.iter().cloned());
        }
        let applied = self.commit(&batches)?;
        Ok(first.into_iter().map(|first| applied[first]).collect())
    }

    /// Returns how to delete an index entry with its value; none if the document
    /// belongs to another session.
    fn deletion(&self, session: &Id, member: &str, value: Value) -> Result<Option<Deletion>, Error> {
        let index = self.keys.session(session);
        let key = self.keys.documents(session) + member;
        // Another prefix may have an index with the same key.
        let mut candidates = self.keys.candidate_documents(&index, member);
        candidates.retain(|candidate| *candidate != key);
        let mut unshared = all(candidates.into_iter().map(Condition::Absent));
        let entry = index_member(&index, member);
        let mut run_index = None;
        let (batches, kind) = match self.stored(&key, value)? {
            Stored::Absent => (vec![self.remove_dangling_batch(&index, member)], DeleteKind::Entry),
            // Only the entry is removed: the foreign value is not ours.
            Stored::Foreign(_) => {
                let operations = vec![Operation::IndexDelete(entry)];
                (vec![Batch { conditions: unshared, operations }], DeleteKind::Entry)
            }
            Stored::Invalid(_, text) => {
                unshared.extend(all([Condition::IndexHas(entry.clone()), starts_with(key.clone(), text)]));
                let operations = vec![Operation::Delete(key), Operation::IndexDelete(entry)];
                (vec![Batch { conditions: unshared, operations }], DeleteKind::Invalid)
            }
            Stored::Document(owner, guard) if owner.matches(session, member) => {
                run_index = self.run_index(&owner);
                (self.delete_batches(key, &owner, guard), DeleteKind::Document)
            }
            Stored::Document(..) => return Ok(None),
        };
        Ok(Some(Deletion { batches, kind, run_index }))
    }

    /// Returns the batches that delete a document with its index entries. The first
    /// one deletes the document if it still starts with `guard`. The others remove
    /// entries of indexes that another prefix may share.
    pub(super) fn delete_batches(&self, key: String, owner: &Owner, guard: String) -> Vec<Batch> {
        let member = &owner.checkpoint_id;
        let mut operations = vec![Operation::Delete(key.clone())];
        let mut shared = Vec::new();
        for index in self.indexes(owner) {
            if self.keys.is_ambiguous_index(&index) {
                shared.push(self.remove_dangling_batch(&index, member));
            } else {
                operations.push(Operation::IndexDelete(index_member(&index, member)));
            }
        }
        let mut batches = vec![Batch { conditions: all([starts_with(key, guard)]), operations }];
        batches.extend(shared);
        batches
    }
}

/// Batches that delete one entry or document. The first one decides, the others
/// follow it up.
#[derive(Clone)]
pub(super) struct Deletion {
    pub batches: Vec<Batch>,
    pub kind: DeleteKind,
    /// The index of the run of a document.
    pub run_index: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DeleteKind {
    /// An index entry without a document. It does not count as a checkpoint.
    Entry,
    /// The pin marker of the session. If it existed, a concurrent save may have
    /// written a checkpoint without a TTL, so the session is read again.
    PinMarker,
    /// Text that is not a document, in the session's index.
    Invalid,
    /// A checkpoint. If the batch fails, it has changed and is read again.
    Document,
}

/// The progress of a deletion.
#[derive(Default)]
pub(super) struct Progress {
    pub deleted: u64,
    /// Whether a concurrent change makes another pass necessary.
    pub must_repeat: bool,
}

impl Progress {
    pub fn count(&mut self, deletions: &[Deletion], applied: &[bool]) {
        for (deletion, applied) in deletions.iter().zip(applied) {
            match deletion.kind {
                DeleteKind::Entry => {}
                DeleteKind::PinMarker => self.must_repeat |= applied,
                DeleteKind::Invalid => self.deleted += u64::from(*applied),
                DeleteKind::Document => {
                    self.deleted += u64::from(*applied);
                    self.must_repeat |= !applied;
                }
            }
        }
    }

    /// Counts a document that was held back. Returns whether it was deleted.
    fn count_held_back(&mut self, applied: Option<bool>) -> bool {
        let applied = applied.unwrap_or_default();
        self.deleted += u64::from(applied);
        applied
    }
}

/// Returns the deletions of the documents that are held back: the newest of each
/// run on the condition that the index of the run has no other entry, and the
/// newest of all on the condition that none of these is left.
fn with_guards(newest_of_run: &BTreeMap<String, Deletion>, newest: Option<&Deletion>) -> Vec<Deletion> {
    let only_entry = |run: &String| index_size_at_most(run, 1);
    let guarded = |deletion: &Deletion, conditions: Vec<Condition>| {
        let mut deletion = deletion.clone();
        deletion.batches[0].conditions.extend(all(conditions));
        deletion
    };
    let mut deletions: Vec<_> =
        newest_of_run.iter().map(|(run, deletion)| guarded(deletion, vec![only_entry(run)])).collect();
    deletions.extend(newest.map(|newest| {
        let mut conditions: Vec<_> = newest_of_run.keys().cloned().map(Condition::Absent).collect();
        conditions.extend(newest.run_index.as_ref().map(only_entry));
        guarded(newest, conditions)
    }));
    deletions
}
