//! Writes that are only answered when replicas have them.

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, Cmd, Pipeline, RedisError, Value as Reply, cmd, make_extension_error};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::stays;
use crate::store::address::Replicas;

/// The code of the error that says that too few replicas have a write.
pub(super) const FEW_REPLICAS: &str = "FEWREPLICAS";

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
}

struct Request {
    command: Cmd,
    answer: oneshot::Sender<Result<Reply, RedisError>>,
}

impl ReplicatedWrites {
    /// Gets ready, within a tokio runtime; nothing is sent yet.
    pub(super) fn new(
        client: Client,
        configuration: ConnectionManagerConfig,
        replicas: Replicas,
    ) -> Result<Self, RedisError> {
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), configuration.clone())?;
        let (requests, received) = mpsc::channel(TOGETHER);
        let writer = Writer { client, configuration, connection, replicas, may_wait: false };
        tokio::spawn(writer.answer_all(received));
        Ok(Self { requests })
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Reply, RedisError> {
        let (answer, answered) = oneshot::channel();
        // It ends only with the runtime.
        let ended = || RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let request = Request { command: command.clone(), answer };
        self.requests.send(request).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// What does the writing.
struct Writer {
    client: Client,
    configuration: ConnectionManagerConfig,
    connection: ConnectionManager,
    replicas: Replicas,
    /// Whether the user may wait, which an ACL may forbid: then nothing is to be
    /// written.
    may_wait: bool,
}

impl Writer {
    async fn answer_all(mut self, mut received: mpsc::Receiver<Request>) {
        let mut requests = Vec::new();
        while received.recv_many(&mut requests, TOGETHER).await > 0 {
            // Who went away before it was sent does not want it written.
            requests.retain(|request| !request.answer.is_closed());
            let (commands, answers): (Vec<_>, Vec<_>) =
                requests.drain(..).map(|request| (request.command, request.answer)).unzip();
            match self.write(commands).await {
                Ok(replies) => {
                    for (reply, answer) in replies.into_iter().zip(answers) {
                        let _ = answer.send(reply);
                    }
                }
                Err(error) => {
                    self.replace_connection(&error);
                    for answer in answers {
                        let _ = answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// What each command is answered with.
    async fn write(&mut self, commands: Vec<Cmd>) -> Result<Vec<Result<Reply, RedisError>>, RedisError> {
        if !self.may_wait {
            match wait(0, 0).query_async::<u32>(&mut self.connection).await {
                // A replica does not wait, and says itself that it takes no writes.
                Err(error) if error.code() == Some("ERR") => {}
                Err(error) => return Err(error),
                Ok(_) => self.may_wait = true,
            }
        }
        let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
        let count = commands.len();
        for command in commands {
            pipeline.add_command(command);
        }
        pipeline.add_command(wait(self.replicas.count, self.replicas.milliseconds()));
        let mut replies = self.connection.send_packed_commands(&pipeline, 0, count + 1).await?;
        let few = self.few(replies.pop());
        let replies = replies.into_iter().map(|reply| match (reply.extract_error()?, &few) {
            (_, Some(few)) => Err(few.clone()),
            (reply, None) => Ok(reply),
        });
        Ok(replies.collect())
    }

    /// The error that there are too few replicas, if `WAIT` says so.
    fn few(&mut self, waited: Option<Reply>) -> Option<RedisError> {
        let have = match waited {
            Some(Reply::Int(have)) => u32::try_from(have).unwrap_or(0),
            answer => {
                warn!(?answer, "Redis did not wait for replicas");
                self.may_wait = false;
                0
            }
        };
        let wanted = self.replicas.count;
        let verb = if have == 1 { "has" } else { "have" };
        let detail = || format!("only {have} of {wanted} replicas {verb} the write");
        (have < wanted).then(|| make_extension_error(FEW_REPLICAS.to_owned(), Some(detail())))
    }

    /// Takes a new connection where the manager would keep one that is of no use.
    fn replace_connection(&mut self, error: &RedisError) {
        if stays(error) {
            debug!(%error, "giving up a connection for writes");
            let new =
                ConnectionManager::new_lazy_with_config(self.client.clone(), self.configuration.clone());
            if let Ok(connection) = new {
                self.connection = connection;
            }
        }
    }
}

fn wait(replicas: u32, milliseconds: u64) -> Cmd {
    let mut wait = cmd("WAIT");
    wait.arg(replicas).arg(milliseconds);
    wait
}
