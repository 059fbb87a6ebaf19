//! Retries of failed calls.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::sleep;
use tracing::debug;

use crate::{Effect, Error};

/// How calls that failed are retried: only errors for which
/// [`Error::is_retryable`] holds, with an exponential backoff and jitter.
///
/// Every operation is idempotent, so a retry is safe. If an attempt ended with
/// [`Effect::Unknown`] and its retry fails with an error that says
/// [`Effect::None`], the call returns the error of that attempt: the attempt may
/// have taken effect.
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
    /// At most this many attempts, with a backoff from 100 ms to 5 s.
    pub fn new(attempts: usize) -> Self {
        Self { attempts, initial_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5) }
    }

    /// One attempt.
    pub fn none() -> Self {
        Self::new(1)
    }

    /// The pause after the first attempt. It doubles after each further attempt.
    pub fn initial_backoff(mut self, backoff: Duration) -> Self {
        self.initial_backoff = backoff;
        self
    }

    /// The longest pause between two attempts.
    pub fn max_backoff(mut self, backoff: Duration) -> Self {
        self.max_backoff = backoff;
        self
    }

    pub(crate) fn attempts(&self) -> Attempts {
        let backoffs = ExponentialBuilder::default()
            .with_min_delay(self.initial_backoff)
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
    /// Takes the result of an attempt. Returns the result of the call, or none
    /// after the pause before another attempt.
    pub async fn next<T>(&mut self, result: Result<T, Error>) -> Option<Result<T, Error>> {
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
