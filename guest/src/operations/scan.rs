//! `scan`: what there is under the prefix, page by page, by the heads of the
//! documents.

use std::collections::BTreeMap;

use super::{Checkpointer, HEAD, Held};
use crate::keys::{Kind, Name};
use crate::keyvalue::{Expiry, Keyvalue};
use crate::{Error, ScanEntry, ScanPage, Unreadable};

/// Keys with what they say.
type Named = Vec<(String, Name)>;

/// How far a scan has come: first it goes over documents, then over the marks of
/// pinned sessions.
struct Place<'a> {
    kind: Kind,
    /// Where the store said to go on.
    after: Option<&'a str>,
}

/// What the place behind a page begins with.
const CHECKPOINTS: &str = "checkpoints:";
const PINNED: &str = "pinned:";

/// The place of the first mark.
const FIRST_PINNED: &str = "pinned";

impl<'a> Place<'a> {
    fn read(text: Option<&'a str>) -> Result<Self, Error> {
        let Some(text) = text else { return Ok(Self { kind: Kind::Document, after: None }) };
        if let Some(after) = text.strip_prefix(CHECKPOINTS) {
            return Ok(Self { kind: Kind::Document, after: Some(after) });
        }
        if let Some(after) = text.strip_prefix(PINNED) {
            return Ok(Self { kind: Kind::Pin, after: Some(after) });
        }
        if text == FIRST_PINNED {
            return Ok(Self { kind: Kind::Pin, after: None });
        }
        Err(Error::InvalidArgument(format!("a page begins only where the one before said, not at {text:?}")))
    }

    /// The place behind the page that begins here, if the store goes on at `next`.
    fn behind(&self, next: Option<String>) -> Option<String> {
        match (self.kind, next) {
            (Kind::Pin, next) => Some(PINNED.to_owned() + &next?),
            (_, Some(next)) => Some(CHECKPOINTS.to_owned() + &next),
            (_, None) => Some(FIRST_PINNED.to_owned()),
        }
    }
}

impl<K: Keyvalue> Checkpointer<K> {
    /// A page of what there is under the prefix, from where the one before said to
    /// go on. Three round trips; where the store keeps sessions apart, one and two
    /// for each session.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where no page begins; [`Error::Storage`].
    pub fn scan(&self, after: Option<&str>) -> Result<ScanPage, Error> {
        let place = Place::read(after)?;
        let (groups, next) = self.page(place.kind, place.after)?;
        let mut listing = ScanPage {
            checkpoints: Vec::new(),
            unreadable: Vec::new(),
            pinned_sessions: Vec::new(),
            next_cursor: place.behind(next),
        };
        for keys in groups {
            if place.kind == Kind::Pin {
                listing.pinned_sessions.extend(keys.into_iter().map(|(_, name)| name.into_session()));
            } else {
                self.look_at(keys, &mut listing)?;
            }
        }
        Ok(listing)
    }

    /// A page of the keys of a kind, those apart that the store may not keep
    /// together, and where to go on.
    pub(super) fn page(
        &self,
        kind: Kind,
        after: Option<&str>,
    ) -> Result<(Vec<Named>, Option<String>), Error> {
        let page = self.bucket.scan(&self.keys.all(kind), after)?;
        let is_one_place = self.bucket.is_colocated(self.keys.prefix());
        let mut groups = BTreeMap::<_, Named>::new();
        for key in page.keys {
            if let Some(name) = self.keys.read(kind, &key) {
                let partition = name.partition.clone().filter(|_| !is_one_place);
                groups.entry(partition).or_default().push((key, name));
            }
        }
        Ok((groups.into_values().collect(), page.next_cursor))
    }

    /// Lists what stands at the keys of documents.
    fn look_at(&self, documents: Named, listing: &mut ScanPage) -> Result<(), Error> {
        let keys: Vec<String> = documents.iter().map(|(key, _)| key.clone()).collect();
        let heads = self.bucket.get(&keys, Some(HEAD))?;
        // In this order: of what goes in between, nothing is left.
        let lives = self.bucket.ttl(&keys)?;
        for (((key, name), head), life) in documents.into_iter().zip(heads).zip(lives) {
            let expires_in_ms = match life {
                None => continue,
                Some(Expiry::Never) => None,
                Some(Expiry::AfterMs(milliseconds)) => Some(milliseconds),
            };
            let reason = match self.owner(&key, head)? {
                Held::Document(owner, _) if name.is_of(&owner) => {
                    let (session_id, checkpoint_id) = (owner.session_id, owner.checkpoint_id);
                    listing.checkpoints.push(ScanEntry { session_id, checkpoint_id, expires_in_ms });
                    continue;
                }
                Held::Document(..) | Held::Nothing => continue,
                Held::Garbage(reason, _) => reason,
                Held::Alien(what) => format!("its key holds {what}"),
            };
            // It might be something else, and another's.
            if !self.keys.may_be_of_longer_prefix(&name.checkpoint) {
                listing.unreadable.push(Unreadable { checkpoint_id: name.checkpoint, reason });
            }
        }
        Ok(())
    }
}
