//! Where Redis is, as a URL that people write.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

/// Where a Redis server is, or a cluster of them, and who wants in.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAddress {
    pub(super) endpoint: Endpoint,
    pub(super) tls: Option<Certificates>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) durability: Option<Durability>,
}

/// What there is to connect to.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// One server.
    Server(Node),
    /// One server, by its socket.
    Unix(PathBuf),
    /// Some servers of a cluster, which know the others.
    Cluster(Vec<Node>),
    /// Sentinels, which know the server of this name.
    Sentinels { nodes: Vec<Node>, master: String, user: Option<String>, password: Option<String> },
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The files that TLS is told to use, in PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    /// Whom to trust, in place of the system's certificates.
    pub(super) ca: Option<PathBuf>,
    /// What to be trusted by: a certificate and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

/// What a write waits for before it is acknowledged, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Durability {
    /// So many replicas have it.
    pub(super) replicas: u32,
    /// The server has it on disk, and so have those replicas.
    pub(super) on_disk: bool,
    pub(super) timeout: Duration,
}

impl Durability {
    /// The time-out as Redis takes it, for which 0 is for ever.
    pub(super) fn milliseconds(self) -> u64 {
        self.timeout.as_millis().clamp(1, i32::MAX as u128) as u64
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const REPLICA_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time that can be said, so that its end can be.
const A_YEAR: Duration = Duration::from_hours(365 * 24);
const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// What the scheme of an address says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Server,
    Unix,
    Cluster,
    Sentinels,
}

impl RedisAddress {
    /// Reads an address; the error says what is wrong with it.
    pub(in crate::store) fn parse(text: &str) -> Result<Self, String> {
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
        let (text, others) = split_hosts(text);
        let url = Url::parse(&text).map_err(|error| error.to_string())?;
        let (scheme, tls) = match url.scheme() {
            "redis" => (Scheme::Server, false),
            "rediss" => (Scheme::Server, true),
            "redis+unix" | "unix" => (Scheme::Unix, false),
            "redis-cluster" => (Scheme::Cluster, false),
            "rediss-cluster" => (Scheme::Cluster, true),
            "redis+sentinel" => (Scheme::Sentinels, false),
            "rediss+sentinel" => (Scheme::Sentinels, true),
            other => return Err(format!("{other:?} is no kind of store")),
        };
        let unix = scheme == Scheme::Unix;
        let mut options = Options::read(&url, scheme, tls)?;
        let path = decode(url.path())?;
        let place = path.trim_matches('/');
        let nodes = if unix { Vec::new() } else { nodes(&url, &others, scheme)? };
        let endpoint = match scheme {
            Scheme::Unix => {
                if path.len() < 2 || url.host().is_some() {
                    return Err("names no socket by its absolute path".into());
                }
                Endpoint::Unix(PathBuf::from(&path))
            }
            Scheme::Cluster => {
                if !matches!(place, "" | "0") {
                    return Err("a cluster has no databases".into());
                }
                Endpoint::Cluster(nodes)
            }
            Scheme::Sentinels => {
                let (master, database) = place.split_once('/').unwrap_or((place, ""));
                if master.is_empty() {
                    return Err("names no master: redis+sentinel://HOST[:PORT],…/MASTER[/DATABASE]".into());
                }
                options.database = database.to_owned();
                let (user, password) = (options.sentinel_user.take(), options.sentinel_password.take());
                Endpoint::Sentinels { nodes, master: master.to_owned(), user, password }
            }
            Scheme::Server => {
                options.database = place.to_owned();
                let node = nodes.into_iter().next().ok_or("names no host")?;
                Endpoint::Server(node)
            }
        };
        let database = match options.database.as_str() {
            "" => 0,
            number => number.parse().map_err(|_| format!("{number:?} is no database number"))?,
        };
        let client = match (options.certificate, options.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("the options \"cert\" and \"key\" go together".into()),
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

/// What stands beside the place: who wants in, and how.
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
                    let fault = || format!("replicas must be a number of replicas, not {value:?}");
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
                "ca" | "cert" | "key" => return Err(format!("the option {name:?} is for rediss only")),
                _ => return Err(format!("the option {name:?} is unknown")),
            }
        }
        Ok(options)
    }
}

/// The address with the first of its hosts alone, and the other hosts: URLs have
/// one.
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
        return Err("names more than one host; is it a redis-cluster:// or a redis+sentinel://?".into());
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
        return Err("names no host".into());
    }
    Ok(Node { host, port: url.port().unwrap_or(default_port) })
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "has a percent-encoding that is not UTF-8".into())
}

fn seconds(name: &str, value: &str) -> Result<Duration, String> {
    let fault = || {
        format!("{name} must be a number of seconds greater than 0, and no more than a year, not {value:?}")
    };
    let seconds: f64 = value.parse().map_err(|_| fault())?;
    let is_of_use = |duration: &Duration| !duration.is_zero() && *duration <= A_YEAR;
    Duration::try_from_secs_f64(seconds).ok().filter(is_of_use).ok_or_else(fault)
}

fn file(name: &str, value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err(format!("{name} names no file")) } else { Ok(PathBuf::from(value)) }
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

impl fmt::Display for RedisAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tls.is_some() { "s" } else { "" };
        let list = |nodes: &[Node]| nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(",");
        let database = self.database;
        match &self.endpoint {
            Endpoint::Server(node) => write!(formatter, "redis{s}://{node}/{database}"),
            Endpoint::Unix(path) => write!(formatter, "redis+unix://{}?db={database}", path.display()),
            Endpoint::Cluster(nodes) => write!(formatter, "redis{s}-cluster://{}", list(nodes)),
            Endpoint::Sentinels { nodes, master, .. } => {
                write!(formatter, "redis{s}+sentinel://{}/{master}/{database}", list(nodes))
            }
        }
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

    fn redis(text: &str) -> RedisAddress {
        RedisAddress::parse(text).unwrap_or_else(|fault| unreachable!("{text}: {fault}"))
    }

    fn server(host: &str, port: u16) -> Endpoint {
        Endpoint::Server(node(host, port))
    }

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.into(), port }
    }

    #[test]
    fn reads_where_a_server_is() {
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
    }

    #[test]
    fn reads_where_many_servers_are() {
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
    fn reads_what_a_write_waits_for() {
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
    fn reads_which_certificates_tls_is_to_use() {
        let trusted = Certificates { ca: Some("my ca.pem".into()), client: None };
        assert!(redis("rediss://h?ca=my%20ca.pem").tls == Some(trusted));
        let client = Some(("/c.pem".into(), "/c.key".into()));
        let known = Certificates { ca: Some("/a.pem".into()), client };
        assert!(redis("rediss://h?ca=/a.pem&key=/c.key&cert=/c.pem").tls == Some(known));
    }
}
