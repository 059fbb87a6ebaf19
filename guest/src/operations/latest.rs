//! What `save-after` says of a session's latest checkpoint, and what it is.

use super::{Checkpointer, HEAD, Held, starts_with};
use crate::id::Id;
use crate::keyvalue::{Condition, IndexHighest, Keyvalue, Order, Position, Query};
use crate::{Conflict, Error};

/// How many entries to look at in one round trip. Those before the latest name
/// nothing, or are not the session's own; mostly there are none.
const PAGE: u32 = 100;

/// What the latest checkpoint of a session is expected to be.
pub(super) struct Expected {
    latest: Option<Id>,
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
        Self { latest, strays: Vec::new() }
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
        let highest = IndexHighest {
            index: self.keys.session(session),
            values_at: self.keys.documents(),
            besides: expected.strays.iter().map(|stray| stray.member.clone()).collect(),
            member: expected.latest.as_ref().map(Id::to_string),
            at_most: place.clone(),
        };
        let strays = expected.strays.iter().map(|stray| vec![stray.condition.clone()]);
        [vec![Condition::IndexHighest(highest)]].into_iter().chain(strays).collect()
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
        let (latest, strays) = self.latest(session)?;
        if latest.as_ref().map(|latest| latest.member.as_str()) != expected.latest.as_ref().map(Id::as_str) {
            return Err(Error::Conflict(Conflict::Latest(latest.map(|latest| latest.member))));
        }
        if let Some(latest) = latest.filter(|latest| is_above(latest, place)) {
            return Err(Error::InvalidArgument(format!(
                "{:?} would not be the latest checkpoint: {:?} has a later timestamp, or the same and a greater id",
                place.member, latest.member
            )));
        }
        expected.strays = strays;
        Ok(())
    }

    /// The place of a session's latest checkpoint, whether it can be read or
    /// not, and the strays above it. If many entries above it name nothing, they
    /// are removed in passing.
    fn latest(&self, session: &Id) -> Result<(Option<Position>, Vec<Stray>), Error> {
        let index = self.keys.session(session);
        let (mut strays, mut after) = (Vec::new(), None);
        loop {
            let query = self.query(&index, Order::Descending, PAGE);
            let page = self.bucket.range(&Query { after, head: Some(HEAD), resumable: true, ..query })?;
            let (mut dead, mut latest) = (Vec::new(), None);
            for found in page.entries {
                let key = self.keys.documents() + &found.member;
                match self.owner(&key, found.value)? {
                    Held::Nothing => dead.push(found.member),
                    Held::Document(owner, guard) if !owner.is_of(session, &found.member) => {
                        strays.push(Stray { member: found.member, condition: starts_with(key, guard) });
                    }
                    Held::Document(..) | Held::Garbage(..) | Held::Alien(_) => {
                        let score = found.score.unwrap_or(f64::INFINITY);
                        latest = Some(Position { score, member: found.member });
                        break;
                    }
                }
            }
            after = page.next;
            if latest.is_some() || after.is_none() {
                return Ok((latest, strays));
            }
            // So many that the store might not look as far as the latest.
            self.tidy_up(&index, &dead);
        }
    }
}

fn is_above(a: &Position, b: &Position) -> bool {
    (a.score, &a.member) > (b.score, &b.member)
}
