//! `clear-all`: deletes all checkpoints under the prefix, and no other keys.

use super::call::{Call, all, contention, starts_with};
use super::delete::{DeleteKind, Deletion, Progress};
use super::pin::unpin_batch;
use super::stored::Stored;
use super::{ATTEMPTS, Checkpointer, HEAD, PAGE};
use crate::Error;
use crate::keys::{KeyKind, ParsedKey};
use crate::keyvalue::{Batch, Keyvalue, Operation};

impl<K: Keyvalue> Checkpointer<K> {
    /// Deletes all checkpoints and pin markers under the prefix. Returns how many
    /// checkpoints existed.
    pub fn clear_all(&self) -> Result<u64, Error> {
        self.call(|call| {
            // Pin markers first: a concurrent save that saw a marker writes without a
            // TTL. Afterwards its condition fails, or its checkpoint is found below.
            call.for_each_group(KeyKind::Pin, |pins| {
                let batches: Vec<_> = pins.iter().map(|(marker, _)| unpin_batch(marker.clone())).collect();
                call.commit(&batches).map(drop)
            })?;
            let mut progress = Progress::default();
            for _ in 0..ATTEMPTS {
                progress.must_repeat = false;
                call.for_each_group(KeyKind::Document, |documents| {
                    documents.chunks(PAGE as usize).try_for_each(|page| call.clear_page(page, &mut progress))
                })?;
                if !progress.must_repeat {
                    call.for_each_group(KeyKind::Index, |indexes| {
                        indexes.iter().try_for_each(|(index, _)| call.remove_dangling_of(index))
                    })?;
                    return Ok(progress.deleted);
                }
            }
            Err(contention())
        })
    }
}

impl<K: Keyvalue> Call<'_, K> {
    /// Calls a function with all keys of a kind, in groups that are colocated.
    fn for_each_group(
        &self,
        kind: KeyKind,
        mut function: impl FnMut(&[(String, ParsedKey)]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut cursor = None;
        loop {
            let (groups, next) = self.scan_keys(kind, cursor.as_deref())?;
            groups.iter().try_for_each(|keys| function(keys))?;
            cursor = next;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Deletes those documents of which the key and the text agree that they belong to
    /// this prefix.
    fn clear_page(&self, documents: &[(String, ParsedKey)], progress: &mut Progress) -> Result<(), Error> {
        let keys: Vec<_> = documents.iter().map(|(key, _)| key.clone()).collect();
        let mut deletions = Vec::new();
        for ((key, parsed), value) in documents.iter().zip(self.bucket.get(&keys, Some(HEAD))?) {
            let batches = match self.stored(key, value)? {
                Stored::Document(owner, guard) if parsed.matches(&owner) => {
                    self.delete_batches(key.clone(), &owner, guard)
                }
                Stored::Invalid(_, text) if !self.keys.is_ambiguous(&parsed.checkpoint) => vec![Batch {
                    conditions: all([starts_with(key.clone(), text)]),
                    operations: vec![Operation::Delete(key.clone())],
                }],
                _ => continue,
            };
            deletions.push(Deletion { batches, kind: DeleteKind::Document, run_index: None });
        }
        let applied = self.delete(&deletions)?;
        progress.count(&deletions, &applied);
        Ok(())
    }
}
