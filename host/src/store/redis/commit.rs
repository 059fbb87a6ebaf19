//! A commit of any batches, as `commit.lua` takes it.

use std::collections::HashMap;

use crate::store::{Batch, Condition, ExpireMode, Expiry, IndexMax, Operation};

/// What `commit.lua` is called with: each key once, those that are put first,
/// then the indexes that are put into, then the others.
pub struct CommitCall<'a> {
    pub keys: Vec<&'a str>,
    pub arguments: Vec<Argument<'a>>,
}

/// An argument of a script.
pub enum Argument<'a> {
    Text(&'a str),
    Own(String),
}

impl AsRef<[u8]> for Argument<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Own(text) => text.as_bytes(),
        }
    }
}

impl<'a> CommitCall<'a> {
    /// The call for these batches.
    pub fn of(batches: &'a [Batch], check: &'a str) -> Self {
        let mut numbers = KeyNumbers::default();
        let operations = || batches.iter().flat_map(|batch| &batch.operations);
        for operation in operations() {
            if let Operation::Put(put) = operation {
                numbers.of(&put.key);
            }
        }
        let put = numbers.keys.len();
        for operation in operations() {
            if let Operation::IndexPut(put) = operation {
                numbers.of(&put.index);
            }
        }
        let indexes = numbers.keys.len() - put;
        let counts = [put, indexes, batches.len()];
        let mut arguments = Vec::from(counts.map(|count| Argument::Own(count.to_string())));
        arguments.push(Argument::Text(check));
        for batch in batches {
            arguments.push(Argument::Own(batch.conditions.len().to_string()));
            for alternatives in &batch.conditions {
                arguments.push(Argument::Own(alternatives.len().to_string()));
                for condition in alternatives {
                    let (name, key, rest) = match condition {
                        Condition::Absent(key) => ("absent", key, vec![]),
                        Condition::StartsWith(text) => {
                            ("starts-with", &text.key, vec![Argument::Text(&text.text)])
                        }
                        Condition::IndexHas(member) => {
                            ("index-has", &member.index, vec![Argument::Text(&member.member)])
                        }
                        Condition::IndexSizeAtMost(most) => {
                            ("index-at-most", &most.index, vec![Argument::Own(most.size.to_string())])
                        }
                        Condition::IndexMax(highest) => {
                            ("index-highest", &highest.index, highest_arguments(highest))
                        }
                    };
                    arguments.extend([Argument::Text(name), numbers.of(key)]);
                    arguments.extend(rest);
                }
            }
            arguments.push(Argument::Own(batch.operations.len().to_string()));
            for operation in &batch.operations {
                match operation {
                    Operation::Put(put) => arguments.extend([
                        Argument::Text("put"),
                        numbers.of(&put.key),
                        Argument::Text(&put.value),
                        expiry_argument(put.expiry),
                    ]),
                    Operation::Delete(key) => arguments.extend([Argument::Text("delete"), numbers.of(key)]),
                    Operation::IndexPut(put) => arguments.extend([
                        Argument::Text("index-put"),
                        numbers.of(&put.index),
                        Argument::Text(&put.member),
                        // The shortest text that reads back as this double.
                        Argument::Own(put.score.to_string()),
                        expiry_argument(put.expiry),
                    ]),
                    Operation::IndexDelete(member) => arguments.extend([
                        Argument::Text("index-delete"),
                        numbers.of(&member.index),
                        Argument::Text(&member.member),
                    ]),
                    Operation::Expire(expire) => arguments.extend([
                        Argument::Text("expire"),
                        numbers.of(&expire.key),
                        expiry_argument(expire.expiry),
                        Argument::Text(if expire.mode == ExpireMode::Set { "set" } else { "" }),
                    ]),
                }
            }
        }
        Self { keys: numbers.keys, arguments }
    }
}

/// The keys of a call, each with the number that Lua counts it by.
#[derive(Default)]
struct KeyNumbers<'a> {
    keys: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
}

impl<'a> KeyNumbers<'a> {
    fn of(&mut self, key: &'a str) -> Argument<'a> {
        let number = *self.numbers.entry(key).or_insert_with(|| {
            self.keys.push(key);
            self.keys.len()
        });
        Argument::Own(number.to_string())
    }
}

fn highest_arguments(highest: &IndexMax) -> Vec<Argument<'_>> {
    let mut arguments = vec![Argument::Text(&highest.value_key_prefix)];
    arguments.push(Argument::Own(highest.excluding.len().to_string()));
    arguments.extend(highest.excluding.iter().map(|member| Argument::Text(member)));
    match &highest.member {
        Some(member) => arguments.extend([Argument::Text("one"), Argument::Text(member)]),
        None => arguments.push(Argument::Text("none")),
    }
    arguments.push(Argument::Own(highest.upper_bound.score.to_string()));
    arguments.push(Argument::Text(&highest.upper_bound.member));
    arguments
}

pub fn expiry_argument(expiry: Expiry) -> Argument<'static> {
    match expiry {
        Expiry::Never => Argument::Text("never"),
        Expiry::AfterMs(milliseconds) => Argument::Own(milliseconds.to_string()),
    }
}
