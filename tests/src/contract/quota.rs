//! The contract of every store for quotas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use checkpointer::store::{
    Batch, Condition, Effect, Expire, ExpireMode, Expiry, IndexMember, IndexPut, Operation, Put, Quota,
    SqliteStore, StorageError, StorageReason, Store, Value,
};

use super::{TestStore, redis_store};

/// The bytes that a member of an index counts.
const MEMBER: u64 = 128;

fn quota(values: Option<u64>, bytes: Option<u64>) -> Quota {
    Quota::new("app:\0quota", values, bytes)
}

/// A quota of values only.
fn values(most: u64) -> Quota {
    quota(Some(most), None)
}

/// A quota of bytes only.
fn bytes(most: u64) -> Quota {
    quota(None, Some(most))
}

fn put(key: &str, value: &str) -> Operation {
    put_for(key, value, Expiry::Never)
}

fn put_for(key: &str, value: &str, expiry: Expiry) -> Operation {
    Operation::Put(Put { key: key.into(), value: value.into(), expiry })
}

fn delete(key: &str) -> Operation {
    Operation::Delete(key.into())
}

fn index_put(index: &str, member: &str) -> Operation {
    index_put_for(index, member, Expiry::Never)
}

fn index_put_for(index: &str, member: &str, expiry: Expiry) -> Operation {
    Operation::IndexPut(IndexPut { index: index.into(), member: member.into(), score: 1.0, expiry })
}

fn index_delete(index: &str, member: &str) -> Operation {
    Operation::IndexDelete(IndexMember { index: index.into(), member: member.into() })
}

fn absent(key: &str) -> Vec<Vec<Condition>> {
    vec![vec![Condition::Absent(key.into())]]
}

fn always(operations: Vec<Operation>) -> Batch {
    Batch { conditions: Vec::new(), operations }
}

/// Applies operations within a quota. Returns whether they were applied.
async fn write(store: &TestStore, quota: &Quota, operations: Vec<Operation>) -> Result<bool, StorageError> {
    Ok(store.inner.commit_with_quota(quota, vec![always(operations)]).await?[0])
}

fn full(message: &str) -> StorageError {
    StorageError::new(StorageReason::Full, Effect::None, message)
}

fn full_of_values(most: u64) -> StorageError {
    full(&format!("the bucket is full: it may have {most} checkpoints"))
}

fn full_of_bytes(most: u64) -> StorageError {
    full(&format!("the bucket is full: it may have {most} bytes"))
}

/// Reconciles the whole ledger. Returns the number of pages.
async fn settle(store: &TestStore, quota: &Quota) -> u32 {
    let (mut pages, mut after) = (0, None);
    loop {
        pages += 1;
        after = store.inner.reconcile_quota(quota, after).await.expect("settled");
        if after.is_none() {
            return pages;
        }
    }
}

/// Asserts the exact usage: one more value of one byte fits into a quota that is
/// larger by one, and not into an equal one.
async fn assert_counted(store: &TestStore, counted_values: u64, counted_bytes: u64) {
    let probe = || vec![put("?", "")];
    for (quota, expected) in [
        (values(counted_values), Err(full_of_values(counted_values))),
        (bytes(counted_bytes), Err(full_of_bytes(counted_bytes))),
        (quota(Some(counted_values + 1), Some(counted_bytes + 1)), Ok(true)),
    ] {
        assert_eq!(write(store, &quota, probe()).await, expected, "{quota:?}");
    }
    assert_eq!(write(store, &values(0), vec![delete("?")]).await, Ok(true));
}

/// A commit above the quota is rejected, and nothing is written.
pub async fn a_full_bucket_rejects_a_commit_and_writes_nothing(store: &TestStore) {
    let two = values(2);
    assert_eq!(write(store, &two, vec![put("a", "1"), put("b", "1")]).await, Ok(true));
    let more = vec![put("a", "2"), index_put("i", "m"), put("c", "1"), delete("b"), put("d", "1")];
    assert_eq!(write(store, &two, more).await, Err(full_of_values(2)));
    assert_eq!(store.text("a").await.as_deref(), Some("1"));
    assert_eq!(store.text("b").await.as_deref(), Some("1"));
    let new = ["c", "d", "i"].map(String::from).to_vec();
    assert_eq!(store.inner.get(new, None).await, Ok(vec![Value::Absent; 3]));
    assert_counted(store, 2, 4).await;
    // Reconciliation does not change a correct usage.
    assert_eq!(settle(store, &two).await, 1);
    assert_counted(store, 2, 4).await;
}

/// A quota can be used completely and not exceeded.
pub async fn quota_limits_are_exact(store: &TestStore) {
    assert_eq!(write(store, &values(0), vec![put("a", "")]).await, Err(full_of_values(0)));
    assert_eq!(write(store, &values(1), vec![put("a", "")]).await, Ok(true));
    assert_eq!(write(store, &values(1), vec![put("b", "")]).await, Err(full_of_values(1)));
    // Bytes count, not characters: 1 and 1 so far, then 2 and 5.
    assert_eq!(write(store, &bytes(7), vec![put("é", "é☀")]).await, Err(full_of_bytes(7)));
    assert_eq!(write(store, &bytes(8), vec![put("é", "é☀")]).await, Ok(true));
    assert_counted(store, 2, 8).await;
    // Both limits count. Without limits everything fits.
    let both = quota(Some(3), Some(8));
    assert_eq!(write(store, &both, vec![put("c", "")]).await, Err(full_of_bytes(8)));
    assert_eq!(write(store, &quota(None, None), vec![put("c", &"x".repeat(100_000))]).await, Ok(true));
    assert_counted(store, 3, 100_009).await;
    let most = quota(Some(u64::MAX), Some(u64::MAX));
    assert_eq!(write(store, &most, vec![put("d", "")]).await, Ok(true));
    assert_counted(store, 4, 100_010).await;
}

/// A key counts once, with its current value.
pub async fn a_replaced_value_counts_once(store: &TestStore) {
    let one = quota(Some(1), Some(10));
    for (text, expected) in [
        ("12345", Ok(true)),
        ("123456789", Ok(true)),
        ("1234567890", Err(full_of_bytes(10))),
        ("123456789", Ok(true)),
        ("1", Ok(true)),
        ("123456789", Ok(true)),
    ] {
        assert_eq!(write(store, &one, vec![put("a", text)]).await, expected, "{text}");
    }
    assert_counted(store, 1, 10).await;
    // After several operations on a key in one commit, the last one counts.
    let twice = vec![put("a", "1234567890"), delete("a"), put("a", "123"), put("a", "12")];
    assert_eq!(write(store, &one, twice).await, Ok(true));
    assert_counted(store, 1, 3).await;
}

/// Deletion frees quota immediately, also in a bucket above its quota.
pub async fn deletion_frees_quota_immediately(store: &TestStore) {
    let all = ["a", "b", "c"].map(|key| put(key, "1")).to_vec();
    assert_eq!(write(store, &values(3), all).await, Ok(true));
    // The quota is lowered below the usage.
    let two = quota(Some(2), Some(4));
    assert_eq!(write(store, &two, vec![put("d", "1")]).await, Err(full_of_values(2)));
    assert_eq!(write(store, &two, vec![put("a", "2")]).await, Ok(true));
    assert_eq!(write(store, &two, vec![put("a", "")]).await, Ok(true));
    assert_eq!(write(store, &two, vec![put("a", "1")]).await, Err(full_of_bytes(4)));
    assert_eq!(write(store, &two, vec![delete("b"), delete("none")]).await, Ok(true));
    assert_eq!(write(store, &two, vec![put("d", "1")]).await, Err(full_of_values(2)));
    assert_eq!(write(store, &two, vec![delete("c")]).await, Ok(true));
    assert_eq!(write(store, &two, vec![put("d", "1")]).await, Ok(true));
    assert_eq!(write(store, &two, vec![put("e", "1")]).await, Err(full_of_values(2)));
    assert_counted(store, 2, 3).await;
    // A rejected commit does not count.
    assert_eq!(write(store, &two, vec![delete("a"), delete("d")]).await, Ok(true));
    assert_counted(store, 0, 0).await;
}

/// Expiry frees quota after the ledger is reconciled.
pub async fn expiry_frees_quota_after_reconciliation(store: &TestStore) {
    let two = values(2);
    let soon = Expiry::AfterMs(60);
    let brief = vec![put_for("a", "1", soon), put_for("b", "1", soon), index_put_for("i", "m", soon)];
    assert_eq!(write(store, &two, brief).await, Ok(true));
    assert_counted(store, 2, 4 + 1 + MEMBER).await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    // Other commits remove expired keys without changing the ledger.
    for _ in 0..3 {
        store.put("other", "1").await;
    }
    assert_eq!(write(store, &two, vec![put("c", "1")]).await, Err(full_of_values(2)));
    // A put at an expired key that the ledger still counts adds nothing.
    assert_eq!(write(store, &two, vec![put("a", "1")]).await, Ok(true));
    settle(store, &two).await;
    assert_counted(store, 1, 2).await;
    assert_eq!(write(store, &two, vec![put("c", "1")]).await, Ok(true));
    assert_eq!(write(store, &two, vec![put("d", "1")]).await, Err(full_of_values(2)));
    // Setting an expiry does not change the usage.
    let expire =
        |key: &str| Operation::Expire(Expire { key: key.into(), expiry: soon, mode: ExpireMode::Set });
    assert_eq!(write(store, &two, vec![expire("a"), expire("other"), expire("none")]).await, Ok(true));
    assert_counted(store, 2, 4).await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    settle(store, &two).await;
    assert_counted(store, 1, 2).await;
}

/// An index counts its key and 128 bytes per member, and is not a value.
pub async fn an_index_is_counted_by_its_members(store: &TestStore) {
    let none = quota(Some(0), Some(2 + 2 * MEMBER));
    assert_eq!(write(store, &none, vec![index_put("ix", "m"), index_put("ix", "n")]).await, Ok(true));
    let full = Err(full_of_bytes(2 + 2 * MEMBER));
    assert_eq!(write(store, &none, vec![index_put("ix", "o")]).await, full);
    assert_eq!(write(store, &none, vec![index_put("jx", "m")]).await, full);
    assert_counted(store, 0, 2 + 2 * MEMBER).await;
    // A member counts once, and deleting one frees quota for another, in any
    // order.
    assert_eq!(write(store, &none, vec![index_put("ix", "m"), index_put("ix", "m")]).await, Ok(true));
    assert_eq!(write(store, &none, vec![index_put("ix", "o"), index_delete("ix", "m")]).await, Ok(true));
    assert_eq!(write(store, &none, vec![index_delete("ix", "m"), index_delete("jx", "m")]).await, Ok(true));
    let and_back = vec![index_delete("ix", "o"), index_put("ix", "o"), index_put("ix", "n")];
    assert_eq!(write(store, &none, and_back).await, Ok(true));
    assert_counted(store, 0, 2 + 2 * MEMBER).await;
    // Without its last member the index does not exist, and its key does not
    // count.
    let moved = vec![index_delete("ix", "n"), index_delete("ix", "o"), index_put("jx", "m")];
    assert_eq!(write(store, &none, moved).await, Ok(true));
    assert_counted(store, 0, 2 + MEMBER).await;
    assert_eq!(write(store, &none, vec![delete("jx")]).await, Ok(true));
    assert_counted(store, 0, 0).await;
    // Deleting a member from a text value is a no-op and does not change the
    // usage.
    assert_eq!(write(store, &values(1), vec![put("a", "1")]).await, Ok(true));
    assert_eq!(write(store, &values(1), vec![index_delete("a", "m")]).await, Ok(true));
    assert_counted(store, 1, 2).await;
}

/// A commit that deletes as much as it puts succeeds at the limit.
pub async fn a_commit_that_deletes_as_much_as_it_puts_succeeds_at_the_limit(store: &TestStore) {
    let three = quota(Some(3), Some(3 * 2 + 1 + 3 * MEMBER));
    let save = |key: &str| vec![put(key, "1"), index_put("i", key)];
    let prune = |key: &str| vec![delete(key), index_delete("i", key)];
    for key in ["a", "b", "c"] {
        assert_eq!(write(store, &three, save(key)).await, Ok(true));
    }
    assert_eq!(write(store, &three, save("d")).await, Err(full_of_values(3)));
    assert_eq!(write(store, &three, [save("d"), prune("a")].concat()).await, Ok(true));
    assert_eq!(write(store, &three, [prune("b"), save("e")].concat()).await, Ok(true));
    // As the guest does it: the first batch decides, the batches after it only
    // delete.
    let deciding = Batch { conditions: absent("f"), operations: [save("f"), prune("c")].concat() };
    let tidying = Batch { conditions: absent("c"), operations: vec![index_delete("i", "c")] };
    let commit = || vec![deciding.clone(), tidying.clone()];
    assert_eq!(store.inner.commit_with_quota(&three, commit()).await, Ok(vec![true, true]));
    assert_eq!(store.inner.commit_with_quota(&three, commit()).await, Ok(vec![false, true]));
    assert_counted(store, 3, 3 * 2 + 1 + 3 * MEMBER).await;
}

/// A failed precondition is reported even if the bucket is full.
pub async fn conditions_are_checked_before_the_quota(store: &TestStore) {
    let one = values(1);
    assert_eq!(write(store, &one, vec![put("a", "1")]).await, Ok(true));
    let batch = |conditions, key| Batch { conditions, operations: vec![put(key, "1")] };
    let commit = async |batches| store.inner.commit_with_quota(&one, batches).await;
    assert_eq!(commit(vec![batch(absent("a"), "b")]).await, Ok(vec![false]));
    assert_eq!(commit(vec![batch(absent("b"), "b")]).await, Err(full_of_values(1)));
    assert_eq!(commit(vec![batch(absent("a"), "b"), batch(absent("a"), "c")]).await, Ok(vec![false, false]));
    assert_eq!(commit(vec![batch(absent("a"), "b"), batch(absent("c"), "a")]).await, Ok(vec![false, true]));
    // A deletion in a conditional batch frees no quota for later batches, nor
    // does one that is not applied.
    let removal = |conditions| Batch { conditions, operations: vec![delete("a")] };
    assert_eq!(commit(vec![removal(absent("a")), batch(vec![], "b")]).await, Err(full_of_values(1)));
    let both = vec![batch(absent("c"), "a"), removal(absent("a")), batch(vec![], "b")];
    assert_eq!(commit(both).await, Err(full_of_values(1)));
    assert_eq!(commit(vec![removal(absent("b")), batch(vec![], "b")]).await, Ok(vec![true, true]));
    assert_eq!(commit(vec![removal(vec![]), batch(absent("b"), "b")]).await, Ok(vec![true, false]));
    assert_eq!(commit(Vec::new()).await, Ok(Vec::new()));
    assert_counted(store, 1, 2).await;
}

/// Of concurrent writers over two connections, exactly as many succeed as fit.
pub async fn concurrent_writers_never_exceed_a_quota(store: &TestStore) {
    const LIMIT: usize = 40;
    let stores = [Arc::clone(&store.inner), another_handle(store).await];
    let limits = quota(Some(LIMIT as u64), Some(1_000_000));
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let (store, limits) = (Arc::clone(&stores[number % 2]), limits.clone());
            tokio::spawn(async move {
                let key = format!("{number:02}");
                let batch = Batch {
                    conditions: absent(&key),
                    operations: vec![put(&key, "1"), index_put("i", &key)],
                };
                store.commit_with_quota(&limits, vec![batch]).await
            })
        })
        .collect();
    let (mut applied, mut refused) = (0, 0);
    for task in tasks {
        match task.await.expect("a task") {
            Ok(outcome) => {
                assert_eq!(outcome, [true]);
                applied += 1;
            }
            Err(error) => {
                assert_eq!(error, full_of_values(LIMIT as u64));
                refused += 1;
            }
        }
    }
    assert_eq!((applied, refused), (LIMIT, 64 - LIMIT));
    let keys: Vec<String> = (0..64).map(|number| format!("{number:02}")).collect();
    let there = store.inner.get(keys, None).await.expect("values");
    let there = there.iter().filter(|value| **value != Value::Absent).count();
    assert_eq!(there, LIMIT);
    assert_counted(store, LIMIT as u64, LIMIT as u64 * (3 + MEMBER) + 1).await;
    settle(store, &limits).await;
    assert_counted(store, LIMIT as u64, LIMIT as u64 * (3 + MEMBER) + 1).await;
}

/// Concurrent puts and deletes of the same keys leave an exact ledger.
pub async fn the_ledger_stays_exact_under_concurrency(store: &TestStore) {
    let stores = [Arc::clone(&store.inner), another_handle(store).await];
    let limits = quota(Some(4), Some(1000));
    let tasks: Vec<_> = (0..32_usize)
        .map(|number| {
            let (store, limits) = (Arc::clone(&stores[number % 2]), limits.clone());
            tokio::spawn(async move {
                for round in 0..8_usize {
                    let key = ((number * 7 + round * 3) % 8).to_string();
                    let operations = match (number + round) % 3 {
                        0 => vec![delete(&key), index_delete("i", &key)],
                        _ => vec![put(&key, &"x".repeat(round)), index_put("i", &key)],
                    };
                    match store.commit_with_quota(&limits, vec![always(operations)]).await {
                        Ok(applied) => assert_eq!(applied, [true]),
                        Err(error) => assert_eq!(error.reason, StorageReason::Full, "{error:?}"),
                    }
                    let there = store.scan(String::new(), None).await.expect("keys").keys;
                    let there = there.iter().filter(|key| key.len() == 1 && **key != "i").count();
                    assert!(there <= 4, "{there} values");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let (mut there, mut held) = (0, 0);
    for key in 0..8 {
        if let Some(text) = store.text(&key.to_string()).await {
            (there, held) = (there + 1, held + 1 + text.len() as u64);
        }
    }
    let index = if there == 0 { 0 } else { 1 + there * MEMBER };
    assert_counted(store, there, held + index).await;
}

/// Each ledger counts its own keys.
pub async fn ledgers_are_independent(store: &TestStore) {
    let of = |name: &str| Quota::new(format!("{name}\0quota"), Some(1), Some(10));
    let (one, other) = (of("one:"), of("other:"));
    assert_eq!(write(store, &one, vec![put("one:a", "1")]).await, Ok(true));
    assert_eq!(write(store, &one, vec![put("one:b", "1")]).await, Err(full_of_values(1)));
    assert_eq!(write(store, &other, vec![put("other:a", "1")]).await, Ok(true));
    assert_eq!(write(store, &other, vec![put("other:b", "1")]).await, Err(full_of_values(1)));
    assert_eq!(write(store, &one, vec![delete("one:a")]).await, Ok(true));
    settle(store, &one).await;
    assert_eq!(write(store, &other, vec![put("other:b", "1")]).await, Err(full_of_values(1)));
    assert_eq!(write(store, &one, vec![put("one:b", "1")]).await, Ok(true));
    for prefix in ["one:a", "one:b", "other:a", "other:b"] {
        let expected: &[&str] = if ["one:b", "other:a"].contains(&prefix) { &[prefix] } else { &[] };
        assert_eq!(store.keys(prefix).await, expected);
    }
}

/// Writes that bypass the quota count after the ledger is reconciled, if the
/// ledger knows the key.
pub async fn writes_without_the_quota_count_after_reconciliation(store: &TestStore) {
    let two = values(2);
    assert_eq!(write(store, &two, vec![put("a", "1"), put("b", "1"), index_put("i", "m")]).await, Ok(true));
    store.write(vec![put("a", "12345"), delete("b"), put("c", "1"), index_put("i", "n")]).await;
    assert_counted(store, 2, 4 + 1 + MEMBER).await;
    settle(store, &two).await;
    assert_counted(store, 1, 6 + 1 + 2 * MEMBER).await;
    // A key that is unknown to the ledger counts from the first write to it; its
    // deletion is always allowed.
    assert_eq!(write(store, &values(1), vec![put("c", "2")]).await, Ok(true));
    assert_counted(store, 2, 6 + 2 + 1 + 2 * MEMBER).await;
    store.write((0..20).map(|number| index_put("unknown", &number.to_string())).collect()).await;
    assert_eq!(write(store, &quota(Some(0), Some(0)), vec![index_delete("unknown", "0")]).await, Ok(true));
    assert_eq!(write(store, &quota(Some(0), Some(0)), vec![delete("unknown")]).await, Ok(true));
    assert_counted(store, 2, 6 + 2 + 1 + 2 * MEMBER).await;
}

/// A long ledger is reconciled in pages.
pub async fn a_long_ledger_is_reconciled_in_pages(store: &TestStore) {
    let none = quota(None, None);
    let keys: Vec<String> = (0..2500).map(|number| format!("{number:04}")).collect();
    let all: Vec<Operation> = keys.iter().map(|key| put(key, "1")).collect();
    assert_eq!(write(store, &none, all).await, Ok(true));
    assert_counted(store, 2500, 2500 * 5).await;
    store.write(keys.iter().skip(1).map(|key| delete(key)).collect()).await;
    assert!(settle(store, &none).await > 4);
    assert_counted(store, 1, 5).await;
}

/// After any sequence of commits the ledger matches the contents, and no limit is
/// exceeded.
pub async fn the_ledger_is_exact_after_random_commits(store: &TestStore) {
    let mut random = Random(42);
    let limits = quota(Some(2), Some(2 * MEMBER + 20));
    let mut model = Model::default();
    let (mut applied, mut refused) = (0, 0);
    for round in 0..80 {
        let batches: Vec<Batch> = (0..=random.below(3)).map(|_| random.batch()).collect();
        let (mut after, mut expected) = (model.clone(), Vec::new());
        for batch in &batches {
            expected.push(after.apply(batch));
        }
        let growth = |of: fn(&Model) -> u64, most| of(&after) > of(&model) && of(&after) > most;
        let expected = if growth(Model::values, 2) {
            Err(full_of_values(2))
        } else if growth(Model::bytes, 2 * MEMBER + 20) {
            Err(full_of_bytes(2 * MEMBER + 20))
        } else {
            Ok(expected)
        };
        let told = store.inner.commit_with_quota(&limits, batches.clone()).await;
        // A store may count several batches pessimistically.
        let is_careful = batches.len() > 1 && told.as_ref().is_err_and(|it| it.reason == StorageReason::Full);
        assert!(told == expected || is_careful, "{round}: {batches:?}: {told:?}, not {expected:?}");
        match told {
            Ok(_) => (model, applied) = (after, applied + 1),
            Err(_) => refused += 1,
        }
        assert!(model.values() <= 2 && model.bytes() <= 2 * MEMBER + 20);
        assert_counted(store, model.values(), model.bytes()).await;
        for (key, text) in &model.texts {
            assert_eq!(store.text(key).await.as_ref(), Some(text));
        }
    }
    assert!(applied > 20 && refused > 20, "{applied} applied, {refused} refused");
}

/// A fixed sequence of pseudo-random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn batch(&mut self) -> Batch {
        let conditions = match self.below(2) {
            0 => Vec::new(),
            _ => absent(["a", "b", "c", "i"][self.below(4) as usize]),
        };
        Batch { conditions, operations: (0..=self.below(3)).map(|_| self.operation()).collect() }
    }

    fn operation(&mut self) -> Operation {
        let key = ["a", "b", "c"][self.below(3) as usize];
        let (index, member) = (["i", "j"][self.below(2) as usize], ["m", "n", "o"][self.below(3) as usize]);
        match self.below(5) {
            0 | 1 => put(key, &"x".repeat(self.below(12) as usize)),
            2 => delete(key),
            3 => index_put(index, member),
            _ => index_delete(index, member),
        }
    }
}

/// The expected contents of the store.
#[derive(Clone, Default)]
struct Model {
    texts: BTreeMap<String, String>,
    indexes: BTreeMap<String, BTreeSet<String>>,
}

impl Model {
    fn apply(&mut self, batch: &Batch) -> bool {
        for condition in batch.conditions.iter().flatten() {
            let Condition::Absent(key) = condition else { unreachable!("{condition:?}") };
            if self.texts.contains_key(key) || self.indexes.contains_key(key) {
                return false;
            }
        }
        for operation in batch.operations.clone() {
            match operation {
                Operation::Put(put) => drop(self.texts.insert(put.key, put.value)),
                Operation::Delete(key) => drop(self.texts.remove(&key)),
                Operation::IndexPut(put) => {
                    self.indexes.entry(put.index).or_default().insert(put.member);
                }
                Operation::IndexDelete(gone) => {
                    self.indexes.entry(gone.index).or_default().remove(&gone.member);
                    self.indexes.retain(|_, members| !members.is_empty());
                }
                Operation::Expire(_) => {}
            }
        }
        true
    }

    fn values(&self) -> u64 {
        self.texts.len() as u64
    }

    fn bytes(&self) -> u64 {
        let texts = self.texts.iter().map(|(key, text)| key.len() + text.len());
        let indexes = self.indexes.iter().map(|(key, members)| key.len() + members.len() * MEMBER as usize);
        texts.chain(indexes).sum::<usize>() as u64
    }
}

/// If the ledger can't be written, nothing is written.
pub async fn an_unwritable_ledger_rejects_the_commit(store: &TestStore) {
    // Only a server has restricted users, and values of other types.
    let Some(server) = &store.server else { return };
    let user = ["ACL", "SETUSER", "almost", "on", ">x", "~*", "+@all", "-hset"];
    server.command::<redis::Value>(&user).await;
    let almost = redis_store(&format!("redis://almost:x@127.0.0.1:{}", server.port()));
    // A successful commit without a quota does not prove the permissions for one
    // with a quota.
    assert_eq!(almost.commit(vec![always(vec![put("a", "1")])]).await, Ok(vec![true]));
    let refused = [
        almost.commit_with_quota(&values(9), vec![always(vec![put("a", "2")])]).await.expect_err("refused"),
        almost.reconcile_quota(&values(9), None).await.expect_err("refused"),
    ];
    for error in refused {
        assert_eq!((error.reason, error.effect), (StorageReason::AccessDenied, Effect::None));
        assert_eq!(error.message, "the store's user lacks a permission: HSET");
    }
    store.put("text", "1").await;
    let text = Quota::new("text", None, None);
    let error = write(store, &text, vec![put("a", "2")]).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::WrongType, Effect::None));
    assert_eq!(store.inner.reconcile_quota(&text, None).await, Err(error));
    assert_eq!(store.text("a").await.as_deref(), Some("1"));
    let error = store.inner.reconcile_quota(&values(9), Some("nowhere".into())).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::InvalidArgument, Effect::None));
    // An empty bucket has no ledger.
    assert_eq!(write(store, &values(9), vec![put("b", "1"), index_put("i", "m")]).await, Ok(true));
    assert_eq!(store.keys("app:").await, ["app:\0quota"]);
    assert!(!store.expiring().await.contains("app:\0quota"));
    assert_eq!(write(store, &values(9), vec![delete("b"), delete("i")]).await, Ok(true));
    assert_eq!(store.keys("app:").await, [""; 0]);
}

/// A database file created before quotas existed enforces them.
pub async fn a_store_created_before_quotas_enforces_them(store: &TestStore) {
    if store.file.is_none() {
        return;
    }
    store.put("a", "1").await;
    let before = "DROP TABLE checkpointer_ledger; DROP TABLE checkpointer_ledger_entry";
    store.connection().execute_batch(before).expect("an older database");
    let store = another_handle(store).await;
    let one = values(1);
    assert_eq!(store.commit_with_quota(&one, vec![always(vec![put("b", "1")])]).await, Ok(vec![true]));
    assert_eq!(
        store.commit_with_quota(&one, vec![always(vec![put("c", "1")])]).await,
        Err(full_of_values(1))
    );
}

/// Invalid operations, and operations on the ledger itself, are rejected.
pub async fn invalid_operations_are_rejected_with_a_quota(store: &TestStore) {
    let two = values(2);
    for operations in [
        vec![put("a", "1"), put_for("b", "1", Expiry::AfterMs(0))],
        vec![put("a", "1"), index_put("a", "m")],
        vec![put("a", "1"), put(&two.ledger, "1")],
        vec![put("a", "1"), delete(&two.ledger)],
        vec![put("a", "1"), index_put(&two.ledger, "m")],
    ] {
        let error = write(store, &two, operations).await.expect_err("refused");
        assert_eq!((error.reason, error.effect), (StorageReason::InvalidArgument, Effect::None));
    }
    store.write(vec![index_put("index", "m")]).await;
    let error = write(store, &two, vec![put("a", "1"), put("index", "1")]).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::WrongType, Effect::None));
    assert_eq!(store.text("a").await, None);
    assert_counted(store, 0, 0).await;
}

/// A second connection to the store, as another process has it. A database in
/// memory has only one.
async fn another_handle(store: &TestStore) -> Arc<dyn Store> {
    if let Some(server) = &store.server {
        return redis_store(&server.url());
    }
    if store.file.is_none() {
        return Arc::clone(&store.inner);
    }
    let path = store.connection().path().expect("a file").to_owned();
    Arc::new(SqliteStore::open(path.as_ref()).await.expect("the same database"))
}
