//! `load`: one checkpoint, by its id or as the latest of its session.

use super::history::Wanted;
use super::{Checkpointer, Found};
use crate::compression;
use crate::document;
use crate::id::Id;
use crate::keyvalue::{Keyvalue, Value};
use crate::{Checkpoint, Error, Unreadable};

impl<K: Keyvalue> Checkpointer<K> {
    /// The checkpoint with this id in this session, or the session's latest;
    /// none only when there is none.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Corrupt`] if it is there and can't
    /// be read; [`Error::Storage`].
    pub fn load(&self, session: &str, checkpoint: Option<&str>) -> Result<Option<Checkpoint>, Error> {
        Ok(self.find(session, checkpoint, false)?.map(|found| found.checkpoint))
    }

    /// The same as the text that is stored.
    ///
    /// # Errors
    /// As [`Checkpointer::load`].
    pub fn load_document(&self, session: &str, checkpoint: Option<&str>) -> Result<Option<String>, Error> {
        Ok(self.find(session, checkpoint, true)?.and_then(|found| found.document))
    }

    fn find(&self, session: &str, checkpoint: Option<&str>, with_text: bool) -> Result<Option<Found>, Error> {
        let session = Id::new("session id", session)?;
        let Some(checkpoint) = checkpoint else {
            let wanted = Wanted { session: &session, run: None, limit: 1, with_text, readable_only: false };
            let newest = self.newest(&wanted)?.into_iter().next();
            return newest.transpose().map_err(Error::Corrupt);
        };
        let key = self.keys.document(&Id::new("checkpoint id", checkpoint)?);
        let corrupt = |reason| Error::Corrupt(Unreadable { checkpoint_id: checkpoint.to_owned(), reason });
        let text = match self.get(&key, None)? {
            Value::Absent => return Ok(None),
            Value::Unreadable(what) => return Err(corrupt(format!("its key holds {what}"))),
            Value::Text(text) | Value::Head(text) => text,
        };
        let found = Found::read(text, with_text, self.compress).map_err(corrupt)?;
        Ok(found.is_of(checkpoint, &session).then_some(found))
    }
}

impl Found {
    /// Reads a document, and keeps its text if asked to. Its state is expanded if
    /// it may be compressed, which only generation B is.
    pub(super) fn read(text: String, with_text: bool, compressed: bool) -> Result<Self, String> {
        let document = with_text.then(|| text.clone());
        let mut checkpoint = document::read(text)?;
        if compressed && checkpoint.metadata.run.is_some() {
            checkpoint.state = compression::expand(checkpoint.state)?;
        }
        Ok(Self { checkpoint, document })
    }

    /// Whether the document is this checkpoint of this session: its key alone
    /// does not say so.
    pub(super) fn is_of(&self, checkpoint: &str, session: &Id) -> bool {
        let metadata = &self.checkpoint.metadata;
        metadata.checkpoint_id == checkpoint && metadata.session_id == session.as_str()
    }
}
