//! How commands reach Redis: over a connection to one server, to the master that
//! sentinels name, or to a cluster.

use std::io;
use std::time::{Duration, Instant};

use ::redis::{Cmd, RedisError, Value as Reply, cmd, from_redis_value};
use async_trait::async_trait;
use tracing::debug;

use super::failure::{classify, failure};
use super::replicas::FEW_REPLICAS;
use crate::store::{Effect, StorageError, StorageReason, invalid};

/// What a command may do, which decides what a failure means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A command, and what has to be known of it to send it.
pub struct Request<'a> {
    pub command: &'a Cmd,
    /// One of the keys that it names, if it names any.
    pub key: Option<&'a str>,
    pub access: Access,
    /// Whether it reads keys that it does not name, beside one that it names.
    pub reads_unnamed: bool,
    /// The same command with the text of its script, for a server that does not
    /// have the script yet.
    pub with_text: Option<&'a (dyn Fn() -> Cmd + Send + Sync)>,
}

impl<'a> Request<'a> {
    /// What only reads what it names.
    pub fn to_read(command: &'a Cmd, key: Option<&'a str>) -> Self {
        Self { command, key, access: Access::Read, reads_unnamed: false, with_text: None }
    }
}

/// What a command was answered.
pub struct Answer {
    pub reply: Reply,
    /// Whether it was sent before, and nobody knows what became of that.
    pub is_repeat: bool,
}

/// Some of the keys.
pub struct KeysPage {
    pub keys: Vec<Vec<u8>>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

/// One or more servers that take commands.
#[async_trait]
pub trait Connection: Send + Sync {
    /// Sends a command and gives what it was answered. An answer that is an error
    /// is one.
    async fn send(&self, request: Request<'_>) -> Result<Answer, RedisError>;

    /// Whether all keys that begin with `prefix` can be in one command.
    fn keeps_together(&self, _prefix: &str) -> bool {
        true
    }

    /// Refuses keys that can't be in one command.
    fn check_slot(&self, _keys: &[&str]) -> Result<(), StorageError> {
        Ok(())
    }

    /// A page of the keys that match a pattern.
    async fn scan(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError> {
        let cursor = after.map_or(Ok(0), cursor)?;
        let answer = self.send(Request::to_read(&scan_command(cursor, pattern), None)).await;
        let page = answer.and_then(|answer| Ok(from_redis_value::<(u64, _)>(answer.reply)?));
        let (next, keys) = page.map_err(|error| failure(error, Access::Read))?;
        Ok(KeysPage { keys, next: (next != 0).then(|| next.to_string()) })
    }
}

/// How many keys a step of a scan looks at: few enough not to keep others
/// waiting.
const SCAN_COUNT: u32 = 1000;

pub fn scan_command(cursor: u64, pattern: &str) -> Cmd {
    let mut command = cmd("SCAN");
    command.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
    command
}

/// How often a scan begins again because another server is asked.
pub const RESTARTS: u32 = 20;

/// Where a page said to go on.
pub fn cursor(after: &str) -> Result<u64, StorageError> {
    numbers(after).map(|[cursor]| cursor)
}

/// The same where that takes several numbers, with points between them.
pub fn numbers<const COUNT: usize>(after: &str) -> Result<[u64; COUNT], StorageError> {
    let numbers: Option<Vec<u64>> = after.split('.').map(|number| number.parse().ok()).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(no_place)
}

/// What is told where no page begins.
pub fn no_place() -> StorageError {
    invalid("a page begins only where the one before said")
}

/// Tries again as long as another server may take over, or be found.
///
/// A write whose answer was lost is sent again too: it has its conditions with it,
/// and whoever sent it is told that it was a repeat. RELIABILITY.md says what that
/// does not keep from happening.
pub struct Persistence {
    access: Access,
    until: Instant,
    pause: Duration,
    /// The first failure that leaves it unknown whether a write took effect.
    doubt: Option<RedisError>,
}

/// The first pause before another try, doubled each time up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

impl Persistence {
    /// For so long.
    pub fn new(access: Access, patience: Duration) -> Self {
        Self { access, until: Instant::now() + patience, pause: SHORTEST_PAUSE, doubt: None }
    }

    /// Waits for the time of another try, after this failure.
    ///
    /// # Errors
    /// What to tell whoever asked, if another try is of no use or comes too late.
    pub async fn pause_after(&mut self, error: RedisError) -> Result<(), RedisError> {
        let failure = classify(&error, self.access);
        if failure.effect == Effect::Unknown && self.doubt.is_none() {
            self.doubt = Some(error.clone());
        }
        // Whether replicas have a write was waited for already.
        let may_pass = match error.code() {
            Some(FEW_REPLICAS) => false,
            Some("READONLY") => true,
            _ => matches!(failure.reason, StorageReason::Unavailable | StorageReason::Timeout),
        };
        if !may_pass || Instant::now() + self.pause >= self.until {
            return Err(self.doubt.take().unwrap_or(error));
        }
        debug!(%error, pause = ?self.pause, "trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Whether it is unknown what became of an earlier try to write.
    pub fn is_repeat(&self) -> bool {
        self.doubt.is_some()
    }
}

/// An answer that takes no longer than this; else a time-out.
pub async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    let answer = tokio::time::timeout(limit, answer).await;
    answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}
