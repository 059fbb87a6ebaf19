//! `restore`: a save that gives back a life that has begun elsewhere.

use super::save::Newcomer;
use super::{Checkpointer, expiry_after};
use crate::keyvalue::{Expiry, Keyvalue};
use crate::{Error, Metadata, SaveOutcome};

impl<K: Keyvalue> Checkpointer<K> {
    /// Saves a checkpoint given as a document of either generation, to live for so
    /// many milliseconds whatever the ttl is, or without end. Says as what it was
    /// saved. Round trips are those of [`Checkpointer::save`] where sessions do not
    /// live as a whole.
    ///
    /// # Errors
    /// As [`Checkpointer::save_document`], and [`Error::InvalidArgument`] for a life
    /// that no store can count.
    pub fn restore(&self, document: String, milliseconds: Option<u64>) -> Result<(Metadata, SaveOutcome), Error> {
        let left = match milliseconds {
            None => Expiry::Never,
            Some(milliseconds) => expiry_after("time that is left", milliseconds)?,
        };
        let newcomer = Newcomer::new(self, self.given(document)?, true)?.with_life(left);
        let metadata = newcomer.metadata.clone();
        let outcome = self.in_steps(|it| it.put(newcomer, None))?;
        Ok((metadata, outcome))
    }
}
