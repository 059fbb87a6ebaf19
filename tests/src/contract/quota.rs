//! What every store keeps to where a quota says how much may be there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use checkpointer::store::{
    Batch, Condition, Effect, Expire, ExpireMode, Expiry, IndexMember, IndexPut, Operation, Put, Quota, SqliteStore,
    StorageError, StorageReason, Store, Value,
};

use super::{TestStore, redis_store};

/// What a member of an index costs.
const MEMBER: u64 = 128;

fn quota(values: Option<u64>, bytes: Option<u64>) -> Quota {
    Quota { ledger: "app:\0quota".into(), values, bytes }
}

/// No limit but on values.
fn values(most: u64) -> Quota {
    quota(Some(most), None)
}

/// No limit but on bytes.
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

/// Applies operations within a quota; whether they were applied, or why not.
async fn write(place: &TestStore, quota: &Quota, operations: Vec<Operation>) -> Result<bool, StorageError> {
    Ok(place.store.commit_with_quota(quota, vec![always(operations)]).await?[0])
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

/// Looks at the whole ledger again.
async fn settle(place: &TestStore, quota: &Quota) -> u32 {
    let (mut pages, mut after) = (0, None);
    loop {
        pages += 1;
        after = place.store.reconcile_quota(quota, after).await.expect("settled");
        if after.is_none() {
            return pages;
        }
    }
}

/// Asserts that so much is counted, no more and no less: one value of one byte
/// fits where there is room for it, and does not where there is none.
async fn assert_counted(place: &TestStore, counted_values: u64, counted_bytes: u64) {
    let probe = || vec![put("?", "")];
    for (quota, expected) in [
        (values(counted_values), Err(full_of_values(counted_values))),
        (bytes(counted_bytes), Err(full_of_bytes(counted_bytes))),
        (quota(Some(counted_values + 1), Some(counted_bytes + 1)), Ok(true)),
    ] {
        assert_eq!(write(place, &quota, probe()).await, expected, "{quota:?}");
    }
    assert_eq!(write(place, &values(0), vec![delete("?")]).await, Ok(true));
}

/// What would be too much is refused, and nothing of it is written.
pub async fn a_full_bucket_refuses_and_writes_nothing(place: &TestStore) {
    let two = values(2);
    assert_eq!(write(place, &two, vec![put("a", "1"), put("b", "1")]).await, Ok(true));
    let more = vec![put("a", "2"), index_put("i", "m"), put("c", "1"), delete("b"), put("d", "1")];
    assert_eq!(write(place, &two, more).await, Err(full_of_values(2)));
    assert_eq!(place.text("a").await.as_deref(), Some("1"));
    assert_eq!(place.text("b").await.as_deref(), Some("1"));
    let new = ["c", "d", "i"].map(String::from).to_vec();
    assert_eq!(place.store.get(new, None).await, Ok(vec![Value::Absent; 3]));
    assert_counted(place, 2, 4).await;
    // Reading the ledger again finds the same.
    assert_eq!(settle(place, &two).await, 1);
    assert_counted(place, 2, 4).await;
}

/// As much as the limit fits, and nothing beyond it.
pub async fn a_limit_is_exact(place: &TestStore) {
    assert_eq!(write(place, &values(0), vec![put("a", "")]).await, Err(full_of_values(0)));
    assert_eq!(write(place, &values(1), vec![put("a", "")]).await, Ok(true));
    assert_eq!(write(place, &values(1), vec![put("b", "")]).await, Err(full_of_values(1)));
    // Bytes, not characters: 1 and 1 so far, then 2 and 5.
    assert_eq!(write(place, &bytes(7), vec![put("é", "é☀")]).await, Err(full_of_bytes(7)));
    assert_eq!(write(place, &bytes(8), vec![put("é", "é☀")]).await, Ok(true));
    assert_counted(place, 2, 8).await;
    // Both limits count, and no limit is none.
    let both = quota(Some(3), Some(8));
    assert_eq!(write(place, &both, vec![put("c", "")]).await, Err(full_of_bytes(8)));
    assert_eq!(write(place, &quota(None, None), vec![put("c", &"x".repeat(100_000))]).await, Ok(true));
    assert_counted(place, 3, 100_009).await;
    let most = quota(Some(u64::MAX), Some(u64::MAX));
    assert_eq!(write(place, &most, vec![put("d", "")]).await, Ok(true));
    assert_counted(place, 4, 100_010).await;
}

/// A key counts once, with what it has now.
pub async fn what_is_replaced_counts_once(place: &TestStore) {
    let one = quota(Some(1), Some(10));
    for (text, expected) in [
        ("12345", Ok(true)),
        ("123456789", Ok(true)),
        ("1234567890", Err(full_of_bytes(10))),
        ("123456789", Ok(true)),
        ("1", Ok(true)),
        ("123456789", Ok(true)),
    ] {
        assert_eq!(write(place, &one, vec![put("a", text)]).await, expected, "{text}");
    }
    assert_counted(place, 1, 10).await;
    // In one commit what stands at the end counts.
    let twice = vec![put("a", "1234567890"), delete("a"), put("a", "123"), put("a", "12")];
    assert_eq!(write(place, &one, twice).await, Ok(true));
    assert_counted(place, 1, 3).await;
}

/// What is deleted gives room at once, also in a bucket that has too much.
pub async fn deleting_gives_room_at_once(place: &TestStore) {
    let all = ["a", "b", "c"].map(|key| put(key, "1")).to_vec();
    assert_eq!(write(place, &values(3), all).await, Ok(true));
    // Now it may have less, and has too much.
    let two = quota(Some(2), Some(4));
    assert_eq!(write(place, &two, vec![put("d", "1")]).await, Err(full_of_values(2)));
    assert_eq!(write(place, &two, vec![put("a", "2")]).await, Ok(true));
    assert_eq!(write(place, &two, vec![put("a", "")]).await, Ok(true));
    assert_eq!(write(place, &two, vec![put("a", "1")]).await, Err(full_of_bytes(4)));
    assert_eq!(write(place, &two, vec![delete("b"), delete("none")]).await, Ok(true));
    assert_eq!(write(place, &two, vec![put("d", "1")]).await, Err(full_of_values(2)));
    assert_eq!(write(place, &two, vec![delete("c")]).await, Ok(true));
    assert_eq!(write(place, &two, vec![put("d", "1")]).await, Ok(true));
    assert_eq!(write(place, &two, vec![put("e", "1")]).await, Err(full_of_values(2)));
    assert_counted(place, 2, 3).await;
    // A refusal does not count what it would have taken.
    assert_eq!(write(place, &two, vec![delete("a"), delete("d")]).await, Ok(true));
    assert_counted(place, 0, 0).await;
}

/// What expires gives room once the ledger has been looked at again.
pub async fn what_expires_gives_room_once_settled(place: &TestStore) {
    let two = values(2);
    let soon = Expiry::AfterMs(60);
    let brief = vec![put_for("a", "1", soon), put_for("b", "1", soon), index_put_for("i", "m", soon)];
    assert_eq!(write(place, &two, brief).await, Ok(true));
    assert_counted(place, 2, 4 + 1 + MEMBER).await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    // Other commits remove what has expired, and the ledger does not see it.
    for _ in 0..3 {
        place.put("other", "1").await;
    }
    assert_eq!(write(place, &two, vec![put("c", "1")]).await, Err(full_of_values(2)));
    // To write there again is no more than there was.
    assert_eq!(write(place, &two, vec![put("a", "1")]).await, Ok(true));
    settle(place, &two).await;
    assert_counted(place, 1, 2).await;
    assert_eq!(write(place, &two, vec![put("c", "1")]).await, Ok(true));
    assert_eq!(write(place, &two, vec![put("d", "1")]).await, Err(full_of_values(2)));
    // To say when something expires changes nothing that counts.
    let expire = |key: &str| Operation::Expire(Expire { key: key.into(), expiry: soon, mode: ExpireMode::Set });
    assert_eq!(write(place, &two, vec![expire("a"), expire("other"), expire("none")]).await, Ok(true));
    assert_counted(place, 2, 4).await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    settle(place, &two).await;
    assert_counted(place, 1, 2).await;
}

/// An index costs its key and 128 bytes for each member, and is no value.
pub async fn indexes_are_counted_by_their_members(place: &TestStore) {
    let none = quota(Some(0), Some(2 + 2 * MEMBER));
    assert_eq!(write(place, &none, vec![index_put("ix", "m"), index_put("ix", "n")]).await, Ok(true));
    let full = Err(full_of_bytes(2 + 2 * MEMBER));
    assert_eq!(write(place, &none, vec![index_put("ix", "o")]).await, full);
    assert_eq!(write(place, &none, vec![index_put("jx", "m")]).await, full);
    assert_counted(place, 0, 2 + 2 * MEMBER).await;
    // A member counts once, and one that goes gives room for one that comes,
    // in whatever order.
    assert_eq!(write(place, &none, vec![index_put("ix", "m"), index_put("ix", "m")]).await, Ok(true));
    assert_eq!(write(place, &none, vec![index_put("ix", "o"), index_delete("ix", "m")]).await, Ok(true));
    assert_eq!(write(place, &none, vec![index_delete("ix", "m"), index_delete("jx", "m")]).await, Ok(true));
    let and_back = vec![index_delete("ix", "o"), index_put("ix", "o"), index_put("ix", "n")];
    assert_eq!(write(place, &none, and_back).await, Ok(true));
    assert_counted(place, 0, 2 + 2 * MEMBER).await;
    // Without its last member it is gone, and costs no name.
    let moved = vec![index_delete("ix", "n"), index_delete("ix", "o"), index_put("jx", "m")];
    assert_eq!(write(place, &none, moved).await, Ok(true));
    assert_counted(place, 0, 2 + MEMBER).await;
    assert_eq!(write(place, &none, vec![delete("jx")]).await, Ok(true));
    assert_counted(place, 0, 0).await;
    // A text has no members, and stays what it costs.
    assert_eq!(write(place, &values(1), vec![put("a", "1")]).await, Ok(true));
    assert_eq!(write(place, &values(1), vec![index_delete("a", "m")]).await, Ok(true));
    assert_counted(place, 1, 2).await;
}

/// What removes as much as it puts goes through at the limit.
pub async fn a_commit_that_prunes_as_it_puts_passes_at_the_limit(place: &TestStore) {
    let three = quota(Some(3), Some(3 * 2 + 1 + 3 * MEMBER));
    let save = |key: &str| vec![put(key, "1"), index_put("i", key)];
    let prune = |key: &str| vec![delete(key), index_delete("i", key)];
    for key in ["a", "b", "c"] {
        assert_eq!(write(place, &three, save(key)).await, Ok(true));
    }
    assert_eq!(write(place, &three, save("d")).await, Err(full_of_values(3)));
    assert_eq!(write(place, &three, [save("d"), prune("a")].concat()).await, Ok(true));
    assert_eq!(write(place, &three, [prune("b"), save("e")].concat()).await, Ok(true));
    // As a component does it: what decides comes first, what tidies up behind it
    // only removes.
    let deciding = Batch { conditions: absent("f"), operations: [save("f"), prune("c")].concat() };
    let tidying = Batch { conditions: absent("c"), operations: vec![index_delete("i", "c")] };
    let commit = || vec![deciding.clone(), tidying.clone()];
    assert_eq!(place.store.commit_with_quota(&three, commit()).await, Ok(vec![true, true]));
    assert_eq!(place.store.commit_with_quota(&three, commit()).await, Ok(vec![false, true]));
    assert_counted(place, 3, 3 * 2 + 1 + 3 * MEMBER).await;
}

/// Where conditions do not hold that is the answer, however full it is.
pub async fn conditions_come_before_the_quota(place: &TestStore) {
    let one = values(1);
    assert_eq!(write(place, &one, vec![put("a", "1")]).await, Ok(true));
    let batch = |conditions, key| Batch { conditions, operations: vec![put(key, "1")] };
    let commit = async |batches| place.store.commit_with_quota(&one, batches).await;
    assert_eq!(commit(vec![batch(absent("a"), "b")]).await, Ok(vec![false]));
    assert_eq!(commit(vec![batch(absent("b"), "b")]).await, Err(full_of_values(1)));
    assert_eq!(commit(vec![batch(absent("a"), "b"), batch(absent("a"), "c")]).await, Ok(vec![false, false]));
    assert_eq!(commit(vec![batch(absent("a"), "b"), batch(absent("c"), "a")]).await, Ok(vec![false, true]));
    // A removal that might not happen gives no room, and one that does not
    // happen even less.
    let removal = |conditions| Batch { conditions, operations: vec![delete("a")] };
    assert_eq!(commit(vec![removal(absent("a")), batch(vec![], "b")]).await, Err(full_of_values(1)));
    let both = vec![batch(absent("c"), "a"), removal(absent("a")), batch(vec![], "b")];
    assert_eq!(commit(both).await, Err(full_of_values(1)));
    assert_eq!(commit(vec![removal(absent("b")), batch(vec![], "b")]).await, Ok(vec![true, true]));
    assert_eq!(commit(vec![removal(vec![]), batch(absent("b"), "b")]).await, Ok(vec![true, false]));
    assert_eq!(commit(Vec::new()).await, Ok(Vec::new()));
    assert_counted(place, 1, 2).await;
}

/// Of many that want in at once, over two handles, as many get in as there is
/// room for.
pub async fn many_writers_never_exceed_a_limit(place: &TestStore) {
    const LIMIT: usize = 40;
    let stores = [Arc::clone(&place.store), another_handle(place).await];
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
    let there = place.store.get(keys, None).await.expect("values");
    let there = there.iter().filter(|value| **value != Value::Absent).count();
    assert_eq!(there, LIMIT);
    assert_counted(place, LIMIT as u64, LIMIT as u64 * (3 + MEMBER) + 1).await;
    settle(place, &limits).await;
    assert_counted(place, LIMIT as u64, LIMIT as u64 * (3 + MEMBER) + 1).await;
}

/// Puts and deletes that get in each other's way leave a ledger that is true.
pub async fn a_ledger_stays_true_among_many(place: &TestStore) {
    let stores = [Arc::clone(&place.store), another_handle(place).await];
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
        if let Some(text) = place.text(&key.to_string()).await {
            (there, held) = (there + 1, held + 1 + text.len() as u64);
        }
    }
    let index = if there == 0 { 0 } else { 1 + there * MEMBER };
    assert_counted(place, there, held + index).await;
}

/// Each ledger counts for itself.
pub async fn ledgers_keep_apart(place: &TestStore) {
    let of = |name: &str| Quota { ledger: format!("{name}\0quota"), values: Some(1), bytes: Some(10) };
    let (one, other) = (of("one:"), of("other:"));
    assert_eq!(write(place, &one, vec![put("one:a", "1")]).await, Ok(true));
    assert_eq!(write(place, &one, vec![put("one:b", "1")]).await, Err(full_of_values(1)));
    assert_eq!(write(place, &other, vec![put("other:a", "1")]).await, Ok(true));
    assert_eq!(write(place, &other, vec![put("other:b", "1")]).await, Err(full_of_values(1)));
    assert_eq!(write(place, &one, vec![delete("one:a")]).await, Ok(true));
    settle(place, &one).await;
    assert_eq!(write(place, &other, vec![put("other:b", "1")]).await, Err(full_of_values(1)));
    assert_eq!(write(place, &one, vec![put("one:b", "1")]).await, Ok(true));
    for prefix in ["one:a", "one:b", "other:a", "other:b"] {
        let expected: &[&str] = if ["one:b", "other:a"].contains(&prefix) { &[prefix] } else { &[] };
        assert_eq!(place.keys(prefix).await, expected);
    }
}

/// What is written past a quota counts from when the ledger is looked at again,
/// if the ledger knows the key.
pub async fn what_is_written_past_a_quota_counts_once_settled(place: &TestStore) {
    let two = values(2);
    assert_eq!(write(place, &two, vec![put("a", "1"), put("b", "1"), index_put("i", "m")]).await, Ok(true));
    place.write(vec![put("a", "12345"), delete("b"), put("c", "1"), index_put("i", "n")]).await;
    assert_counted(place, 2, 4 + 1 + MEMBER).await;
    settle(place, &two).await;
    assert_counted(place, 1, 6 + 1 + 2 * MEMBER).await;
    // What the ledger never heard of is let in by the first write to it, and
    // going is free.
    assert_eq!(write(place, &values(1), vec![put("c", "2")]).await, Ok(true));
    assert_counted(place, 2, 6 + 2 + 1 + 2 * MEMBER).await;
    place.write((0..20).map(|number| index_put("unknown", &number.to_string())).collect()).await;
    assert_eq!(write(place, &quota(Some(0), Some(0)), vec![index_delete("unknown", "0")]).await, Ok(true));
    assert_eq!(write(place, &quota(Some(0), Some(0)), vec![delete("unknown")]).await, Ok(true));
    assert_counted(place, 2, 6 + 2 + 1 + 2 * MEMBER).await;
}

/// A ledger of any length is looked at page by page.
pub async fn a_long_ledger_is_settled_page_by_page(place: &TestStore) {
    let none = quota(None, None);
    let keys: Vec<String> = (0..2500).map(|number| format!("{number:04}")).collect();
    let all: Vec<Operation> = keys.iter().map(|key| put(key, "1")).collect();
    assert_eq!(write(place, &none, all).await, Ok(true));
    assert_counted(place, 2500, 2500 * 5).await;
    place.write(keys.iter().skip(1).map(|key| delete(key)).collect()).await;
    assert!(settle(place, &none).await > 4);
    assert_counted(place, 1, 5).await;
}

/// After any commits the ledger has what stands there, and no limit is exceeded.
pub async fn after_any_commits_the_ledger_is_true(place: &TestStore) {
    let mut chance = Chance(42);
    let limits = quota(Some(2), Some(2 * MEMBER + 20));
    let mut model = Model::default();
    let (mut applied, mut refused) = (0, 0);
    for round in 0..80 {
        let batches: Vec<Batch> = (0..=chance.below(3)).map(|_| chance.batch()).collect();
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
        let told = place.store.commit_with_quota(&limits, batches.clone()).await;
        // A store may not know what several batches will come to.
        let is_careful = batches.len() > 1 && told.as_ref().is_err_and(|it| it.reason == StorageReason::Full);
        assert!(told == expected || is_careful, "{round}: {batches:?}: {told:?}, not {expected:?}");
        match told {
            Ok(_) => (model, applied) = (after, applied + 1),
            Err(_) => refused += 1,
        }
        assert!(model.values() <= 2 && model.bytes() <= 2 * MEMBER + 20);
        assert_counted(place, model.values(), model.bytes()).await;
        for (key, text) in &model.texts {
            assert_eq!(place.text(key).await.as_ref(), Some(text));
        }
    }
    assert!(applied > 20 && refused > 20, "{applied} applied, {refused} refused");
}

/// Numbers that look random, the same ones each time.
struct Chance(u64);

impl Chance {
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

/// What is expected to stand in a store.
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

/// Where a ledger can't be written, nothing else is either.
pub async fn a_ledger_that_cannot_be_written_stops_the_commit(place: &TestStore) {
    // Only a server has users who may do less, and keys that hold something else.
    let Some(server) = &place.server else { return };
    let user = ["ACL", "SETUSER", "almost", "on", ">x", "~*", "+@all", "-hset"];
    server.command::<redis::Value>(&user).await;
    let almost = redis_store(&format!("redis://almost:x@127.0.0.1:{}", server.port()));
    // What went well without a quota says nothing of this.
    assert_eq!(almost.commit(vec![always(vec![put("a", "1")])]).await, Ok(vec![true]));
    let refused = [
        almost.commit_with_quota(&values(9), vec![always(vec![put("a", "2")])]).await.expect_err("refused"),
        almost.reconcile_quota(&values(9), None).await.expect_err("refused"),
    ];
    for error in refused {
        assert_eq!((error.reason, error.effect), (StorageReason::AccessDenied, Effect::None));
        assert_eq!(error.message, "the store's user lacks a permission: HSET");
    }
    place.put("text", "1").await;
    let text = Quota { ledger: "text".into(), values: None, bytes: None };
    let error = write(place, &text, vec![put("a", "2")]).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::WrongType, Effect::None));
    assert_eq!(place.store.reconcile_quota(&text, None).await, Err(error));
    assert_eq!(place.text("a").await.as_deref(), Some("1"));
    let error = place.store.reconcile_quota(&values(9), Some("nowhere".into())).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::InvalidArgument, Effect::None));
    // A bucket with nothing in it leaves no ledger.
    assert_eq!(write(place, &values(9), vec![put("b", "1"), index_put("i", "m")]).await, Ok(true));
    assert_eq!(place.keys("app:").await, ["app:\0quota"]);
    assert!(!place.expiring().await.contains("app:\0quota"));
    assert_eq!(write(place, &values(9), vec![delete("b"), delete("i")]).await, Ok(true));
    assert_eq!(place.keys("app:").await, [""; 0]);
}

/// A store that was made before there were quotas keeps them as well.
pub async fn a_store_from_before_quotas_keeps_them(place: &TestStore) {
    if place.file.is_none() {
        return;
    }
    place.put("a", "1").await;
    let before = "DROP TABLE checkpointer_ledger; DROP TABLE checkpointer_ledger_entry";
    place.connection().execute_batch(before).expect("an older database");
    let store = another_handle(place).await;
    let one = values(1);
    assert_eq!(store.commit_with_quota(&one, vec![always(vec![put("b", "1")])]).await, Ok(vec![true]));
    assert_eq!(store.commit_with_quota(&one, vec![always(vec![put("c", "1")])]).await, Err(full_of_values(1)));
}

/// What no store can keep is refused within a quota too, and so is a write to
/// the ledger.
pub async fn a_quota_refuses_what_cannot_be_kept(place: &TestStore) {
    let two = values(2);
    for operations in [
        vec![put("a", "1"), put_for("b", "1", Expiry::AfterMs(0))],
        vec![put("a", "1"), index_put("a", "m")],
        vec![put("a", "1"), put(&two.ledger, "1")],
        vec![put("a", "1"), delete(&two.ledger)],
        vec![put("a", "1"), index_put(&two.ledger, "m")],
    ] {
        let error = write(place, &two, operations).await.expect_err("refused");
        assert_eq!((error.reason, error.effect), (StorageReason::InvalidArgument, Effect::None));
    }
    place.write(vec![index_put("index", "m")]).await;
    let error = write(place, &two, vec![put("a", "1"), put("index", "1")]).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::WrongType, Effect::None));
    assert_eq!(place.text("a").await, None);
    assert_counted(place, 0, 0).await;
}

/// Another way to the same place, as another process has it. A database in
/// memory has only one.
async fn another_handle(place: &TestStore) -> Arc<dyn Store> {
    if let Some(server) = &place.server {
        return redis_store(&server.url());
    }
    if place.file.is_none() {
        return Arc::clone(&place.store);
    }
    let path = place.connection().path().expect("a file").to_owned();
    Arc::new(SqliteStore::open(path.as_ref()).await.expect("the same database"))
}
