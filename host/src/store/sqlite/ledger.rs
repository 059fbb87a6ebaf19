//! The ledgers of quotas: the recorded usage of each key, and the totals.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::super::Operation;
use super::super::quota::{Quota, RECONCILE_PAGE, Usage, resized_key};
use super::{SqliteError, index_id, size_of};

/// The change of usage by one commit.
pub(super) struct UsageDelta<'a> {
    quota: &'a Quota,
    /// The usage of each key before the commit.
    before: BTreeMap<&'a str, Usage>,
}

impl<'a> UsageDelta<'a> {
    pub(super) fn new(quota: &'a Quota) -> Self {
        Self { quota, before: BTreeMap::new() }
    }

    /// Notes the usage of the key that `operation` is about to change.
    pub(super) fn before(
        &mut self,
        transaction: &Transaction<'_>,
        operation: &'a Operation,
        now: i64,
    ) -> rusqlite::Result<()> {
        if let Some(key) = resized_key(operation)
            && !self.before.contains_key(key)
        {
            self.before.insert(key, current_usage(transaction, key, now)?);
        }
        Ok(())
    }

    /// Records the usage after the commit in the ledger. If it exceeds the quota,
    /// returns an error, and the transaction must be rolled back.
    pub(super) fn record(self, transaction: &Transaction<'_>, now: i64) -> Result<(), SqliteError> {
        let before = self.before.values().fold(Usage::default(), |sum, usage| sum + *usage);
        let after = record_keys(transaction, &self.quota.ledger, self.before.keys(), now)?;
        let total = total(transaction, &self.quota.ledger)?;
        match self.quota.exceeded(after - before, total) {
            Some(limit) => Err(SqliteError::Store(self.quota.full(limit))),
            None => Ok(()),
        }
    }
}

/// Records the usage of a page of a ledger again. Returns the cursor of the next
/// page.
pub(super) fn reconcile(
    transaction: &Transaction<'_>,
    ledger: &str,
    cursor: Option<&str>,
    now: i64,
) -> rusqlite::Result<Option<String>> {
    let mut keys = transaction
        .prepare_cached(
            "SELECT key FROM checkpointer_ledger_entry
              WHERE ledger = ?1 AND key >= ?2 ORDER BY key LIMIT ?3",
        )?
        .query_map(params![ledger, cursor.unwrap_or_default(), RECONCILE_PAGE + 1], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let next = if keys.len() > RECONCILE_PAGE as usize { keys.pop() } else { None };
    record_keys(transaction, ledger, &keys, now)?;
    Ok(next)
}

/// Records the current usage of each key in the ledger. Returns the sum.
fn record_keys(
    transaction: &Transaction<'_>,
    ledger: &str,
    keys: impl IntoIterator<Item = impl AsRef<str>>,
    now: i64,
) -> rusqlite::Result<Usage> {
    let (mut sum, mut growth) = (Usage::default(), Usage::default());
    for key in keys {
        let key = key.as_ref();
        let current = current_usage(transaction, key, now)?;
        let recorded = recorded_usage(transaction, ledger, key)?;
        if current != recorded {
            record(transaction, ledger, key, current)?;
        }
        sum = sum + current;
        growth = growth + (current - recorded);
    }
    if growth != Usage::default() {
        transaction
            .prepare_cached(
                "INSERT INTO checkpointer_ledger (ledger, value_count, bytes) VALUES (?1, ?2, ?3)
                 ON CONFLICT (ledger) DO UPDATE SET value_count = value_count + ?2, bytes = bytes + ?3",
            )?
            .execute(params![ledger, growth.values, growth.bytes])?;
    }
    Ok(sum)
}

/// The usage of a key now.
fn current_usage(transaction: &Transaction<'_>, key: &str, now: i64) -> rusqlite::Result<Usage> {
    let value = transaction
        .prepare_cached(
            "SELECT octet_length(value) FROM checkpointer_value
              WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
        )?
        .query_row(params![key, now], |row| row.get(0))
        .optional()?;
    if let Some(bytes) = value {
        return Ok(Usage::of_value(key, bytes));
    }
    match index_id(transaction, key, now)? {
        Some(index) => Ok(Usage::of_index(key, size_of(transaction, index)?)),
        None => Ok(Usage::default()),
    }
}

/// The usage of a key as the ledger has it.
fn recorded_usage(transaction: &Transaction<'_>, ledger: &str, key: &str) -> rusqlite::Result<Usage> {
    let recorded = transaction
        .prepare_cached(
            "SELECT value_count, bytes FROM checkpointer_ledger_entry WHERE ledger = ?1 AND key = ?2",
        )?
        .query_row([ledger, key], usage)
        .optional()?;
    Ok(recorded.unwrap_or_default())
}

fn total(transaction: &Transaction<'_>, ledger: &str) -> rusqlite::Result<Usage> {
    let total = transaction
        .prepare_cached("SELECT value_count, bytes FROM checkpointer_ledger WHERE ledger = ?1")?
        .query_row([ledger], usage)
        .optional()?;
    Ok(total.unwrap_or_default())
}

fn usage(row: &Row<'_>) -> rusqlite::Result<Usage> {
    Ok(Usage { values: row.get(0)?, bytes: row.get(1)? })
}

fn record(transaction: &Transaction<'_>, ledger: &str, key: &str, usage: Usage) -> rusqlite::Result<()> {
    if usage == Usage::default() {
        transaction
            .prepare_cached("DELETE FROM checkpointer_ledger_entry WHERE ledger = ?1 AND key = ?2")?
            .execute([ledger, key])?;
        return Ok(());
    }
    transaction
        .prepare_cached(
            "INSERT INTO checkpointer_ledger_entry (ledger, key, value_count, bytes) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (ledger, key) DO UPDATE SET value_count = ?3, bytes = ?4",
        )?
        .execute(params![ledger, key, usage.values, usage.bytes])?;
    Ok(())
}
