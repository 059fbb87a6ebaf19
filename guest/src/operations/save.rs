//! `save`: one atomic batch of the document, its index entries and their
//! expiry.

use super::latest::{Expected, is_above};
use super::lifetime::Until;
use super::{ATTEMPTS, Checkpointer, HEAD, Held, entry, overtaken, starts_with};
use crate::compression;
use crate::document;
use crate::id::Id;
use crate::json;
use crate::keys::Keys;
use crate::keyvalue::{Batch, Condition, Expiry, IndexMax, IndexPut, Keyvalue, Operation, Position, Put, Value};
use crate::timestamp::Timestamp;
use crate::{Checkpoint, Conflict, Error, SizeExcess, Metadata, SaveOutcome, IdConflict, NamedValue, NewerCheckpoint};

/// Redis keeps no longer text.
const MAX_DOCUMENT_BYTES: u64 = 512 * 1024 * 1024;

impl<K: Keyvalue> Checkpointer<K> {
    /// Saves a checkpoint, in place of the one with the same id in its session.
    ///
    /// One round trip if the id is new, or stays in its run. Where the number of
    /// checkpoints is limited, one more to count them, and one to see which go;
    /// where a session lives as a whole, one more, and two for each 300 of it
    /// beyond the first 300 and two in the end.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::TooLarge`], [`Error::Conflict`]:
    /// nothing was written. [`Error::Storage`]: see its effect.
    pub fn save(&self, checkpoint: Checkpoint) -> Result<SaveOutcome, Error> {
        let newcomer = Newcomer::new(self, checkpoint, false)?;
        self.in_steps(|it| it.put(newcomer, None))
    }

    /// Saves a checkpoint if `latest` is the latest of its session, or if it has
    /// none. One round trip, as for [`Checkpointer::save`].
    ///
    /// # Errors
    /// [`Conflict::NotLatest`] says what the latest is if it is another;
    /// [`Error::InvalidArgument`] if the checkpoint would not be the latest
    /// itself; else as [`Checkpointer::save`].
    pub fn save_after(&self, checkpoint: Checkpoint, latest: Option<&str>) -> Result<SaveOutcome, Error> {
        let latest = latest.map(|id| Id::new("id of the latest checkpoint", id)).transpose()?;
        let newcomer = Newcomer::new(self, checkpoint, false)?;
        self.in_steps(|it| it.put(newcomer, Some(Expected::new(latest))))
    }

    /// Saves a checkpoint given as a document of either generation.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it can't be read, else as
    /// [`Checkpointer::save`].
    pub fn save_document(&self, text: String) -> Result<(Metadata, SaveOutcome), Error> {
        let checkpoint = self.given(text)?;
        let metadata = checkpoint.metadata.clone();
        let outcome = self.save(checkpoint)?;
        Ok((metadata, outcome))
    }

    /// The checkpoint that a document is.
    pub(super) fn given(&self, text: String) -> Result<Checkpoint, Error> {
        let found = self.reading(false).read(text);
        Ok(found.map_err(|reason| invalid(format!("not a checkpoint: {reason}")))?.checkpoint)
    }

    pub(super) fn put(
        &self,
        mut newcomer: Newcomer,
        mut expected: Option<Expected>,
    ) -> Result<SaveOutcome, Error> {
        let (mut standing, mut is_pinned) = (Standing::New, false);
        // At the limit of a session each save is in the way of all others, and one
        // gets ahead each time.
        let attempts = if self.max_checkpoints.is_some() { 8 * ATTEMPTS } else { ATTEMPTS };
        for _ in 0..attempts {
            let expiry = if is_pinned { Expiry::Never } else { newcomer.life };
            // The first batch decides. The others tidy up behind what it saved: a
            // save that is refused writes nothing.
            let mut batch = Batch { conditions: Vec::new(), operations: newcomer.operations(expiry) };
            let mut tidying = Vec::new();
            batch.conditions.push(match standing {
                Standing::New => vec![Condition::Absent(newcomer.document.clone()), newcomer.is_saved()],
                Standing::Ours { guard, run } => {
                    if let Some(left) = run.filter(|run| Some(run) != newcomer.run_index.as_ref()) {
                        tidying.push(newcomer.leaving(&left, &self.keys));
                    }
                    vec![starts_with(newcomer.document.clone(), guard)]
                }
            });
            if newcomer.life != Expiry::Never {
                batch.conditions.push(vec![self.pinned_as_seen(&newcomer.session, is_pinned)]);
            }
            if let Some(expected) = &expected {
                let place = newcomer.place();
                batch.conditions.extend(self.comes_after(expected, &newcomer.session, &place));
            }
            let mut is_partial = false;
            if let Some(most) = self.max_checkpoints {
                let room = self.room(&newcomer.session, most, Some(&newcomer.place()))?;
                if room.takes_newcomer && expected.is_none() {
                    return self.prune_newcomer(&newcomer, most);
                }
                batch.conditions.extend(room.conditions);
                batch.operations.extend(room.operations);
                tidying.extend(room.tidying);
                is_partial = room.is_partial;
            }
            for batch in &mut tidying {
                batch.conditions.push(vec![newcomer.is_saved()]);
            }
            // What the rest of the session lives on by, and from where on.
            let (mut rest_lives, mut rest) = (None, None);
            if newcomer.prolongs_session {
                let as_seen = self.pinned_as_seen(&newcomer.session, is_pinned);
                rest_lives = Some(Until::at_least(expiry).only_if(as_seen));
                let (others, next) = self.page_lives(&newcomer.session, &Until::at_least(expiry), None)?;
                for other in others {
                    batch.conditions.extend(other.conditions);
                    batch.operations.extend(other.operations);
                }
                rest = next;
            }
            let mut batches = vec![batch];
            batches.extend(tidying);
            // Without operations, and the last one: whether the checkpoint is the
            // latest after all of that.
            if expected.is_none() {
                batches.push(self.is_latest_batch(&newcomer));
            }
            let applied = self.commit_all(&batches)?;
            if applied[0] {
                if let Some(most) = self.max_checkpoints.filter(|_| is_partial) {
                    // What fails here is left to the next save; this one stands.
                    let _ = self.prune(&newcomer.session, most);
                }
                if let Some(until) = rest_lives.filter(|_| rest.is_some()) {
                    self.session_lives(&newcomer.session, &until, rest)?;
                }
                let is_latest = expected.is_some() || applied.last() == Some(&true);
                return Ok(if is_latest { SaveOutcome::Latest } else { self.not_latest(&newcomer) });
            }
            newcomer.take_back(batches);
            standing = self.standing(&newcomer)?;
            if let Some(expected) = &mut expected {
                if self.is_there_already(&newcomer, &standing)? {
                    // What an earlier try did not come to.
                    if let Some(until) = rest_lives {
                        self.session_lives(&newcomer.session, &until, None)?;
                    }
                    return Ok(SaveOutcome::Latest);
                }
                self.look_again(expected, &newcomer.session, &newcomer.place())?;
            }
            is_pinned = newcomer.life != Expiry::Never && self.is_pinned(&newcomer.session)?;
        }
        Err(overtaken())
    }

    /// Returns a batch that is applied if the new checkpoint is the latest.
    fn is_latest_batch(&self, newcomer: &Newcomer) -> Batch {
        let max = IndexMax {
            index: newcomer.session_index.clone(),
            value_key_prefix: self.keys.documents(&newcomer.session),
            excluding: Vec::new(),
            member: Some(newcomer.id.to_string()),
            upper_bound: newcomer.place(),
        };
        Batch { conditions: vec![vec![Condition::IndexMax(max)]], operations: Vec::new() }
    }

    /// Returns the outcome of a save after which an entry is above the new one.
    /// Foreign entries do not count. The save has succeeded, so a read that fails
    /// is no error: the newer checkpoint is then reported without its id.
    fn not_latest(&self, newcomer: &Newcomer) -> SaveOutcome {
        let place = newcomer.place();
        let (checkpoint_id, ahead_us) = match self.find_latest(&newcomer.session) {
            Ok((Some(latest), _)) if is_above(&latest, &place) => {
                (latest.member, ((latest.score - place.score) * 1e6).round() as u64)
            }
            Ok(_) => return SaveOutcome::Latest,
            Err(_) => (String::new(), 0),
        };
        SaveOutcome::NotLatest(NewerCheckpoint { checkpoint_id, ahead_us })
    }

    /// Ends the save of a checkpoint that is too old to be kept: an earlier
    /// version of it goes too.
    fn prune_newcomer(&self, newcomer: &Newcomer, most: u64) -> Result<SaveOutcome, Error> {
        if let Standing::Ours { .. } = self.standing(newcomer)? {
            self.delete_one(&newcomer.session, &newcomer.id)?;
        }
        let _ = self.prune(&newcomer.session, most);
        Ok(SaveOutcome::Pruned)
    }

    /// Looks at what stands in the way of a save that was refused.
    fn standing(&self, newcomer: &Newcomer) -> Result<Standing, Error> {
        let value = self.get(&newcomer.document, Some(HEAD))?;
        match self.owner(&newcomer.document, value)? {
            Held::Nothing => Ok(Standing::New),
            Held::Alien(what) => Err(newcomer.taken(format!("its key holds {what}"))),
            Held::Garbage(why, _) => {
                let reason = format!("its key holds text that is no checkpoint ({why}); delete it first");
                Err(newcomer.taken(reason))
            }
            Held::Document(owner, guard) if owner.is_of(&newcomer.session, newcomer.id.as_str()) => {
                Ok(Standing::Ours { guard, run: self.run_index(&owner) })
            }
            Held::Document(..) => Err(newcomer.taken("it belongs to another session".to_owned())),
        }
    }

    /// Whether the very document that is to be saved is there: then the answer
    /// to an earlier try was lost.
    fn is_there_already(&self, newcomer: &Newcomer, standing: &Standing) -> Result<bool, Error> {
        match standing {
            Standing::New => Ok(false),
            Standing::Ours { .. } => {
                let value = self.get(&newcomer.document, None)?;
                Ok(matches!(value, Value::Text(text) if text == newcomer.text))
            }
        }
    }
}

/// What stands where a checkpoint is to be saved.
enum Standing {
    /// Nothing, or an earlier version of the same run as we write it: what is
    /// to be expected, and tried first.
    New,
    /// An earlier version in its own session: what its text begins with, and
    /// the index of its run.
    Ours { guard: String, run: Option<String> },
}

/// A checkpoint that is about to be saved, where it will stand and what will
/// name it.
pub(super) struct Newcomer {
    pub metadata: Metadata,
    /// The document.
    text: String,
    score: f64,
    session: Id,
    id: Id,
    document: String,
    session_index: String,
    run_index: Option<String>,
    /// When it goes away, unless its session is pinned.
    life: Expiry,
    /// Whether the rest of its session lives as long.
    prolongs_session: bool,
}

impl Newcomer {
    /// Validates a checkpoint. `is_copy` allows a state that stays uncompressed
    /// because the checkpoint has no run.
    pub fn new<K: Keyvalue>(
        checkpointer: &Checkpointer<K>,
        checkpoint: Checkpoint,
        is_copy: bool,
    ) -> Result<Self, Error> {
        let Checkpoint { mut metadata, state } = checkpoint;
        let (size, limit) = (state.len() as u64, checkpointer.max_state_bytes);
        if size > limit {
            return Err(Error::TooLarge(SizeExcess { size, limit }));
        }
        json::check(&state).map_err(|fault| invalid(format!("the state is not JSON: {fault}")))?;
        let timestamp = Timestamp::parse(&metadata.timestamp).ok_or_else(|| {
            invalid(format!("{:?} is not an ISO 8601 timestamp of the years 1 to 9999", metadata.timestamp))
        })?;
        metadata.timestamp = timestamp.to_string();
        let session = Id::new("session id", &metadata.session_id)?;
        let id = Id::new("checkpoint id", &metadata.checkpoint_id)?;
        let run = metadata.run.as_ref().map(|run| Id::new("run id", &run.run_id)).transpose()?;
        document::check_extra_names(&metadata.extra).map_err(invalid)?;
        for NamedValue { name, value } in &metadata.extra {
            json::check(value).map_err(|fault| invalid(format!("extra {name:?} is not JSON: {fault}")))?;
        }
        if checkpointer.compress && run.is_none() && !is_copy {
            return Err(invalid(format!(
                "the checkpoint {:?} has no run, and its format A can't hold a compressed state; give it a run \
                 or open the checkpointer without compression",
                metadata.checkpoint_id
            )));
        }
        let text = if checkpointer.compress && run.is_some() {
            document::write(&metadata, &compression::compress(&state))
        } else {
            document::write(&metadata, &state)
        };
        let (size, limit) = (text.len() as u64, MAX_DOCUMENT_BYTES);
        if size > limit {
            return Err(Error::TooLarge(SizeExcess { size, limit }));
        }
        let keys = &checkpointer.keys;
        Ok(Self {
            text,
            score: timestamp.score(),
            document: keys.document(&session, &id),
            session_index: keys.session(&session),
            run_index: run.map(|run| keys.run(&session, &run)),
            metadata,
            session,
            id,
            life: checkpointer.expiry(),
            prolongs_session: checkpointer.lives_as_a_whole(),
        })
    }

    /// The same with a life of its own.
    pub fn with_life(self, life: Expiry) -> Self {
        Self { life, prolongs_session: false, ..self }
    }

    /// The place that it will have in the indexes.
    fn place(&self) -> Position {
        Position { score: self.score, member: self.id.to_string() }
    }

    /// What puts it there. The text goes along, until it is taken back.
    fn operations(&mut self, expiry: Expiry) -> Vec<Operation> {
        let value = std::mem::take(&mut self.text);
        let put = Operation::Put(Put { key: self.document.clone(), value, expiry });
        let index_put = |index: &String| {
            let (index, member) = (index.clone(), self.id.to_string());
            Operation::IndexPut(IndexPut { index, member, score: self.score, expiry })
        };
        let indexes = [&self.session_index].into_iter().chain(&self.run_index);
        [put].into_iter().chain(indexes.map(index_put)).collect()
    }

    /// Takes the text back out of batches that were refused.
    fn take_back(&mut self, batches: Vec<Batch>) {
        if let Some(Operation::Put(put)) = batches.into_iter().flat_map(|batch| batch.operations).next() {
            self.text = put.value;
        }
    }

    /// The batch that takes it out of the index of a run that it has just left,
    /// unless another prefix shares that index and has a checkpoint of this id.
    fn leaving(&self, index: &str, keys: &Keys) -> Batch {
        let id = self.id.as_str();
        let others = keys.documents_named_by(index, id).into_iter().filter(|key| *key != self.document);
        let conditions = others.map(|key| vec![Condition::Absent(key)]).collect();
        Batch { conditions, operations: vec![Operation::IndexDelete(entry(index.to_owned(), id))] }
    }

    /// That it, or an earlier version of the same run, stands at its key.
    fn is_saved(&self) -> Condition {
        starts_with(self.document.clone(), document::owner(&self.metadata))
    }

    fn taken(&self, reason: String) -> Error {
        Error::Conflict(Conflict::IdInUse(IdConflict { checkpoint_id: self.id.to_string(), reason }))
    }
}

fn invalid(message: String) -> Error {
    Error::InvalidArgument(message)
}
