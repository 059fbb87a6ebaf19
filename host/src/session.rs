//! Typed sessions: the state of a session as a Rust type, with ids and timestamps
//! made by the library.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::{Future, ready};
use std::marker::PhantomData;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::debug;
use uuid::{ContextV7, Uuid};

use crate::{Checkpoint, Checkpointer, Error, HistoryQuery, Metadata, Run, Timestamp};

/// How often [`Session::step`] is attempted while other writers save first.
const MAX_ATTEMPTS: usize = 100;

/// The pauses of [`Session::step`] after a conflict, each with jitter.
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// The size of the first page of [`Session::history`], and the growth of the next
/// ones.
const FIRST_PAGE: u32 = 16;
const PAGE_GROWTH: u32 = 8;

/// A session with states of the type `State`, stored as JSON.
///
/// [`Checkpointer::session`] returns a handle; clones are cheap. The library makes
/// the id and the timestamp of every step:
///
/// - An id is a UUIDv7. It is unique over all sessions, and the ids of a session
///   sort like its steps.
/// - A timestamp is the current time, or 1 µs after the session's latest checkpoint
///   if the clock is behind it. A saved step is therefore always the latest.
///
/// A step belongs to a run, so documents have format B. Each handle has a run id of
/// its own, which its clones share; [`Session::run`] sets another one.
///
/// A loaded state equals the saved one: each state is read back from its JSON text
/// before it is saved, and a state that can't be read back is an [`Error::State`].
///
/// ```
/// use checkpointer::Checkpointer;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Trip {
///     booked: bool,
///     paid: bool,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let checkpointer = Checkpointer::open("memory:").await?;
/// let trip = checkpointer.session::<Trip>("user-123");
/// trip.step("book", |trip| trip.booked = true).await?;
/// trip.step("pay", |trip| trip.paid = true).await?;
///
/// let latest = trip.latest().await?.expect("a step");
/// assert_eq!(latest.state, Trip { booked: true, paid: true });
/// assert_eq!((latest.node.as_str(), latest.number), ("pay", 2));
/// # Ok(())
/// # }
/// ```
pub struct Session<State> {
    checkpointer: Checkpointer,
    session_id: String,
    run_id: String,
    state: PhantomData<fn() -> State>,
}

/// A checkpoint of a [`Session`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Step<State> {
    /// The id of the checkpoint.
    pub id: String,
    /// The state after the step.
    pub state: State,
    /// When the step was saved.
    pub timestamp: Timestamp,
    /// The node that produced the state.
    pub node: String,
    /// 1 for the first step of the session, then 1 more for each step.
    pub number: i64,
    /// The id of the run; none for a checkpoint that was saved without a run.
    pub run_id: Option<String>,
}

impl<State> Step<State> {
    /// The step without its state, and the state.
    fn split(self) -> (Step<()>, State) {
        let Self { id, state, timestamp, node, number, run_id } = self;
        (Step { id, state: (), timestamp, node, number, run_id }, state)
    }
}

impl Checkpointer {
    /// A typed handle for a session, with a new run. No I/O.
    ///
    /// See [`Session`] for an example.
    pub fn session<State>(&self, session_id: impl Into<String>) -> Session<State>
    where
        State: Serialize + DeserializeOwned,
    {
        Session {
            checkpointer: self.clone(),
            session_id: session_id.into(),
            run_id: uuid(self.now()),
            state: PhantomData,
        }
    }
}

impl<State> Session<State>
where
    State: Serialize + DeserializeOwned,
{
    /// Sets the id of the run, for example to continue a run of another process.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// let session = checkpointer.session::<Vec<String>>("session-1").run("run-1");
    /// let step = session.step("plan", |state| state.push("book".to_owned())).await?;
    /// assert_eq!(step.run_id.as_deref(), Some("run-1"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn run(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = run_id.into();
        self
    }

    /// The id of the session.
    pub fn id(&self) -> &str {
        &self.session_id
    }

    /// The id of the run to which this handle saves.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Returns the latest step; `None` if the session has no checkpoint.
    ///
    /// # Errors
    /// [`Error::State`] if its state is no `State`; otherwise as
    /// [`Checkpointer::latest`].
    pub async fn latest(&self) -> Result<Option<Step<State>>, Error> {
        self.checkpointer.latest(&self.session_id).await?.map(decode).transpose()
    }

    /// Loads the latest state, changes it, and saves it as the next step. A session
    /// without checkpoints begins with `State::default()`.
    ///
    /// If another writer saves first, this loads the new latest state and calls
    /// `change` again, up to 100 times with short pauses. No change is lost, and none
    /// is applied twice.
    ///
    /// ```
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// let counter = checkpointer.session::<u64>("counter");
    /// let (first, second) =
    ///     tokio::join!(counter.step("add", |count| *count += 1), counter.step("add", |count| *count += 1));
    /// assert_eq!(first?.state + second?.state, 1 + 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Conflict`] after the last attempt; otherwise as [`Session::latest`]
    /// and [`Session::append`].
    pub async fn step(&self, node: &str, mut change: impl FnMut(&mut State)) -> Result<Step<State>, Error>
    where
        State: Default,
    {
        self.try_step(node, |latest| {
            let mut state = latest.unwrap_or_default();
            change(&mut state);
            ready(Ok(state))
        })
        .await
    }

    /// As [`Session::step`], with a change that is asynchronous, can fail, and needs
    /// no default state: it receives the latest state, `None` if the session has no
    /// checkpoint, and returns the next one. An error of the change ends the call, and
    /// nothing is saved.
    ///
    /// ```
    /// # use checkpointer::{Checkpointer, Error};
    /// # async fn ask_model(prompts: usize) -> Result<String, Error> { Ok(format!("answer {prompts}")) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// let chat = checkpointer.session::<Vec<String>>("chat");
    /// let step = chat
    ///     .try_step("ask", async |answers| {
    ///         let mut answers = answers.unwrap_or_default();
    ///         answers.push(ask_model(answers.len()).await?);
    ///         Ok::<_, Error>(answers)
    ///     })
    ///     .await?;
    /// assert_eq!(step.state, ["answer 0"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error of the change; otherwise as [`Session::step`].
    pub async fn try_step<Change, E>(
        &self,
        node: &str,
        mut change: impl FnMut(Option<State>) -> Change,
    ) -> Result<Step<State>, E>
    where
        Change: Future<Output = Result<State, E>>,
        E: From<Error>,
    {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(MIN_PAUSE)
            .with_max_delay(MAX_PAUSE)
            .with_max_times(MAX_ATTEMPTS - 1)
            .with_jitter()
            .build();
        let mut attempt = 1;
        loop {
            let (latest, state) = self.latest().await?.map(Step::split).unzip();
            let state = change(state).await?;
            let error = match self.save_after(latest.as_ref(), node, &state, attempt).await {
                Err(error) if error.is_conflict() => error,
                result => return Ok(result?),
            };
            let Some(pause) = pauses.next() else {
                return Err(error.into());
            };
            debug!(%error, attempt, "another writer saved first");
            sleep(pause).await;
            attempt += 1;
        }
    }

    /// Saves a state as the step after `after`; with `None`, as the first step of
    /// the session. Returns the step as a load returns it.
    ///
    /// ```
    /// # use checkpointer::{Checkpointer, Conflict, Error};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// let session = checkpointer.session::<String>("session-1");
    /// let first = session.append(None, "plan", &"book a flight".to_owned()).await?;
    /// let second = session.append(&first, "book", &"pay".to_owned()).await?;
    /// match session.append(&first, "book", &"cancel".to_owned()).await {
    ///     Err(Error::Conflict(Conflict::NotLatest { actual })) => assert_eq!(actual, Some(second.id)),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Conflict`] with [`Conflict::NotLatest`](crate::Conflict::NotLatest)
    /// if `after` is not the session's latest step; [`Error::State`] if the state
    /// can't be saved as JSON and read back; otherwise as
    /// [`Checkpointer::save_after`].
    pub async fn append<'a>(
        &self,
        after: impl Into<Option<&'a Step<State>>>,
        node: &str,
        state: &State,
    ) -> Result<Step<State>, Error>
    where
        State: 'a,
    {
        self.save_after(after.into(), node, state, 1).await
    }

    async fn save_after<Previous>(
        &self,
        after: Option<&Step<Previous>>,
        node: &str,
        state: &State,
        attempt: i64,
    ) -> Result<Step<State>, Error> {
        let unsaved = |error: serde_json::Error| Error::State {
            session_id: self.session_id.clone(),
            checkpoint_id: None,
            action: "saved",
            message: error.to_string(),
        };
        let text = serde_json::to_string(state).map_err(unsaved)?;
        let state = serde_json::from_str(&text).map_err(unsaved)?;
        let mut timestamp = self.checkpointer.now();
        let mut number = 1;
        let mut run = Run::new(&self.run_id);
        run.attempt = Some(attempt);
        if let Some(after) = after {
            let earliest = after.timestamp.unix_micros().saturating_add(1);
            timestamp = timestamp.max(Timestamp::from_unix_micros(earliest));
            number = after.number.saturating_add(1);
            run.prev_node.clone_from(&after.node);
        }
        let metadata = Metadata::new(&self.session_id, uuid(timestamp))
            .timestamp(timestamp)
            .node(node)
            .step(number)
            .run(run);
        let step = step(metadata.clone(), state);
        self.checkpointer
            .save_after(Checkpoint::new(metadata, text), after.map(|step| step.id.as_str()))
            .await?;
        Ok(step)
    }

    /// Returns the steps of all runs as a stream, newest first.
    ///
    /// An unreadable checkpoint and a state that is no `State` are errors in the
    /// stream, which then continues. Any other error ends it. Steps that are saved
    /// after the stream began are not in it.
    ///
    /// The stream reads pages of 16, 128, 1,024 … steps. Each page is read from the
    /// newest step on, because the store has no cursor for a history. A page of more
    /// than 256 MiB is an error.
    ///
    /// ```
    /// use futures_util::TryStreamExt;
    ///
    /// # use checkpointer::Checkpointer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let checkpointer = Checkpointer::open("memory:").await?;
    /// let counter = checkpointer.session::<u64>("counter");
    /// for _ in 0..3 {
    ///     counter.step("add", |count| *count += 1).await?;
    /// }
    /// let mut history = counter.history();
    /// while let Some(step) = history.try_next().await? {
    ///     println!("{} {} {}", step.timestamp, step.node, step.state);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn history(&self) -> BoxStream<'static, Result<Step<State>, Error>>
    where
        State: 'static,
    {
        let history = HistoryPages::new(self.checkpointer.clone(), self.session_id.clone());
        let checkpoints = stream::unfold(history, |mut history| async move {
            let item = history.next().await?;
            Some((item, history))
        });
        checkpoints.map(|checkpoint| checkpoint.and_then(decode)).boxed()
    }

    /// Deletes all checkpoints of the session, as
    /// [`Checkpointer::delete_session`] does.
    ///
    /// # Errors
    /// As [`Checkpointer::delete_session`].
    pub async fn delete(&self) -> Result<u64, Error> {
        self.checkpointer.delete_session(&self.session_id).await
    }

    /// Excludes the session from expiry, as [`Checkpointer::pin_session`] does.
    ///
    /// # Errors
    /// As [`Checkpointer::pin_session`].
    pub async fn pin(&self) -> Result<u64, Error> {
        self.checkpointer.pin_session(&self.session_id).await
    }

    /// Ends the pin of the session, as [`Checkpointer::unpin_session`] does.
    ///
    /// # Errors
    /// As [`Checkpointer::unpin_session`].
    pub async fn unpin(&self) -> Result<u64, Error> {
        self.checkpointer.unpin_session(&self.session_id).await
    }
}

impl<State> Clone for Session<State> {
    fn clone(&self) -> Self {
        Self {
            checkpointer: self.checkpointer.clone(),
            session_id: self.session_id.clone(),
            run_id: self.run_id.clone(),
            state: PhantomData,
        }
    }
}

impl<State> fmt::Debug for Session<State> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("session_id", &self.session_id)
            .field("run_id", &self.run_id)
            .finish_non_exhaustive()
    }
}

fn step<State>(metadata: Metadata, state: State) -> Step<State> {
    let Metadata { checkpoint_id, timestamp, node, step, run, .. } = metadata;
    Step { id: checkpoint_id, state, timestamp, node, number: step, run_id: run.map(|run| run.run_id) }
}

fn decode<State: DeserializeOwned>(checkpoint: Checkpoint) -> Result<Step<State>, Error> {
    let Checkpoint { metadata, state } = checkpoint;
    match serde_json::from_str(&state) {
        Ok(state) => Ok(step(metadata, state)),
        Err(error) => Err(Error::State {
            session_id: metadata.session_id,
            checkpoint_id: Some(metadata.checkpoint_id),
            action: "read",
            message: error.to_string(),
        }),
    }
}

/// A UUIDv7 of this moment, with a precision of less than a microsecond: the ids of
/// different timestamps sort like the timestamps.
fn uuid(timestamp: Timestamp) -> String {
    let micros = timestamp.unix_micros().max(0) as u64;
    let nanos = (micros % 1_000_000 * 1000) as u32;
    let context = ContextV7::new().with_additional_precision();
    Uuid::new_v7(uuid::Timestamp::from_unix(&context, micros / 1_000_000, nanos)).to_string()
}

/// Reads the history of a session in growing pages.
struct HistoryPages {
    checkpointer: Checkpointer,
    session_id: String,
    /// The limit of the next page; none after the last page.
    limit: Option<u32>,
    items: VecDeque<Result<Checkpoint, Error>>,
    /// The ids of the checkpoints that were returned.
    returned: HashSet<String>,
}

impl HistoryPages {
    fn new(checkpointer: Checkpointer, session_id: String) -> Self {
        Self {
            checkpointer,
            session_id,
            limit: Some(FIRST_PAGE),
            items: VecDeque::new(),
            returned: HashSet::new(),
        }
    }

    async fn next(&mut self) -> Option<Result<Checkpoint, Error>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Some(item);
            }
            if let Err(error) = self.read_page(self.limit?).await {
                self.limit = None;
                return Some(Err(error));
            }
        }
    }

    async fn read_page(&mut self, limit: u32) -> Result<(), Error> {
        let page = self.checkpointer.list(HistoryQuery::new(&self.session_id).limit(limit)).await?;
        let is_last = page.checkpoints.len() < limit as usize;
        self.limit = (!is_last).then(|| limit.saturating_mul(PAGE_GROWTH));
        // The checkpoints behind the last one that was returned are older; those before it
        // were saved meanwhile.
        let is_returned =
            |checkpoint: &Checkpoint| self.returned.contains(&checkpoint.metadata.checkpoint_id);
        let first = page.checkpoints.iter().rposition(is_returned).map_or(0, |last| last + 1);
        for checkpoint in page.checkpoints.into_iter().skip(first) {
            self.returned.insert(checkpoint.metadata.checkpoint_id.clone());
            self.items.push_back(Ok(checkpoint));
        }
        for unreadable in page.unreadable {
            if self.returned.insert(unreadable.checkpoint_id.clone()) {
                self.items.push_back(Err(Error::Corrupt {
                    checkpoint_id: unreadable.checkpoint_id,
                    reason: unreadable.reason,
                }));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_like_their_timestamps() {
        let micros = 1_767_323_045_123_456;
        let id = |micros| uuid(Timestamp::from_unix_micros(micros));
        for distance in [1, 2, 999, 1000, 1_000_000] {
            assert!(id(micros) < id(micros + distance), "{distance}");
        }
        assert_ne!(id(micros), id(micros));
        assert!(id(-1) < id(micros));
        assert_eq!(Uuid::parse_str(&id(micros)).map(|id| id.get_version_num()), Ok(7));
    }
}
