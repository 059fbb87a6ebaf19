//! A store of one's own: values and indexes in maps, without expiry.

#![allow(clippy::print_stdout)]

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::store::{
    Batch, Condition, Entry, Expiry, IndexPage, KeyPage, Operation, Order, Position, Query, Store, Value,
};
use checkpointer::{
    Checkpoint, Checkpointer, Conflict, Effect, Layout, Metadata, Run, StorageError, StorageReason,
};

#[derive(Default)]
struct MapStore {
    data: Mutex<Data>,
}

#[derive(Clone, Default)]
struct Data {
    values: BTreeMap<String, String>,
    /// The members of each index, with their scores.
    indexes: BTreeMap<String, BTreeMap<String, f64>>,
}

#[async_trait]
impl Store for MapStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        let data = self.lock();
        Ok(keys.iter().map(|key| data.value(key, max_value_bytes)).collect())
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        let data = self.lock();
        let exists = |key| data.values.contains_key(key) || data.indexes.contains_key(key);
        Ok(keys.iter().map(|key| exists(key).then_some(Expiry::Never)).collect())
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        let data = self.lock();
        let mut positions = data.positions(&query.index)?;
        if query.order == Order::Descending {
            positions.reverse();
        }
        let count = positions.len() as u64;
        if let Some(after) = &query.after {
            let start = if query.order == Order::Ascending { Ordering::Greater } else { Ordering::Less };
            positions.retain(|position| compare(position, after) == start);
        }
        let has_more = positions.len() > query.limit as usize;
        positions.truncate(query.limit as usize);
        let next = positions.last().filter(|_| has_more && query.with_next).cloned();
        let entries = positions.into_iter().map(|Position { score, member }| Entry {
            value: data.value(&format!("{}{member}", query.value_key_prefix), query.max_value_bytes),
            score: query.with_next.then_some(score),
            member,
        });
        Ok(IndexPage { entries: entries.collect(), next, count: query.with_count.then_some(count) })
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        let mut data = self.lock();
        // All batches change a copy, so that an error leaves the store as it was.
        let mut changed = data.clone();
        let mut applied = Vec::new();
        for batch in batches {
            let holds = changed.all_hold(&batch.conditions)?;
            if holds {
                batch.operations.into_iter().try_for_each(|operation| changed.apply(operation))?;
            }
            applied.push(holds);
        }
        *data = changed;
        Ok(applied)
    }

    async fn scan(&self, prefix: String, _: Option<String>) -> Result<KeyPage, StorageError> {
        let data = self.lock();
        let keys = data.values.keys().chain(data.indexes.keys()).filter(|key| key.starts_with(&prefix));
        Ok(KeyPage { keys: keys.cloned().collect(), next_cursor: None })
    }

    fn supports(&self, capability: &str) -> bool {
        matches!(capability, "conditions" | "atomic-commit")
    }
}

impl MapStore {
    fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    fn value(&self, key: &str, max_bytes: Option<u32>) -> Value {
        match (self.values.get(key), max_bytes) {
            (Some(text), Some(max)) if text.len() > max as usize => {
                Value::Truncated(text[..text.floor_char_boundary(max as usize)].to_owned())
            }
            (Some(text), _) => Value::Text(text.clone()),
            (None, _) if self.indexes.contains_key(key) => Value::Unreadable("an index".to_owned()),
            (None, _) => Value::Absent,
        }
    }

    /// The entries of an index, lowest first.
    fn positions(&self, index: &str) -> Result<Vec<Position>, StorageError> {
        if self.values.contains_key(index) {
            return Err(wrong_type());
        }
        let members = self.indexes.get(index).into_iter().flatten();
        let mut positions: Vec<_> =
            members.map(|(member, score)| Position { score: *score, member: member.clone() }).collect();
        positions.sort_by(compare);
        Ok(positions)
    }

    fn all_hold(&self, conditions: &[Vec<Condition>]) -> Result<bool, StorageError> {
        for alternatives in conditions {
            let mut holds = false;
            for condition in alternatives {
                holds |= self.holds(condition)?;
            }
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds(&self, condition: &Condition) -> Result<bool, StorageError> {
        Ok(match condition {
            Condition::Absent(key) => !self.values.contains_key(key) && !self.indexes.contains_key(key),
            Condition::StartsWith(it) => {
                self.values.get(&it.key).is_some_and(|text| text.starts_with(&it.text))
            }
            Condition::IndexHas(it) => {
                self.positions(&it.index)?.iter().any(|entry| entry.member == it.member)
            }
            Condition::IndexSizeAtMost(it) => self.positions(&it.index)?.len() as u64 <= it.size,
            Condition::IndexMax(it) => {
                let positions = self.positions(&it.index)?;
                let highest = positions.iter().rev().find(|entry| {
                    let key = format!("{}{}", it.value_key_prefix, entry.member);
                    self.values.contains_key(&key) && !it.excluding.contains(&entry.member)
                });
                highest.map(|entry| &entry.member) == it.member.as_ref()
                    && highest.is_none_or(|entry| compare(entry, &it.upper_bound) != Ordering::Greater)
            }
        })
    }

    fn apply(&mut self, operation: Operation) -> Result<(), StorageError> {
        match operation {
            Operation::Put(it) => {
                require_no_expiry(it.expiry)?;
                self.indexes.remove(&it.key);
                self.values.insert(it.key, it.value);
            }
            Operation::Delete(key) => {
                self.values.remove(&key);
                self.indexes.remove(&key);
            }
            Operation::IndexPut(it) => {
                require_no_expiry(it.expiry)?;
                if self.values.contains_key(&it.index) {
                    return Err(wrong_type());
                }
                self.indexes.entry(it.index).or_default().insert(it.member, it.score);
            }
            Operation::IndexDelete(it) => {
                if let Some(members) = self.indexes.get_mut(&it.index) {
                    members.remove(&it.member);
                }
                self.indexes.retain(|_, members| !members.is_empty());
            }
            Operation::Expire(it) => require_no_expiry(it.expiry)?,
        }
        Ok(())
    }
}

/// The order of an index: by score, then by the bytes of the member.
fn compare(left: &Position, right: &Position) -> Ordering {
    let by_score = left.score.partial_cmp(&right.score).unwrap_or(Ordering::Equal);
    by_score.then_with(|| left.member.cmp(&right.member))
}

/// A store without expiry fails: ignoring a TTL would keep a value forever.
fn require_no_expiry(expiry: Expiry) -> Result<(), StorageError> {
    match expiry {
        Expiry::Never => Ok(()),
        Expiry::AfterMs(_) => {
            Err(StorageError::new(StorageReason::Unsupported, Effect::None, "the store has no expiry"))
        }
    }
}

fn wrong_type() -> StorageError {
    StorageError::new(StorageReason::WrongType, Effect::None, "a key holds a text")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = Arc::new(MapStore::default());
    let builder = Checkpointer::builder().layout(Layout::Partitioned).max_checkpoints(3);
    let checkpointer = builder.open_store(store.clone()).await?;
    let checkpoint = |id: &str| {
        let metadata = Metadata::new("session-1", id).run(Run::new("run-1"));
        Checkpoint::new(metadata, format!(r#"{{"id": "{id}"}}"#))
    };

    checkpointer.save_after(checkpoint("1"), None).await?;
    for (id, latest) in [("2", "1"), ("3", "2"), ("4", "3")] {
        checkpointer.save_after(checkpoint(id), Some(latest)).await?;
    }
    let conflict = checkpointer.save_after(checkpoint("5"), Some("1")).await;
    let expected = Conflict::NotLatest { actual: Some("4".to_owned()) };
    assert!(matches!(conflict, Err(checkpointer::Error::Conflict(actual)) if actual == expected));

    let history = checkpointer.list("session-1").await?;
    let ids: Vec<_> = history.checkpoints.iter().map(|it| it.metadata.checkpoint_id.as_str()).collect();
    assert_eq!(ids, ["4", "3", "2"]);
    assert_eq!(checkpointer.scan(None).await?.checkpoints.len(), 3);

    // The component refuses options that need expiry.
    let with_ttl = Checkpointer::builder().ttl(Duration::from_secs(60)).open_store(store).await;
    assert!(matches!(
        with_ttl,
        Err(checkpointer::Error::Storage(error)) if error.reason == StorageReason::Unsupported
    ));

    assert_eq!(checkpointer.delete_session("session-1").await?, 3);
    println!("all operations returned the expected results");
    Ok(())
}
