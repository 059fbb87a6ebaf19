//! The logic without a host, against a store in a few lines of memory: what it
//! asks of a store, and what it does when others get in between.
//!
//! What callers see is in the contract in `tests/`, over real stores.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use checkpointer_guest::keyvalue::{
    Batch, Condition, Effect, Entry, Expire, Expiry, IndexPage, IndexPut, KeyPage, Keyvalue, Operation,
    Order, Position, Put, Query, StorageError, StorageReason, Value,
};
use checkpointer_guest::{
    Checkpoint, Checkpointer, Conflict, Error, Lifetime, Metadata, Options, Outcome, Run, Ttl,
};

/// A store with a clock that tests set. Clones share what is in it.
#[derive(Clone, Default)]
struct Fake {
    shared: Rc<Shared>,
}

/// When something expires, if ever.
type Until = Option<u64>;

/// The members of an index with their scores.
type Members = BTreeMap<String, f64>;

#[derive(Default)]
struct Shared {
    now: Cell<u64>,
    values: RefCell<BTreeMap<String, (String, Until)>>,
    indexes: RefCell<BTreeMap<String, (Members, Until)>>,
    /// What was asked of the store.
    calls: RefCell<Vec<&'static str>>,
    /// What somebody else does just before the next commit.
    interruption: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Fake {
    fn value(&self, key: &str) -> Option<String> {
        let values = self.shared.values.borrow();
        let (value, until) = values.get(key)?;
        until.is_none_or(|until| until > self.shared.now.get()).then(|| value.clone())
    }

    fn members(&self, index: &str) -> Members {
        let indexes = self.shared.indexes.borrow();
        let Some((members, until)) = indexes.get(index) else { return Members::new() };
        if until.is_none_or(|until| until > self.shared.now.get()) {
            members.clone()
        } else {
            BTreeMap::new()
        }
    }

    fn read(&self, key: &str, head: Option<u32>) -> Value {
        match (self.value(key), head) {
            (None, _) => Value::Absent,
            (Some(value), Some(head)) if value.len() > head as usize => {
                Value::Head(value[..head as usize].to_owned())
            }
            (Some(value), _) => Value::Text(value),
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Absent(key) => self.value(key).is_none() && self.members(key).is_empty(),
            Condition::StartsWith(wanted) => {
                self.value(&wanted.key).is_some_and(|value| value.starts_with(&wanted.text))
            }
            Condition::IndexHighest(wanted) => {
                let counts = |member: &String| {
                    !wanted.besides.contains(member)
                        && self.value(&format!("{}{member}", wanted.values_at)).is_some()
                };
                let members = self.members(&wanted.index).into_iter();
                let highest = members
                    .filter(|(member, _)| counts(member))
                    .max_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
                let at_most = &wanted.at_most;
                highest.as_ref().map(|(member, _)| member) == wanted.member.as_ref()
                    && highest.is_none_or(|(a, x)| (x, &a) <= (at_most.score, &at_most.member))
            }
            Condition::IndexAtMost(most) => self.members(&most.index).len() as u64 <= most.size,
            Condition::IndexHas(wanted) => self.members(&wanted.index).contains_key(&wanted.member),
        }
    }

    fn until(&self, expiry: Expiry) -> Option<u64> {
        match expiry {
            Expiry::Never => None,
            Expiry::AfterMs(milliseconds) => Some(self.shared.now.get() + milliseconds),
        }
    }

    fn apply(&self, operation: &Operation) {
        match operation {
            Operation::Put(put) => {
                let value = (put.value.clone(), self.until(put.expiry));
                self.shared.values.borrow_mut().insert(put.key.clone(), value);
            }
            Operation::Delete(key) => drop(self.shared.values.borrow_mut().remove(key)),
            Operation::IndexPut(put) => {
                let mut members = self.members(&put.index);
                let new = members.is_empty();
                members.insert(put.member.clone(), put.score);
                let mut indexes = self.shared.indexes.borrow_mut();
                let mut until = indexes.get(&put.index).and_then(|(_, until)| *until);
                self.expire(&mut until, put.expiry, new);
                indexes.insert(put.index.clone(), (members, until));
            }
            Operation::IndexDelete(gone) => {
                let mut indexes = self.shared.indexes.borrow_mut();
                if let Some((members, _)) = indexes.get_mut(&gone.index) {
                    members.remove(&gone.member);
                    if members.is_empty() {
                        indexes.remove(&gone.index);
                    }
                }
            }
            Operation::Expire(expire) => {
                let (there, Expire { key, expiry, shorten }) = (self.value(&expire.key).is_some(), expire);
                match self.shared.values.borrow_mut().get_mut(key) {
                    Some((_, until)) if there => self.expire(until, *expiry, *shorten),
                    _ => {}
                }
                if let (false, Some((_, until))) =
                    (self.members(key).is_empty(), self.shared.indexes.borrow_mut().get_mut(key))
                {
                    self.expire(until, *expiry, *shorten);
                }
            }
        }
    }

    fn expire(&self, until: &mut Until, expiry: Expiry, shorten: bool) {
        *until = match (*until, self.until(expiry)) {
            (_, new) if shorten => new,
            (Some(old), Some(new)) => Some(old.max(new)),
            (None, _) | (_, None) => None,
        };
    }

    fn calls(&self) -> Vec<&'static str> {
        self.shared.calls.take()
    }

    fn interrupt<T>(&self, interruption: impl FnOnce() -> T + 'static) {
        *self.shared.interruption.borrow_mut() = Some(Box::new(|| drop(interruption())));
    }
}

impl Keyvalue for Fake {
    fn get(&self, keys: &[String], head: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.shared.calls.borrow_mut().push("get");
        Ok(keys.iter().map(|key| self.read(key, head)).collect())
    }

    fn range(&self, query: &Query) -> Result<IndexPage, StorageError> {
        self.shared.calls.borrow_mut().push("range");
        let mut members: Vec<_> = self.members(&query.index).into_iter().collect();
        members.sort_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
        if query.order == Order::Descending {
            members.reverse();
        }
        if let Some(after) = &query.after {
            let behind = |member: &(String, f64)| {
                let order = member.1.total_cmp(&after.score).then_with(|| member.0.cmp(&after.member));
                if query.order == Order::Ascending { order.is_gt() } else { order.is_lt() }
            };
            members.retain(behind);
        }
        let size = query.counted.then(|| self.members(&query.index).len() as u64);
        let more = members.len() > query.limit as usize;
        members.truncate(query.limit as usize);
        let last = members.last().filter(|_| more && query.resumable);
        let next = last.map(|(member, score)| Position { score: *score, member: member.clone() });
        let entry = |(member, score): (String, f64)| Entry {
            score: query.resumable.then_some(score),
            value: self.read(&format!("{}{member}", query.values_at), query.head),
            member,
        };
        Ok(IndexPage { entries: members.into_iter().map(entry).collect(), next, size })
    }

    fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, StorageError> {
        if let Some(interruption) = self.shared.interruption.take() {
            interruption();
        }
        self.shared.calls.borrow_mut().push("commit");
        let apply = |batch: &Batch| {
            let holds = batch.conditions.iter().all(|any| any.iter().any(|condition| self.holds(condition)));
            if holds {
                batch.operations.iter().for_each(|operation| self.apply(operation));
            }
            holds
        };
        Ok(batches.iter().map(apply).collect())
    }

    fn scan(&self, prefix: &str, _: Option<&str>) -> Result<KeyPage, StorageError> {
        self.shared.calls.borrow_mut().push("scan");
        let values = self.shared.values.borrow();
        let indexes = self.shared.indexes.borrow();
        let keys =
            values.keys().chain(indexes.keys()).filter(|key| key.starts_with(prefix)).cloned().collect();
        Ok(KeyPage { keys, next: None })
    }
}

fn options(ttl_ms: Option<u64>) -> Options {
    Options {
        bucket: "default".into(),
        prefix: "p:".into(),
        ttl: ttl_ms.map(|milliseconds| Ttl {
            milliseconds,
            lifetime: Lifetime::OfCheckpoint,
            refresh_on_read: false,
        }),
        max_state_bytes: None,
        compress: false,
        max_checkpoints: None,
    }
}

fn open_with<K: Keyvalue>(store: K, options: &Options) -> Checkpointer<K> {
    Checkpointer::open(store, options).expect("a checkpointer")
}

fn open<K: Keyvalue>(store: K, ttl_ms: Option<u64>) -> Checkpointer<K> {
    open_with(store, &options(ttl_ms))
}

fn checkpoint(session: &str, id: &str, run: &str, second: u32) -> Checkpoint {
    let run = Run {
        run_id: run.into(),
        prev_node: "a".into(),
        updated_fields: Vec::new(),
        attempt: None,
        dispatch_id: None,
    };
    let metadata = Metadata {
        session_id: session.into(),
        checkpoint_id: id.into(),
        timestamp: format!("2026-01-01T00:00:{second:02}+00:00"),
        node: "b".into(),
        step: 1,
        run: Some(run),
    };
    Checkpoint { metadata, state: "{}".into() }
}

fn ids(checkpointer: &Checkpointer<Fake>, session: &str) -> Vec<String> {
    let history = checkpointer.list(session, None).expect("a history");
    history.checkpoints.into_iter().map(|checkpoint| checkpoint.metadata.checkpoint_id).collect()
}

#[test]
fn each_operation_asks_the_store_as_little_as_it_can() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    for number in 0..5 {
        checkpointer.save(checkpoint("s", &format!("c{number}"), "r", number)).expect("saved");
    }
    assert_eq!(store.calls(), ["commit"; 5]);
    checkpointer.load("s", None).expect("loaded");
    assert_eq!(store.calls(), ["range"]);
    checkpointer.load("s", Some("c1")).expect("loaded");
    assert_eq!(store.calls(), ["get"]);
    checkpointer.list("s", None).expect("listed");
    assert_eq!(store.calls(), ["range"]);
    checkpointer.list("s", Some(0)).expect("listed");
    assert_eq!(store.calls(), [""; 0]);
    checkpointer.delete("s", Some("c1")).expect("deleted");
    assert_eq!(store.calls(), ["get", "commit"]);
    checkpointer.delete("s", None).expect("deleted");
    assert_eq!(store.calls(), ["range", "commit"]);
}

#[test]
fn a_save_that_another_session_overtakes_is_a_conflict() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    store.interrupt(move || theirs.save(checkpoint("theirs", "c", "r", 1)).expect("saved"));
    assert!(matches!(ours.save(checkpoint("ours", "c", "r", 2)), Err(Error::Conflict(_))));
    assert_eq!((ids(&ours, "ours"), ids(&ours, "theirs")), (Vec::new(), vec!["c".to_owned()]));
}

#[test]
fn a_save_that_a_delete_overtakes_begins_again() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    ours.save(checkpoint("s", "c", "old", 1)).expect("saved");
    store.calls();
    // The first commit is refused, since the run changes; the second is
    // overtaken.
    let between = store.clone();
    store.interrupt(move || {
        between.interrupt(move || assert_eq!(theirs.delete("s", None), Ok(1)));
    });
    ours.save(checkpoint("s", "c", "new", 2)).expect("saved");
    assert_eq!(ids(&ours, "s"), ["c"]);
    assert_eq!(store.members("p:session:s:run:new").len(), 1);
    assert_eq!(store.members("p:session:s:run:old").len(), 0);
}

#[test]
fn a_delete_that_a_save_overtakes_removes_what_is_there_then() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), None), open(store.clone(), None));
    ours.save(checkpoint("s", "c", "r1", 1)).expect("saved");
    store.interrupt(move || theirs.save(checkpoint("s", "c", "r2", 2)).expect("saved"));
    assert_eq!(ours.delete("s", None), Ok(1));
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn an_entry_that_is_saved_again_just_before_it_is_swept_stays() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), None));
    theirs.save(checkpoint("s", "old", "r", 1)).expect("saved");
    ours.save(checkpoint("s", "c", "r", 2)).expect("saved");
    store.shared.now.set(100);
    let again = checkpoint("s", "c", "r", 3);
    store.interrupt(move || theirs.save(again).expect("saved"));
    // It was not there when the list was read.
    assert_eq!(ids(&ours, "s"), ["old"]);
    assert_eq!(ids(&ours, "s"), ["c", "old"]);
}

#[test]
fn a_document_whose_head_does_not_say_whose_it_is_is_read_as_a_whole() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    checkpointer.save(checkpoint("s", "c", "r", 1)).expect("saved");
    let document = store.value("p:checkpoint:c").expect("a document");
    let members = document.strip_suffix(", \"state\": {}}").and_then(|text| text.strip_prefix('{'));
    let state = format!("{{\"state\": \"{}\", {}}}", "x".repeat(5000), members.expect("as we write it"));
    store.shared.values.borrow_mut().insert("p:checkpoint:c".into(), (state, None));
    store.calls();
    assert_eq!(checkpointer.delete("s", None), Ok(1));
    assert_eq!(store.calls(), ["range", "get", "commit"]);
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn deleting_a_session_takes_what_expired_out_of_its_runs() {
    let store = Fake::default();
    let (stays, goes) = (open(store.clone(), None), open(store.clone(), Some(100)));
    stays.save(checkpoint("s", "a", "r", 1)).expect("saved");
    goes.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(100);
    // The session's index loses the entry in passing, that of the run does not.
    assert_eq!(ids(&stays, "s"), ["a"]);
    assert_eq!(store.members("p:session:s:run:r").len(), 2);
    assert_eq!(stays.delete("s", None), Ok(1));
    store.shared.values.borrow_mut().clear();
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn what_expired_makes_room_once_it_is_seen() {
    let store = Fake::default();
    let limited = |ttl_ms| Options { max_checkpoints: Some(3), ..options(ttl_ms) };
    let (stays, goes) =
        (open_with(store.clone(), &limited(None)), open_with(store.clone(), &limited(Some(100))));
    stays.save(checkpoint("s", "b", "r", 2)).expect("saved");
    stays.save(checkpoint("s", "c", "r", 3)).expect("saved");
    goes.save(checkpoint("s", "a", "r", 1)).expect("saved");
    store.shared.now.set(100);
    stays.save(checkpoint("s", "d", "r", 4)).expect("saved");
    assert_eq!(ids(&stays, "s"), ["d", "c", "b"]);
    // The same id again, whose entry is still there.
    goes.save(checkpoint("t", "z", "r", 9)).expect("saved");
    stays.save(checkpoint("t", "x", "r", 1)).expect("saved");
    stays.save(checkpoint("t", "y", "r", 2)).expect("saved");
    store.shared.now.set(200);
    stays.save(checkpoint("t", "z", "r", 9)).expect("saved");
    assert_eq!(ids(&stays, "t"), ["z", "y", "x"]);
}

#[test]
fn a_session_of_many_pages_lives_and_goes_as_a_whole() {
    let store = Fake::default();
    let of_session = |milliseconds| {
        let ttl = Ttl { milliseconds, lifetime: Lifetime::OfSession, refresh_on_read: true };
        open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) })
    };
    let (short, long) = (of_session(100), of_session(1000));
    let each_by_itself = open(store.clone(), Some(100));
    for number in 0..650 {
        each_by_itself.save(checkpoint("s", &format!("c{number}"), "r", number % 60)).expect("saved");
    }
    let count = |checkpointer: &Checkpointer<Fake>| {
        checkpointer.list("s", Some(1000)).expect("a list").checkpoints.len()
    };
    store.shared.now.set(99);
    store.calls();
    long.save(checkpoint("s", "last", "r", 59)).expect("saved");
    assert_eq!(store.calls(), ["range", "commit"].repeat(4));
    store.shared.now.set(1098);
    assert!(short.load("s", Some("last")).expect("loaded").is_some());
    store.shared.now.set(1197);
    assert_eq!(open(store.clone(), None).list("s", Some(1000)).expect("a list").checkpoints.len(), 651);
    assert_eq!(short.pin("s", None), Ok(651));
    store.shared.now.set(5000);
    assert_eq!(count(&short), 651);
    assert_eq!(short.unpin("s", None), Ok(651));
    store.shared.now.set(5100);
    assert_eq!(count(&short), 0);
}

#[test]
fn a_pin_that_comes_between_holds_for_the_save_that_it_overtakes() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), None));
    store.interrupt(move || assert_eq!(theirs.pin("s", None), Ok(0)));
    ours.save(checkpoint("s", "c", "r", 1)).expect("saved");
    store.shared.now.set(100);
    assert_eq!(ids(&ours, "s"), ["c"]);
    // And the other way round.
    let theirs = open(store.clone(), Some(100));
    store.interrupt(move || assert_eq!(theirs.unpin("s", None), Ok(1)));
    ours.save(checkpoint("s", "d", "r", 2)).expect("saved");
    store.shared.now.set(200);
    assert_eq!(ids(&ours, "s"), [""; 0]);
}

#[test]
fn a_save_that_is_refused_lets_nothing_live_longer() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, lifetime: Lifetime::OfSession, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    checkpointer.save(checkpoint("s", "a", "r", 1)).expect("saved");
    checkpointer.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(50);
    // It stands there already, in the same run, but is not the latest.
    let refused = checkpointer.save_after(checkpoint("s", "a", "r", 0), Some("a"));
    assert!(matches!(refused, Err(Error::Conflict(_))));
    store.shared.now.set(100);
    assert_eq!(ids(&checkpointer, "s"), [""; 0]);
}

#[test]
fn of_a_long_session_the_latest_lives_longest_whatever_fails() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, lifetime: Lifetime::OfSession, refresh_on_read: true };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let each_by_itself = open(store.clone(), Some(100));
    for number in 0..400 {
        each_by_itself.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    store.shared.now.set(60);
    // Refused, it leaves all of the session as it was.
    let refused = checkpointer.save_after(checkpoint("s", "n", "r", 59), Some("c000"));
    assert!(matches!(refused, Err(Error::Conflict(_))));
    // Time goes on between two pages: the newest are refreshed first.
    store.shared.now.set(99);
    let later = store.clone();
    store.interrupt(move || {
        let even_later = later.clone();
        later.interrupt(move || even_later.shared.now.set(100));
    });
    assert!(checkpointer.load("s", None).expect("loaded").is_some());
    assert_eq!(ids(&each_by_itself, "s")[0], "c399");
}

#[test]
fn of_a_long_session_that_took_several_steps_nothing_outlives_the_latest() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, lifetime: Lifetime::OfSession, refresh_on_read: true };
    let whole = Options { ttl: Some(ttl), ..options(None) };
    let checkpointer = open_with(store.clone(), &whole);
    let each_by_itself = open(store.clone(), Some(100));
    for number in 0..400 {
        each_by_itself.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    // Time goes on between the steps of a save, and of a read.
    let slow = |step: u64| {
        let (later, store) = (store.clone(), store.clone());
        store.interrupt(move || {
            let even_later = later.clone();
            later.interrupt(move || even_later.shared.now.set(step));
        });
    };
    slow(5);
    checkpointer.save_after(checkpoint("s", "latest", "r", 59), Some("c399")).expect("saved");
    slow(10);
    assert!(checkpointer.load("s", None).expect("loaded").is_some());
    for now in 100..111 {
        store.shared.now.set(now);
        let latest = each_by_itself.load("s", None).expect("loaded");
        assert!(latest.is_none_or(|latest| latest.metadata.checkpoint_id == "latest"), "at {now}");
    }
    assert_eq!(ids(&each_by_itself, "s"), [""; 0]);
}

#[test]
fn a_save_that_is_repeated_goes_on_with_the_life_of_its_session() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, lifetime: Lifetime::OfSession, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let each_by_itself = open(store.clone(), Some(100));
    for number in 0..400 {
        each_by_itself.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    store.shared.now.set(50);
    each_by_itself.save(checkpoint("s", "latest", "r", 59)).expect("saved");
    // As if the first try had been cut after its first step.
    checkpointer.save_after(checkpoint("s", "latest", "r", 59), Some("c399")).expect("there already");
    store.shared.now.set(149);
    assert_eq!(each_by_itself.list("s", Some(1000)).expect("a list").checkpoints.len(), 401);
}

#[test]
fn the_end_of_a_pin_holds_for_the_rest_of_a_save_that_it_overtakes() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 100, lifetime: Lifetime::OfSession, refresh_on_read: false };
    let checkpointer = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let theirs = open(store.clone(), Some(100));
    for number in 0..400 {
        theirs.save(checkpoint("s", &format!("c{number:03}"), "r", number / 10)).expect("saved");
    }
    theirs.pin("s", None).expect("pinned");
    // The first commit is refused, since the session is pinned; the second saves.
    let (second, third) = (store.clone(), store.clone());
    store.interrupt(move || {
        second.interrupt(move || third.interrupt(move || assert_eq!(theirs.unpin("s", None), Ok(401))));
    });
    checkpointer.save(checkpoint("s", "latest", "r", 59)).expect("saved");
    store.shared.now.set(100);
    assert_eq!(ids(&checkpointer, "s"), [""; 0]);
}

#[test]
fn a_checkpoint_that_moves_to_another_session_gets_no_life_of_the_one_it_was_in() {
    let store = Fake::default();
    let ttl = Ttl { milliseconds: 1000, lifetime: Lifetime::OfSession, refresh_on_read: false };
    let ours = open_with(store.clone(), &Options { ttl: Some(ttl), ..options(None) });
    let theirs = open(store.clone(), Some(50));
    ours.save(checkpoint("s", "a", "r", 1)).expect("saved");
    store.interrupt(move || {
        assert_eq!(theirs.delete("s", Some("a")), Ok(1));
        theirs.save(checkpoint("t", "a", "r", 1)).expect("saved");
    });
    ours.save(checkpoint("s", "b", "r", 2)).expect("saved");
    store.shared.now.set(50);
    assert_eq!((ids(&ours, "s"), ids(&ours, "t")), (vec!["b".to_owned()], Vec::new()));
}

#[test]
fn of_a_pin_and_its_end_at_once_what_is_marked_stays() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), Some(100)));
    ours.save(checkpoint("s", "a", "r", 1)).expect("saved");
    ours.pin("s", None).expect("pinned");
    let between = store.clone();
    // Before the second step of the end.
    store.interrupt(move || between.interrupt(move || assert_eq!(theirs.pin("s", None), Ok(1))));
    assert_eq!(ours.unpin("s", None), Ok(0));
    store.shared.now.set(100);
    assert_eq!(ids(&ours, "s"), ["a"]);
    // Nor does one of a pinned session go away.
    assert_eq!(ours.unpin("s", Some("a")), Ok(1));
    store.shared.now.set(200);
    assert_eq!(ids(&ours, "s"), ["a"]);
}

#[test]
fn a_delete_takes_what_was_saved_while_the_session_was_pinned() {
    let store = Fake::default();
    let (ours, theirs) = (open(store.clone(), Some(100)), open(store.clone(), Some(100)));
    for session in ["s", "t"] {
        ours.save(checkpoint(session, session, "r", 1)).expect("saved");
        ours.pin(session, None).expect("pinned");
    }
    store.interrupt(move || theirs.save(checkpoint("s", "b", "r", 2)).expect("saved"));
    assert_eq!(ours.delete("s", None), Ok(2));
    assert_eq!(ids(&ours, "s"), [""; 0]);
    assert_eq!(ours.clear_all(), Ok(1));
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
}

#[test]
fn a_limit_does_not_count_what_is_another_sessions() {
    let store = Fake::default();
    let limited = open_with(store.clone(), &Options { max_checkpoints: Some(2), ..options(None) });
    let unlimited = open(store.clone(), None);
    // As llmfy leaves it: an id that another session has taken over.
    unlimited.save(checkpoint("s", "stray", "r", 50)).expect("saved");
    let theirs = checkpoint("t", "stray", "r", 50);
    let document = store.value("p:checkpoint:stray").expect("a document").replace("\"s\"", "\"t\"");
    store.shared.values.borrow_mut().insert("p:checkpoint:stray".into(), (document, None));
    assert_eq!(unlimited.load("t", Some("stray")).expect("loaded"), Some(theirs));
    for number in 1..4 {
        let saved = limited.save(checkpoint("s", &format!("c{number}"), "r", number));
        assert_eq!(saved, Ok(Outcome::Kept));
    }
    assert_eq!(ids(&limited, "s"), ["c3", "c2"]);
}

#[test]
fn what_stands_in_the_index_of_a_session_is_not_its_latest_for_that() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    // The run of one session, and a session of the same name.
    checkpointer.save(checkpoint("s", "theirs", "r", 1)).expect("saved");
    let refused = checkpointer.save_after(checkpoint("s:run:r", "n", "q", 2), Some("theirs"));
    assert!(matches!(refused, Err(Error::Conflict(Conflict::Latest(None)))), "{refused:?}");
    checkpointer.save_after(checkpoint("s:run:r", "n", "q", 2), None).expect("saved");
    checkpointer.save_after(checkpoint("s:run:r", "o", "q", 3), Some("n")).expect("saved");
    // Nor does the spelling of its document make it another's.
    let document = store.value("p:checkpoint:o").expect("a document").replace("{\"", "{ \"");
    store.shared.values.borrow_mut().insert("p:checkpoint:o".into(), (document, None));
    checkpointer.save_after(checkpoint("s:run:r", "p", "q", 4), Some("o")).expect("saved");
}

#[test]
fn too_many_of_others_above_the_latest_are_said_to_be_the_reason() {
    let store = Fake::default();
    let checkpointer = open(store.clone(), None);
    // A run of one session, and a session of the same name.
    for number in 0..1100 {
        checkpointer.save(checkpoint("a", &format!("c{number}"), "b", 50)).expect("saved");
    }
    checkpointer.save(checkpoint("a:run:b", "own", "r", 1)).expect("saved");
    let refused = checkpointer.save_after(checkpoint("a:run:b", "n", "r", 2), Some("other"));
    assert!(
        matches!(&refused, Err(Error::Storage(error)) if error.reason == StorageReason::Unsupported && error.effect == Effect::None),
        "{refused:?}"
    );
}

/// A store that keeps everything for good, and says so.
struct Unexpiring(Fake);

impl Keyvalue for Unexpiring {
    fn get(&self, keys: &[String], head: Option<u32>) -> Result<Vec<Value>, StorageError> {
        self.0.get(keys, head)
    }

    fn range(&self, query: &Query) -> Result<IndexPage, StorageError> {
        self.0.range(query)
    }

    fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, StorageError> {
        let expires = |operation: &Operation| {
            let (Operation::Put(Put { expiry, .. })
            | Operation::IndexPut(IndexPut { expiry, .. })
            | Operation::Expire(Expire { expiry, .. })) = operation
            else {
                return false;
            };
            *expiry != Expiry::Never
        };
        if batches.iter().flat_map(|batch| &batch.operations).any(expires) {
            let (reason, effect) = (StorageReason::Unsupported, Effect::None);
            return Err(StorageError { reason, effect, message: "nothing expires here".into() });
        }
        self.0.commit(batches)
    }

    fn scan(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, StorageError> {
        self.0.scan(prefix, after)
    }
}

#[test]
fn a_ttl_that_a_store_cannot_keep_is_refused_and_nothing_is_written() {
    let store = Fake::default();
    let with_ttl = open(Unexpiring(store.clone()), Some(1000));
    let refused = with_ttl.save(checkpoint("s", "c", "r", 1));
    assert!(
        matches!(&refused, Err(Error::Storage(error)) if error.reason == StorageReason::Unsupported && error.effect == Effect::None),
        "{refused:?}"
    );
    assert_eq!(store.scan("", None).expect("keys").keys, [""; 0]);
    open(Unexpiring(store), None).save(checkpoint("s", "c", "r", 1)).expect("saved");
}

/// A store that is out of reach for everything.
struct Down;

fn down<T>() -> Result<T, StorageError> {
    Err(StorageError { reason: StorageReason::Unavailable, effect: Effect::None, message: "down".into() })
}

impl Keyvalue for Down {
    fn get(&self, _: &[String], _: Option<u32>) -> Result<Vec<Value>, StorageError> {
        down()
    }

    fn range(&self, _: &Query) -> Result<IndexPage, StorageError> {
        down()
    }

    fn commit(&self, _: &[Batch]) -> Result<Vec<bool>, StorageError> {
        down()
    }

    fn scan(&self, _: &str, _: Option<&str>) -> Result<KeyPage, StorageError> {
        down()
    }
}

#[test]
fn a_store_that_is_down_is_never_an_empty_one() {
    let checkpointer = open(Down, None);
    let is_down =
        |error: Option<Error>| matches!(error, Some(Error::Storage(error)) if error.message == "down");
    assert!(is_down(checkpointer.load("s", None).err()));
    assert!(is_down(checkpointer.load("s", Some("c")).err()));
    assert!(is_down(checkpointer.list("s", None).err()));
    assert!(is_down(checkpointer.save(checkpoint("s", "c", "r", 1)).err()));
    assert!(is_down(checkpointer.delete("s", None).err()));
    assert!(is_down(checkpointer.delete("s", Some("c")).err()));
    assert!(is_down(checkpointer.clear_all().err()));
}
