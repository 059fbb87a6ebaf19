//! The retry policy of requests and scans.

use std::time::{Duration, Instant};

use tracing::debug;

use super::error::{TransportError, TransportFailure};
use super::transport::Access;
use crate::store::Effect;

/// How many attempts fit into the timeout of a request to several servers, if each
/// attempt meets a server that hangs.
const ATTEMPTS_PER_TIMEOUT: u32 = 3;

const INITIAL_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_millis(100);

/// The least time for the last attempt, unless half an attempt is shorter. With less
/// time the end of the request would look like a server that hangs.
const MIN_LAST_ATTEMPT: Duration = Duration::from_millis(500);

/// When a request is retried, and how long an attempt may take.
///
/// A write is retried even if the reply to an earlier attempt was lost, because it
/// repeats its conditions. [`Answer::is_retry`] tells the caller. RELIABILITY.md lists
/// the consequences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryPolicy {
    max_attempts: Option<u32>,
    /// The time for all attempts.
    timeout: Option<Duration>,
    initial_backoff: Duration,
    is_retryable: fn(&TransportError, Access) -> bool,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// The reply to a request.
pub(crate) struct Answer<T> {
    pub(crate) reply: T,
    /// Whether an earlier attempt may have taken effect.
    pub(crate) is_retry: bool,
}

/// The time limits of an attempt.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    end: Option<Instant>,
    connect_timeout: Duration,
    response_timeout: Duration,
}

impl RetryPolicy {
    /// One immediate retry, of a request that was not sent or that only reads: an idle
    /// connection may turn out to be closed when it is used.
    pub(crate) fn once(connect_timeout: Duration, response_timeout: Duration) -> Self {
        let is_retryable = |error: &TransportError, access| match error {
            TransportError::Unreachable => true,
            TransportError::Disconnected => access == Access::Read,
            _ => false,
        };
        Self {
            max_attempts: Some(2),
            timeout: None,
            initial_backoff: Duration::ZERO,
            is_retryable,
            connect_timeout,
            response_timeout,
        }
    }

    /// Retries until `timeout`, as long as another server may take over or be found.
    pub(crate) fn failover(timeout: Duration) -> Self {
        let attempt_timeout = timeout / ATTEMPTS_PER_TIMEOUT;
        Self {
            max_attempts: None,
            timeout: Some(timeout),
            initial_backoff: INITIAL_BACKOFF,
            is_retryable: |error, _| error.is_transient(),
            connect_timeout: attempt_timeout,
            response_timeout: attempt_timeout,
        }
    }

    /// How long the server may take to answer an attempt.
    pub(crate) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// How long it may take to find a server, so that time remains for a retry.
    pub(crate) fn discovery_timeout(&self, connect_timeout: Duration) -> Duration {
        connect_timeout.min(self.response_timeout / 2)
    }

    /// Attempts a request until it succeeds or must not be retried.
    ///
    /// # Errors
    /// The last failure; if the effect of any attempt is unknown, the last failure with
    /// an unknown effect.
    pub(crate) async fn run<T, F: Future<Output = Result<T, TransportFailure>>>(
        &self,
        access: Access,
        mut attempt: impl FnMut(Attempt) -> F,
    ) -> Result<Answer<T>, TransportFailure> {
        let end = self.timeout.map(|timeout| Instant::now() + timeout);
        let last_start = end.map(|end| end - MIN_LAST_ATTEMPT.min(self.response_timeout / 2));
        let limits =
            Attempt { end, connect_timeout: self.connect_timeout, response_timeout: self.response_timeout };
        let (mut attempts, mut backoff, mut uncertain) = (1, self.initial_backoff, None);
        loop {
            let failure = match attempt(limits).await {
                Ok(reply) => return Ok(Answer { reply, is_retry: uncertain.is_some() }),
                Err(failure) => failure,
            };
            if failure.error.effect(access) == Effect::Unknown {
                uncertain = Some(failure.clone());
            }
            if !(self.is_retryable)(&failure.error, access)
                || self.max_attempts.is_some_and(|max| attempts >= max)
                || last_start.is_some_and(|last_start| Instant::now() + backoff >= last_start)
            {
                return Err(uncertain.unwrap_or(failure));
            }
            debug!(%failure, ?backoff, "retrying");
            tokio::time::sleep(backoff).await;
            attempts += 1;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }
}

impl Attempt {
    /// When a connection must be established that is requested now.
    pub(crate) fn connect_deadline(&self) -> Instant {
        self.deadline(self.connect_timeout)
    }

    /// When a request that is sent now must be answered.
    pub(crate) fn response_deadline(&self) -> Instant {
        self.deadline(self.response_timeout)
    }

    fn deadline(&self, timeout: Duration) -> Instant {
        let deadline = Instant::now() + timeout;
        self.end.map_or(deadline, |end| end.min(deadline))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Runs a request whose attempts have these results. Returns the result and the number of
    /// attempts.
    async fn run(
        policy: RetryPolicy,
        access: Access,
        results: &[Result<(), TransportError>],
    ) -> (Result<bool, TransportError>, usize) {
        let attempts = RefCell::new(0);
        let result = policy
            .run(access, |_| {
                let result = results[(*attempts.borrow()).min(results.len() - 1)].clone();
                *attempts.borrow_mut() += 1;
                async { result.map_err(TransportFailure::from) }
            })
            .await;
        (result.map(|answer| answer.is_retry).map_err(|failure| failure.error), attempts.into_inner())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn single_server_retries_once_if_nothing_was_sent_or_only_read() {
        let policy = RetryPolicy::once(SECOND, SECOND);
        for (access, error, attempts) in [
            (Access::Write, TransportError::Unreachable, 2),
            (Access::Read, TransportError::Disconnected, 2),
            (Access::Write, TransportError::Disconnected, 1),
            (Access::Read, TransportError::Timeout, 1),
            (Access::Read, TransportError::NotReady("LOADING"), 1),
        ] {
            assert_eq!(run(policy, access, &[Err(error.clone())]).await, (Err(error), attempts));
        }
    }

    #[tokio::test]
    async fn failover_retries_transient_errors_and_tells_of_an_uncertain_attempt() {
        let policy = RetryPolicy::failover(SECOND);
        let moved = || Err(TransportError::Moved(None));
        assert_eq!(run(policy, Access::Write, &[moved(), moved(), Ok(())]).await, (Ok(false), 3));
        let lost = || Err(TransportError::Disconnected);
        assert_eq!(run(policy, Access::Write, &[lost(), moved(), Ok(())]).await, (Ok(true), 3));
        assert_eq!(run(policy, Access::Read, &[lost(), Ok(())]).await, (Ok(false), 2));
        let full = || Err(TransportError::OutOfMemory);
        assert_eq!(run(policy, Access::Write, &[full()]).await, (full().map(|()| false), 1));
        assert_eq!(run(policy, Access::Write, &[lost(), full()]).await, (lost().map(|()| false), 2));
    }

    #[tokio::test]
    async fn failover_ends_before_its_timeout() {
        let start = Instant::now();
        let result = run(RetryPolicy::failover(SECOND), Access::Read, &[Err(TransportError::NoMaster)]).await;
        assert_eq!(result.0, Err(TransportError::NoMaster));
        assert!(start.elapsed() < SECOND && result.1 > 3, "{result:?} in {:?}", start.elapsed());
    }
}
