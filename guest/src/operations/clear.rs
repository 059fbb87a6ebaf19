//! `clear-all`: deletes all checkpoints under the prefix, and no other keys.

use super::call::{Call, all, contention, starts_with};
use super::pin::unpin_batch;
use super::stored::Stored;
use super::{ATTEMPTS, Checkpointer, HEAD, PAGE};
use crate::Error;
use crate::keys::{KeyKind, ParsedKey};
use crate::keyvalue::{Batch, Keyvalue, Operation};

impl<K: Keyvalue> Checkpointer<K> {
    /// Deletes all checkpoints and pin markers under the prefix. Returns how many
    /// checkpoints existed.
    ///
    /// # Errors
    /// [`Error::Storage`], after which pages before the failure are deleted.
    pub fn clear_all(&self) -> Result<u64, Error> {
        self.call(|call| {
            // Pin markers first: a concurrent save that saw a marker writes without a
            // TTL. Afterwards its condition fails, or its checkpoint is found below.
            call.for_each_group(KeyKind::Pin, |pins| {
                let batches: Vec<_> = pins.iter().map(|(marker, _)| unpin_batch(marker.clone())).collect();
                call.commit(&batches).map(drop)
            })?;
            let mut deleted = 0;
            for _ in 0..ATTEMPTS {
                if call.clear_documents(&mut deleted)? {
                    call.for_each_group(KeyKind::Index, |indexes| {
                        indexes.iter().try_for_each(|(index, _)| call.remove_dangling_of(index))
                    })?;
                    return Ok(deleted);
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

    /// Deletes the documents whose keys and texts agree that they belong to this
    /// prefix. Returns false if some changed concurrently.
    fn clear_documents(&self, deleted: &mut u64) -> Result<bool, Error> {
        let mut is_complete = true;
        self.for_each_group(KeyKind::Document, |documents| {
            for documents in documents.chunks(PAGE as usize) {
                is_complete &= self.clear_page(documents, deleted)?;
            }
            Ok(())
        })?;
        Ok(is_complete)
    }

    fn clear_page(&self, documents: &[(String, ParsedKey)], deleted: &mut u64) -> Result<bool, Error> {
        let keys: Vec<_> = documents.iter().map(|(key, _)| key.clone()).collect();
        let (mut batches, mut is_delete) = (Vec::new(), Vec::new());
        for ((key, parsed), value) in documents.iter().zip(self.bucket.get(&keys, Some(HEAD))?) {
            match self.stored(key, value)? {
                Stored::Document(owner, guard) if parsed.matches(&owner) => {
                    batches.extend(self.delete_batches(key.clone(), &owner, guard));
                }
                Stored::Invalid(_, text) if !self.keys.is_ambiguous(&parsed.checkpoint) => {
                    batches.push(Batch {
                        conditions: all([starts_with(key.clone(), text)]),
                        operations: vec![Operation::Delete(key.clone())],
                    })
                }
                _ => continue,
            }
            // The first batch of each document deletes it; the others follow it up.
            is_delete.push(true);
            is_delete.resize(batches.len(), false);
        }
        let mut is_complete = true;
        if !batches.is_empty() {
            let applied = self.commit(&batches)?;
            for (applied, _) in applied.into_iter().zip(is_delete).filter(|(_, is_delete)| *is_delete) {
                *deleted += u64::from(applied);
                is_complete &= applied;
            }
        }
        Ok(is_complete)
    }
}
