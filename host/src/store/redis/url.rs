//! The URL of Redis.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

/// The URL of a Redis server, of a cluster or of Sentinels, parsed. A
/// [`StoreUrl`](crate::store::StoreUrl) has one. Displayed without credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub(super) endpoint: Endpoint,
    pub(super) tls: Option<Certificates>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) durability: Option<Durability>,
}

/// The servers of a store.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Server(Node),
    Unix(PathBuf),
    /// Some nodes of a cluster, which know the others.
    Cluster(Vec<Node>),
    /// Sentinels, which know the master with this name. The credentials are for the
    /// Sentinels.
    Sentinels {
        nodes: Vec<Node>,
        master: String,
        user: Option<String>,
        password: Option<String>,
    },
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Node {
    /// This node. An empty host means the host of the node that named it.
    pub(super) fn or_host_of(&self, other: &Self) -> Self {
        let host = if self.host.is_empty() { &other.host } else { &self.host };
        Self { host: host.clone(), port: self.port }
    }
}

/// The PEM files for TLS.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    /// The certificates to trust instead of the system's.
    pub(super) ca: Option<PathBuf>,
    /// The certificate of the client and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

/// The wait of a write before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Durability {
    /// How many replicas must have the write.
    pub(super) replicas: u32,
    /// Whether the server and these replicas must have it on disk.
    pub(super) on_disk: bool,
    pub(super) timeout: Duration,
}

impl Durability {
    /// The timeout as an argument of `WAIT`, which takes 0 as infinite.
    pub(super) fn milliseconds(self) -> u64 {
        self.timeout.as_millis().clamp(1, i32::MAX as u128) as u64
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const REPLICA_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest timeout, so that deadlines can be computed.
const MAX_TIMEOUT: Duration = Duration::from_hours(365 * 24);
const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// The kind of servers that the scheme of the URL names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Server,
    Unix,
    Cluster,
    Sentinels,
}

impl RedisUrl {
    /// Parses a URL. The error describes the fault, without the URL.
    pub(in crate::store) fn parse(text: &str) -> Result<Self, String> {
        // Otherwise a part of a password could be parsed as another part of the URL, and
        // be displayed.
        let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
        let rest = authority.find(['/', '?', '#']).map_or("", |end| &authority[end..]);
        if rest.contains('@') || text.contains('#') {
            return Err("the characters / ? # @ must be percent-encoded in a user, password or path".into());
        }
        let (text, other_hosts) = split_hosts(text);
        let url = Url::parse(&text).map_err(|error| error.to_string())?;
        let (scheme, tls) = match url.scheme().replacen("valkey", "redis", 1).as_str() {
            "redis" => (Scheme::Server, false),
            "rediss" => (Scheme::Server, true),
            "redis+unix" | "unix" => (Scheme::Unix, false),
            "redis-cluster" => (Scheme::Cluster, false),
            "rediss-cluster" => (Scheme::Cluster, true),
            "redis+sentinel" => (Scheme::Sentinels, false),
            "rediss+sentinel" => (Scheme::Sentinels, true),
            _ => return Err(format!("unknown URL scheme {:?}", url.scheme())),
        };
        let unix = scheme == Scheme::Unix;
        let mut options = Options::read(&url, scheme, tls)?;
        let path = decode(url.path())?;
        let name = path.trim_matches('/');
        let nodes = if unix { Vec::new() } else { nodes(&url, &other_hosts, scheme)? };
        let endpoint = match scheme {
            Scheme::Unix => {
                if path.len() < 2 || url.host().is_some() {
                    return Err("missing socket; write its absolute path after redis+unix://".into());
                }
                Endpoint::Unix(PathBuf::from(&path))
            }
            Scheme::Cluster => {
                if !matches!(name, "" | "0") {
                    return Err("a cluster has no databases; remove the path of the URL".into());
                }
                Endpoint::Cluster(nodes)
            }
            Scheme::Sentinels => {
                let (master, database) = name.split_once('/').unwrap_or((name, ""));
                if master.is_empty() {
                    return Err(
                        "missing name of the master; write redis+sentinel://HOST[:PORT],…/MASTER[/DATABASE]"
                            .into(),
                    );
                }
                options.database = database.to_owned();
                let (user, password) = (options.sentinel_user.take(), options.sentinel_password.take());
                Endpoint::Sentinels { nodes, master: master.to_owned(), user, password }
            }
            Scheme::Server => {
                options.database = name.to_owned();
                let node = nodes.into_iter().next().ok_or("missing host")?;
                Endpoint::Server(node)
            }
        };
        let database = match options.database.as_str() {
            "" => 0,
            number => number.parse().map_err(|_| format!("{number:?} is not a database number"))?,
        };
        let client = match (options.certificate, options.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("the options \"cert\" and \"key\" require each other".into()),
        };
        let durability = Durability {
            replicas: options.replicas,
            on_disk: options.on_disk,
            timeout: options.replica_timeout,
        };
        Ok(Self {
            endpoint,
            tls: tls.then_some(Certificates { ca: options.ca, client }),
            user: options.user,
            password: options.password,
            database,
            connect_timeout: options.connect_timeout,
            response_timeout: options.response_timeout,
            durability: (durability.replicas > 0 || durability.on_disk).then_some(durability),
        })
    }
}

/// The credentials and options of a URL.
struct Options {
    user: Option<String>,
    password: Option<String>,
    sentinel_user: Option<String>,
    sentinel_password: Option<String>,
    database: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    replicas: u32,
    on_disk: bool,
    replica_timeout: Duration,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Options {
    fn read(url: &Url, scheme: Scheme, tls: bool) -> Result<Self, String> {
        let (unix, sentinels) = (scheme == Scheme::Unix, scheme == Scheme::Sentinels);
        let mut options = Self {
            user: Some(decode(url.username())?).filter(|user| !user.is_empty()),
            password: url.password().map(decode).transpose()?,
            sentinel_user: None,
            sentinel_password: None,
            database: String::new(),
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            replicas: 0,
            on_disk: false,
            replica_timeout: REPLICA_TIMEOUT,
            ca: None,
            certificate: None,
            key: None,
        };
        for (name, value) in url.query_pairs() {
            match &*name {
                "connect_timeout" => options.connect_timeout = seconds(&name, &value)?,
                "response_timeout" => options.response_timeout = seconds(&name, &value)?,
                "replicas" => {
                    let fault = || format!("replicas must be a number, not {value:?}");
                    options.replicas = value.parse().map_err(|_| fault())?;
                }
                "on_disk" => {
                    let fault = || format!("on_disk must be true or false, not {value:?}");
                    options.on_disk = value.parse().map_err(|_| fault())?;
                }
                "replica_timeout" => options.replica_timeout = seconds(&name, &value)?,
                "db" if unix => options.database = value.into_owned(),
                "user" if unix => options.user = Some(value.into_owned()),
                "password" | "pass" if unix => options.password = Some(value.into_owned()),
                "sentinel_user" if sentinels => options.sentinel_user = Some(value.into_owned()),
                "sentinel_password" if sentinels => options.sentinel_password = Some(value.into_owned()),
                "ca" if tls => options.ca = Some(file(&name, &value)?),
                "cert" if tls => options.certificate = Some(file(&name, &value)?),
                "key" if tls => options.key = Some(file(&name, &value)?),
                "ca" | "cert" | "key" => {
                    return Err(format!("the option {name:?} requires TLS; use the scheme with rediss"));
                }
                _ => return Err(format!("unknown option {name:?}")),
            }
        }
        Ok(options)
    }
}

/// Splits a URL with several hosts into a URL with the first one, and the others.
fn split_hosts(text: &str) -> (Cow<'_, str>, Vec<&str>) {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['/', '?']).map_or(text.len(), |at| start + at);
    let start = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let mut hosts = text[start..end].split(',');
    let first = hosts.next().unwrap_or_default();
    let others: Vec<&str> = hosts.collect();
    if others.is_empty() {
        return (Cow::Borrowed(text), others);
    }
    (Cow::Owned([&text[..start], first, &text[end..]].concat()), others)
}

fn nodes(url: &Url, others: &[&str], scheme: Scheme) -> Result<Vec<Node>, String> {
    if scheme == Scheme::Server && !others.is_empty() {
        return Err("more than one host; did you mean redis-cluster:// or redis+sentinel://?".into());
    }
    let port = if scheme == Scheme::Sentinels { DEFAULT_SENTINEL_PORT } else { DEFAULT_PORT };
    let mut nodes = vec![node(url, port)?];
    for other in others {
        let url = Url::parse(&format!("redis://{other}")).map_err(|error| error.to_string())?;
        nodes.push(node(&url, port)?);
    }
    Ok(nodes)
}

fn node(url: &Url, default_port: u16) -> Result<Node, String> {
    let host = match url.host() {
        Some(url::Host::Ipv6(host)) => host.to_string(),
        Some(host) => decode(&host.to_string())?,
        None => String::new(),
    };
    if host.is_empty() {
        return Err("missing host".into());
    }
    Ok(Node { host, port: url.port().unwrap_or(default_port) })
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "a percent-encoding is not UTF-8".into())
}

fn seconds(name: &str, value: &str) -> Result<Duration, String> {
    let fault =
        || format!("{name} must be a number of seconds greater than 0 and at most a year, not {value:?}");
    let seconds: f64 = value.parse().map_err(|_| fault())?;
    let is_valid = |duration: &Duration| !duration.is_zero() && *duration <= MAX_TIMEOUT;
    Duration::try_from_secs_f64(seconds).ok().filter(is_valid).ok_or_else(fault)
}

fn file(name: &str, value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err(format!("{name} must be a file")) } else { Ok(PathBuf::from(value)) }
}

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

/// The address for errors.
impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(node) => node.fmt(formatter),
            Self::Unix(socket) => socket.display().fmt(formatter),
            Self::Cluster(nodes) | Self::Sentinels { nodes, .. } => {
                formatter.write_str(&nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tls.is_some() { "s" } else { "" };
        let Self { endpoint, database, .. } = self;
        match endpoint {
            Endpoint::Server(_) => write!(formatter, "redis{s}://{endpoint}/{database}"),
            Endpoint::Unix(_) => write!(formatter, "redis+unix://{endpoint}?db={database}"),
            Endpoint::Cluster(_) => write!(formatter, "redis{s}-cluster://{endpoint}"),
            Endpoint::Sentinels { master, .. } => {
                write!(formatter, "redis{s}+sentinel://{endpoint}/{master}/{database}")
            }
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(text: &str) -> RedisUrl {
        RedisUrl::parse(text).unwrap_or_else(|fault| unreachable!("{text}: {fault}"))
    }

    fn server(host: &str, port: u16) -> Endpoint {
        Endpoint::Server(node(host, port))
    }

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.into(), port }
    }

    #[test]
    fn url_of_a_server_is_parsed() {
        let plain = redis("redis://localhost");
        assert!(plain.endpoint == server("localhost", 6379) && plain.tls.is_none());
        assert_eq!((plain.user, plain.password, plain.database), (None, None, 0));
        let full = redis("rediss://ann:p%40s%2Fs@[::1]:7000/3?connect_timeout=0.5&response_timeout=2");
        assert!(full.endpoint == server("::1", 7000) && full.tls == Some(Certificates::default()));
        assert_eq!(
            (full.user.as_deref(), full.password.as_deref(), full.database),
            (Some("ann"), Some("p@s/s"), 3)
        );
        assert_eq!(
            (full.connect_timeout, full.response_timeout),
            (Duration::from_millis(500), Duration::from_secs(2))
        );
        let unix = redis("redis+unix:///run/redis.sock?db=2&user=ann&password=secret");
        assert!(unix.endpoint == Endpoint::Unix("/run/redis.sock".into()));
        assert_eq!(
            (unix.user.as_deref(), unix.password.as_deref(), unix.database),
            (Some("ann"), Some("secret"), 2)
        );
        assert_eq!(redis("redis://:secret@h").password.as_deref(), Some("secret"));
        assert!(redis("valkey://h") == redis("redis://h") && redis("valkeys://h") == redis("rediss://h"));
    }

    #[test]
    fn url_of_several_servers_is_parsed() {
        let cluster = redis("redis-cluster://ann:p%2Cs@a,[::1]:7001,10.0.0.3:7002?response_timeout=2");
        let nodes = vec![node("a", 6379), node("::1", 7001), node("10.0.0.3", 7002)];
        assert!(cluster.endpoint == Endpoint::Cluster(nodes));
        assert_eq!(cluster.password.as_deref(), Some("p,s"));
        assert_eq!(cluster.response_timeout, Duration::from_secs(2));
        assert_eq!(cluster.to_string(), "redis-cluster://a:6379,[::1]:7001,10.0.0.3:7002");
        assert!(redis("rediss-cluster://h?ca=a.pem").tls.is_some());
        let sentinels =
            redis("redis+sentinel://:secret@a:1,b/mymaster/2?sentinel_user=s&sentinel_password=p");
        let (user, password) = (Some("s".into()), Some("p".into()));
        let nodes = vec![node("a", 1), node("b", 26379)];
        assert!(
            sentinels.endpoint == Endpoint::Sentinels { nodes, master: "mymaster".into(), user, password }
        );
        assert_eq!((sentinels.password.as_deref(), sentinels.database), (Some("secret"), 2));
        assert_eq!(sentinels.to_string(), "redis+sentinel://a:1,b:26379/mymaster/2");
    }

    #[test]
    fn durability_is_parsed() {
        assert_eq!(redis("redis://h").durability, None);
        assert_eq!(redis("redis://h?replicas=0&replica_timeout=2").durability, None);
        let second = Duration::from_secs(1);
        let replicated = Durability { replicas: 2, on_disk: false, timeout: second };
        assert_eq!(redis("redis+unix:///s?replicas=2").durability, Some(replicated));
        let on_disk = Durability { replicas: 0, on_disk: true, timeout: second };
        assert_eq!(redis("redis://h?on_disk=true").durability, Some(on_disk));
        let hurried = redis("redis://h?replica_timeout=0.0001&replicas=1").durability;
        assert_eq!(hurried.map(Durability::milliseconds), Some(1));
    }

    #[test]
    fn certificates_are_parsed() {
        let trusted = Certificates { ca: Some("my ca.pem".into()), client: None };
        assert!(redis("rediss://h?ca=my%20ca.pem").tls == Some(trusted));
        let client = Some(("/c.pem".into(), "/c.key".into()));
        let known = Certificates { ca: Some("/a.pem".into()), client };
        assert!(redis("rediss://h?ca=/a.pem&key=/c.key&cert=/c.pem").tls == Some(known));
    }
}
