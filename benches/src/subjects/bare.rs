//! The commands that the library sends, sent by the same client over a connection
//! with the same settings. Nothing is checked, and replies are not parsed. A
//! faster implementation would have to ask Redis for less.

use std::time::Duration;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, Value,
};

use crate::recording::RecordedCommand;

/// Opens a connection with the library's settings: its protocol, its timeouts and
/// the client's default TCP settings.
///
/// # Errors
/// The server can't be reached.
pub async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(url.into_connection_info()?.set_redis_settings(settings))?;
    let configuration = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(5)))
        .set_response_timeout(Some(Duration::from_secs(10)));
    Ok(client.get_multiplexed_async_connection_with_config(&configuration).await?)
}

/// Sends a command. Every user of the client has to copy the arguments into a
/// `Cmd`.
///
/// # Errors
/// The server rejects the command, or the connection is lost.
pub async fn send(connection: &mut MultiplexedConnection, recorded: &RecordedCommand) -> Result<Value> {
    let mut command = Cmd::new();
    for argument in recorded {
        command.arg(argument);
    }
    Ok(command.query_async(connection).await?)
}
