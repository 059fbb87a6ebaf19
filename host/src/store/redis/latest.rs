//! What is good until it turns out not to be: it is found when it is needed, by one for
//! all who need it, and again when it is of no use any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::redis::RedisError;
use tokio::sync::OnceCell;

use super::connection::before_sending;

/// What may be of no use any more.
pub trait Passing {
    /// Whether it is.
    fn is_over(&self) -> bool;

    /// Sees to it that nobody else begins to use it.
    fn give_up(&self, error: &RedisError);
}

/// What was found last.
pub struct Latest<T>(Mutex<Arc<OnceCell<Result<T, RedisError>>>>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Passing> Latest<T> {
    /// Does something with it. It has to be found until then, which whoever needs it
    /// awaits; nothing is sent before.
    pub async fn with<R>(
        &self,
        deadline: Instant,
        find: impl AsyncFnOnce() -> Result<T, RedisError>,
        action: impl AsyncFnOnce(&T) -> Result<R, RedisError>,
    ) -> Result<R, RedisError> {
        let found = self.current();
        let finding = async { found.get_or_init(|| find()).await.as_ref().map_err(RedisError::clone) };
        action(before_sending(deadline, finding).await?).await
    }

    fn current(&self) -> Arc<OnceCell<Result<T, RedisError>>> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.get().is_some_and(|found| found.as_ref().map_or(true, T::is_over)) {
            *current = Arc::default();
        }
        Arc::clone(&current)
    }
}
