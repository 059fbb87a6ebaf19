//! How the keys of a server are gone through. Where a page says to go on means
//! nothing to another server, nor to the same one after it was restarted: there a scan
//! begins again.

use std::fmt;
use std::time::Instant;

use ::redis::{RedisError, cmd, from_redis_value};
use tracing::debug;

use super::connection::KeysPage;
use super::link::Link;
use crate::store::{Effect, StorageError, StorageReason, invalid};

/// How many keys a step looks at: few enough not to keep others waiting.
const COUNT: u32 = 1000;

/// How often a scan begins again at the most.
const RESTARTS: u32 = 100;

/// How far the scan of one server has come.
#[derive(Clone, Copy, Default)]
pub struct Place {
    cursor: u64,
    /// The number of the process that said so.
    process: u64,
    restarts: u32,
}

impl Place {
    /// The place behind a page, or the beginning.
    pub fn read(after: Option<&str>) -> Result<Self, StorageError> {
        let Some(text) = after else { return Ok(Self::default()) };
        let [cursor, process, restarts] = numbers(text)?;
        Ok(Self { cursor, process, restarts: u32::try_from(restarts).map_err(|_| no_place())? })
    }

    /// The page that begins here.
    pub async fn page(
        self,
        link: &Link,
        pattern: &str,
        deadline: Instant,
    ) -> Result<Result<KeysPage, StorageError>, RedisError> {
        let step = self.step(link, pattern, deadline).await?;
        Ok(step.map(|(keys, next)| KeysPage { keys, next: (!next.is_beginning()).then(|| next.to_string()) }))
    }

    /// The keys of a step, and where to go on, which is the beginning at the end.
    pub async fn step(
        self,
        link: &Link,
        pattern: &str,
        deadline: Instant,
    ) -> Result<Result<(Vec<Vec<u8>>, Self), StorageError>, RedisError> {
        let place = match self.of(link.process(deadline).await?) {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        let mut command = cmd("SCAN");
        command.arg(place.cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(COUNT);
        let (cursor, keys) = from_redis_value(link.ask(&command, deadline).await?)?;
        Ok(Ok((keys, Self { cursor, ..place })))
    }

    pub fn is_beginning(self) -> bool {
        self.cursor == 0
    }

    /// How often it began again.
    pub fn restarts(self) -> u32 {
        self.restarts
    }

    /// The same of a process: where another one went on means nothing to it.
    fn of(self, process: u64) -> Result<Self, StorageError> {
        let place = if self.is_beginning() || self.process == process { self } else { self.begin_again()? };
        Ok(Self { process, ..place })
    }

    /// The beginning, once more.
    ///
    /// # Errors
    /// It began again too often.
    pub fn begin_again(self) -> Result<Self, StorageError> {
        if self.restarts >= RESTARTS {
            let message = "the store keeps moving keys, or changing servers; try again when that is done";
            return Err(StorageError::new(StorageReason::Unavailable, Effect::None, message));
        }
        let restarts = self.restarts + 1;
        debug!(restarts, "a scan begins again");
        Ok(Self { restarts, ..Self::default() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cursor, process, restarts } = self;
        write!(formatter, "{cursor}.{process}.{restarts}")
    }
}

/// Where a page said to go on: numbers, with points between them.
pub fn numbers<const COUNT: usize>(after: &str) -> Result<[u64; COUNT], StorageError> {
    let numbers: Option<Vec<u64>> = after.split('.').map(|number| number.parse().ok()).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(no_place)
}

/// What is told where no page begins.
pub fn no_place() -> StorageError {
    invalid("a page begins only where the one before said")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_goes_on_at_the_same_process_and_begins_again_at_another() {
        let place = Place::default().of(7).expect("a place");
        assert_eq!(place.to_string(), "0.7.0");
        let place = Place { cursor: u64::MAX, ..place };
        let again = Place::read(Some(&place.to_string())).expect("a place");
        assert_eq!(again.of(7).expect("a place").to_string(), "18446744073709551615.7.0");
        assert_eq!(again.of(8).expect("a place").to_string(), "0.8.1");
        let often = Place { restarts: RESTARTS, ..again };
        assert!(often.of(7).is_ok());
        assert_eq!(often.of(8).err().map(|error| error.reason), Some(StorageReason::Unavailable));
        for text in ["", "17", "1.2", "1.2.x", "1.2.4294967296"] {
            assert!(Place::read(Some(text)).is_err(), "{text}");
        }
    }
}
