//! `clear-all`: everything under the prefix, page by page, and nothing that
//! only looks like it.

use super::{ATTEMPTS, Checkpointer, HEAD, Held, PAGE, overtaken, starts_with};
use crate::Error;
use crate::id::Id;
use crate::keys::Keys;
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

    /// Does something with all keys that begin with `prefix`, page by page.
    fn for_all(
        &self,
        prefix: &str,
        mut page_of: impl FnMut(&[String]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = self.bucket.scan(prefix, after.as_deref())?;
            page_of(&page.keys)?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes the marks of pinned sessions.
    fn clear_marks(&self) -> Result<(), Error> {
        let pins = self.keys.pins();
        self.for_all(&pins, |keys| {
            let pinned = keys.iter().filter_map(|key| key.strip_prefix(&pins));
            let marks: Vec<_> = pinned.map(|session| self.unmarking(&Id::stored(session))).collect();
            if !marks.is_empty() {
                self.bucket.commit(&marks)?;
            }
            Ok(())
        })
    }

    /// Removes every document whose key and text agree that it is one of this
    /// prefix. Says how many, and whether others changed some in between.
    fn clear_documents(&self) -> Result<(u64, bool), Error> {
        let (mut removed, mut overtaken) = (0, false);
        self.for_all(&self.keys.documents(), |keys| {
            for keys in keys.chunks(PAGE as usize) {
                let (more, others) = self.clear_page(keys)?;
                removed += more;
                overtaken |= others;
            }
            Ok(())
        })?;
        Ok((removed, overtaken))
    }

    /// The same for some keys, in one step.
    fn clear_page(&self, keys: &[String]) -> Result<(u64, bool), Error> {
        let documents = self.keys.documents();
        let (mut batches, mut decides) = (Vec::new(), Vec::new());
        for (key, value) in keys.iter().zip(self.bucket.get(keys, Some(HEAD))?) {
            let Some(id) = key.strip_prefix(&documents) else {
                continue;
            };
            match self.owner(key, value)? {
                Held::Document(owner, guard) if owner.checkpoint_id == id => {
                    batches.extend(self.removal(key.clone(), &owner, guard));
                }
                Held::Garbage(_, text) if !Keys::may_be_of_longer_prefix(id) => batches.push(Batch {
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
        self.for_all(&self.keys.indexes(), |indexes| {
            indexes.iter().try_for_each(|index| self.sweep_index(index))
        })
    }
}
