//! A real Redis Cluster on the loopback interface: three masters, each with a
//! replica.

use std::process::Stdio;
use std::sync::{Arc, Weak};

use redis::Value;
use tokio::process::Command;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::eventually::eventually;
use crate::redis_server::{FREE_PORT, RedisServer};

/// The number of masters; the other servers are their replicas.
const MASTERS: usize = 3;

/// After how many milliseconds without an answer a server counts as failed: more
/// than a busy machine needs to answer.
const NODE_TIMEOUT: &str = "2000";

/// A running cluster. Dropping it kills its servers.
pub struct RedisCluster {
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts six servers and joins them to a cluster.
    pub async fn start() -> Self {
        Self::start_of(async |arguments| RedisServer::start_with(arguments).await).await
    }

    /// Starts a cluster of Valkey servers.
    pub async fn start_valkey() -> Self {
        Self::start_of(async |arguments| RedisServer::start_valkey_with(arguments).await).await
    }

    async fn start_of(start: impl AsyncFn(&[&str]) -> RedisServer) -> Self {
        let (mut servers, mut addresses) = (Vec::new(), Vec::new());
        for _ in 0..2 * MASTERS {
            let words = "--cluster-enabled yes --repl-diskless-sync-delay 0 --cluster-config-file nodes.conf \
                --cluster-replica-validity-factor 0 --cluster-node-timeout";
            let mut arguments: Vec<&str> = words.split_whitespace().collect();
            arguments.extend([NODE_TIMEOUT, "--cluster-port", FREE_PORT]);
            let server = start(&arguments).await;
            let bus = server.argument("--cluster-port").expect("a port");
            addresses.push(format!("127.0.0.1:{}@{bus}", server.port()));
            servers.push(server);
        }
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        redis_cli(&create).await;
        let cluster = Self { servers };
        cluster.wait_until_whole().await;
        cluster
    }

    /// An empty cluster that several tests share. Access is exclusive while the
    /// guard exists.
    pub async fn shared() -> (Arc<Self>, OwnedMutexGuard<()>) {
        static SHARED: Mutex<Weak<RedisCluster>> = Mutex::const_new(Weak::new());
        static IN_USE: std::sync::OnceLock<Arc<Mutex<()>>> = std::sync::OnceLock::new();
        let cluster = {
            let mut shared = SHARED.lock().await;
            match shared.upgrade() {
                Some(cluster) => cluster,
                None => {
                    let cluster = Arc::new(Self::start().await);
                    *shared = Arc::downgrade(&cluster);
                    cluster
                }
            }
        };
        let guard = Arc::clone(IN_USE.get_or_init(Arc::default)).lock_owned().await;
        for master in cluster.masters().await {
            master.command::<Value>(&["FLUSHALL"]).await;
        }
        (cluster, guard)
    }

    /// Waits until every server reports a complete cluster with all replicas.
    pub async fn wait_until_whole(&self) {
        for server in &self.servers {
            eventually("the cluster is whole", async || {
                let info: String = server.command(&["CLUSTER", "INFO"]).await;
                let nodes: String = server.command(&["CLUSTER", "NODES"]).await;
                let role: String = server.command(&["INFO", "replication"]).await;
                let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
                info.contains("cluster_state:ok")
                    && replicas == self.servers.len() - MASTERS
                    && !nodes.contains("fail")
                    && (role.contains("role:master") && role.contains("state=online")
                        || role.contains("master_link_status:up"))
            })
            .await;
        }
    }

    /// The URL of the cluster, with two of its servers.
    pub fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{},127.0.0.1:{}", self.servers[0].port(), self.servers[1].port())
    }

    /// The servers: first the initial masters, then their replicas.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The servers, to be killed and restarted.
    pub fn servers_mut(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// The number of the current master of a key.
    pub async fn master_of(&self, key: &str) -> usize {
        for (number, server) in self.servers.iter().enumerate() {
            // A master of other slots and a replica answer MOVED.
            match server.try_command::<Value>(&["EXISTS", key]).await {
                Ok(_) => return number,
                Err(error) => assert!(error.code() == Some("MOVED") || error.is_io_error(), "{error}"),
            }
        }
        panic!("nobody is the master of {key}");
    }

    /// The number of the replica of a master.
    pub async fn replica_of(&self, master: usize) -> usize {
        let port = self.servers[master].port().to_string();
        for (number, server) in self.servers.iter().enumerate() {
            if server.information("replication", "master_port").await == port {
                return number;
            }
        }
        panic!("nobody is the replica of {port}");
    }

    /// The current masters.
    pub async fn masters(&self) -> Vec<&RedisServer> {
        let mut masters = Vec::new();
        for server in &self.servers {
            if server.information("replication", "role").await == "master" {
                masters.push(server);
            }
        }
        masters
    }

    /// Migrates slots from one master to another, as an operator does.
    pub async fn move_slots(&self, from: usize, to: usize, count: u32) {
        let id = async |server: &RedisServer| server.command::<String>(&["CLUSTER", "MYID"]).await;
        let (from, to) = (id(&self.servers[from]).await, id(&self.servers[to]).await);
        let address = format!("127.0.0.1:{}", self.servers[0].port());
        // redis-cli fails until all servers know the result of the previous migration.
        eventually("the servers agree about the slots", async || {
            try_redis_cli(&["--cluster", "check", &address]).await.is_ok()
        })
        .await;
        let (from, to, count) = (
            format!("--cluster-from={from}"),
            format!("--cluster-to={to}"),
            format!("--cluster-slots={count}"),
        );
        let words = ["--cluster", "reshard", &address, &from, &to, &count, "--cluster-yes"];
        let words: Vec<&str> = words.iter().flat_map(|word| word.split('=')).collect();
        redis_cli(&words).await;
    }
}

/// Runs redis-cli, which must succeed.
async fn redis_cli(words: &[&str]) {
    if let Err(printed) = try_redis_cli(words).await {
        panic!("redis-cli {words:?}: {printed}");
    }
}

/// Runs redis-cli. Returns its output if it fails.
async fn try_redis_cli(words: &[&str]) -> Result<(), String> {
    let mut cli = Command::new("redis-cli");
    let output = cli.args(words).stdin(Stdio::null()).output().await.expect("redis-cli is installed");
    output.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
