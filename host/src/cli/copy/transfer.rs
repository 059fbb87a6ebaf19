//! The copy of one checkpoint.

use checkpointer::store::StorageReason;
use checkpointer::{Checkpointer, Error, ScanEntry};

use super::expiry::Expiry;

/// The result for one checkpoint.
#[derive(Debug)]
pub enum CopyOutcome {
    /// Source and target were equal.
    Equal { bytes: usize },
    /// Copied. `replaced` says whether the target had a checkpoint with this id.
    Copied { bytes: usize, replaced: bool },
    /// Equal except that only the source expires, because the session is pinned at
    /// the target.
    PinnedAtTarget,
    /// Expired or deleted at the source since the scan.
    Vanished,
    /// Can't be copied, for this reason.
    Skipped(String),
}

/// A document with its expiry.
struct Dump {
    document: String,
    expiry: Expiry,
}

async fn dump(checkpointer: &Checkpointer, session: &str, id: &str) -> Result<Option<Dump>, Error> {
    let dump = checkpointer.dump(session, id).await?;
    Ok(dump.map(|dump| Dump { document: dump.document, expiry: Expiry::now(dump.expires_in) }))
}

/// Copies a checkpoint unless it is equal at the target. If its session is known
/// to be pinned at the target, a different expiry alone is not written.
///
/// # Errors
/// One of the stores failed.
pub async fn transfer(
    source: &Checkpointer,
    target: &Checkpointer,
    entry: &ScanEntry,
    is_pinned_at_target: bool,
) -> Result<CopyOutcome, Error> {
    let (session, id) = (entry.session_id.as_str(), entry.checkpoint_id.as_str());
    let Dump { document, expiry } = match dump(source, session, id).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(CopyOutcome::Vanished),
        Err(error) => return skip_reason(error).map(CopyOutcome::Skipped),
    };
    let bytes = document.len();
    let existing = match dump(target, session, id).await {
        // `restore` replaces it if it belongs to the session.
        Err(Error::Corrupt { .. }) => None,
        result => result?,
    };
    // The target may hold the same checkpoint written in another form.
    let is_equal = match &existing {
        None => false,
        Some(existing) if existing.document == document => true,
        Some(_) => loads_equal(source, target, session, id).await?,
    };
    let target_expiry = existing.as_ref().map(|existing| existing.expiry);
    if is_equal && target_expiry.is_some_and(|target| target.approx_eq(expiry)) {
        return Ok(CopyOutcome::Equal { bytes });
    }
    let only_source_expires = is_equal && !expiry.is_never() && target_expiry.is_some_and(Expiry::is_never);
    if only_source_expires && is_pinned_at_target {
        return Ok(CopyOutcome::PinnedAtTarget);
    }
    if let Err(error) = target.restore(&document, expiry.ttl()).await {
        return skip_reason(error).map(CopyOutcome::Skipped);
    }
    // `restore` ends the pin of a checkpoint, and not that of a session.
    if only_source_expires && dump(target, session, id).await?.is_some_and(|after| after.expiry.is_never()) {
        return Ok(CopyOutcome::PinnedAtTarget);
    }
    Ok(CopyOutcome::Copied { bytes, replaced: existing.is_some() })
}

/// Whether source and target load equal checkpoints.
async fn loads_equal(
    source: &Checkpointer,
    target: &Checkpointer,
    session: &str,
    id: &str,
) -> Result<bool, Error> {
    match (source.load(session, id).await, target.load(session, id).await) {
        (Ok(source), Ok(target)) => Ok(source.is_some() && source == target),
        (Err(Error::Corrupt { .. }), _) | (_, Err(Error::Corrupt { .. })) => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Why this one checkpoint can't be copied.
///
/// # Errors
/// `error`, if the store failed.
fn skip_reason(error: Error) -> Result<String, Error> {
    use StorageReason::{InvalidArgument, TooLarge, WrongType};
    match error {
        Error::Corrupt { reason, .. } => Ok(format!("it can't be read: {reason}")),
        Error::Storage(error) if matches!(error.reason, WrongType | TooLarge | InvalidArgument) => {
            Ok(error.message)
        }
        Error::InvalidArgument(_) | Error::Conflict(_) | Error::TooLarge { .. } => Ok(error.to_string()),
        error => Err(error),
    }
}
