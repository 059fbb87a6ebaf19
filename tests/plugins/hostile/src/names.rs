//! Attacks with names: of buckets that are not granted, and with prefixes and ids
//! that look like the way out to what others have.

use crate::flow::checkpoint::checkpointer::{Checkpointer, Error, Layout, Options};
use crate::flow::checkpoint::types::StorageReason;
use crate::{Ending, checkpoint, open, options};

/// Names that a host might have for something.
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

/// Texts that mean something to somebody: to Redis, a shell, a file system, a
/// terminal, to llmfy and to the checkpointer itself.
const ODD: [&str; 34] = [
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

pub fn open_buckets_of(others: &[&str]) -> Ending {
    let long = "default".repeat(1000);
    let names = LIKELY.iter().chain(&ODD).chain(others).copied().chain([long.as_str()]);
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

/// What came of many attempts: what is as it should be is counted.
#[derive(Default)]
struct Attempts {
    taken: u32,
    refused: u32,
    wrong: Vec<String>,
}

impl Attempts {
    fn in_words(&self) -> String {
        format!("{} taken, {} refused; {:?}", self.taken, self.refused, self.wrong)
    }

    /// Takes note of a call that changes or finds nothing, since there is nothing.
    fn nothing<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, answer: Result<T, Error>, none: T) {
        match answer {
            Ok(answer) if answer == none => self.taken += 1,
            Ok(answer) => self.wrong.push(format!("{what}: {answer:?}")),
            Err(Error::InvalidArgument(_)) => self.refused += 1,
            Err(error) => self.wrong.push(format!("{what}: {error:?}")),
        }
    }
}

/// Every prefix there might be in both layouts, with the ids that others have.
pub fn reach_out_of_the_prefix_to(others: &[&str]) -> Ending {
    let (fits, does_not) = ("p".repeat(512), "p".repeat(513));
    let prefixes = ODD.iter().chain(others).copied().chain([fits.as_str(), does_not.as_str()]);
    let mut attempts = Attempts::default();
    let both = prefixes.flat_map(|prefix| [(prefix, Layout::Llmfy), (prefix, Layout::Partitioned)]);
    for (prefix, layout) in both {
        match Checkpointer::open(&Options { layout, ..options(prefix) }) {
            Ok(checkpointer) => {
                for id in ["*", "s", "session"] {
                    reach(&checkpointer, id, &mut attempts);
                }
                // What is left of the above is all there is.
                attempts.nothing(&format!("scan of {prefix:?}"), count(&checkpointer), 3);
                attempts.nothing(&format!("clear-all of {prefix:?}"), checkpointer.clear_all(), 3);
            }
            Err(Error::InvalidArgument(_)) => attempts.refused += 1,
            Err(error) => attempts.wrong.push(format!("{prefix:?}: {error:?}")),
        }
    }
    Ok(attempts.in_words())
}

/// How many checkpoints a scan comes by.
fn count(checkpointer: &Checkpointer) -> Result<usize, Error> {
    let (mut count, mut after) = (0, None);
    loop {
        let page = checkpointer.scan(after.as_deref())?;
        count += page.checkpoints.len();
        after = page.next;
        if after.is_none() {
            return Ok(count);
        }
    }
}

/// Every id there might be, under the prefix that others have too.
pub fn reach_with_ids_to(others: &[&str]) -> Ending {
    let checkpointer = open("llmfy_checkpoint:")?;
    let (fits, does_not) = ("i".repeat(512), "i".repeat(513));
    let mut attempts = Attempts::default();
    for id in ODD.iter().chain(others).copied().chain([fits.as_str(), does_not.as_str()]) {
        reach(&checkpointer, id, &mut attempts);
        attempts.nothing(&format!("delete of {id:?}"), checkpointer.delete(id, None), 1);
    }
    attempts.nothing("clear-all", checkpointer.clear_all(), 0);
    Ok(attempts.in_words())
}

/// Does all there is to do with an id that nobody has used here, as that of a
/// session, a checkpoint and a run. One checkpoint is left of it.
fn reach(checkpointer: &Checkpointer, id: &str, attempts: &mut Attempts) {
    let told = |what: &str| format!("{what} of {id:?}");
    for one in [None, Some(id)] {
        let loaded = checkpointer.load(id, one).map(|found| found.map(|found| found.state));
        attempts.nothing(&told("load"), loaded, None);
        attempts.nothing(&told("load-document"), checkpointer.load_document(id, one), None);
        attempts.nothing(&told("pin"), checkpointer.pin(id, one), 0);
        attempts.nothing(&told("unpin"), checkpointer.unpin(id, one), 0);
        attempts.nothing(&told("delete"), checkpointer.delete(id, one), 0);
    }
    let all = Some(1000);
    let listed = checkpointer.list(id, all).map(|list| list.checkpoints.len() + list.unreadable.len());
    attempts.nothing(&told("list"), listed, 0);
    let listed =
        checkpointer.list_by_run(id, id, all).map(|list| list.checkpoints.len() + list.unreadable.len());
    attempts.nothing(&told("list-by-run"), listed, 0);
    for run in [None, Some(id)] {
        let listed = checkpointer.list_documents(id, run, all);
        let listed = listed.map(|list| list.documents.len() + list.unreadable.len());
        attempts.nothing(&told("list-documents"), listed, 0);
    }
    let own = checkpoint(id, id, id, "\"own\"");
    attempts.nothing(&told("save-after"), checkpointer.save_after(&own, None).map(drop), ());
    attempts.nothing(&told("save"), checkpointer.save(&own).map(drop), ());
    let loaded = checkpointer.load(id, Some(id)).map(|found| found.map(|found| found.state));
    attempts.nothing(&told("load"), loaded, Some(own.state));
    let document = checkpointer.load_document(id, Some(id)).map(Option::unwrap_or_default);
    let restored = document.and_then(|document| checkpointer.restore(&document, Some(60_000)));
    attempts.nothing(&told("restore"), restored.map(drop), ());
}
