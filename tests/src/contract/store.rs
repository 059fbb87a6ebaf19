//! The contract of every store, as `keyvalue.wit` describes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpointer::store::{
    Batch, Condition, Effect, Entry, Expire, ExpireMode, Expiry, IndexMax, IndexMember, IndexPut, IndexSize,
    Operation, Order, Position, Put, Query, StorageReason, Value, ValuePrefix,
};

use super::TestStore;

fn put(key: &str, value: &str, expiry: Expiry) -> Operation {
    Operation::Put(Put { key: key.into(), value: value.into(), expiry })
}

fn index_put(index: &str, member: &str, score: f64, expiry: Expiry) -> Operation {
    Operation::IndexPut(IndexPut { index: index.into(), member: member.into(), score, expiry })
}

fn index_delete(index: &str, member: &str) -> Operation {
    Operation::IndexDelete(IndexMember { index: index.into(), member: member.into() })
}

fn starts_with(key: &str, text: &str) -> Condition {
    Condition::StartsWith(ValuePrefix { key: key.into(), text: text.into() })
}

fn query(index: &str, order: Order, limit: u32) -> Query {
    Query {
        index: index.into(),
        order,
        after: None,
        limit,
        value_key_prefix: "v:".into(),
        max_value_bytes: None,
        with_next: true,
        with_count: false,
    }
}

async fn members(store: &TestStore, query: Query) -> Vec<String> {
    let page = store.inner.range(query).await.expect("a page");
    page.entries.into_iter().map(|entry| entry.member).collect()
}

async fn get(store: &TestStore, keys: &[&str], max_value_bytes: Option<u32>) -> Vec<Value> {
    store
        .inner
        .get(keys.iter().map(|key| (*key).to_owned()).collect(), max_value_bytes)
        .await
        .expect("values")
}

/// Values are returned in the order of the keys, whole or truncated.
pub async fn get_returns_values_in_key_order_and_truncates_at_characters(store: &TestStore) {
    store.write(vec![put("a", "é☀x", Expiry::Never), put("b", "", Expiry::Never)]).await;
    let (a, b) = (Value::Text("é☀x".into()), Value::Text(String::new()));
    assert_eq!(get(store, &["b", "none", "a"], None).await, [b.clone(), Value::Absent, a.clone()]);
    assert_eq!(get(store, &["a", "b"], Some(4)).await, [Value::Truncated("é".into()), b]);
    assert_eq!(get(store, &["a"], Some(6)).await, std::slice::from_ref(&a));
    assert_eq!(get(store, &["a"], None).await, [a]);
    assert_eq!(get(store, &[], None).await, []);
}

/// Entries are ordered by score, then by the bytes of the member, in both
/// directions.
pub async fn range_orders_entries_by_score_then_by_bytes(store: &TestStore) {
    let entries = [
        ("b", 1.5),
        ("é", 1.5),
        ("B", 1.5),
        ("z", -2.0),
        ("a", 1767323045.123456),
        ("c", 1.5000000000000002),
    ];
    store
        .write(entries.iter().map(|(member, score)| index_put("i", member, *score, Expiry::Never)).collect())
        .await;
    store.put("v:b", "value of b").await;
    let ascending = ["z", "B", "b", "é", "c", "a"];
    assert_eq!(members(store, query("i", Order::Ascending, 10)).await, ascending);
    let mut descending = ascending;
    descending.reverse();
    assert_eq!(members(store, query("i", Order::Descending, 10)).await, descending);
    for with_next in [true, false] {
        let page = store
            .inner
            .range(Query { with_next, ..query("i", Order::Descending, 10) })
            .await
            .expect("a page");
        let score = with_next.then_some(1.5);
        let named = Entry { member: "b".into(), score, value: Value::Text("value of b".into()) };
        assert_eq!(page.entries[3], named);
        assert!(page.entries.iter().all(|entry| entry.member == "b" || entry.value == Value::Absent));
        assert_eq!((page.next, page.count), (None, None));
        let counted = Query { with_next, with_count: true, ..query("i", Order::Descending, 2) };
        assert_eq!(store.inner.range(counted).await.expect("a page").count, Some(6));
    }
    let counted = Query { with_count: true, ..query("none", Order::Descending, 2) };
    assert_eq!(store.inner.range(counted).await.expect("a page").count, Some(0));
    assert_eq!(members(store, query("i", Order::Descending, 0)).await, [""; 0]);
    assert_eq!(members(store, query("none", Order::Descending, 5)).await, [""; 0]);
}

/// Pages of any size together return all entries, also from a position whose
/// entry does not exist.
pub async fn range_continues_after_any_position(store: &TestStore) {
    let all: Vec<String> = (0..50).map(|number| format!("{:02}", number * 7 % 50)).collect();
    let score = |member: &str| f64::from(member.parse::<u32>().unwrap_or(0) / 20);
    store
        .write(all.iter().map(|member| index_put("i", member, score(member), Expiry::Never)).collect())
        .await;
    for order in [Order::Ascending, Order::Descending] {
        let whole = members(store, query("i", order, 100)).await;
        for size in [1, 7, 49, 50, 51] {
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let page =
                    store.inner.range(Query { after, ..query("i", order, size) }).await.expect("a page");
                pages.extend(page.entries.into_iter().map(|entry| entry.member));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(pages, whole);
        }
        for (score, member) in [(0.0, "055"), (1.0, "2"), (1.0, "zz"), (0.5, "x"), (9.0, "x"), (-9.0, "x")] {
            let after = Some(Position { score, member: member.into() });
            let expected: Vec<String> = whole
                .iter()
                .filter(|other| {
                    let other = (f64::from(other.parse::<u32>().unwrap_or(0) / 20), other.as_str());
                    if order == Order::Ascending { other > (score, member) } else { other < (score, member) }
                })
                .cloned()
                .collect();
            assert_eq!(members(store, Query { after, ..query("i", order, 100) }).await, expected);
        }
    }
}

/// A range of more bytes than the limit is rejected; one entry fewer succeeds.
pub async fn range_enforces_its_byte_limit(store: &TestStore) {
    let entries = ["a", "b", "c"].map(|member| index_put("i", member, 1.0, Expiry::Never));
    store.write(entries.into()).await;
    store.write(vec![put("v:a", "12345", Expiry::Never), put("v:b", "é☀", Expiry::Never)]).await;
    store.write(vec![index_put("v:c", "no text", 1.0, Expiry::Never)]).await;
    for (limit, max_value_bytes, most, fits) in [
        (3, None, 10, true),
        (3, None, 9, false),
        (1, None, 5, true),
        (1, None, 4, false),
        (2, Some(3), 6, true),
        (2, Some(3), 4, false),
        (0, None, 0, true),
    ] {
        let query = Query { max_value_bytes, ..query("i", Order::Ascending, limit) };
        let page = store.inner.range_with_byte_limit(query.clone(), most).await;
        if fits {
            assert_eq!(page, store.inner.range(query).await, "{limit} of {most} bytes");
        } else {
            let error = page.expect_err("refused");
            assert_eq!((error.reason, error.effect), (StorageReason::TooLarge, Effect::None));
        }
    }
}

/// A batch is applied completely if its conditions hold, and otherwise not at
/// all.
pub async fn a_batch_is_applied_only_if_its_conditions_hold(store: &TestStore) {
    store.write(vec![put("a", "text*of?a", Expiry::Never), index_put("i", "m", 1.0, Expiry::Never)]).await;
    store.put("empty", "").await;
    let has = |member: &str| Condition::IndexHas(IndexMember { index: "i".into(), member: member.into() });
    let at_most = |index: &str, size| Condition::IndexSizeAtMost(IndexSize { index: index.into(), size });
    let absent = |key: &str| Condition::Absent(key.into());
    for (conditions, expected) in [
        (vec![], true),
        (vec![vec![]], false),
        (vec![vec![absent("b")]], true),
        (vec![vec![absent("a")]], false),
        (vec![vec![absent("i")]], false),
        (vec![vec![starts_with("a", "text*of?")]], true),
        (vec![vec![starts_with("a", "text*of?a")]], true),
        (vec![vec![starts_with("a", "text*of?ab")]], false),
        (vec![vec![starts_with("a", "t*")]], false),
        (vec![vec![starts_with("b", "t")]], false),
        (vec![vec![starts_with("a", "")]], true),
        (vec![vec![starts_with("b", "")]], false),
        (vec![vec![starts_with("empty", "")]], true),
        (vec![vec![starts_with("empty", "t")]], false),
        (vec![vec![starts_with("i", "")]], false),
        (vec![vec![starts_with("i", "t")]], false),
        (vec![vec![has("m")]], true),
        (vec![vec![has("n")]], false),
        (vec![vec![at_most("i", 1)]], true),
        (vec![vec![at_most("i", 0)]], false),
        (vec![vec![at_most("none", 0)]], true),
        (vec![vec![at_most("a", 9)]], false),
        (vec![vec![absent("a"), has("m")]], true),
        (vec![vec![absent("b")], vec![has("n")]], false),
        (vec![vec![absent("b")], vec![has("n"), starts_with("a", "text")]], true),
    ] {
        let operations = vec![put("seen", "yes", Expiry::Never), index_put("i", "x", 1.0, Expiry::Never)];
        let batch = Batch { conditions: conditions.clone(), operations };
        assert_eq!(store.inner.commit(vec![batch]).await, Ok(vec![expected]), "{conditions:?}");
        assert_eq!(store.text("seen").await.is_some(), expected, "{conditions:?}");
        store.write(vec![Operation::Delete("seen".into()), index_delete("i", "x")]).await;
    }
}

/// The condition compares the highest entry that is neither dangling nor
/// excluded.
pub async fn index_max_finds_the_highest_qualifying_entry(store: &TestStore) {
    for (member, score) in [("a", 1.0), ("b", 2.0), ("B", 2.0), ("dead", 3.0), ("other", 4.0)] {
        store.write(vec![index_put("i", member, score, Expiry::Never)]).await;
    }
    for member in ["a", "b", "B", "other"] {
        store.put(&format!("v:{member}"), "").await;
    }
    store.put("text", "").await;
    let holds = async |index: &str, excluding: &[&str], member: Option<&str>, upper_bound: (f64, &str)| {
        let highest = Condition::IndexMax(IndexMax {
            index: index.into(),
            value_key_prefix: "v:".into(),
            excluding: excluding.iter().map(|member| (*member).to_owned()).collect(),
            member: member.map(str::to_owned),
            upper_bound: Position { score: upper_bound.0, member: upper_bound.1.into() },
        });
        let batch = Batch { conditions: vec![vec![highest]], operations: Vec::new() };
        store.inner.commit(vec![batch]).await.expect("an outcome")[0]
    };
    let far = (9.0, "");
    for (index, excluding, member, upper_bound, expected) in [
        ("i", &[][..], Some("other"), far, true),
        ("i", &["other"], Some("b"), far, true),
        ("i", &["other"], Some("B"), far, false),
        ("i", &["other"], Some("dead"), far, false),
        ("i", &["other"], None, far, false),
        ("i", &["other"], Some("b"), (2.0, "b"), true),
        ("i", &["other"], Some("b"), (2.0, "c"), true),
        ("i", &["other"], Some("b"), (2.0, "a"), false),
        ("i", &["other"], Some("b"), (1.9, "z"), false),
        ("i", &["other", "b"], Some("B"), far, true),
        ("i", &["other", "b", "B", "a"], None, far, true),
        ("i", &["other", "b", "B", "a"], Some("a"), far, false),
        ("none", &[], None, far, true),
        ("none", &[], Some("a"), far, false),
        ("text", &[], None, far, false),
        ("text", &[], Some("a"), far, false),
    ] {
        let found = holds(index, excluding, member, upper_bound).await;
        assert_eq!(found, expected, "{index} {excluding:?} {member:?} {upper_bound:?}");
    }
    // A store examines 1,000 entries.
    let dead = |count: u32| {
        (0..count).map(|number| index_put("long", &format!("{number:04}"), 5.0, Expiry::Never)).collect()
    };
    store.write(vec![index_put("long", "a", 1.0, Expiry::Never)]).await;
    store.write(dead(999)).await;
    assert!(holds("long", &[], Some("a"), far).await);
    store.write(dead(1000)).await;
    assert!(!holds("long", &[], Some("a"), far).await);
    store.write(vec![index_delete("long", "a"), index_delete("long", "0000")]).await;
    assert!(holds("long", &[], None, far).await);
}

/// A TTL is extended in both modes, and shortened only by the mode `set`.
pub async fn only_expire_mode_set_shortens_a_ttl(store: &TestStore) {
    use ExpireMode::{ExtendOnly, Set};
    let (soon, late) = (Expiry::AfterMs(500), Expiry::AfterMs(60_000));
    for (number, (before, then, mode, is_there)) in [
        (soon, late, ExtendOnly, true),
        (soon, Expiry::Never, ExtendOnly, true),
        (soon, soon, ExtendOnly, false),
        (late, soon, ExtendOnly, true),
        (late, soon, Set, false),
        (Expiry::Never, soon, ExtendOnly, true),
        (Expiry::Never, soon, Set, false),
        (soon, late, Set, true),
        (soon, Expiry::Never, Set, true),
    ]
    .into_iter()
    .enumerate()
    {
        for (key, made) in [
            (format!("value {number}"), put(&format!("value {number}"), "1", before)),
            (format!("index {number}"), index_put(&format!("index {number}"), "m", 1.0, before)),
        ] {
            store.write(vec![made]).await;
            store.write(vec![Operation::Expire(Expire { key: key.clone(), expiry: then, mode })]).await;
            if !is_there {
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            assert_eq!(store.keys(&key).await.len(), usize::from(is_there), "{key}");
        }
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(store.keys("").await.len(), 12);
    for mode in [Set, ExtendOnly] {
        store.write(vec![Operation::Expire(Expire { key: "none".into(), expiry: late, mode })]).await;
    }
    assert_eq!(store.keys("none").await, [""; 0]);
}

/// The batches of one call see the writes of earlier ones.
pub async fn batches_are_applied_in_order(store: &TestStore) {
    let first_come = |value: &str| Batch {
        conditions: vec![vec![Condition::Absent("a".into())]],
        operations: vec![put("a", value, Expiry::Never)],
    };
    assert_eq!(store.inner.commit(vec![first_come("1"), first_come("2")]).await, Ok(vec![true, false]));
    assert_eq!(store.text("a").await.as_deref(), Some("1"));
    assert_eq!(store.inner.commit(Vec::new()).await, Ok(Vec::new()));
}

/// A value expires at its time; another put sets a new expiry.
pub async fn a_put_replaces_the_expiry(store: &TestStore) {
    let soon = Expiry::AfterMs(60);
    store.write(vec![put("a", "1", soon), put("b", "1", soon), put("c", "1", Expiry::AfterMs(60_000))]).await;
    store.write(vec![put("b", "2", Expiry::Never)]).await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    let left = get(store, &["a", "b", "c"], None).await;
    assert_eq!(left, [Value::Absent, Value::Text("2".into()), Value::Text("1".into())]);
    assert_eq!(store.keys("").await, ["b", "c"]);
    let batch = Batch { conditions: vec![vec![Condition::Absent("a".into())]], operations: Vec::new() };
    assert_eq!(store.inner.commit(vec![batch]).await, Ok(vec![true]));
}

/// The expiry of an index is that of the member with the longest TTL so far.
pub async fn an_index_keeps_its_longest_ttl(store: &TestStore) {
    let (soon, late) = (Expiry::AfterMs(60), Expiry::AfterMs(60_000));
    for (index, expiries) in [
        ("soon", vec![soon]),
        ("soon, late", vec![soon, late]),
        ("late, soon", vec![late, soon]),
        ("never, soon", vec![Expiry::Never, soon]),
        ("soon, never, soon", vec![soon, Expiry::Never, soon]),
    ] {
        for (number, expiry) in expiries.into_iter().enumerate() {
            store.write(vec![index_put(index, &number.to_string(), 1.0, expiry)]).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(120)).await;
    let left = store.keys("").await;
    assert_eq!(left, ["late, soon", "never, soon", "soon, late", "soon, never, soon"]);
    assert_eq!(members(store, query("soon", Order::Ascending, 10)).await, [""; 0]);
    assert_eq!(members(store, query("soon, never, soon", Order::Ascending, 10)).await, ["0", "1", "2"]);
    // A new index with the same name does not have the entries of the old one.
    store.write(vec![index_put("soon", "new", 1.0, Expiry::Never)]).await;
    assert_eq!(members(store, query("soon", Order::Ascending, 10)).await, ["new"]);
}

/// `ttl` returns the remaining TTLs in the order of the keys.
pub async fn ttl_returns_the_remaining_ttl_of_each_key(store: &TestStore) {
    let (start, hour) = (Instant::now(), Expiry::AfterMs(3_600_000));
    store.write(vec![put("hour", "1", hour)]).await;
    store.write(vec![put("never", "", Expiry::Never)]).await;
    store.write(vec![put("gone", "1", Expiry::AfterMs(50))]).await;
    store.write(vec![index_put("index", "a", 1.0, hour)]).await;
    store.write(vec![index_put("endless index", "a", 1.0, Expiry::Never)]).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let keys = ["never", "hour", "nothing", "endless index", "gone", "index", "hour"].map(str::to_owned);
    let left = store.inner.ttl(keys.into()).await.expect("lives");
    let elapsed = start.elapsed().as_millis() as u64;
    // At least 150 ms have passed; stores count whole milliseconds.
    let is_of_hour = |life: &Option<Expiry>| matches!(life, Some(Expiry::AfterMs(left)) if (3_599_998 - elapsed..=3_599_850).contains(left));
    let never = Some(Expiry::Never);
    assert_eq!([left[0], left[2], left[3], left[4]], [never, None, never, None]);
    assert!([left[1], left[5], left[6]].iter().all(is_of_hour), "{left:?}");
    assert_eq!(left.len(), 7);
    assert_eq!(store.inner.ttl(vec!["never".to_owned()]).await, Ok(vec![never]));
    assert_eq!(store.inner.ttl(Vec::new()).await, Ok(Vec::new()));
}

/// Deleted values do not exist, nor do indexes without members.
pub async fn deleted_keys_do_not_exist(store: &TestStore) {
    store.write(vec![put("a", "1", Expiry::Never), index_put("i", "m", 1.0, Expiry::Never)]).await;
    store
        .write(vec![Operation::Delete("a".into()), index_delete("i", "m"), Operation::Delete("none".into())])
        .await;
    store.write(vec![index_delete("i", "m"), index_delete("none", "m")]).await;
    assert_eq!(store.keys("").await, [""; 0]);
    store.write(vec![index_put("i", "m", 1.0, Expiry::Never), index_put("i", "n", 1.0, Expiry::Never)]).await;
    store.write(vec![Operation::Delete("i".into())]).await;
    assert_eq!(store.keys("").await, [""; 0]);
    assert_eq!(members(store, query("i", Order::Ascending, 10)).await, [""; 0]);
}

/// A key has a value or an index, and using one as the other is an error.
pub async fn values_and_indexes_are_distinct_types(store: &TestStore) {
    store.write(vec![put("value", "1", Expiry::Never), index_put("v:index", "m", 1.0, Expiry::Never)]).await;
    for operation in [index_put("value", "m", 1.0, Expiry::Never), put("v:index", "1", Expiry::Never)] {
        // Operations before it in the batch are not applied either.
        let operations = vec![put("other", "1", Expiry::Never), operation];
        let error = store
            .inner
            .commit(vec![Batch { conditions: Vec::new(), operations }])
            .await
            .expect_err("refused");
        assert_eq!((error.reason, error.effect), (StorageReason::WrongType, Effect::None));
    }
    store.write(vec![index_delete("value", "m")]).await;
    assert_eq!(store.keys("").await, ["v:index", "value"]);
    let error = store.inner.range(query("value", Order::Ascending, 1)).await.expect_err("refused");
    assert_eq!((error.reason, error.effect), (StorageReason::WrongType, Effect::None));
    store.write(vec![index_put("names", "index", 1.0, Expiry::Never)]).await;
    for (with_next, max_value_bytes) in [(true, None), (false, None), (true, Some(1))] {
        let query = Query { with_next, max_value_bytes, ..query("names", Order::Descending, 1) };
        let page = store.inner.range(query).await.expect("a page");
        assert!(matches!(page.entries[0].value, Value::Unreadable(_)), "{page:?}");
        assert!(matches!(get(store, &["v:index"], max_value_bytes).await[0], Value::Unreadable(_)));
    }
}

/// A scan returns the keys with a prefix, with any characters in it.
pub async fn a_scan_takes_its_prefix_literally(store: &TestStore) {
    let prefixes = ["app:", "app:eu:", "app[1]:", "app1:", "a*", "a?", "\\", "%", "_", "app^-:", "é"];
    for prefix in prefixes {
        store.put(&format!("{prefix}x"), "1").await;
        store.write(vec![index_put(&format!("{prefix}i"), "m", 1.0, Expiry::Never)]).await;
    }
    for prefix in prefixes {
        let mut expected: Vec<String> = prefixes
            .iter()
            .flat_map(|other| [format!("{other}i"), format!("{other}x")])
            .filter(|key| key.starts_with(prefix))
            .collect();
        expected.sort();
        assert_eq!(store.keys(prefix).await, expected, "{prefix}");
    }
    let operations = (0..2500).map(|number| put(&format!("many:{number}"), "1", Expiry::Never)).collect();
    store.write(operations).await;
    assert_eq!(store.keys("many:").await.len(), 2500);
    store.put("\u{10ffff}x", "1").await;
    assert_eq!(store.keys("\u{10ffff}").await, ["\u{10ffff}x"]);
}

/// Operations that no store can execute are rejected, and nothing is written.
pub async fn invalid_operations_are_rejected(store: &TestStore) {
    for operation in [
        put("a", "1", Expiry::AfterMs(0)),
        put("a", "1", Expiry::AfterMs(u64::MAX)),
        index_put("i", "m", 1.0, Expiry::AfterMs(u64::MAX)),
        index_put("i", "m", f64::NAN, Expiry::Never),
        index_put("i", "m", f64::INFINITY, Expiry::Never),
        index_put("before", "m", 1.0, Expiry::Never),
        index_delete("before", "m"),
    ] {
        let operations = vec![put("before", "1", Expiry::Never), operation];
        let error = store
            .inner
            .commit(vec![Batch { conditions: Vec::new(), operations }])
            .await
            .expect_err("refused");
        assert_eq!((error.reason, error.effect), (StorageReason::InvalidArgument, Effect::None));
    }
    assert_eq!(store.keys("").await, [""; 0]);
}

/// Of concurrent commits with the same condition, exactly one is applied.
pub async fn concurrent_conditional_puts_have_exactly_one_winner(store: &TestStore) {
    let store = &store.inner;
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let batch = Batch {
                    conditions: vec![vec![Condition::Absent("prize".into())]],
                    operations: vec![put("prize", &number.to_string(), Expiry::Never)],
                };
                store.commit(vec![batch]).await.expect("an outcome")[0]
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += u32::from(task.await.expect("a task"));
    }
    assert_eq!(won, 1);
}
