//! The servers that store populations.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use checkpointer_tests::redis_server::{FREE_PORT, RedisServer};

use super::population::Topology;

/// The number of masters of a cluster.
const MASTERS: usize = 3;

/// A long timeout, so that calls do not fail because of other load on the machine.
const TIMEOUT: &str = "response_timeout=60";

/// Servers without data.
pub struct Servers {
    /// The servers that accept writes.
    pub masters: Vec<RedisServer>,
    /// The URL of the store.
    pub url: String,
    _replica: Option<RedisServer>,
}

impl Servers {
    /// Starts the servers.
    ///
    /// # Errors
    /// The servers do not form a cluster.
    pub async fn start(topology: Topology) -> Result<Self> {
        if topology == Topology::Cluster {
            return cluster().await;
        }
        let master = RedisServer::start().await;
        let replica = match topology {
            Topology::WithReplica | Topology::Replicated => Some(master.start_replica().await),
            Topology::Server | Topology::Cluster => None,
        };
        let options = if topology == Topology::Replicated { "&replicas=1&replica_timeout=30" } else { "" };
        let url = format!("{}?{TIMEOUT}{options}", master.url());
        Ok(Self { masters: vec![master], url, _replica: replica })
    }
}

async fn cluster() -> Result<Servers> {
    let (mut masters, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..MASTERS {
        let options =
            ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", FREE_PORT];
        let master = RedisServer::start_with(&options).await;
        let bus = master.argument("--cluster-port").context("the server has no bus port")?;
        addresses.push(format!("127.0.0.1:{}@{bus}", master.port()));
        masters.push(master);
    }
    let mut create = Command::new("redis-cli");
    create.args(["--cluster", "create"]).args(&addresses).args(["--cluster-yes"]).stdin(Stdio::null());
    let output = create.output().context("redis-cli can't be started")?;
    ensure!(
        output.status.success(),
        "redis-cli can't create a cluster: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    let start = Instant::now();
    for master in &masters {
        while !master.command::<String>(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok") {
            ensure!(start.elapsed() < Duration::from_secs(60), "the cluster is not ready after 60 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let url = format!("redis-cluster://127.0.0.1:{}?{TIMEOUT}", masters[0].port());
    Ok(Servers { masters, url, _replica: None })
}
