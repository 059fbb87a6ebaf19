//! The names of values and indexes: llmfy's own, so that it reads and writes
//! beside us.
//!
//! These names are not one-to-one. `{prefix}session:a:run:b` is the session
//! `a:run:b` and also the run `b` of the session `a`; and where one prefix
//! begins with another, the keys of `app:session:` look like those of a strange
//! session of `app:`. So a name never decides what belongs to whom. The
//! document does: what it says of its checkpoint and session is compared each
//! time, and nothing is removed that another reading of the name could own.

use crate::id::Id;

const CHECKPOINT: &str = "checkpoint:";
const SESSION: &str = "session:";
const RUN: &str = ":run:";
const PINNED: &str = "pinned\0";

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Id,
}

impl Keys {
    /// The keys under `prefix`.
    pub fn new(prefix: Id) -> Self {
        Self { prefix }
    }

    /// What the key of every document begins with; the checkpoint id follows.
    pub fn documents(&self) -> String {
        [self.prefix.as_str(), CHECKPOINT].concat()
    }

    /// Where the document of a checkpoint stands.
    pub fn document(&self, checkpoint: &Id) -> String {
        [self.prefix.as_str(), CHECKPOINT, checkpoint.as_str()].concat()
    }

    /// What the key of every index begins with.
    pub fn indexes(&self) -> String {
        [self.prefix.as_str(), SESSION].concat()
    }

    /// The index of a session.
    pub fn session(&self, session: &Id) -> String {
        [self.prefix.as_str(), SESSION, session.as_str()].concat()
    }

    /// The index of a run of a session.
    pub fn run(&self, session: &Id, run: &Id) -> String {
        [self.prefix.as_str(), SESSION, session.as_str(), RUN, run.as_str()].concat()
    }

    /// What the key of every mark of a pinned session begins with; the session
    /// id follows. llmfy has no such keys. With a NUL, which no id and no prefix
    /// has, they are one-to-one and like no other key.
    pub fn pins(&self) -> String {
        [self.prefix.as_str(), PINNED].concat()
    }

    /// Where the mark of a pinned session stands.
    pub fn pin(&self, session: &Id) -> String {
        [self.prefix.as_str(), PINNED, session.as_str()].concat()
    }

    /// Whether the index of this session has the name of one of a run, too.
    pub fn may_name_a_run(session: &Id) -> bool {
        session.as_str().contains(RUN)
    }

    /// Whether `checkpoint`, found behind [`Keys::documents`], might be the end
    /// of a key under a longer prefix.
    pub fn may_be_of_longer_prefix(checkpoint: &str) -> bool {
        [CHECKPOINT, SESSION, PINNED].iter().any(|kind| checkpoint.contains(kind))
    }
}

/// Every key at which the document of `member` might stand if it is named by
/// `index`, over all the prefixes that `index` could have been made with.
pub fn documents_named_by<'a>(index: &'a str, member: &'a str) -> impl Iterator<Item = String> + 'a {
    index
        .match_indices(SESSION)
        .filter(|(at, _)| *at > 0)
        .map(move |(at, _)| format!("{}{CHECKPOINT}{member}", &index[..at]))
}

/// Whether another prefix could have made the name of this index too.
pub fn may_be_shared(index: &str) -> bool {
    documents_named_by(index, "").nth(1).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::new("id", text).expect("a valid id")
    }

    #[test]
    fn names_are_llmfys() {
        let keys = Keys::new(id("llmfy_checkpoint:"));
        assert_eq!(keys.document(&id("c1")), "llmfy_checkpoint:checkpoint:c1");
        assert_eq!(keys.session(&id("s1")), "llmfy_checkpoint:session:s1");
        assert_eq!(keys.run(&id("s1"), &id("r1")), "llmfy_checkpoint:session:s1:run:r1");
    }

    #[test]
    fn an_index_that_several_prefixes_could_have_made_names_a_document_under_each() {
        let named: Vec<_> = documents_named_by("app:session:session:s1", "c1").collect();
        assert_eq!(named, ["app:checkpoint:c1", "app:session:checkpoint:c1"]);
        assert!(may_be_shared("app:session:session:s1"));
        assert!(!may_be_shared("app:session:s1:run:r1"));
    }
}
