//! The types that applications construct and match. They are converted from and
//! to the types generated from the WIT here and nowhere else.

use std::time::Duration;

use crate::bindings::flow::checkpoint::types as wit;
use crate::{Error, Timestamp};

/// The run that saved a checkpoint, and the step that led to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Run {
    /// The id of the run, 1 to 512 bytes without NUL.
    pub run_id: String,
    /// The node of the previous step.
    pub prev_node: String,
    /// The fields of the state that the step changed.
    pub updated_fields: Vec<String>,
    /// The attempt at which the step succeeded, counted from 1; none if several
    /// branches were committed together.
    pub attempt: Option<i64>,
    /// The id of the fan-out that this checkpoint completes.
    pub dispatch_id: Option<String>,
}

impl Run {
    /// A run with this id; its other fields are empty.
    pub fn new(run_id: impl Into<String>) -> Self {
        Self { run_id: run_id.into(), ..Self::default() }
    }
}

/// A member of a stored document that this version does not define.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ExtraMember {
    /// The name of the member.
    pub name: String,
    /// JSON text, kept byte for byte.
    pub value: String,
}

impl ExtraMember {
    /// A member with this name and this JSON text.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// A checkpoint without its state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Metadata {
    /// The id of the session, 1 to 512 bytes without NUL.
    pub session_id: String,
    /// The id of the checkpoint, 1 to 512 bytes without NUL. In
    /// [`Layout::Partitioned`] it belongs to its session. In [`Layout::Llmfy`] it
    /// belongs to the first session that saves it, and no other session under the
    /// same prefix can use it.
    pub checkpoint_id: String,
    /// When the checkpoint was made. The checkpoint with the latest timestamp is
    /// the session's latest.
    pub timestamp: Timestamp,
    /// The node that produced the state.
    pub node: String,
    /// The number of the step within its run.
    pub step: i64,
    /// With a run the checkpoint is stored in format B (llmfy 0.11 and later),
    /// without one in format A (llmfy up to 0.10).
    pub run: Option<Run>,
    /// Members of the stored document that this version does not define, in their
    /// order. A save stores them in front of the state.
    pub extra: Vec<ExtraMember>,
}

impl Metadata {
    /// The metadata of a checkpoint made now: step 0, an empty node, no run.
    ///
    /// ```
    /// use checkpointer::{Metadata, Run};
    ///
    /// let metadata = Metadata::new("session-1", "checkpoint-1").node("plan").step(3).run(Run::new("run-1"));
    /// assert_eq!(metadata.step, 3);
    /// ```
    pub fn new(session_id: impl Into<String>, checkpoint_id: impl Into<String>) -> Self {
        Self {
            session_id: session_id.into(),
            checkpoint_id: checkpoint_id.into(),
            timestamp: Timestamp::now(),
            node: String::new(),
            step: 0,
            run: None,
            extra: Vec::new(),
        }
    }

    /// Sets the timestamp.
    #[must_use]
    pub fn timestamp(mut self, timestamp: impl Into<Timestamp>) -> Self {
        self.timestamp = timestamp.into();
        self
    }

    /// Sets the node that produced the state.
    #[must_use]
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = node.into();
        self
    }

    /// Sets the number of the step within its run.
    #[must_use]
    pub fn step(mut self, step: i64) -> Self {
        self.step = step;
        self
    }

    /// Sets the run, so that the checkpoint is stored in format B.
    #[must_use]
    pub fn run(mut self, run: Run) -> Self {
        self.run = Some(run);
        self
    }
}

/// The state after one step, with its metadata.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Checkpoint {
    /// Ids, timestamp, node, step and run.
    pub metadata: Metadata,
    /// JSON text as Python's `json` accepts it. It is validated and stored byte
    /// for byte.
    pub state: String,
}

impl Checkpoint {
    /// A checkpoint with this state, which must be JSON text.
    pub fn new(metadata: Metadata, state: impl Into<String>) -> Self {
        Self { metadata, state: state.into() }
    }
}

/// The result of a save.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SaveOutcome {
    /// Saved. It was the session's latest checkpoint at that moment.
    Latest,
    /// Saved, but the session has a newer checkpoint, which
    /// [`latest`](crate::Checkpointer::latest) returns.
    NotLatest {
        /// The id of the newer checkpoint; empty if the save succeeded and reading this
        /// id failed.
        latest_id: String,
        /// Its timestamp minus that of the saved checkpoint: how far the caller's
        /// clock is behind.
        ahead: Duration,
    },
    /// Not saved: it is older than all checkpoints that the session keeps, see
    /// [`max_checkpoints`](crate::CheckpointerBuilder::max_checkpoints).
    Pruned,
}

/// A checkpoint that exists and can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Unreadable {
    /// The id of the checkpoint.
    pub checkpoint_id: String,
    /// Why it can't be read.
    pub reason: String,
}

/// Checkpoints of a session, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct History {
    /// The readable checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// The unreadable checkpoints among them.
    pub unreadable: Vec<Unreadable>,
}

/// A [`History`] with the stored documents instead of parsed checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RawHistory {
    /// The documents of the readable checkpoints, newest first.
    pub documents: Vec<String>,
    /// The unreadable checkpoints among them.
    pub unreadable: Vec<Unreadable>,
}

/// Which checkpoints of a session to list: the 10 newest, unless set otherwise.
///
/// ```
/// use checkpointer::HistoryQuery;
///
/// let query = HistoryQuery::new("session-1").run("run-1").limit(100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "a query does nothing until it is passed to `list`"]
pub struct HistoryQuery {
    session_id: String,
    run_id: Option<String>,
    limit: Option<u32>,
}

impl HistoryQuery {
    /// The newest checkpoints of this session.
    pub fn new(session_id: impl Into<String>) -> Self {
        Self { session_id: session_id.into(), run_id: None, limit: None }
    }

    /// Only checkpoints of this run.
    pub fn run(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// At most this many readable checkpoints.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl From<&str> for HistoryQuery {
    fn from(session_id: &str) -> Self {
        Self::new(session_id)
    }
}

impl From<&HistoryQuery> for HistoryQuery {
    fn from(query: &HistoryQuery) -> Self {
        query.clone()
    }
}

/// A checkpoint found by a scan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ScanEntry {
    /// The id of the session.
    pub session_id: String,
    /// The id of the checkpoint.
    pub checkpoint_id: String,
    /// The remaining TTL, at least 1 ms; none if the checkpoint does not expire.
    pub expires_in: Option<Duration>,
}

/// One page of a scan over a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ScanPage {
    /// Unordered. Only the head of each document was validated: a load may still
    /// report it as corrupt.
    pub checkpoints: Vec<ScanEntry>,
    /// Values without a readable session and checkpoint id.
    pub unreadable: Vec<Unreadable>,
    /// Pinned sessions. All pages with checkpoints precede the pages with pinned
    /// sessions.
    pub pinned_sessions: Vec<String>,
    /// The cursor of the next page; none on the last page.
    pub next_cursor: Option<String>,
}

/// A stored document with its remaining TTL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct DocumentDump {
    /// The document.
    pub document: String,
    /// The remaining TTL, at least 1 ms; none if the checkpoint does not expire.
    pub expires_in: Option<Duration>,
}

/// Why the stored data rules out a save.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Conflict {
    /// Another session uses the id ([`Layout::Llmfy`] only), or the key of the
    /// checkpoint holds a foreign value.
    IdInUse {
        /// The id.
        checkpoint_id: String,
        /// The content of the id's key.
        reason: String,
    },
    /// The precondition of [`save_after`](crate::Checkpointer::save_after) failed.
    NotLatest {
        /// The id of the session's actual latest checkpoint; none if the session
        /// has none.
        actual: Option<String>,
    },
}

/// How keys are named. Documents are the same in both layouts. Checkpoints saved
/// in one layout are not visible in the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Layout {
    /// The keys of llmfy, which can read and write the same checkpoints. On a
    /// cluster it requires a prefix with a hash tag, and all checkpoints are in
    /// one slot.
    #[default]
    Llmfy,
    /// All keys of a session are in one slot, and sessions are distributed over
    /// the slots of a cluster. llmfy does not read these keys.
    Partitioned,
}

/// Whether a failed call changed the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Effect {
    /// Nothing was written.
    None,
    /// The write may or may not have taken effect, or only some of its pages. A
    /// retry is safe: every operation is idempotent.
    Unknown,
}

/// The class of a store's failure, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum StorageReason {
    /// No bucket has this name, or it was not granted.
    NoSuchBucket,
    /// The store refused the credentials, or its user lacks a permission.
    AccessDenied,
    /// The store can't accept an argument.
    InvalidArgument,
    /// The store lacks a capability that the call needs.
    Unsupported,
    /// A key, a value or an answer is larger than the store or the grant allows.
    TooLarge,
    /// A key holds a value of another type than the call expects.
    WrongType,
    /// The store is out of space: memory, disk or quota.
    Full,
    /// The store or the bucket is read-only.
    ReadOnly,
    /// The store can't be reached or is not ready. A retry may succeed.
    Unavailable,
    /// The store did not answer in time. A retry may succeed.
    Timeout,
    /// Any other failure.
    Other,
}

/// Converts between an enum of this crate and the generated one, variant by
/// variant.
macro_rules! convert_enum {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        impl From<wit::$name> for $name {
            fn from(value: wit::$name) -> Self {
                match value { $(wit::$name::$variant => Self::$variant),* }
            }
        }

        impl From<$name> for wit::$name {
            fn from(value: $name) -> Self {
                match value { $($name::$variant => Self::$variant),* }
            }
        }
    };
}

convert_enum!(Layout { Llmfy, Partitioned });
convert_enum!(Effect { None, Unknown });
convert_enum!(StorageReason {
    NoSuchBucket,
    AccessDenied,
    InvalidArgument,
    Unsupported,
    TooLarge,
    WrongType,
    Full,
    ReadOnly,
    Unavailable,
    Timeout,
    Other,
});

impl From<wit::Run> for Run {
    fn from(run: wit::Run) -> Self {
        let wit::Run { run_id, prev_node, updated_fields, attempt, dispatch_id } = run;
        Self { run_id, prev_node, updated_fields, attempt, dispatch_id }
    }
}

impl From<Run> for wit::Run {
    fn from(run: Run) -> Self {
        let Run { run_id, prev_node, updated_fields, attempt, dispatch_id } = run;
        Self { run_id, prev_node, updated_fields, attempt, dispatch_id }
    }
}

/// Fails if the component returns a timestamp that is none, which it never does:
/// it parses timestamps with the same code.
impl TryFrom<wit::Metadata> for Metadata {
    type Error = Error;

    fn try_from(metadata: wit::Metadata) -> Result<Self, Error> {
        let extra =
            metadata.extra.into_iter().map(|wit::NamedValue { name, value }| ExtraMember { name, value });
        Ok(Self {
            session_id: metadata.session_id,
            checkpoint_id: metadata.checkpoint_id,
            timestamp: metadata
                .timestamp
                .parse()
                .map_err(|error| Error::Component(format!("it returned an invalid timestamp: {error}")))?,
            node: metadata.node,
            step: metadata.step,
            run: metadata.run.map(Run::from),
            extra: extra.collect(),
        })
    }
}

impl From<Metadata> for wit::Metadata {
    fn from(metadata: Metadata) -> Self {
        let extra =
            metadata.extra.into_iter().map(|ExtraMember { name, value }| wit::NamedValue { name, value });
        Self {
            session_id: metadata.session_id,
            checkpoint_id: metadata.checkpoint_id,
            timestamp: metadata.timestamp.to_string(),
            node: metadata.node,
            step: metadata.step,
            run: metadata.run.map(wit::Run::from),
            extra: extra.collect(),
        }
    }
}

impl TryFrom<wit::Checkpoint> for Checkpoint {
    type Error = Error;

    fn try_from(checkpoint: wit::Checkpoint) -> Result<Self, Error> {
        Ok(Self { metadata: checkpoint.metadata.try_into()?, state: checkpoint.state })
    }
}

impl From<Checkpoint> for wit::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { metadata: checkpoint.metadata.into(), state: checkpoint.state }
    }
}

/// Clones the checkpoint, so that a save accepts a reference.
impl From<&Checkpoint> for Checkpoint {
    fn from(checkpoint: &Checkpoint) -> Self {
        checkpoint.clone()
    }
}

impl From<wit::SaveOutcome> for SaveOutcome {
    fn from(outcome: wit::SaveOutcome) -> Self {
        match outcome {
            wit::SaveOutcome::Latest => Self::Latest,
            wit::SaveOutcome::NotLatest(wit::NewerCheckpoint { checkpoint_id, ahead_us }) => {
                Self::NotLatest { latest_id: checkpoint_id, ahead: Duration::from_micros(ahead_us) }
            }
            wit::SaveOutcome::Pruned => Self::Pruned,
        }
    }
}

impl From<wit::Unreadable> for Unreadable {
    fn from(unreadable: wit::Unreadable) -> Self {
        Self { checkpoint_id: unreadable.checkpoint_id, reason: unreadable.reason }
    }
}

fn unreadable(unreadable: Vec<wit::Unreadable>) -> Vec<Unreadable> {
    unreadable.into_iter().map(Unreadable::from).collect()
}

impl TryFrom<wit::History> for History {
    type Error = Error;

    fn try_from(history: wit::History) -> Result<Self, Error> {
        let checkpoints =
            history.checkpoints.into_iter().map(Checkpoint::try_from).collect::<Result<_, _>>()?;
        Ok(Self { checkpoints, unreadable: unreadable(history.unreadable) })
    }
}

impl From<wit::RawHistory> for RawHistory {
    fn from(history: wit::RawHistory) -> Self {
        Self { documents: history.documents, unreadable: unreadable(history.unreadable) }
    }
}

impl From<HistoryQuery> for wit::HistoryQuery {
    fn from(query: HistoryQuery) -> Self {
        let HistoryQuery { session_id, run_id, limit } = query;
        Self { session_id, run_id, limit, extra: Vec::new() }
    }
}

impl From<wit::ScanPage> for ScanPage {
    fn from(page: wit::ScanPage) -> Self {
        let entry = |wit::ScanEntry { session_id, checkpoint_id, expires_in_ms }| ScanEntry {
            session_id,
            checkpoint_id,
            expires_in: expires_in_ms.map(Duration::from_millis),
        };
        Self {
            checkpoints: page.checkpoints.into_iter().map(entry).collect(),
            unreadable: unreadable(page.unreadable),
            pinned_sessions: page.pinned_sessions,
            next_cursor: page.next_cursor,
        }
    }
}

impl From<wit::DocumentDump> for DocumentDump {
    fn from(dump: wit::DocumentDump) -> Self {
        Self { document: dump.document, expires_in: dump.expires_in_ms.map(Duration::from_millis) }
    }
}

impl From<wit::Conflict> for Conflict {
    fn from(conflict: wit::Conflict) -> Self {
        match conflict {
            wit::Conflict::IdInUse(wit::IdConflict { checkpoint_id, reason }) => {
                Self::IdInUse { checkpoint_id, reason }
            }
            wit::Conflict::NotLatest(actual) => Self::NotLatest { actual },
        }
    }
}
