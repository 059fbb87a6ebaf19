//! Where populations are stored.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use checkpointer_tests::redis_server::{FREE_PORT, RedisServer};

use super::population::Place;

/// How many masters a cluster has.
const MASTERS: usize = 3;

/// A machine that others use too is no failure.
const PATIENT: &str = "response_timeout=60";

/// Some servers of one kind, empty in the beginning.
pub struct Servers {
    /// Those that take writes.
    pub masters: Vec<RedisServer>,
    /// The address of all of them.
    pub address: String,
    _replica: Option<RedisServer>,
}

impl Servers {
    /// Starts them.
    ///
    /// # Errors
    /// They do not become a cluster.
    pub async fn start(place: Place) -> Result<Self> {
        if place == Place::Cluster {
            return cluster().await;
        }
        let master = RedisServer::start().await;
        let replica = match place {
            Place::WithReplica | Place::Replicated => Some(master.start_replica().await),
            Place::Server | Place::Cluster => None,
        };
        let options = if place == Place::Replicated { "&replicas=1&replica_timeout=30" } else { "" };
        let address = format!("{}?{PATIENT}{options}", master.url());
        Ok(Self { masters: vec![master], address, _replica: replica })
    }
}

async fn cluster() -> Result<Servers> {
    let (mut masters, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..MASTERS {
        let words =
            ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", FREE_PORT];
        let master = RedisServer::start_with(&words).await;
        let bus = master.argument("--cluster-port").context("a port")?;
        addresses.push(format!("127.0.0.1:{}@{bus}", master.port()));
        masters.push(master);
    }
    let mut create = Command::new("redis-cli");
    create.args(["--cluster", "create"]).args(&addresses).args(["--cluster-yes"]).stdin(Stdio::null());
    let output = create.output().context("redis-cli does not run")?;
    ensure!(output.status.success(), "no cluster: {}", String::from_utf8_lossy(&output.stdout));
    let start = Instant::now();
    for master in &masters {
        while !master.command::<String>(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok") {
            ensure!(start.elapsed() < Duration::from_secs(60), "the cluster is not whole within a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let address = format!("redis-cluster://127.0.0.1:{}?{PATIENT}", masters[0].port());
    Ok(Servers { masters, address, _replica: None })
}
