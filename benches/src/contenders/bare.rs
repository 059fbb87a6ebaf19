//! The commands that the library sends, sent by the same client over the same
//! kind of connection, and nothing else: nothing is checked, nothing is read out
//! of what comes back. Nobody can be faster without asking Redis for less.

use std::time::Duration;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, Value,
};

use crate::recording::Words;

/// Opens a connection with the settings of the library's: its protocol, its
/// time-outs, and the client's own settings of TCP.
///
/// # Errors
/// The server is not there.
pub async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(url.into_connection_info()?.set_redis_settings(settings))?;
    let configuration = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(5)))
        .set_response_timeout(Some(Duration::from_secs(10)));
    Ok(client.get_multiplexed_async_connection_with_config(&configuration).await?)
}

/// Sends a command. To copy its words into one is what every user of the client
/// has to do.
///
/// # Errors
/// The server refuses it, or is gone.
pub async fn send(connection: &mut MultiplexedConnection, words: &Words) -> Result<Value> {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    Ok(command.query_async(connection).await?)
}
