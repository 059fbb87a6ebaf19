//! `list`: the newest checkpoints of a session or a run.

use super::Checkpointer;
use super::call::Call;
use super::checkpointer::refuse_extra;
use super::load::{Found, Reader};
use crate::id::Id;
use crate::keyvalue::{Entry, Keyvalue, Order, Query, StorageReason, Value};
use crate::{Error, History, HistoryQuery, RawHistory, Unreadable};

const DEFAULT_LIMIT: u32 = 10;

/// The maximum number of entries of a page that a store returns.
const MAX_PAGE: u32 = 1000;

/// Which checkpoints to read.
pub(super) struct Selection<'a> {
    pub session: &'a Id,
    pub run: Option<&'a Id>,
    pub limit: u32,
    /// Whether to return the stored documents.
    pub with_document: bool,
    /// Whether only readable checkpoints count towards the limit.
    pub readable_only: bool,
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Returns the newest checkpoints that match a query, newest first.
    pub fn list(&self, query: &HistoryQuery) -> Result<History, Error> {
        self.call(|call| call.history(query, false)).map(|(history, _)| history)
    }

    /// Returns the stored documents of the newest checkpoints that match a query,
    /// newest first.
    pub fn list_documents(&self, query: &HistoryQuery) -> Result<RawHistory, Error> {
        let (history, documents) = self.call(|call| call.history(query, true))?;
        Ok(RawHistory { documents, unreadable: history.unreadable })
    }
}

impl<K: Keyvalue> Call<'_, K> {
    fn history(&self, query: &HistoryQuery, with_document: bool) -> Result<(History, Vec<String>), Error> {
        refuse_extra("query", &query.extra)?;
        let session = Id::new("session id", &query.session_id)?;
        let run = query.run_id.as_ref().map(|run| Id::new("run id", run)).transpose()?;
        let newest = self.read_newest(&Selection {
            session: &session,
            run: run.as_ref(),
            limit: query.limit.unwrap_or(DEFAULT_LIMIT),
            with_document,
            readable_only: true,
        })?;
        self.refresh(&session, newest.iter().flatten())?;
        let mut history = History { checkpoints: Vec::new(), unreadable: Vec::new() };
        let mut documents = Vec::new();
        for found in newest {
            match found {
                Ok(found) => {
                    history.checkpoints.push(found.checkpoint);
                    documents.extend(found.document);
                }
                Err(unreadable) => history.unreadable.push(unreadable),
            }
        }
        Ok((history, documents))
    }

    /// Reads the newest checkpoints of a selection, newest first. Removes the
    /// dangling entries that it finds.
    pub(super) fn read_newest(
        &self,
        selection: &Selection<'_>,
    ) -> Result<Vec<Result<Found, Unreadable>>, Error> {
        let index = match selection.run {
            Some(run) => self.keys.run(selection.session, run),
            None => self.keys.session(selection.session),
        };
        let mut history = HistoryReader {
            selection,
            reader: self.reader(selection.with_document),
            found: Vec::new(),
            counted: 0,
            dangling: Vec::new(),
            skipped: 0,
        };
        if selection.limit == 0 {
            return Ok(history.found);
        }
        // One page without a next position is usually enough, and faster.
        if selection.limit <= MAX_PAGE {
            let page = self.bucket.range(&self.query(&index, Order::Descending, selection.limit))?;
            let is_last = page.entries.len() < selection.limit as usize;
            history.read(page.entries);
            if is_last || history.counted == selection.limit {
                self.try_remove_dangling(&index, &history.dangling);
                return Ok(history.found);
            }
            // Restart, because the first page has no next position.
            history.found.clear();
            history.counted = 0;
        }
        let (mut after, mut lookahead) = (None, history.skipped);
        loop {
            history.dangling.clear();
            history.skipped = 0;
            let missing = selection.limit - history.counted;
            // Skipped entries are often adjacent. Read further ahead the more there
            // were, unless the page gets too large.
            let limit = missing.saturating_add(lookahead).min(MAX_PAGE);
            let query = Query { after, with_next: true, ..self.query(&index, Order::Descending, limit) };
            let page = match self.bucket.range(&query) {
                Err(error) if error.reason == StorageReason::TooLarge && lookahead > 0 => {
                    self.bucket.range(&Query { limit: missing.min(MAX_PAGE), ..query })?
                }
                page => page?,
            };
            history.read(page.entries);
            self.try_remove_dangling(&index, &history.dangling);
            after = page.next;
            lookahead = history.skipped.saturating_mul(4);
            if after.is_none() || history.counted == selection.limit {
                return Ok(history.found);
            }
        }
    }

    /// Removes dangling entries, best effort: errors, for example of a read-only
    /// store, are ignored because the result is complete without it. It is no part
    /// of the effect of a read.
    fn try_remove_dangling(&self, index: &str, members: &[String]) {
        if !members.is_empty() {
            let batches = members.iter().map(|member| self.remove_dangling_batch(index, member));
            let _ = self.bucket.commit(&batches.collect::<Vec<_>>());
        }
    }
}

/// Reads the entries of an index.
struct HistoryReader<'a> {
    selection: &'a Selection<'a>,
    reader: Reader,
    found: Vec<Result<Found, Unreadable>>,
    /// How many count towards the limit.
    counted: u32,
    /// The dangling entries of the page.
    dangling: Vec<String>,
    /// How many entries of the page do not count.
    skipped: u32,
}

impl HistoryReader<'_> {
    fn read(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.counted == self.selection.limit {
                return;
            }
            let read = match entry.value {
                Value::Absent => {
                    self.skipped += 1;
                    self.dangling.push(entry.member);
                    continue;
                }
                Value::Unreadable(value) => Err(format!("its key holds {value}")),
                Value::Text(text) | Value::Truncated(text) => self.reader.read(text),
            };
            let counts = match &read {
                Ok(found) => self.is_selected(found, &entry.member),
                Err(_) => !self.selection.readable_only,
            };
            self.counted += u32::from(counts);
            self.skipped += u32::from(!counts);
            match read {
                Ok(found) if counts => self.found.push(Ok(found)),
                Ok(_) => {}
                Err(reason) => self.found.push(Err(Unreadable { checkpoint_id: entry.member, reason })),
            }
        }
    }

    fn is_selected(&self, found: &Found, member: &str) -> bool {
        let run = found.checkpoint.metadata.run.as_ref().map(|run| run.run_id.as_str());
        found.matches(self.selection.session, member)
            && self.selection.run.is_none_or(|selected| run == Some(selected.as_str()))
    }
}
