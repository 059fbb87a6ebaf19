//! What `save-after` says of a session's latest checkpoint, and what it is.

use super::{Checkpointer, HEAD, Held, entry, starts_with, storage_error};
use crate::document;
use crate::id::Id;
use crate::keyvalue::{Condition, Effect, IndexMax, Keyvalue, Order, Position, Query, StorageReason};
use crate::{Conflict, Error};

/// How many entries to look at in one round trip. Those before the latest name
/// nothing, or are not the session's own; mostly there are none.
const PAGE: u32 = 100;

/// How many entries may stand above the latest. A store looks at 1,000, and the
/// last page is on the way to it.
const MOST_ABOVE: usize = 900;

/// What the latest checkpoint of a session is expected to be.
pub(super) struct Expected {
    latest: Option<Id>,
    above: Above,
}

/// How a session's latest checkpoint and what is above it were found.
#[derive(Default)]
pub(super) struct Above {
    /// That the latest is still what was found; none, if not looked at yet.
    condition: Option<Condition>,
    strays: Vec<Stray>,
}

/// An entry of a session that names a checkpoint of another one.
struct Stray {
    member: String,
    /// That it still does.
    condition: Condition,
}

impl Expected {
    /// This checkpoint, or none at all.
    pub fn new(latest: Option<Id>) -> Self {
        Self { latest, above: Above::default() }
    }
}

impl<K: Keyvalue> Checkpointer<K> {
    /// What has to hold for a checkpoint at `place` to come after the one that
    /// is expected.
    pub(super) fn comes_after(
        &self,
        expected: &Expected,
        session: &Id,
        place: &Position,
    ) -> Vec<Vec<Condition>> {
        let highest = IndexMax {
            index: self.keys.session(session),
            value_key_prefix: self.keys.documents(session),
            excluding: expected.above.strays.iter().map(|stray| stray.member.clone()).collect(),
            member: expected.latest.as_ref().map(Id::to_string),
            upper_bound: place.clone(),
        };
        let mut conditions = vec![Condition::IndexMax(highest)];
        // An entry alone does not make it a checkpoint of this session.
        match (&expected.above.condition, &expected.latest) {
            (Some(as_found), _) => conditions.push(as_found.clone()),
            (None, Some(latest)) => {
                let text = document::beginning(latest.as_str(), session.as_str());
                conditions.push(starts_with(self.keys.document(session, latest), text));
            }
            (None, None) => {}
        }
        conditions.extend(expected.above.strays.iter().map(|stray| stray.condition.clone()));
        conditions.into_iter().map(|condition| vec![condition]).collect()
    }

    /// Looks at what the latest is, after that was refused.
    ///
    /// # Errors
    /// It is another one than expected, or would still be the latest.
    pub(super) fn look_again(
        &self,
        expected: &mut Expected,
        session: &Id,
        place: &Position,
    ) -> Result<(), Error> {
        let (latest, above) = self.find_latest(session)?;
        if latest.as_ref().map(|latest| latest.member.as_str()) != expected.latest.as_ref().map(Id::as_str) {
            return Err(Error::Conflict(Conflict::NotLatest(latest.map(|latest| latest.member))));
        }
        if let Some(latest) = latest.filter(|latest| is_above(latest, place)) {
            return Err(Error::InvalidArgument(format!(
                "{:?} would not come after {:?}, which has a later timestamp, or the same and a greater id",
                place.member, latest.member
            )));
        }
        expected.above = above;
        Ok(())
    }

    /// The place of a session's latest checkpoint, whether it can be read or
    /// not, and the strays above it. If many entries above it name nothing, they
    /// are removed in passing.
    pub(super) fn find_latest(&self, session: &Id) -> Result<(Option<Position>, Above), Error> {
        let index = self.keys.session(session);
        let mut above = Above::default();
        let (mut unswept, mut after) = (0, None);
        loop {
            let query = self.query(&index, Order::Descending, PAGE);
            let page = self.bucket.range(&Query { after, max_value_bytes: Some(HEAD), with_next: true, ..query })?;
            let (mut dead, mut latest) = (Vec::new(), None);
            for found in page.entries {
                let key = self.keys.documents(session) + &found.member;
                let as_found = match self.owner(&key, found.value)? {
                    Held::Nothing => {
                        dead.push(found.member);
                        continue;
                    }
                    Held::Document(owner, guard) if !owner.is_of(session, &found.member) => {
                        above.strays.push(Stray { member: found.member, condition: starts_with(key, guard) });
                        continue;
                    }
                    Held::Document(_, text) | Held::Garbage(_, text) => starts_with(key, text),
                    // Whatever it is, it can't be looked into.
                    Held::Alien(_) => Condition::IndexHas(entry(index.clone(), &found.member)),
                };
                above.condition = Some(as_found);
                let score = found.score.unwrap_or(f64::INFINITY);
                latest = Some(Position { score, member: found.member });
                break;
            }
            after = page.next;
            if latest.is_some() || after.is_none() {
                return Ok((latest, above));
            }
            // So many that the store might not look as far as the latest.
            unswept += dead.len()
                - match self.sweep(&index, &dead) {
                    // Perhaps they are gone; what was read stands either way.
                    Err(Error::Storage(error)) if error.effect == Effect::Unknown => 0,
                    swept => swept?,
                };
            if above.strays.len() + unswept > MOST_ABOVE {
                let message = "too many checkpoints of others are in the session's index, above its latest";
                return Err(storage_error(StorageReason::Unsupported, Effect::None, message.to_owned()));
            }
        }
    }
}

pub(super) fn is_above(a: &Position, b: &Position) -> bool {
    (a.score, &a.member) > (b.score, &b.member)
}
