//! What is good until it turns out not to be: it is found when it is needed, once for
//! all who need it, and again when it is of no use any more.

use std::fmt::Display;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::redis::RedisError;
use tokio::sync::watch;

use super::connection::before_sending;

/// What may be of no use any more.
pub trait Passing: Send + Sync + 'static {
    /// Whether it is.
    fn is_over(&self) -> bool;

    /// Sees to it that nobody else begins to use it.
    fn give_up(&self, why: &dyn Display);
}

/// What was found last.
pub struct Latest<T> {
    finding: Mutex<watch::Receiver<Finding<T>>>,
    /// Whether it is of no use after a failure.
    is_over_by: fn(&RedisError) -> bool,
}

/// What came of looking for it, if that has ended.
type Finding<T> = Option<Result<Arc<T>, RedisError>>;

/// How long there has to be no answer for those to be believed that give up waiting:
/// shorter than most people wait, and longer than most answers take.
const SILENCE: Duration = Duration::from_millis(500);

impl<T: Passing> Latest<T> {
    /// Nothing yet. It is given up after a failure of which `is_over_by` says so.
    pub fn new(is_over_by: fn(&RedisError) -> bool) -> Self {
        Self { finding: Mutex::new(watch::channel(None).1), is_over_by }
    }

    /// Does something with it. It has to be found until then; nothing is sent before.
    ///
    /// It is looked for in a task of its own, so that nobody has to wait for whoever
    /// was the first to need it, and went away.
    pub async fn with<R, F>(
        &self,
        deadline: Instant,
        find: impl FnOnce() -> F,
        action: impl AsyncFnOnce(&T) -> Result<R, RedisError>,
    ) -> Result<R, RedisError>
    where
        F: Future<Output = Result<T, RedisError>> + Send + 'static,
    {
        let mut finding = self.current(find);
        let found = async {
            match finding.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(found)) => found.clone(),
                // The task went with its runtime.
                _ => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            }
        };
        let found = before_sending(deadline, found).await?;
        let mut patience = Patience { with: &*found, since: Instant::now(), has_ended: false };
        let done = action(&found).await;
        patience.has_ended = true;
        if let Err(error) = &done
            && (self.is_over_by)(error)
        {
            found.give_up(error);
        }
        done
    }

    fn current<F>(&self, find: impl FnOnce() -> F) -> watch::Receiver<Finding<T>>
    where
        F: Future<Output = Result<T, RedisError>> + Send + 'static,
    {
        let mut current = self.finding.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_use = match &*current.borrow() {
            Some(found) => found.as_ref().is_ok_and(|found| !found.is_over()),
            // Whoever looks for it is still there.
            None => current.has_changed().is_ok(),
        };
        if !is_of_use {
            let (found, finding) = watch::channel(None);
            let looking = find();
            tokio::spawn(async move { found.send(Some(looking.await.map(Arc::new))) });
            *current = finding;
        }
        current.clone()
    }
}

/// Waits with whoever uses something, and takes it that it is of no use if they go away
/// before there is an answer: they would not come to see that it hangs.
struct Patience<'a, T: Passing> {
    with: &'a T,
    since: Instant,
    has_ended: bool,
}

impl<T: Passing> Drop for Patience<'_, T> {
    fn drop(&mut self) {
        if !self.has_ended && self.since.elapsed() >= SILENCE {
            self.with.give_up(&"somebody has given up waiting");
        }
    }
}
