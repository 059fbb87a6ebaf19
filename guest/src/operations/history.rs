//! `list` and `list-by-run`: the newest checkpoints of an index, whatever has
//! expired or gone wrong among them.

use super::load::Reading;
use super::{Checkpointer, Found, no_extra};
use crate::id::Id;
use crate::keyvalue::{Entry, Keyvalue, Order, Query, StorageReason, Value};
use crate::{Error, History, HistoryQuery, RawHistory, Unreadable};

const DEFAULT_LIMIT: u32 = 10;

/// The most entries to ask a store for at once.
const PAGE: u32 = 1000;

/// Which checkpoints to read.
pub(super) struct Wanted<'a> {
    pub session: &'a Id,
    pub run: Option<&'a Id>,
    pub limit: u32,
    /// Whether the stored texts are wanted too.
    pub with_text: bool,
    /// Whether only those that can be read count towards the limit.
    pub readable_only: bool,
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Returns the newest checkpoints that match a query, newest first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Storage`].
    pub fn list(&self, query: &HistoryQuery) -> Result<History, Error> {
        self.history(query, false).map(|(history, _)| history)
    }

    /// Returns the stored documents of the newest checkpoints that match a query,
    /// newest first.
    ///
    /// # Errors
    /// As [`Checkpointer::list`].
    pub fn list_documents(&self, query: &HistoryQuery) -> Result<RawHistory, Error> {
        let (history, documents) = self.history(query, true)?;
        Ok(RawHistory { documents, unreadable: history.unreadable })
    }

    fn history(&self, query: &HistoryQuery, with_text: bool) -> Result<(History, Vec<String>), Error> {
        no_extra("query members", &query.extra)?;
        let session = Id::new("session id", &query.session_id)?;
        let run = query.run_id.as_ref().map(|run| Id::new("run id", run)).transpose()?;
        let wanted = Wanted {
            session: &session,
            run: run.as_ref(),
            limit: query.limit.unwrap_or(DEFAULT_LIMIT),
            with_text,
            readable_only: true,
        };
        let mut history = History { checkpoints: Vec::new(), unreadable: Vec::new() };
        let mut documents = Vec::new();
        let newest = self.newest(&wanted)?;
        self.refresh(&session, newest.iter().flatten())?;
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

    /// The newest checkpoints, in order. Entries that name nothing are removed
    /// in passing.
    pub(super) fn newest(&self, wanted: &Wanted<'_>) -> Result<Vec<Result<Found, Unreadable>>, Error> {
        let index = match wanted.run {
            Some(run) => self.keys.run(wanted.session, run),
            None => self.keys.session(wanted.session),
        };
        let mut walk = Walk {
            wanted,
            found: Vec::new(),
            counted: 0,
            dead: Vec::new(),
            passed: 0,
            reading: self.reading(wanted.with_text),
        };
        if wanted.limit == 0 {
            return Ok(walk.found);
        }
        // Nearly always one page without a place to go on is all it takes.
        if wanted.limit <= PAGE {
            let page = self.bucket.range(&self.query(&index, Order::Descending, wanted.limit))?;
            let at_the_end = page.entries.len() < wanted.limit as usize;
            walk.take(page.entries);
            if at_the_end || walk.counted == wanted.limit {
                self.tidy_up(&index, &walk.dead);
                return Ok(walk.found);
            }
            // From the beginning again: the first page said no place to go on.
            walk.found.clear();
            walk.counted = 0;
        }
        let (mut after, mut ahead) = (None, walk.passed);
        loop {
            walk.dead.clear();
            walk.passed = 0;
            let missing = wanted.limit - walk.counted;
            // Entries that count for nothing come in rows: look further ahead
            // the more of them there were, unless that is more than fits.
            let limit = missing.saturating_add(ahead).min(PAGE);
            let query = Query { after, with_next: true, ..self.query(&index, Order::Descending, limit) };
            let page = match self.bucket.range(&query) {
                Err(error) if error.reason == StorageReason::TooLarge && ahead > 0 => {
                    self.bucket.range(&Query { limit: missing.min(PAGE), ..query })?
                }
                page => page?,
            };
            walk.take(page.entries);
            self.tidy_up(&index, &walk.dead);
            after = page.next;
            ahead = walk.passed.saturating_mul(4);
            if after.is_none() || walk.counted == wanted.limit {
                return Ok(walk.found);
            }
        }
    }

    /// Removes entries that name nothing. What was read stands without it, so
    /// that a failure, for instance where nothing may be written, is nobody's.
    fn tidy_up(&self, index: &str, dead: &[String]) {
        let _ = self.sweep(index, dead);
    }
}

/// A way through an index.
struct Walk<'a> {
    wanted: &'a Wanted<'a>,
    found: Vec<Result<Found, Unreadable>>,
    counted: u32,
    /// Members of the page that name nothing.
    dead: Vec<String>,
    /// How many entries of the page did not count.
    passed: u32,
    reading: Reading,
}

impl Walk<'_> {
    fn take(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.counted == self.wanted.limit {
                return;
            }
            let read = match entry.value {
                Value::Absent => {
                    self.passed += 1;
                    self.dead.push(entry.member);
                    continue;
                }
                Value::Unreadable(what) => Err(format!("its key holds {what}")),
                Value::Text(text) | Value::Truncated(text) => self.reading.read(text),
            };
            match read {
                Ok(found) if !self.is_wanted(&found, &entry.member) => self.passed += 1,
                Ok(found) => {
                    self.found.push(Ok(found));
                    self.counted += 1;
                }
                Err(reason) => {
                    self.found.push(Err(Unreadable { checkpoint_id: entry.member, reason }));
                    self.counted += u32::from(!self.wanted.readable_only);
                    self.passed += u32::from(self.wanted.readable_only);
                }
            }
        }
    }

    fn is_wanted(&self, found: &Found, member: &str) -> bool {
        let run = found.checkpoint.metadata.run.as_ref().map(|run| run.run_id.as_str());
        found.is_of(member, self.wanted.session)
            && self.wanted.run.is_none_or(|wanted| run == Some(wanted.as_str()))
    }
}
