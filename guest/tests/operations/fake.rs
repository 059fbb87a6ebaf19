//! A store in a few lines of memory, with a clock, and with others who get in
//! between.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use checkpointer_guest::keyvalue::{
    Batch, Condition, Entry, Expire, ExpireMode, Expiry, IndexPage, KeyPage, Keyvalue, Operation, Order, Position, Query,
    StorageError, Value,
};

/// A store with a clock that tests set. Clones share what is in it.
#[derive(Clone, Default)]
pub struct Fake {
    pub shared: Rc<Shared>,
}

/// When something expires, if ever.
pub type Until = Option<u64>;

/// The members of an index with their scores.
pub type Members = BTreeMap<String, f64>;

#[derive(Default)]
pub struct Shared {
    pub now: Cell<u64>,
    pub values: RefCell<BTreeMap<String, (String, Until)>>,
    indexes: RefCell<BTreeMap<String, (Members, Until)>>,
    /// What was asked of the store.
    calls: RefCell<Vec<&'static str>>,
    /// Whether it is spread over many machines, as a Redis Cluster is.
    pub is_spread: Cell<bool>,
    /// What somebody else does just before the next commit.
    interruption: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Fake {
    pub fn value(&self, key: &str) -> Option<String> {
        let values = self.shared.values.borrow();
        let (value, until) = values.get(key)?;
        until.is_none_or(|until| until > self.shared.now.get()).then(|| value.clone())
    }

    pub fn members(&self, index: &str) -> Members {
        let indexes = self.shared.indexes.borrow();
        let Some((members, until)) = indexes.get(index) else { return Members::new() };
        if until.is_none_or(|until| until > self.shared.now.get()) {
            members.clone()
        } else {
            BTreeMap::new()
        }
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
                let at_most = &wanted.upper_bound;
                highest.as_ref().map(|(member, _)| member) == wanted.member.as_ref()
                    && highest.is_none_or(|(a, x)| (x, &a) <= (at_most.score, &at_most.member))
            }
            Condition::IndexSizeAtMost(most) => self.members(&most.index).len() as u64 <= most.size,
            Condition::IndexHas(wanted) => self.members(&wanted.index).contains_key(&wanted.member),
        }
    }

    fn until(&self, expiry: Expiry) -> Option<u64> {
        match expiry {
            Expiry::Never => None,
            Expiry::AfterMs(milliseconds) => Some(self.shared.now.get() + milliseconds),
        }
    }

    fn apply(&self, operation: &Operation) {
        match operation {
            Operation::Put(put) => {
                let value = (put.value.clone(), self.until(put.expiry));
                self.shared.values.borrow_mut().insert(put.key.clone(), value);
            }
            Operation::Delete(key) => drop(self.shared.values.borrow_mut().remove(key)),
            Operation::IndexPut(put) => {
                let mut members = self.members(&put.index);
                let new = members.is_empty();
                members.insert(put.member.clone(), put.score);
                let mut indexes = self.shared.indexes.borrow_mut();
                let mut until = indexes.get(&put.index).and_then(|(_, until)| *until);
                self.expire(&mut until, put.expiry, new);
                indexes.insert(put.index.clone(), (members, until));
            }
            Operation::IndexDelete(gone) => {
                let mut indexes = self.shared.indexes.borrow_mut();
                if let Some((members, _)) = indexes.get_mut(&gone.index) {
                    members.remove(&gone.member);
                    if members.is_empty() {
                        indexes.remove(&gone.index);
                    }
                }
            }
            Operation::Expire(expire) => {
                let (there, Expire { key, expiry, mode }) = (self.value(&expire.key).is_some(), expire);
                let shorten = *mode == ExpireMode::Set;
                match self.shared.values.borrow_mut().get_mut(key) {
                    Some((_, until)) if there => self.expire(until, *expiry, shorten),
                    _ => {}
                }
                if let (false, Some((_, until))) =
                    (self.members(key).is_empty(), self.shared.indexes.borrow_mut().get_mut(key))
                {
                    self.expire(until, *expiry, shorten);
                }
            }
        }
    }

    fn expire(&self, until: &mut Until, expiry: Expiry, shorten: bool) {
        *until = match (*until, self.until(expiry)) {
            (_, new) if shorten => new,
            (Some(old), Some(new)) => Some(old.max(new)),
            (None, _) | (_, None) => None,
        };
    }

    /// Notes a call, which must not touch keys on different machines.
    fn call<'a>(&self, name: &'static str, keys: impl IntoIterator<Item = &'a str>) {
        self.shared.calls.borrow_mut().push(name);
        let mut keys = keys.into_iter();
        let Some(first) = keys.next().filter(|_| self.shared.is_spread.get()) else { return };
        for other in keys {
            assert_eq!(hash_tag(other), hash_tag(first), "a {name} of {first:?} and {other:?}");
        }
    }

    pub fn calls(&self) -> Vec<&'static str> {
        self.shared.calls.take()
    }

    pub fn interrupt<T>(&self, interruption: impl FnOnce() -> T + 'static) {
        *self.shared.interruption.borrow_mut() = Some(Box::new(|| drop(interruption())));
    }
}

impl Keyvalue for Fake {
    fn get(&self, keys: &[String], max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.call("get", keys.iter().map(String::as_str));
        Ok(keys.iter().map(|key| self.read(key, max_value_bytes)).collect())
    }

    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<Expiry>>, StorageError> {
        self.call("ttl", keys.iter().map(String::as_str));
        let (values, indexes) = (self.shared.values.borrow(), self.shared.indexes.borrow());
        let left = |key: &String| {
            let value = values.get(key).map(|(_, until)| *until);
            match value.or_else(|| indexes.get(key).map(|(_, until)| *until))? {
                None => Some(Expiry::Never),
                Some(until) => {
                    let left = until.checked_sub(self.shared.now.get())?;
                    (left > 0).then_some(Expiry::AfterMs(left))
                }
            }
        };
        Ok(keys.iter().map(left).collect())
    }

    fn range(&self, query: &Query) -> Result<IndexPage, StorageError> {
        self.call("range", [query.index.as_str(), query.value_key_prefix.as_str()]);
        let mut members: Vec<_> = self.members(&query.index).into_iter().collect();
        members.sort_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
        if query.order == Order::Descending {
            members.reverse();
        }
        if let Some(after) = &query.after {
            let behind = |member: &(String, f64)| {
                let order = member.1.total_cmp(&after.score).then_with(|| member.0.cmp(&after.member));
                if query.order == Order::Ascending { order.is_gt() } else { order.is_lt() }
            };
            members.retain(behind);
        }
        let count = query.with_count.then(|| self.members(&query.index).len() as u64);
        let more = members.len() > query.limit as usize;
        members.truncate(query.limit as usize);
        let last = members.last().filter(|_| more && query.with_next);
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
        self.call("commit", batches.iter().flat_map(touched));
        let apply = |batch: &Batch| {
            let holds = batch.conditions.iter().all(|any| any.iter().any(|condition| self.holds(condition)));
            if holds {
                batch.operations.iter().for_each(|operation| self.apply(operation));
            }
            holds
        };
        Ok(batches.iter().map(apply).collect())
    }

    fn scan(&self, prefix: &str, _: Option<&str>) -> Result<KeyPage, StorageError> {
        self.shared.calls.borrow_mut().push("scan");
        let values = self.shared.values.borrow();
        let indexes = self.shared.indexes.borrow();
        let keys =
            values.keys().chain(indexes.keys()).filter(|key| key.starts_with(prefix)).cloned().collect();
        Ok(KeyPage { keys, next_cursor: None })
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        !self.shared.is_spread.get() || hash_tag(prefix) != prefix
    }

    fn supports(&self, capability: &str) -> bool {
        ["conditions", "atomic-commit", "expiry"].contains(&capability)
    }
}

/// What Redis looks at to find the machine of a key: its hash tag, or all of it.
fn hash_tag(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, behind)| behind.split_once('}')).map(|(tag, _)| tag);
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// All keys that a batch names.
fn touched(batch: &Batch) -> Vec<&str> {
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
            Operation::IndexDelete(gone) => &gone.index,
            Operation::Expire(expire) => &expire.key,
        });
    }
    keys
}
