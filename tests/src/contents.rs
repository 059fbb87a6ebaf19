//! All keys of a store with their values, to compare, check and restore.

use std::collections::{BTreeMap, BTreeSet};

use checkpointer::store::{Batch, Expiry, IndexPut, Operation, Order, Put, Query, Value};
use checkpointer_guest::document;

use crate::contract::TestStore;

/// Longer than any test takes.
const HOUR: Expiry = Expiry::AfterMs(3_600_000);

/// The keys of a store with their values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    keys: BTreeMap<String, Content>,
}

#[derive(Clone, Debug, PartialEq)]
struct Content {
    what: What,
    expires: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Text(String),
    /// The members of an index with their scores.
    Index(BTreeMap<String, f64>),
}

/// A document with everything that belongs to it: its text, whether it expires,
/// and its score in each index that may contain it.
#[derive(Debug, PartialEq)]
pub struct StoredDocument<'a> {
    text: &'a str,
    expires: bool,
    named_by: Vec<(&'a str, f64)>,
}

impl StoredDocument<'_> {
    /// Its highest score in the indexes.
    pub fn score(&self) -> f64 {
        self.named_by.iter().fold(f64::NEG_INFINITY, |highest, (_, score)| highest.max(*score))
    }
}

impl Contents {
    /// Reads all keys except usage ledgers.
    pub async fn of(store: &TestStore) -> Self {
        let mut names = store.keys("").await;
        names.retain(|name| !name.ends_with("\0quota"));
        let expiring = store.expiring().await;
        let values = store.inner.get(names.clone(), None).await.expect("the values");
        let mut keys = BTreeMap::new();
        for (name, value) in names.into_iter().zip(values) {
            let what = match value {
                Value::Text(text) => What::Text(text),
                Value::Absent => continue,
                Value::Truncated(_) | Value::Unreadable(_) => What::Index(members(store, &name).await),
            };
            let expires = expiring.contains(&name);
            keys.insert(name, Content { what, expires });
        }
        Self { keys }
    }

    /// Replaces the contents of the store with these.
    pub async fn restore(&self, store: &TestStore) {
        store.clear().await;
        let mut operations = Vec::new();
        for (key, Content { what, expires }) in &self.keys {
            let expiry = if *expires { HOUR } else { Expiry::Never };
            match what {
                What::Text(text) => {
                    operations.push(Operation::Put(Put { key: key.clone(), value: text.clone(), expiry }));
                }
                What::Index(members) => operations.extend(members.iter().map(|(member, score)| {
                    let (index, member) = (key.clone(), member.clone());
                    Operation::IndexPut(IndexPut { index, member, score: *score, expiry })
                })),
            }
        }
        let applied = store.inner.commit(vec![Batch { conditions: Vec::new(), operations }]).await;
        assert_eq!(applied, Ok(vec![true]));
    }

    /// The number of text values, without pin markers.
    pub fn count(&self) -> u64 {
        self.texts().count() as u64
    }

    /// Whether every key expires.
    pub fn all_expire(&self) -> bool {
        self.keys.values().all(|content| content.expires)
    }

    /// Whether the key expires; none if it does not exist.
    pub fn expires(&self, key: &str) -> Option<bool> {
        self.keys.get(key).map(|content| content.expires)
    }

    /// The names of all keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Every document by its key, with everything that belongs to it.
    pub fn documents(&self) -> BTreeMap<&str, StoredDocument<'_>> {
        let texts = self
            .texts()
            .map(|(key, text, expires)| (key, StoredDocument { text, expires, named_by: Vec::new() }));
        let mut kept: BTreeMap<&str, StoredDocument<'_>> = texts.collect();
        for (index, member, score) in self.entries() {
            for key in candidate_documents(index, member) {
                if let Some(kept) = kept.get_mut(key.as_str()) {
                    kept.named_by.push((index, score));
                }
            }
        }
        kept
    }

    /// The dangling index entries.
    fn dangling(&self) -> BTreeSet<(&str, &str)> {
        let dangling = self.entries().filter(|(index, member, _)| {
            !candidate_documents(index, member).any(|key| self.keys.contains_key(&key))
        });
        dangling.map(|(index, member, _)| (index, member)).collect()
    }

    /// The index entries whose document does not exist or belongs to another
    /// session or run, each as index and member.
    pub fn invalid_entries(&self) -> BTreeSet<(String, String)> {
        &self.existing_entries() - &self.required_entries()
    }

    /// The index entries that are missing for existing documents: in the index of
    /// the session and in the index of the run.
    pub fn missing_entries(&self) -> BTreeSet<(String, String)> {
        &self.required_entries() - &self.existing_entries()
    }

    /// These contents without dangling index entries.
    pub fn without_dangling(&self) -> Self {
        let mut without = self.clone();
        for (index, member) in self.dangling() {
            if let Some(Content { what: What::Index(members), .. }) = without.keys.get_mut(index) {
                members.remove(member);
                if members.is_empty() {
                    without.keys.remove(index);
                }
            }
        }
        without
    }

    /// The differences to other contents, as text.
    pub fn difference(&self, other: &Self) -> String {
        let keys: BTreeSet<&str> = self.keys().chain(other.keys()).collect();
        let differs = keys.into_iter().filter(|key| self.keys.get(*key) != other.keys.get(*key));
        let told: Vec<String> = differs
            .map(|key| format!("{key}: {:?} -> {:?}", self.keys.get(key), other.keys.get(key)))
            .collect();
        told.join("; ")
    }

    /// All text values except pin markers.
    fn texts(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        let is_pin_marker = |key: &str| key.contains("pinned\0") || key.ends_with("}\0pinned");
        self.keys.iter().filter_map(move |(key, content)| match &content.what {
            What::Text(text) if !is_pin_marker(key) => Some((key.as_str(), text.as_str(), content.expires)),
            _ => None,
        })
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        self.keys.iter().flat_map(|(key, content)| {
            let members = match &content.what {
                What::Text(_) => None,
                What::Index(members) => Some(members),
            };
            let entries = members.into_iter().flatten();
            entries.map(move |(member, score)| (key.as_str(), member.as_str(), *score))
        })
    }

    fn existing_entries(&self) -> BTreeSet<(String, String)> {
        self.entries().map(|(index, member, _)| (index.to_owned(), member.to_owned())).collect()
    }

    /// The index entries that the existing documents require.
    fn required_entries(&self) -> BTreeSet<(String, String)> {
        let mut required_entries = BTreeSet::new();
        for (key, text, _) in self.texts() {
            let Ok(owner) = document::read_owner(text) else { continue };
            let Some(prefix) = key.strip_suffix(&format!("checkpoint:{}", owner.checkpoint_id)) else {
                continue;
            };
            // The prefix of a partition ends with NUL.
            let (session, runs) = match prefix.ends_with('\0') {
                true => (format!("{prefix}session"), format!("{prefix}run:")),
                false => {
                    let session = format!("{prefix}session:{}", owner.session_id);
                    (session.clone(), session + ":run:")
                }
            };
            let run = owner.run_id.map(|run| runs + &run);
            let indexes = [session].into_iter().chain(run);
            required_entries.extend(indexes.map(|index| (index, owner.checkpoint_id.clone())));
        }
        required_entries
    }
}

/// The keys at which the document of an index entry may be: `{prefix}session:…`
/// refers to `{prefix}checkpoint:…`, and the name of the index does not tell
/// where the prefix ends. In a partition it does.
fn candidate_documents(index: &str, member: &str) -> impl Iterator<Item = String> {
    let ends = match index.split_once("}\0") {
        Some((session, _)) => vec![session.len() + 2],
        None => index.match_indices("session:").map(|(at, _)| at).collect(),
    };
    ends.into_iter().map(move |end| format!("{}checkpoint:{member}", &index[..end]))
}

async fn members(store: &TestStore, index: &str) -> BTreeMap<String, f64> {
    let mut members = BTreeMap::new();
    let mut after = None;
    loop {
        let query = Query {
            index: index.to_owned(),
            order: Order::Ascending,
            after,
            limit: 1000,
            value_key_prefix: String::new(),
            max_value_bytes: Some(0),
            with_next: true,
            with_count: false,
        };
        let page = store.inner.range(query).await.expect("a page of an index");
        members.extend(page.entries.into_iter().map(|entry| (entry.member, entry.score.expect("a score"))));
        after = page.next;
        if after.is_none() {
            return members;
        }
    }
}
