//! The guest's logic compiled natively over a store of the host, without the
//! sandbox.
//!
//! Host and guest have separate types, generated from the same WIT. All
//! conversions between them are here.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use checkpointer::store as host;
use checkpointer::{
    Checkpoint, Conflict, Error, ExtraMember, Layout, Metadata, Run, SaveOutcome, StorageError,
};
use checkpointer_guest::{self as guest, keyvalue};
use tokio::runtime::{Handle, Runtime};

/// Blocks the calling thread until a future is ready.
pub trait BlockOn {
    /// Returns the output of the future.
    fn block_on<F: Future>(&self, future: F) -> F::Output;
}

impl BlockOn for Handle {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        Handle::block_on(self, future)
    }
}

impl BlockOn for &Runtime {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        Runtime::block_on(self, future)
    }
}

/// A store of the host as the guest's [`keyvalue::Keyvalue`]. Its calls block, so
/// they must not be made on a thread of the runtime.
pub struct BlockingStore<R> {
    /// The store.
    pub store: Arc<dyn host::Store>,
    /// The runtime that drives the store.
    pub runtime: R,
}

impl<R: BlockOn> BlockingStore<R> {
    fn wait<T>(
        &self,
        call: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, keyvalue::StorageError> {
        self.runtime.block_on(call).map_err(guest_storage_error)
    }
}

impl<R: BlockOn> keyvalue::Keyvalue for BlockingStore<R> {
    fn get(
        &self,
        keys: &[String],
        max_value_bytes: Option<u32>,
    ) -> Result<Vec<keyvalue::Value>, keyvalue::StorageError> {
        let values = self.wait(self.store.get(keys.to_vec(), max_value_bytes))?;
        Ok(values.into_iter().map(value).collect())
    }

    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<keyvalue::Expiry>>, keyvalue::StorageError> {
        let expiry = |expiry| match expiry {
            host::Expiry::Never => keyvalue::Expiry::Never,
            host::Expiry::AfterMs(milliseconds) => keyvalue::Expiry::AfterMs(milliseconds),
        };
        let ttls = self.wait(self.store.ttl(keys.to_vec()))?;
        Ok(ttls.into_iter().map(|ttl| ttl.map(expiry)).collect())
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
            max_value_bytes: query.max_value_bytes,
            with_next: query.with_next,
            with_count: query.with_count,
        };
        let page = self.wait(self.store.range(query))?;
        let entries = page.entries.into_iter().map(|entry| keyvalue::Entry {
            member: entry.member,
            score: entry.score,
            value: value(entry.value),
        });
        Ok(keyvalue::IndexPage {
            entries: entries.collect(),
            next: page.next.map(|next| keyvalue::Position { score: next.score, member: next.member }),
            count: page.count,
        })
    }

    fn commit(&self, batches: &[keyvalue::Batch]) -> Result<Vec<bool>, keyvalue::StorageError> {
        let batches = batches.iter().map(|batch| host::Batch {
            conditions: batch.conditions.iter().map(|any| any.iter().map(condition).collect()).collect(),
            operations: batch.operations.iter().map(operation).collect(),
        });
        self.wait(self.store.commit(batches.collect()))
    }

    fn scan(&self, prefix: &str, cursor: Option<&str>) -> Result<keyvalue::KeyPage, keyvalue::StorageError> {
        let page = self.wait(self.store.scan(prefix.to_owned(), cursor.map(str::to_owned)))?;
        Ok(keyvalue::KeyPage { keys: page.keys, next_cursor: page.next_cursor })
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.store.is_colocated(prefix)
    }

    fn supports(&self, capability: &str) -> bool {
        self.store.supports(capability)
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
        keyvalue::Condition::StartsWith(prefix) => {
            host::Condition::StartsWith(host::ValuePrefix { key: prefix.key, text: prefix.text })
        }
        keyvalue::Condition::IndexHas(entry) => host::Condition::IndexHas(index_member(entry)),
        keyvalue::Condition::IndexSizeAtMost(size) => {
            host::Condition::IndexSizeAtMost(host::IndexSize { index: size.index, size: size.size })
        }
        keyvalue::Condition::IndexMax(max) => host::Condition::IndexMax(host::IndexMax {
            index: max.index,
            value_key_prefix: max.value_key_prefix,
            excluding: max.excluding,
            member: max.member,
            upper_bound: position(&max.upper_bound),
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
        keyvalue::Operation::IndexDelete(entry) => host::Operation::IndexDelete(index_member(entry)),
        keyvalue::Operation::Expire(expire) => host::Operation::Expire(host::Expire {
            key: expire.key,
            expiry: expiry(expire.expiry),
            mode: match expire.mode {
                keyvalue::ExpireMode::Set => host::ExpireMode::Set,
                keyvalue::ExpireMode::ExtendOnly => host::ExpireMode::ExtendOnly,
            },
        }),
    }
}

fn index_member(entry: keyvalue::IndexMember) -> host::IndexMember {
    host::IndexMember { index: entry.index, member: entry.member }
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

/// The reasons of host and guest, in pairs.
const REASONS: [(host::StorageReason, keyvalue::StorageReason); 11] = {
    use host::StorageReason as Host;
    use keyvalue::StorageReason as Guest;
    [
        (Host::NoSuchBucket, Guest::NoSuchBucket),
        (Host::AccessDenied, Guest::AccessDenied),
        (Host::InvalidArgument, Guest::InvalidArgument),
        (Host::Unsupported, Guest::Unsupported),
        (Host::TooLarge, Guest::TooLarge),
        (Host::WrongType, Guest::WrongType),
        (Host::Full, Guest::Full),
        (Host::ReadOnly, Guest::ReadOnly),
        (Host::Unavailable, Guest::Unavailable),
        (Host::Timeout, Guest::Timeout),
        (Host::Other, Guest::Other),
    ]
};

fn guest_storage_error(error: StorageError) -> keyvalue::StorageError {
    let reason = REASONS.iter().find(|(host, _)| *host == error.reason);
    keyvalue::StorageError {
        reason: reason.expect("a reason of the WIT").1,
        effect: match error.effect {
            host::Effect::None => keyvalue::Effect::None,
            host::Effect::Unknown => keyvalue::Effect::Unknown,
        },
        message: error.message,
    }
}

fn storage_error(error: keyvalue::StorageError) -> StorageError {
    let reason = REASONS.iter().find(|(_, guest)| *guest == error.reason);
    let effect = match error.effect {
        keyvalue::Effect::None => host::Effect::None,
        keyvalue::Effect::Unknown => host::Effect::Unknown,
    };
    StorageError::new(reason.expect("a reason of the WIT").0, effect, error.message)
}

pub(crate) fn error(error: guest::Error) -> Error {
    match error {
        guest::Error::InvalidArgument(message) => Error::InvalidArgument(message),
        guest::Error::Conflict(guest::Conflict::IdInUse(conflict)) => {
            let guest::IdConflict { checkpoint_id, reason } = conflict;
            Error::Conflict(Conflict::IdInUse { checkpoint_id, reason })
        }
        guest::Error::Conflict(guest::Conflict::NotLatest(actual)) => {
            Error::Conflict(Conflict::NotLatest { actual })
        }
        guest::Error::Corrupt(guest::Unreadable { checkpoint_id, reason }) => {
            Error::Corrupt { checkpoint_id, reason }
        }
        guest::Error::TooLarge(guest::SizeExcess { size, limit }) => Error::TooLarge { size, limit },
        guest::Error::Storage(error) => Error::Storage(storage_error(error)),
    }
}

pub(crate) fn guest_layout(layout: Layout) -> guest::Layout {
    match layout {
        Layout::Llmfy => guest::Layout::Llmfy,
        Layout::Partitioned => guest::Layout::Partitioned,
        other => panic!("the guest has no layout {other:?}"),
    }
}

/// Converts a checkpoint of the host.
pub fn guest_checkpoint(checkpoint: Checkpoint) -> guest::Checkpoint {
    let Checkpoint { metadata, state, .. } = checkpoint;
    let Metadata { session_id, checkpoint_id, timestamp, node, step, run, extra, .. } = metadata;
    let run = run.map(|run| guest::Run {
        run_id: run.run_id,
        prev_node: run.prev_node,
        updated_fields: run.updated_fields,
        attempt: run.attempt,
        dispatch_id: run.dispatch_id,
    });
    let extra = extra.into_iter().map(|member| guest::NamedValue { name: member.name, value: member.value });
    let (timestamp, extra) = (timestamp.to_string(), extra.collect());
    guest::Checkpoint {
        metadata: guest::Metadata { session_id, checkpoint_id, timestamp, node, step, run, extra },
        state,
    }
}

pub(crate) fn metadata(metadata: guest::Metadata) -> Metadata {
    let run = metadata.run.map(|run| {
        let mut converted = Run::new(run.run_id);
        converted.prev_node = run.prev_node;
        converted.updated_fields = run.updated_fields;
        converted.attempt = run.attempt;
        converted.dispatch_id = run.dispatch_id;
        converted
    });
    let timestamp: checkpointer::Timestamp = metadata.timestamp.parse().expect("a stored timestamp");
    let mut converted = Metadata::new(metadata.session_id, metadata.checkpoint_id)
        .timestamp(timestamp)
        .node(metadata.node)
        .step(metadata.step);
    converted.run = run;
    converted.extra =
        metadata.extra.into_iter().map(|member| ExtraMember::new(member.name, member.value)).collect();
    converted
}

pub(crate) fn checkpoint(checkpoint: guest::Checkpoint) -> Checkpoint {
    Checkpoint::new(metadata(checkpoint.metadata), checkpoint.state)
}

pub(crate) fn outcome(outcome: guest::SaveOutcome) -> SaveOutcome {
    match outcome {
        guest::SaveOutcome::Latest => SaveOutcome::Latest,
        guest::SaveOutcome::NotLatest(newer) => SaveOutcome::NotLatest {
            latest_id: newer.checkpoint_id,
            ahead: Duration::from_micros(newer.ahead_us),
        },
        guest::SaveOutcome::Pruned => SaveOutcome::Pruned,
    }
}

pub(crate) fn unreadable(unreadable: Vec<checkpointer::Unreadable>) -> Vec<guest::Unreadable> {
    let unreadable = unreadable.into_iter();
    unreadable.map(|it| guest::Unreadable { checkpoint_id: it.checkpoint_id, reason: it.reason }).collect()
}

pub(crate) fn raw_history(history: checkpointer::RawHistory) -> guest::RawHistory {
    guest::RawHistory { documents: history.documents, unreadable: unreadable(history.unreadable) }
}

pub(crate) fn scan_page(page: checkpointer::ScanPage) -> guest::ScanPage {
    let entry = |entry: checkpointer::ScanEntry| guest::ScanEntry {
        session_id: entry.session_id,
        checkpoint_id: entry.checkpoint_id,
        expires_in_ms: entry.expires_in.map(|ttl| ttl.as_millis() as u64),
    };
    guest::ScanPage {
        checkpoints: page.checkpoints.into_iter().map(entry).collect(),
        unreadable: unreadable(page.unreadable),
        pinned_sessions: page.pinned_sessions,
        next_cursor: page.next_cursor,
    }
}

pub(crate) fn document_dump(dump: checkpointer::DocumentDump) -> guest::DocumentDump {
    guest::DocumentDump {
        document: dump.document,
        expires_in_ms: dump.expires_in.map(|ttl| ttl.as_millis() as u64),
    }
}
