//! Retries of failed calls.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::sleep;
use tracing::debug;

use crate::{Effect, Error};

/// How often and when failed calls are retried.
///
/// A call is retried if [`Error::is_retryable`] holds for its error. The pauses grow
/// exponentially; jitter makes each of them up to twice as long. Every operation is
/// idempotent, so a retry is safe.
///
/// An attempt that failed with [`Effect::Unknown`] may have taken effect. If a retry
/// of it then fails with [`Effect::None`], the call returns the error of the earlier
/// attempt.
///
/// ```
/// use std::time::Duration;
/// use checkpointer::{Checkpointer, Retry};
///
/// let builder = Checkpointer::builder().retry(Retry::new(5).initial_backoff(Duration::from_millis(50)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Retry {
    attempts: usize,
    initial_backoff: Duration,
    max_backoff: Duration,
}

impl Retry {
    /// At most this many attempts, at least one, with a backoff from 100 ms to 5 s.
    pub fn new(attempts: usize) -> Self {
        Self { attempts, initial_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5) }
    }

    /// One attempt.
    pub fn none() -> Self {
        Self::new(1)
    }

    /// Sets the pause after the first attempt. It doubles after each further attempt.
    pub fn initial_backoff(mut self, backoff: Duration) -> Self {
        self.initial_backoff = backoff;
        self
    }

    /// Sets the longest pause between two attempts, without jitter.
    pub fn max_backoff(mut self, backoff: Duration) -> Self {
        self.max_backoff = backoff;
        self
    }

    pub(crate) fn attempts(&self) -> Attempts {
        let backoffs = ExponentialBuilder::default()
            .with_min_delay(self.initial_backoff.min(self.max_backoff))
            .with_max_delay(self.max_backoff)
            .with_max_times(self.attempts.saturating_sub(1))
            .with_jitter();
        Attempts { backoffs: backoffs.build(), uncertain: None }
    }
}

impl Default for Retry {
    /// Five attempts.
    fn default() -> Self {
        Self::new(5)
    }
}

/// The attempts of one call.
pub(crate) struct Attempts {
    backoffs: ExponentialBackoff,
    /// The last error of an attempt that may have taken effect.
    uncertain: Option<Error>,
}

impl Attempts {
    /// Takes the result of an attempt. Returns the result of the call; or none, after
    /// a pause, if there must be another attempt.
    pub(crate) async fn next<T>(&mut self, result: Result<T, Error>) -> Option<Result<T, Error>> {
        let error = match result {
            Ok(value) => return Some(Ok(value)),
            Err(error) => error,
        };
        let backoff = if error.is_retryable() { self.backoffs.next() } else { None };
        match (backoff, error.effect()) {
            (Some(backoff), effect) => {
                debug!(%error, ?backoff, "retrying");
                if effect == Effect::Unknown {
                    self.uncertain = Some(error);
                }
                sleep(backoff).await;
                None
            }
            (None, Effect::Unknown) => Some(Err(error)),
            (None, Effect::None) => Some(Err(self.uncertain.take().unwrap_or(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conflict, StorageError, StorageReason};

    fn failure(effect: Effect) -> Result<(), Error> {
        Err(StorageError::new(StorageReason::Timeout, effect, "no answer").into())
    }

    #[tokio::test(start_paused = true)]
    async fn retryable_errors_are_retried_until_the_attempts_are_used_up() {
        let mut attempts = Retry::new(3).attempts();
        assert!(attempts.next(failure(Effect::None)).await.is_none());
        assert!(attempts.next(failure(Effect::None)).await.is_none());
        assert!(matches!(attempts.next(failure(Effect::None)).await, Some(Err(Error::Storage(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_are_not_retried() {
        let error = Error::InvalidArgument("no".to_owned());
        assert!(matches!(Retry::new(3).attempts().next(Err::<(), _>(error)).await, Some(Err(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn conflict_after_an_uncertain_attempt_is_reported_as_uncertain() {
        let mut attempts = Retry::new(3).attempts();
        assert!(attempts.next(failure(Effect::Unknown)).await.is_none());
        let conflict = Error::Conflict(Conflict::NotLatest { actual: None });
        let result = attempts.next(Err::<(), _>(conflict)).await;
        assert!(matches!(result, Some(Err(error)) if error.effect() == Effect::Unknown));
    }
}
