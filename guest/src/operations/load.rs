//! `latest`, `load`, `dump`: read one checkpoint.

use super::Checkpointer;
use super::call::{Call, protocol_error};
use super::checkpointer::ids;
use super::list::Selection;
use crate::compression;
use crate::document::{self, Owner};
use crate::id::Id;
use crate::keyvalue::{Expiry, Keyvalue, Value};
use crate::{Checkpoint, DocumentDump, Error, Unreadable};

impl<K: Keyvalue> Checkpointer<K> {
    /// Returns the latest checkpoint of a session; none if the session has none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it exists and can't be read. So do the operations below.
    pub fn latest(&self, session: &str) -> Result<Option<Checkpoint>, Error> {
        Ok(self.call(|call| call.read_latest(session, false))?.map(|found| found.checkpoint))
    }

    /// Returns the stored document of the latest checkpoint of a session.
    pub fn latest_document(&self, session: &str) -> Result<Option<String>, Error> {
        Ok(self.call(|call| call.read_latest(session, true))?.and_then(|found| found.document))
    }

    /// Returns the checkpoint with this id; none if the session has no such
    /// checkpoint.
    pub fn load(&self, session: &str, checkpoint: &str) -> Result<Option<Checkpoint>, Error> {
        Ok(self.call(|call| call.read_one(session, checkpoint, false))?.map(|found| found.checkpoint))
    }

    /// Returns the stored document of the checkpoint with this id.
    pub fn load_document(&self, session: &str, checkpoint: &str) -> Result<Option<String>, Error> {
        Ok(self.call(|call| call.read_one(session, checkpoint, true))?.and_then(|found| found.document))
    }

    /// Returns the stored document of the checkpoint with this id and its remaining
    /// TTL. Does not refresh the TTL.
    pub fn dump(&self, session: &str, checkpoint: &str) -> Result<Option<DocumentDump>, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        self.call(|call| {
            let found = call.find(&session, &checkpoint, true)?;
            let Some(document) = found.and_then(|found| found.document) else { return Ok(None) };
            // The TTL is read second: a checkpoint that expires in between has none and
            // counts as absent.
            let ttls = call.bucket.ttl(&[call.keys.document(&session, &checkpoint)])?;
            let expiry = ttls.into_iter().next().ok_or_else(|| protocol_error("no TTL for a key"))?;
            Ok(expiry.map(|expiry| DocumentDump { document, expires_in_ms: expires_in_ms(expiry) }))
        })
    }
}

impl<K: Keyvalue> Call<'_, K> {
    fn read_latest(&self, session: &str, with_document: bool) -> Result<Option<Found>, Error> {
        let session = Id::new("session id", session)?;
        let selection =
            Selection { session: &session, run: None, limit: 1, with_document, readable_only: false };
        let latest = self.read_newest(&selection)?.into_iter().next().transpose().map_err(Error::Corrupt)?;
        self.refresh(&session, &latest)?;
        Ok(latest)
    }

    fn read_one(&self, session: &str, checkpoint: &str, with_document: bool) -> Result<Option<Found>, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        let found = self.find(&session, &checkpoint, with_document)?;
        self.refresh(&session, &found)?;
        Ok(found)
    }

    fn find(&self, session: &Id, checkpoint: &Id, with_document: bool) -> Result<Option<Found>, Error> {
        let corrupt = |reason| Error::Corrupt(Unreadable { checkpoint_id: checkpoint.to_string(), reason });
        let text = match self.get(&self.keys.document(session, checkpoint), None)? {
            Value::Absent => return Ok(None),
            Value::Unreadable(value) => return Err(corrupt(format!("its key holds {value}"))),
            Value::Text(text) | Value::Truncated(text) => text,
        };
        let found = self.reader(with_document).read(text).map_err(corrupt)?;
        Ok(found.matches(session, checkpoint.as_str()).then_some(found))
    }

    pub(super) fn reader(&self, with_document: bool) -> Reader {
        Reader { with_document, with_owner: self.refreshes(), compressed: self.settings.compress }
    }
}

/// How to read documents.
#[derive(Clone, Copy, Default)]
pub(super) struct Reader {
    pub with_document: bool,
    pub with_owner: bool,
    /// Whether states of format B may be compressed.
    pub compressed: bool,
}

/// A checkpoint that was read.
pub(super) struct Found {
    pub checkpoint: Checkpoint,
    /// The stored document, if requested.
    pub document: Option<String>,
    /// The owner and the first bytes of the document, if the TTL is refreshed.
    pub owner: Option<(Owner, String)>,
}

impl Reader {
    /// Reads a document.
    pub fn read(self, text: String) -> Result<Found, String> {
        let owner = if self.with_owner {
            let owner = document::read_owner(&text).map_err(|error| error.to_string())?;
            let guard = text[..owner.header_len].to_owned();
            Some((owner, guard))
        } else {
            None
        };
        let document = self.with_document.then(|| text.clone());
        let mut checkpoint = document::read(text)?;
        if self.compressed && checkpoint.metadata.run.is_some() {
            checkpoint.state = compression::decompress(checkpoint.state)?;
        }
        Ok(Found { checkpoint, document, owner })
    }
}

impl Found {
    /// Whether the document is this checkpoint of this session. Its key does not
    /// prove that.
    pub fn matches(&self, session: &Id, checkpoint: &str) -> bool {
        let metadata = &self.checkpoint.metadata;
        metadata.session_id == session.as_str() && metadata.checkpoint_id == checkpoint
    }
}

/// Returns an expiry as the interface reports it: none if a key does not expire.
pub(super) fn expires_in_ms(expiry: Expiry) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::AfterMs(milliseconds) => Some(milliseconds),
    }
}
