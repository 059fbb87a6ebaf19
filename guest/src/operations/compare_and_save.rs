//! The precondition of `save-after`: which checkpoint is the latest.

use super::call::{Call, all, starts_with};
use super::latest::{Latest, is_newer};
use super::save::{NewCheckpoint, SavePlan};
use crate::document;
use crate::id::Id;
use crate::keyvalue::{Condition, IndexMax, Keyvalue};
use crate::{Conflict, Error};

/// The checkpoint that the caller expects to be the latest.
pub(super) struct ExpectedLatest {
    id: Option<Id>,
    /// The result of the previous attempt.
    found: Latest,
}

impl ExpectedLatest {
    /// Expects this checkpoint, or with none that the session has no checkpoint.
    pub fn new(id: Option<Id>) -> Self {
        Self { id, found: Latest::default() }
    }
}

impl<K: Keyvalue> Call<'_, K> {
    /// Adds the conditions that the latest checkpoint is the expected one and that
    /// the new one is newer. Foreign entries found earlier do not count, provided
    /// that they are still foreign.
    pub(super) fn plan_expected(&self, expected: &ExpectedLatest, new: &NewCheckpoint, plan: &mut SavePlan) {
        let ExpectedLatest { id, found } = expected;
        let mut conditions = vec![Condition::IndexMax(IndexMax {
            index: new.session_index.clone(),
            value_key_prefix: self.keys.documents(&new.session),
            excluding: found.foreign.iter().map(|entry| entry.member.clone()).collect(),
            member: id.as_ref().map(Id::to_string),
            upper_bound: new.position.clone(),
        })];
        // An index entry alone does not prove that the document belongs to the session.
        conditions.extend(found.condition.clone().or_else(|| {
            let id = id.as_ref()?;
            let header = document::id_header(id.as_str(), new.session.as_str());
            Some(starts_with(self.keys.document(&new.session, id), header))
        }));
        conditions.extend(found.foreign.iter().map(|entry| entry.condition.clone()));
        plan.conditions.extend(all(conditions));
    }

    /// Reads the latest checkpoint again after an attempt failed.
    ///
    /// # Errors
    /// [`Conflict::NotLatest`] if it is not the expected one,
    /// [`Error::InvalidArgument`] if the new one is not newer.
    pub(super) fn recheck(&self, expected: &mut ExpectedLatest, new: &NewCheckpoint) -> Result<(), Error> {
        expected.found = self.find_latest(&new.session)?;
        let latest = &expected.found.position;
        if latest.as_ref().map(|latest| latest.member.as_str()) != expected.id.as_ref().map(Id::as_str) {
            let actual = latest.as_ref().map(|latest| latest.member.clone());
            return Err(Error::Conflict(Conflict::NotLatest(actual)));
        }
        match latest {
            Some(latest) if is_newer(latest, &new.position) => Err(Error::InvalidArgument(format!(
                "the checkpoint {:?} is not newer than the latest one, {:?}; use a later timestamp",
                new.id(),
                latest.member
            ))),
            _ => Ok(()),
        }
    }
}
