//! The ledgers of quotas: what each key costs that was written within one, and
//! the totals.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::super::Operation;
use super::super::quota::{Holdings, Quota, SETTLE_PAGE, resized};
use super::{Failure, index_id, size_of};

/// What a commit does within a quota, from its first write to its last.
pub(super) struct Account<'a> {
    quota: &'a Quota,
    /// What stood at each key before it was written.
    before: BTreeMap<&'a str, Holdings>,
}

impl<'a> Account<'a> {
    pub(super) fn new(quota: &'a Quota) -> Self {
        Self { quota, before: BTreeMap::new() }
    }

    /// Notes what stands where `operation` is about to write.
    pub(super) fn note(
        &mut self,
        transaction: &Transaction<'_>,
        operation: &'a Operation,
        now: i64,
    ) -> rusqlite::Result<()> {
        if let Some(key) = resized(operation)
            && !self.before.contains_key(key)
        {
            self.before.insert(key, standing(transaction, key, now)?);
        }
        Ok(())
    }

    /// Writes what was done into the ledger, or says that it was too much: then
    /// the transaction must not stand.
    pub(super) fn close(self, transaction: &Transaction<'_>, now: i64) -> Result<(), Failure> {
        let before = self.before.values().fold(Holdings::default(), |sum, one| sum + *one);
        let after = account(transaction, &self.quota.ledger, self.before.keys(), now)?;
        let total = total(transaction, &self.quota.ledger)?;
        match self.quota.exceeded(after - before, total) {
            Some(limit) => Err(Failure::Told(self.quota.full(limit))),
            None => Ok(()),
        }
    }
}

/// Accounts again for a page of a ledger, and says where to go on.
pub(super) fn settle(
    transaction: &Transaction<'_>,
    ledger: &str,
    from: Option<&str>,
    now: i64,
) -> rusqlite::Result<Option<String>> {
    let mut keys = transaction
        .prepare_cached(
            "SELECT key FROM checkpointer_ledger_entry
              WHERE ledger = ?1 AND key >= ?2 ORDER BY key LIMIT ?3",
        )?
        .query_map(params![ledger, from.unwrap_or_default(), SETTLE_PAGE + 1], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let next = if keys.len() > SETTLE_PAGE as usize { keys.pop() } else { None };
    account(transaction, ledger, &keys, now)?;
    Ok(next)
}

/// Notes what stands at each of `keys` now, and gives the sum of that.
fn account(
    transaction: &Transaction<'_>,
    ledger: &str,
    keys: impl IntoIterator<Item = impl AsRef<str>>,
    now: i64,
) -> rusqlite::Result<Holdings> {
    let (mut sum, mut more) = (Holdings::default(), Holdings::default());
    for key in keys {
        let key = key.as_ref();
        let (stands, noted) = (standing(transaction, key, now)?, noted(transaction, ledger, key)?);
        if stands != noted {
            note(transaction, ledger, key, stands)?;
        }
        sum = sum + stands;
        more = more + (stands - noted);
    }
    if more != Holdings::default() {
        transaction
            .prepare_cached(
                "INSERT INTO checkpointer_ledger (ledger, value_count, bytes) VALUES (?1, ?2, ?3)
                 ON CONFLICT (ledger) DO UPDATE SET value_count = value_count + ?2, bytes = bytes + ?3",
            )?
            .execute(params![ledger, more.values, more.bytes])?;
    }
    Ok(sum)
}

/// What stands at a key now.
fn standing(transaction: &Transaction<'_>, key: &str, now: i64) -> rusqlite::Result<Holdings> {
    let value = transaction
        .prepare_cached(
            "SELECT octet_length(value) FROM checkpointer_value
              WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
        )?
        .query_row(params![key, now], |row| row.get(0))
        .optional()?;
    if let Some(bytes) = value {
        return Ok(Holdings::value(key, bytes));
    }
    match index_id(transaction, key, now)? {
        Some(index) => Ok(Holdings::index(key, size_of(transaction, index)?)),
        None => Ok(Holdings::default()),
    }
}

/// The same as the ledger has it.
fn noted(transaction: &Transaction<'_>, ledger: &str, key: &str) -> rusqlite::Result<Holdings> {
    let noted = transaction
        .prepare_cached(
            "SELECT value_count, bytes FROM checkpointer_ledger_entry WHERE ledger = ?1 AND key = ?2",
        )?
        .query_row([ledger, key], holdings)
        .optional()?;
    Ok(noted.unwrap_or_default())
}

fn total(transaction: &Transaction<'_>, ledger: &str) -> rusqlite::Result<Holdings> {
    let total = transaction
        .prepare_cached("SELECT value_count, bytes FROM checkpointer_ledger WHERE ledger = ?1")?
        .query_row([ledger], holdings)
        .optional()?;
    Ok(total.unwrap_or_default())
}

fn holdings(row: &Row<'_>) -> rusqlite::Result<Holdings> {
    Ok(Holdings { values: row.get(0)?, bytes: row.get(1)? })
}

fn note(transaction: &Transaction<'_>, ledger: &str, key: &str, stands: Holdings) -> rusqlite::Result<()> {
    if stands == Holdings::default() {
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
        .execute(params![ledger, key, stands.values, stands.bytes])?;
    Ok(())
}
