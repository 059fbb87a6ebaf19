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
        let found = match checkpoint {
            Some(checkpoint) => self.one(&session, &Id::new("checkpoint id", checkpoint)?, with_text)?,
            None => {
                let wanted =
                    Wanted { session: &session, run: None, limit: 1, with_text, readable_only: false };
                self.newest(&wanted)?.into_iter().next().transpose().map_err(Error::Corrupt)?
            }
        };
        self.refresh(&session, &found)?;
        Ok(found)
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
