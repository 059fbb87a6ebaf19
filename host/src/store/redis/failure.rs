//! What a failure of Redis means, for whoever asked and for the connection.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};
use tracing::warn;

use super::cluster::{NO_NODE, NO_OWNER};
use super::connection::Access;
use super::replicas::{FEW_REPLICAS, NO_WAITING, NOT_SENT};
use super::sentinel::{NO_MASTER, NO_SENTINEL, NO_SUCH_MASTER, NOT_A_SENTINEL, NOT_LET_IN};
use super::tls;
use crate::store::{Effect, StorageError, StorageReason, invalid, wrong_type};

/// Whether a connection is of no use after this failure. Most of what a server answers
/// is none of its connection.
pub fn is_lost(error: &RedisError) -> bool {
    error.code().is_none()
        || has_no_database(error)
        || is_one_too_many(error)
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
}

/// Whether the client could not choose its database when it connected.
fn has_no_database(error: &RedisError) -> bool {
    error.to_string().contains("refused to switch database")
}

/// Whether the server has as many clients as it may have.
fn is_one_too_many(error: &RedisError) -> bool {
    error.to_string().contains("max number of clients")
}

/// Whether the server showed a certificate that is not trusted.
fn is_not_trusted(error: &RedisError) -> bool {
    error.to_string().contains("invalid peer certificate")
}

/// Whether another try may go better, if another server takes over or can be found.
pub fn may_pass(error: &RedisError) -> bool {
    match error.code() {
        // Whether replicas have a write was waited for already.
        Some(FEW_REPLICAS) => false,
        Some("READONLY") => true,
        _ => {
            let reason = classify(error, Access::Read).reason;
            matches!(reason, StorageReason::Unavailable | StorageReason::Timeout) && !is_not_trusted(error)
        }
    }
}

/// Whether the server does not have the script that it was to run.
pub fn is_without_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// What is told while a cluster moves keys.
const MOVING: &str = "the store is moving these keys to another machine";

/// What went wrong, in words for everyone; what the server said goes to the
/// log.
pub fn failure(error: RedisError, access: Access) -> StorageError {
    warn!(%error, "Redis failed");
    classify(&error, access)
}

/// The same without the log, for what is not the end of it.
pub fn classify(error: &RedisError, access: Access) -> StorageError {
    let unknown = if access == Access::Write { Effect::Unknown } else { Effect::None };
    let (reason, effect, message) = match error.code() {
        Some("WRONGTYPE") => {
            // A script of ours says what it found, Redis itself does not.
            let found = error.detail().unwrap_or_default();
            let kind =
                ["string", "list", "set", "zset", "hash", "stream"].into_iter().find(|kind| *kind == found);
            return wrong_type(&format!("a {}", kind.unwrap_or("value of another type")));
        }
        Some(_) if has_no_database(error) => {
            if error.detail().is_some_and(|detail| detail.contains("no permissions")) {
                let message = "the store's user lacks a permission: select".to_owned();
                (StorageReason::AccessDenied, Effect::None, message)
            } else {
                return invalid("the store has no database of this number");
            }
        }
        Some(_) if is_one_too_many(error) => {
            (StorageReason::Unavailable, Effect::None, "the store takes no more clients".to_owned())
        }
        Some(FEW_REPLICAS) => {
            let message =
                format!("{}; it may be lost if the server fails", error.detail().unwrap_or_default());
            (StorageReason::Unavailable, Effect::Unknown, message)
        }
        Some(NO_WAITING) => (
            StorageReason::Unsupported,
            Effect::None,
            format!("the store can't wait until a write is on disk: {}", error.detail().unwrap_or_default()),
        ),
        Some(NOT_SENT) => (
            StorageReason::Timeout,
            Effect::None,
            "the store did not take the write in time: those before it wait for replicas, or it hangs"
                .to_owned(),
        ),
        Some(NO_NODE) => {
            let message = "none of the store's servers can be reached".to_owned();
            (StorageReason::Unavailable, Effect::None, message)
        }
        Some(NO_OWNER) => {
            let message = "the store has no server for this key at the moment".to_owned();
            (StorageReason::Unavailable, Effect::None, message)
        }
        Some(NO_SENTINEL) => {
            let message = "none of the store's sentinels can be reached".to_owned();
            (StorageReason::Unavailable, Effect::None, message)
        }
        Some(NOT_LET_IN) => {
            let message = "a sentinel of the store refused the user or the password".to_owned();
            (StorageReason::AccessDenied, Effect::None, message)
        }
        Some(NOT_A_SENTINEL) => return invalid("a server is no sentinel of the store"),
        Some(NO_SUCH_MASTER) => return invalid("the sentinels of the store know no master of this name"),
        Some(NO_MASTER) => {
            (StorageReason::Unavailable, Effect::None, "the store has no master at the moment".to_owned())
        }
        Some("ERR") if error.detail().is_some_and(|detail| detail.contains("non local key")) => {
            (StorageReason::Unavailable, unknown, MOVING.to_owned())
        }
        Some("ERR") if error.detail().is_some_and(|detail| detail.contains("cluster support disabled")) => {
            (StorageReason::Unsupported, Effect::None, "the store is one server and no cluster".to_owned())
        }
        Some("MOVED" | "ASK" | "TRYAGAIN") => (StorageReason::Unavailable, Effect::None, MOVING.to_owned()),
        Some("NOPERM") => {
            let missing = missing_permission(error.detail().unwrap_or_default());
            let message = format!("the store's user lacks a permission: {missing}");
            (StorageReason::AccessDenied, Effect::None, message)
        }
        Some("NOAUTH" | "WRONGPASS") => (
            StorageReason::AccessDenied,
            Effect::None,
            "the store refused the user or the password".to_owned(),
        ),
        Some("OOM") => (StorageReason::Full, Effect::None, "the store has no memory left".to_owned()),
        Some("READONLY") => (StorageReason::ReadOnly, Effect::None, "the store takes no writes".to_owned()),
        Some("MISCONF") => (
            StorageReason::Full,
            Effect::None,
            "the store takes no writes until it can save them to disk".to_owned(),
        ),
        Some(code @ ("LOADING" | "BUSY" | "CLUSTERDOWN" | "MASTERDOWN" | "NOREPLICAS")) => {
            (StorageReason::Unavailable, Effect::None, format!("the store is not ready ({code})"))
        }
        Some(code) => (StorageReason::Other, unknown, format!("the store answered with the error {code}")),
        None if error.kind() == ErrorKind::AuthenticationFailed => (
            StorageReason::AccessDenied,
            Effect::None,
            "the store refused the user or the password".to_owned(),
        ),
        // Nothing is sent before the certificate was looked at.
        None if is_not_trusted(error) => {
            (StorageReason::Unavailable, Effect::None, "the store's certificate can't be trusted".to_owned())
        }
        None if tls::refuses_the_client(error) => (
            StorageReason::AccessDenied,
            Effect::None,
            "the store refused the client's certificate, or wants one".to_owned(),
        ),
        None if error.is_connection_refusal() || error.to_string().contains("failed to lookup address") => {
            (StorageReason::Unavailable, Effect::None, "the store can't be reached".to_owned())
        }
        None if error.is_timeout() => {
            (StorageReason::Timeout, unknown, "the store did not answer in time".to_owned())
        }
        None if error.is_io_error() => {
            (StorageReason::Unavailable, unknown, "the connection to the store was lost".to_owned())
        }
        None => (StorageReason::Other, unknown, "the store gave an answer that makes no sense".to_owned()),
    };
    StorageError::new(reason, effect, message)
}

/// What a user may not do. The server says more than that: the name of the user, and
/// since 7.2 that of the key.
fn missing_permission(said: &str) -> &str {
    // A script of ours says the command, and Redis behind it where in the script.
    let said = said.split_once(" script: ").map_or(said, |(said, _)| said);
    if !said.contains(' ') {
        return said;
    }
    let command = said.split_once("run the '").and_then(|(_, behind)| behind.split_once('\''));
    command.map_or("access to a key", |(command, _)| command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_missing_permission_only_the_command_is_told() {
        for (said, told) in [
            ("ZADD", "ZADD"),
            ("GET script: 42524fe2, on @user_script:1.", "GET"),
            ("this user has no permissions to run the 'evalsha' command", "evalsha"),
            ("User secret has no permissions to run the 'client|setname' command", "client|setname"),
            ("User secret has no permissions to access the 'secret' key", "access to a key"),
            ("No permissions to access a key", "access to a key"),
        ] {
            assert_eq!(missing_permission(said), told);
        }
    }
}
