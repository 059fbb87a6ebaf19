//! The kinds of values at the key of a document.

use super::call::Call;
use crate::Error;
use crate::document::{self, Owner};
use crate::id::Id;
use crate::keyvalue::{Keyvalue, Value};

/// The value at the key of a document.
pub(super) enum Stored {
    /// Nothing.
    Absent,
    /// A value of another type, or bytes that are not UTF-8: a description of it.
    Foreign(String),
    /// Text that is not a document: the reason, and the text that was read.
    Invalid(String, String),
    /// A document: its owner, and its first bytes up to where the owner is known.
    /// A condition that the value still starts with them guards a change.
    Document(Owner, String),
}

impl<K: Keyvalue> Call<'_, K> {
    /// Returns the kind of a value, given all of it or its beginning.
    pub(super) fn stored(&self, key: &str, value: Value) -> Result<Stored, Error> {
        let (text, is_whole) = match value {
            Value::Absent => return Ok(Stored::Absent),
            Value::Unreadable(description) => return Ok(Stored::Foreign(description)),
            Value::Text(text) => (text, true),
            Value::Truncated(text) => (text, false),
        };
        match document::read_owner(&text) {
            Ok(owner) => {
                let guard = text[..owner.header_len].to_owned();
                Ok(Stored::Document(owner, guard))
            }
            Err(error) if error.is_incomplete && !is_whole => {
                let whole = self.get(key, None)?;
                self.stored(key, whole)
            }
            Err(error) => Ok(Stored::Invalid(error.to_string(), text)),
        }
    }

    /// Returns the index of the run that a document belongs to.
    pub(super) fn run_index(&self, owner: &Owner) -> Option<String> {
        let session = Id::unchecked(&owner.session_id);
        owner.run_id.as_ref().map(|run| self.keys.run(&session, &Id::unchecked(run)))
    }

    /// Returns the indexes that contain a document: of its session and of its run.
    pub(super) fn indexes(&self, owner: &Owner) -> impl Iterator<Item = String> + use<K> {
        let session = self.keys.session(&Id::unchecked(&owner.session_id));
        [session].into_iter().chain(self.run_index(owner))
    }
}
