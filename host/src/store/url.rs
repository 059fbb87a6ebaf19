//! The URL of a store.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::redis::{RedisStore, RedisUrl};
use super::sqlite::SqliteStore;
use super::{StorageError, Store};

/// The URL of a store: `memory:`, `sqlite:FILE`, or a URL of Redis:
///
/// - `redis://HOST:PORT/DATABASE`: one server.
/// - `redis+unix:///SOCKET`: one server, by its Unix socket.
/// - `redis-cluster://HOST:PORT,HOST:PORT`: some nodes of a cluster.
/// - `redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DATABASE`: the Sentinels of the master
///   with this name.
/// - `rediss` instead of `redis`: over TLS. Not for sockets.
/// - `valkey` instead of `redis`: the same.
///
/// The hosts may be preceded by `USER:PASSWORD@`, percent-encoded. Options follow a `?`:
///
/// - `connect_timeout=SECONDS`, 5 by default.
/// - `response_timeout=SECONDS`, 10 by default. With a cluster or Sentinels it includes
///   all retries, also during a failover.
/// - `replicas=N` and `replica_timeout=SECONDS`: a write is acknowledged when N replicas
///   have it. After the timeout it fails, and its effect is unknown.
/// - `on_disk=true` (Redis 7.2): the server and these replicas must have it on disk.
/// - `db`, `user`, `password`: for `redis+unix`.
/// - `sentinel_user`, `sentinel_password`: for the Sentinels.
/// - `ca=FILE`: PEM certificates to trust instead of the system's.
/// - `cert=FILE`, `key=FILE`: the PEM certificate of the client and its key.
///
/// Displayed without credentials.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreUrl {
    /// A new database in memory, deleted with the store.
    Memory,
    /// A database file, created if it does not exist.
    Sqlite(PathBuf),
    /// A Redis or Valkey server, or several.
    Redis(Box<RedisUrl>),
}

/// A text that is not a URL of a store. Displayed without credentials.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "{url}: {fault}; the URL of a store is memory:, sqlite:FILE, redis://HOST[:PORT][/DATABASE], rediss://…, redis+unix:///SOCKET, redis-cluster://HOST[:PORT],… or redis+sentinel://HOST[:PORT],…/MASTER"
)]
pub struct StoreUrlError {
    url: String,
    fault: String,
}

impl StoreUrl {
    /// Opens the store. SQLite opens its file; Redis connects on first use.
    ///
    /// # Errors
    /// The file can't be opened, or is not a database.
    pub async fn open(&self) -> Result<Arc<dyn Store>, StorageError> {
        Ok(match self {
            Self::Memory => Arc::new(SqliteStore::in_memory().await?),
            Self::Sqlite(path) => Arc::new(SqliteStore::open(path).await?),
            Self::Redis(url) => Arc::new(RedisStore::new(url)?),
        })
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let error = |fault: String| StoreUrlError { url: without_credentials(text), fault };
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            // Other tools write `sqlite:///FILE` for an absolute path.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return Err(error("missing file name".to_owned()));
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if !text.contains(':') {
            let file = if text.is_empty() { "FILE".to_owned() } else { without_credentials(text) };
            return Err(error(format!("missing URL scheme; did you mean sqlite:{file}?")));
        }
        RedisUrl::parse(text).map(|url| Self::Redis(Box::new(url))).map_err(error)
    }
}

/// Removes all parts that may be credentials, also from a text that is not a URL.
fn without_credentials(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    let (hidden, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("***@", rest));
    let (rest, options) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?…"));
    format!("{scheme}{separator}{hidden}{rest}{options}")
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => formatter.write_str("memory:"),
            Self::Sqlite(path) => write!(formatter, "sqlite:{}", path.display()),
            Self::Redis(url) => url.fmt(formatter),
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
    fn url_is_parsed() {
        assert_eq!(parse("memory:"), Ok(StoreUrl::Memory));
        assert_eq!(parse("sqlite:a b.db"), Ok(StoreUrl::Sqlite("a b.db".into())));
        assert_eq!(parse("sqlite:///var/a.db"), Ok(StoreUrl::Sqlite("/var/a.db".into())));
    }

    #[test]
    fn error_describes_the_fault_of_a_url() {
        for (text, fault) in [
            ("", "missing URL scheme; did you mean sqlite:FILE?"),
            ("checkpoints.db", "missing URL scheme; did you mean sqlite:checkpoints.db?"),
            ("postgres://h/d", "unknown URL scheme \"postgres\""),
            ("sqlite:", "missing file name"),
            ("redis://", "missing host"),
            ("redis://h/two", "\"two\" is not a database number"),
            ("redis://h/-1", "\"-1\" is not a database number"),
            ("redis://h:99999", "invalid port number"),
            ("redis://h?timeout=1", "unknown option \"timeout\""),
            (
                "redis://h?connect_timeout=0",
                "connect_timeout must be a number of seconds greater than 0 and at most a year, not \"0\"",
            ),
            ("redis://h?replicas=-1", "replicas must be a number, not \"-1\""),
            (
                "redis://h?response_timeout=1e300",
                "response_timeout must be a number of seconds greater than 0 and at most a year",
            ),
            ("redis://h?replica_timeout=0", "replica_timeout must be a number of seconds greater than 0"),
            ("rediss://h?cert=c.pem", "the options \"cert\" and \"key\" require each other"),
            ("rediss://h?ca=a.pem&key=c.key", "the options \"cert\" and \"key\" require each other"),
            ("rediss://h?ca=", "ca must be a file"),
            ("redis://h?ca=a.pem", "the option \"ca\" requires TLS"),
            ("redis+unix:///s?cert=c.pem", "the option \"cert\" requires TLS"),
            ("redis://h?on_disk=1", "on_disk must be true or false, not \"1\""),
            ("redis://a,b", "more than one host; did you mean redis-cluster:// or redis+sentinel://?"),
            ("redis-cluster://a,,b", "missing host"),
            ("redis-cluster://a:1,b:99999", "invalid port number"),
            ("redis-cluster://a/1", "a cluster has no databases"),
            (
                "redis+sentinel://a,b",
                "missing name of the master; write redis+sentinel://HOST[:PORT],…/MASTER[/DATABASE]",
            ),
            ("redis+sentinel://a/m/x", "\"x\" is not a database number"),
            ("redis://h?sentinel_user=s", "unknown option \"sentinel_user\""),
            ("redis+unix://", "missing socket"),
            ("redis+unix://tmp/redis.sock", "missing socket; write its absolute path"),
            ("redis://h/0#x", "must be percent-encoded"),
        ] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(fault), "{text}: {message}");
        }
    }

    #[test]
    fn password_is_never_displayed() {
        for text in [
            "redis://ann:hunter2@h:1/2",
            "redis://:hunter2@h",
            "rediss://ann:hun:ter2:hunter2@h/x",
            "redis+unix:///s?password=hunter2&db=1",
            "redis+unix:///s?password=hunter2&db=x",
            "ann:hunter2@h",
            "hunter2@h",
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
                Ok(url) => format!("{url} {url:?}"),
                Err(message) => message,
            };
            assert!(!shown.contains("hunter2"), "{text}: {shown}");
        }
    }
}
