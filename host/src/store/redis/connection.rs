//! How commands reach Redis: over a connection to one server, to the master that
//! sentinels name, or to a cluster.

use std::io;
use std::time::{Duration, Instant};

use ::redis::{Cmd, RedisError, Value as Reply};
use async_trait::async_trait;
use tracing::debug;

use super::failure::{classify, may_pass};
use crate::store::{Effect, StorageError};

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
    /// What only reads, and only what stands at this key.
    pub fn to_read(command: &'a Cmd, key: &'a str) -> Self {
        Self { command, key: Some(key), access: Access::Read, reads_unnamed: false, with_text: None }
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
    fn is_colocated(&self, _prefix: &str) -> bool {
        true
    }

    /// Refuses keys that can't be in one command.
    fn check_slot(&self, _keys: &[&str]) -> Result<(), StorageError> {
        Ok(())
    }

    /// A page of the keys that match a pattern.
    async fn scan(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError>;
}

/// How many tries fit into the time for an answer: a server that hangs uses up one.
pub const TRIES: u32 = 3;

/// Tries again as long as another server may take over, or be found.
///
/// A write whose answer was lost is sent again too: it has its conditions with it,
/// and whoever sent it is told that it was a repeat. RELIABILITY.md says what that
/// does not keep from happening.
pub struct Persistence {
    access: Access,
    until: Instant,
    last_try: Instant,
    pause: Duration,
    /// The latest failure that leaves it unknown whether a write took effect.
    doubt: Option<RedisError>,
}

/// The first pause before another try, doubled each time up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What a last try has at the most, of half of the time for a try: with less, the end
/// of it would look like a server that hangs.
const LAST_TRY: Duration = Duration::from_millis(500);

impl Persistence {
    /// For so long.
    pub fn new(access: Access, patience: Duration) -> Self {
        let until = Instant::now() + patience;
        let last_try = until - LAST_TRY.min(patience / TRIES / 2);
        Self { access, until, last_try, pause: SHORTEST_PAUSE, doubt: None }
    }

    /// The end of a step of a try that begins now and may take so long.
    pub fn deadline(&self, step: Duration) -> Instant {
        self.until.min(Instant::now() + step)
    }

    /// Waits for the time of another try, after this failure.
    ///
    /// # Errors
    /// What to tell whoever asked, if another try is of no use or comes too late.
    pub async fn pause_after(&mut self, error: RedisError) -> Result<(), RedisError> {
        // The latest one says best what is the matter.
        if classify(&error, self.access).effect == Effect::Unknown {
            self.doubt = Some(error.clone());
        }
        if !may_pass(&error) || Instant::now() + self.pause >= self.last_try {
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

/// An answer that comes until then; else a time-out.
pub async fn in_time<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    let answer = tokio::time::timeout_at(deadline.into(), answer).await;
    answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// The same of what comes before a command is sent: whatever fails there, nothing was
/// written.
pub async fn before_sending<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    in_time(deadline, answer).await.map_err(|error| {
        if classify(&error, Access::Write).effect == Effect::None {
            return error;
        }
        debug!(%error, "nobody can be reached");
        io::Error::from(io::ErrorKind::ConnectionRefused).into()
    })
}
