//! The commit that there is most of, which has a script of its own.
//!
//! A script for any commit costs Redis as much again as what it does: it hands
//! every argument to Lua, which then has to make sense of it.

use super::{Argument, expiry_argument};
use crate::store::{Batch, Condition, Operation};

/// What `put.lua` is called with.
pub struct PutCall<'a> {
    pub keys: Vec<&'a str>,
    pub arguments: Vec<Argument<'a>>,
}

impl<'a> PutCall<'a> {
    /// The call for a commit of one batch that puts a value, and then one member
    /// with one score into indexes, all with the same expiry; on the condition that
    /// nothing stands at the key of the value, or what begins with a text, and
    /// that nothing stands at other keys. None for any other commit.
    pub fn of(batches: &'a [Batch], check: &'a str) -> Option<Self> {
        let [Batch { conditions, operations }] = batches else { return None };
        let [Operation::Put(put), Operation::IndexPut(first), ..] = operations.as_slice() else {
            return None;
        };
        let mut keys = vec![put.key.as_str()];
        for operation in &operations[1..] {
            match operation {
                Operation::IndexPut(other)
                    if (&other.member, other.score, other.expiry)
                        == (&first.member, first.score, put.expiry) =>
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
                [Condition::Absent(key), Condition::StartsWith(own)]
                    if guard.is_none()
                        && [key, &own.key] == [&put.key; 2]
                        // GETRANGE can't ask for no bytes.
                        && !own.text.is_empty() =>
                {
                    guard = Some(own.text.as_str());
                }
                [Condition::Absent(key)] => keys.push(key),
                _ => return None,
            }
        }
        let arguments = vec![
            Argument::Text(check),
            Argument::Own(indexes.to_string()),
            Argument::Text(guard?),
            expiry_argument(put.expiry),
            Argument::Text(&put.value),
            Argument::Text(&first.member),
            // The shortest text that reads back as this double.
            Argument::Own(first.score.to_string()),
        ];
        Some(Self { keys, arguments })
    }
}
