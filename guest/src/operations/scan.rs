//! `scan`: all checkpoints and pinned sessions under the prefix, page by page.

use std::collections::BTreeMap;

use super::call::Call;
use super::load::expires_in_ms;
use super::stored::Stored;
use super::{Checkpointer, HEAD};
use crate::keys::{KeyKind, ParsedKey};
use crate::keyvalue::Keyvalue;
use crate::{Error, ScanEntry, ScanPage, Unreadable};

/// Keys with their parts.
type ParsedKeys = Vec<(String, ParsedKey)>;

/// The position of a scan: it reads documents first, then pin markers.
struct ScanCursor<'a> {
    kind: KeyKind,
    /// The cursor of the store; none at the first page.
    store: Option<&'a str>,
}

/// The prefix of a cursor within the documents; the cursor of the store follows.
const CURSOR_DOCUMENTS: &str = "checkpoints:";
/// The prefix of a cursor within the pin markers; the cursor of the store follows.
const CURSOR_PINS: &str = "pinned:";
/// The cursor of the first page of pin markers.
const CURSOR_FIRST_PINS: &str = "pinned";

impl<'a> ScanCursor<'a> {
    fn parse(text: Option<&'a str>) -> Result<Self, Error> {
        let Some(text) = text else { return Ok(Self { kind: KeyKind::Document, store: None }) };
        let (kind, store) = if text == CURSOR_FIRST_PINS {
            (KeyKind::Pin, None)
        } else if let Some(store) = text.strip_prefix(CURSOR_DOCUMENTS) {
            (KeyKind::Document, Some(store))
        } else if let Some(store) = text.strip_prefix(CURSOR_PINS) {
            (KeyKind::Pin, Some(store))
        } else {
            let message = format!("invalid scan cursor {text:?}; use the next-cursor of the previous page");
            return Err(Error::InvalidArgument(message));
        };
        Ok(Self { kind, store })
    }

    /// Returns the cursor of the next page; `store` is the next cursor of the store.
    fn next(&self, store: Option<String>) -> Option<String> {
        match (self.kind, store) {
            (KeyKind::Pin, store) => Some(CURSOR_PINS.to_owned() + &store?),
            (_, Some(store)) => Some(CURSOR_DOCUMENTS.to_owned() + &store),
            (_, None) => Some(CURSOR_FIRST_PINS.to_owned()),
        }
    }
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Returns a page of the checkpoints and pinned sessions under the prefix.
    /// `cursor` is the `next_cursor` of the previous page; none for the first page.
    ///
    /// Round trips: 3 per page; if sessions are not colocated, 1 per page and 2 per
    /// session.
    pub fn scan(&self, cursor: Option<&str>) -> Result<ScanPage, Error> {
        let cursor = ScanCursor::parse(cursor)?;
        self.call(|call| {
            let (groups, next) = call.scan_keys(cursor.kind, cursor.store)?;
            let mut page = ScanPage {
                checkpoints: Vec::new(),
                unreadable: Vec::new(),
                pinned_sessions: Vec::new(),
                next_cursor: cursor.next(next),
            };
            for keys in groups {
                if cursor.kind == KeyKind::Pin {
                    page.pinned_sessions.extend(keys.into_iter().map(|(_, parsed)| parsed.into_session()));
                } else {
                    call.scan_documents(keys, &mut page)?;
                }
            }
            Ok(page)
        })
    }
}

impl<K: Keyvalue> Call<'_, K> {
    /// Returns a page of the keys of a kind, in groups that are colocated, and the
    /// next cursor of the store.
    pub(super) fn scan_keys(
        &self,
        kind: KeyKind,
        cursor: Option<&str>,
    ) -> Result<(Vec<ParsedKeys>, Option<String>), Error> {
        let page = self.bucket.scan(&self.keys.scan_prefix(kind), cursor)?;
        let is_colocated = self.bucket.is_colocated(self.keys.prefix());
        let mut groups = BTreeMap::<_, ParsedKeys>::new();
        for key in page.keys {
            if let Some(parsed) = self.keys.parse(kind, &key) {
                let partition = parsed.partition.clone().filter(|_| !is_colocated);
                groups.entry(partition).or_default().push((key, parsed));
            }
        }
        Ok((groups.into_values().collect(), page.next_cursor))
    }

    /// Adds the documents at these keys to a page.
    fn scan_documents(&self, documents: ParsedKeys, page: &mut ScanPage) -> Result<(), Error> {
        let keys: Vec<String> = documents.iter().map(|(key, _)| key.clone()).collect();
        let heads = self.bucket.get(&keys, Some(HEAD))?;
        // TTLs are read second: a key that expires in between has none and is skipped.
        let ttls = self.bucket.ttl(&keys)?;
        for (((key, parsed), head), expiry) in documents.into_iter().zip(heads).zip(ttls) {
            let Some(expiry) = expiry else { continue };
            let reason = match self.stored(&key, head)? {
                Stored::Document(owner, _) if parsed.matches(&owner) => {
                    let (session_id, checkpoint_id) = (owner.session_id, owner.checkpoint_id);
                    let expires_in_ms = expires_in_ms(expiry);
                    page.checkpoints.push(ScanEntry { session_id, checkpoint_id, expires_in_ms });
                    continue;
                }
                Stored::Document(..) | Stored::Absent => continue,
                Stored::Invalid(reason, _) => reason,
                Stored::Foreign(value) => format!("its key holds {value}"),
            };
            // An ambiguous key may belong to a longer prefix.
            if !self.keys.is_ambiguous(&parsed.checkpoint) {
                page.unreadable.push(Unreadable { checkpoint_id: parsed.checkpoint, reason });
            }
        }
        Ok(())
    }
}
