//! What is done with one checkpoint: it is brought over, unless it is there.

use anyhow::Result;
use checkpointer::store::StorageReason;
use checkpointer::{Checkpoint, Error, Listed};

use super::Side;
use super::life::{Life, with_life};

/// What became of a checkpoint.
#[derive(Debug)]
pub enum Fate {
    /// It is there as it is here.
    Equal { bytes: usize },
    /// It was brought over, to where there was another one of its id, or one with
    /// another life, or none.
    Copied { bytes: usize, was_there: bool },
    /// It is there, and has no end there though it has one here: its session is
    /// pinned there.
    Held,
    /// It expired or was removed meanwhile.
    Gone,
    /// It can't be copied, for this reason.
    Left(String),
}

/// Brings a checkpoint over, if it is not there as it is here. Where its session is
/// known to be pinned there, nothing is written for its life alone.
///
/// # Errors
/// One of the stores failed.
pub async fn transfer(from: &Side, to: &Side, listed: &Listed, is_pinned_there: bool) -> Result<Fate> {
    let (session, id) = (listed.session_id.as_str(), listed.checkpoint_id.as_str());
    let (document, life) = match from.look_at(session, id).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Fate::Gone),
        Err(error) => return left(error).map_err(|error| from.failed(error)),
    };
    let bytes = document.len();
    let there = match to.look_at(session, id).await {
        // To be replaced, if it is of the same session.
        Err(Error::Corrupt { .. }) => None,
        there => there.map_err(|error| to.failed(error))?,
    };
    let was_there = there.is_some();
    let life_there = there.as_ref().map(|(_, life)| *life);
    let lives_as_long = life_there.is_some_and(|there| life.is_about(there));
    // Others may have written it another way, and it says the same.
    let (is_alike, in_words) = match there {
        None => (false, None),
        Some((text, _)) if text == document => (true, None),
        Some(_) => {
            let in_words = both(from, to, session, id).await?;
            (in_words.as_ref().is_some_and(|(here, there)| here == there), in_words)
        }
    };
    if is_alike && lives_as_long {
        return Ok(Fate::Equal { bytes });
    }
    let is_held = |there: Option<Life>| there.is_some_and(|there| life.has_end() && !there.has_end());
    if is_alike && is_pinned_there && is_held(life_there) {
        return Ok(Fate::Held);
    }
    // What it has left is looked at with each try.
    match to.call(|| with_life(to.checkpointer.restore(&document, life.left()))).await {
        Ok(((metadata, _), life_there)) => {
            // Where that is what it was, nothing but the form of its timestamp differs.
            let is_as_it_was = is_alike
                || in_words.is_some_and(|(here, there)| there == Checkpoint { metadata, state: here.state });
            Ok(match is_as_it_was {
                true if lives_as_long => Fate::Equal { bytes },
                true if is_held(life_there) => Fate::Held,
                _ => Fate::Copied { bytes, was_there },
            })
        }
        Err(error) => left(error).map_err(|error| to.failed(error)),
    }
}

/// The checkpoint here and there, if it is in both places.
async fn both(from: &Side, to: &Side, session: &str, id: &str) -> Result<Option<(Checkpoint, Checkpoint)>> {
    let here = from.call(|| from.checkpointer.load(session, Some(id))).await;
    let there = to.call(|| to.checkpointer.load(session, Some(id))).await;
    match (here, there) {
        (Ok(Some(here)), Ok(Some(there))) => Ok(Some((here, there))),
        (Ok(_), Ok(_)) | (Err(Error::Corrupt { .. }), _) | (_, Err(Error::Corrupt { .. })) => Ok(None),
        (Err(error), _) => Err(from.failed(error)),
        (_, Err(error)) => Err(to.failed(error)),
    }
}

/// Why this one checkpoint can't be copied, if it is not the store that failed.
fn left(error: Error) -> Result<Fate, Error> {
    match error {
        Error::Corrupt { reason, .. } => Ok(Fate::Left(format!("it can't be read: {reason}"))),
        Error::Storage {
            reason: StorageReason::WrongType | StorageReason::TooLarge | StorageReason::InvalidArgument,
            message,
            ..
        } => Ok(Fate::Left(message)),
        Error::InvalidArgument(_) | Error::Conflict(_) | Error::TooLarge { .. } => {
            Ok(Fate::Left(error.to_string()))
        }
        error => Err(error),
    }
}
