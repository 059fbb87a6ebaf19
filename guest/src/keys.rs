//! The names of values and indexes, in both layouts.
//!
//! | | `llmfy` | `partitioned` |
//! |---|---|---|
//! | a document | `{prefix}checkpoint:{id}` | `{prefix}{‹session›}␀checkpoint:{id}` |
//! | the index of a session | `{prefix}session:{session}` | `{prefix}{‹session›}␀session` |
//! | the index of a run | `{prefix}session:{session}:run:{run}` | `{prefix}{‹session›}␀run:{run}` |
//! | the mark of a pinned session | `{prefix}pinned␀{session}` | `{prefix}{‹session›}␀pinned` |
//!
//! llmfy's own names let it read and write beside us, and they are not
//! one-to-one. `{prefix}session:a:run:b` is the session `a:run:b` and also the
//! run `b` of the session `a`; and where one prefix begins with another, the
//! keys of `app:session:` look like those of a strange session of `app:`. So a
//! name never decides what belongs to whom. The document does: what it says of
//! its checkpoint and session is compared each time, and nothing is removed
//! that another reading of the name could own.
//!
//! In the partitioned layout the session stands in braces, which a Redis
//! Cluster takes for a hash tag: all keys of a session are in one slot. What
//! would be a brace in it is escaped, and neither a prefix nor an id has a NUL.
//! So the first NUL ends the session, the last brace before it begins it, and
//! the names are one-to-one over all prefixes, and like none of llmfy's.

use std::borrow::Cow;

use crate::Layout;
use crate::document::Owner;
use crate::id::Id;

const CHECKPOINT: &str = "checkpoint:";
const SESSION: &str = "session:";
const RUN: &str = ":run:";
const PINNED: &str = "pinned\0";

/// What follows the session in the partitioned layout.
mod partitioned {
    pub const CHECKPOINT: &str = "checkpoint:";
    pub const SESSION: &str = "session";
    pub const RUN: &str = "run:";
    pub const PINNED: &str = "pinned";
}

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Id,
    layout: Layout,
}

/// What stands at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A document.
    Document,
    /// An index, of a session or of a run.
    Index,
    /// The mark of a pinned session.
    Pin,
}

/// What a key that was found says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The session whose partition it is in, in the layout that has some. What
    /// is in different ones may be on different machines.
    pub partition: Option<Id>,
    /// Of a document, the checkpoint's id; of the mark of a session that has no
    /// partition, the session's.
    pub checkpoint: String,
}

impl Name {
    /// The session whose mark this is.
    pub fn into_session(self) -> String {
        self.partition.map_or(self.checkpoint, |session| session.to_string())
    }

    /// Whether this names what a document says it is.
    pub fn is_of(&self, owner: &Owner) -> bool {
        let is_in = |session: &Id| session.as_str() == owner.session_id;
        self.checkpoint == owner.checkpoint_id && self.partition.as_ref().is_none_or(is_in)
    }
}

impl Keys {
    /// The keys under `prefix`.
    pub fn new(prefix: Id, layout: Layout) -> Self {
        Self { prefix, layout }
    }

    /// What every key begins with.
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// What the key of every document of a session begins with; the checkpoint
    /// id follows.
    pub fn documents(&self, session: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), CHECKPOINT].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::CHECKPOINT, ""),
        }
    }

    /// Where the document of a checkpoint of a session stands.
    pub fn document(&self, session: &Id, checkpoint: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), CHECKPOINT, checkpoint.as_str()].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::CHECKPOINT, checkpoint.as_str()),
        }
    }

    /// The index of a session.
    pub fn session(&self, session: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), SESSION, session.as_str()].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::SESSION, ""),
        }
    }

    /// The index of a run of a session.
    pub fn run(&self, session: &Id, run: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), SESSION, session.as_str(), RUN, run.as_str()].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::RUN, run.as_str()),
        }
    }

    /// Where the mark of a pinned session stands. llmfy has no such keys. With a
    /// NUL, which no id and no prefix has, they are one-to-one and like no other
    /// key.
    pub fn pin(&self, session: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), PINNED, session.as_str()].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::PINNED, ""),
        }
    }

    fn in_partition(&self, session: &Id, kind: &str, id: &str) -> String {
        [self.prefix.as_str(), "{", &escaped(session.as_str()), "}\0", kind, id].concat()
    }

    /// What the key of every document begins with that `index` names; the member
    /// follows.
    pub fn documents_of(&self, index: &str) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), CHECKPOINT].concat(),
            Layout::Partitioned => {
                let end = index.find('\0').map_or(index.len(), |at| at + 1);
                [&index[..end], partitioned::CHECKPOINT].concat()
            }
        }
    }

    /// Every key at which the document of `member` might stand if it is named by
    /// `index`, over all the prefixes that `index` could have been made with.
    pub fn documents_named_by(&self, index: &str, member: &str) -> Vec<String> {
        match self.layout {
            Layout::Llmfy => prefixes_of(index).map(|prefix| [prefix, CHECKPOINT, member].concat()).collect(),
            Layout::Partitioned => vec![self.documents_of(index) + member],
        }
    }

    /// Whether another prefix could have made the name of this index too.
    pub fn may_be_shared(&self, index: &str) -> bool {
        match self.layout {
            Layout::Llmfy => prefixes_of(index).nth(1).is_some(),
            Layout::Partitioned => false,
        }
    }

    /// What all keys of this kind begin with, and perhaps others, which
    /// [`Keys::read`] knows.
    pub fn all(&self, kind: Kind) -> String {
        let begins = match (self.layout, kind) {
            (Layout::Llmfy, Kind::Document) => CHECKPOINT,
            (Layout::Llmfy, Kind::Index) => SESSION,
            (Layout::Llmfy, Kind::Pin) => PINNED,
            (Layout::Partitioned, _) => "{",
        };
        [self.prefix.as_str(), begins].concat()
    }

    /// What a key says that begins with [`Keys::all`] of this kind; none if it is
    /// of another kind or layout, or if it is known to be one of a longer prefix.
    /// That it is not may be uncertain: see [`Keys::may_be_of_longer_prefix`].
    pub fn read(&self, kind: Kind, key: &str) -> Option<Name> {
        let rest = key.strip_prefix(&self.all(kind))?;
        match self.layout {
            // An index with a NUL is one of the partitioned layout under a
            // longer prefix; and such a document is not what its key says.
            Layout::Llmfy if kind == Kind::Index && rest.contains('\0') => None,
            Layout::Llmfy => Some(Name { partition: None, checkpoint: rest.to_owned() }),
            Layout::Partitioned => {
                let (session, name) = rest.split_once('\0')?;
                let partition = Some(Id::stored(&unescaped(session.strip_suffix('}')?)?));
                let is_id = |id: &&str| !id.is_empty();
                let checkpoint = match kind {
                    Kind::Document => name.strip_prefix(partitioned::CHECKPOINT).filter(is_id)?,
                    Kind::Index if name == partitioned::SESSION => "",
                    Kind::Index => name.strip_prefix(partitioned::RUN).filter(is_id).map(|_| "")?,
                    Kind::Pin => (name == partitioned::PINNED).then_some("")?,
                };
                Some(Name { partition, checkpoint: checkpoint.to_owned() })
            }
        }
    }

    /// Whether the key of the document of `checkpoint`, as [`Keys::read`] gave it,
    /// might be one of any kind under a longer prefix.
    pub fn may_be_of_longer_prefix(&self, checkpoint: &str) -> bool {
        match self.layout {
            Layout::Llmfy => [CHECKPOINT, SESSION, "\0"].iter().any(|kind| checkpoint.contains(kind)),
            Layout::Partitioned => false,
        }
    }

    /// Whether llmfy's index of this session has the name of one of a run, too.
    pub fn may_name_a_run(session: &Id) -> bool {
        session.as_str().contains(RUN)
    }
}

/// All prefixes that an index could have been made with in llmfy's layout.
fn prefixes_of(index: &str) -> impl Iterator<Item = &str> {
    index.match_indices(SESSION).filter(|(at, _)| *at > 0).map(|(at, _)| &index[..at])
}

/// A session id without braces.
fn escaped(session: &str) -> Cow<'_, str> {
    if !session.contains(['%', '{', '}']) {
        return Cow::Borrowed(session);
    }
    Cow::Owned(session.replace('%', "%25").replace('{', "%7B").replace('}', "%7D"))
}

/// The session id that [`escaped`] made this of, if it did.
fn unescaped(text: &str) -> Option<String> {
    let session = text.replace("%7D", "}").replace("%7B", "{").replace("%25", "%");
    (!session.is_empty() && escaped(&session) == text).then_some(session)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const LAYOUTS: [Layout; 2] = [Layout::Llmfy, Layout::Partitioned];

    fn id(text: &str) -> Id {
        Id::new("id", text).expect("a valid id")
    }

    fn keys(prefix: &str, layout: Layout) -> Keys {
        Keys::new(id(prefix), layout)
    }

    #[test]
    fn names_are_llmfys() {
        let keys = keys("llmfy_checkpoint:", Layout::Llmfy);
        assert_eq!(keys.document(&id("s1"), &id("c1")), "llmfy_checkpoint:checkpoint:c1");
        assert_eq!(keys.session(&id("s1")), "llmfy_checkpoint:session:s1");
        assert_eq!(keys.run(&id("s1"), &id("r1")), "llmfy_checkpoint:session:s1:run:r1");
    }

    #[test]
    fn names_in_a_partition_begin_with_its_session_in_braces() {
        let keys = keys("app:", Layout::Partitioned);
        let session = id("a{b}%");
        assert_eq!(keys.document(&session, &id("c{1}")), "app:{a%7Bb%7D%25}\0checkpoint:c{1}");
        assert_eq!(keys.session(&session), "app:{a%7Bb%7D%25}\0session");
        assert_eq!(keys.run(&session, &id("r:1")), "app:{a%7Bb%7D%25}\0run:r:1");
        assert_eq!(keys.pin(&session), "app:{a%7Bb%7D%25}\0pinned");
    }

    #[test]
    fn an_index_that_several_prefixes_could_have_made_names_a_document_under_each() {
        let keys = keys("app:", Layout::Llmfy);
        let named = keys.documents_named_by("app:session:session:s1", "c1");
        assert_eq!(named, ["app:checkpoint:c1", "app:session:checkpoint:c1"]);
        assert!(keys.may_be_shared("app:session:session:s1"));
        assert!(!keys.may_be_shared("app:session:s1:run:r1"));
    }

    #[test]
    fn an_index_of_a_partition_names_one_document_in_the_same() {
        let keys = keys("app:", Layout::Partitioned);
        let (session, checkpoint) = (id("session:s"), id("c\u{1}"));
        for index in [keys.session(&session), keys.run(&session, &id("session:"))] {
            assert_eq!(keys.documents_named_by(&index, "c\u{1}"), [keys.document(&session, &checkpoint)]);
            assert_eq!(keys.documents_of(&index), keys.documents(&session));
            assert!(!keys.may_be_shared(&index));
        }
    }

    /// What may be taken for something else, as a prefix and as an id.
    const HOSTILE: [&str; 20] = [
        "a",
        "{",
        "}",
        "}{",
        "{}",
        "{a}",
        "a}:run:b",
        "a}",
        "{a",
        "%7B",
        "%7D",
        "%",
        "%25",
        "%257B",
        "session",
        "session:",
        "pinned",
        "run:a",
        "checkpoint:a",
        "é%7d",
    ];

    /// All keys of a session with some ids, and what each should be read as.
    fn all_keys(keys: &Keys, session: &Id) -> Vec<(String, Kind, Name)> {
        let partition = (keys.layout == Layout::Partitioned).then(|| session.clone());
        let name =
            |checkpoint: &str| Name { partition: partition.clone(), checkpoint: checkpoint.to_owned() };
        let mut all =
            vec![(keys.session(session), Kind::Index, name("")), (keys.pin(session), Kind::Pin, name(""))];
        for other in HOSTILE.map(id) {
            all.push((keys.run(session, &other), Kind::Index, name("")));
            all.push((keys.document(session, &other), Kind::Document, name(other.as_str())));
        }
        all
    }

    #[test]
    fn no_key_of_a_partition_is_another_one_whatever_prefix_and_ids() {
        let mut owners = BTreeMap::new();
        for (prefix, session) in HOSTILE.iter().flat_map(|prefix| HOSTILE.map(|session| (*prefix, session))) {
            let all = all_keys(&keys(prefix, Layout::Partitioned), &id(session));
            for (number, (key, ..)) in all.into_iter().enumerate() {
                let owner = (prefix, session, number);
                assert_eq!(owners.insert(key.clone(), owner), None, "{key:?} is of {owner:?}, too");
            }
        }
        for (prefix, session) in HOSTILE.iter().flat_map(|prefix| HOSTILE.map(|session| (*prefix, session))) {
            for (key, ..) in all_keys(&keys(prefix, Layout::Llmfy), &id(session)) {
                assert_eq!(owners.get(&key), None, "{key:?} is a key of both layouts");
            }
        }
    }

    #[test]
    fn a_key_of_a_partition_is_read_as_what_it_was_made_of_and_by_no_other_prefix() {
        let kinds = [Kind::Document, Kind::Index, Kind::Pin];
        for (prefix, session) in HOSTILE.iter().flat_map(|prefix| HOSTILE.map(|session| (*prefix, session))) {
            for (key, kind, name) in all_keys(&keys(prefix, Layout::Partitioned), &id(session)) {
                for (reader, wanted) in HOSTILE.iter().flat_map(|reader| kinds.map(|kind| (*reader, kind))) {
                    let read = keys(reader, Layout::Partitioned).read(wanted, &key);
                    let is_right = reader == prefix && wanted == kind;
                    assert_eq!(read.as_ref(), Some(&name).filter(|_| is_right), "{key:?} by {reader:?}");
                }
            }
            for (key, ..) in all_keys(&keys(prefix, Layout::Llmfy), &id(session)) {
                for (reader, wanted) in HOSTILE.iter().flat_map(|reader| kinds.map(|kind| (*reader, kind))) {
                    assert_eq!(keys(reader, Layout::Partitioned).read(wanted, &key), None, "{key:?}");
                }
            }
        }
    }

    #[test]
    fn llmfys_layout_reads_no_key_of_a_partition_as_its_own() {
        let outer = keys("app:", Layout::Llmfy);
        for prefix in ["app:", "app:session:", "app:checkpoint:", "app:pinned", "app:session:checkpoint:"] {
            for (key, ..) in all_keys(&keys(prefix, Layout::Partitioned), &id("s")) {
                assert_eq!(outer.read(Kind::Index, &key), None, "{key:?}");
                assert_eq!(outer.read(Kind::Pin, &key), None, "{key:?}");
                if let Some(name) = outer.read(Kind::Document, &key) {
                    assert!(outer.may_be_of_longer_prefix(&name.checkpoint), "{key:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_nearly_a_key_of_a_partition_is_none() {
        let keys = keys("app:", Layout::Partitioned);
        for rest in [
            "{}\0session",
            "{s}session",
            "{s}\0",
            "{s}\0sessions",
            "{s}\0session:",
            "{s}\0run:",
            "{s}\0run",
            "{s}\0checkpoint:",
            "{s}\0pinned\0",
            "{s}\0quota",
            "{s}x\0session",
            "{s\0t}\0session",
            "{a{s}\0session",
            "{a}{s}\0session",
            "{s%}\0session",
            "{s%7b}\0session",
            "{s%41}\0session",
            "x{s}\0session",
        ] {
            for kind in [Kind::Document, Kind::Index, Kind::Pin] {
                assert_eq!(keys.read(kind, &format!("app:{rest}")), None, "{rest:?}");
            }
        }
    }

    /// What Redis takes for the hash tag of a key.
    fn hash_tag(key: &str) -> Option<&str> {
        let (_, behind) = key.split_once('{')?;
        behind.split_once('}').map(|(tag, _)| tag).filter(|tag| !tag.is_empty())
    }

    #[test]
    fn all_keys_of_a_partition_have_one_hash_tag() {
        for (prefix, session) in HOSTILE.iter().flat_map(|prefix| HOSTILE.map(|session| (*prefix, session))) {
            let mut tags: Vec<_> = all_keys(&keys(prefix, Layout::Partitioned), &id(session))
                .iter()
                .map(|(key, ..)| hash_tag(key).map(str::to_owned))
                .collect();
            tags.dedup();
            // Redis sees no tag in a prefix where the first brace is closed at once.
            assert_eq!(tags.len(), 1, "{prefix:?}, {session:?}");
            assert_eq!(tags[0].is_none(), prefix.contains("{}"), "{prefix:?}, {session:?}");
        }
    }

    #[test]
    fn every_session_is_written_so_that_it_can_be_read_again() {
        for session in HOSTILE {
            let text = escaped(session);
            assert!(!text.contains(['{', '}']), "{text}");
            assert_eq!(unescaped(&text).as_deref(), Some(session));
        }
    }

    #[test]
    fn each_layout_reads_its_own_keys() {
        for layout in LAYOUTS {
            let keys = keys("app:", layout);
            let (session, checkpoint) = (id("s"), id("c"));
            for key in [keys.session(&session), keys.run(&session, &id("r"))] {
                assert!(keys.read(Kind::Index, &key).is_some(), "{key:?}");
            }
            assert!(keys.read(Kind::Pin, &keys.pin(&session)).is_some());
            let document = keys.document(&session, &checkpoint);
            assert_eq!(keys.read(Kind::Document, &document).map(|name| name.checkpoint), Some("c".into()));
        }
    }
}
