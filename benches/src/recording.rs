//! A recorder of the commands that the library sends to Redis. The bare subject
//! sends exactly these commands again.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use checkpointer::{Checkpointer, Error};
use redis::{Parser, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::Bench;
use crate::states::checkpoint;

/// The arguments of a command, its name first.
pub type RecordedCommand = Vec<Vec<u8>>;

/// Makes `count` calls and returns the commands that they send, one per call. The
/// calls take effect in the server.
///
/// # Errors
/// A call fails or sends more than one command.
pub fn record(
    bench: &Bench,
    count: usize,
    calls: impl AsyncFnOnce(Checkpointer) -> Result<(), Error>,
) -> Result<Vec<RecordedCommand>> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let bytes = bench.runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("redis://{}", listener.local_addr()?);
        let proxy = tokio::spawn(forward(listener, bench.server.port(), Arc::clone(&sent)));
        let checkpointer = Checkpointer::open(&url).await?;
        warm_up(&checkpointer).await?;
        take(&sent);
        calls(checkpointer).await?;
        proxy.abort();
        anyhow::Ok(take(&sent))
    })?;
    let commands = parse(&bytes)?;
    ensure!(commands.len() == count, "{count} calls sent {} commands", commands.len());
    Ok(commands)
}

/// Connects, loads the scripts into the server and checks the permission to write.
async fn warm_up(checkpointer: &Checkpointer) -> Result<(), Error> {
    let checkpoint = checkpoint(0xffff, 0, "{}");
    checkpointer.save(&checkpoint).await?;
    checkpointer.latest(&checkpoint.metadata.session_id).await?;
    checkpointer.delete_session(&checkpoint.metadata.session_id).await?;
    Ok(())
}

async fn forward(listener: TcpListener, port: u16, sent: Arc<Mutex<Vec<u8>>>) -> std::io::Result<()> {
    let (client, _) = listener.accept().await?;
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let replies = async { copy(&mut from_server, &mut to_client).await };
    let requests = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = from_client.read(&mut buffer).await?;
            sent.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
            if length == 0 {
                return Ok(());
            }
            to_server.write_all(&buffer[..length]).await?;
        }
    };
    tokio::try_join!(replies, requests).map(|_| ())
}

fn take(sent: &Mutex<Vec<u8>>) -> Vec<u8> {
    std::mem::take(&mut sent.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Parses commands. They have the format of replies: arrays of bulk strings.
fn parse(mut bytes: &[u8]) -> Result<Vec<RecordedCommand>> {
    let (mut parser, mut commands) = (Parser::new(), Vec::new());
    // The parser reads ahead, so only its error marks the end.
    while let Ok(Value::Array(arguments)) = parser.parse_value(&mut bytes) {
        let arguments = arguments.into_iter().map(|argument| match argument {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        commands.push(arguments.collect::<Option<RecordedCommand>>().context("not a command")?);
    }
    Ok(commands)
}
