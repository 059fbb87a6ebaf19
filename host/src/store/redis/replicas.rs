//! Writes that are only answered when replicas have them, or a disk.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{Cmd, Pipeline, RedisError, Value as Reply, cmd, from_redis_value, make_extension_error};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::address::Durability;
use super::connection::{before_sending, in_time};

/// The code of the error that says that too few replicas have a write.
pub(super) const FEW_REPLICAS: &str = "FEWREPLICAS";

/// The code of the error that says that a write was not sent, since those before it
/// took too long.
pub(super) const NOT_SENT: &str = "NOTSENT";

/// The code of the error that says that the server can't wait for what is wanted.
pub(super) const NO_WAITING: &str = "NOWAITING";

/// The most writes that wait for replicas together.
const TOGETHER: usize = 64;

/// A connection for writes, each with a `WAIT` for replicas right behind it in the
/// same pipeline. It is one of its own, since nothing else goes on over a
/// connection that waits.
///
/// `WAIT` counts the replicas that have all that was written over its connection
/// before it. So it says enough of each write of a pipeline, and those that come
/// while others wait go together: a replica that does not answer keeps nobody
/// waiting for longer than the time-out of those before and one's own. A write that
/// finds nothing to do is told of too, since what it found may be an earlier one's
/// of this connection, which is repeated.
pub(super) struct ReplicatedWrites {
    requests: mpsc::Sender<Request>,
    durability: Durability,
}

struct Request {
    command: Cmd,
    /// Whether it goes to a server that its slot is still being moved to.
    is_asking: bool,
    /// Told when it is about to be sent.
    taken: oneshot::Sender<()>,
    answer: oneshot::Sender<Result<Reply, RedisError>>,
}

impl ReplicatedWrites {
    /// Gets ready, within a tokio runtime; nothing is sent yet. An answer may take
    /// `patience`, beside what is waited for.
    pub(super) fn new(connection: MultiplexedConnection, durability: Durability, patience: Duration) -> Self {
        let (requests, received) = mpsc::channel(TOGETHER);
        let writer = Writer { connection, durability, patience, may_wait: false };
        tokio::spawn(writer.answer_all(received));
        Self { requests, durability }
    }

    /// Sends a write that should be answered until then, but for the time that it
    /// waits for replicas, and that those before it do.
    ///
    /// # Errors
    /// [`NOT_SENT`] if those before it take longer; it is not sent then.
    pub(super) async fn send(
        &self,
        command: &Cmd,
        is_asking: bool,
        deadline: Instant,
    ) -> Result<Reply, RedisError> {
        let (taken, mut is_taken) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let request = Request { command: command.clone(), is_asking, taken, answer };
        let turn = deadline + self.durability.timeout;
        // The writer ends only with its runtime.
        let ended = |kind: io::ErrorKind| RedisError::from(io::Error::from(kind));
        let queued = async {
            self.requests.send(request).await.ok()?;
            (&mut is_taken).await.ok()
        };
        match tokio::time::timeout_at(turn.into(), queued).await {
            Ok(Some(())) => {}
            Ok(None) => return Err(ended(io::ErrorKind::ConnectionRefused)),
            Err(_) => {
                // From here on it is not sent, if it was not at the last moment.
                is_taken.close();
                if is_taken.try_recv().is_err() {
                    return Err(make_extension_error(NOT_SENT.to_owned(), None));
                }
            }
        }
        let answer = async { answered.await.map_err(|_| ended(io::ErrorKind::BrokenPipe))? };
        in_time(turn + self.durability.timeout, answer).await
    }
}

/// What does the writing.
struct Writer {
    connection: MultiplexedConnection,
    durability: Durability,
    patience: Duration,
    /// Whether the user may wait, which an ACL may forbid: then nothing is to be
    /// written.
    may_wait: bool,
}

impl Writer {
    async fn answer_all(mut self, mut received: mpsc::Receiver<Request>) {
        let mut requests = Vec::new();
        while received.recv_many(&mut requests, TOGETHER).await > 0 {
            let (mut writes, mut answers) = (Vec::new(), Vec::new());
            for Request { command, is_asking, taken, answer } in requests.drain(..) {
                // Who went away before it was sent does not want it written.
                if taken.send(()).is_ok() {
                    writes.push((command, is_asking));
                    answers.push(answer);
                }
            }
            if writes.is_empty() {
                continue;
            }
            match self.write(writes).await {
                Ok(replies) => {
                    for (reply, answer) in replies.into_iter().zip(answers) {
                        let _ = answer.send(reply);
                    }
                }
                Err(error) => {
                    for answer in answers {
                        let _ = answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// What each command is answered with.
    async fn write(
        &mut self,
        writes: Vec<(Cmd, bool)>,
    ) -> Result<Vec<Result<Reply, RedisError>>, RedisError> {
        let deadline = Instant::now() + self.patience;
        if !self.may_wait {
            let trial = self.durability.trial();
            let trying = async { Durability::tried(trial.query_async(&mut self.connection).await) };
            self.may_wait = before_sending(deadline, trying).await?;
        }
        let mut pipeline = Pipeline::with_capacity(2 * writes.len() + 1);
        // The places of the answers.
        let mut places = Vec::with_capacity(writes.len());
        for (command, is_asking) in writes {
            if is_asking {
                pipeline.add_command(cmd("ASKING"));
            }
            places.push(pipeline.len());
            pipeline.add_command(command);
        }
        pipeline.add_command(self.durability.wait());
        let writing = self.connection.req_packed_commands(&pipeline, 0, pipeline.len());
        let mut replies = in_time(deadline + self.durability.timeout, writing).await?;
        let few = self.durability.shortfall(replies.pop());
        // A permission may have been taken away.
        self.may_wait &= few.is_none();
        let of_place = |place: usize| {
            let reply = replies.get_mut(place).map_or(Reply::Nil, |reply| mem::replace(reply, Reply::Nil));
            match (reply.extract_error()?, &few) {
                (_, Some(few)) => Err(few.clone()),
                (reply, None) => Ok(reply),
            }
        };
        Ok(places.into_iter().map(of_place).collect())
    }
}

impl Durability {
    /// What waits until all that was written over the same connection before it is
    /// as durable as wanted.
    pub(super) fn wait(self) -> Cmd {
        let mut wait = cmd(if self.on_disk { "WAITAOF" } else { "WAIT" });
        if self.on_disk {
            wait.arg(1);
        }
        wait.arg(self.replicas).arg(self.milliseconds());
        wait
    }

    /// What shows whether a server lets this user wait, before anything is written.
    pub(super) fn trial(self) -> Cmd {
        Self { replicas: 0, timeout: Duration::ZERO, ..self }.wait()
    }

    /// Whether the trial went well. A replica does not wait, and says itself that it
    /// takes no writes.
    pub(super) fn tried(answer: Result<Reply, RedisError>) -> Result<bool, RedisError> {
        match answer {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("ERR") => {
                let said = error.detail().unwrap_or_default();
                if said.contains("replica instances") {
                    return Ok(false);
                }
                Err(make_extension_error(NO_WAITING.to_owned(), Some(said.to_owned())))
            }
            Err(error) => Err(error),
        }
    }

    /// The error that what was written is not as durable as wanted, if the answer
    /// says so.
    pub(super) fn shortfall(self, waited: Option<Reply>) -> Option<RedisError> {
        let counts: Vec<u32> = match waited {
            Some(Reply::Int(replicas)) if !self.on_disk => u32::try_from(replicas).into_iter().collect(),
            Some(Reply::Array(counts)) if self.on_disk => {
                counts.into_iter().filter_map(|count| from_redis_value(count).ok()).collect()
            }
            // It has stopped being the master meanwhile.
            Some(Reply::ServerError(error)) if error.code() == "UNBLOCKED" => {
                return Some(io::Error::from(io::ErrorKind::ConnectionReset).into());
            }
            answer => {
                warn!(?answer, "Redis did not wait for replicas");
                Vec::new()
            }
        };
        let have = counts.last().copied().unwrap_or(0);
        let wanted = self.replicas;
        let detail = if self.on_disk && counts.first() != Some(&1) {
            "the server does not have the write on disk yet".to_owned()
        } else if have < wanted {
            let verb = if have == 1 { "has" } else { "have" };
            let place = if self.on_disk { " on disk" } else { "" };
            format!("only {have} of {wanted} replicas {verb} the write{place}")
        } else {
            return None;
        };
        Some(make_extension_error(FEW_REPLICAS.to_owned(), Some(detail)))
    }
}
