//! Commits: the conditions of batches and their operations.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::super::clock::Clock;
use super::super::{Batch, Condition, ExpireMode, Expiry, IndexMax, Operation, Quota, wrong_type};
use super::ledger::UsageDelta;
use super::{SqliteError, holds_value, index_id, size_of};

/// How many expired rows each commit deletes at most. This is more than a commit
/// usually adds, so that expired rows do not accumulate.
const SWEEP_LIMIT: u32 = 64;

/// How many entries of an index the condition `index-max` examines.
const INDEX_MAX_LIMIT: u32 = 1000;

/// Applies each batch whose conditions hold, all in one transaction and within the
/// quota. Returns for each batch whether it was applied.
pub(super) fn commit(
    connection: &mut Connection,
    clock: &Clock,
    batches: &[Batch],
    quota: Option<&Quota>,
) -> Result<Vec<bool>, SqliteError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now = clock.now_ms();
    let mut usage = quota.map(UsageDelta::new);
    let mut applied = Vec::with_capacity(batches.len());
    for batch in batches {
        let holds = conditions_hold(&transaction, batch, now)?;
        if holds {
            for operation in &batch.operations {
                if let Some(usage) = &mut usage {
                    usage.before(&transaction, operation, now)?;
                }
                apply(&transaction, operation, now)?;
            }
        }
        applied.push(holds);
    }
    if let Some(usage) = usage {
        usage.record(&transaction, now)?;
    }
    delete_expired(&transaction, now)?;
    transaction.commit().map_err(SqliteError::Commit)?;
    Ok(applied)
}

fn expires_at(expiry: Expiry, now: i64) -> Option<i64> {
    match expiry {
        Expiry::Never => None,
        Expiry::AfterMs(milliseconds) => Some(now.saturating_add_unsigned(milliseconds)),
    }
}

fn conditions_hold(connection: &Connection, batch: &Batch, now: i64) -> rusqlite::Result<bool> {
    for alternatives in &batch.conditions {
        let mut holds = false;
        for condition in alternatives {
            holds |= condition_holds(connection, condition, now)?;
        }
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn condition_holds(connection: &Connection, condition: &Condition, now: i64) -> rusqlite::Result<bool> {
    match condition {
        Condition::Absent(key) => {
            Ok(!holds_value(connection, key, now)? && index_id(connection, key, now)?.is_none())
        }
        Condition::StartsWith(wanted) => connection
            .prepare_cached(
                "SELECT 1 FROM checkpointer_value
                  WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)
                    AND coalesce(substr(CAST(value AS BLOB), 1, length(?3)), x'') = ?3",
            )?
            .exists(params![wanted.key, now, wanted.text.as_bytes()]),
        Condition::IndexSizeAtMost(most) => {
            if holds_value(connection, &most.index, now)? {
                return Ok(false);
            }
            let index = index_id(connection, &most.index, now)?;
            let size = index.map(|index| size_of(connection, index)).transpose()?;
            Ok(size.unwrap_or(0) <= most.size)
        }
        Condition::IndexHas(wanted) => connection
            .prepare_cached(
                "SELECT 1 FROM checkpointer_index JOIN checkpointer_member ON index_id = id
                  WHERE name = ?1 AND (expires_at IS NULL OR expires_at > ?2) AND member = ?3",
            )?
            .exists(params![wanted.index, now, wanted.member]),
        Condition::IndexMax(wanted) => index_max_holds(connection, wanted, now),
    }
}

fn index_max_holds(connection: &Connection, wanted: &IndexMax, now: i64) -> rusqlite::Result<bool> {
    if holds_value(connection, &wanted.index, now)? {
        return Ok(false);
    }
    let Some(index) = index_id(connection, &wanted.index, now)? else { return Ok(wanted.member.is_none()) };
    let mut statement = connection.prepare_cached(
        "SELECT member, score FROM checkpointer_member WHERE index_id = ?1
          ORDER BY score DESC, member DESC LIMIT ?2",
    )?;
    let mut entries = statement.query(params![index, INDEX_MAX_LIMIT])?;
    let mut examined = 0;
    while let Some(entry) = entries.next()? {
        examined += 1;
        let member: String = entry.get(0)?;
        let key = format!("{}{member}", wanted.value_key_prefix);
        let counts = !wanted.excluding.contains(&member)
            && (holds_value(connection, &key, now)? || index_id(connection, &key, now)?.is_some());
        if counts {
            let position = (entry.get::<_, f64>(1)?, &member);
            let upper_bound = (wanted.upper_bound.score, &wanted.upper_bound.member);
            return Ok(wanted.member.as_ref() == Some(&member) && position <= upper_bound);
        }
    }
    Ok(wanted.member.is_none() && examined < INDEX_MAX_LIMIT)
}

fn apply(transaction: &Transaction<'_>, operation: &Operation, now: i64) -> Result<(), SqliteError> {
    match operation {
        Operation::Put(put) => {
            if index_id(transaction, &put.key, now)?.is_some() {
                return Err(SqliteError::Store(wrong_type("an index")));
            }
            transaction
                .prepare_cached(
                    "INSERT INTO checkpointer_value (key, value, expires_at) VALUES (?1, ?2, ?3)
                     ON CONFLICT (key) DO UPDATE SET value = ?2, expires_at = ?3",
                )?
                .execute(params![put.key, put.value, expires_at(put.expiry, now)])?;
        }
        Operation::Delete(key) => {
            transaction.prepare_cached("DELETE FROM checkpointer_value WHERE key = ?1")?.execute([key])?;
            // Later commits delete the members step by step, as of an expired index.
            transaction
                .prepare_cached("UPDATE checkpointer_index SET name = NULL, expires_at = 0 WHERE name = ?1")?
                .execute([key])?;
        }
        Operation::IndexPut(put) => {
            if holds_value(transaction, &put.index, now)? {
                return Err(SqliteError::Store(wrong_type("a text value")));
            }
            let index = index_with_expiry(transaction, &put.index, put.expiry, now)?;
            transaction
                .prepare_cached(
                    "INSERT INTO checkpointer_member (index_id, member, score) VALUES (?1, ?2, ?3)
                     ON CONFLICT (index_id, member) DO UPDATE SET score = ?3",
                )?
                .execute(params![index, put.member, put.score])?;
        }
        Operation::IndexDelete(entry) => {
            // A text value has no members.
            let Some(index) = index_id(transaction, &entry.index, now)? else { return Ok(()) };
            transaction
                .prepare_cached("DELETE FROM checkpointer_member WHERE index_id = ?1 AND member = ?2")?
                .execute(params![index, entry.member])?;
            transaction
                .prepare_cached(
                    "DELETE FROM checkpointer_index WHERE id = ?1
                        AND NOT EXISTS (SELECT 1 FROM checkpointer_member WHERE index_id = ?1)",
                )?
                .execute([index])?;
        }
        Operation::Expire(expire) => {
            let until = expires_at(expire.expiry, now);
            for update in [
                "UPDATE checkpointer_value SET expires_at = ?2 WHERE key = ?1
                    AND (expires_at IS NULL AND ?4
                      OR expires_at > ?3 AND (?4 OR ?2 IS NULL OR expires_at < ?2))",
                "UPDATE checkpointer_index SET expires_at = ?2 WHERE name = ?1
                    AND (expires_at IS NULL AND ?4
                      OR expires_at > ?3 AND (?4 OR ?2 IS NULL OR expires_at < ?2))",
            ] {
                transaction.prepare_cached(update)?.execute(params![
                    expire.key,
                    until,
                    now,
                    expire.mode == ExpireMode::Set
                ])?;
            }
        }
    }
    Ok(())
}

/// Returns the index of this name. Creates it if it does not exist, and extends its
/// expiry if that is earlier than `expiry`.
fn index_with_expiry(
    transaction: &Transaction<'_>,
    name: &str,
    expiry: Expiry,
    now: i64,
) -> rusqlite::Result<i64> {
    let until = expires_at(expiry, now);
    if let Some(index) = index_id(transaction, name, now)? {
        transaction
            .prepare_cached(
                "UPDATE checkpointer_index SET expires_at = ?2
                  WHERE id = ?1 AND expires_at IS NOT NULL AND (?2 IS NULL OR expires_at < ?2)",
            )?
            .execute(params![index, until])?;
        return Ok(index);
    }
    transaction
        .prepare_cached("UPDATE checkpointer_index SET name = NULL WHERE name = ?1")?
        .execute([name])?;
    transaction
        .prepare_cached("INSERT INTO checkpointer_index (name, expires_at) VALUES (?1, ?2)")?
        .execute(params![name, until])?;
    Ok(transaction.last_insert_rowid())
}

/// Deletes some of the expired values, members and indexes.
fn delete_expired(transaction: &Transaction<'_>, now: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM checkpointer_value WHERE rowid IN
                (SELECT rowid FROM checkpointer_value WHERE expires_at <= ?1 LIMIT ?2)",
        )?
        .execute(params![now, SWEEP_LIMIT])?;
    let mut statement =
        transaction.prepare_cached("SELECT id FROM checkpointer_index WHERE expires_at <= ?1 LIMIT ?2")?;
    let expired =
        statement.query_map(params![now, SWEEP_LIMIT], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    let mut left = SWEEP_LIMIT as usize;
    for index in expired {
        left -= transaction
            .prepare_cached(
                "DELETE FROM checkpointer_member WHERE (index_id, member) IN
                    (SELECT index_id, member FROM checkpointer_member WHERE index_id = ?1 LIMIT ?2)",
            )?
            .execute(params![index, left as i64])?;
        if left == 0 {
            break;
        }
        transaction.prepare_cached("DELETE FROM checkpointer_index WHERE id = ?1")?.execute([index])?;
    }
    Ok(())
}
