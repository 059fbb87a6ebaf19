//! The keys and arguments of the scripts that commit.

use std::collections::HashMap;

use crate::store::{Batch, Condition, ExpireMode, Expiry, IndexMax, Operation};

/// The keys and arguments of a call of a script.
pub(crate) struct ScriptArgs<'a> {
    pub(crate) keys: Vec<&'a str>,
    pub(crate) arguments: Vec<Argument<'a>>,
}

/// An argument of a script.
pub(crate) enum Argument<'a> {
    Text(&'a str),
    Owned(String),
}

impl AsRef<[u8]> for Argument<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Owned(text) => text.as_bytes(),
        }
    }
}

/// The call of `put.lua` for the usual save; none for any other commit. `commit.lua` would
/// cost Redis twice as much, because it interprets its arguments.
///
/// The first batch puts a value and then one member with one score into indexes, all
/// with the same expiry. Its conditions: the value is absent or has a prefix, and other
/// keys are absent. A second batch without operations may ask whether the member is the
/// highest one of the first index, by `index-max`.
pub(crate) fn put_args<'a>(batches: &'a [Batch], check: &'a str) -> Option<ScriptArgs<'a>> {
    let (Batch { conditions, operations }, asks_latest) = match batches {
        [put] => (put, false),
        [put, latest] if asks_latest(latest, put) => (put, true),
        _ => return None,
    };
    let [Operation::Put(put), Operation::IndexPut(first), ..] = operations.as_slice() else { return None };
    let mut keys = vec![put.key.as_str()];
    for operation in &operations[1..] {
        match operation {
            Operation::IndexPut(other)
                if (&other.member, other.score, other.expiry) == (&first.member, first.score, put.expiry) =>
            {
                keys.push(&other.index);
            }
            _ => return None,
        }
    }
    let indexes = keys.len() - 1;
    let mut guard = None;
    for alternatives in conditions {
        match alternatives.as_slice() {
            [Condition::Absent(key), Condition::StartsWith(prefix)]
                if guard.is_none()
                    && [key, &prefix.key] == [&put.key; 2]
                    // GETRANGE can't read zero bytes.
                    && !prefix.text.is_empty() =>
            {
                guard = Some(prefix.text.as_str());
            }
            [Condition::Absent(key)] => keys.push(key),
            _ => return None,
        }
    }
    let arguments = vec![
        Argument::Text(check),
        Argument::Owned(indexes.to_string()),
        Argument::Text(guard?),
        expiry_argument(put.expiry),
        Argument::Text(&put.value),
        Argument::Text(&first.member),
        score_argument(first.score),
        Argument::Text(if asks_latest { "latest" } else { "" }),
    ];
    Some(ScriptArgs { keys, arguments })
}

/// Whether the second batch of a save only asks whether the new member is the highest one
/// of the first index.
fn asks_latest(latest: &Batch, save: &Batch) -> bool {
    let [Operation::Put(put), Operation::IndexPut(index), ..] = save.operations.as_slice() else {
        return false;
    };
    let [alternatives] = latest.conditions.as_slice() else { return false };
    let [Condition::IndexMax(max)] = alternatives.as_slice() else { return false };
    latest.operations.is_empty()
        && max.index == index.index
        && max.excluding.is_empty()
        && max.member.as_ref() == Some(&index.member)
        && (max.upper_bound.score, &max.upper_bound.member) == (index.score, &index.member)
        && put.key.strip_suffix(index.member.as_str()) == Some(max.value_key_prefix.as_str())
}

/// The call of `commit.lua`: each key once, first those of values that are put, then the
/// indexes that are put into, then the others.
pub(crate) fn commit_args<'a>(batches: &'a [Batch], check: &'a str) -> ScriptArgs<'a> {
    let mut keys = KeyTable::default();
    let operations = || batches.iter().flat_map(|batch| &batch.operations);
    for operation in operations() {
        if let Operation::Put(put) = operation {
            keys.number_of(&put.key);
        }
    }
    let values = keys.keys.len();
    for operation in operations() {
        if let Operation::IndexPut(put) = operation {
            keys.number_of(&put.index);
        }
    }
    let indexes = keys.keys.len() - values;
    let counts = [values, indexes];
    let mut arguments = Vec::from(counts.map(|count| Argument::Owned(count.to_string())));
    arguments.push(Argument::Text(check));
    for batch in batches {
        arguments.push(Argument::Owned(batch.conditions.len().to_string()));
        for alternatives in &batch.conditions {
            arguments.push(Argument::Owned(alternatives.len().to_string()));
            for condition in alternatives {
                let (name, key, rest) = match condition {
                    Condition::Absent(key) => ("absent", key, vec![]),
                    Condition::StartsWith(prefix) => {
                        ("starts-with", &prefix.key, vec![Argument::Text(&prefix.text)])
                    }
                    Condition::IndexHas(member) => {
                        ("index-has", &member.index, vec![Argument::Text(&member.member)])
                    }
                    Condition::IndexSizeAtMost(size) => {
                        ("index-size-at-most", &size.index, vec![Argument::Owned(size.size.to_string())])
                    }
                    Condition::IndexMax(max) => ("index-max", &max.index, index_max_arguments(max)),
                };
                arguments.extend([Argument::Text(name), keys.number_of(key)]);
                arguments.extend(rest);
            }
        }
        arguments.push(Argument::Owned(batch.operations.len().to_string()));
        for operation in &batch.operations {
            match operation {
                Operation::Put(put) => arguments.extend([
                    Argument::Text("put"),
                    keys.number_of(&put.key),
                    Argument::Text(&put.value),
                    expiry_argument(put.expiry),
                ]),
                Operation::Delete(key) => arguments.extend([Argument::Text("delete"), keys.number_of(key)]),
                Operation::IndexPut(put) => arguments.extend([
                    Argument::Text("index-put"),
                    keys.number_of(&put.index),
                    Argument::Text(&put.member),
                    score_argument(put.score),
                    expiry_argument(put.expiry),
                ]),
                Operation::IndexDelete(member) => arguments.extend([
                    Argument::Text("index-delete"),
                    keys.number_of(&member.index),
                    Argument::Text(&member.member),
                ]),
                Operation::Expire(expire) => arguments.extend([
                    Argument::Text("expire"),
                    keys.number_of(&expire.key),
                    expiry_argument(expire.expiry),
                    Argument::Text(if expire.mode == ExpireMode::Set { "set" } else { "" }),
                ]),
            }
        }
    }
    ScriptArgs { keys: keys.keys, arguments }
}

/// The keys of a call, each with its number in Lua.
#[derive(Default)]
struct KeyTable<'a> {
    keys: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
}

impl<'a> KeyTable<'a> {
    fn number_of(&mut self, key: &'a str) -> Argument<'a> {
        let number = *self.numbers.entry(key).or_insert_with(|| {
            self.keys.push(key);
            self.keys.len()
        });
        Argument::Owned(number.to_string())
    }
}

fn index_max_arguments(max: &IndexMax) -> Vec<Argument<'_>> {
    let mut arguments = vec![Argument::Text(&max.value_key_prefix)];
    arguments.push(Argument::Owned(max.excluding.len().to_string()));
    arguments.extend(max.excluding.iter().map(|member| Argument::Text(member)));
    match &max.member {
        Some(member) => arguments.extend([Argument::Text("one"), Argument::Text(member)]),
        None => arguments.push(Argument::Text("none")),
    }
    arguments.push(score_argument(max.upper_bound.score));
    arguments.push(Argument::Text(&max.upper_bound.member));
    arguments
}

/// The shortest text that is parsed as the same double.
fn score_argument(score: f64) -> Argument<'static> {
    Argument::Owned(score.to_string())
}

fn expiry_argument(expiry: Expiry) -> Argument<'static> {
    match expiry {
        Expiry::Never => Argument::Text("never"),
        Expiry::AfterMs(milliseconds) => Argument::Owned(milliseconds.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{IndexPut, Position, Put, ValuePrefix};

    fn save() -> [Batch; 2] {
        let (expiry, score) = (Expiry::AfterMs(9), 1.5);
        let index_put = |index: &str| {
            Operation::IndexPut(IndexPut { index: index.to_owned(), member: "id".to_owned(), score, expiry })
        };
        let put = Put { key: "document:id".to_owned(), value: "text".to_owned(), expiry };
        let guard = ValuePrefix { key: put.key.clone(), text: "t".to_owned() };
        let conditions = vec![
            vec![Condition::Absent(put.key.clone()), Condition::StartsWith(guard)],
            vec![Condition::Absent("pin".to_owned())],
        ];
        let max = IndexMax {
            index: "session".to_owned(),
            value_key_prefix: "document:".to_owned(),
            excluding: Vec::new(),
            member: Some("id".to_owned()),
            upper_bound: Position { score, member: "id".to_owned() },
        };
        let operations = vec![Operation::Put(put), index_put("session"), index_put("run")];
        let latest = Batch { conditions: vec![vec![Condition::IndexMax(max)]], operations: Vec::new() };
        [Batch { conditions, operations }, latest]
    }

    #[test]
    fn usual_save_takes_put_lua() {
        let batches = save();
        for (batches, question) in [(&batches[..], "latest"), (&batches[..1], "")] {
            let args = put_args(batches, "").expect("put.lua");
            assert_eq!(args.keys, ["document:id", "session", "run", "pin"]);
            assert!(matches!(args.arguments[..], [.., Argument::Text(last)] if last == question));
        }
    }

    #[test]
    fn other_commits_take_commit_lua() {
        let changes: [fn(&mut [Batch; 2]); 5] = [
            |[_, latest]| latest.operations.push(Operation::Delete("k".to_owned())),
            |[_, latest]| latest.conditions.clear(),
            |[save, _]| save.conditions.truncate(0),
            |[save, _]| save.operations.truncate(1),
            |[save, _]| save.operations.push(Operation::Delete("k".to_owned())),
        ];
        for change in changes {
            let mut batches = save();
            change(&mut batches);
            assert!(put_args(&batches, "").is_none());
        }
        let changes: [fn(&mut IndexMax); 5] = [
            |max| max.index = "run".to_owned(),
            |max| max.value_key_prefix = "doc".to_owned(),
            |max| max.excluding.push("x".to_owned()),
            |max| max.member = None,
            |max| max.upper_bound.score = 2.0,
        ];
        for change in changes {
            let mut batches = save();
            let Condition::IndexMax(max) = &mut batches[1].conditions[0][0] else { unreachable!() };
            change(max);
            assert!(put_args(&batches, "").is_none());
        }
    }
}
