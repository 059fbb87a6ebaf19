//! How the keys of all masters are gone through, one master after the other. If slots
//! have moved meanwhile, a key may have gone from a master that was still to come to
//! one that was done: then all begins again.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ::redis::{RedisError, cmd, from_redis_value};
use tokio::task::JoinSet;

use super::slots::Survey;
use super::{Cluster, View, no_owner};
use crate::store::StorageError;
use crate::store::redis::connection::{Access, KeysPage, Persistence};
use crate::store::redis::failure::failure;
use crate::store::redis::latest::Passing;
use crate::store::redis::scan::{no_place, numbers, restart, step};

/// How long a scan that begins again waits at the most for slots to have moved.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

impl Cluster {
    /// A page of the keys that match a pattern.
    pub(super) async fn page(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError> {
        let place = after.map(Place::read).transpose()?;
        let mut persistence = Persistence::new(Access::Read, self.patience);
        loop {
            let error = match self.try_to_scan(pattern, place, &persistence).await {
                Ok(page) => return page,
                Err(error) => error,
            };
            // Whoever does not answer may have been replaced.
            *self.survey.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
            persistence.pause_after(error).await.map_err(|error| failure(error, Access::Read))?;
        }
    }

    async fn try_to_scan(
        &self,
        pattern: &str,
        place: Option<Place>,
        persistence: &Persistence,
    ) -> Result<Result<KeysPage, StorageError>, RedisError> {
        let mut survey = Arc::clone(&self.survey.lock().unwrap_or_else(PoisonError::into_inner));
        if place.is_none_or(|place| place.fingerprint != survey.fingerprint) {
            survey = self.survey(persistence).await?;
        }
        let mut place = place.unwrap_or_else(|| Place::beginning_of(&survey));
        if place.fingerprint != survey.fingerprint {
            return Ok(place.begin_again(&survey).await);
        }
        let Some(master) = survey.masters.get(place.master) else { return Ok(Err(no_place())) };
        let scanned = self.links.with(master, persistence.deadline(self.step()), async |link| {
            let process = link.process(persistence.deadline(self.step())).await?;
            if place.cursor != 0 && place.process != process {
                match restart(place.restarts) {
                    Ok(restarts) => place = Place { cursor: 0, restarts, ..place },
                    Err(error) => return Ok(Err(error)),
                }
            }
            place.process = process;
            step(link, place.cursor, pattern, persistence.deadline(self.step())).await.map(Ok)
        });
        let (cursor, keys) = match scanned.await? {
            Ok(page) => page,
            Err(error) => return Ok(Err(error)),
        };
        place.cursor = cursor;
        if cursor == 0 {
            place.master += 1;
        }
        if place.master < survey.masters.len() {
            return Ok(Ok(KeysPage { keys, next: Some(place.to_string()) }));
        }
        let now = self.survey(persistence).await?;
        if now.fingerprint == place.fingerprint && !now.is_moving {
            return Ok(Ok(KeysPage { keys, next: None }));
        }
        Ok(place.begin_again(&now).await.map(|page| KeysPage { keys, ..page }))
    }

    /// Asks all masters which slots they have.
    async fn survey(&self, persistence: &Persistence) -> Result<Arc<Survey>, RedisError> {
        let ask = async |view: &View| {
            let survey = self.ask_masters(view, persistence).await;
            if let Err(error) = &survey {
                view.give_up(error);
            }
            survey
        };
        let survey = Arc::new(self.with_view(persistence, ask).await?);
        *self.survey.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&survey);
        Ok(survey)
    }

    async fn ask_masters(&self, view: &View, persistence: &Persistence) -> Result<Survey, RedisError> {
        let mut answers = JoinSet::new();
        for node in view.masters() {
            let (links, deadline) = (Arc::clone(&self.links), persistence.deadline(self.step()));
            answers.spawn(async move {
                let question = cmd("CLUSTER").arg("NODES").clone();
                let answer = links.with(&node, deadline, async |link| link.ask(&question, deadline).await);
                Ok::<_, RedisError>(((*node).clone(), from_redis_value(answer.await?)?))
            });
        }
        let answers: Result<Vec<_>, _> = answers.join_all().await.into_iter().collect();
        Survey::read(&answers?).ok_or_else(no_owner)
    }
}

/// How far a scan has come.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Which master, in the order of their ids.
    master: usize,
    /// Where that master said to go on,
    cursor: u64,
    /// and the number of its process.
    process: u64,
    /// What the slots were in the beginning.
    fingerprint: u32,
    restarts: u32,
}

impl Place {
    fn beginning_of(survey: &Survey) -> Self {
        Self { fingerprint: survey.fingerprint, ..Self::default() }
    }

    fn read(text: &str) -> Result<Self, StorageError> {
        let [master, cursor, process, fingerprint, restarts] = numbers(text)?;
        Ok(Self {
            master: usize::try_from(master).map_err(|_| no_place())?,
            cursor,
            process,
            fingerprint: u32::try_from(fingerprint).map_err(|_| no_place())?,
            restarts: u32::try_from(restarts).map_err(|_| no_place())?,
        })
    }

    /// A page of nothing, behind which all masters are gone through again.
    async fn begin_again(self, survey: &Survey) -> Result<KeysPage, StorageError> {
        let restarts = restart(self.restarts)?;
        tokio::time::sleep((restarts * LONGEST_WAIT / 10).min(LONGEST_WAIT)).await;
        let place = Self { restarts, ..Self::beginning_of(survey) };
        Ok(KeysPage { keys: Vec::new(), next: Some(place.to_string()) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { master, cursor, process, fingerprint, restarts } = self;
        write!(formatter, "{master}.{cursor}.{process}.{fingerprint}.{restarts}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_goes_on_where_it_said() {
        let place = Place { master: 2, cursor: u64::MAX, process: 5, fingerprint: u32::MAX, restarts: 3 };
        let again = Place::read(&place.to_string()).expect("a place");
        assert_eq!(again.to_string(), "2.18446744073709551615.5.4294967295.3");
        for text in ["", "17", "1.2.3.4", "1.2.3.4.x", "1.2.3.4294967296.0"] {
            assert!(Place::read(text).is_err(), "{text}");
        }
    }
}
