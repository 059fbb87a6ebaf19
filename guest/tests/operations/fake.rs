//! A store in memory with a clock that tests set, concurrent calls, and failures.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use checkpointer_guest::keyvalue::{
    Batch, Condition, Effect, Entry, Expire, ExpireMode, Expiry, IndexPage, KeyPage, Keyvalue, Operation,
    Order, Position, Query, StorageError, Value,
};

/// A store with a clock that tests set. Clones share the content.
#[derive(Clone, Default)]
pub struct Fake {
    pub shared: Rc<Shared>,
    failure: Option<Failure>,
}

/// Returns the error of a call. A commit that fails with the effect `unknown` is
/// applied. Other calls have no batches.
type Failure = Rc<dyn Fn(&[Batch]) -> Option<StorageError>>;

/// The time at which a key expires; none if it does not.
type ExpiresAt = Option<u64>;

/// The members of an index with their scores.
pub type Members = BTreeMap<String, f64>;

#[derive(Default)]
pub struct Shared {
    pub now: Cell<u64>,
    pub values: RefCell<BTreeMap<String, (String, ExpiresAt)>>,
    indexes: RefCell<BTreeMap<String, (Members, ExpiresAt)>>,
    /// The calls since the last [`Fake::calls`].
    calls: RefCell<Vec<&'static str>>,
    /// Whether it is a cluster, like Redis Cluster.
    pub is_cluster: Cell<bool>,
    /// The capability that it lacks.
    pub lacks: Cell<Option<&'static str>>,
    /// A concurrent call, made just before the next commit.
    interruption: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Fake {
    pub fn value(&self, key: &str) -> Option<String> {
        let values = self.shared.values.borrow();
        let (value, expires_at) = values.get(key)?;
        self.is_alive(*expires_at).then(|| value.clone())
    }

    pub fn members(&self, index: &str) -> Members {
        let indexes = self.shared.indexes.borrow();
        let members = indexes.get(index).filter(|(_, expires_at)| self.is_alive(*expires_at));
        members.map(|(members, _)| members.clone()).unwrap_or_default()
    }

    fn is_alive(&self, expires_at: ExpiresAt) -> bool {
        expires_at.is_none_or(|expires_at| expires_at > self.shared.now.get())
    }

    /// The same store, of which calls fail.
    pub fn failing(&self, failure: impl Fn(&[Batch]) -> Option<StorageError> + 'static) -> Self {
        Self { failure: Some(Rc::new(failure)), ..self.clone() }
    }

    fn failure(&self, batches: &[Batch]) -> Option<StorageError> {
        self.failure.as_ref().and_then(|failure| failure(batches))
    }

    fn read(&self, key: &str, max_value_bytes: Option<u32>) -> Value {
        match (self.value(key), max_value_bytes) {
            (None, _) => Value::Absent,
            (Some(value), Some(max_value_bytes)) if value.len() > max_value_bytes as usize => {
                Value::Truncated(value[..max_value_bytes as usize].to_owned())
            }
            (Some(value), _) => Value::Text(value),
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Absent(key) => self.value(key).is_none() && self.members(key).is_empty(),
            Condition::StartsWith(wanted) => {
                self.value(&wanted.key).is_some_and(|value| value.starts_with(&wanted.text))
            }
            Condition::IndexMax(wanted) => {
                let counts = |member: &String| {
                    !wanted.excluding.contains(member)
                        && self.value(&format!("{}{member}", wanted.value_key_prefix)).is_some()
                };
                let members = self.members(&wanted.index).into_iter();
                let highest = members
                    .filter(|(member, _)| counts(member))
                    .max_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
                let bound = &wanted.upper_bound;
                highest.as_ref().map(|(member, _)| member) == wanted.member.as_ref()
                    && highest.is_none_or(|(a, x)| (x, &a) <= (bound.score, &bound.member))
            }
            Condition::IndexSizeAtMost(most) => self.members(&most.index).len() as u64 <= most.size,
            Condition::IndexHas(wanted) => self.members(&wanted.index).contains_key(&wanted.member),
        }
    }

    fn expires_at(&self, expiry: Expiry) -> Option<u64> {
        match expiry {
            Expiry::Never => None,
            Expiry::AfterMs(milliseconds) => Some(self.shared.now.get() + milliseconds),
        }
    }

    fn apply(&self, operation: &Operation) {
        match operation {
            Operation::Put(put) => {
                let value = (put.value.clone(), self.expires_at(put.expiry));
                self.shared.values.borrow_mut().insert(put.key.clone(), value);
            }
            Operation::Delete(key) => drop(self.shared.values.borrow_mut().remove(key)),
            Operation::IndexPut(put) => {
                let mut members = self.members(&put.index);
                let is_new = members.is_empty();
                members.insert(put.member.clone(), put.score);
                let mut indexes = self.shared.indexes.borrow_mut();
                let mut expires_at = indexes.get(&put.index).and_then(|(_, expires_at)| *expires_at);
                self.expire(&mut expires_at, put.expiry, is_new);
                indexes.insert(put.index.clone(), (members, expires_at));
            }
            Operation::IndexDelete(entry) => {
                let mut indexes = self.shared.indexes.borrow_mut();
                if let Some((members, _)) = indexes.get_mut(&entry.index) {
                    members.remove(&entry.member);
                    if members.is_empty() {
                        indexes.remove(&entry.index);
                    }
                }
            }
            Operation::Expire(expire) => {
                let Expire { key, expiry, mode } = expire;
                let (has_value, has_index) = (self.value(key).is_some(), !self.members(key).is_empty());
                let sets = *mode == ExpireMode::Set;
                if let (true, Some((_, at))) = (has_value, self.shared.values.borrow_mut().get_mut(key)) {
                    self.expire(at, *expiry, sets);
                }
                if let (true, Some((_, at))) = (has_index, self.shared.indexes.borrow_mut().get_mut(key)) {
                    self.expire(at, *expiry, sets);
                }
            }
        }
    }

    fn expire(&self, expires_at: &mut ExpiresAt, expiry: Expiry, sets: bool) {
        *expires_at = match (*expires_at, self.expires_at(expiry)) {
            (_, new) if sets => new,
            (Some(old), Some(new)) => Some(old.max(new)),
            (None, _) | (_, None) => None,
        };
    }

    /// Records a call, and checks that its keys are in one slot of a cluster.
    fn call<'a>(&self, name: &'static str, keys: impl IntoIterator<Item = &'a str>) {
        self.shared.calls.borrow_mut().push(name);
        let mut keys = keys.into_iter();
        let Some(first) = keys.next().filter(|_| self.shared.is_cluster.get()) else { return };
        for other in keys {
            assert_eq!(hash_tag(other), hash_tag(first), "a {name} of {first:?} and {other:?}");
        }
    }

    /// Returns the calls since the last time.
    pub fn calls(&self) -> Vec<&'static str> {
        self.shared.calls.take()
    }

    /// Makes a concurrent call just before the next commit.
    pub fn interrupt<T>(&self, interruption: impl FnOnce() -> T + 'static) {
        *self.shared.interruption.borrow_mut() = Some(Box::new(|| drop(interruption())));
    }
}

impl Keyvalue for Fake {
    fn get(&self, keys: &[String], max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.call("get", keys.iter().map(String::as_str));
        if let Some(error) = self.failure(&[]) {
            return Err(error);
        }
        Ok(keys.iter().map(|key| self.read(key, max_value_bytes)).collect())
    }

    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.call("ttl", keys.iter().map(String::as_str));
        let (values, indexes) = (self.shared.values.borrow(), self.shared.indexes.borrow());
        let ttl = |key: &String| {
            let value = values.get(key).map(|(_, expires_at)| *expires_at);
            match value.or_else(|| indexes.get(key).map(|(_, expires_at)| *expires_at))? {
                None => Some(Expiry::Never),
                Some(expires_at) => {
                    let ttl = expires_at.checked_sub(self.shared.now.get())?;
                    (ttl > 0).then_some(Expiry::AfterMs(ttl))
                }
            }
        };
        Ok(keys.iter().map(ttl).collect())
    }

    fn range(&self, query: &Query) -> Result<IndexPage, StorageError> {
        self.call("range", [query.index.as_str(), query.value_key_prefix.as_str()]);
        if let Some(error) = self.failure(&[]) {
            return Err(error);
        }
        let mut members: Vec<_> = self.members(&query.index).into_iter().collect();
        members.sort_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
        if query.order == Order::Descending {
            members.reverse();
        }
        if let Some(after) = &query.after {
            let is_after = |member: &(String, f64)| {
                let order = member.1.total_cmp(&after.score).then_with(|| member.0.cmp(&after.member));
                if query.order == Order::Ascending { order.is_gt() } else { order.is_lt() }
            };
            members.retain(is_after);
        }
        let count = query.with_count.then(|| self.members(&query.index).len() as u64);
        let has_more = members.len() > query.limit as usize;
        members.truncate(query.limit as usize);
        let last = members.last().filter(|_| has_more && query.with_next);
        let next = last.map(|(member, score)| Position { score: *score, member: member.clone() });
        let entry = |(member, score): (String, f64)| Entry {
            score: query.with_next.then_some(score),
            value: self.read(&format!("{}{member}", query.value_key_prefix), query.max_value_bytes),
            member,
        };
        Ok(IndexPage { entries: members.into_iter().map(entry).collect(), next, count })
    }

    fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, StorageError> {
        if let Some(interruption) = self.shared.interruption.take() {
            interruption();
        }
        self.call("commit", batches.iter().flat_map(keys_of));
        let failure = self.failure(batches);
        if let Some(error) = failure.clone().filter(|error| error.effect == Effect::None) {
            return Err(error);
        }
        let apply = |batch: &Batch| {
            let holds = batch.conditions.iter().all(|any| any.iter().any(|condition| self.holds(condition)));
            if holds {
                batch.operations.iter().for_each(|operation| self.apply(operation));
            }
            holds
        };
        let applied = batches.iter().map(apply).collect();
        failure.map_or(Ok(applied), Err)
    }

    fn scan(&self, prefix: &str, _: Option<&str>) -> Result<KeyPage, StorageError> {
        self.call("scan", []);
        if let Some(error) = self.failure(&[]) {
            return Err(error);
        }
        let values = self.shared.values.borrow();
        let indexes = self.shared.indexes.borrow();
        let keys =
            values.keys().chain(indexes.keys()).filter(|key| key.starts_with(prefix)).cloned().collect();
        Ok(KeyPage { keys, next_cursor: None })
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        !self.shared.is_cluster.get() || hash_tag(prefix) != prefix
    }

    fn supports(&self, capability: &str) -> bool {
        ["conditions", "atomic-commit", "expiry"].contains(&capability)
            && self.shared.lacks.get() != Some(capability)
    }
}

/// Returns the part of a key that determines its slot: the hash tag or the whole key.
fn hash_tag(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// Returns all keys of a batch.
fn keys_of(batch: &Batch) -> Vec<&str> {
    let mut keys = Vec::new();
    for condition in batch.conditions.iter().flatten() {
        match condition {
            Condition::Absent(key) => keys.push(key.as_str()),
            Condition::StartsWith(wanted) => keys.push(&wanted.key),
            Condition::IndexHas(wanted) => keys.push(&wanted.index),
            Condition::IndexSizeAtMost(most) => keys.push(&most.index),
            Condition::IndexMax(wanted) => keys.extend([wanted.index.as_str(), &wanted.value_key_prefix]),
        }
    }
    for operation in &batch.operations {
        keys.push(match operation {
            Operation::Put(put) => &put.key,
            Operation::Delete(key) => key,
            Operation::IndexPut(put) => &put.index,
            Operation::IndexDelete(entry) => &entry.index,
            Operation::Expire(expire) => &expire.key,
        });
    }
    keys
}
