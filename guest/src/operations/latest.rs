//! Whether a saved checkpoint is the latest of its session, and which one is.

use super::call::{Call, all, index_member, starts_with, storage_error};
use super::save::NewCheckpoint;
use super::stored::Stored;
use crate::id::Id;
use crate::keyvalue::{Batch, Condition, Effect, IndexMax, Keyvalue, Order, Position, StorageReason};
use crate::{Error, NewerCheckpoint, SaveOutcome};

/// The number of entries to read in one round trip. Usually the first entry is
/// the latest checkpoint.
const PAGE: u32 = 100;

/// The maximum number of dangling and foreign entries above the latest checkpoint.
/// A store examines 1,000 entries, and a page of them may be added meanwhile.
const MAX_ABOVE: usize = 900;

/// The latest checkpoint of a session, and the foreign entries above it.
#[derive(Default)]
pub(super) struct Latest {
    pub position: Option<Position>,
    /// The condition that the latest checkpoint has not changed.
    pub condition: Option<Condition>,
    /// Index entries above it with documents of other sessions.
    pub foreign: Vec<ForeignEntry>,
}

/// An index entry with a document of another session.
pub(super) struct ForeignEntry {
    pub member: String,
    /// The condition that it still does.
    pub condition: Condition,
}

impl<K: Keyvalue> Call<'_, K> {
    /// Returns a batch that is applied if a new checkpoint is the latest one. It is
    /// the last one of the commit of a save, so that it sees the saved checkpoint.
    pub(super) fn latest_check(&self, new: &NewCheckpoint) -> Batch {
        let max = IndexMax {
            index: new.session_index.clone(),
            value_key_prefix: self.keys.documents(&new.session),
            excluding: Vec::new(),
            member: Some(new.id().to_owned()),
            upper_bound: new.position.clone(),
        };
        Batch { conditions: all([Condition::IndexMax(max)]), operations: Vec::new() }
    }

    /// Returns the outcome of a save after its latest check failed. Foreign entries
    /// make it fail, too. If the newer checkpoint can't be read, its id is empty:
    /// the save has succeeded, so the failed read must not turn it into an error,
    /// and `latest` would hide that the caller's clock may be behind.
    pub(super) fn not_latest(&self, new: &NewCheckpoint) -> SaveOutcome {
        let (checkpoint_id, ahead_us) = match self.find_latest(&new.session) {
            Ok(Latest { position: Some(latest), .. }) if is_newer(&latest, &new.position) => {
                // Exact to the microsecond up to year 2106, as doubles are.
                (latest.member, ((latest.score - new.position.score) * 1e6).round() as u64)
            }
            Ok(_) => return SaveOutcome::Latest,
            Err(_) => (String::new(), 0),
        };
        SaveOutcome::NotLatest(NewerCheckpoint { checkpoint_id, ahead_us })
    }

    /// Finds the latest checkpoint of a session, even if it can't be read. Removes
    /// dangling entries if there are many above it.
    pub(super) fn find_latest(&self, session: &Id) -> Result<Latest, Error> {
        let index = self.keys.session(session);
        let mut latest = Latest::default();
        let (mut dangling_left, mut after) = (0, None);
        loop {
            let page = self.bucket.range(&self.query_heads(&index, Order::Descending, PAGE, after))?;
            let mut dangling = Vec::new();
            for entry in page.entries {
                let key = self.keys.documents(session) + &entry.member;
                latest.condition = Some(match self.stored(&key, entry.value)? {
                    Stored::Absent => {
                        dangling.push(entry.member);
                        continue;
                    }
                    Stored::Document(owner, guard) if !owner.matches(session, &entry.member) => {
                        let condition = starts_with(key, guard);
                        latest.foreign.push(ForeignEntry { member: entry.member, condition });
                        continue;
                    }
                    Stored::Document(_, text) | Stored::Invalid(_, text) => starts_with(key, text),
                    // Its value can't be compared.
                    Stored::Foreign(_) => Condition::IndexHas(index_member(&index, &entry.member)),
                });
                let score = entry.score.unwrap_or(f64::INFINITY);
                latest.position = Some(Position { score, member: entry.member });
                return Ok(latest);
            }
            after = page.next;
            if after.is_none() {
                return Ok(latest);
            }
            dangling_left += dangling.len()
                - match self.remove_dangling(&index, &dangling) {
                    // They may be removed or not; the next attempt decides.
                    Err(Error::Storage(error)) if error.effect == Effect::Unknown => 0,
                    removed => removed?,
                };
            if latest.foreign.len() + dangling_left > MAX_ABOVE {
                let message = format!(
                    "more than {MAX_ABOVE} checkpoints of other sessions are above the latest one in the session's \
                     index; use other session ids or the layout `partitioned`"
                );
                return Err(storage_error(StorageReason::Unsupported, Effect::None, message));
            }
        }
    }
}

pub(super) fn is_newer(a: &Position, b: &Position) -> bool {
    (a.score, &a.member) > (b.score, &b.member)
}
