//! `save`, `save-after`, `save-document`: write a document and its index entries
//! in one commit.

use super::call::{Call, contention, starts_with};
use super::compare_and_save::ExpectedLatest;
use super::load::Reader;
use super::retention::Retention;
use super::stored::Stored;
use super::ttl::SessionTtl;
use super::{ATTEMPTS, Checkpointer, HEAD};
use crate::compression;
use crate::document;
use crate::id::Id;
use crate::json;
use crate::keyvalue::{Batch, Condition, Expiry, IndexPut, Keyvalue, Operation, Position, Put, Value};

use crate::{
    Checkpoint, Conflict, Error, IdConflict, Metadata, NamedValue, SaveOutcome, SizeExcess, Timestamp,
};

/// The maximum size of a value in Redis.
const MAX_DOCUMENT_BYTES: u64 = 512 * 1024 * 1024;

impl<K: Keyvalue> Checkpointer<K> {
    /// Saves a checkpoint. It replaces a checkpoint of the session with the same id.
    ///
    /// | | round trips |
    /// |---|---|
    /// | a new id, or an id that stays in its run | 1 |
    /// | the session has a newer checkpoint | +1 |
    /// | the id moves to another run, or the session is pinned and there is a TTL | +2 |
    /// | the session has `max-checkpoints` | +2, and +1 per 1,000 beyond the first 1,000 |
    /// | a TTL with the scope `session` | +1 |
    /// | the same, and the session has more than 300 checkpoints | +2 per 300 more, +2 |
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::TooLarge`], [`Error::Conflict`]: nothing
    /// was written. [`Error::Storage`]: see its effect.
    pub fn save(&self, checkpoint: Checkpoint) -> Result<SaveOutcome, Error> {
        self.call(|call| call.put(&mut call.new_checkpoint(checkpoint, Origin::Caller)?, None))
    }

    /// Saves a checkpoint if `latest` is the id of the session's latest checkpoint;
    /// with none, if the session has no checkpoint. Round trips as
    /// [`Checkpointer::save`].
    ///
    /// # Errors
    /// [`Conflict::NotLatest`] with the actual latest checkpoint,
    /// [`Error::InvalidArgument`] if the checkpoint is not newer than `latest`, or
    /// an error of [`Checkpointer::save`].
    pub fn save_after(&self, checkpoint: Checkpoint, latest: Option<&str>) -> Result<SaveOutcome, Error> {
        let latest = latest.map(|id| Id::new("id of the latest checkpoint", id)).transpose()?;
        self.call(|call| {
            let mut new = call.new_checkpoint(checkpoint, Origin::Caller)?;
            call.put(&mut new, Some(ExpectedLatest::new(latest)))
        })
    }

    /// Saves a checkpoint given as a document of format A or B.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the document is invalid, or an error of
    /// [`Checkpointer::save`].
    pub fn save_document(&self, text: String) -> Result<(Metadata, SaveOutcome), Error> {
        self.call(|call| {
            let mut new = call.new_checkpoint(call.parse_document(text)?, Origin::Document)?;
            let outcome = call.put(&mut new, None)?;
            Ok((new.metadata, outcome))
        })
    }
}

impl<K: Keyvalue> Call<'_, K> {
    /// Parses a document that a caller provides.
    pub(super) fn parse_document(&self, text: String) -> Result<Checkpoint, Error> {
        let checkpoint = Reader { compressed: self.settings.compress, ..Reader::default() }.read(text);
        Ok(checkpoint.map_err(|reason| invalid(format!("invalid document: {reason}")))?.checkpoint)
    }

    /// Writes a new checkpoint in one commit. The commit is attempted as if the id
    /// were new, the session not pinned and below its limit. Only if it fails, the
    /// stored data is read, for the next attempt.
    pub(super) fn put(
        &self,
        new: &mut NewCheckpoint,
        mut expected: Option<ExpectedLatest>,
    ) -> Result<SaveOutcome, Error> {
        let (mut existing, mut is_pinned) = (None, false);
        let mut retention = self.settings.max_checkpoints.map(Retention::new);
        // Every save in a session at its limit makes the concurrent ones fail.
        let attempts = if retention.is_some() { 8 * ATTEMPTS } else { ATTEMPTS };
        for _ in 0..attempts {
            let mut plan = SavePlan::default();
            new.plan_put(existing.as_ref(), if is_pinned { Expiry::Never } else { new.expiry }, &mut plan);
            self.plan_run_change(new, existing.as_ref(), &mut plan);
            self.plan_pin(new, is_pinned, &mut plan);
            if let Some(expected) = &expected {
                self.plan_expected(expected, new, &mut plan);
            }
            if let Some(retention) = &mut retention {
                let is_kept = self.plan_retention(retention, new, &mut plan)?;
                if !is_kept && expected.is_none() {
                    return self.prune_new(new, retention);
                }
            }
            let session_ttl = self.plan_session_ttl(new, is_pinned, &mut plan)?;
            if expected.is_none() {
                plan.latest_check = Some(self.latest_check(new));
            }
            let batches = plan.into_batches(Some(new.is_current()));
            let applied = self.commit(&batches)?;
            if applied[0] {
                if let Some(retention) = &retention {
                    self.finish_retention(retention, new);
                }
                if let Some(SessionTtl { update, next: next @ Some(_) }) = session_ttl {
                    self.update_session(&new.session, &update, next)?;
                }
                let is_latest = expected.is_some() || applied.last() == Some(&true);
                return Ok(if is_latest { SaveOutcome::Latest } else { self.not_latest(new) });
            }
            new.recover_text(batches);
            if retention.as_mut().is_some_and(|retention| retention.must_count(&applied)) {
                continue;
            }
            (existing, is_pinned) = self.existing(new)?;
            if let Some(expected) = &mut expected {
                if existing.is_some() && self.is_saved_already(new)? {
                    // The earlier attempt may have ended before it extended the session.
                    if let Some(SessionTtl { update, .. }) = session_ttl {
                        self.update_session(&new.session, &update, None)?;
                    }
                    return Ok(SaveOutcome::Latest);
                }
                self.recheck(expected, new)?;
            }
        }
        Err(contention())
    }

    /// Removes the checkpoint from the index of the run that it leaves, unless
    /// another prefix shares that index and has a checkpoint with this id.
    fn plan_run_change(&self, new: &NewCheckpoint, existing: Option<&Existing>, plan: &mut SavePlan) {
        let Some(Existing { run_index: Some(left), .. }) = existing else { return };
        if Some(left) != new.run_index.as_ref() {
            let mut batch = self.remove_dangling_batch(left, new.id());
            let own = Condition::Absent(new.key.clone());
            batch.conditions.retain(|conditions| conditions[0] != own);
            plan.follow_up.push(batch);
        }
    }

    /// Reads the document at the key of a new checkpoint, and whether the session is
    /// pinned, after an attempt failed.
    ///
    /// # Errors
    /// [`Conflict::IdInUse`] if the key can't be replaced.
    pub(super) fn existing(&self, new: &NewCheckpoint) -> Result<(Option<Existing>, bool), Error> {
        let mut keys = vec![new.key.clone()];
        keys.extend((new.expiry != Expiry::Never).then(|| self.keys.pin(&new.session)));
        let mut values = self.bucket.get(&keys, Some(HEAD))?.into_iter();
        let in_use = |reason: String| {
            let checkpoint_id = new.id().to_owned();
            Err(Error::Conflict(Conflict::IdInUse(IdConflict { checkpoint_id, reason })))
        };
        let existing = match self.stored(&new.key, values.next().unwrap_or(Value::Absent))? {
            Stored::Absent => None,
            Stored::Document(owner, guard) if owner.matches(&new.session, new.id()) => {
                Some(Existing { guard, run_index: self.run_index(&owner) })
            }
            Stored::Document(..) => {
                return in_use("it belongs to another session; use another id".to_owned());
            }
            Stored::Foreign(value) => {
                return in_use(format!("its key holds {value}; delete the key or use another id"));
            }
            Stored::Invalid(reason, _) => {
                return in_use(format!(
                    "its key holds text that is not a checkpoint ({reason}); delete it first"
                ));
            }
        };
        Ok((existing, values.next().map_or(Ok(false), |marker| self.is_pin_marker(marker))?))
    }

    /// Returns whether the identical document is stored: an earlier attempt saved
    /// it, and its answer was lost.
    fn is_saved_already(&self, new: &NewCheckpoint) -> Result<bool, Error> {
        Ok(matches!(self.get(&new.key, None)?, Value::Text(text) if text == new.text))
    }

    /// Validates a checkpoint and writes its document.
    pub(super) fn new_checkpoint(
        &self,
        checkpoint: Checkpoint,
        origin: Origin,
    ) -> Result<NewCheckpoint, Error> {
        let Checkpoint { mut metadata, state } = checkpoint;
        check_size(&state, self.settings.max_state_bytes)?;
        if origin == Origin::Caller {
            json::check(&state).map_err(|error| invalid(format!("the state is not JSON: {error}")))?;
            document::check_extra_names(&metadata.extra).map_err(invalid)?;
            for NamedValue { name, value } in &metadata.extra {
                json::check(value)
                    .map_err(|error| invalid(format!("the extra {name:?} is not JSON: {error}")))?;
            }
        }
        let timestamp = Timestamp::parse(&metadata.timestamp).ok_or_else(|| {
            invalid(format!("invalid timestamp {:?}; use ISO 8601, from year 1 to 9999", metadata.timestamp))
        })?;
        metadata.timestamp = timestamp.to_string();
        let session = Id::new("session id", &metadata.session_id)?;
        let id = Id::new("checkpoint id", &metadata.checkpoint_id)?;
        let run = metadata.run.as_ref().map(|run| Id::new("run id", &run.run_id)).transpose()?;
        let text = match (self.settings.compress, &run, origin) {
            (false, ..) | (true, None, Origin::Copy) => document::write(&metadata, &state),
            (true, Some(_), _) => document::write(&metadata, &compression::compress(&state)),
            (true, None, _) => {
                return Err(invalid(format!(
                    "the checkpoint {id:?} has no run, so it is stored in format A, which can't hold a compressed \
                     state; give it a run or turn compression off",
                    id = id.as_str()
                )));
            }
        };
        check_size(&text, MAX_DOCUMENT_BYTES)?;
        Ok(NewCheckpoint {
            text,
            key: self.keys.document(&session, &id),
            session_index: self.keys.session(&session),
            run_index: run.map(|run| self.keys.run(&session, &run)),
            position: Position { score: timestamp.score(), member: id.to_string() },
            expiry: self.expiry(),
            extends_session: self.has_session_ttl(),
            metadata,
            session,
        })
    }
}

/// Where a checkpoint that is saved comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The caller: everything is validated.
    Caller,
    /// A document that was parsed, and thereby validated.
    Document,
    /// A document of another store. Without a run it stays uncompressed, because
    /// a copy must not fail where the original could be stored.
    Copy,
}

/// The commit of a save. Each feature adds its part in its own file.
///
/// The usual save is a list of exactly two batches:
///
/// 1. conditions: nothing is stored at the key, or a document of this id, session
///    and run; with a TTL, no pin marker exists. Operations: put the document, put
///    its entry into the index of the session and, with a run, of the run.
/// 2. `latest_check`: the condition `index-max` of the session index, and no
///    operations.
///
/// With `max-checkpoints` the first batch also has the condition
/// `index-size-at-most`, and a batch with only this condition comes second. Hosts
/// recognize the usual save by this shape.
#[derive(Default)]
pub(super) struct SavePlan {
    /// Nothing is written unless these conditions hold.
    pub conditions: Vec<Vec<Condition>>,
    /// The put comes first.
    pub operations: Vec<Operation>,
    /// Tells whether the session has reached its limit.
    pub size_check: Option<Batch>,
    /// Batches that are applied after the put. Without the put they must not be
    /// applied.
    pub follow_up: Vec<Batch>,
    /// Tells whether the checkpoint is the latest.
    pub latest_check: Option<Batch>,
}

impl SavePlan {
    /// Returns the batches of the commit. `guard` is a condition of the follow-up.
    pub fn into_batches(self, guard: Option<Condition>) -> Vec<Batch> {
        let mut batches = vec![Batch { conditions: self.conditions, operations: self.operations }];
        batches.extend(self.size_check);
        batches.extend(self.follow_up.into_iter().map(|mut batch| {
            batch.conditions.extend(guard.clone().map(|guard| vec![guard]));
            batch
        }));
        batches.extend(self.latest_check);
        batches
    }
}

/// A document at the key of a new checkpoint with the same id and session. The first
/// attempt expects none, or one of the same run as [`document::write()`] writes it.
pub(super) struct Existing {
    guard: String,
    run_index: Option<String>,
}

/// A valid checkpoint that is to be saved.
pub(super) struct NewCheckpoint {
    pub metadata: Metadata,
    pub session: Id,
    pub session_index: String,
    /// Its position in the indexes.
    pub position: Position,
    /// Its expiry, if its session is not pinned.
    pub expiry: Expiry,
    /// Whether the save extends the TTL of all checkpoints of the session.
    pub extends_session: bool,
    /// The document.
    text: String,
    key: String,
    run_index: Option<String>,
}

impl NewCheckpoint {
    /// Sets a TTL that is independent of the options.
    pub fn with_expiry(self, expiry: Expiry) -> Self {
        Self { expiry, extends_session: false, ..self }
    }

    pub fn id(&self) -> &str {
        &self.position.member
    }

    /// Puts the document and its index entries. Moves the text into the plan;
    /// [`NewCheckpoint::recover_text`] moves it back.
    fn plan_put(&mut self, existing: Option<&Existing>, expiry: Expiry, plan: &mut SavePlan) {
        plan.conditions.push(match existing {
            None => vec![Condition::Absent(self.key.clone()), self.is_current()],
            Some(Existing { guard, .. }) => vec![starts_with(self.key.clone(), guard.clone())],
        });
        let value = std::mem::take(&mut self.text);
        plan.operations.push(Operation::Put(Put { key: self.key.clone(), value, expiry }));
        for index in [&self.session_index].into_iter().chain(&self.run_index) {
            let Position { score, ref member } = self.position;
            let (index, member) = (index.clone(), member.clone());
            plan.operations.push(Operation::IndexPut(IndexPut { index, member, score, expiry }));
        }
    }

    /// Moves the text back from the batches of a failed attempt.
    fn recover_text(&mut self, batches: Vec<Batch>) {
        if let Some(Operation::Put(put)) = batches.into_iter().flat_map(|batch| batch.operations).next() {
            self.text = put.value;
        }
    }

    /// The condition that the key holds a document of this id, session and run.
    fn is_current(&self) -> Condition {
        starts_with(self.key.clone(), document::owner_header(&self.metadata))
    }
}

fn check_size(text: &str, limit: u64) -> Result<(), Error> {
    let size = text.len() as u64;
    if size > limit { Err(Error::TooLarge(SizeExcess { size, limit })) } else { Ok(()) }
}

fn invalid(message: String) -> Error {
    Error::InvalidArgument(message)
}
