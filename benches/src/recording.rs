//! What the library sends to Redis, recorded on the way: so the one that only
//! sends it, without any logic, always sends the very same.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use checkpointer::{Checkpoint, Checkpointer, Error};
use redis::{Parser, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::Bench;

/// A command: its name and its arguments.
pub type Words = Vec<Vec<u8>>;

/// The commands that a number of calls send, one for each. The server is empty
/// before and afterwards, or else it is as it was filled: what is recorded has
/// been done to it.
///
/// # Errors
/// A call fails, or takes more than one command.
pub fn record(
    bench: &Bench,
    count: usize,
    calls: impl AsyncFnOnce(Checkpointer) -> Result<(), Error>,
) -> Result<Vec<Words>> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let bytes = bench.runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("redis://{}", listener.local_addr()?);
        let proxy = tokio::spawn(pass_on(listener, bench.server.port(), Arc::clone(&sent)));
        let checkpointer = Checkpointer::open(&address).await?;
        warm_up(&checkpointer).await?;
        take(&sent);
        calls(checkpointer).await?;
        proxy.abort();
        anyhow::Ok(take(&sent))
    })?;
    let commands = commands(&bytes)?;
    ensure!(commands.len() == count, "{count} calls sent {} commands", commands.len());
    Ok(commands)
}

/// Connects, has the server learn the scripts, and shows that the user may write.
async fn warm_up(checkpointer: &Checkpointer) -> Result<(), Error> {
    let checkpoint: Checkpoint = crate::states::checkpoint(0xffff, 0, "{}");
    checkpointer.save(&checkpoint).await?;
    checkpointer.load(&checkpoint.metadata.session_id, None).await?;
    checkpointer.delete(&checkpoint.metadata.session_id, None).await?;
    Ok(())
}

async fn pass_on(listener: TcpListener, port: u16, sent: Arc<Mutex<Vec<u8>>>) -> std::io::Result<()> {
    let (client, _) = listener.accept().await?;
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async { copy(&mut from_server, &mut to_client).await };
    let requests = async {
        let mut piece = vec![0; 1 << 16];
        loop {
            let length = from_client.read(&mut piece).await?;
            sent.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..length]);
            if length == 0 {
                return Ok(());
            }
            to_server.write_all(&piece[..length]).await?;
        }
    };
    tokio::try_join!(answers, requests).map(|_| ())
}

fn take(sent: &Mutex<Vec<u8>>) -> Vec<u8> {
    std::mem::take(&mut sent.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Commands are written like answers: lists of texts.
fn commands(mut bytes: &[u8]) -> Result<Vec<Words>> {
    let (mut parser, mut commands) = (Parser::new(), Vec::new());
    // The parser reads ahead, so that only its error says that there is no more.
    while let Ok(Value::Array(words)) = parser.parse_value(&mut bytes) {
        let words = words.into_iter().map(|word| match word {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        commands.push(words.collect::<Option<Words>>().context("no command")?);
    }
    Ok(commands)
}
