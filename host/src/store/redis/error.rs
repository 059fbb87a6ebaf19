//! Failures of attempts to use Redis: their class, the node and the cause.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use ::redis::{ErrorKind, ParsingError, RedisError};
use rustls::{AlertDescription, Error as TlsError};
use thiserror::Error;
use tracing::warn;

use super::transport::Access;
use super::url::Node;
use crate::store::{Effect, StorageError, StorageReason};

/// Why an attempt failed. The text names no address and no credentials, because
/// plugins read it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TransportError {
    /// No connection. Nothing was sent.
    #[error("the store can't be reached; check its address and that it is running")]
    Unreachable,
    #[error("the certificate of the store is not trusted; check the host name and the option `ca`")]
    UntrustedCertificate,
    #[error("the store requires a client certificate that it trusts; check the options `cert` and `key`")]
    ClientCertificateRejected,
    #[error("the store rejected the user or the password")]
    AuthenticationFailed,
    #[error("the store has no database with this number; check the URL and `databases` in redis.conf")]
    NoSuchDatabase,
    #[error("the store has reached its maximum number of clients; raise `maxclients` or retry")]
    MaxClients,
    #[error("the store did not answer in time")]
    Timeout,
    #[error("the connection to the store was lost")]
    Disconnected,
    #[error("the store sent an unexpected reply; check that it is Redis 7.0 or later, or Valkey")]
    UnexpectedReply,
    #[error("the store's user lacks a permission: {0}")]
    MissingPermission(String),
    #[error("a key holds {0}; delete it first")]
    WrongType(&'static str),
    #[error("the store is a read-only replica; use the URL of its master")]
    ReadOnly,
    #[error("the store is out of memory; raise `maxmemory` or delete keys")]
    OutOfMemory,
    #[error("the store refuses writes because it can't save to disk; free space or fix its configuration")]
    CannotPersist,
    #[error("the store is not ready ({0}); retry")]
    NotReady(&'static str),
    /// A redirect to the new master of a slot.
    #[error("{MIGRATING}")]
    Moved(Option<Node>),
    /// A redirect to the master to which a slot is migrating, for one request.
    #[error("{MIGRATING}")]
    Ask(Option<Node>),
    /// Some of the keys have migrated.
    #[error("{MIGRATING}")]
    TryAgain,
    /// A script used a key that has migrated.
    #[error("{MIGRATING}")]
    NonLocalKey,
    #[error("the store is a single server and not a cluster; use redis:// instead of redis-cluster://")]
    NotACluster,
    #[error("the store lost a script while it was called; retry")]
    NoScript,
    /// The values of a page have more bytes than the caller accepts.
    #[error("the values of the page are too large; request fewer entries")]
    PageTooLarge,
    #[error("the store answered with the error {0}")]
    Server(String),
    #[error("{0}; it may be lost in a failover")]
    MissingAcks(String),
    /// The earlier writes took too long. This one was not sent.
    #[error("the store did not accept the write in time: earlier writes wait for replicas, or it hangs")]
    QueueTimeout,
    #[error("the store can't wait until a write is on disk: {0}")]
    WaitUnsupported(String),
    #[error("no server of the cluster can be reached; check the addresses and that they are running")]
    NoClusterNode,
    #[error("the slot of the key has no master at the moment; retry")]
    NoSlotMaster,
    #[error("no Sentinel of the store can be reached; check the addresses and that they are running")]
    NoSentinel,
    #[error("a Sentinel rejected the user or the password; see `sentinel_user` and `sentinel_password`")]
    SentinelAuthenticationFailed,
    #[error("the server is not a Sentinel; check its port, usually 26379")]
    NotASentinel,
    #[error("the Sentinels know no master with this name; check the path of the URL")]
    UnknownMaster,
    #[error("the store has no master at the moment; retry")]
    NoMaster,
    #[error("invalid scan cursor; use the one of the previous page, or none")]
    InvalidCursor,
    #[error("the scan was restarted too often because servers change or slots migrate; retry later")]
    TooManyRestarts,
}

const MIGRATING: &str = "the slot of these keys is migrating to another server; retry";

impl TransportError {
    fn reason(&self) -> StorageReason {
        match self {
            Self::Unreachable
            | Self::UntrustedCertificate
            | Self::MaxClients
            | Self::Disconnected
            | Self::NotReady(_)
            | Self::Moved(_)
            | Self::Ask(_)
            | Self::TryAgain
            | Self::NonLocalKey
            | Self::MissingAcks(_)
            | Self::NoClusterNode
            | Self::NoSlotMaster
            | Self::NoSentinel
            | Self::NoMaster
            | Self::TooManyRestarts => StorageReason::Unavailable,
            Self::Timeout | Self::QueueTimeout => StorageReason::Timeout,
            Self::ClientCertificateRejected
            | Self::AuthenticationFailed
            | Self::MissingPermission(_)
            | Self::SentinelAuthenticationFailed => StorageReason::AccessDenied,
            Self::NoSuchDatabase | Self::NotASentinel | Self::UnknownMaster | Self::InvalidCursor => {
                StorageReason::InvalidArgument
            }
            Self::NotACluster | Self::WaitUnsupported(_) => StorageReason::Unsupported,
            Self::WrongType(_) => StorageReason::WrongType,
            Self::ReadOnly => StorageReason::ReadOnly,
            Self::OutOfMemory | Self::CannotPersist => StorageReason::Full,
            Self::PageTooLarge => StorageReason::TooLarge,
            Self::UnexpectedReply | Self::NoScript | Self::Server(_) => StorageReason::Other,
        }
    }

    /// Whether a write may have taken effect.
    pub(crate) fn effect(&self, access: Access) -> Effect {
        match self {
            Self::MissingAcks(_) => Effect::Unknown,
            Self::Timeout
            | Self::Disconnected
            | Self::UnexpectedReply
            | Self::NonLocalKey
            | Self::NoScript
            | Self::PageTooLarge
            | Self::Server(_)
                if access == Access::Write =>
            {
                Effect::Unknown
            }
            _ => Effect::None,
        }
    }

    /// Whether the connection must not be used again. Most error replies say nothing
    /// about the connection.
    pub(crate) fn invalidates_connection(&self) -> bool {
        matches!(
            self,
            Self::Unreachable
                | Self::UntrustedCertificate
                | Self::ClientCertificateRejected
                | Self::AuthenticationFailed
                | Self::NoSuchDatabase
                | Self::MaxClients
                | Self::Timeout
                | Self::Disconnected
                | Self::UnexpectedReply
        )
    }

    /// Whether a retry may succeed once another server has taken over.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // The write has waited for its replicas.
            Self::MissingAcks(_) | Self::UntrustedCertificate | Self::TooManyRestarts => false,
            Self::ReadOnly => true,
            _ => matches!(self.reason(), StorageReason::Unavailable | StorageReason::Timeout),
        }
    }
}

/// A failed attempt: the error, the node that failed, and the cause.
#[derive(Clone, Debug)]
pub(crate) struct TransportFailure {
    pub(crate) error: TransportError,
    node: Option<Arc<str>>,
    source: Option<RedisError>,
}

impl TransportFailure {
    /// Names the node, unless it is named.
    pub(crate) fn at(mut self, node: &dyn fmt::Display) -> Self {
        self.node.get_or_insert_with(|| node.to_string().into());
        self
    }

    /// The same failure with another error.
    pub(crate) fn with_error(self, error: TransportError) -> Self {
        Self { error, ..self }
    }

    /// Converts a failure before the request was sent: no write took effect.
    pub(crate) fn before_request(self) -> Self {
        match self.error.effect(Access::Write) {
            Effect::None => self,
            Effect::Unknown => self.with_error(TransportError::Unreachable),
        }
    }

    /// The error for the caller of the store. `address` is the one of the store, for a
    /// failure that names no node.
    pub(crate) fn into_storage_error(self, access: Access, address: &str) -> StorageError {
        warn!(failure = %self, "Redis failed");
        let address = self.node.as_deref().unwrap_or(address).to_owned();
        let source = self.source.map(|source| Box::new(source) as Box<dyn StdError + Send + Sync>);
        StorageError::new(self.error.reason(), self.error.effect(access), self.error.to_string())
            .with_context(Some(address), source)
    }
}

impl fmt::Display for TransportFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)?;
        if let Some(node) = &self.node {
            write!(formatter, " ({node})")?;
        }
        self.source.as_ref().map_or(Ok(()), |source| write!(formatter, ": {source}"))
    }
}

impl From<TransportError> for TransportFailure {
    fn from(error: TransportError) -> Self {
        Self { error, node: None, source: None }
    }
}

impl From<ParsingError> for TransportFailure {
    fn from(error: ParsingError) -> Self {
        RedisError::from(error).into()
    }
}

impl From<RedisError> for TransportFailure {
    fn from(error: RedisError) -> Self {
        Self { error: classify(&error), node: None, source: Some(error) }
    }
}

/// The only place that reads the texts of errors, where Redis and redis-rs have no code.
fn classify(error: &RedisError) -> TransportError {
    let Some(code) = error.code() else { return classify_local(error) };
    let detail = error.detail().unwrap_or_default();
    match code {
        "ERR" if error.to_string().contains("refused to switch database") => {
            if detail.contains("no permissions") {
                TransportError::MissingPermission("select".to_owned())
            } else {
                TransportError::NoSuchDatabase
            }
        }
        "ERR" if detail.contains("max number of clients") => TransportError::MaxClients,
        "ERR" if detail.contains("non local key") => TransportError::NonLocalKey,
        "ERR" if detail.contains("cluster support disabled") => TransportError::NotACluster,
        // Redis has no other code where `SORT_RO … BY` is forbidden.
        "ERR" if detail.contains("of SORT denied") => TransportError::MissingPermission("sort_ro".to_owned()),
        "NOPERM" => TransportError::MissingPermission(missing_permission(detail).to_owned()),
        // Our scripts name the type, Redis does not.
        "WRONGTYPE" => TransportError::WrongType(match detail {
            "string" => "a string",
            "list" => "a list",
            "set" => "a set",
            "zset" => "a zset",
            "hash" => "a hash",
            "stream" => "a stream",
            _ => "a value of another type",
        }),
        "TOOLARGE" => TransportError::PageTooLarge,
        "MOVED" => TransportError::Moved(redirect_target(error)),
        "ASK" => TransportError::Ask(redirect_target(error)),
        "TRYAGAIN" => TransportError::TryAgain,
        "NOAUTH" | "WRONGPASS" => TransportError::AuthenticationFailed,
        "OOM" => TransportError::OutOfMemory,
        "READONLY" => TransportError::ReadOnly,
        "MISCONF" => TransportError::CannotPersist,
        "NOSCRIPT" => TransportError::NoScript,
        "LOADING" => TransportError::NotReady("LOADING"),
        "BUSY" => TransportError::NotReady("BUSY"),
        "CLUSTERDOWN" => TransportError::NotReady("CLUSTERDOWN"),
        "MASTERDOWN" => TransportError::NotReady("MASTERDOWN"),
        "NOREPLICAS" => TransportError::NotReady("NOREPLICAS"),
        code => TransportError::Server(code.to_owned()),
    }
}

/// Errors of the client: connection, TLS, protocol.
fn classify_local(error: &RedisError) -> TransportError {
    match tls_error(error) {
        // Both end the handshake, before anything is sent.
        Some(TlsError::InvalidCertificate(_)) => return TransportError::UntrustedCertificate,
        Some(TlsError::AlertReceived(alert)) if rejects_client(*alert) => {
            return TransportError::ClientCertificateRejected;
        }
        _ => {}
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => TransportError::AuthenticationFailed,
        ErrorKind::Io if error.is_connection_refusal() => TransportError::Unreachable,
        ErrorKind::Io if error.is_timeout() => TransportError::Timeout,
        ErrorKind::Io => TransportError::Disconnected,
        _ => TransportError::UnexpectedReply,
    }
}

fn tls_error(error: &RedisError) -> Option<&TlsError> {
    let cause = error.source()?.downcast_ref::<Arc<dyn StdError + Send + Sync>>()?;
    let of_io = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    of_io.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref())
}

/// Whether the server rejected the client certificate, or requires one. TLS 1.2 has no
/// alert of its own for a missing certificate.
fn rejects_client(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::HandshakeFailure
    )
}

/// The target of a redirect. An empty host means the host of the node that answered.
fn redirect_target(error: &RedisError) -> Option<Node> {
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some(Node { host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
}

/// The missing permission, without the names of the user and, since Redis 7.2, of the
/// key.
fn missing_permission(detail: &str) -> &str {
    // Our scripts name the command, and Redis appends the place in the script.
    let detail = detail.split_once(" script: ").map_or(detail, |(command, _)| command);
    if !detail.contains(' ') {
        return detail;
    }
    let command = detail.split_once("run the '").and_then(|(_, rest)| rest.split_once('\''));
    command.map_or("access to a key", |(command, _)| command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_permission_names_only_the_command() {
        for (detail, expected) in [
            ("ZADD", "ZADD"),
            ("GET script: 42524fe2, on @user_script:1.", "GET"),
            ("this user has no permissions to run the 'evalsha' command", "evalsha"),
            ("User secret has no permissions to run the 'client|setname' command", "client|setname"),
            ("User secret has no permissions to access the 'secret' key", "access to a key"),
            ("No permissions to access a key", "access to a key"),
        ] {
            assert_eq!(missing_permission(detail), expected);
        }
    }

    #[test]
    fn failure_before_the_request_has_no_effect() {
        let lost = TransportFailure::from(RedisError::from(io::Error::from(io::ErrorKind::BrokenPipe)));
        assert_eq!(lost.error.effect(Access::Write), Effect::Unknown);
        assert_eq!(lost.error.effect(Access::Read), Effect::None);
        assert_eq!(lost.before_request().error, TransportError::Unreachable);
    }

    #[test]
    fn storage_error_names_the_node_and_the_cause_outside_its_message() {
        let refused = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        let failure = TransportFailure::from(refused).at(&"host:6379").at(&"other:1");
        let error = failure.into_storage_error(Access::Write, "fallback");
        assert_eq!((error.reason, error.effect), (StorageReason::Unavailable, Effect::None));
        assert_eq!(error.address(), Some("host:6379"));
        assert!(error.source().is_some_and(|source| source.is::<RedisError>()));
        assert!(!error.message.contains("host"));
    }
}
