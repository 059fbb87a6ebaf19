//! `clear-all`: everything under the prefix, page by page, and nothing that
//! only looks like it.

use super::lifetime::removing_mark;
use super::{ATTEMPTS, Checkpointer, HEAD, Held, PAGE, overtaken, starts_with};
use crate::Error;
use crate::keys::{Kind, Name};
use crate::keyvalue::{Batch, Keyvalue, Operation};

impl<K: Keyvalue> Checkpointer<K> {
    /// Removes all checkpoints under the prefix; says how many there were.
    ///
    /// # Errors
    /// [`Error::Storage`]; those removed in earlier steps stay so.
    pub fn clear_all(&self) -> Result<u64, Error> {
        self.in_steps(|it| it.clear())
    }

    fn clear(&self) -> Result<u64, Error> {
        // First of all: a save that saw the mark of a pinned session has no end.
        // After this it is refused, or what it saved is found.
        self.clear_marks()?;
        let mut removed = 0;
        for _ in 0..ATTEMPTS {
            let (more, overtaken) = self.clear_documents()?;
            removed += more;
            if !overtaken {
                self.clear_indexes()?;
                return Ok(removed);
            }
        }
        Err(overtaken())
    }

    /// Does something with all keys of a kind, page by page; where the store keeps
    /// sessions apart, with those of one at a time.
    fn for_all(
        &self,
        kind: Kind,
        mut page_of: impl FnMut(&[(String, Name)]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut after = None;
        loop {
            let (groups, next) = self.page(kind, after.as_deref())?;
            groups.iter().try_for_each(|keys| page_of(keys))?;
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes the marks of pinned sessions.
    fn clear_marks(&self) -> Result<(), Error> {
        self.for_all(Kind::Pin, |pins| {
            let marks: Vec<_> = pins.iter().map(|(mark, _)| removing_mark(mark.clone())).collect();
            self.bucket.commit(&marks)?;
            Ok(())
        })
    }

    /// Removes every document whose key and text agree that it is one of this
    /// prefix. Says how many, and whether others changed some in between.
    fn clear_documents(&self) -> Result<(u64, bool), Error> {
        let (mut removed, mut overtaken) = (0, false);
        self.for_all(Kind::Document, |documents| {
            for documents in documents.chunks(PAGE as usize) {
                let (more, others) = self.clear_page(documents)?;
                removed += more;
                overtaken |= others;
            }
            Ok(())
        })?;
        Ok((removed, overtaken))
    }

    /// The same for some documents, in one step.
    fn clear_page(&self, documents: &[(String, Name)]) -> Result<(u64, bool), Error> {
        let keys: Vec<_> = documents.iter().map(|(key, _)| key.clone()).collect();
        let (mut batches, mut decides) = (Vec::new(), Vec::new());
        for ((key, name), value) in documents.iter().zip(self.bucket.get(&keys, Some(HEAD))?) {
            match self.owner(key, value)? {
                Held::Document(owner, guard) if name.is_of(&owner) => {
                    batches.extend(self.removal(key.clone(), &owner, guard));
                }
                Held::Garbage(_, text) if !self.keys.may_be_of_longer_prefix(&name.checkpoint) => batches
                    .push(Batch {
                        conditions: vec![vec![starts_with(key.clone(), text)]],
                        operations: vec![Operation::Delete(key.clone())],
                    }),
                _ => {}
            }
            // The first batch of each removal decides.
            if decides.len() < batches.len() {
                decides.push(true);
                decides.resize(batches.len(), false);
            }
        }
        let (mut removed, mut overtaken) = (0, false);
        if !batches.is_empty() {
            for (applied, decides) in self.bucket.commit(&batches)?.into_iter().zip(decides) {
                removed += u64::from(applied && decides);
                overtaken |= !applied && decides;
            }
        }
        Ok((removed, overtaken))
    }

    /// Removes the index entries that are left, which name nothing any more.
    fn clear_indexes(&self) -> Result<(), Error> {
        self.for_all(Kind::Index, |indexes| indexes.iter().try_for_each(|(index, _)| self.sweep_index(index)))
    }
}
