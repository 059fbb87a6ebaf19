//! Pins: checkpoints and sessions that do not expire.
//!
//! A checkpoint is pinned if it has no expiry. A session is pinned if its pin
//! marker exists. Every save with a TTL checks the marker in its commit.

use super::call::{Call, all, starts_with, storage_error};
use super::checkpointer::ids;
use super::save::{NewCheckpoint, SavePlan};
use super::ttl::ExpiryUpdate;
use super::{Checkpointer, HEAD};
use crate::Error;
use crate::id::Id;
use crate::keyvalue::{
    Batch, Condition, Effect, ExpireMode, Expiry, Keyvalue, Operation, Put, StorageReason, Value,
};

impl<K: Keyvalue> Checkpointer<K> {
    /// Excludes a checkpoint from expiry. Returns whether it exists.
    pub fn pin_checkpoint(&self, session: &str, checkpoint: &str) -> Result<bool, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        self.call(|call| {
            call.update_checkpoint(&session, &checkpoint, || Ok(ExpiryUpdate::extend(Expiry::Never)))
        })
    }

    /// Excludes all checkpoints of a session from expiry, and all that are saved in
    /// it later. Returns how many exist.
    pub fn pin_session(&self, session: &str) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        self.call(|call| {
            let (key, value) = (call.keys.pin(&session), String::new());
            let marker = Operation::Put(Put { key, value, expiry: Expiry::Never });
            let conditions = all([call.pin_condition(&session, false)]);
            call.commit(&[Batch { conditions, operations: vec![marker] }])?;
            let update = ExpiryUpdate::extend(Expiry::Never).only_if(call.pin_condition(&session, true));
            call.update_session(&session, &update, None)
        })
    }

    /// Gives a pinned checkpoint the TTL of a checkpoint saved now. In a pinned
    /// session it stays pinned. Returns whether it exists.
    pub fn unpin_checkpoint(&self, session: &str, checkpoint: &str) -> Result<bool, Error> {
        let (session, checkpoint) = ids(session, checkpoint)?;
        self.call(|call| {
            let exists = call.update_checkpoint(&session, &checkpoint, || {
                let is_pinned = call.is_pin_marker(call.get(&call.keys.pin(&session), Some(HEAD))?)?;
                Ok(call.unpin_update(&session, is_pinned))
            })?;
            // A checkpoint must not expire after a newer one.
            if exists && call.has_session_ttl() {
                call.update_session(&session, &ExpiryUpdate::extend(call.expiry()), None)?;
            }
            Ok(exists)
        })
    }

    /// Ends the pin of a session, and gives all of its checkpoints the TTL of a
    /// checkpoint saved now. Returns how many exist.
    pub fn unpin_session(&self, session: &str) -> Result<u64, Error> {
        let session = Id::new("session id", session)?;
        self.call(|call| {
            call.commit(&[unpin_batch(call.keys.pin(&session))])?;
            call.update_session(&session, &call.unpin_update(&session, false), None)
        })
    }
}

impl<K: Keyvalue> Call<'_, K> {
    /// Adds the condition that a session is pinned, or not, as the expiry of the
    /// new checkpoint assumes.
    pub(super) fn plan_pin(&self, new: &NewCheckpoint, is_pinned: bool, plan: &mut SavePlan) {
        if new.expiry != Expiry::Never {
            plan.conditions.push(vec![self.pin_condition(&new.session, is_pinned)]);
        }
    }

    /// Returns whether the value of a pin marker's key is a pin marker.
    pub(super) fn is_pin_marker(&self, value: Value) -> Result<bool, Error> {
        match value {
            Value::Absent => Ok(false),
            Value::Text(_) | Value::Truncated(_) => Ok(true),
            Value::Unreadable(value) => {
                let message = format!("the key of a pin marker holds {value}; delete the key");
                Err(storage_error(StorageReason::WrongType, Effect::None, message))
            }
        }
    }

    /// The condition that a session is pinned, or that it is not.
    pub(super) fn pin_condition(&self, session: &Id, is_pinned: bool) -> Condition {
        let marker = self.keys.pin(session);
        if is_pinned { starts_with(marker, String::new()) } else { Condition::Absent(marker) }
    }

    /// Sets the expiry of a checkpoint saved now.
    fn unpin_update(&self, session: &Id, is_pinned: bool) -> ExpiryUpdate {
        let expiry = if is_pinned { Expiry::Never } else { self.expiry() };
        let update = ExpiryUpdate { expiry, mode: ExpireMode::Set, condition: None };
        update.only_if(self.pin_condition(session, is_pinned))
    }
}

/// Returns a batch that deletes a pin marker if it exists.
pub(super) fn unpin_batch(marker: String) -> Batch {
    let conditions = all([starts_with(marker.clone(), String::new())]);
    Batch { conditions, operations: vec![Operation::Delete(marker)] }
}
