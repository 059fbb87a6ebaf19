//! The keys of documents, indexes and pin markers, in both layouts.
//!
//! | | `llmfy` | `partitioned` |
//! |---|---|---|
//! | document | `{prefix}checkpoint:{id}` | `{prefix}{‹session›}␀checkpoint:{id}` |
//! | index of a session | `{prefix}session:{session}` | `{prefix}{‹session›}␀session` |
//! | index of a run | `{prefix}session:{session}:run:{run}` | `{prefix}{‹session›}␀run:{run}` |
//! | pin marker | `{prefix}pinned␀{session}` | `{prefix}{‹session›}␀pinned` |
//!
//! The keys of llmfy are ambiguous. `{prefix}session:a:run:b` is the index of the
//! session `a:run:b` and of the run `b` of the session `a`. The keys of the prefix
//! `app:session:` look like keys of the prefix `app:`. So a key never decides
//! ownership. The document does: its checkpoint id and session id are compared
//! each time, and nothing is deleted that may belong to another prefix.
//!
//! In the partitioned layout the session is in braces, which is the hash tag of
//! Redis Cluster: all keys of a session are in one slot. Braces in a session id
//! are escaped, and neither a prefix nor an id contains NUL. So the first NUL ends
//! the session, the last brace before it begins the session, and the keys are
//! unambiguous over all prefixes and differ from all keys of llmfy.

use std::borrow::Cow;

use crate::Layout;
use crate::document::Owner;
use crate::id::Id;

const CHECKPOINT: &str = "checkpoint:";
const SESSION: &str = "session:";
const RUN: &str = ":run:";
const PINNED: &str = "pinned\0";

/// The parts after the session in the partitioned layout.
mod partitioned {
    pub(super) const CHECKPOINT: &str = "checkpoint:";
    pub(super) const SESSION: &str = "session";
    pub(super) const RUN: &str = "run:";
    pub(super) const PINNED: &str = "pinned";
}

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Id,
    layout: Layout,
}

/// The kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A document.
    Document,
    /// An index of a session or of a run.
    Index,
    /// The pin marker of a session.
    Pin,
}

/// The parts of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedKey {
    /// The session, in the partitioned layout. Keys of different sessions may be in
    /// different slots.
    pub partition: Option<Id>,
    /// The checkpoint id of a document. In the layout of llmfy, the session id of a
    /// pin marker.
    pub checkpoint: String,
}

impl ParsedKey {
    /// Returns the session of a pin marker.
    pub fn into_session(self) -> String {
        self.partition.map_or(self.checkpoint, |session| session.to_string())
    }

    /// Whether the key fits the owner of its document.
    pub fn matches(&self, owner: &Owner) -> bool {
        let is_session = |session: &Id| session.as_str() == owner.session_id;
        self.checkpoint == owner.checkpoint_id && self.partition.as_ref().is_none_or(is_session)
    }
}

impl Keys {
    /// The keys under `prefix`.
    pub fn new(prefix: Id, layout: Layout) -> Self {
        Self { prefix, layout }
    }

    /// Returns the prefix of all keys.
    pub fn prefix(&self) -> &str {
        self.prefix.as_str()
    }

    /// Returns the prefix of the documents of a session. The checkpoint id follows.
    pub fn documents(&self, session: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), CHECKPOINT].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::CHECKPOINT, ""),
        }
    }

    /// Returns the key of the document of a checkpoint.
    pub fn document(&self, session: &Id, checkpoint: &Id) -> String {
        self.documents(session) + checkpoint.as_str()
    }

    /// Returns the key of the index of a session.
    pub fn session(&self, session: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), SESSION, session.as_str()].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::SESSION, ""),
        }
    }

    /// Returns the key of the index of a run.
    pub fn run(&self, session: &Id, run: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), SESSION, session.as_str(), RUN, run.as_str()].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::RUN, run.as_str()),
        }
    }

    /// Returns the key of the pin marker of a session. llmfy has no such keys. NUL,
    /// which no id and no prefix contains, keeps them apart from all other keys.
    pub fn pin(&self, session: &Id) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), PINNED, session.as_str()].concat(),
            Layout::Partitioned => self.in_partition(session, partitioned::PINNED, ""),
        }
    }

    fn in_partition(&self, session: &Id, kind: &str, id: &str) -> String {
        [self.prefix.as_str(), "{", &escape(session.as_str()), "}\0", kind, id].concat()
    }

    /// Returns the prefix of the documents in an index. The member follows.
    pub fn documents_of(&self, index: &str) -> String {
        match self.layout {
            Layout::Llmfy => [self.prefix.as_str(), CHECKPOINT].concat(),
            Layout::Partitioned => {
                let end = index.find('\0').map_or(index.len(), |nul| nul + 1);
                [&index[..end], partitioned::CHECKPOINT].concat()
            }
        }
    }

    /// Returns the keys that the document of an index entry may have: one for each
    /// prefix under which `index` is an index.
    pub fn candidate_documents(&self, index: &str, member: &str) -> Vec<String> {
        match self.layout {
            Layout::Llmfy => prefixes_of(index).map(|prefix| [prefix, CHECKPOINT, member].concat()).collect(),
            Layout::Partitioned => vec![self.documents_of(index) + member],
        }
    }

    /// Whether an index may also belong to another prefix.
    pub fn is_ambiguous_index(&self, index: &str) -> bool {
        match self.layout {
            Layout::Llmfy => prefixes_of(index).nth(1).is_some(),
            Layout::Partitioned => false,
        }
    }

    /// Returns the prefix of all keys of a kind. Other keys may have it too, see
    /// [`Keys::parse`].
    pub fn scan_prefix(&self, kind: KeyKind) -> String {
        let start = match (self.layout, kind) {
            (Layout::Llmfy, KeyKind::Document) => CHECKPOINT,
            (Layout::Llmfy, KeyKind::Index) => SESSION,
            (Layout::Llmfy, KeyKind::Pin) => PINNED,
            (Layout::Partitioned, _) => "{",
        };
        [self.prefix.as_str(), start].concat()
    }

    /// Parses a key. Returns none if it is of another kind or layout, or certainly
    /// of a longer prefix. For uncertain ones see [`Keys::is_ambiguous`].
    pub fn parse(&self, kind: KeyKind, key: &str) -> Option<ParsedKey> {
        let rest = key.strip_prefix(&self.scan_prefix(kind))?;
        match self.layout {
            // An index with NUL is one of the partitioned layout under a longer
            // prefix. A document with NUL does not match its key.
            Layout::Llmfy if kind == KeyKind::Index && rest.contains('\0') => None,
            Layout::Llmfy => Some(ParsedKey { partition: None, checkpoint: rest.to_owned() }),
            Layout::Partitioned => {
                let (session, name) = rest.split_once('\0')?;
                let partition = Some(Id::unchecked(&unescape(session.strip_suffix('}')?)?));
                let is_id = |id: &&str| !id.is_empty();
                let checkpoint = match kind {
                    KeyKind::Document => name.strip_prefix(partitioned::CHECKPOINT).filter(is_id)?,
                    KeyKind::Index if name == partitioned::SESSION => "",
                    KeyKind::Index => name.strip_prefix(partitioned::RUN).filter(is_id).map(|_| "")?,
                    KeyKind::Pin => (name == partitioned::PINNED).then_some("")?,
                };
                Some(ParsedKey { partition, checkpoint: checkpoint.to_owned() })
            }
        }
    }

    /// Whether the key of a document that [`Keys::parse`] returned may also be a key
    /// of any kind under a longer prefix.
    pub fn is_ambiguous(&self, checkpoint: &str) -> bool {
        match self.layout {
            Layout::Llmfy => [CHECKPOINT, SESSION, "\0"].iter().any(|part| checkpoint.contains(part)),
            Layout::Partitioned => false,
        }
    }

    /// Whether the index of this session in the layout of llmfy may also be the
    /// index of a run.
    pub fn may_be_run_index(session: &Id) -> bool {
        session.as_str().contains(RUN)
    }
}

/// Returns all prefixes under which a key is an index in the layout of llmfy.
fn prefixes_of(index: &str) -> impl Iterator<Item = &str> {
    index.match_indices(SESSION).filter(|(start, _)| *start > 0).map(|(start, _)| &index[..start])
}

/// Replaces the braces of a session id.
fn escape(session: &str) -> Cow<'_, str> {
    if !session.contains(['%', '{', '}']) {
        return Cow::Borrowed(session);
    }
    Cow::Owned(session.replace('%', "%25").replace('{', "%7B").replace('}', "%7D"))
}

/// Returns the session id of which [`escape`] returns this text, if there is one.
fn unescape(text: &str) -> Option<String> {
    let session = text.replace("%7D", "}").replace("%7B", "{").replace("%25", "%");
    (!session.is_empty() && escape(&session) == text).then_some(session)
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
    fn llmfy_layout_has_the_keys_of_llmfy() {
        let keys = keys("llmfy_checkpoint:", Layout::Llmfy);
        assert_eq!(keys.document(&id("s1"), &id("c1")), "llmfy_checkpoint:checkpoint:c1");
        assert_eq!(keys.session(&id("s1")), "llmfy_checkpoint:session:s1");
        assert_eq!(keys.run(&id("s1"), &id("r1")), "llmfy_checkpoint:session:s1:run:r1");
    }

    #[test]
    fn partitioned_keys_start_with_the_session_in_braces() {
        let keys = keys("app:", Layout::Partitioned);
        let session = id("a{b}%");
        assert_eq!(keys.document(&session, &id("c{1}")), "app:{a%7Bb%7D%25}\0checkpoint:c{1}");
        assert_eq!(keys.session(&session), "app:{a%7Bb%7D%25}\0session");
        assert_eq!(keys.run(&session, &id("r:1")), "app:{a%7Bb%7D%25}\0run:r:1");
        assert_eq!(keys.pin(&session), "app:{a%7Bb%7D%25}\0pinned");
    }

    #[test]
    fn an_ambiguous_index_has_a_candidate_document_per_prefix() {
        let keys = keys("app:", Layout::Llmfy);
        let candidates = keys.candidate_documents("app:session:session:s1", "c1");
        assert_eq!(candidates, ["app:checkpoint:c1", "app:session:checkpoint:c1"]);
        assert!(keys.is_ambiguous_index("app:session:session:s1"));
        assert!(!keys.is_ambiguous_index("app:session:s1:run:r1"));
    }

    #[test]
    fn a_partitioned_index_has_one_candidate_document() {
        let keys = keys("app:", Layout::Partitioned);
        let (session, checkpoint) = (id("session:s"), id("c\u{1}"));
        for index in [keys.session(&session), keys.run(&session, &id("session:"))] {
            assert_eq!(keys.candidate_documents(&index, "c\u{1}"), [keys.document(&session, &checkpoint)]);
            assert_eq!(keys.documents_of(&index), keys.documents(&session));
            assert!(!keys.is_ambiguous_index(&index));
        }
    }

    /// Prefixes and ids that look like other parts of keys.
    fn hostile() -> impl Iterator<Item = &'static str> + Clone {
        "a { } }{ {} {a} a}:run:b a} {a %7B %7D % %25 %257B session session: pinned run:a checkpoint:a é%7d"
            .split(' ')
    }

    /// Pairs of a prefix and a session id.
    fn hostile_pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
        hostile().flat_map(|prefix| hostile().map(move |session| (prefix, session)))
    }

    /// All keys of a session with some ids, and how each must be parsed.
    fn all_keys(keys: &Keys, session: &Id) -> Vec<(String, KeyKind, ParsedKey)> {
        let partition = (keys.layout == Layout::Partitioned).then(|| session.clone());
        let parsed =
            |checkpoint: &str| ParsedKey { partition: partition.clone(), checkpoint: checkpoint.to_owned() };
        let mut all = vec![
            (keys.session(session), KeyKind::Index, parsed("")),
            (keys.pin(session), KeyKind::Pin, parsed("")),
        ];
        for other in hostile().map(id) {
            all.push((keys.run(session, &other), KeyKind::Index, parsed("")));
            all.push((keys.document(session, &other), KeyKind::Document, parsed(other.as_str())));
        }
        all
    }

    #[test]
    fn partitioned_keys_are_unique_for_all_prefixes_and_ids() {
        let mut owners = BTreeMap::new();
        for (prefix, session) in hostile_pairs() {
            let all = all_keys(&keys(prefix, Layout::Partitioned), &id(session));
            for (number, (key, ..)) in all.into_iter().enumerate() {
                let owner = (prefix, session, number);
                assert_eq!(owners.insert(key.clone(), owner), None, "{key:?} also belongs to {owner:?}");
            }
        }
        for (prefix, session) in hostile_pairs() {
            for (key, ..) in all_keys(&keys(prefix, Layout::Llmfy), &id(session)) {
                assert_eq!(owners.get(&key), None, "{key:?} belongs to both layouts");
            }
        }
    }

    #[test]
    fn partitioned_keys_are_parsed_under_their_own_prefix_only() {
        let kinds = [KeyKind::Document, KeyKind::Index, KeyKind::Pin];
        for (prefix, session) in hostile_pairs() {
            for (key, kind, expected) in all_keys(&keys(prefix, Layout::Partitioned), &id(session)) {
                for (reader, wanted) in hostile().flat_map(|reader| kinds.map(|kind| (reader, kind))) {
                    let parsed = keys(reader, Layout::Partitioned).parse(wanted, &key);
                    let is_own = reader == prefix && wanted == kind;
                    assert_eq!(parsed.as_ref(), Some(&expected).filter(|_| is_own), "{key:?} by {reader:?}");
                }
            }
            for (key, ..) in all_keys(&keys(prefix, Layout::Llmfy), &id(session)) {
                for (reader, wanted) in hostile().flat_map(|reader| kinds.map(|kind| (reader, kind))) {
                    assert_eq!(keys(reader, Layout::Partitioned).parse(wanted, &key), None, "{key:?}");
                }
            }
        }
    }

    #[test]
    fn llmfy_layout_does_not_parse_partitioned_keys() {
        let outer = keys("app:", Layout::Llmfy);
        for prefix in ["app:", "app:session:", "app:checkpoint:", "app:pinned", "app:session:checkpoint:"] {
            for (key, ..) in all_keys(&keys(prefix, Layout::Partitioned), &id("s")) {
                assert_eq!(outer.parse(KeyKind::Index, &key), None, "{key:?}");
                assert_eq!(outer.parse(KeyKind::Pin, &key), None, "{key:?}");
                if let Some(parsed) = outer.parse(KeyKind::Document, &key) {
                    assert!(outer.is_ambiguous(&parsed.checkpoint), "{key:?}");
                }
            }
        }
    }

    #[test]
    fn malformed_partitioned_keys_are_not_parsed() {
        let keys = keys("app:", Layout::Partitioned);
        let malformed = "{}\0session {s}session {s}\0 {s}\0sessions {s}\0session: {s}\0run: {s}\0run \
                         {s}\0checkpoint: {s}\0pinned\0 {s}\0quota {s}x\0session {s\0t}\0session \
                         {a{s}\0session {a}{s}\0session {s%}\0session {s%7b}\0session {s%41}\0session \
                         x{s}\0session";
        for rest in malformed.split(' ') {
            for kind in [KeyKind::Document, KeyKind::Index, KeyKind::Pin] {
                assert_eq!(keys.parse(kind, &format!("app:{rest}")), None, "{rest:?}");
            }
        }
    }

    /// Returns the hash tag of a key as Redis Cluster determines it.
    fn hash_tag(key: &str) -> Option<&str> {
        let (_, rest) = key.split_once('{')?;
        rest.split_once('}').map(|(tag, _)| tag).filter(|tag| !tag.is_empty())
    }

    #[test]
    fn partitioned_keys_of_a_session_have_one_hash_tag() {
        for (prefix, session) in hostile_pairs() {
            let mut tags: Vec<_> = all_keys(&keys(prefix, Layout::Partitioned), &id(session))
                .iter()
                .map(|(key, ..)| hash_tag(key).map(str::to_owned))
                .collect();
            tags.dedup();
            // Redis finds no tag if the first pair of braces is empty.
            assert_eq!(tags.len(), 1, "{prefix:?}, {session:?}");
            assert_eq!(tags[0].is_none(), prefix.contains("{}"), "{prefix:?}, {session:?}");
        }
    }

    #[test]
    fn escaped_session_ids_are_unescaped_to_the_same() {
        for session in hostile() {
            let text = escape(session);
            assert!(!text.contains(['{', '}']), "{text}");
            assert_eq!(unescape(&text).as_deref(), Some(session));
        }
    }

    #[test]
    fn each_layout_parses_its_own_keys() {
        for layout in LAYOUTS {
            let keys = keys("app:", layout);
            let (session, checkpoint) = (id("s"), id("c"));
            for key in [keys.session(&session), keys.run(&session, &id("r"))] {
                assert!(keys.parse(KeyKind::Index, &key).is_some(), "{key:?}");
            }
            assert!(keys.parse(KeyKind::Pin, &keys.pin(&session)).is_some());
            let document = keys.document(&session, &checkpoint);
            assert_eq!(
                keys.parse(KeyKind::Document, &document).map(|parsed| parsed.checkpoint),
                Some("c".into())
            );
        }
    }
}
