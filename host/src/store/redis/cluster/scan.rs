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
use crate::store::redis::scan::{self, no_place};

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
            place.of_master.step(link, pattern, persistence.deadline(self.step())).await
        });
        let (keys, next) = match scanned.await? {
            Ok(step) => step,
            Err(error) => return Ok(Err(error)),
        };
        place.of_master = next;
        if next.is_beginning() {
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
        let ask = async |view: &View| self.ask_masters(view, persistence).await;
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
    /// What the slots were in the beginning.
    fingerprint: u32,
    of_master: scan::Place,
}

impl Place {
    fn beginning_of(survey: &Survey) -> Self {
        Self { fingerprint: survey.fingerprint, ..Self::default() }
    }

    fn read(text: &str) -> Result<Self, StorageError> {
        let mut parts = text.splitn(3, '.');
        let (Some(master), Some(fingerprint), Some(of_master)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(no_place());
        };
        Ok(Self {
            master: master.parse().map_err(|_| no_place())?,
            fingerprint: fingerprint.parse().map_err(|_| no_place())?,
            of_master: scan::Place::read(Some(of_master))?,
        })
    }

    /// A page of nothing, behind which all masters are gone through again.
    async fn begin_again(self, survey: &Survey) -> Result<KeysPage, StorageError> {
        let of_master = self.of_master.begin_again()?;
        tokio::time::sleep((of_master.restarts() * LONGEST_WAIT / 10).min(LONGEST_WAIT)).await;
        let place = Self { of_master, ..Self::beginning_of(survey) };
        Ok(KeysPage { keys: Vec::new(), next: Some(place.to_string()) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { master, fingerprint, of_master } = self;
        write!(formatter, "{master}.{fingerprint}.{of_master}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_goes_on_where_it_said() {
        let place = Place::read("2.4294967295.18446744073709551615.5.3").expect("a place");
        assert_eq!((place.master, place.fingerprint), (2, u32::MAX));
        assert_eq!(place.to_string(), "2.4294967295.18446744073709551615.5.3");
        for text in ["", "17", "1.2.3.4", "1.2.3.4.x", "1.4294967296.2.3.0"] {
            assert!(Place::read(text).is_err(), "{text}");
        }
    }
}
