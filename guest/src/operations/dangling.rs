//! Removes dangling entries: index entries without a document, for example because it
//! has expired.

use super::PAGE;
use super::call::{Call, all, index_member};
use crate::Error;
use crate::keyvalue::{Batch, Condition, Keyvalue, Operation, Order, Query, StorageReason, Value};

impl<K: Keyvalue> Call<'_, K> {
    /// Returns a batch that removes an entry if it is dangling, under every prefix
    /// that the index may belong to.
    pub(super) fn remove_dangling_batch(&self, index: &str, member: &str) -> Batch {
        Batch {
            conditions: all(self.keys.candidate_documents(index, member).into_iter().map(Condition::Absent)),
            operations: vec![Operation::IndexDelete(index_member(index, member))],
        }
    }

    /// Removes those of the entries that are dangling. Returns how many.
    pub(super) fn remove_dangling(&self, index: &str, members: &[String]) -> Result<usize, Error> {
        let batches = members.iter().map(|member| self.remove_dangling_batch(index, member));
        Ok(self.commit(&batches.collect::<Vec<_>>())?.into_iter().filter(|applied| *applied).count())
    }

    /// Removes the dangling entries of an index, page by page.
    pub(super) fn remove_dangling_of(&self, index: &str) -> Result<(), Error> {
        let mut after = None;
        loop {
            let query = self.query(index, Order::Ascending, PAGE);
            let query = Query { after, max_value_bytes: Some(1), with_next: true, ..query };
            let page = match self.bucket.range(&query) {
                // The key holds the document of a longer prefix.
                Err(error) if error.reason == StorageReason::WrongType => return Ok(()),
                page => page?,
            };
            let entries = page.entries.into_iter().filter(|entry| matches!(entry.value, Value::Absent));
            self.remove_dangling(index, &entries.map(|entry| entry.member).collect::<Vec<_>>())?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
