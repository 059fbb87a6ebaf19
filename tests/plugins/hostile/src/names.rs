//! Attacks with names: buckets that are not granted, and prefixes and ids that might
//! escape from the granted prefix.

use crate::flow::checkpoint::checkpointer::Checkpointer;
use crate::flow::checkpoint::types::{Checkpoint, Error, Layout, Options, StorageReason};
use crate::{Answer, checkpoint, open, options, query};

/// Likely names of a bucket.
const LIKELY: [&str; 16] = [
    "",
    " ",
    "Default",
    "default ",
    "default/",
    "./default",
    "main",
    "redis",
    "sqlite",
    "memory:",
    "admin",
    "test",
    "0",
    "*",
    "defaul?",
    "checkpoints",
];

/// Texts with a special meaning in Redis, a shell, a file system, a terminal, SQL,
/// llmfy or the checkpointer.
const SPECIAL: [&str; 34] = [
    "*",
    "?",
    "[a-z]*",
    "[^x]*",
    "\\*",
    "\\",
    "/",
    "..",
    "../",
    "../../",
    ":",
    "::",
    "{tag}",
    "{",
    "}",
    "a}{b",
    "%00",
    "%2e%2e%2f",
    "\0",
    "a\0b",
    "\0quota",
    "",
    " ",
    "\n",
    "\r\nFLUSHALL\r\n",
    "\u{7f}",
    "\u{202e}",
    "é",
    "session:",
    "checkpoint:",
    ":run:",
    "pinned",
    "'; DROP TABLE checkpointer_value; --",
    "llmfy_checkpoint:",
];

pub fn open_buckets(others: &[&str]) -> Answer {
    let long = "default".repeat(1000);
    let names = LIKELY.iter().chain(&SPECIAL).chain(others).copied().chain([long.as_str()]);
    let (mut refused, mut wrong) = (0, Vec::new());
    for name in names {
        let mut options = options("buckets:");
        options.bucket = name.into();
        match Checkpointer::open(&options) {
            Err(Error::Storage(error)) if error.reason == StorageReason::NoSuchBucket => refused += 1,
            Ok(_) => wrong.push(format!("{name:?} is open")),
            Err(error) => wrong.push(format!("{name:?}: {error:?}")),
        }
    }
    Ok(format!("{refused} do not exist; {wrong:?}"))
}

/// The results of many calls. Expected results are only counted.
#[derive(Default)]
struct Results {
    taken: u32,
    refused: u32,
    wrong: Vec<String>,
}

impl Results {
    fn describe(&self) -> String {
        format!("{} taken, {} refused; {:?}", self.taken, self.refused, self.wrong)
    }

    /// Records the result of a call. It must be `expected` or `invalid-argument`.
    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, call: &str, result: Result<T, Error>, expected: T) {
        match result {
            Ok(value) if value == expected => self.taken += 1,
            Ok(value) => self.wrong.push(format!("{call}: {value:?}")),
            Err(Error::InvalidArgument(_)) => self.refused += 1,
            Err(error) => self.wrong.push(format!("{call}: {error:?}")),
        }
    }
}

/// Uses special prefixes in both layouts, with ids that other sessions have.
pub fn use_prefixes(others: &[&str]) -> Answer {
    let (fits, does_not) = ("p".repeat(512), "p".repeat(513));
    let prefixes = SPECIAL.iter().chain(others).copied().chain([fits.as_str(), does_not.as_str()]);
    let mut results = Results::default();
    let both = prefixes.flat_map(|prefix| [(prefix, Layout::Llmfy), (prefix, Layout::Partitioned)]);
    for (prefix, layout) in both {
        match Checkpointer::open(&Options { layout, ..options(prefix) }) {
            Ok(checkpointer) => {
                for id in ["*", "s", "session"] {
                    use_id(&checkpointer, id, &mut results);
                }
                // Each call of `use_id` leaves one checkpoint. There are no others.
                results.expect(&format!("scan of {prefix:?}"), count(&checkpointer), 3);
                results.expect(&format!("clear-all of {prefix:?}"), checkpointer.clear_all(), 3);
            }
            Err(Error::InvalidArgument(_)) => results.refused += 1,
            Err(error) => results.wrong.push(format!("{prefix:?}: {error:?}")),
        }
    }
    Ok(results.describe())
}

/// Counts the checkpoints of a scan.
fn count(checkpointer: &Checkpointer) -> Result<usize, Error> {
    let (mut count, mut cursor) = (0, None);
    loop {
        let page = checkpointer.scan(cursor.as_deref())?;
        count += page.checkpoints.len();
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(count);
        }
    }
}

/// Uses special ids under the prefix that other plugins use too.
pub fn use_ids(others: &[&str]) -> Answer {
    let checkpointer = open("llmfy_checkpoint:")?;
    let (fits, does_not) = ("i".repeat(512), "i".repeat(513));
    let mut results = Results::default();
    for id in SPECIAL.iter().chain(others).copied().chain([fits.as_str(), does_not.as_str()]) {
        use_id(&checkpointer, id, &mut results);
        results.expect(&format!("delete-session of {id:?}"), checkpointer.delete_session(id), 1);
    }
    results.expect("clear-all", checkpointer.clear_all(), 0);
    Ok(results.describe())
}

/// Calls every operation with an id that is not in use, as the id of a session, a
/// checkpoint and a run. Leaves one checkpoint.
fn use_id(checkpointer: &Checkpointer, id: &str, results: &mut Results) {
    let call = |name: &str| format!("{name} of {id:?}");
    let state = |found: Option<Checkpoint>| found.map(|found| found.state);
    results.expect(&call("latest"), checkpointer.latest(id).map(state), None);
    results.expect(&call("load"), checkpointer.load(id, id).map(state), None);
    results.expect(&call("latest-document"), checkpointer.latest_document(id), None);
    results.expect(&call("load-document"), checkpointer.load_document(id, id), None);
    results.expect(&call("pin-session"), checkpointer.pin_session(id), 0);
    results.expect(&call("pin-checkpoint"), checkpointer.pin_checkpoint(id, id), false);
    results.expect(&call("unpin-session"), checkpointer.unpin_session(id), 0);
    results.expect(&call("unpin-checkpoint"), checkpointer.unpin_checkpoint(id, id), false);
    results.expect(&call("delete-session"), checkpointer.delete_session(id), 0);
    results.expect(&call("delete-checkpoint"), checkpointer.delete_checkpoint(id, id), false);
    for run in [None, Some(id)] {
        let query = query(id, run, Some(1000));
        let listed = checkpointer.list(&query).map(|list| list.checkpoints.len() + list.unreadable.len());
        results.expect(&call("list"), listed, 0);
        let listed = checkpointer.list_documents(&query);
        let listed = listed.map(|list| list.documents.len() + list.unreadable.len());
        results.expect(&call("list-documents"), listed, 0);
    }
    let own = checkpoint(id, id, id, "\"own\"");
    results.expect(&call("save-after"), checkpointer.save_after(&own, None).map(drop), ());
    results.expect(&call("save"), checkpointer.save(&own).map(drop), ());
    results.expect(&call("load"), checkpointer.load(id, id).map(state), Some(own.state));
    let dumped = checkpointer.dump(id, id).map(|dump| dump.map_or_else(String::new, |dump| dump.document));
    let restored = dumped.and_then(|document| checkpointer.restore(&document, Some(60_000)));
    results.expect(&call("restore"), restored.map(drop), ());
}
