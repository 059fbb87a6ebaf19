//! What is done with one checkpoint: it is brought over, unless it is there.

use std::time::{Duration, Instant};

use anyhow::Result;
use checkpointer::store::StorageReason;
use checkpointer::{Checkpoint, Error, Listed};

use super::Side;

/// What became of a checkpoint.
#[derive(Debug)]
pub enum Fate {
    /// It is there as it is here.
    Equal { bytes: usize },
    /// It was brought over, to where there was another one of its id or none.
    Copied { bytes: usize, was_there: bool },
    /// It expired or was removed meanwhile.
    Gone,
    /// The time that it had is over, and it is there: it has got more meanwhile, and
    /// how much will be known once it is looked at again.
    Late,
    /// It can't be copied, for this reason.
    Left(String),
}

/// Brings a checkpoint over, if it is not there as it is here. What was `listed` at
/// that time has so much less time left now.
///
/// # Errors
/// One of the stores failed.
pub async fn transfer(from: &Side, to: &Side, listed: &Listed, listed_at: Instant) -> Result<Fate> {
    let (session, id) = (listed.session_id.as_str(), Some(listed.checkpoint_id.as_str()));
    let document = match from.call(|| from.checkpointer.load_document(session, id)).await {
        Ok(Some(document)) => document,
        Ok(None) => return Ok(Fate::Gone),
        Err(error) => return left(error).map_err(|error| from.failed(error)),
    };
    let bytes = document.len();
    let there = match to.call(|| to.checkpointer.load_document(session, id)).await {
        // To be replaced, if it is of the same session.
        Err(Error::Corrupt { .. }) => None,
        there => there.map_err(|error| to.failed(error))?,
    };
    if there.as_ref() == Some(&document) {
        return Ok(Fate::Equal { bytes });
    }
    let was_there = there.is_some();
    // Others may have written it another way, and it says the same.
    let both = if was_there { both(from, to, session, id).await? } else { None };
    if let Some((here, there)) = &both
        && here == there
    {
        return Ok(Fate::Equal { bytes });
    }
    let left_then = listed.milliseconds.map(Duration::from_millis);
    let left_now = left_then.map(|left| left.saturating_sub(listed_at.elapsed()));
    if left_now.is_some_and(|left| left < Duration::from_millis(1)) {
        return Ok(Fate::Late);
    }
    match to.call(|| to.checkpointer.restore(&document, left_now)).await {
        Ok((metadata, _)) => {
            // Where that is what it was, nothing but the form of its timestamp differs.
            let is_as_it_was =
                both.is_some_and(|(here, there)| there == Checkpoint { metadata, state: here.state });
            Ok(if is_as_it_was { Fate::Equal { bytes } } else { Fate::Copied { bytes, was_there } })
        }
        Err(error) => left(error).map_err(|error| to.failed(error)),
    }
}

/// The checkpoint here and there, if it is in both places.
async fn both(
    from: &Side,
    to: &Side,
    session: &str,
    id: Option<&str>,
) -> Result<Option<(Checkpoint, Checkpoint)>> {
    let here = from.call(|| from.checkpointer.load(session, id)).await;
    let there = to.call(|| to.checkpointer.load(session, id)).await;
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
