//! What a caller can ask for, one file for each.

mod clear;
mod delete;
mod history;
mod latest;
mod lifetime;
mod load;
mod prune;
mod restore;
mod save;
mod scan;
mod steps;

use crate::document::{self, Owner};
use crate::id::Id;
use crate::keys::Keys;
use crate::keyvalue::{
    Batch, Condition, Effect, Expiry, IndexMember, ValuePrefix, Keyvalue, Operation, Order, Query, StorageError,
    StorageReason, Value,
};
use crate::{Checkpoint, Error, Layout, NamedValue, Options, Ttl};

/// The prefix that llmfy uses.
const DEFAULT_PREFIX: &str = "llmfy_checkpoint:";

/// llmfy's default as well.
const DEFAULT_MAX_STATE_BYTES: u64 = 25 * 1024 * 1024;

/// Redis counts in signed milliseconds since 1970; this leaves room for "now".
const MAX_TTL_MS: u64 = 9_000_000_000_000_000_000;

/// How much of a document is read where only its owner is wanted. With ids of
/// usual length the owner stands in the first 200 bytes.
const HEAD: u32 = 1024;

/// How many checkpoints go in one step. Two round trips a page are at most
/// 1 + n/100 for any n from 100 on, and a store is not busy with it for long.
const PAGE: u32 = 300;

/// How often an operation begins again because another one got in between.
const ATTEMPTS: usize = 16;

/// The checkpoints under one prefix of one bucket.
#[derive(Debug)]
pub struct Checkpointer<K> {
    bucket: K,
    keys: Keys,
    ttl: Option<Ttl>,
    max_state_bytes: u64,
    compress: bool,
    max_checkpoints: Option<u64>,
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Opens the checkpointer that `options` describes over `bucket`, which is
    /// the one that they name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if an option is at fault.
    pub fn open(bucket: K, options: &Options) -> Result<Self, Error> {
        if let Some(ttl) = options.ttl {
            expiry_after("ttl", ttl.milliseconds)?;
        }
        if options.max_checkpoints == Some(0) {
            return Err(Error::InvalidArgument("a session must keep at least 1 checkpoint".into()));
        }
        no_extra("options", &options.extra)?;
        let prefix = Id::new("prefix", options.prefix.as_deref().unwrap_or(DEFAULT_PREFIX))?;
        check_capabilities(&bucket, options.ttl.is_some())?;
        check_partitions(&bucket, &prefix, options.layout)?;
        Ok(Self {
            bucket,
            keys: Keys::new(prefix, options.layout),
            ttl: options.ttl,
            max_state_bytes: options.max_state_bytes.unwrap_or(DEFAULT_MAX_STATE_BYTES),
            compress: options.compress,
            max_checkpoints: options.max_checkpoints.map(u64::from),
        })
    }

    /// What stands at one key, no more than `head` bytes of it.
    fn get(&self, key: &str, max_value_bytes: Option<u32>) -> Result<Value, Error> {
        let values = self.bucket.get(&[key.to_owned()], max_value_bytes)?;
        values.into_iter().next().ok_or_else(|| broken("gave no value for a key"))
    }

    /// When what is saved now goes away.
    fn expiry(&self) -> Expiry {
        self.ttl.map_or(Expiry::Never, |ttl| Expiry::AfterMs(ttl.milliseconds))
    }

    /// A page from the beginning of an index, each entry with the whole of what
    /// it names, and no place to go on.
    fn query(&self, index: &str, order: Order, limit: u32) -> Query {
        Query {
            index: index.to_owned(),
            order,
            after: None,
            limit,
            value_key_prefix: self.keys.documents_of(index),
            max_value_bytes: None,
            with_next: false,
            with_count: false,
        }
    }

    /// Applies batches in one step; says whether the conditions of the first
    /// held.
    fn commit(&self, batches: &[Batch]) -> Result<bool, Error> {
        self.commit_all(batches)?.first().copied().ok_or_else(|| broken("gave no outcome for a batch"))
    }

    /// Applies batches in one step; says for each whether it was applied.
    fn commit_all(&self, batches: &[Batch]) -> Result<Vec<bool>, Error> {
        let applied = self.bucket.commit(batches)?;
        if applied.len() == batches.len() { Ok(applied) } else { Err(broken("gave no outcome for a batch")) }
    }

    /// Whose the document at `key` is, of which `value` is all or the
    /// beginning.
    fn owner(&self, key: &str, value: Value) -> Result<Held, Error> {
        let (text, whole) = match value {
            Value::Absent => return Ok(Held::Nothing),
            Value::Unreadable(what) => return Ok(Held::Alien(what)),
            Value::Text(text) => (text, true),
            Value::Truncated(text) => (text, false),
        };
        match document::read_owner(&text) {
            Ok(owner) => {
                let guard = text[..owner.known_from].to_owned();
                Ok(Held::Document(owner, guard))
            }
            Err(fault) if fault.at_end && !whole => {
                let rest = self.get(key, None)?;
                self.owner(key, rest)
            }
            Err(fault) => Ok(Held::Garbage(fault.to_string(), text)),
        }
    }

    /// The batches that remove a document, if it still begins with `guard`, and
    /// the index entries that name it. The first decides; the others are for
    /// indexes that another prefix may share, and the entry with them.
    fn removal(&self, key: String, owner: &Owner, guard: String) -> Vec<Batch> {
        let member = &owner.checkpoint_id;
        let session = self.keys.session(&Id::stored(&owner.session_id));
        let mut operations = vec![Operation::Delete(key.clone())];
        let mut shared = Vec::new();
        for index in [session].into_iter().chain(self.run_index(owner)) {
            if self.keys.may_be_shared(&index) {
                shared.push(self.sweeping(&index, member));
            } else {
                operations.push(Operation::IndexDelete(entry(index, member)));
            }
        }
        let mut batches = vec![Batch { conditions: vec![vec![starts_with(key, guard)]], operations }];
        batches.extend(shared);
        batches
    }

    /// The index of the run that a document is of.
    fn run_index(&self, owner: &Owner) -> Option<String> {
        let session = Id::stored(&owner.session_id);
        owner.run_id.as_ref().map(|run| self.keys.run(&session, &Id::stored(run)))
    }

    /// The batch that removes the entry of `member` from `index` if it names
    /// nothing.
    fn sweeping(&self, index: &str, member: &str) -> Batch {
        let named = self.keys.documents_named_by(index, member).into_iter();
        Batch {
            conditions: named.map(|key| vec![Condition::Absent(key)]).collect(),
            operations: vec![Operation::IndexDelete(entry(index.to_owned(), member))],
        }
    }

    /// Removes index entries that name nothing, by whatever prefix the index
    /// was made with; says how many of these that were.
    fn sweep(&self, index: &str, members: &[String]) -> Result<usize, Error> {
        if members.is_empty() {
            return Ok(0);
        }
        let batches: Vec<Batch> = members.iter().map(|member| self.sweeping(index, member)).collect();
        Ok(self.bucket.commit(&batches)?.into_iter().filter(|applied| *applied).count())
    }

    /// Removes the entries of an index that name nothing, page by page.
    fn sweep_index(&self, index: &str) -> Result<(), Error> {
        let mut after = None;
        loop {
            let query = self.query(index, Order::Ascending, PAGE);
            let page = match self.bucket.range(&Query { after, max_value_bytes: Some(1), with_next: true, ..query }) {
                // A value under a longer prefix, not an index.
                Err(error) if error.reason == StorageReason::WrongType => return Ok(()),
                page => page?,
            };
            let dead: Vec<String> = page
                .entries
                .into_iter()
                .filter(|entry| matches!(entry.value, Value::Absent))
                .map(|entry| entry.member)
                .collect();
            self.sweep(index, &dead)?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

/// The expiry of what lives so long; `what` names that.
fn expiry_after(what: &str, milliseconds: u64) -> Result<Expiry, Error> {
    let fault = match milliseconds {
        1..=MAX_TTL_MS => return Ok(Expiry::AfterMs(milliseconds)),
        0 => format!("the {what} is 0: what is saved would be gone at once"),
        _ => {
            format!("the {what} of {milliseconds} ms is more than the {MAX_TTL_MS} ms that a store can count")
        }
    };
    Err(Error::InvalidArgument(fault))
}

/// Refuses named values, of which this version defines none.
fn no_extra(of: &str, extra: &[NamedValue]) -> Result<(), Error> {
    match extra.first() {
        None => Ok(()),
        Some(NamedValue { name, .. }) => Err(Error::InvalidArgument(format!(
            "the {of} contain {name:?}, which this version does not know; remove it from `extra`"
        ))),
    }
}

/// Refuses a store that can't do what every operation needs.
fn check_capabilities(bucket: &impl Keyvalue, has_ttl: bool) -> Result<(), Error> {
    let needed = [
        ("conditions", "batches with conditions; use a store that has compare-and-swap"),
        ("atomic-commit", "atomic commits over several keys; use a store that has transactions"),
        ("expiry", "expiry; open the checkpointer without a TTL or use a store whose keys can expire"),
    ];
    for (capability, what) in needed.into_iter().take(if has_ttl { 3 } else { 2 }) {
        if !bucket.supports(capability) {
            let message = format!("the store does not support `{capability}`: {what}");
            return Err(storage_error(StorageReason::Unsupported, Effect::None, message));
        }
    }
    Ok(())
}

/// Validates the ids of a session and a checkpoint.
fn ids(session: &str, checkpoint: &str) -> Result<(Id, Id), Error> {
    Ok((Id::new("session id", session)?, Id::new("checkpoint id", checkpoint)?))
}

/// Whether what one operation touches is always in one place of the store.
fn check_partitions(bucket: &impl Keyvalue, prefix: &Id, layout: Layout) -> Result<(), Error> {
    let prefix = prefix.as_str();
    let message = match layout {
        Layout::Llmfy if !bucket.is_colocated(prefix) => {
            let tagged = format!("{{{}}}:", prefix.trim_end_matches(':'));
            let remedy = if bucket.is_colocated(&tagged) {
                format!("a prefix with a hash tag, for instance {tagged:?}, or the layout `partitioned`")
            } else {
                "the layout `partitioned`".to_owned()
            };
            format!(
                "the store spreads keys over several machines, and those under the prefix {prefix:?} would \
                 not stay together; take {remedy}"
            )
        }
        Layout::Partitioned if !bucket.is_colocated(&format!("{prefix}{{session}}")) => format!(
            "the store spreads keys over several machines by the first text in braces, which is empty in \
             the prefix {prefix:?} or before it; take one without \"{{}}\""
        ),
        Layout::Llmfy | Layout::Partitioned => return Ok(()),
    };
    Err(Error::InvalidArgument(message))
}

/// What was found at the key of a document.
enum Held {
    /// Nothing.
    Nothing,
    /// Something that this project never writes: what it is.
    Alien(String),
    /// Text that is no document: why, and the text that was read.
    Garbage(String, String),
    /// A document: whose, and the text that it begins with.
    Document(Owner, String),
}

fn entry(index: String, member: &str) -> IndexMember {
    IndexMember { index, member: member.to_owned() }
}

fn starts_with(key: String, text: String) -> Condition {
    Condition::StartsWith(ValuePrefix { key, text })
}

/// The error of a store that does not keep to the interface.
fn broken(what: &str) -> Error {
    storage_error(StorageReason::Other, Effect::Unknown, format!("the store {what}"))
}

/// The error of an operation that was overtaken [`ATTEMPTS`] times.
fn overtaken() -> Error {
    let message = "others kept changing the same checkpoint; try again".to_owned();
    storage_error(StorageReason::Unavailable, Effect::None, message)
}

fn storage_error(reason: StorageReason, effect: Effect, message: String) -> Error {
    Error::Storage(StorageError { reason, effect, message })
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// A document that was read, with its text if that was asked for, and whose it
/// is if it is to live on.
struct Found {
    checkpoint: Checkpoint,
    document: Option<String>,
    /// And the text that it begins with.
    owner: Option<(Owner, String)>,
}
