//! A lazily established, shared value (a connection, a slot map) that is re-established
//! after it has been invalidated.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id as RuntimeId};
use tokio::sync::watch;

use super::connect_with_deadline;
use crate::store::redis::error::{TransportError, TransportFailure};

/// A value that can be invalidated.
pub(crate) trait Invalidate: Send + Sync + 'static {
    /// Whether it has been invalidated.
    fn is_invalid(&self) -> bool;

    /// Invalidates it, so that the next caller re-establishes it.
    fn invalidate(&self, reason: &dyn Display);
}

/// The current value of each tokio runtime that has used it. Runtimes do not share
/// values, because the tasks of a connection run only as long as its runtime does.
pub(crate) struct Reconnecting<T> {
    current: Mutex<Vec<(RuntimeId, watch::Receiver<Connecting<T>>)>>,
    /// Whether the value is invalid after this error.
    invalidates: fn(&TransportError) -> bool,
}

/// The result of establishing the value; none until then.
type Connecting<T> = Option<Result<Arc<T>, TransportFailure>>;

/// The maximum number of runtimes whose values are kept.
const MAX_RUNTIMES: usize = 16;

/// A caller that is dropped after it has waited this long invalidates the value, since
/// the server probably hangs. Shorter than most callers wait, longer than most replies
/// take.
const ABANDON_AFTER: Duration = Duration::from_millis(500);

impl<T: Invalidate> Reconnecting<T> {
    pub(crate) fn new(invalidates: fn(&TransportError) -> bool) -> Self {
        Self { current: Mutex::default(), invalidates }
    }

    /// Runs `action` with the value. The value must be established until `deadline`;
    /// nothing is sent before.
    ///
    /// It is established in a task of its own, which goes on if this caller is dropped.
    pub(crate) async fn with<R, F>(
        &self,
        deadline: Instant,
        connect: impl FnOnce() -> F,
        action: impl AsyncFnOnce(&T) -> Result<R, TransportFailure>,
    ) -> Result<R, TransportFailure>
    where
        F: Future<Output = Result<T, TransportFailure>> + Send + 'static,
    {
        let mut connecting = self.current(connect);
        let established = async {
            match connecting.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(established)) => established.clone(),
                // The task has panicked.
                _ => Err(TransportError::Unreachable.into()),
            }
        };
        let value = connect_with_deadline(deadline, established).await?;
        let mut guard = AbandonGuard { value: &*value, start: Instant::now(), is_done: false };
        let result = action(&value).await;
        guard.is_done = true;
        if let Err(failure) = &result
            && (self.invalidates)(&failure.error)
        {
            value.invalidate(failure);
        }
        result
    }

    fn current<F>(&self, connect: impl FnOnce() -> F) -> watch::Receiver<Connecting<T>>
    where
        F: Future<Output = Result<T, TransportFailure>> + Send + 'static,
    {
        let runtime = Handle::current();
        let mut current = self.current.lock();
        if let Some((_, connecting)) = current.iter().find(|(id, _)| *id == runtime.id())
            && is_usable(connecting)
        {
            return connecting.clone();
        }
        current.retain(|(id, connecting)| *id != runtime.id() && is_usable(connecting));
        // A slot map stays usable after its runtime has ended.
        if current.len() == MAX_RUNTIMES {
            current.remove(0);
        }
        let (sender, connecting) = watch::channel(None);
        let connection = connect();
        runtime.spawn(async move { sender.send(Some(connection.await.map(Arc::new))) });
        current.push((runtime.id(), connecting.clone()));
        connecting
    }
}

fn is_usable<T: Invalidate>(connecting: &watch::Receiver<Connecting<T>>) -> bool {
    match &*connecting.borrow() {
        Some(established) => established.as_ref().is_ok_and(|value| !value.is_invalid()),
        // Whether the task still runs.
        None => connecting.has_changed().is_ok(),
    }
}

/// Invalidates the value if the caller is dropped after a long wait, since it will not
/// see the timeout.
struct AbandonGuard<'a, T: Invalidate> {
    value: &'a T,
    start: Instant,
    is_done: bool,
}

impl<T: Invalidate> Drop for AbandonGuard<'_, T> {
    fn drop(&mut self) {
        if !self.is_done && self.start.elapsed() >= ABANDON_AFTER {
            self.value.invalidate(&"a caller was dropped before the server answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::runtime::Builder;

    use super::*;

    #[derive(Default)]
    struct Value(AtomicBool);

    impl Invalidate for Value {
        fn is_invalid(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }

        fn invalidate(&self, _: &dyn Display) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_runtime_has_a_value_and_an_invalid_one_is_replaced() {
        let reconnecting = Reconnecting::<Value>::new(|error| *error == TransportError::Timeout);
        let connects = Arc::new(AtomicUsize::new(0));
        let request = async |result: Result<(), TransportError>| {
            let connects = Arc::clone(&connects);
            let connect = || async move {
                connects.fetch_add(1, Ordering::Relaxed);
                Ok(Value::default())
            };
            let deadline = Instant::now() + Duration::from_secs(10);
            let _ = reconnecting.with(deadline, connect, async |_| Ok(result?)).await;
        };
        let runtimes =
            [(); 2].map(|()| Builder::new_current_thread().enable_time().build().expect("a runtime"));
        for (runtime, result, expected) in [
            (0, Ok(()), 1),
            (0, Err(TransportError::TryAgain), 1),
            (1, Ok(()), 2),
            (0, Err(TransportError::Timeout), 2),
            (1, Ok(()), 2),
            (0, Ok(()), 3),
        ] {
            runtimes[runtime].block_on(request(result));
            assert_eq!(connects.load(Ordering::Relaxed), expected);
        }
    }
}
