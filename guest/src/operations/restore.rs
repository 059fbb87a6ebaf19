//! `restore`: saves a document with a TTL of its own.

use super::Checkpointer;
use super::checkpointer::expiry_after;
use super::save::Origin;
use crate::keyvalue::{Expiry, Keyvalue};
use crate::{Error, Metadata, SaveOutcome};

impl<K: Keyvalue> Checkpointer<K> {
    /// Saves a document with the given remaining TTL; with none it does not expire.
    /// The TTL of the options is ignored, and the TTLs of other checkpoints do not
    /// change. With `compress`, a checkpoint without a run is stored uncompressed.
    /// Round trips as [`Checkpointer::save`] with a TTL of the scope `checkpoint`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a TTL that a store can't hold, or an error of
    /// [`Checkpointer::save_document`].
    pub fn restore(&self, document: String, ttl_ms: Option<u64>) -> Result<(Metadata, SaveOutcome), Error> {
        let expiry = ttl_ms.map_or(Ok(Expiry::Never), |ttl_ms| expiry_after("remaining TTL", ttl_ms))?;
        self.call(|call| {
            let new = call.new_checkpoint(call.parse_document(document)?, Origin::Copy)?;
            let mut new = new.with_expiry(expiry);
            let outcome = call.put(&mut new, None)?;
            Ok((new.metadata, outcome))
        })
    }
}
