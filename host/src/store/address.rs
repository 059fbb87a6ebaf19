//! Where a store is, as a URL that people write.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

use super::redis::RedisStore;
use super::sqlite::SqliteStore;
use super::{StorageError, Store};

/// Where a store is: `memory:`, `sqlite:FILE`, `redis://HOST:PORT/DATABASE`,
/// `rediss://…` for TLS, or `redis+unix:///SOCKET`.
///
/// The Redis forms take `USER:PASSWORD@` in front of the host (percent-encoded
/// where needed), and `?connect_timeout=SECONDS&response_timeout=SECONDS`; with
/// `replicas=N&replica_timeout=SECONDS`, a write is only acknowledged when so many
/// replicas have it, and is said to be of unknown effect if they do not in time;
/// `redis+unix` takes `db`, `user` and `password` there too, and `rediss` files in
/// PEM: `ca` with the certificates to trust in place of the system's, `cert` and
/// `key` with a certificate for the server to trust.
///
/// Shown, it never has the password.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A database of its own in memory, gone with the store.
    Memory,
    /// A database in a file, made if it is not there.
    Sqlite(PathBuf),
    /// A Redis or Valkey server.
    Redis(RedisAddress),
}

/// Where a Redis server is, and who wants in.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAddress {
    pub(super) endpoint: Endpoint,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) replicas: Option<Replicas>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Tcp { host: String, port: u16, tls: Option<Certificates> },
    Unix(PathBuf),
}

/// The files that TLS is told to use, in PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    /// Whom to trust, in place of the system's certificates.
    pub(super) ca: Option<PathBuf>,
    /// What to be trusted by: a certificate and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

/// How many replicas a write waits for, one at least, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replicas {
    pub(super) count: u32,
    pub(super) timeout: Duration,
}

impl Replicas {
    /// The time-out as Redis takes it, for which 0 is for ever.
    pub(super) fn milliseconds(self) -> u64 {
        self.timeout.as_millis().clamp(1, i32::MAX as u128) as u64
    }
}

/// A text that says of no store where it is. It is shown without a password.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "{address}: {fault}; a store is memory:, sqlite:FILE, redis://HOST[:PORT][/DATABASE], rediss://… or redis+unix:///SOCKET"
)]
pub struct AddressError {
    address: String,
    fault: String,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const REPLICA_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_PORT: u16 = 6379;

impl Address {
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

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            // `sqlite:///FILE` is how other tools write an absolute path.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return Err(AddressError { address: text.to_owned(), fault: "names no file".into() });
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        let shown = without_password(text);
        RedisAddress::parse(text).map(Self::Redis).map_err(|fault| AddressError { address: shown, fault })
    }
}

impl RedisAddress {
    fn parse(text: &str) -> Result<Self, String> {
        // Without this, a part of a password could be taken for something else,
        // and be shown.
        let place = text.split_once("://").map_or(text, |(_, place)| place);
        let behind = place.find(['/', '?', '#']).map_or("", |end| &place[end..]);
        if behind.contains('@') || text.contains('#') {
            return Err("in a user, password or path, the characters / ? # @ must be percent-encoded".into());
        }
        if !place.is_empty() && place == text && !text.contains(':') {
            return Err("says no kind of store; is it a file for sqlite:?".into());
        }
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let unix = match url.scheme() {
            "redis" | "rediss" => false,
            "redis+unix" | "unix" => true,
            other => return Err(format!("{other:?} is no kind of store")),
        };
        let mut user = Some(decode(url.username())?).filter(|user| !user.is_empty());
        let mut password = url.password().map(decode).transpose()?;
        let path = decode(url.path())?;
        let (mut connect_timeout, mut response_timeout) = (CONNECT_TIMEOUT, RESPONSE_TIMEOUT);
        let (mut replicas, mut replica_timeout) = (0, REPLICA_TIMEOUT);
        let (mut ca, mut certificate, mut key) = (None, None, None);
        let tls = url.scheme() == "rediss";
        let mut database = if unix { String::new() } else { path.trim_matches('/').to_owned() };
        for (name, value) in url.query_pairs() {
            match &*name {
                "connect_timeout" => connect_timeout = seconds(&name, &value)?,
                "response_timeout" => response_timeout = seconds(&name, &value)?,
                "replicas" => {
                    let fault = || format!("replicas must be a number of replicas, not {value:?}");
                    replicas = value.parse().map_err(|_| fault())?;
                }
                "replica_timeout" => replica_timeout = seconds(&name, &value)?,
                "db" if unix => database = value.into_owned(),
                "user" if unix => user = Some(value.into_owned()),
                "password" | "pass" if unix => password = Some(value.into_owned()),
                "ca" if tls => ca = Some(file(&name, &value)?),
                "cert" if tls => certificate = Some(file(&name, &value)?),
                "key" if tls => key = Some(file(&name, &value)?),
                "ca" | "cert" | "key" => return Err(format!("the option {name:?} is for rediss:// only")),
                _ => return Err(format!("the option {name:?} is unknown")),
            }
        }
        let endpoint = if unix {
            if path.len() < 2 || url.host().is_some() {
                return Err("names no socket by its absolute path".into());
            }
            Endpoint::Unix(PathBuf::from(path))
        } else {
            let host = match url.host() {
                Some(url::Host::Ipv6(host)) => host.to_string(),
                Some(host) => decode(&host.to_string())?,
                None => return Err("names no host".into()),
            };
            if host.is_empty() {
                return Err("names no host".into());
            }
            let client = match (certificate, key) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => return Err("the options \"cert\" and \"key\" go together".into()),
            };
            let tls = tls.then_some(Certificates { ca, client });
            Endpoint::Tcp { host, port: url.port().unwrap_or(DEFAULT_PORT), tls }
        };
        let database = match database.as_str() {
            "" => 0,
            number => number.parse().map_err(|_| format!("{number:?} is no database number"))?,
        };
        let replicas = (replicas > 0).then_some(Replicas { count: replicas, timeout: replica_timeout });
        Ok(Self { endpoint, user, password, database, connect_timeout, response_timeout, replicas })
    }
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "has a percent-encoding that is not UTF-8".into())
}

fn seconds(name: &str, value: &str) -> Result<Duration, String> {
    let fault = || format!("{name} must be a number of seconds greater than 0, not {value:?}");
    let seconds: f64 = value.parse().map_err(|_| fault())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero()).ok_or_else(fault)
}

fn file(name: &str, value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err(format!("{name} names no file")) } else { Ok(PathBuf::from(value)) }
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

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => formatter.write_str("memory:"),
            Self::Sqlite(path) => write!(formatter, "sqlite:{}", path.display()),
            Self::Redis(address) => address.fmt(formatter),
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Tcp { host, port, tls } => {
                let scheme = if tls.is_some() { "rediss" } else { "redis" };
                write!(formatter, "{scheme}://{host}:{port}/{}", self.database)
            }
            Endpoint::Unix(path) => write!(formatter, "redis+unix://{}?db={}", path.display(), self.database),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Address({self})")
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RedisAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        text.parse().map_err(|error: AddressError| error.to_string())
    }

    fn redis(text: &str) -> RedisAddress {
        match parse(text) {
            Ok(Address::Redis(address)) => address,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("memory:"), Ok(Address::Memory));
        assert_eq!(parse("sqlite:a b.db"), Ok(Address::Sqlite("a b.db".into())));
        assert_eq!(parse("sqlite:///var/a.db"), Ok(Address::Sqlite("/var/a.db".into())));
        let plain = redis("redis://localhost");
        assert!(plain.endpoint == Endpoint::Tcp { host: "localhost".into(), port: 6379, tls: None });
        assert_eq!((plain.user, plain.password, plain.database), (None, None, 0));
        let full = redis("rediss://ann:p%40s%2Fs@[::1]:7000/3?connect_timeout=0.5&response_timeout=2");
        assert!(
            full.endpoint
                == Endpoint::Tcp { host: "::1".into(), port: 7000, tls: Some(Certificates::default()) }
        );
        assert_eq!(
            (full.user.as_deref(), full.password.as_deref(), full.database),
            (Some("ann"), Some("p@s/s"), 3)
        );
        assert_eq!(
            (full.connect_timeout, full.response_timeout),
            (Duration::from_millis(500), Duration::from_secs(2))
        );
        assert_eq!(full.replicas, None);
        assert_eq!(redis("redis://h?replicas=0&replica_timeout=2").replicas, None);
        let replicated = redis("redis+unix:///s?replicas=2").replicas;
        assert_eq!(replicated, Some(Replicas { count: 2, timeout: Duration::from_secs(1) }));
        let replicated = redis("redis://h?replica_timeout=0.0001&replicas=1").replicas;
        assert_eq!(replicated.map(Replicas::milliseconds), Some(1));
        let trusted = redis("rediss://h?ca=my%20ca.pem");
        let certificates = Certificates { ca: Some("my ca.pem".into()), client: None };
        assert!(trusted.endpoint == Endpoint::Tcp { host: "h".into(), port: 6379, tls: Some(certificates) });
        let known = redis("rediss://h?ca=/a.pem&key=/c.key&cert=/c.pem");
        let client = Some(("/c.pem".into(), "/c.key".into()));
        let certificates = Certificates { ca: Some("/a.pem".into()), client };
        assert!(known.endpoint == Endpoint::Tcp { host: "h".into(), port: 6379, tls: Some(certificates) });
        let unix = redis("redis+unix:///run/redis.sock?db=2&user=ann&password=secret");
        assert!(unix.endpoint == Endpoint::Unix("/run/redis.sock".into()));
        assert_eq!(
            (unix.user.as_deref(), unix.password.as_deref(), unix.database),
            (Some("ann"), Some("secret"), 2)
        );
        assert_eq!(redis("redis://:secret@h").password.as_deref(), Some("secret"));
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
                "connect_timeout must be a number of seconds greater than 0, not \"0\"",
            ),
            ("redis://h?replicas=-1", "replicas must be a number of replicas, not \"-1\""),
            ("redis://h?replica_timeout=0", "replica_timeout must be a number of seconds greater than 0"),
            ("rediss://h?cert=c.pem", "the options \"cert\" and \"key\" go together"),
            ("rediss://h?ca=a.pem&key=c.key", "the options \"cert\" and \"key\" go together"),
            ("rediss://h?ca=", "ca names no file"),
            ("redis://h?ca=a.pem", "the option \"ca\" is for rediss:// only"),
            ("redis+unix:///s?cert=c.pem", "the option \"cert\" is for rediss:// only"),
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
        ] {
            let shown = match parse(text) {
                Ok(address) => format!("{address} {address:?}"),
                Err(message) => message,
            };
            assert!(!shown.contains("hunter2"), "{text}: {shown}");
        }
    }
}
