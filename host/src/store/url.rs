//! Where a store is, as a URL that people write.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::redis::{RedisAddress, RedisStore};
use super::sqlite::SqliteStore;
use super::{StorageError, Store};

/// Where a store is: `memory:`, `sqlite:FILE`, or one of Redis:
///
/// - `redis://HOST:PORT/DATABASE`, or `redis+unix:///SOCKET`;
/// - `redis-cluster://HOST:PORT,HOST:PORT`, some of the servers of a cluster;
/// - `redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DATABASE`, the sentinels that
///   know which server is the master of this name;
/// - with `rediss` in place of `redis`, any of them over TLS, but for the socket.
///
/// They take `USER:PASSWORD@` in front of the hosts (percent-encoded where
/// needed), and options behind a `?`:
///
/// - `connect_timeout=SECONDS&response_timeout=SECONDS`. Within the latter a
///   cluster or the sentinels may name another server, and nobody notices.
/// - `replicas=N&replica_timeout=SECONDS`: a write is only acknowledged when so
///   many replicas have it, and is said to be of unknown effect if they do not in
///   time. With `on_disk=true` (Redis 7.2) they and the server have it on disk.
/// - `db`, `user` and `password` of `redis+unix`; `sentinel_user` and
///   `sentinel_password`.
/// - Files in PEM for TLS: `ca` with the certificates to trust in place of the
///   system's, `cert` and `key` with a certificate for the server to trust.
///
/// Shown, it never has the password.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A database of its own in memory, gone with the store.
    Memory,
    /// A database in a file, made if it is not there.
    Sqlite(PathBuf),
    /// A Redis or Valkey server, or several.
    Redis(Box<RedisAddress>),
}

/// A text that says of no store where it is. It is shown without a password.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "{address}: {fault}; a store is memory:, sqlite:FILE, redis://HOST[:PORT][/DATABASE], rediss://…, redis+unix:///SOCKET, redis-cluster://HOST[:PORT],… or redis+sentinel://HOST[:PORT],…/MASTER"
)]
pub struct StoreUrlError {
    address: String,
    fault: String,
}

impl StoreUrl {
    /// Opens the store. SQLite opens its file; Redis connects when it is first
    /// used.
    ///
    /// # Errors
    /// The file can't be opened, or is no database.
    pub async fn open(&self) -> Result<Arc<dyn Store>, StorageError> {
        Ok(match self {
            Self::Memory => Arc::new(SqliteStore::in_memory().await?),
            Self::Sqlite(path) => Arc::new(SqliteStore::open(path).await?),
            Self::Redis(address) => Arc::new(RedisStore::new(address)?),
        })
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            // `sqlite:///FILE` is how other tools write an absolute path.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return Err(StoreUrlError { address: text.to_owned(), fault: "names no file".into() });
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        let shown = without_password(text);
        let address = RedisAddress::parse(text).map_err(|fault| StoreUrlError { address: shown, fault })?;
        Ok(Self::Redis(Box::new(address)))
    }
}

/// The text without what might be credentials. It works on any text, since one
/// that is no URL may have a password in it all the same.
fn without_password(text: &str) -> String {
    let (scheme, place) = text.split_once("://").map_or(("", text), |(scheme, place)| (scheme, place));
    let separator = if scheme.is_empty() { "" } else { "://" };
    let (hidden, place) = place.rsplit_once('@').map_or(("", place), |(_, place)| ("***@", place));
    let (place, options) = place.split_once('?').map_or((place, ""), |(place, _)| (place, "?…"));
    format!("{scheme}{separator}{hidden}{place}{options}")
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => formatter.write_str("memory:"),
            Self::Sqlite(path) => write!(formatter, "sqlite:{}", path.display()),
            Self::Redis(address) => address.fmt(formatter),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StoreUrl, String> {
        text.parse().map_err(|error: StoreUrlError| error.to_string())
    }

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("memory:"), Ok(StoreUrl::Memory));
        assert_eq!(parse("sqlite:a b.db"), Ok(StoreUrl::Sqlite("a b.db".into())));
        assert_eq!(parse("sqlite:///var/a.db"), Ok(StoreUrl::Sqlite("/var/a.db".into())));
    }

    #[test]
    fn says_what_is_wrong_with_the_rest() {
        for (text, fault) in [
            ("", "relative URL without a base"),
            ("checkpoints.db", "says no kind of store; is it a file for sqlite:?"),
            ("postgres://h/d", "\"postgres\" is no kind of store"),
            ("sqlite:", "names no file"),
            ("redis://", "names no host"),
            ("redis://h/two", "\"two\" is no database number"),
            ("redis://h/-1", "\"-1\" is no database number"),
            ("redis://h:99999", "invalid port number"),
            ("redis://h?timeout=1", "the option \"timeout\" is unknown"),
            (
                "redis://h?connect_timeout=0",
                "connect_timeout must be a number of seconds greater than 0, and no more than a year, not \"0\"",
            ),
            ("redis://h?replicas=-1", "replicas must be a number of replicas, not \"-1\""),
            (
                "redis://h?response_timeout=1e300",
                "response_timeout must be a number of seconds greater than 0, and no more than a year",
            ),
            ("redis://h?replica_timeout=0", "replica_timeout must be a number of seconds greater than 0"),
            ("rediss://h?cert=c.pem", "the options \"cert\" and \"key\" go together"),
            ("rediss://h?ca=a.pem&key=c.key", "the options \"cert\" and \"key\" go together"),
            ("rediss://h?ca=", "ca names no file"),
            ("redis://h?ca=a.pem", "the option \"ca\" is for rediss only"),
            ("redis+unix:///s?cert=c.pem", "the option \"cert\" is for rediss only"),
            ("redis://h?on_disk=1", "on_disk must be true or false, not \"1\""),
            ("redis://a,b", "names more than one host; is it a redis-cluster:// or a redis+sentinel://?"),
            ("redis-cluster://a,,b", "names no host"),
            ("redis-cluster://a:1,b:99999", "invalid port number"),
            ("redis-cluster://a/1", "a cluster has no databases"),
            ("redis+sentinel://a,b", "names no master: redis+sentinel://HOST[:PORT],…/MASTER[/DATABASE]"),
            ("redis+sentinel://a/m/x", "\"x\" is no database number"),
            ("redis://h?sentinel_user=s", "the option \"sentinel_user\" is unknown"),
            ("redis+unix://", "names no socket"),
            ("redis+unix://tmp/redis.sock", "names no socket by its absolute path"),
            ("redis://h/0#x", "must be percent-encoded"),
        ] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(fault), "{text}: {message}");
        }
    }

    #[test]
    fn never_shows_a_password() {
        for text in [
            "redis://ann:hunter2@h:1/2",
            "redis://:hunter2@h",
            "rediss://ann:hun:ter2:hunter2@h/x",
            "redis+unix:///s?password=hunter2&db=1",
            "redis+unix:///s?password=hunter2&db=x",
            "ann:hunter2@h",
            "redis://hunter2@h/x",
            "redis://ann:hunter2@:h",
            "http://ann:hunter2@h",
            "redis://ann:12/hunter2@h",
            "redis://ann:12?hunter2@h",
            "redis://ann:12#hunter2@h",
            "redis://hunter2@h:x",
            "redis-cluster://ann:hunter2@a,b",
            "redis-cluster://ann:hunter2@a,b:x",
            "redis+sentinel://ann:hunter2@a,b/m?sentinel_password=hunter2",
            "redis+sentinel://ann:hunter2@a,b?sentinel_password=hunter2",
        ] {
            let shown = match parse(text) {
                Ok(address) => format!("{address} {address:?}"),
                Err(message) => message,
            };
            assert!(!shown.contains("hunter2"), "{text}: {shown}");
        }
    }
}
