//! Writes that are acknowledged when replicas or disks have them.

use std::mem;
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{Cmd, Pipeline, RedisError, Value as Reply, cmd, from_redis_value};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{connect_with_deadline, with_deadline};
use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::url::Durability;

/// The maximum number of writes that wait for replicas together.
const MAX_BATCH: usize = 64;

/// A connection for writes, with a `WAIT` or `WAITAOF` behind each batch of writes in
/// the same pipeline. Reads have another connection, since a connection that waits
/// delays its other requests.
///
/// `WAIT` counts the replicas that have all earlier writes of its connection, so one is
/// enough for a batch. Writes that arrive during a wait form the next batch; a replica
/// that hangs delays a write by at most the timeout of the batch before and its own.
/// Writes that change nothing wait as well: their effect may stem from an earlier,
/// unacknowledged attempt over the same connection.
pub(crate) struct DurableWriter {
    queue: mpsc::Sender<QueuedWrite>,
    durability: Durability,
}

struct QueuedWrite {
    command: Cmd,
    /// Whether `ASKING` precedes it.
    asking: bool,
    /// Notified before the write is sent.
    taken: oneshot::Sender<()>,
    reply: oneshot::Sender<Result<Reply, TransportFailure>>,
}

impl DurableWriter {
    /// Starts the task that writes. The server may take `response_timeout` to answer,
    /// besides the wait for replicas.
    pub(crate) fn new(
        connection: MultiplexedConnection,
        durability: Durability,
        response_timeout: Duration,
    ) -> Self {
        let (queue, received) = mpsc::channel(MAX_BATCH);
        let writer = Writer { connection, durability, response_timeout, wait_permitted: false };
        tokio::spawn(writer.run(received));
        Self { queue, durability }
    }

    /// Sends a write that must be answered until `deadline`, plus the time that it and
    /// the batch before it wait for replicas.
    ///
    /// # Errors
    /// [`TransportError::QueueTimeout`] if the earlier writes take longer. The write is
    /// not sent then.
    pub(crate) async fn send(
        &self,
        command: &Cmd,
        asking: bool,
        deadline: Instant,
    ) -> Result<Reply, TransportFailure> {
        let (taken, mut is_taken) = oneshot::channel();
        let (reply, replied) = oneshot::channel();
        let write = QueuedWrite { command: command.clone(), asking, taken, reply };
        let queue_deadline = deadline + self.durability.timeout;
        let queued = async {
            self.queue.send(write).await.ok()?;
            (&mut is_taken).await.ok()
        };
        match tokio::time::timeout_at(queue_deadline.into(), queued).await {
            Ok(Some(())) => {}
            // The task has ended before it took the write.
            Ok(None) => return Err(TransportError::Unreachable.into()),
            Err(_) => {
                // After `close` the task can't take the write any more.
                is_taken.close();
                if is_taken.try_recv().is_err() {
                    return Err(TransportError::QueueTimeout.into());
                }
            }
        }
        let reply = async { replied.await.unwrap_or_else(|_| Err(TransportError::Disconnected.into())) };
        with_deadline(queue_deadline + self.durability.timeout, reply).await
    }
}

/// The task that writes.
struct Writer {
    connection: MultiplexedConnection,
    durability: Durability,
    response_timeout: Duration,
    /// Whether the ACL of the user permits the wait. Otherwise nothing must be written.
    wait_permitted: bool,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<QueuedWrite>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
            let (mut writes, mut callers) = (Vec::new(), Vec::new());
            for QueuedWrite { command, asking, taken, reply } in batch.drain(..) {
                // A caller that has been dropped or has timed out does not want the write.
                if taken.send(()).is_ok() {
                    writes.push((command, asking));
                    callers.push(reply);
                }
            }
            if writes.is_empty() {
                continue;
            }
            let replies = self.write(writes).await;
            let replies = replies.unwrap_or_else(|failure| vec![Err(failure); callers.len()]);
            for (reply, caller) in replies.into_iter().zip(callers) {
                let _ = caller.send(reply);
            }
        }
    }

    /// Sends the writes and waits for the replicas. Returns a reply for each write.
    async fn write(
        &mut self,
        writes: Vec<(Cmd, bool)>,
    ) -> Result<Vec<Result<Reply, TransportFailure>>, TransportFailure> {
        let deadline = Instant::now() + self.response_timeout;
        if !self.wait_permitted {
            let probe = self.durability.probe();
            let probing = async { check_probe(probe.query_async(&mut self.connection).await) };
            self.wait_permitted = connect_with_deadline(deadline, probing).await?;
        }
        let mut pipeline = Pipeline::with_capacity(2 * writes.len() + 1);
        // The indexes of the replies.
        let mut indexes = Vec::with_capacity(writes.len());
        for (command, asking) in writes {
            if asking {
                pipeline.add_command(cmd("ASKING"));
            }
            indexes.push(pipeline.len());
            pipeline.add_command(command);
        }
        pipeline.add_command(self.durability.wait());
        let replies = self.connection.req_packed_commands(&pipeline, 0, pipeline.len());
        let mut replies = with_deadline(deadline + self.durability.timeout, replies).await?;
        let missing_acks = self.durability.missing_acks(replies.pop());
        // The permission may have been removed.
        self.wait_permitted &= missing_acks.is_none();
        let reply_at = |index: usize| {
            let reply = replies.get_mut(index).map_or(Reply::Nil, |reply| mem::replace(reply, Reply::Nil));
            let reply = reply.extract_error()?;
            missing_acks.as_ref().map_or(Ok(reply), |error| Err(error.clone().into()))
        };
        Ok(indexes.into_iter().map(reply_at).collect())
    }
}

/// Whether the wait is permitted, from the reply to [`Durability::probe`]. A replica does
/// not wait; it rejects the write itself.
fn check_probe(reply: Result<Reply, RedisError>) -> Result<bool, TransportFailure> {
    match reply {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ERR") => {
            let detail = error.detail().unwrap_or_default().to_owned();
            if detail.contains("replica instances") {
                return Ok(false);
            }
            Err(TransportFailure::from(error).with_error(TransportError::WaitUnsupported(detail)))
        }
        Err(error) => Err(error.into()),
    }
}

impl Durability {
    /// The command that waits until all earlier writes of its connection are durable.
    fn wait(self) -> Cmd {
        let mut wait = cmd(if self.on_disk { "WAITAOF" } else { "WAIT" });
        if self.on_disk {
            wait.arg(1);
        }
        wait.arg(self.replicas).arg(self.milliseconds());
        wait
    }

    /// A wait for nothing, which fails if the user or the server can't wait.
    fn probe(self) -> Cmd {
        Self { replicas: 0, timeout: Duration::ZERO, ..self }.wait()
    }

    /// The error for a write that is not as durable as requested, by the reply to the wait.
    fn missing_acks(self, reply: Option<Reply>) -> Option<TransportError> {
        let counts: Vec<u32> = match reply {
            Some(Reply::Int(replicas)) if !self.on_disk => u32::try_from(replicas).into_iter().collect(),
            Some(Reply::Array(counts)) if self.on_disk => {
                counts.into_iter().filter_map(|count| from_redis_value(count).ok()).collect()
            }
            // The server was demoted during the wait.
            Some(Reply::ServerError(error)) if error.code() == "UNBLOCKED" => {
                return Some(TransportError::Disconnected);
            }
            reply => {
                warn!(?reply, "Redis did not wait for replicas");
                Vec::new()
            }
        };
        let (acks, wanted) = (counts.last().copied().unwrap_or(0), self.replicas);
        if self.on_disk && counts.first() != Some(&1) {
            Some(TransportError::MissingAcks("the server does not have the write on disk yet".to_owned()))
        } else if acks < wanted {
            let verb = if acks == 1 { "has" } else { "have" };
            let place = if self.on_disk { " on disk" } else { "" };
            Some(TransportError::MissingAcks(format!(
                "only {acks} of {wanted} replicas {verb} the write{place}"
            )))
        } else {
            None
        }
    }
}
