//! The scan of the keys of one node. A cursor is only valid for the process that
//! returned it: on another server, or after a restart, the scan starts again.

use std::fmt;
use std::time::Instant;

use ::redis::{cmd, from_redis_value};
use tracing::debug;

use super::ScanPage;
use super::connection::NodeConnection;
use crate::store::redis::error::{TransportError, TransportFailure};

/// The number of keys that one step examines. More would delay other requests.
const COUNT: u32 = 1000;

/// How often a scan may start again.
const MAX_RESTARTS: u32 = 100;

/// The progress of a scan of one node.
#[derive(Clone, Copy, Default)]
pub(crate) struct ScanCursor {
    cursor: u64,
    /// The `run_id` of the server that returned the cursor.
    run_id: u64,
    restarts: u32,
}

impl ScanCursor {
    /// Parses the cursor of a page; none is the start.
    pub(crate) fn parse(cursor: Option<&str>) -> Result<Self, TransportError> {
        let Some(text) = cursor else { return Ok(Self::default()) };
        let [cursor, run_id, restarts] = parse_numbers(text)?;
        let restarts = u32::try_from(restarts).map_err(|_| TransportError::InvalidCursor)?;
        Ok(Self { cursor, run_id, restarts })
    }

    /// Returns the page at this cursor.
    pub(crate) async fn page(
        self,
        connection: &NodeConnection,
        pattern: &str,
        deadline: Instant,
    ) -> Result<ScanPage, TransportFailure> {
        let (keys, next) = self.step(connection, pattern, deadline).await?;
        Ok(ScanPage { keys, next: (!next.is_start()).then(|| next.to_string()) })
    }

    /// Returns the keys of a step and the next cursor, which is the start after the last
    /// step.
    pub(crate) async fn step(
        self,
        connection: &NodeConnection,
        pattern: &str,
        deadline: Instant,
    ) -> Result<(Vec<Vec<u8>>, Self), TransportFailure> {
        let current = self.for_server(connection.server_run_id(deadline).await?)?;
        let mut command = cmd("SCAN");
        command.arg(current.cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(COUNT);
        let (cursor, keys) = from_redis_value(connection.ask(&command, deadline).await?)?;
        Ok((keys, Self { cursor, ..current }))
    }

    pub(crate) fn is_start(self) -> bool {
        self.cursor == 0
    }

    pub(crate) fn restarts(self) -> u32 {
        self.restarts
    }

    /// The cursor on the server with this `run_id`: the start if another one returned it.
    fn for_server(self, run_id: u64) -> Result<Self, TransportError> {
        let cursor = if self.is_start() || self.run_id == run_id { self } else { self.restart()? };
        Ok(Self { run_id, ..cursor })
    }

    /// The start, once more.
    ///
    /// # Errors
    /// The scan has been restarted too often.
    pub(crate) fn restart(self) -> Result<Self, TransportError> {
        if self.restarts >= MAX_RESTARTS {
            return Err(TransportError::TooManyRestarts);
        }
        let restarts = self.restarts + 1;
        debug!(restarts, "restarting a scan");
        Ok(Self { restarts, ..Self::default() })
    }
}

impl fmt::Display for ScanCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cursor, run_id, restarts } = self;
        write!(formatter, "{cursor}.{run_id}.{restarts}")
    }
}

/// Parses a cursor: numbers, separated by dots.
pub(crate) fn parse_numbers<const COUNT: usize>(cursor: &str) -> Result<[u64; COUNT], TransportError> {
    let numbers: Option<Vec<u64>> = cursor.split('.').map(|number| number.parse().ok()).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or(TransportError::InvalidCursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_continues_on_the_same_server_and_restarts_on_another() {
        let cursor = ScanCursor::default().for_server(7).expect("a cursor");
        assert_eq!(cursor.to_string(), "0.7.0");
        let cursor = ScanCursor { cursor: u64::MAX, ..cursor };
        let parsed = ScanCursor::parse(Some(&cursor.to_string())).expect("a cursor");
        assert_eq!(parsed.for_server(7).expect("a cursor").to_string(), "18446744073709551615.7.0");
        assert_eq!(parsed.for_server(8).expect("a cursor").to_string(), "0.8.1");
        let last = ScanCursor { restarts: MAX_RESTARTS, ..parsed };
        assert!(last.for_server(7).is_ok());
        assert_eq!(last.for_server(8).err(), Some(TransportError::TooManyRestarts));
        for text in ["", "17", "1.2", "1.2.x", "1.2.4294967296"] {
            assert!(ScanCursor::parse(Some(text)).is_err(), "{text}");
        }
    }
}
