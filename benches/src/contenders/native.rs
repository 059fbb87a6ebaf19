//! The guest's logic compiled natively over the same stores: what is left is
//! the price of the sandbox alone.
//!
//! The logic is synchronous, the stores are not. In the component the one is
//! tied to the other by a fiber; here each call of a store is one `block_on`,
//! on a runtime whose only thread is the caller's. No thread is handed anything
//! and nothing is spawned: the future is polled where it is, and what drives the
//! connection runs within the same `block_on`. That is as cheap as it gets, and
//! the others pay for one `block_on` a call too.
//!
//! Both sides' types are made from the same WIT, so what is here only carries
//! them over. It moves what it may; what the guest lends it has to copy, once,
//! as every store that is given a document would have to.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use checkpointer::DEFAULT_PREFIX;
use checkpointer::store::{self as host, Address};
use checkpointer_guest::{self as guest, keyvalue};
use tokio::runtime::Runtime;

/// The guest's checkpointer over a store.
pub struct Native<'a> {
    checkpointer: guest::Checkpointer<Direct<'a>>,
}

impl<'a> Native<'a> {
    /// Opens one over the store at `address`.
    ///
    /// # Errors
    /// The store can't be opened.
    pub fn open(runtime: &'a Runtime, address: &str) -> Result<Self> {
        let address: Address = address.parse()?;
        let store = runtime.block_on(address.open()).map_err(|error| anyhow!("{error:?}"))?;
        let options = guest::Options {
            bucket: "default".to_owned(),
            prefix: DEFAULT_PREFIX.to_owned(),
            layout: guest::Layout::Llmfy,
            ttl: None,
            max_state_bytes: None,
            compress: false,
            max_checkpoints: None,
        };
        let checkpointer = guest::Checkpointer::open(Direct { store, runtime }, &options);
        Ok(Self { checkpointer: checkpointer.map_err(failed)? })
    }

    /// Saves a checkpoint.
    ///
    /// # Errors
    /// It is not saved.
    pub fn save(&self, checkpoint: guest::Checkpoint) -> Result<guest::Outcome> {
        self.checkpointer.save(checkpoint).map_err(failed)
    }

    /// Loads the latest checkpoint of a session.
    ///
    /// # Errors
    /// There is none.
    pub fn load(&self, session: &str) -> Result<guest::Checkpoint> {
        self.find(session)?.context("no checkpoint")
    }

    /// The latest checkpoint of a session, if there is one.
    ///
    /// # Errors
    /// The store fails.
    pub fn find(&self, session: &str) -> Result<Option<guest::Checkpoint>> {
        self.checkpointer.load(session, None).map_err(failed)
    }

    /// Lists the newest checkpoints of a session.
    ///
    /// # Errors
    /// There are not so many.
    pub fn list(&self, session: &str, limit: u32) -> Result<guest::History> {
        let history = self.checkpointer.list(session, Some(limit)).map_err(failed)?;
        ensure!(history.checkpoints.len() == limit as usize, "{} checkpoints", history.checkpoints.len());
        Ok(history)
    }
}

/// The library's checkpoint, as the guest has it.
pub fn checkpoint(checkpoint: checkpointer::Checkpoint) -> guest::Checkpoint {
    let checkpointer::Checkpoint { metadata, state } = checkpoint;
    guest::Checkpoint {
        metadata: guest::Metadata {
            session_id: metadata.session_id,
            checkpoint_id: metadata.checkpoint_id,
            timestamp: metadata.timestamp,
            node: metadata.node,
            step: metadata.step,
            run: metadata.run.map(|run| guest::Run {
                run_id: run.run_id,
                prev_node: run.prev_node,
                updated_fields: run.updated_fields,
                attempt: run.attempt,
                dispatch_id: run.dispatch_id,
            }),
        },
        state,
    }
}

fn failed(error: guest::Error) -> anyhow::Error {
    anyhow!("{error:?}")
}

/// A store as the guest's seam wants it.
struct Direct<'a> {
    store: Arc<dyn host::Store>,
    runtime: &'a Runtime,
}

impl keyvalue::Keyvalue for Direct<'_> {
    fn get(
        &self,
        keys: &[String],
        max_value_bytes: Option<u32>,
    ) -> Result<Vec<keyvalue::Value>, keyvalue::StorageError> {
        let values = self.runtime.block_on(self.store.get(keys.to_vec(), max_value_bytes)).map_err(error)?;
        Ok(values.into_iter().map(value).collect())
    }

    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<keyvalue::Expiry>>, keyvalue::StorageError> {
        let lives = self.runtime.block_on(self.store.ttl(keys.to_vec())).map_err(error)?;
        let expiry = |life| match life {
            host::Expiry::Never => keyvalue::Expiry::Never,
            host::Expiry::AfterMs(milliseconds) => keyvalue::Expiry::AfterMs(milliseconds),
        };
        Ok(lives.into_iter().map(|life| life.map(expiry)).collect())
    }

    fn range(&self, query: &keyvalue::Query) -> Result<keyvalue::IndexPage, keyvalue::StorageError> {
        let query = host::Query {
            index: query.index.clone(),
            order: match query.order {
                keyvalue::Order::Ascending => host::Order::Ascending,
                keyvalue::Order::Descending => host::Order::Descending,
            },
            after: query.after.as_ref().map(position),
            limit: query.limit,
            value_key_prefix: query.value_key_prefix.clone(),
            head: query.max_value_bytes,
            with_next: query.with_next,
            counted: query.with_count,
        };
        let page = self.runtime.block_on(self.store.range(query)).map_err(error)?;
        let entries = page.entries.into_iter().map(|entry| keyvalue::Entry {
            member: entry.member,
            score: entry.score,
            value: value(entry.value),
        });
        Ok(keyvalue::IndexPage {
            entries: entries.collect(),
            next: page.next.map(|next| keyvalue::Position { score: next.score, member: next.member }),
            size: page.size,
        })
    }

    fn commit(&self, batches: &[keyvalue::Batch]) -> Result<Vec<bool>, keyvalue::StorageError> {
        let batches = batches.iter().map(|batch| host::Batch {
            conditions: batch.conditions.iter().map(|any| any.iter().map(condition).collect()).collect(),
            operations: batch.operations.iter().map(operation).collect(),
        });
        self.runtime.block_on(self.store.commit(batches.collect())).map_err(error)
    }

    fn scan(&self, prefix: &str, after: Option<&str>) -> Result<keyvalue::KeyPage, keyvalue::StorageError> {
        let page = self.runtime.block_on(self.store.scan(prefix.to_owned(), after.map(str::to_owned)));
        page.map(|page| keyvalue::KeyPage { keys: page.keys, next: page.next }).map_err(error)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.store.is_colocated(prefix)
    }
}

fn value(value: host::Value) -> keyvalue::Value {
    match value {
        host::Value::Absent => keyvalue::Value::Absent,
        host::Value::Text(text) => keyvalue::Value::Text(text),
        host::Value::Truncated(text) => keyvalue::Value::Truncated(text),
        host::Value::Unreadable(what) => keyvalue::Value::Unreadable(what),
    }
}

fn condition(condition: &keyvalue::Condition) -> host::Condition {
    match condition.clone() {
        keyvalue::Condition::Absent(key) => host::Condition::Absent(key),
        keyvalue::Condition::StartsWith(wanted) => {
            host::Condition::StartsWith(host::ValuePrefix { key: wanted.key, text: wanted.text })
        }
        keyvalue::Condition::IndexHas(wanted) => host::Condition::IndexHas(member(wanted)),
        keyvalue::Condition::IndexSizeAtMost(most) => {
            host::Condition::IndexSizeAtMost(host::IndexSize { index: most.index, size: most.size })
        }
        keyvalue::Condition::IndexMax(wanted) => host::Condition::IndexMax(host::IndexMax {
            index: wanted.index,
            value_key_prefix: wanted.value_key_prefix,
            excluding: wanted.excluding,
            member: wanted.member,
            upper_bound: position(&wanted.upper_bound),
        }),
    }
}

fn operation(operation: &keyvalue::Operation) -> host::Operation {
    match operation.clone() {
        keyvalue::Operation::Put(put) => {
            host::Operation::Put(host::Put { key: put.key, value: put.value, expiry: expiry(put.expiry) })
        }
        keyvalue::Operation::Delete(key) => host::Operation::Delete(key),
        keyvalue::Operation::IndexPut(put) => host::Operation::IndexPut(host::IndexPut {
            index: put.index,
            member: put.member,
            score: put.score,
            expiry: expiry(put.expiry),
        }),
        keyvalue::Operation::IndexDelete(gone) => host::Operation::IndexDelete(member(gone)),
        keyvalue::Operation::Expire(expire) => host::Operation::Expire(host::Expire {
            key: expire.key,
            expiry: expiry(expire.expiry),
            shorten: expire.shorten,
        }),
    }
}

fn member(member: keyvalue::IndexMember) -> host::IndexMember {
    host::IndexMember { index: member.index, member: member.member }
}

fn position(position: &keyvalue::Position) -> host::Position {
    host::Position { score: position.score, member: position.member.clone() }
}

fn expiry(expiry: keyvalue::Expiry) -> host::Expiry {
    match expiry {
        keyvalue::Expiry::Never => host::Expiry::Never,
        keyvalue::Expiry::AfterMs(milliseconds) => host::Expiry::AfterMs(milliseconds),
    }
}

/// No work has an error of a store as its end, so its words are enough.
fn error(error: host::StorageError) -> keyvalue::StorageError {
    keyvalue::StorageError {
        reason: keyvalue::StorageReason::Other,
        effect: keyvalue::Effect::Unknown,
        message: format!("{:?}: {}", error.reason, error.message),
    }
}
