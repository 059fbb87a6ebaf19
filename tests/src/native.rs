//! The guest's logic over a host's store, compiled natively: the same code
//! without the sandbox. The types of both sides are made from the same WIT, so
//! what is here only carries them over.

use std::sync::Arc;

use checkpointer::store as host;
use checkpointer_guest::keyvalue as guest;
use tokio::runtime::Handle;

/// A store as the guest's seam wants it: its calls block, so they must not be
/// made on a thread of the runtime.
pub struct Blocking {
    /// The store.
    pub store: Arc<dyn host::Store>,
    /// The runtime that it needs.
    pub runtime: Handle,
}

impl guest::Keyvalue for Blocking {
    fn get(&self, keys: &[String], max_value_bytes: Option<u32>) -> Result<Vec<guest::Value>, guest::StorageError> {
        let values = self.runtime.block_on(self.store.get(keys.to_vec(), max_value_bytes)).map_err(error)?;
        Ok(values.into_iter().map(value).collect())
    }

    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<guest::Expiry>>, guest::StorageError> {
        let lives = self.runtime.block_on(self.store.ttl(keys.to_vec())).map_err(error)?;
        let expiry = |expiry| match expiry {
            host::Expiry::Never => guest::Expiry::Never,
            host::Expiry::AfterMs(milliseconds) => guest::Expiry::AfterMs(milliseconds),
        };
        Ok(lives.into_iter().map(|life| life.map(expiry)).collect())
    }

    fn range(&self, query: &guest::Query) -> Result<guest::IndexPage, guest::StorageError> {
        let query = host::Query {
            index: query.index.clone(),
            order: match query.order {
                guest::Order::Ascending => host::Order::Ascending,
                guest::Order::Descending => host::Order::Descending,
            },
            after: query
                .after
                .as_ref()
                .map(|after| host::Position { score: after.score, member: after.member.clone() }),
            limit: query.limit,
            value_key_prefix: query.value_key_prefix.clone(),
            head: query.max_value_bytes,
            with_next: query.with_next,
            counted: query.with_count,
        };
        let page = self.runtime.block_on(self.store.range(query)).map_err(error)?;
        let entries = page.entries.into_iter();
        Ok(guest::IndexPage {
            entries: entries
                .map(|entry| guest::Entry {
                    member: entry.member,
                    score: entry.score,
                    value: value(entry.value),
                })
                .collect(),
            next: page.next.map(|next| guest::Position { score: next.score, member: next.member }),
            size: page.size,
        })
    }

    fn commit(&self, batches: &[guest::Batch]) -> Result<Vec<bool>, guest::StorageError> {
        let batches = batches.iter().map(batch).collect();
        self.runtime.block_on(self.store.commit(batches)).map_err(error)
    }

    fn scan(&self, prefix: &str, after: Option<&str>) -> Result<guest::KeyPage, guest::StorageError> {
        let page = self.runtime.block_on(self.store.scan(prefix.to_owned(), after.map(str::to_owned)));
        page.map(|page| guest::KeyPage { keys: page.keys, next: page.next }).map_err(error)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.store.is_colocated(prefix)
    }
}

fn value(value: host::Value) -> guest::Value {
    match value {
        host::Value::Absent => guest::Value::Absent,
        host::Value::Text(text) => guest::Value::Text(text),
        host::Value::Truncated(text) => guest::Value::Truncated(text),
        host::Value::Unreadable(what) => guest::Value::Unreadable(what),
    }
}

fn batch(batch: &guest::Batch) -> host::Batch {
    let alternatives = |any: &Vec<guest::Condition>| any.iter().map(condition).collect();
    host::Batch {
        conditions: batch.conditions.iter().map(alternatives).collect(),
        operations: batch.operations.iter().map(operation).collect(),
    }
}

fn condition(condition: &guest::Condition) -> host::Condition {
    match condition.clone() {
        guest::Condition::Absent(key) => host::Condition::Absent(key),
        guest::Condition::StartsWith(wanted) => {
            host::Condition::StartsWith(host::ValuePrefix { key: wanted.key, text: wanted.text })
        }
        guest::Condition::IndexSizeAtMost(most) => {
            host::Condition::IndexSizeAtMost(host::IndexSize { index: most.index, size: most.size })
        }
        guest::Condition::IndexMax(wanted) => host::Condition::IndexMax(host::IndexMax {
            index: wanted.index,
            value_key_prefix: wanted.value_key_prefix,
            excluding: wanted.excluding,
            member: wanted.member,
            upper_bound: host::Position { score: wanted.upper_bound.score, member: wanted.upper_bound.member },
        }),
        guest::Condition::IndexHas(wanted) => host::Condition::IndexHas(index_member(wanted)),
    }
}

fn operation(operation: &guest::Operation) -> host::Operation {
    match operation.clone() {
        guest::Operation::Put(put) => {
            host::Operation::Put(host::Put { key: put.key, value: put.value, expiry: expiry(put.expiry) })
        }
        guest::Operation::Delete(key) => host::Operation::Delete(key),
        guest::Operation::IndexPut(put) => host::Operation::IndexPut(host::IndexPut {
            index: put.index,
            member: put.member,
            score: put.score,
            expiry: expiry(put.expiry),
        }),
        guest::Operation::IndexDelete(gone) => host::Operation::IndexDelete(index_member(gone)),
        guest::Operation::Expire(expire) => host::Operation::Expire(host::Expire {
            key: expire.key,
            expiry: expiry(expire.expiry),
            shorten: expire.shorten,
        }),
    }
}

fn index_member(member: guest::IndexMember) -> host::IndexMember {
    host::IndexMember { index: member.index, member: member.member }
}

fn expiry(expiry: guest::Expiry) -> host::Expiry {
    match expiry {
        guest::Expiry::Never => host::Expiry::Never,
        guest::Expiry::AfterMs(milliseconds) => host::Expiry::AfterMs(milliseconds),
    }
}

fn error(error: host::StorageError) -> guest::StorageError {
    guest::StorageError {
        reason: match error.reason {
            host::StorageReason::NoSuchBucket => guest::StorageReason::NoSuchBucket,
            host::StorageReason::AccessDenied => guest::StorageReason::AccessDenied,
            host::StorageReason::InvalidArgument => guest::StorageReason::InvalidArgument,
            host::StorageReason::Unsupported => guest::StorageReason::Unsupported,
            host::StorageReason::TooLarge => guest::StorageReason::TooLarge,
            host::StorageReason::WrongType => guest::StorageReason::WrongType,
            host::StorageReason::Full => guest::StorageReason::Full,
            host::StorageReason::ReadOnly => guest::StorageReason::ReadOnly,
            host::StorageReason::Unavailable => guest::StorageReason::Unavailable,
            host::StorageReason::Timeout => guest::StorageReason::Timeout,
            host::StorageReason::Other => guest::StorageReason::Other,
        },
        effect: match error.effect {
            host::Effect::None => guest::Effect::None,
            host::Effect::Unknown => guest::Effect::Unknown,
        },
        message: error.message,
    }
}
