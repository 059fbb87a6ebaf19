//! `save`: one atomic batch of the document, its index entries and their
//! expiry.

use super::prune::Newcomer;
use super::{ATTEMPTS, Checkpointer, Found, HEAD, Held, entry, overtaken, starts_with};
use crate::compression;
use crate::document;
use crate::id::Id;
use crate::json;
use crate::keys;
use crate::keyvalue::{Batch, Condition, IndexPut, Keyvalue, Operation, Put};
use crate::timestamp::Timestamp;
use crate::{Checkpoint, Conflict, Error, Excess, Metadata, Outcome};

/// Redis keeps no longer text.
const MAX_DOCUMENT_BYTES: u64 = 512 * 1024 * 1024;

impl<K: Keyvalue> Checkpointer<K> {
    /// Saves a checkpoint, in place of the one with the same id in its session.
    ///
    /// One round trip if the id is new, or stays in its run. Where the number of
    /// checkpoints is limited, one more to count them, and one to see which go.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::TooLarge`], [`Error::Conflict`]:
    /// nothing was written. [`Error::Storage`]: see its effect.
    pub fn save(&self, checkpoint: Checkpoint) -> Result<Outcome, Error> {
        let Checkpoint { mut metadata, state } = checkpoint;
        let size = state.len() as u64;
        if size > self.max_state_bytes {
            return Err(Error::TooLarge(Excess { size, limit: self.max_state_bytes }));
        }
        json::check(&state).map_err(|fault| invalid(format!("the state is not JSON: {fault}")))?;
        let timestamp = Timestamp::parse(&metadata.timestamp).ok_or_else(|| {
            invalid(format!("{:?} is not an ISO 8601 timestamp of the years 1 to 9999", metadata.timestamp))
        })?;
        metadata.timestamp = timestamp.to_string();
        let names = Names::of(self, &metadata)?;
        let text = if self.compress && metadata.run.is_some() {
            document::write(&metadata, &compression::compress(&state))
        } else {
            document::write(&metadata, &state)
        };
        drop(state);
        let size = text.len() as u64;
        if size > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge(Excess { size, limit: MAX_DOCUMENT_BYTES }));
        }
        self.in_steps(|it| it.put(&metadata, &names, text, timestamp.score()))
    }

    /// Saves a checkpoint given as a document of either generation.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it can't be read, else as
    /// [`Checkpointer::save`].
    pub fn save_document(&self, text: String) -> Result<(Metadata, Outcome), Error> {
        let found = Found::read(text, false, self.compress);
        let checkpoint = found.map_err(|reason| invalid(format!("not a checkpoint: {reason}")))?.checkpoint;
        let metadata = checkpoint.metadata.clone();
        let outcome = self.save(checkpoint)?;
        Ok((metadata, outcome))
    }

    fn put(&self, metadata: &Metadata, names: &Names, text: String, score: f64) -> Result<Outcome, Error> {
        let id = &metadata.checkpoint_id;
        let index_put = |index: &String| {
            let (index, member) = (index.clone(), id.clone());
            Operation::IndexPut(IndexPut { index, member, score, expiry: self.expiry })
        };
        let put = Put { key: names.document.clone(), value: text, expiry: self.expiry };
        let mut puts = vec![Operation::Put(put), index_put(&names.session)];
        puts.extend(names.run.as_ref().map(index_put));
        let written = puts.len();
        // The first batch decides. The others tidy up behind what it saved: a
        // save that is refused writes nothing.
        let saved = starts_with(names.document.clone(), document::owner(metadata));
        let mut batches = vec![Batch { conditions: Vec::new(), operations: puts }];
        let mut standing = Standing::New;
        for _ in 0..ATTEMPTS {
            batches.truncate(1);
            let mut tidying = Vec::<Batch>::new();
            let batch = &mut batches[0];
            batch.operations.truncate(written);
            batch.conditions = vec![match standing {
                Standing::New => vec![Condition::Absent(names.document.clone()), saved.clone()],
                Standing::Ours { guard, run } => {
                    if let Some(left) = run.filter(|run| Some(run) != names.run.as_ref()) {
                        tidying.push(leaving(&left, metadata, names));
                    }
                    vec![starts_with(names.document.clone(), guard)]
                }
            }];
            let mut is_partial = false;
            if let Some(most) = self.max_checkpoints {
                let room = self.room(&names.id, most, Some(&Newcomer { id, score }))?;
                if room.takes_newcomer {
                    return self.prune_newcomer(metadata, names, most);
                }
                batch.conditions.extend(room.conditions);
                batch.operations.extend(room.operations);
                tidying.extend(room.tidying);
                is_partial = room.is_partial;
            }
            for batch in &mut tidying {
                batch.conditions.push(vec![saved.clone()]);
            }
            batches.extend(tidying);
            if self.commit(&batches)? {
                if let Some(most) = self.max_checkpoints.filter(|_| is_partial) {
                    // What fails here is left to the next save; this one stands.
                    let _ = self.prune(&names.id, most);
                }
                return Ok(Outcome::Kept);
            }
            standing = self.standing(metadata, names)?;
        }
        Err(overtaken())
    }

    /// Ends the save of a checkpoint that is too old to be kept: an earlier
    /// version of it goes too.
    fn prune_newcomer(&self, metadata: &Metadata, names: &Names, most: u64) -> Result<Outcome, Error> {
        if let Standing::Ours { .. } = self.standing(metadata, names)? {
            self.delete_one(&names.id, &Id::stored(&metadata.checkpoint_id))?;
        }
        let _ = self.prune(&names.id, most);
        Ok(Outcome::Pruned)
    }

    /// Looks at what stands in the way of a save that was refused.
    fn standing(&self, metadata: &Metadata, names: &Names) -> Result<Standing, Error> {
        let value = self.get(&names.document, Some(HEAD))?;
        match self.owner(&names.document, value)? {
            Held::Nothing => Ok(Standing::New),
            Held::Alien(what) => Err(conflict(metadata, &format!("its key holds {what}"))),
            Held::Garbage(why, _) => {
                let reason = format!("its key holds text that is no checkpoint ({why}); delete it first");
                Err(conflict(metadata, &reason))
            }
            Held::Document(owner, guard)
                if owner.checkpoint_id == metadata.checkpoint_id
                    && owner.session_id == metadata.session_id =>
            {
                Ok(Standing::Ours { guard, run: self.run_index(&owner) })
            }
            Held::Document(..) => Err(conflict(metadata, "it belongs to another session")),
        }
    }
}

/// The batch that takes a checkpoint out of the index of a run that it has just
/// left, unless another prefix shares that index and has a checkpoint of this id.
fn leaving(index: &str, metadata: &Metadata, names: &Names) -> Batch {
    let id = &metadata.checkpoint_id;
    let others = keys::documents_named_by(index, id).filter(|key| *key != names.document);
    let conditions = others.map(|key| vec![Condition::Absent(key)]).collect();
    Batch { conditions, operations: vec![Operation::IndexDelete(entry(index.to_owned(), id))] }
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

/// Where a checkpoint stands and what names it.
struct Names {
    /// The session's id.
    id: Id,
    document: String,
    session: String,
    run: Option<String>,
}

impl Names {
    fn of<K: Keyvalue>(checkpointer: &Checkpointer<K>, metadata: &Metadata) -> Result<Self, Error> {
        let keys = &checkpointer.keys;
        let session = Id::new("session id", &metadata.session_id)?;
        let run = match &metadata.run {
            Some(run) => Some(keys.run(&session, &Id::new("run id", &run.run_id)?)),
            None => None,
        };
        Ok(Self {
            document: keys.document(&Id::new("checkpoint id", &metadata.checkpoint_id)?),
            session: keys.session(&session),
            run,
            id: session,
        })
    }
}

fn invalid(message: String) -> Error {
    Error::InvalidArgument(message)
}

fn conflict(metadata: &Metadata, reason: &str) -> Error {
    Error::Conflict(Conflict { checkpoint_id: metadata.checkpoint_id.clone(), reason: reason.to_owned() })
}
