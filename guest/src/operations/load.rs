//! `load`: one checkpoint, by its id or as the latest of its session.

use super::history::Wanted;
use super::{Checkpointer, Found, broken, ids};
use crate::compression;
use crate::document;
use crate::id::Id;
use crate::keyvalue::{Expiry, Keyvalue, Value};
use crate::{Checkpoint, DocumentDump, Error, Unreadable};

impl<K: Keyvalue> Checkpointer<K> {
    /// Returns the latest checkpoint of a session; none if the session has none.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Corrupt`] if it exists and can't be
    /// read; [`Error::Storage`].
    pub fn latest(&self, session: &str) -> Result<Option<Checkpoint>, Error> {
        Ok(self.find_latest_document(session, false)?.map(|found| found.checkpoint))
    }

    /// Returns the stored document of the latest checkpoint of a session.
    ///
    /// # Errors
    /// As [`Checkpointer::latest`].
    pub fn latest_document(&self, session: &str) -> Result<Option<String>, Error> {
        Ok(self.find_latest_document(session, true)?.and_then(|found| found.document))
    }

    fn find_latest_document(&self, session: &str, with_text: bool) -> Result<Option<Found>, Error> {
        let session = Id::new("session id", session)?;
        let wanted = Wanted { session: &session, run: None, limit: 1, with_text, readable_only: false };
        let found = self.newest(&wanted)?.into_iter().next().transpose().map_err(Error::Corrupt)?;
        self.refresh(&session, &found)?;
        Ok(found)
    }

    /// Returns the checkpoint with this id; none if the session has no such
    /// checkpoint.
    ///
    /// # Errors
    /// As [`Checkpointer::latest`].
    pub fn load(&self, session: &str, checkpoint: &str) -> Result<Option<Checkpoint>, Error> {
        Ok(self.find(session, checkpoint, false)?.map(|found| found.checkpoint))
    }

    /// Returns the stored document of the checkpoint with this id.
    ///
    /// # Errors
    /// As [`Checkpointer::latest`].
    pub fn load_document(&self, session: &str, checkpoint: &str) -> Result<Option<String>, Error> {
        Ok(self.find(session, checkpoint, true)?.and_then(|found| found.document))
    }

    fn find(&self, session: &str, checkpoint: &str, with_text: bool) -> Result<Option<Found>, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        let found = self.one(&session, &checkpoint, with_text)?;
        self.refresh(&session, &found)?;
        Ok(found)
    }

    /// Returns the stored document of the checkpoint with this id and its
    /// remaining TTL. Does not refresh the TTL.
    ///
    /// # Errors
    /// As [`Checkpointer::latest`].
    pub fn dump(&self, session: &str, checkpoint: &str) -> Result<Option<DocumentDump>, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        let Some(document) = self.one(&session, &checkpoint, true)?.and_then(|found| found.document) else {
            return Ok(None);
        };
        // The TTL after the document: a checkpoint that expires in between has no
        // TTL and counts as absent.
        let ttls = self.bucket.ttl(&[self.keys.document(&session, &checkpoint)])?;
        let expires_in_ms = match ttls.into_iter().next().ok_or_else(|| broken("gave no TTL for a key"))? {
            None => return Ok(None),
            Some(Expiry::Never) => None,
            Some(Expiry::AfterMs(milliseconds)) => Some(milliseconds),
        };
        Ok(Some(DocumentDump { document, expires_in_ms }))
    }

    fn one(&self, session: &Id, checkpoint: &Id, with_text: bool) -> Result<Option<Found>, Error> {
        let corrupt = |reason| Error::Corrupt(Unreadable { checkpoint_id: checkpoint.to_string(), reason });
        let text = match self.get(&self.keys.document(session, checkpoint), None)? {
            Value::Absent => return Ok(None),
            Value::Unreadable(what) => return Err(corrupt(format!("its key holds {what}"))),
            Value::Text(text) | Value::Truncated(text) => text,
        };
        let found = self.reading(with_text).read(text).map_err(corrupt)?;
        Ok(found.is_of(checkpoint.as_str(), session).then_some(found))
    }

    /// How documents are to be read.
    pub(super) fn reading(&self, with_text: bool) -> Reading {
        Reading { with_text, with_owner: self.refreshes(), compressed: self.compress }
    }
}

/// How documents are to be read.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    with_text: bool,
    with_owner: bool,
    /// Whether states may be compressed, which only those of generation B are.
    compressed: bool,
}

impl Reading {
    /// Reads a document.
    pub fn read(self, text: String) -> Result<Found, String> {
        let owner = if self.with_owner {
            let owner = document::read_owner(&text).map_err(|fault| fault.to_string())?;
            let guard = text[..owner.known_from].to_owned();
            Some((owner, guard))
        } else {
            None
        };
        let document = self.with_text.then(|| text.clone());
        let mut checkpoint = document::read(text)?;
        if self.compressed && checkpoint.metadata.run.is_some() {
            checkpoint.state = compression::expand(checkpoint.state)?;
        }
        Ok(Found { checkpoint, document, owner })
    }
}

impl Found {
    /// Whether the document is this checkpoint of this session: its key alone
    /// does not say so.
    pub(super) fn is_of(&self, checkpoint: &str, session: &Id) -> bool {
        let metadata = &self.checkpoint.metadata;
        metadata.checkpoint_id == checkpoint && metadata.session_id == session.as_str()
    }
}
