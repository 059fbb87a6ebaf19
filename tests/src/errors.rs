//! Errors of the store, in the form in which tests compare them.

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Error, StorageError};

/// The failure of the store that an operation returned.
pub fn storage_error(error: Error) -> StorageError {
    match error {
        Error::Storage(error) => error,
        other => panic!("not a failure of the store: {other}"),
    }
}

/// The class of a store's failure and whether a failed write took effect.
pub fn reason_and_effect(error: Error) -> (StorageReason, Effect) {
    let error = storage_error(error);
    (error.reason, error.effect)
}

/// All fields of a store's failure that the caller learns.
pub fn storage_fields(error: Error) -> (StorageReason, Effect, String) {
    let error = storage_error(error);
    (error.reason, error.effect, error.message)
}
